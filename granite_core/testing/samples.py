"""Files to test with: small, real, of the kinds that applications take; and refs and uploads made of them."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from granite_core.aio import AsyncStorageManager
from granite_core.keys import build_key, suffix_of, unique_part
from granite_core.refs import StagedFile, StoredObjectRef, timestamp

if TYPE_CHECKING:
    from granite_core.manager import StorageManager

__all__ = ["Kind", "Upload", "aput_sample", "make_ref", "make_upload", "put_sample", "sample_bytes"]

Kind: TypeAlias = Literal["jpeg", "mp4", "pdf", "png", "text", "zip"]
"""A kind of sample."""


class Upload(NamedTuple):
    """A file as HTTP clients send it: ``client.post(url, files={"file": make_upload("png")})``.

    Attributes:
        filename: Its name.
        content: Its bytes.
        content_type: The media type that the client claims.
    """

    filename: str
    content: bytes
    content_type: str


def sample_bytes(kind: Kind = "text", *, size: int | None = None) -> bytes:
    """Return a small, valid file of a kind; the same bytes every time.

    Args:
        kind: What it is.
        size: Its exact length in bytes; the smallest there is where absent. The file stays valid.

    Raises:
        ValueError: There is no such kind, or its files are larger.
    """
    return _recipe_of(kind).make(size)


def make_upload(
    kind: Kind = "text",
    *,
    size: int | None = None,
    filename: str | None = None,
    content: bytes | None = None,
    content_type: str | None = None,
) -> Upload:
    """Return a file to send in a request, with the name and type that its kind has.

    Args:
        kind: What it is.
        size: Its exact length in bytes; small where absent.
        filename: Another name.
        content: Other bytes.
        content_type: Another type, for clients that lie.

    Raises:
        ValueError: There is no such kind, or its files are larger than ``size``.
    """
    recipe = _recipe_of(kind)
    return Upload(
        recipe.filename if filename is None else filename,
        recipe.make(size) if content is None else content,
        recipe.content_type if content_type is None else content_type,
    )


def make_ref(
    storage_key: str = "documents",
    kind: Kind = "text",
    *,
    backend: str = "main",
    size: int | None = None,
    filename: str | None = None,
    content: bytes | None = None,
    location: str | None = None,
    created_at: datetime | None = None,
    extra: Mapping[str, Any] | None = None,
) -> StoredObjectRef:
    """Return a ref with nothing behind it, for tests that never read the bytes. Each has a location of its own.

    It says what a file of that kind, stored just now, would say, so a row takes it; ``put_sample`` stores one.

    Args:
        storage_key: Name of the policy.
        kind: What it is a ref of.
        backend: Key of the backend.
        size: Length in bytes of the file.
        filename: Another name.
        content: Other bytes: size and checksum are theirs.
        location: Another location.
        created_at: When it was stored; now where absent.
        extra: Free metadata.

    Raises:
        ValueError: There is no such kind, or its files are larger than ``size``.
    """
    upload = make_upload(kind, size=size, filename=filename, content=content)
    return StoredObjectRef(
        storage_key,
        backend,
        location or build_key(unique_part(), suffix=suffix_of(upload.filename)),
        len(upload.content),
        f"sha256:{hashlib.sha256(upload.content).hexdigest()}",
        upload.content_type,
        upload.filename,
        timestamp(created_at or datetime.now(UTC)),
        extra,
    )


def put_sample(manager: StorageManager, storage_key: str, kind: Kind = "text", **upload: Any) -> StagedFile:
    """Store a sample and return its ref, ready to be attached.

    Args:
        manager: Stores it.
        storage_key: Name of the policy.
        kind: What it is.
        upload: Further arguments of ``make_upload``.

    Raises:
        ValueError: There is no such kind.
        ContentRejectedError: The policy refuses it.
    """
    name, content, content_type = make_upload(kind, **upload)
    return manager.put_bytes(storage_key, content=content, original_filename=name, content_type=content_type)


async def aput_sample(manager: StorageManager, storage_key: str, kind: Kind = "text", **upload: Any) -> StagedFile:
    """Do as ``put_sample`` does, for asynchronous tests."""
    name, content, content_type = make_upload(kind, **upload)
    files = AsyncStorageManager(manager)
    return await files.put_bytes(storage_key, content=content, original_filename=name, content_type=content_type)


# -- recipes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Recipe:
    filename: str
    content_type: str
    make: Callable[[int | None], bytes]


def _recipe_of(kind: str) -> _Recipe:
    try:
        return _RECIPES[kind]
    except KeyError:
        raise ValueError(f"there is no sample of kind {kind!r}; there are {', '.join(_RECIPES)}") from None


def _padding(size: int | None, smallest: int, kind: str) -> int:
    """How many bytes are missing to a size."""
    if size is None:
        return 0
    if size < smallest:
        raise ValueError(f"a sample of kind {kind!r} has at least {smallest} bytes", size)
    return size - smallest


def _text(size: int | None) -> bytes:
    line = b"The quick brown fox jumps over the lazy dog.\n"
    return line if size is None else (line * (size // len(line) + 1))[:size]


def _png(size: int | None) -> bytes:
    """One red pixel (PNG, section 5); padded with a private ancillary chunk."""
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    tail = _chunk(b"IDAT", zlib.compress(b"\0\xff\0\0", 9)) + _chunk(b"IEND", b"")
    smallest = len(head) + len(tail)
    if size is None or size == smallest:
        return head + tail
    missing = _padding(size, smallest + len(_chunk(b"paDd", b"")), "png")
    return head + _chunk(b"paDd", bytes(missing)) + tail


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _jpeg(size: int | None) -> bytes:
    """One grey pixel; padded with comments (JPEG, section B.2.4.5)."""
    start, rest = _JPEG[:2], _JPEG[2:]
    if size is None or size == len(_JPEG):
        return _JPEG
    missing = _padding(size, len(_JPEG) + 4, "jpeg") + 4
    comments = bytearray()
    while missing:
        # None may leave less than the four bytes that another one needs.
        length = missing if missing <= 65_000 else min(65_000, missing - 4)
        comments += b"\xff\xfe" + struct.pack(">H", length - 2) + bytes(length - 4)
        missing -= length
    return start + bytes(comments) + rest


def _mp4(size: int | None) -> bytes:
    """A second of red; padded with a box that is free space (ISO/IEC 14496-12, section 8.1.2)."""
    if size is None or size == len(_MP4):
        return _MP4
    missing = _padding(size, len(_MP4) + 8, "mp4")
    return _MP4 + struct.pack(">I", missing + 8) + b"free" + bytes(missing)


def _pdf(size: int | None) -> bytes:
    """An empty page (ISO 32000, section 7.5); padded with comments."""
    smallest = len(_pdf_with(b""))
    if size is None or size == smallest:
        return _pdf_with(b"")
    return _pdf_with(b"%" + b" " * _padding(size, smallest + 2, "pdf") + b"\n")


def _pdf_with(comment: bytes) -> bytes:
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>",
    )
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + comment)
    positions = []
    for number, each in enumerate(objects, 1):
        positions.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, each)
    start = len(out)
    out += b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % each for each in positions)
    out += b"trailer<</Size 4/Root 1 0 R>>\nstartxref\n%010d\n%%%%EOF\n" % start
    return bytes(out)


def _zip(size: int | None) -> bytes:
    """An archive with one text; padded by that text."""
    smallest = len(_zip_with(b""))
    if size is None:
        return _zip_with(_text(None))
    return _zip_with(_text(_padding(size, smallest, "zip")))


def _zip_with(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("hello.txt"), content)
    return made.getvalue()


_JPEG: Final = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8ybqm"
    "x5moq6T/wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAABP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AI//Z"
)
_MP4: Final = base64.b64decode(
    "AAAAIGZ0eXBpc29tAAACAGlzb21pc28yYXZjMW1wNDEAAALwbW9vdgAAAGxtdmhkAAAAAAAAAAAAAAAAAAAD6AAAA+gAAQAAAQAAAAAAAAAAAAAA"
    "AAEAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAgAAAj90cmFrAAAAXHRraGQAAAAD"
    "AAAAAAAAAAAAAAABAAAAAAAAA+gAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAABAAAAAABAAAAAQAAAAAAAk"
    "ZWR0cwAAABxlbHN0AAAAAAAAAAEAAAPoAAAAAAABAAAAAAG3bWRpYQAAACBtZGhkAAAAAAAAAAAAAAAAAABAAAAAQABVxAAAAAAALWhkbHIAAAAA"
    "AAAAAHZpZGUAAAAAAAAAAAAAAABWaWRlb0hhbmRsZXIAAAABYm1pbmYAAAAUdm1oZAAAAAEAAAAAAAAAAAAAACRkaW5mAAAAHGRyZWYAAAAAAAAA"
    "AQAAAAx1cmwgAAAAAQAAASJzdGJsAAAAvnN0c2QAAAAAAAAAAQAAAK5hdmMxAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAABAAEABIAAAASAAAAAAA"
    "AAABDExhdmMgbGlieDI2NAAAAAAAAAAAAAAAAAAAAAAAAAAAGP//AAAANGF2Y0MBZAAK/+EAF2dkAAqs2V7ARAAAAwAEAAADAAg8SJZYAQAGaOvj"
    "yyLA/fj4AAAAABBwYXNwAAAAAQAAAAEAAAAUYnRydAAAAAAAAADQAAAA0AAAABhzdHRzAAAAAAAAAAEAAAABAABAAAAAABxzdHNjAAAAAAAAAAEA"
    "AAABAAAAAQAAAAEAAAAUc3RzegAAAAAAAAAaAAAAAQAAABRzdGNvAAAAAAAAAAEAAAMgAAAAPXVkdGEAAAA1bWV0YQAAAAAAAAAhaGRscgAAAAAA"
    "AAAAbWRpcmFwcGwAAAAAAAAAAAAAAAAIaWxzdAAAAAhmcmVlAAAAIm1kYXQAAAAWZYiEABX//uzPfgU2aOYvw/FFc459gQ=="
)

_RECIPES: Final[Mapping[str, _Recipe]] = {
    "jpeg": _Recipe("photo.jpg", "image/jpeg", _jpeg),
    "mp4": _Recipe("film.mp4", "video/mp4", _mp4),
    "pdf": _Recipe("report.pdf", "application/pdf", _pdf),
    "png": _Recipe("picture.png", "image/png", _png),
    "text": _Recipe("notes.txt", "text/plain", _text),
    "zip": _Recipe("archive.zip", "application/zip", _zip),
}
