"""What happens to objects, told to whoever listens: for metrics, for the log, for a page of one's own.

An event names an object by its id, a short hash: no event shows a key, a path, a credential or a client's file name.
Events are values; ``EventHub`` hands them on. ``StorageManager.listen`` is how an application comes to hear of them.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias, TypedDict

__all__ = [
    "Attached",
    "Collected",
    "Deleted",
    "Event",
    "EventHub",
    "EventLog",
    "Listener",
    "ObjectEvent",
    "ObjectName",
    "Refusal",
    "Refused",
    "Released",
    "Served",
    "Stored",
    "StoredContent",
    "StoredObject",
    "name_of",
    "object_id",
    "printable",
]

logger = logging.getLogger("granite.events")

ID_LENGTH: Final = 16
MAX_TEXT: Final = 300

_TOLD: Final = "_granite_told"
"""Marks an error that an event has told of: it passes several hands on its way."""


def printable(text: object, limit: int = MAX_TEXT) -> str:
    """Return a text on one line that changes nothing around it: no control or direction characters, cut at a length.

    Args:
        text: What to show.
        limit: So many characters at most.
    """
    whole = str(text)
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in whole[:limit])
    return shown if len(whole) <= limit else f"{shown}\N{HORIZONTAL ELLIPSIS}"


def object_id(location: str) -> str:
    """Return what names an object in events, log lines and URLs: 16 hexadecimal digits that do not tell its key.

    Args:
        location: The object's key. No two objects of a backend share it, and a copy in another backend that has the
            same key has the same id.
    """
    return hashlib.sha256(location.encode("utf-8", "surrogatepass")).hexdigest()[:ID_LENGTH]


class StoredObject(Protocol):
    """What an event needs to know of an object; a ``StoredObjectRef`` is one."""

    @property
    def storage_key(self) -> str:
        """Name of its policy."""

    @property
    def backend(self) -> str:
        """Name of its backend."""

    @property
    def location(self) -> str:
        """Its key."""


class StoredContent(StoredObject, Protocol):
    """What an event needs to know of an object's content."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    @property
    def content_type(self) -> str | None:
        """Its media type."""


class Refusal(Protocol):
    """What an event needs to know of why content was refused; a ``ContentRejectedError`` is one."""

    field: str | None
    limit: object
    value: object

    @property
    def code(self) -> str:
        """The stable name of the kind of error."""


class ObjectName(TypedDict):
    """The fields that name an object in an event."""

    object_id: str
    storage_key: str
    backend_key: str


