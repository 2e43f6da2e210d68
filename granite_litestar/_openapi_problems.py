"""What the API's description says of answers that refuse: their bodies, shared by every route."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIType
from msgspec import UNSET, Meta, UnsetType

from granite_litestar._openapi_parts import header

if TYPE_CHECKING:
    from litestar.exceptions import HTTPException

__all__ = [
    "ANSWERED_AS_JSON",
    "PROBLEM_HEADERS",
    "Code",
    "Detail",
    "Limit",
    "Refusal",
    "RequestProblem",
    "UploadProblem",
    "Value",
    "denials",
    "download_problems",
    "problem",
    "raised",
    "upload_problems",
]

# The statuses are told apart, so that a client's type checker knows from `status_code` what `extra` holds.
_Status = Literal[400, 401, 402, 403, 404, 405, 406, 410, 412, 416, 423, 428, 429, 500, 501, 502, 503, 504, 507]
_UploadStatus = Literal[409, 413, 415, 422]
Detail: TypeAlias = Annotated[str, Meta(description="What a person can be told.")]
Code: TypeAlias = Annotated[
    str, Meta(description="A stable name of the reason.", examples=["content_too_large", "required"])
]
Limit: TypeAlias = Annotated[
    float | str | list[str] | UnsetType, Meta(description="What is allowed: a number of bytes, or media types.")
]
Value: TypeAlias = Annotated[float | str | UnsetType, Meta(description="What came instead.")]


class RequestProblem(msgspec.Struct):
    """Why a request was refused."""

    status_code: _Status
    detail: Detail
    extra: Annotated[dict[str, Any] | list[Any] | UnsetType, Meta(description="More, where there is more.")] = UNSET


class Refusal(msgspec.Struct):
    """Why a file was refused."""

    code: Code
    field: Annotated[str | UnsetType, Meta(description="The field it came in.")] = UNSET
    limit: Limit = UNSET
    value: Value = UNSET


class UploadProblem(msgspec.Struct):
    """Why an upload was refused."""

    status_code: _UploadStatus
    detail: Detail
    extra: Refusal


_SECONDS: Final = "Seconds after which to try again (RFC 9110, section 10.2.3)."

PROBLEM_HEADERS: Final = {
    "415": {
        "Accept-Encoding": header("`identity`, where the body had a Content-Encoding."),
        "Accept-Post": header("`multipart/form-data`, where the body was no form."),
    },
    "503": {"Retry-After": header(_SECONDS, always=True, of=OpenAPIType.INTEGER)},
}
"""Headers of refusals, by status."""

ANSWERED_AS_JSON: Final = frozenset(("409", "413", "500", "503", "507"))
"""Refusals that are JSON whatever media type their handler has: Litestar gives its own the handler's."""


def problem(description: str, body: Any = RequestProblem) -> ResponseSpec:
    """Describe a refusal.

    Args:
        description: When it is given.
        body: What it says.
    """
    return ResponseSpec(data_container=body, description=description, generate_examples=False)


_STORAGE_PROBLEMS: Final = {
    500: problem("The storage failed, or what it holds is not what was stored."),
    503: problem("The storage cannot be reached at the moment."),
}


def denials(
    guards: Sequence[object], authorize: object, denied: int, raises: Sequence[type[HTTPException]]
) -> dict[int, ResponseSpec]:
    """Return the refusals of those who may not use a route.

    Args:
        guards: The route's guards.
        authorize: The route's judge of rows, or None.
        denied: What those whom ``authorize`` denies are told.
        raises: What guards and ``authorize`` raise, where the route says so: 403 is assumed of guards otherwise.
    """
    shown = (bool(guards) and not raises) or (authorize is not None and denied == 403)
    return raised(raises) | ({403: problem("You may not do this.")} if shown else {})


def raised(kinds: Iterable[type[HTTPException]]) -> dict[int, ResponseSpec]:
    """Return the refusals that an application's exceptions are; not of statuses that uploads give a meaning to."""
    return {
        kind.status_code: problem(getattr(kind, "detail", "") or HTTPStatus(kind.status_code).phrase)
        for kind in kinds
        if kind.status_code in get_args(_Status)
    }


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
        from granite_litestar._form_problems import FormProblem  # where an application takes forms

        body = FormProblem | UploadProblem
        invalid = problem("The form does not validate: `extra` tells of each wrong field. Or a file is refused.", body)
    return {
        400: problem("The request cannot be understood."),
        409: problem("The upload took too long to be kept: send it again.", UploadProblem),
        413: problem("A file, a text or the whole body is larger than allowed.", UploadProblem),
        415: problem("A file is of a type that is not accepted, or the body is no such upload.", UploadProblem),
        422: invalid,
        **_STORAGE_PROBLEMS,
        507: problem("The storage is full."),
    }
