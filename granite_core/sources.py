"""Anything that can be stored: bytes, a path, a stream, an iterator, an upload, a data URI, a file at a URL."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias, cast, runtime_checkable

from granite_core._open_source import OpenSource, nothing
from granite_core.backends.base import ReadableStream
from granite_core.data_uris import DataURI
from granite_core.errors import ContentUnavailableError
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.remote import FetchRules, RemoteFile

__all__ = ["Source", "SourceInput", "UnsavedFile", "async_chunks", "bytes_left", "is_async_stream", "unsaved"]

PIECE_BYTES: Final = 64 * 1024


@runtime_checkable
class _HasFile(Protocol):
    """An upload as Litestar, Starlette and FastAPI hand it over: the stream is its ``file``."""

    @property
    def file(self) -> Any: ...


class _AsyncReadable(Protocol):
    async def read(self, size: int, /) -> bytes: ...


SourceInput: TypeAlias = (
    "bytes | bytearray | memoryview | os.PathLike[str] | ReadableStream | Iterable[bytes] | DataURI | RemoteFile | "
    "AsyncIterable[bytes] | _AsyncReadable | _HasFile"
)
"""What can be stored. Asynchronous streams are for ``AsyncStorageManager``, and for flushes of an ``AsyncSession``."""


class Source:
    """Content that can be opened for reading, more than once where its kind allows that.

    Bytes, paths, lists of bytes and URLs can always be read again; a seekable stream is read from its beginning each
    time, wherever it stands; any other stream, and an iterator, once.

    Args:
        content: Bytes; a path; a binary stream, also an asynchronous one (never closed here); an iterable of bytes,
            also an asynchronous one (an iterator is closed); an upload with a ``file``; ``from_data_uri(…)``;
            ``from_url(…)``.

    Raises:
        TypeError: It is none of these.
    """

    def __init__(self, content: SourceInput) -> None:
        # An upload's own verbs are to be awaited; a named temporary file has a ``file`` too, and is a stream itself.
        if isinstance(content, _HasFile) and (not hasattr(content, "seek") or iscoroutinefunction(content.seek)):
            content = cast("ReadableStream", content.file)
        if isinstance(content, (bytearray, memoryview)):
            content = bytes(content)
        if isinstance(content, io.TextIOBase):
            raise TypeError("content must be a binary stream: open the file with mode 'rb'")
        if isinstance(content, str) or not _is_storable(content):
            raise TypeError(
                "content must be bytes, a path, a binary stream or an iterable of bytes, not "
                f"{type(content).__name__}; "
                "name a path by Path(…), a URL by from_url(…), a data URI by from_data_uri(…)"
            )
        self._content: Final[Any] = content
        self._consumed = False

    @property
    def is_async(self) -> bool:
        """Whether it is read by asynchronous code alone."""
        return is_async_stream(self._content)

    @property
    def filename(self) -> str | None:
        """The name it is known to have before it is opened; untrusted."""
        return _name_of(self._content)

    @property
    def remote(self) -> RemoteFile | None:
        """The file at a URL that it is; None where it is something else."""
        return self._content if isinstance(self._content, RemoteFile) else None

    @contextmanager
    def open(self, rules: FetchRules | None = None) -> Iterator[OpenSource]:
        """Open the content at its beginning. Blocks.

        Args:
            rules: What may be fetched by URL, where the content does not say.

        Raises:
            ContentUnavailableError: It is a stream that was read before and cannot be rewound, or that is closed; or
                a path that is no file, or whose file changes while it is read.
            RemoteError: It is at a URL, and cannot be had.
            TypeError: It is an asynchronous stream.
            OSError: The path cannot be opened.
        """
        opened = self.open_here() if self.remote is None else self.remote.begin(rules or FetchRules()).open()
        try:
            yield opened
        finally:
            opened.close()

    def open_here(self) -> OpenSource:
        """Open what is on this machine; to be closed by the caller. Blocks on a path. Raises what ``open`` does."""
        content = self._content
        if isinstance(content, bytes):
            return OpenSource(stream=io.BytesIO(content), size=len(content), announced=len(content))
        if isinstance(content, DataURI):
            return content.open()
        if isinstance(content, os.PathLike):
            return _open_path(Path(content))
        if self.is_async:
            raise TypeError("an asynchronous stream is stored by AsyncStorageManager, or in a flush of an AsyncSession")
        if callable(getattr(content, "read", None)):
            self._rewind(content)
            return OpenSource(stream=content, filename=_name_of(content), size=bytes_left(content))
        if isinstance(content, Iterator):
            self._use_once()
        pieces = iter(content)
        return OpenSource(stream=_Pieces(pieces), close=pieces.close if isinstance(pieces, Generator) else nothing)

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the chunks of an asynchronous stream.

        Raises:
            ContentUnavailableError: It was read before.
        """
        self._use_once()
        return async_chunks(self._content)

    def _use_once(self) -> None:
        if self._consumed:
            raise ContentUnavailableError(
                "the stream was read before and cannot be rewound: supply the content anew", operation="put"
            )
        self._consumed = True

    def _rewind(self, stream: Any) -> None:
        if getattr(stream, "closed", False):
            raise ContentUnavailableError("the stream is closed: supply the content anew", operation="put")
        seekable = getattr(stream, "seekable", None)
        if callable(seekable) and seekable():
            stream.seek(0)
        else:
            self._use_once()


