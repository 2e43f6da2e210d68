"""What the API's description says of downloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    Schema,
)

__all__ = ["DownloadOperation"]

_VALIDATORS: Final = {
    "ETag": "Strong validator made of the file's SHA-256 (RFC 9110, section 8.8.3).",
    "Last-Modified": "When the file was stored.",
}
_FILE: Final = {
    **_VALIDATORS,
    "Accept-Ranges": "Always `bytes`.",
    "Cache-Control": "Who may keep a copy.",
    "Content-Disposition": "Whether to show or to save the file, and its name (RFC 6266).",
    "Content-Length": "Exact length of the body in bytes.",
    "Repr-Digest": "SHA-256 of the whole file (RFC 9530).",
}
_RANGE: Final = "The range that is sent, or for 416 the file's length (RFC 9110, section 14.4)."
_REQUEST: Final = {
    "Range": "Bytes wanted, for instance `bytes=0-499` or `bytes=-500,0-99` (RFC 9110, section 14.2).",
    "If-Range": "Heed `Range` only if the file is still the one with this ETag or date.",
    "If-Match": "Answer only if the file has one of these ETags.",
    "If-None-Match": "Answer only if the file has none of these ETags.",
    "If-Modified-Since": "Answer only if the file was stored after this date.",
    "If-Unmodified-Since": "Answer only if the file was not stored after this date.",
}


@dataclass
class DownloadOperation(Operation):
    """Describes an operation that answers with a stored file: its conditions, ranges and statuses.

    Give it as ``operation_class`` to a handler of your own that returns a ``FileDownload``; where the handler's
    return type says so, the plugin does that itself.
    """

    def __post_init__(self) -> None:
        self.responses = {
            **(self.responses or {}),
            "200": _response("The whole file.", {**_FILE, "Content-Digest": "SHA-256 of the body."}, "*/*"),
            "206": _response(
                "The ranges asked for: one as it is, several as parts of a multipart body.",
                {**_FILE, "Content-Range": _RANGE},
                "*/*",
                "multipart/byteranges",
            ),
            "304": _response(
                "The client's copy is still good.", {name: _FILE[name] for name in ("ETag", "Cache-Control")}
            ),
            "412": _response("The file is not the one that the client's conditions name.", _VALIDATORS),
            "416": _response("The file has no such range.", {**_VALIDATORS, "Content-Range": _RANGE}),
        }
        named = {each.name.lower() for each in self.parameters or () if isinstance(each, Parameter)}
        # A list of parameters may hold references: they name what the application described elsewhere.
        parameters: list[Parameter | Reference] = list(self.parameters or ())
        parameters += [_header(name, text) for name, text in _REQUEST.items() if name.lower() not in named]
        self.parameters = parameters


@dataclass
class FileRouteOperation(DownloadOperation):
    """Describes a ``FileRoute``, which also takes ``?download``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parameters = [
            *(self.parameters or ()),
            Parameter(
                name="download",
                param_in="query",
                description="Offer the file for saving even where a browser could show it.",
                allow_empty_value=True,
                schema=Schema(type=OpenAPIType.BOOLEAN),
            ),
        ]


def _response(description: str, headers: dict[str, str], *media_types: str) -> OpenAPIResponse:
    binary = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
    return OpenAPIResponse(
        description=description,
        headers={
            name: OpenAPIHeader(description=text, schema=Schema(type=OpenAPIType.STRING))
            for name, text in headers.items()
        },
        content={each: OpenAPIMediaType(schema=binary) for each in media_types} or None,
    )


def _header(name: str, text: str) -> Parameter:
    return Parameter(
        name=name, param_in="header", description=text, required=False, schema=Schema(type=OpenAPIType.STRING)
    )
