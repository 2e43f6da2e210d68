"""Anything that can be stored: bytes, a path, a stream, an upload."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast, runtime_checkable

from granite_core.backends.base import ReadableStream
from granite_core.errors import ContentUnavailableError
from granite_core.refs import StagedFile, StoredObjectRef

__all__ = ["Source", "SourceInput", "UnsavedFile", "unsaved"]


@runtime_checkable
class _HasFile(Protocol):
    """An upload as Litestar, Starlette and FastAPI hand it over: the stream is its ``file``."""

    @property
    def file(self) -> Any: ...


SourceInput: TypeAlias = "bytes | bytearray | memoryview | os.PathLike[str] | ReadableStream | _HasFile"


class Source:
    """Content that can be opened for reading, more than once where its kind allows that.

    Bytes and paths can always be read again; a seekable stream is read from its beginning each time, wherever it
    stands; any other stream once.

    Args:
        content: Bytes, a path, a binary stream (never closed here), or an upload with a ``file``.

    Raises:
        TypeError: It is none of these.
    """

    def __init__(self, content: SourceInput) -> None:
        # An upload's own verbs are to be awaited; a named temporary file has a ``file`` too, and is a stream itself.
        if isinstance(content, _HasFile) and (not hasattr(content, "seek") or iscoroutinefunction(content.seek)):
            content = cast("ReadableStream", content.file)
        if isinstance(content, (bytearray, memoryview)):
            content = bytes(content)
        if not isinstance(content, (bytes, os.PathLike)) and not callable(getattr(content, "read", None)):
            raise TypeError(f"content must be bytes, a path or a binary stream, not {type(content).__name__}")
        if isinstance(content, io.TextIOBase):
            raise TypeError("content must be a binary stream: open the file with mode 'rb'")
        self._content: Final = content
        self._consumed = False

    @contextmanager
    def open(self) -> Iterator[ReadableStream]:
        """Open the content from its beginning.

        Raises:
            ContentUnavailableError: It is a stream that was read before and cannot be rewound, or that is closed.
            OSError: The path cannot be opened.
        """
        content = self._content
        if isinstance(content, bytes):
            yield io.BytesIO(content)
        elif isinstance(content, os.PathLike):
            with Path(content).open("rb") as file:
                yield file
        else:
            stream = cast("ReadableStream", content)
            self._rewind(stream)
            yield stream

    def _rewind(self, stream: Any) -> None:
        if getattr(stream, "closed", False):
            raise ContentUnavailableError("the stream is closed: supply the content anew", operation="put")
        seekable = getattr(stream, "seekable", None)
        if callable(seekable) and seekable():
            stream.seek(0)
        elif self._consumed:
            raise ContentUnavailableError(
                "the stream was read before and cannot be rewound: supply the content anew", operation="put"
            )
        self._consumed = True


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
        content: Bytes, a path, a binary stream (not closed) or an upload.
        filename: Name to keep; where absent, that of the path or upload.
        content_type: Media type to believe where the bytes do not show one.
        context: Values for the names in the policy's ``key_template``; those of model, row and field are known.

    Returns:
        A stand-in, typed as what the field holds after the flush.

    Raises:
        TypeError: The content is of no storable kind.
    """
    if filename is None:
        if isinstance(content, os.PathLike):
            filename = Path(content).name
        else:
            claimed = getattr(content, "filename", None)
            filename = claimed if isinstance(claimed, str) else None
    return cast("StoredObjectRef", UnsavedFile(Source(content), filename, content_type, context))
