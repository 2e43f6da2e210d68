"""``multipart/form-data`` (RFC 7578), decoded while it arrives: bytes in, parts out, limits kept. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from multipart import (  # type: ignore[import-untyped]  # it has no types
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)

from granite_core import ConfigurationError, ContentTooLargeError
from granite_core.serving import extended_filename
from granite_litestar.exceptions import MalformedBodyError

__all__ = ["FormLimits", "MultipartDecoder", "PartHead", "encode_text_parts"]

MAX_BOUNDARY_BYTES: Final = 256
"""RFC 2046 section 5.1.1 allows 70; longer ones only cost memory in every search."""

MAX_HEADERS: Final = 8
MAX_HEADER_BYTES: Final = 4096 + 128

MAX_SILENT_BYTES: Final = 128 * 1024
"""How many bytes may pass without a part in them: what stands before the first and after the last part."""


@dataclass(frozen=True, slots=True)
class FormLimits:
    """What a form may cost beside its files, whose sizes their policies limit.

    Args:
        max_field_size: Largest text field in bytes.
        max_text_size: All text fields together, in bytes. They are the only part of a form that is held in memory.
        max_ignored_size: Bytes that are read and thrown away: unknown fields, and files of a form that is not valid.
        max_parts: Number of parts of any kind; None for the application's ``multipart_form_part_limit``.

    Raises:
        ConfigurationError: A limit is negative.
    """

    max_field_size: int = 256 * 1024
    max_text_size: int = 1024 * 1024
    max_ignored_size: int = 1024 * 1024
    max_parts: int | None = None

    def __post_init__(self) -> None:
        sizes = (self.max_field_size, self.max_text_size, self.max_ignored_size, self.max_parts or 0)
        if min(sizes) < 0:
            raise ConfigurationError("the limits of a form must not be negative", value=self)


class PartHead(msgspec.Struct, frozen=True):
    """What a part says of itself. All of it is the client's word.

    Args:
        name: Name of the field.
        filename: Name of the file; empty for a browser's file input that was left empty; None for a part that is
            no file.
        content_type: Bare lower-case media type, where one is given.
        charset: Lower-case charset of the text, where one is given.
    """

    name: str
    filename: str | None
    content_type: str | None
    charset: str | None


class MultipartDecoder:
    """Turns the bytes of a form into its parts, holding no more than a header or a delimiter back.

    Args:
        boundary: The ``boundary`` parameter of the request's ``Content-Type``.
        max_parts: Number of parts that are let in.

    Raises:
        MalformedBodyError: The boundary cannot be one.
    """

    def __init__(self, boundary: bytes, *, max_parts: int) -> None:
        if not boundary or len(boundary) > MAX_BOUNDARY_BYTES or b"\n" in boundary or b"\r" in boundary:
            raise MalformedBodyError(detail="The Content-Type of the form names no usable boundary")
        self._max_parts = max_parts
        self._parts = 0
        self._silent = 0
        self._parser = PushMultipartParser(
            boundary,
            max_header_size=MAX_HEADER_BYTES,
            max_header_count=MAX_HEADERS,
        )

    def feed(self, data: bytes) -> Iterator[PartHead | bytes | None]:
        """Take the next bytes and yield what they complete: the head of a part, its bytes, None at its end.

        The iterator must be exhausted before the next call.

        Args:
            data: Bytes as they arrived, at least one.

        Raises:
            MalformedBodyError: This is no multipart form.
            ContentTooLargeError: Too many parts, or too large a header.
        """
        self._silent += len(data)
        try:
            for event in self._parser.parse(data):
                self._silent = 0
                if isinstance(event, MultipartSegment):
                    self._count_part()
                    yield _head(event)
                else:
                    yield event if event is None else bytes(event)
        except ParserLimitReached as error:
            raise ContentTooLargeError(
                "form: the header of a part is too large", operation="put", limit=MAX_HEADER_BYTES
            ) from error
        except MultipartError as error:
            raise MalformedBodyError(detail=f"The form is malformed: {error}") from error
        if self._silent > MAX_SILENT_BYTES:
            raise MalformedBodyError(detail=f"The form is malformed: {MAX_SILENT_BYTES} bytes without a part in them")

    def close(self) -> None:
        """Tell that the body has ended.

        Raises:
            MalformedBodyError: The form has not.
        """
        try:
            self._parser.close()
        except MultipartError as error:
            raise MalformedBodyError(detail="The form is malformed: it ends before its closing boundary") from error

    def _count_part(self) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            raise ContentTooLargeError(
                f"form: more than the {self._max_parts} parts allowed",
                operation="put",
                limit=self._max_parts,
                value=self._parts,
            )


def encode_text_parts(boundary: bytes, parts: Iterable[tuple[str, str]]) -> bytes:
    """Write a form of text fields, names escaped as browsers do.

    Args:
        boundary: Must not occur in the texts; it does not where they come out of a form with the same boundary.
        parts: Names and texts.
    """
    out = bytearray()
    for name, text in parts:
        escaped = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
        out += b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n' % (boundary, escaped.encode())
        out += text.encode() + b"\r\n"
    return bytes(out + b"--%s--\r\n" % boundary)


def _head(segment: MultipartSegment) -> PartHead:
    # RFC 7578 section 4.2 rules filename* out, yet some clients send nothing else for a name beyond ASCII.
    extended = extended_filename(segment.header("Content-Disposition", ""))
    return PartHead(
        name=segment.name or "",
        filename=segment.filename if extended is None else extended,
        content_type=segment.content_type or None,
        charset=segment.charset.lower() if segment.charset else None,
    )
