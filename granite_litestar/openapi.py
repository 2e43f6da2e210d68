"""What the API's description says of downloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import (
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    Schema,
)

from granite_litestar._openapi_parts import (
    EXAMPLE_TAG,
    OperationId,
    OperationIds,
    add_headers,
    add_parameters,
    amended,
    binary_content,
    header,
    header_parameter,
    query_parameter,
)
from granite_litestar._openapi_problems import PROBLEM_HEADERS, download_problems, raised

__all__ = ["DownloadOperation", "describe_download"]

_ETAG: Final = header(
    "Strong validator made of the file's SHA-256 (RFC 9110, section 8.8.3).", pattern='^"[0-9a-f]{64}"$'
)
_MODIFIED: Final = header(
    "When the file was stored (RFC 9110, section 8.8.2).", example="Sun, 06 Nov 1994 08:49:37 GMT"
)
_RANGES: Final = header("Ranges of bytes can be asked for.", always=True, const="bytes")
_CACHE: Final = header("Who may keep a copy, and for how long (RFC 9111).", always=True, example="private, no-cache")
_LOCATION: Final = header("Where the store gives the file.", always=True)
_LENGTH: Final = header("Exact length of the body in bytes.", always=True, of=OpenAPIType.INTEGER)
_DIGEST: Final = r"^sha-256=:[A-Za-z0-9+/]{43}=:$"

_VALIDATORS: Final = {"ETag": _ETAG, "Last-Modified": _MODIFIED}
_FILE: Final = {
    **_VALIDATORS,
    "Accept-Ranges": _RANGES,
    "Cache-Control": _CACHE,
    "Content-Disposition": header(
        "Whether to show or to save the file, and its name (RFC 6266).",
        always=True,
        pattern="^(inline|attachment)",
        example="attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt",
    ),
    "Content-Length": _LENGTH,
    "Content-Security-Policy": header("What a browser may do with the file; not for PDF."),
    "Cross-Origin-Resource-Policy": header("Which sites may embed the file.", always=True),
    "Repr-Digest": header("SHA-256 of the whole file (RFC 9530).", pattern=_DIGEST),
    "X-Content-Type-Options": header("Keeps browsers from guessing another type.", always=True, const="nosniff"),
}
_WHOLE: Final = {**_FILE, "Content-Digest": header("SHA-256 of the body (RFC 9530).", pattern=_DIGEST)}
_EMPTY: Final = {**_VALIDATORS, "Content-Length": _LENGTH}
_RANGE_SENT: Final = header(
    "The range that is sent; not where several are (RFC 9110, section 14.4).",
    pattern=r"^bytes [0-9]+-[0-9]+/[0-9]+$",
    example="bytes 0-499/1234",
)
_RANGE_UNSATISFIED: Final = header(
    "The file's length (RFC 9110, section 14.4).", always=True, pattern=r"^bytes \*/[0-9]+$", example="bytes */1234"
)

_CONDITIONS: Final = (
    header_parameter("If-Match", "Answer only if the file has one of these ETags.", EXAMPLE_TAG),
    header_parameter("If-None-Match", "Answer only if the file has none of these ETags.", EXAMPLE_TAG),
    header_parameter("If-Modified-Since", "Answer only if the file was stored after this date."),
    header_parameter("If-Unmodified-Since", "Answer only if the file was not stored after this date."),
)
_RANGE_REQUEST: Final = (
    header_parameter(
        "Range", "Bytes wanted, one range or several: `bytes=-500,0-99` (RFC 9110, section 14.2).", "bytes=0-499"
    ),
    header_parameter("If-Range", "Heed `Range` only if the file is still the one with this ETag or date.", EXAMPLE_TAG),
)
_DOWNLOAD: Final = query_parameter(
    "download",
    "Offer the file for saving even where a browser could show it.",
    Schema(type=OpenAPIType.BOOLEAN),
    allow_empty=True,
)


@dataclass
class DownloadOperation(Operation):
    """Says that a handler answers with a stored file, where its return type does not say so.

    Give it as ``operation_class`` to a handler that returns a ``FileDownload`` behind a more general type: it is then
    described, and kept from compression, like those whose return type is ``FileDownload``.
    """


def describe_download(
    handler: HTTPRouteHandler, *, subject: str | None = None, beside: str | None = None, redirects: bool = False
) -> None:
    """Have the API's description tell of the ranges, conditions and refusals of a handler that answers with a file.

    Idempotent. What the handler itself says of its statuses and headers stays.

    Args:
        handler: The handler.
        subject: For a ``FileRoute``, what it serves: gives its operations their ids.
        beside: Media type of what the handler may answer with instead of a file.
        redirects: Whether clients may be sent to the store.
    """
    if isinstance(handler.operation_id, OperationIds):
        return
    handler.operation_id = OperationIds(handler.operation_id, subject)
    said = raised(handler.raises or ()) | dict(handler.responses or {})
    ours = {status: each for status, each in download_problems().items() if status not in said}
    amend = partial(_amend, generated=str(handler.status_code), of_storage=[str(each) for each in ours], beside=beside)
    handler.operation_class = amended(handler.operation_class, amend)
    if subject is not None:
        handler.operation_class = amended(handler.operation_class, _amend_file_route)
    if redirects:
        handler.operation_class = amended(handler.operation_class, _amend_redirect)
    handler.responses = ours | said


def _amend(operation: Operation, *, generated: str, of_storage: Sequence[str], beside: str | None) -> None:
    method = operation.operation_id.method if isinstance(operation.operation_id, OperationId) else "GET"
    responses = dict(operation.responses or {})
    success = responses.get(generated)
    if not beside:
        del responses[generated]
    body = None if method == "HEAD" else binary_content("*/*")
    if body and beside:
        body[beside] = OpenAPIMediaType(schema=Schema())
    conditional = method in ("GET", "HEAD")
    answers: dict[str, OpenAPIResponse] = {"200": OpenAPIResponse("The whole file.", content=body)}
    add_headers(answers["200"], _FILE if method == "HEAD" else _WHOLE)
    if beside:  # what may come instead has none of these headers
        answers["200"].headers = {name: _optional(each) for name, each in (answers["200"].headers or {}).items()}
    if conditional:
        answers["304"] = _bare("The client's copy is still good.", {**_VALIDATORS, "Cache-Control": _CACHE})
        answers["412"] = _bare("The file is not the one that the client's conditions name.", _EMPTY)
        add_parameters(operation, _CONDITIONS)
    if method == "GET":
        answers["206"] = OpenAPIResponse(
            "The ranges asked for: one as it is, several as parts of a multipart body.",
            content=binary_content("*/*", "multipart/byteranges"),
        )
        add_headers(answers["206"], {**_FILE, "Content-Range": _RANGE_SENT})
        answers["416"] = _bare(
            "The file has no such range.", {**_EMPTY, "Accept-Ranges": _RANGES, "Content-Range": _RANGE_UNSATISFIED}
        )
        add_parameters(operation, _RANGE_REQUEST)
    if isinstance(success, OpenAPIResponse):
        # The application's own headers and cookies come with every answer of the plan.
        for answer in answers.values():
            answer.headers = {**(success.headers or {}), **(answer.headers or {})}
    if method == "HEAD":
        # It is answered from the row, without the storage, and without a body.
        responses = {status: _without_body(each) for status, each in responses.items() if status not in of_storage}
    operation.responses = dict(sorted({**responses, **answers}.items()))
    for status, headers in PROBLEM_HEADERS.items():
        if status in operation.responses:
            add_headers(operation.responses[status], headers)


def _amend_redirect(operation: Operation) -> None:
    method = operation.operation_id.method if isinstance(operation.operation_id, OperationId) else "GET"
    status = "302" if method in ("GET", "HEAD") else "303"
    sent = _bare("The store gives the file, for a while.", {"Location": _LOCATION, "Cache-Control": _CACHE})
    operation.responses = dict(sorted({**(operation.responses or {}), status: sent}.items()))


def _bare(description: str, headers: Mapping[str, OpenAPIHeader]) -> OpenAPIResponse:
    answer = OpenAPIResponse(description)
    add_headers(answer, headers)
    return answer


def _optional(described: OpenAPIHeader | Reference) -> OpenAPIHeader | Reference:
    described = copy(described)  # dataclasses.replace would warn of fields that Litestar deprecates
    if isinstance(described, OpenAPIHeader):
        described.required = False
    return described


def _without_body(response: OpenAPIResponse | Reference) -> OpenAPIResponse | Reference:
    return replace(response, content=None) if isinstance(response, OpenAPIResponse) else response


def _amend_file_route(operation: Operation) -> None:
    parameters = [each for each in operation.parameters or () if isinstance(each, Parameter)]
    for parameter in parameters:
        if (parameter.param_in, parameter.name) == ("path", "item"):
            parameter.description = "Names one file of the list."
    declared = [each for each in parameters if each.param_in != "path" and each not in (*_CONDITIONS, *_RANGE_REQUEST)]
    if not declared and operation.responses:
        # A path that does not parse is no route at all: 404. Only parameters of the application's layers can be wrong.
        operation.responses.pop("400", None)
    add_parameters(operation, [_DOWNLOAD])
