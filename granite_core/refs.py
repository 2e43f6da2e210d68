"""The receipt of a stored object."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, final

import msgspec

__all__ = ["StagedFile", "StoredObjectRef", "timestamp", "unread_list", "unread_ref"]

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


_NAMES: Final = frozenset(_FIELDS)
_get: Final = object.__getattribute__
_put: Final = object.__setattr__
_INLINE_TEXT: Final = "legacy_inline_text"
_TOO_DEEP: Final = "this is no ref: it is nested too deeply"


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
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


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

    __slots__ = (*_FIELDS, "__weakref__", "_unread")

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
        _put_storage_key(self, storage_key)
        _put_backend(self, backend)
        _put_location(self, location)
        _put_size(self, size)
        _put_checksum(self, checksum)
        _put_content_type(self, content_type)
        _put_original_filename(self, original_filename)
        _put_created_at(self, created_at)
        _put_extra(self, extra)

    if not TYPE_CHECKING:  # it would make every name an attribute

        def __getattr__(self, name: str) -> Any:
            # Only asked where a slot is empty: nothing of a ref that was loaded has been looked at yet.
            if name not in _NAMES:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._read()
            return _get(self, name)

    def _read(self) -> None:
        try:
            unread = _get_unread(self)
        except AttributeError:
            return  # another thread was faster
        if isinstance(unread, (str, bytes, msgspec.Raw)):
            _fill_from_text(self, unread)
        else:
            _fill_from_data(self, unread)
        try:
            _drop_unread(self)
        except AttributeError:
            return  # another thread was as fast

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
        try:
            self.size  # noqa: B018 - what was loaded is read now
        except ValueError:
            return f"<{type(self).__name__} that cannot be read>"
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
        ref = _make(StoredObjectRef)
        _fill_from_data(ref, data)
        return ref

    @classmethod
    def from_json(cls, data: str | bytes | msgspec.Raw) -> StoredObjectRef:
        """Read a ref from JSON text.

        Raises:
            ValueError: The text is no JSON, or a required key is absent or of the wrong type.
        """
        ref = _make(StoredObjectRef)
        _fill_from_text(ref, data)
        return ref

    @classmethod
    def list_from_json(cls, data: str | bytes) -> list[StoredObjectRef]:
        """Read a list of refs from JSON text.

        Raises:
            ValueError: The text is no JSON list of refs.
        """
        try:
            return [cls.from_json(each) for each in _decode_items(data)]
        except RecursionError as error:
            raise ValueError(_TOO_DEEP) from error

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


# Rows are loaded by the hundred thousand: slots are filled directly, past the refusal to set attributes.
_slots = vars(StoredObjectRef)
_put_storage_key = _slots["storage_key"].__set__
_put_backend = _slots["backend"].__set__
_put_location = _slots["location"].__set__
_put_size = _slots["size"].__set__
_put_checksum = _slots["checksum"].__set__
_put_content_type = _slots["content_type"].__set__
_put_original_filename = _slots["original_filename"].__set__
_put_created_at = _slots["created_at"].__set__
_put_extra = _slots["extra"].__set__
_get_unread, _put_unread, _drop_unread = (getattr(_slots["_unread"], do) for do in ("__get__", "__set__", "__delete__"))
_make = object.__new__


def _fill(ref: StoredObjectRef, record: _RefRecord) -> None:
    _put_storage_key(ref, record.storage_key)
    _put_backend(ref, record.backend)
    _put_location(ref, record.location)
    _put_size(ref, record.size)
    _put_checksum(ref, record.checksum or "")
    _put_content_type(ref, record.content_type)
    _put_original_filename(ref, record.original_filename)
    _put_created_at(ref, record.created_at)
    _put_extra(ref, record.extra)


def _fill_from_text(ref: StoredObjectRef, text: str | bytes | msgspec.Raw) -> None:
    try:
        record = _decode_one(text)
    except msgspec.ValidationError as error:
        found = _decode_anything(text)
        if not isinstance(found, dict) or _INLINE_TEXT not in found:
            raise ValueError(str(error)) from error
        _fill_from_data(ref, found)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    else:
        _fill(ref, record)


def _decode_anything(text: str | bytes | msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def _fill_from_data(ref: StoredObjectRef, data: Mapping[str, Any]) -> None:
    try:
        if isinstance(data, Mapping) and _INLINE_TEXT in data and "location" not in data:
            record = _inline_record(data)
        else:
            record = msgspec.convert(data, _RefRecord)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _fill(ref, record)


def _inline_record(data: Mapping[str, Any]) -> _RefRecord:
    text = data[_INLINE_TEXT]
    size = len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0
    return _RefRecord("", "", "", size, content_type="text/plain", extra=dict(data))


def unread_ref(data: str | bytes | msgspec.Raw | Mapping[str, Any]) -> StoredObjectRef:
    """Return a ref that is read when one of its attributes is asked for: most that are loaded are never looked at.

    What is no ref is told then, with the ``ValueError`` of ``from_json`` or ``from_dict``.
    """
    ref = _make(StoredObjectRef)
    _put_unread(ref, data)
    return ref


def unread_list(data: str | bytes) -> list[StoredObjectRef]:
    """Return the refs of a list, to be read one by one as by ``unread_ref``.

    Raises:
        ValueError: The text is no JSON list.
    """
    try:
        return [unread_ref(each) for each in _decode_items(data)]
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def timestamp(moment: datetime) -> str:
    """Write a moment as refs do: ISO 8601 in UTC, in microseconds."""
    text = (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat(timespec="microseconds")
    return f"{text[:-6]}Z"


class _Done(Awaitable[None]):
    """An awaitable that has already happened, so that one verb serves sync and async callers."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class Reservation(Protocol):
    """What a file is counted with in a transaction that may be undone while the file stays."""

    def give_back(self) -> None:
        """Count it no more, in that transaction."""

    def renew(self, size: int) -> None:
        """Count it in the transaction that is under way now, with so many bytes; counted there already, it stays so."""


@final
class StagedFile(StoredObjectRef):
    """A stored object that no committed row points at yet.

    It is a ref and may be assigned to a file field. Until a flush or a statement has seen it, whoever staged it can
    let it go at once; afterwards only the collector deletes it.
    """

    __slots__ = ("_discard", "_lock", "_reservation", "_state", "_upload")

    _state: str
    _lock: threading.Lock
    _discard: Callable[[StoredObjectRef], None]
    _upload: str | None
    _reservation: Reservation | None

    def __init__(
        self,
        *fields: Any,
        discard: Callable[[StoredObjectRef], None],
        upload: str | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        super().__init__(*fields)
        _put(self, "_state", "staged" if upload is None else "kept")
        _put(self, "_lock", threading.Lock())
        _put(self, "_discard", discard)
        _put(self, "_upload", upload)
        _put(self, "_reservation", reservation)

    @property
    def reservation(self) -> Reservation | None:
        """What it is counted with, where that was done in the transaction of the flush that stored it."""
        return self._reservation

    @property
    def upload(self) -> str | None:
        """Id of the upload session that holds it: the flush that puts it into a row takes it from there, once."""
        return self._upload

    def mark_taken(self) -> None:
        """Note that a committed row has taken it from its upload session: from now on it is a ref like others."""
        object.__setattr__(self, "_upload", None)

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
        if self._state == "kept":  # and will be
            return True
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