def is_async_stream(content: object) -> bool:
    """Tell whether something gives its bytes to asynchronous code alone."""
    read = getattr(content, "read", None)
    return iscoroutinefunction(read) or (read is None and isinstance(content, AsyncIterable))


async def async_chunks(stream: Any) -> AsyncIterator[bytes]:
    """Read an asynchronous stream. An iterator is closed at the end, whatever that is; what has a ``read`` is not.

    Args:
        stream: Has a ``read`` to be awaited, or is iterated over.

    Raises:
        TypeError: It gives text.
    """
    if iscoroutinefunction(read := getattr(stream, "read", None)):
        reading = cast("Callable[[int], Awaitable[bytes]]", read)
        while data := await reading(PIECE_BYTES):
            yield _checked(data)
        return
    chunks = aiter(stream)
    try:
        async for data in chunks:
            yield _checked(data)
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()


def _is_storable(content: object) -> bool:
    kinds = (bytes, os.PathLike, DataURI, RemoteFile, Iterable, AsyncIterable)
    return isinstance(content, kinds) or callable(getattr(content, "read", None))


def _checked(data: bytes) -> bytes:
    if isinstance(data, str):
        raise TypeError("the stream must be binary: open the file with mode 'rb'")
    return data


def _name_of(content: object) -> str | None:
    if isinstance(content, os.PathLike):
        return Path(content).name
    claimed = getattr(content, "filename", None)
    return claimed if isinstance(claimed, str) else None


def bytes_left(stream: Any) -> int | None:
    """Return how many bytes a seekable stream has from where it stands; None for other streams."""
    if not (callable(getattr(stream, "seekable", None)) and stream.seekable()):
        return None
    with suppress(OSError, ValueError, TypeError, AttributeError):
        at = stream.tell()
        end = stream.seek(0, os.SEEK_END)
        stream.seek(at)
        return int(end - at)
    return None


def _open_path(path: Path) -> OpenSource:
    if not stat.S_ISREG(path.stat().st_mode):
        # A pipe would be waited for, a device has no end.
        raise ContentUnavailableError("the path names no file", operation="put")
    file = path.open("rb")
    size = os.fstat(file.fileno()).st_size
    # Files that a kernel makes up while they are read have no size.
    return OpenSource(stream=_Unchanging(file), filename=path.name, size=size, announced=size or None, close=file.close)


class _Unchanging:
    """A file on disk that must be, at its end, what it was when it was opened."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._was = self._state()

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        if not data and size != 0 and self._state() != self._was:
            raise ContentUnavailableError(
                "the file changed while it was read: store it when nobody writes to it", operation="put"
            )
        return data

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns


class _Pieces:
    """An iterable of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        while not self._rest:
            try:
                piece = _checked(next(self._pieces))
            except StopIteration:
                return b""
            self._rest = memoryview(piece).cast("B")
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)


class UnsavedFile:
    """Content assigned to a file field and not stored yet: the flush stores it and puts a ref in its place."""

    __slots__ = ("content_type", "context", "original_filename", "source", "stored")

    def __init__(
        self,
        source: Source,
        filename: str | None,
        content_type: str | None,
        context: Mapping[str, str] | None = None,
    ) -> None:
        self.source = source
        self.original_filename = filename
        self.content_type = content_type
        self.context = dict(context or {})
        self.stored: dict[tuple[object, str], StagedFile] = {}
        """What a flush stored it as, by manager and policy; used again where that flush was rolled back."""

    def __repr__(self) -> str:
        return f"<unsaved file {self.original_filename!r}>"


def unsaved(
    content: SourceInput,
    *,
    filename: str | None = None,
    content_type: str | None = None,
    context: Mapping[str, str] | None = None,
) -> StoredObjectRef:
    """Wrap content that code produces, to be assigned to a file field or put into a list of files.

    It is stored when the session flushes, before the row is written. A seekable stream is stored from its beginning.

    Args:
        content: Bytes, a path, a binary stream (not closed), an iterable of bytes, an upload, ``from_data_uri(…)`` or
            ``from_url(…)``; in a flush of an ``AsyncSession`` asynchronous streams and iterables too.
        filename: Name to keep; where absent, that of the path, the upload, or the file at the URL.
        content_type: Media type to believe where the bytes do not show one.
        context: Values for the names in the policy's ``key_template``; those of model, row and field are known.

    Returns:
        A stand-in, typed as what the field holds after the flush.

    Raises:
        TypeError: The content is of no storable kind.
    """
    name = _name_of(content) if filename is None else filename
    return cast("StoredObjectRef", UnsavedFile(Source(content), name, content_type, context))
