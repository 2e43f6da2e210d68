"""Pieces of which the API's description of downloads and uploads is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Schema,
)

if TYPE_CHECKING:
    from litestar.enums import HttpMethod
    from litestar.handlers import HTTPRouteHandler
    from litestar.openapi.spec import Reference
    from litestar.types import Method
    from litestar.types.callable_types import OperationIDCreator

__all__ = [
    "EXAMPLE_TAG",
    "OperationId",
    "OperationIds",
    "add_headers",
    "add_parameters",
    "amended",
    "binary_content",
    "binary_schema",
    "header",
    "header_parameter",
    "query_parameter",
]

EXAMPLE_TAG: Final = '"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"'
"""An entity tag as ours are: programs that test an API send what its description shows."""

_BETWEEN_WORDS: Final = re.compile(r"[\W_]+")


class OperationId(str):
    """The id of an operation, which also tells its method: an ``Operation`` is told it in no other way."""

    __slots__ = ("method",)

    method: str

    def __new__(cls, value: str, method: str) -> Self:
        """Make an id.

        Args:
            value: The id.
            method: The operation's method, in upper case.
        """
        made = super().__new__(cls, value)
        made.method = method
        return made


class OperationIds(msgspec.Struct, frozen=True):
    """Names the operations of a handler, as Litestar asks for it.

    Args:
        own: What the handler itself says: an id, or what makes one.
        subject: What a ready-made route is about, for instance ``Document.file``: its operations become
            ``getDocumentFile``, ``headDocumentFile``, ``putDocumentFile``, unless the application names all
            operations in a way of its own.
    """

    own: str | OperationIDCreator | None = None
    subject: str | None = None

    def __call__(
        self, handler: HTTPRouteHandler, http_method: Method | HttpMethod, path_components: Any
    ) -> OperationId:
        """Name the operation of one method."""
        method = str(getattr(http_method, "value", http_method))
        if isinstance(self.own, str):
            return OperationId(self.own, method)
        config = handler.app.openapi_config
        create = self.own or (config or OpenAPIConfig).operation_id_creator
        if self.subject is not None and create is OpenAPIConfig.operation_id_creator:
            words = [word[:1].upper() + word[1:] for word in _BETWEEN_WORDS.split(self.subject)]
            return OperationId(method.lower() + "".join(words), method)
        return OperationId(create(handler, http_method, path_components), method)


def amended(base: type[Operation], amend: Callable[[Operation], None]) -> type[Operation]:
    """Make an ``operation_class`` that changes what Litestar found out about an operation.

    Args:
        base: The handler's ``operation_class`` so far.
        amend: Changes an operation.
    """

    def finish(self: Operation) -> None:
        inherited = getattr(super(made, self), "__post_init__", None)
        if inherited is not None:
            inherited()
        amend(self)

    made: type[Operation] = dataclass(type(base.__name__, (base,), {"__post_init__": finish}))
    return made


def header(
    description: str,
    *,
    always: bool = False,
    of: OpenAPIType = OpenAPIType.STRING,
    pattern: str | None = None,
    const: str | None = None,
    example: object = None,
) -> OpenAPIHeader:
    """Describe a header of a response.

    Args:
        description: What it says.
        always: Whether every such response has it.
        of: Type of its value.
        pattern: Regular expression of its value.
        const: Its only value.
        example: A value.
    """
    minimum = 0 if of is OpenAPIType.INTEGER else None
    return OpenAPIHeader(
        description=description,
        required=always,
        schema=Schema(type=of, pattern=pattern, const=const, minimum=minimum),
        example=example,
    )


def header_parameter(name: str, description: str, example: str | None = None) -> Parameter:
    """Describe a header that a request may have."""
    return _parameter(name, "header", description, Schema(type=OpenAPIType.STRING), example)


def query_parameter(name: str, description: str, schema: Schema, *, allow_empty: bool = False) -> Parameter:
    """Describe a parameter that a request may have in its query."""
    parameter = _parameter(name, "query", description, schema, None)
    parameter.allow_empty_value = allow_empty
    return parameter


def _parameter(name: str, place: Any, description: str, schema: Schema, example: str | None) -> Parameter:
    return Parameter(name=name, param_in=place, description=description, required=False, schema=schema, example=example)


def add_parameters(operation: Operation, parameters: Iterable[Parameter]) -> None:
    """Add parameters to an operation, except those that its handler declares itself."""
    # A list of parameters may hold references: they name what the application described elsewhere.
    known: list[Parameter | Reference] = list(operation.parameters or ())
    names = {(each.param_in, each.name.lower()) for each in known if isinstance(each, Parameter)}
    known += [each for each in parameters if (each.param_in, each.name.lower()) not in names]
    operation.parameters = known or None


def add_headers(response: OpenAPIResponse | Reference, headers: Mapping[str, OpenAPIHeader]) -> None:
    """Add headers to a response, in the place of those that are described already."""
    if not headers or not isinstance(response, OpenAPIResponse):
        return
    ours = {name.lower() for name in headers}
    kept = {name: each for name, each in (response.headers or {}).items() if name.lower() not in ours}
    response.headers = {**kept, **headers}


def binary_schema(
    *, description: str | None = None, media_type: str | None = None, max_size: int | None = None
) -> Schema:
    """Describe bytes that are sent as they are.

    OpenAPI 3.1 would have no schema at all there; ``format: binary`` of 3.0 stays in its registry of formats, and is
    what generators of clients and pages of documentation go by.

    Args:
        description: What they are.
        media_type: Of what type they are, where one part of a body is described.
        max_size: Their greatest number: ``maxLength`` counts octets here (OpenAPI 3.1.1, "Working with Binary Data").
    """
    return Schema(
        type=OpenAPIType.STRING,
        format=OpenAPIFormat.BINARY,
        content_media_type=media_type,
        description=description,
        max_length=max_size,
    )


def binary_content(*media_types: str) -> dict[str, OpenAPIMediaType]:
    """Describe a body of bytes, of one of these types."""
    return {each: OpenAPIMediaType(schema=binary_schema()) for each in media_types}
