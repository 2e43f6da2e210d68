"""A backend that has granite-storage's seven methods and no more, made to keep the contract."""

from __future__ import annotations

import io
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from granite_core._sorting import sorted_distinct
from granite_core.backends.base import (
    NO_OPTIONS,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    StorageBackend,
    WriteOptions,
    location_of,
)
from granite_core.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    InvalidKeyError,
    ObjectNotFoundError,
    StorageError,
)
from granite_core.keys import RESERVED_PREFIX, is_reserved, split_key
from granite_core.refs import StoredObjectRef

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["AdaptedStorageBackend", "SevenMethodBackend", "adapted"]

METHODS: Final = ("put_bytes", "put_stream", "get", "open", "delete", "exists", "iter_locations")
SPOOL_BYTES: Final = 1024 * 1024
COPY_BYTES: Final = 1024 * 1024
UNKNOWN_TIME: Final = datetime.fromtimestamp(0, UTC)


class SevenMethodBackend(Protocol):
    """A backend as granite-storage 0.1 asks for: what ``StorageManager`` takes beside a ``StorageBackend``.

    An absent object is an error in ``get`` and ``open``, and none in ``delete``. ``iter_locations`` yields whatever
    ``put_bytes`` and ``put_stream`` took as ``key``, in any order.
    """

    backend_name: str

    def put_bytes(
        self,
        *,
        key: str,
        content: bytes,
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> StoredObjectRef:
        """Store bytes under a key."""
        ...

    def put_stream(
        self,
        *,
        key: str,
        stream: BinaryIO,
        size: int | None = None,
        checksum: str | None = None,
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> StoredObjectRef:
        """Store a stream under a key."""
        ...

    def get(self, ref: StoredObjectRef) -> bytes:
        """Return a whole object."""
        ...

    def open(self, ref: StoredObjectRef) -> BinaryIO:
        """Open an object for reading."""
        ...

    def delete(self, ref: StoredObjectRef) -> None:
        """Delete an object."""
        ...

    def exists(self, ref: StoredObjectRef) -> bool:
        """Tell whether there is such an object."""
        ...

    def iter_locations(self, prefix: str | None = None) -> Iterator[str]:
        """Yield the keys of the objects, those under a folder at least where one is given."""
        ...


def adapted(key: str, backend: StorageBackend | SevenMethodBackend) -> StorageBackend:
    """Return a backend as it is, or one with granite-storage's seven methods behind an adapter.

    Args:
        key: Its ``backend_key``.
        backend: Either kind.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(backend, StorageBackend):
        return backend
    missing = [name for name in METHODS if not callable(getattr(backend, name, None))]
    if missing:
        raise ConfigurationError(
            f"backend {key!r} is no StorageBackend, and of the seven methods of one from granite-storage "
            f"{type(backend).__name__} lacks {', '.join(missing)}",
            value=key,
        )
    return AdaptedStorageBackend(backend, key)


class AdaptedStorageBackend(StorageBackend):
    """Keeps the contract on top of seven methods. ``StorageManager`` makes it where it is given such a backend.

    What is written is gathered in a temporary file and handed over whole, so that nothing is visible before; what a
    failing ``put_stream`` leaves behind is deleted. What is read comes from ``open``: where that gives a seekable
    file, a range takes no more than its bytes, elsewhere the whole object is spooled first. Seven methods tell neither
    when an object was stored nor, in a listing, how large it is: ``modified`` is 1970, and a listing's sizes are -1.

    Args:
        inner: The backend with seven methods. Where it has an ``identity``, that is used.
        key: Its ``backend_key``: a part of the identity where it has none of its own.
    """

    def __init__(self, inner: SevenMethodBackend, key: str) -> None:
        self.inner: Final = inner
        self.backend_name = str(getattr(inner, "backend_name", type(self).backend_name))
        self._key = key

    @property
    def identity(self) -> tuple[str, ...]:
        """The inner backend's own, else its class and key."""
        own = getattr(self.inner, "identity", None)
        if isinstance(own, tuple) and own:
            return tuple(map(str, own))
        kind = type(self.inner)
        return ("adapted", f"{kind.__module__}.{kind.__qualname__}", self.backend_name, self._key)

    def open_writer(
        self,
        location: str,
        *,
        content_type: str | None = None,
        size: int | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ObjectWriter:
        """Return a writer to a temporary file. The options' metadata is handed on as ``extra``."""
        split_key(location)
        return _SpoolingWriter(self, location, content_type, dict(options.metadata) or None)

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object, or a range of it."""
        split_key(location)
        stream = self._open(location)
        try:
            with self._ours("open", location):
                return _StreamReader(self, location, stream, offset, length)
        except BaseException:
            _close(stream)
            raise

    def stat(self, location: str) -> ObjectStat:
        """Return the size of an object. Where it cannot be sought through, it is read for that."""
        with self.open_reader(location) as reader:
            return ObjectStat(location, reader.size, UNKNOWN_TIME)

    def delete(self, location: str | StoredObjectRef) -> None:
        """Delete an object, by its key or ref."""
        location = location_of(location)
        split_key(location)
        with suppress(ObjectNotFoundError), self._ours("delete", location):
            self.inner.delete(self._ref(location))

    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        """Ask for all locations, sort them on disk, and yield them; sizes are -1."""
        after = start_after or ""
        # Some take a prefix for a folder, others for a string: the folder that holds what is wanted means both.
        folder = prefix.rpartition("/")[0]
        if (folder or prefix.startswith("/")) and not _is_relative(folder):
            return
        with self._ours("list", None):
            found = (
                each
                for each in self.inner.iter_locations(prefix=folder or None)
                if each.startswith(prefix) and each > after and not is_reserved(each)
            )
            with sorted_distinct(found) as locations:
                for location in locations:
                    yield ObjectStat(location, -1, UNKNOWN_TIME)

    def exists(self, ref: str | StoredObjectRef) -> bool:
        """Tell whether there is such an object."""
        location = location_of(ref)
        with self._ours("exists", location):
            return bool(self.inner.exists(self._ref(location)))

    def check(self) -> None:
        """Look whether an object can be stored under the key that it is given, and deleted."""
        probe = f"{RESERVED_PREFIX}-check-{secrets.token_hex(8)}"
        self.put_bytes(probe, b"")
        self.delete(probe)

    def __repr__(self) -> str:
        return f"<AdaptedStorageBackend {type(self.inner).__name__}>"

    def _ref(self, location: str, size: int = 0) -> StoredObjectRef:
        return StoredObjectRef("", self.backend_name, location, size)

    def _open(self, location: str) -> BinaryIO:
        try:
            with self._ours("open", location):
                return self.inner.open(self._ref(location))
        except BackendError as error:
            # Seven methods say only that something failed: whether the object is there is asked in so many words.
            if self.exists(location):
                raise
            raise ObjectNotFoundError(
                "no such object", operation="open", backend=self.backend_name, location=location
            ) from error.__cause__

    def _store(self, location: str, spool: BinaryIO, size: int, content_type: str | None, extra: Any) -> None:
        """Hand an object over, and see that it is where it is looked for. What fails leaves nothing."""
        described = {"content_type": content_type, "original_filename": None, "extra": extra}
        stored: Any = None
        try:
            with self._ours("commit", location):
                spool.seek(0)
                if size <= SPOOL_BYTES:
                    stored = self.inner.put_bytes(key=location, content=spool.read(), **described)
                else:
                    stored = self.inner.put_stream(key=location, stream=spool, size=size, **described)
            if stored.location != location:
                raise ConfigurationError(
                    f"{self!r} stores objects under keys of its own; it must use the one it is given",
                    backend=self.backend_name,
                    location=location,
                )
            if stored.size != size:
                raise BackendError(f"{stored.size} bytes were stored, {size} were sent", operation="commit")
        except BaseException:
            for ref in (self._ref(location), stored):
                if ref is not None:
                    with suppress(Exception):
                        self.inner.delete(ref)
            raise

    @contextmanager
    def _ours(self, operation: str, location: str | None) -> Iterator[None]:
        """Whatever the inner backend raises is the cause of an error of ours, unless it is one already."""
        try:
            yield
        except Exception as error:
            if isinstance(error, StorageError) and type(error) is not StorageError:
                raise
            kind = BackendUnavailableError if isinstance(error, (ConnectionError, TimeoutError)) else BackendError
            raise kind(
                f"{operation} failed: {type(error).__name__}",
                operation=operation,
                backend=self.backend_name,
                location=location,
            ) from error


class _SpoolingWriter(ObjectWriter):
    def __init__(self, backend: AdaptedStorageBackend, location: str, content_type: str | None, extra: Any) -> None:
        self._backend = backend
        self._location = location
        self._content_type = content_type
        self._extra = extra
        self._spool: Any = None
        self._size = 0
        self._done = False

    def write(self, data: Buffer, /) -> None:
        self._check("write")
        view = memoryview(data).cast("B")
        with self._backend._ours("write", self._location):
            self._open().write(view)
        self._size += len(view)

    def commit(self) -> None:
        self._check("commit")
        self._done = True
        spool = self._open()
        try:
            self._backend._store(self._location, spool, self._size, self._content_type, self._extra)
        finally:
            _close(spool)

    def abort(self) -> None:
        self._done = True
        if self._spool is not None:
            _close(self._spool)

    def _open(self) -> Any:
        if self._spool is None:
            self._spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - commit and abort close it
        return self._spool

    def _check(self, operation: str) -> None:
        if self._done:
            raise BackendError("the writer is closed", operation=operation, location=self._location)


class _StreamReader(ObjectReader):
    def __init__(
        self, backend: AdaptedStorageBackend, location: str, stream: BinaryIO, offset: int, length: int | None
    ) -> None:
        self._backend = backend
        self._location = location
        self._stream = stream
        if not _is_seekable(stream):
            self._stream = _spooled(stream)
            _close(stream)
        self.size = self._stream.seek(0, io.SEEK_END)
        self._left = max(0, self.size - offset if length is None else min(self.size - offset, length))
        self._stream.seek(min(offset, self.size))

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        pieces: list[bytes] = []
        while wanted:
            with self._backend._ours("read", self._location):
                data = self._stream.read(wanted)
            if not data:
                raise BackendError(
                    f"the object ended {self._left} bytes before its end", operation="read", location=self._location
                )
            self._left -= len(data)
            wanted -= len(data)
            pieces.append(data)
        return b"".join(pieces)

    def close(self) -> None:
        self._left = 0
        _close(self._stream)


def _is_relative(folder: str) -> bool:
    with suppress(InvalidKeyError):
        return bool(split_key(folder))
    return False


def _is_seekable(stream: Any) -> bool:
    seekable = getattr(stream, "seekable", None)
    return callable(seekable) and bool(seekable())


def _spooled(stream: Any) -> Any:
    spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - the reader closes it
    try:
        while data := stream.read(COPY_BYTES):
            spool.write(data)
    except BaseException:
        spool.close()
        raise
    return spool


def _close(stream: Any) -> None:
    with suppress(Exception):
        stream.close()
