"""The receipt of a stored object."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, Protocol, final

import msgspec

__all__ = ["StagedFile", "StoredObjectRef", "loaded_ref", "record_of", "timestamp", "unread_list", "unread_ref"]

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
_TOO_DEEP: Final = "this is no ref: it is nested too deeply"


class _RefRecord(msgspec.Struct):
    """What a ref says, as it is in a column; unknown keys are passed over, so rows of other versions load."""

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

    # One slot, not nine: rows are loaded by the hundred thousand, and Python's collector goes through every slot.
    # It holds a record, or what was loaded until somebody asks for it.
    __slots__ = ("__weakref__", "_record")

    _record: Any

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
        record = _RefRecord(
            storage_key,
            backend,
            location,
            size,
            checksum,
            content_type,
            original_filename,
            created_at,
            extra,  # type: ignore[arg-type]  # any mapping, where it was not read from a column
        )
        _put_record(self, record)

    # Each written out: reading one is a few instructions, but for the first of a ref that was loaded.

    @property
    def storage_key(self) -> str:
        """Name of the policy the object was stored under."""
        record = self._record
        return record.storage_key if type(record) is _RefRecord else record_of(self).storage_key

    @property
    def backend(self) -> str:
        """``backend_key`` of the backend that holds the object."""
        record = self._record
        return record.backend if type(record) is _RefRecord else record_of(self).backend

    @property
    def location(self) -> str:
        """The object's key inside that backend."""
        record = self._record
        return record.location if type(record) is _RefRecord else record_of(self).location

    @property
    def size(self) -> int:
        """Length of the content in bytes."""
        record = self._record
        return record.size if type(record) is _RefRecord else record_of(self).size

    @property
    def checksum(self) -> str:
        """``"sha256:"`` and the hexadecimal digest; empty where an older row has none."""
        record = self._record
        return (record.checksum if type(record) is _RefRecord else record_of(self).checksum) or ""

    @property
    def content_type(self) -> str | None:
        """Media type of the content, where known."""
        record = self._record
        return record.content_type if type(record) is _RefRecord else record_of(self).content_type

    @property
    def original_filename(self) -> str | None:
        """Cleaned name the file came with, where known."""
        record = self._record
        found: str | None = (
            record.original_filename if type(record) is _RefRecord else record_of(self).original_filename
        )
        return found

    @property
    def created_at(self) -> str | None:
        """When the object was stored, ISO 8601 in UTC."""
        record = self._record
        return record.created_at if type(record) is _RefRecord else record_of(self).created_at

    @property
    def extra(self) -> Mapping[str, Any] | None:
        """Free metadata, JSON-compatible."""
        record = self._record
        return record.extra if type(record) is _RefRecord else record_of(self).extra

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredObjectRef):
            return NotImplemented
        ours, theirs = record_of(self), record_of(other)
        return (
            ours.location == theirs.location
            and ours.backend == theirs.backend
            and (bool(ours.location) or ours.extra == theirs.extra)
        )

    def __hash__(self) -> int:
        record = record_of(self)
        return hash((record.backend, record.location))

    def __repr__(self) -> str:
        # No key in it: reprs end in logs and in error pages.
        try:
            record_of(self)
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
        record = record_of(self)
        return {
            "storage_key": record.storage_key,
            "backend": record.backend,
            "location": record.location,
            "size": record.size,
            "checksum": record.checksum,
            "content_type": record.content_type,
            "original_filename": record.original_filename,
            "created_at": record.created_at,
            "extra": dict(record.extra) if record.extra is not None else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StoredObjectRef:
        """Read what ``to_dict`` wrote; unknown keys are passed over, optional ones may be absent.

        Raises:
            ValueError: A required key is absent or of the wrong type.
        """
        return _ref(_from_data(data))

    @classmethod
    def from_json(cls, data: str | bytes | msgspec.Raw) -> StoredObjectRef:
        """Read a ref from JSON text.

        Raises:
            ValueError: The text is no JSON, or a required key is absent or of the wrong type.
        """
        return _ref(_from_text(data))

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


# Past the refusal to set attributes.
_put_record = vars(StoredObjectRef)["_record"].__set__
_make = object.__new__


def _ref(record: _RefRecord | str | bytes | msgspec.Raw | Mapping[str, Any]) -> StoredObjectRef:
    ref = _make(StoredObjectRef)
    _put_record(ref, record)
    return ref


def record_of(ref: StoredObjectRef) -> _RefRecord:
    """Return what a ref says, read now where that was not done yet: for those who ask for several things of many refs.

    Raises:
        ValueError: What was loaded is no ref.
    """
    record = ref._record
    if type(record) is not _RefRecord:
        record = _from_text(record) if isinstance(record, (str, bytes, msgspec.Raw)) else _from_data(record)
        _put_record(ref, record)  # another thread may have been as fast: with the same
    return record


def _from_text(text: str | bytes | msgspec.Raw) -> _RefRecord:
    try:
        record = _decode_one(text)
    except msgspec.ValidationError as error:
        found = _decode_anything(text)
        if not isinstance(found, dict) or _INLINE_TEXT not in found:
            raise ValueError(str(error)) from error
        return _from_data(found)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    return _settled(record)


def _decode_anything(text: str | bytes | msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def _from_data(data: Mapping[str, Any]) -> _RefRecord:
    try:
        if isinstance(data, Mapping) and _INLINE_TEXT in data and "location" not in data:
            return _inline_record(data)
        return _settled(msgspec.convert(data, _RefRecord))
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def _settled(record: _RefRecord) -> _RefRecord:
    if record.checksum is None:
        record.checksum = ""
    return record


def _inline_record(data: Mapping[str, Any]) -> _RefRecord:
    text = data[_INLINE_TEXT]
    size = len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0
    return _RefRecord("", "", "", size, "", content_type="text/plain", extra=dict(data))


def loaded_ref(data: str | bytes | msgspec.Raw | Mapping[str, Any] | None) -> StoredObjectRef | None:
    """Return what a column's value stands for: None, or a ref as by ``unread_ref``."""
    if type(data) is not str:
        return None if data is None else unread_ref(data)
    if data == "null":
        return None
    ref = _make(StoredObjectRef)  # in this one call: rows are loaded by the hundred thousand
    _put_record(ref, data)
    return ref


def unread_ref(data: str | bytes | msgspec.Raw | Mapping[str, Any]) -> StoredObjectRef:
    """Return a ref that is read when one of its attributes is asked for: most that are loaded are never looked at.

    What is no ref is told then, with the ``ValueError`` of ``from_json`` or ``from_dict``.
    """
    return _ref(data)


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
        _put_state(self, "staged" if upload is None else "kept")
        _put_lock(self, threading.Lock())
        _put_discard(self, discard)
        _put_upload(self, upload)
        _put_reservation(self, reservation)

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
    def is_new(self) -> bool:
        """Whether it was simply stored, and nobody has seen or let it go since: no upload session, nothing to count."""
        return self._state == "staged" and self._reservation is None

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


_put_state, _put_lock, _put_discard, _put_upload, _put_reservation = (
    vars(StagedFile)[name].__set__ for name in ("_state", "_lock", "_discard", "_upload", "_reservation")
)