def name_of(ref: StoredObject) -> ObjectName:
    """Return the fields that name an object: ``Stored(**name_of(ref), …)``."""
    return ObjectName(object_id=object_id(ref.location), storage_key=ref.storage_key, backend_key=ref.backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. Every event has a ``name`` for labels."""

    name: ClassVar[str] = "event"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that may be shown, with the event's name as ``event``."""
        return {"event": self.name, **{each.name: getattr(self, each.name) for each in fields(self) if each.repr}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvent(Event):
    """Something that happened to one object.

    Args:
        object_id: Names the object, and not its key; see ``object_id()``.
        storage_key: Name of its policy; empty where it is not known.
        backend_key: Name of its backend.
    """

    object_id: str
    storage_key: str
    backend_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(ObjectEvent):
    """An object was stored, and is durable; no row points at it yet.

    Args:
        size: Its length in bytes.
        content_type: Its media type.
        seconds: How long that took, from the first call on; a slow client's pauses are in it.
        copied: Whether the store copied it from another object.
    """

    name: ClassVar[str] = "stored"

    size: int
    content_type: str | None
    seconds: float
    copied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached(ObjectEvent):
    """A committed row holds a file that it did not hold before.

    Args:
        size: Its length in bytes.
        field: The column, as ``table.column``; None where a statement writes several.
    """

    name: ClassVar[str] = "attached"

    size: int
    field: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Released(ObjectEvent):
    """A row that held a file holds it no more, by a committed transaction: replaced, cleared, removed or deleted.

    Args:
        size: Its length in bytes.
        field: The column, as ``table.column``.
    """

    name: ClassVar[str] = "released"

    size: int
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted(ObjectEvent):
    """An object's bytes are gone.

    Args:
        reason: ``"deleted"`` by the application, ``"discarded"`` because it was staged and not used, ``"swept"`` by
            the collector.
        size: Its length in bytes; None where it is not known.
    """

    name: ClassVar[str] = "deleted"

    reason: Literal["deleted", "discarded", "swept"]
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """Content was not taken; nothing of it remains.

    Args:
        storage_key: Name of the policy that refused it; empty where it was a form's own limit.
        field: The form's or model's field, where known; made printable.
        code: What was wrong: the ``code`` of the error, ``content_too_large`` for instance.
        limit: The limit that was passed, where there is one; made printable.
        value: The value that passed it, where there is one; made printable.
    """

    name: ClassVar[str] = "refused"

    storage_key: str
    field: str | None
    code: str
    limit: int | float | str | None = None
    value: int | float | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(ObjectEvent):
    """A request for a file was answered.

    Args:
        method: The request's method.
        status: The answer's status: 200, 206, 304, 412, 416; 404 where the object was missing, 5xx where it could not
            be read.
        size: Length of the object in bytes.
        sent: Bytes of the answer's body that were handed to the server; none where the web server in front sends it.
        seconds: How long that took.
        complete: Whether the whole answer was handed over: False when the client left, or the store failed.
        error: The ``code`` of what went wrong; None when nothing did.
        cause: What went wrong, where nothing else tells of it. It may know the object's key.
    """

    name: ClassVar[str] = "served"

    method: str
    status: int
    size: int
    sent: int
    seconds: float
    complete: bool
    error: str | None = None
    cause: BaseException | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected(Event):
    """The collector has made a run, or has failed to.

    Args:
        kind: Which run it was.
        dry_run: Whether it only looked.
        skipped: Why nothing was done; None when the run was made.
        stopped: Whether it ended early.
        seconds: How long it took.
        examined: A sweep's objects that had a due tombstone.
        deleted: Those that are gone.
        held: Those that a row holds.
        younger: Those that were let go again since.
        failed: Those that could not be deleted.
        notes: Notes of this process that were written down.
        listed: Objects that a reconcile has seen.
        noted: Those that nobody points at.
        noted_bytes: Their size in bytes.
        cleared: Leftovers of writers that died which were removed.
        verified: Files that a verification looked at.
        discrepancies: Those that are not as their rows say.
        problems: How many things failed and will be tried again.
        error: The ``code`` of the error that ended it, or the error's class; None when none did.
        report: The whole report, None after an error. It names objects by their keys.
        cause: The error that ended it. It may know keys.
    """

    name: ClassVar[str] = "collected"

    kind: Literal["sweep", "reconcile", "verify"]
    dry_run: bool
    seconds: float
    skipped: str | None = None
    stopped: bool = False
    examined: int = 0
    deleted: int = 0
    held: int = 0
    younger: int = 0
    failed: int = 0
    notes: int = 0
    listed: int = 0
    noted: int = 0
    noted_bytes: int = 0
    cleared: int = 0
    verified: int = 0
    discrepancies: int = 0
    problems: int = 0
    error: str | None = None
    report: Any = field(default=None, repr=False, compare=False)
    cause: BaseException | None = field(default=None, repr=False, compare=False)


Listener: TypeAlias = Callable[[Event], object]
"""Is called with each event, in the thread where it happened, which may be that of an event loop: it must be quick."""


class EventLog(Protocol):
    """Writes events down, where somebody reads them."""

    def wants(self, kind: type[Event], *, routine: bool = False) -> bool:
        """Tell whether events of a kind, or those of it that are all in a day's work, may be written down."""

    def write(self, event: Event) -> None:
        """Write an event down."""


class EventHub:
    """Hands events to listeners. Safe to share between threads.

    Args:
        listeners: Who hears of every event.
        log: Writes them down.
    """

    def __init__(self, listeners: Iterable[Listener] = (), *, log: EventLog | None = None) -> None:
        self._lock = threading.Lock()
        self._log = log
        # Replaced and never changed, so that telling needs no lock.
        self._listeners: tuple[tuple[Listener, tuple[type[Event], ...]], ...] = tuple(
            (each, (Event,)) for each in listeners
        )

    def listen(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Call a listener for events from now on; see ``StorageManager.listen``."""
        entry = (listener, kinds or (Event,))
        with self._lock:
            self._listeners = (*self._listeners, entry)

        def stop() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not entry)

        return stop

    def wanted(self, kind: type[Event], *, routine: bool = False) -> bool:
        """Tell whether anybody would hear of an event of a kind; if not, it need not be made.

        Args:
            kind: The kind.
            routine: Whether it is one in which nothing went wrong, of which logs tell at DEBUG alone.
        """
        for _, kinds in self._listeners:
            if issubclass(kind, kinds):
                return True
        return self._log is not None and self._log.wants(kind, routine=routine)

    def stored(self, ref: StoredContent, seconds: float, *, copied: bool = False) -> None:
        """Tell of an object that was stored.

        Args:
            ref: The object.
            seconds: How long it took.
            copied: Whether the store copied it from another object.
        """
        if self.wanted(Stored):
            self.emit(
                Stored(**name_of(ref), size=ref.size, content_type=ref.content_type, seconds=seconds, copied=copied)
            )

    def deleted(
        self,
        location: str,
        storage_key: str,
        backend_key: str,
        reason: Literal["deleted", "discarded", "swept"],
        *,
        size: int | None = None,
    ) -> None:
        """Tell of an object that is gone; arguments as for ``Deleted``, but that its key is given."""
        if self.wanted(Deleted):
            named = ObjectName(object_id=object_id(location), storage_key=storage_key, backend_key=backend_key)
            self.emit(Deleted(**named, reason=reason, size=size))

    def refused(self, error: Refusal, storage_key: str = "") -> None:
        """Tell of content that was not taken; once for each error, however many hands it passes.

        Args:
            error: Why.
            storage_key: Name of the policy that refused it.
        """
        if getattr(error, _TOLD, False):
            return
        setattr(error, _TOLD, True)
        if self.wanted(Refused):
            self.emit(
                Refused(
                    storage_key=storage_key,
                    field=None if error.field is None else printable(error.field),
                    code=error.code,
                    limit=_shown(error.limit),
                    value=_shown(error.value),
                )
            )

    def emit(self, event: Event) -> None:
        """Tell of an event. A listener that fails is logged; whoever tells never hears of it."""
        for listener, kinds in self._listeners:
            if isinstance(event, kinds):
                try:
                    listener(event)
                except Exception:
                    logger.exception(
                        "a listener failed at the event %r", event.name, extra={"failed_event": event.name}
                    )
        if self._log is not None and self._log.wants(type(event)):
            self._log.write(event)


def _shown(value: object) -> int | float | str | None:
    """A limit or value as a label: a number, or a text that cannot break a line."""
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, (tuple, list, set, frozenset)):
        return printable(", ".join(map(str, value)))
    return printable(value)
