"""Bytes of direct uploads that the application takes itself, since the store has no way to: as S3 would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from litestar import Request, Response
from litestar.enums import MediaType

from granite_litestar._tus import parse_number
from granite_litestar.exceptions import MalformedBodyError, UnsupportedBodyError
from granite_litestar.multipart import MultipartDecoder, PartHead

if TYPE_CHECKING:
    from granite_core.uploads import AsyncDirect, AsyncDirectWrite

__all__ = ["take_bytes"]

FILE: Final = "file"
MAX_PARTS: Final = 32
MAX_TEXT_BYTES: Final = 64 * 1024
_ENVELOPE_BYTES: Final = 128 * 1024
"""What a form may be longer than its file."""


async def take_bytes(direct: AsyncDirect, request: Request[Any, Any, Any], token: str) -> Response[Any]:
    """Take a request's body, as a PUT of the bytes or a form with them.

    Args:
        direct: The uploads.
        request: The request; nothing is read yet.
        token: The last piece of its address.

    Raises:
        StorageError: As ``Direct.receive``.
        MalformedBodyError: It is no form, or one without a file.
        UnsupportedBodyError: The body is encoded.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedBodyError(
            detail="An encoded body is not taken: send the bytes as they are", headers={"Accept-Encoding": "identity"}
        )
    write = await direct.open(token)
    try:
        length = parse_number(request.headers, "Content-Length")
        if request.method == "POST":
            write.check_length(max(0, (length or 0) - _ENVELOPE_BYTES))
            await _take_form(write, request)
        else:
            write.check_length(length or 0)
            async for data in request.stream():
                await write.write(data)
        await write.commit()
    finally:
        await write.close()
    if write.redirect is not None:
        return Response(
            b"",
            status_code=303,
            headers={"Location": write.redirect, "Cache-Control": "no-store"},
            media_type=MediaType.TEXT,
        )
    return Response(b"", status_code=204 if request.method == "POST" else 200, media_type=MediaType.TEXT)


async def _take_form(write: AsyncDirectWrite, request: Request[Any, Any, Any]) -> None:
    kind, options = request.content_type
    if kind != "multipart/form-data":
        raise UnsupportedBodyError(
            detail="A form is expected: multipart/form-data", headers={"Accept-Post": "multipart/form-data"}
        )
    decoder = MultipartDecoder(options.get("boundary", "").encode(), max_parts=MAX_PARTS)
    head: PartHead | None = None
    passed, found = 0, False
    async for data in request.stream():
        for event in decoder.feed(data):
            if isinstance(event, PartHead):
                head = event
                if head.name == FILE:
                    if found:
                        raise MalformedBodyError(detail="The form has two files")
                    found = True
            elif event is not None and head is not None and head.name == FILE:
                await write.write(event)
            elif event is not None:
                passed += len(event)
                if passed > MAX_TEXT_BYTES:
                    raise MalformedBodyError(detail="The form has too much beside its file")
    decoder.close()
    if not found:
        raise MalformedBodyError(detail=f"The form has no file: its field is {FILE!r}")
