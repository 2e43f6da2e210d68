"""The receipt of a stored object."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, final

import msgspec

__all__ = ["StagedFile", "StoredObjectRef", "timestamp"]

_FIELDS: Final = (
    "storage_key",
    "backend",
    "location",
    "size",
    "checksum",
    "content_type",
    "original_filename",
    "created_at",
    "extra",
)


_INLINE_TEXT: Final = "legacy_inline_text"


class _RefRecord(msgspec.Struct):
    """How a ref looks in a column; unknown keys are passed over, so rows of other versions load."""

    storage_key: str
    backend: str
    location: str
    size: int
    checksum: str | None = None
    content_type: str | None = None
    original_filename: str | None = None
    created_at: str | None = None
    extra: dict[str, Any] | None = None


_decode_one = msgspec.json.Decoder(_RefRecord).decode
_decode_many = msgspec.json.Decoder(list[_RefRecord]).decode


class StoredObjectRef:
    """The receipt of a stored object, kept as JSON in a column.

    Immutable. Two refs are equal, and hash alike, when backend and location are the same. It is a plain class on
    purpose: serialisers that encode dataclasses or structs field by field would show storage keys to clients.

    Args:
        storage_key: Name of the policy the object was stored under.
        backend: ``backend_key`` of the backend that holds the object.
        location: The object's key inside that backend.
        size: Length of the content in bytes.
        checksum: ``"sha256:"`` and the hexadecimal digest; empty where an older row has none.
        content_type: Media type of the content, where known.
        original_filename: Cleaned name the file came with, where known.
        created_at: When the object was stored, ISO 8601 in UTC.
        extra: Free metadata, JSON-compatible.
    """

    __slots__ = (*_FIELDS, "__weakref__")

    storage_key: str
    backend: str
    location: str
    size: int
    checksum: str
    content_type: str | None
    original_filename: str | None
    created_at: str | None
    extra: Mapping[str, Any] | None

    def __init__(
        self,
        storage_key: str,
        backend: str,
        location: str,
        size: int,
        checksum: str = "",
        content_type: str | None = None,
        original_filename: str | None = None,
        created_at: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "storage_key", storage_key)
        put(self, "backend", backend)
        put(self, "location", location)
        put(self, "size", size)
        put(self, "checksum", checksum)
        put(self, "content_type", content_type)
        put(self, "original_filename", original_filename)
        put(self, "created_at", created_at)
        put(self, "extra", extra)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredObjectRef):
            return NotImplemented
        return (
            self.location == other.location
            and self.backend == other.backend
            and (bool(self.location) or self.extra == other.extra)
        )

    def __hash__(self) -> int:
        return hash((self.backend, self.location))

    def __repr__(self) -> str:
        # No key in it: reprs end in logs and in error pages.
        return f"<{type(self).__name__} {self.storage_key!r} {self.original_filename!r} {self.size} bytes>"

    def __copy__(self) -> StoredObjectRef:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredObjectRef:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled and copied as the plain ref: what a process knows of a staged file stays in that process.
        return (StoredObjectRef, tuple(getattr(self, name) for name in _FIELDS))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-compatible form that is kept in the column."""
        return {
            "storage_key": self.storage_key,
            "backend": self.backend,
            "location": self.location,
            "size": self.size,
            "checksum": self.checksum,
            "content_type": self.content_type,
            "original_filename": self.original_filename,
            "created_at": self.created_at,
            "extra": dict(self.extra) if self.extra is not None else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StoredObjectRef:
        """Read what ``to_dict`` wrote; unknown keys are passed over, optional ones may be absent.

        Raises:
            ValueError: A required key is absent or of the wrong type.
        """
        if isinstance(data, Mapping) and _INLINE_TEXT in data and "location" not in data:
            return _from_inline(data)
        with _not_too_deep():
            return _from_record(msgspec.convert(data, _RefRecord))

    @classmethod
    def from_json(cls, data: str | bytes) -> StoredObjectRef:
        """Read a ref from JSON text.

        Raises:
            ValueError: The text is no JSON, or a required key is absent or of the wrong type.
        """
        with _not_too_deep():
            try:
                return _from_record(_decode_one(data))
            except msgspec.ValidationError:
                found = msgspec.json.decode(data)
                if isinstance(found, dict) and _INLINE_TEXT in found:
                    return cls.from_dict(found)
                raise

    @classmethod
    def list_from_json(cls, data: str | bytes) -> list[StoredObjectRef]:
        """Read a list of refs from JSON text.

        Raises:
            ValueError: The text is no JSON list of refs.
        """
        with _not_too_deep():
            return [_from_record(record) for record in _decode_many(data)]

    @property
    def inline_text(self) -> str | None:
        """The text of a row that has no stored object; None for every other ref.

        Such rows come from the migration that granite-storage shows for a text column: ``{"legacy_inline_text": …}``.
        Their location is empty.
        """
        text = None if self.location else (self.extra or {}).get(_INLINE_TEXT)
        return text if isinstance(text, str) else None

    def to_json(self) -> bytes:
        """Return the JSON text that is kept in the column."""
        return msgspec.json.encode(self.to_dict())


def _from_record(record: _RefRecord) -> StoredObjectRef:
    return StoredObjectRef(
        record.storage_key,
        record.backend,
        record.location,
        record.size,
        record.checksum or "",
        record.content_type,
        record.original_filename,
        record.created_at,
        record.extra,
    )


def _from_inline(data: Mapping[str, Any]) -> StoredObjectRef:
    text = data[_INLINE_TEXT]
    size = len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0
    return StoredObjectRef("", "", "", size, content_type="text/plain", extra=dict(data))


@contextmanager
def _not_too_deep() -> Iterator[None]:
    """Say of data that is nested without end what is said of all that is no ref.

    Raises:
        ValueError: It is.
    """
    try:
        yield
    except RecursionError as error:
        raise ValueError("this is no ref: it is nested too deeply") from error


def timestamp(moment: datetime) -> str:
    """Write a moment as refs do: ISO 8601 in UTC, in microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Done(Awaitable[None]):
    """An awaitable that has already happened, so that one verb serves sync and async callers."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


@final
class StagedFile(StoredObjectRef):
    """A stored object that no committed row points at yet.

    It is a ref and may be assigned to a file field. Until a flush or a statement has seen it, whoever staged it can
    let it go at once; afterwards only the collector deletes it.
    """

    __slots__ = ("_discard", "_lock", "_state")

    _state: str
    _lock: threading.Lock
    _discard: Callable[[StoredObjectRef], None]

    def __init__(self, *fields: Any, discard: Callable[[StoredObjectRef], None]) -> None:
        super().__init__(*fields)
        object.__setattr__(self, "_state", "staged")
        object.__setattr__(self, "_lock", threading.Lock())
        object.__setattr__(self, "_discard", discard)

    @property
    def discarded(self) -> bool:
        """Whether the object was let go; such a file can no longer be used."""
        return self._state == "discarded"

    @property
    def kept(self) -> bool:
        """Whether a flush, a statement or ``keep()`` has seen it, so that only the collector may delete it."""
        return self._state == "kept"

    @property
    def stored_by(self) -> object | None:
        """The manager that stored it, where it was one."""
        return getattr(self._discard, "__self__", None)

    def mark_used(self) -> bool:
        """Note that a flush or a statement has seen it. False when it was let go before."""
        with self._lock:
            if self._state == "discarded":
                return False
            object.__setattr__(self, "_state", "kept")
            return True

    def keep(self) -> Awaitable[None]:
        """Keep the file past the end of its request, for a job that attaches it later.

        Takes effect at once; the result may be awaited, or not. What is never attached is found by the reconcile.

        Raises:
            ValueError: The file was let go already.
        """
        if not self.mark_used():
            raise ValueError("this file was let go already")
        return _Done()

    def discard(self) -> bool:
        """Delete the stored object unless something has seen it. True when it was deleted now.

        Idempotent, and blocking: it talks to the backend.

        Raises:
            StorageError: The backend failed to delete; the reconcile finds the object later.
        """
        if not self.claim_discard():
            return False
        self._discard(self)
        return True

    def claim_discard(self) -> bool:
        """Take the right to delete the object, if nothing has seen it; at most one caller is told True."""
        with self._lock:
            if self._state != "staged":
                return False
            object.__setattr__(self, "_state", "discarded")
            return True
