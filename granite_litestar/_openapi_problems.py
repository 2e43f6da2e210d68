"""What the API's description says of answers that refuse: their bodies, shared by every route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIType
from msgspec import UNSET, Meta, UnsetType

from granite_litestar._openapi_parts import header

__all__ = [
    "ANSWERED_AS_JSON",
    "PROBLEM_HEADERS",
    "FieldProblem",
    "FormProblem",
    "Refusal",
    "RequestProblem",
    "UploadProblem",
    "denials",
    "download_problems",
    "problem",
    "upload_problems",
]

_Status = Annotated[int, Meta(description="The status of the answer.")]
_Detail = Annotated[str, Meta(description="What a person can be told.")]
_Code = Annotated[str, Meta(description="A stable name of the reason.", examples=["content_too_large", "required"])]
_Limit = Annotated[
    float | str | list[str] | UnsetType, Meta(description="What is allowed: a number of bytes, or media types.")
]
_Value = Annotated[float | str | UnsetType, Meta(description="What came instead.")]


class RequestProblem(msgspec.Struct):
    """Why a request was refused."""

    status_code: _Status
    detail: _Detail
    extra: Annotated[dict[str, Any] | list[Any] | UnsetType, Meta(description="More, where there is more.")] = UNSET


class Refusal(msgspec.Struct):
    """Why a file was refused."""

    code: _Code
    field: Annotated[str | UnsetType, Meta(description="The field it came in.")] = UNSET
    limit: _Limit = UNSET
    value: _Value = UNSET


class UploadProblem(msgspec.Struct):
    """Why an upload was refused."""

    status_code: _Status
    detail: _Detail
    extra: Refusal


class FieldProblem(msgspec.Struct):
    """What is wrong with one field of a form."""

    field: Annotated[str, Meta(description="The field's name; empty where the form as a whole is wrong.")]
    code: _Code
    message: Annotated[str, Meta(description="What a person can be told.")]
    limit: _Limit = UNSET
    value: _Value = UNSET


class FormProblem(msgspec.Struct):
    """Why a form was refused: every field that is wrong."""

    status_code: _Status
    detail: _Detail
    extra: list[FieldProblem]


_SECONDS: Final = "Seconds after which to try again (RFC 9110, section 10.2.3)."

PROBLEM_HEADERS: Final = {
    "415": {
        "Accept-Encoding": header("`identity`, where the body had a Content-Encoding."),
        "Accept-Post": header("`multipart/form-data`, where the body was no form."),
    },
    "503": {"Retry-After": header(_SECONDS, always=True, of=OpenAPIType.INTEGER)},
}
"""Headers of refusals, by status."""

ANSWERED_AS_JSON: Final = frozenset(("409", "413", "500", "503"))
"""Refusals that are JSON whatever media type their handler has: Litestar gives its own the handler's."""


def problem(description: str, body: Any = RequestProblem) -> ResponseSpec:
    """Describe a refusal.

    Args:
        description: When it is given.
        body: What it says.
    """
    return ResponseSpec(data_container=body, description=description, generate_examples=False)


def denials(guards: Sequence[object], authorize: object, denied: int) -> dict[int, ResponseSpec]:
    """Return the refusal of those who may not use a route, where it shows that they may not.

    Args:
        guards: The route's guards.
        authorize: The route's judge of rows, or None.
        denied: What those whom ``authorize`` denies are told.
    """
    shown = bool(guards) or (authorize is not None and denied == 403)
    return {403: problem("You may not do this.")} if shown else {}


def download_problems() -> dict[int, ResponseSpec]:
    """Return the refusals that every route which answers with a file may give."""
    return {404: problem("The file is missing."), **_STORAGE_PROBLEMS}


def upload_problems(*, form: bool) -> dict[int, ResponseSpec]:
    """Return the refusals that every route which takes uploads may give.

    Args:
        form: Whether it takes forms, not a raw body.
    """
    invalid = problem("The content is refused, or its size or checksum is not what was announced.", UploadProblem)
    if form:
        body = FormProblem | UploadProblem
        invalid = problem("The form does not validate: `extra` tells of each wrong field. Or a file is refused.", body)
    return {
        400: problem("The request cannot be understood."),
        409: problem("The upload took too long to be kept: send it again.", UploadProblem),
        413: problem("A file, a text or the whole body is larger than allowed.", UploadProblem),
        415: problem("A file is of a type that is not accepted, or the body is no such upload.", UploadProblem),
        422: invalid,
        **_STORAGE_PROBLEMS,
    }


_STORAGE_PROBLEMS: Final = {
    500: problem("The storage failed, or what it holds is not what was stored."),
    503: problem("The storage cannot be reached at the moment."),
}
