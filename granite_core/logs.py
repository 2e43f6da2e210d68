"""Log lines that hold no secrets: structured, readable, an object named by its id.

Each kind of event has a logger of its own beneath ``granite``: ``granite.stored``, ``granite.served``, … The fields of
an event are the record's ``extra``, so that a JSON formatter has them as data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

from granite_core.errors import CollectionRefusedError, InvalidKeyError, StorageError
from granite_core.events import (
    Attached,
    Collected,
    Deleted,
    Event,
    Refused,
    Released,
    Served,
    Stored,
    StoredObject,
    name_of,
    object_id,
    printable,
)

__all__ = ["LogWriter", "describe_error", "exc_info_of", "extra_of"]

_LOUDEST: Final[Mapping[type[Event], int]] = {
    Stored: logging.DEBUG,
    Attached: logging.DEBUG,
    Released: logging.DEBUG,
    Deleted: logging.INFO,
    Refused: logging.INFO,
    Served: logging.ERROR,
    Collected: logging.ERROR,
}
_LOGGERS: Final = {kind: logging.getLogger(f"granite.{kind.name}") for kind in _LOUDEST}


def describe_error(error: BaseException, location: str | None = None) -> str:
    """Return what an error says, for a log line: without the key of the object it is about, or the path of a file.

    Args:
        error: The error.
        location: The key, where the error itself may not know it.
    """
    return _text_of(error, _secrets(error, location))


def exc_info_of(
    error: BaseException, location: str | None = None
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return the ``exc_info=`` of a log call for an error: the whole stack and all causes, their texts without secrets.

    Stand-ins take the place of the errors, since an ``OSError`` says its path, and a client of S3 the address with
    the key in it.

    Args:
        error: The error.
        location: The key of the object it is about, where the error itself may not know it.
    """
    stand_in = _stand_in(error, _secrets(error, location))
    return type(stand_in), stand_in, stand_in.__traceback__


def extra_of(ref: StoredObject, **fields: object) -> dict[str, Any]:
    """Return the ``extra=`` of a log call about an object: its id, policy and backend, and further fields."""
    return {**name_of(ref), **fields}


class LogWriter:
    """Writes events to the loggers beneath ``granite``."""

    def wants(self, kind: type[Event], *, routine: bool = False) -> bool:
        """Tell whether the kind's logger passes its most important lines, or those of routine."""
        return kind in _LOGGERS and _LOGGERS[kind].isEnabledFor(logging.DEBUG if routine else _LOUDEST[kind])

    def write(self, event: Event) -> None:
        """Write a line, or several for the problems of a collection."""
        kind = type(event)
        _WRITERS[kind](_LOGGERS[kind], event)


# -- lines -------------------------------------------------------------------------------------------------------------


def _write_stored(log: logging.Logger, event: Stored) -> None:
    log.debug(
        "stored object %s: %d bytes, %s, policy %s, backend %s, %.3f s",
        *(event.object_id, event.size, event.content_type, event.storage_key, event.backend_key, event.seconds),
        extra=event.to_dict(),
    )


def _write_attached(log: logging.Logger, event: Attached) -> None:
    log.debug("attached object %s to %s", event.object_id, event.field or "a row", extra=event.to_dict())


def _write_released(log: logging.Logger, event: Released) -> None:
    log.debug("%s let go of object %s", event.field, event.object_id, extra=event.to_dict())


def _write_deleted(log: logging.Logger, event: Deleted) -> None:
    log.log(
        # The collector tells how many it has deleted; what the application deletes itself has no other trace.
        logging.INFO if event.reason == "deleted" else logging.DEBUG,
        "object %s of backend %s was %s",
        *(event.object_id, event.backend_key, event.reason),
        extra=event.to_dict(),
    )


def _write_refused(log: logging.Logger, event: Refused) -> None:
    log.info(
        "refused content for %s: %s, limit %s, value %s",
        *(event.field or event.storage_key, event.code, event.limit, event.value),
        extra=event.to_dict(),
    )


def _write_served(log: logging.Logger, event: Served) -> None:
    extra = event.to_dict()
    if event.cause is not None:
        log.error(
            "object %s of backend %s %s: %s",
            *(event.object_id, event.backend_key),
            "is missing" if event.status == 404 else "failed while it was being sent",
            describe_error(event.cause),
            exc_info=exc_info_of(event.cause),
            extra=extra,
        )
        return
    log.debug(
        "served object %s: %s %d, %d bytes in %.3f s%s",
        *(event.object_id, event.method, event.status, event.sent, event.seconds),
        "" if event.complete else f", {event.error or 'the client left'}",
        extra=extra,
    )


def _write_collected(log: logging.Logger, event: Collected) -> None:
    extra = event.to_dict()
    if event.cause is not None:
        refused = isinstance(event.cause, CollectionRefusedError)
        log.error(
            "the %s %s: %s",
            *(event.kind, "refused to run" if refused else "failed", describe_error(event.cause)),
            exc_info=None if refused else exc_info_of(event.cause),
            extra=extra,
        )
        return
    for problem in event.report.problems if event.report is not None else ():
        named = None if problem.location is None else object_id(problem.location)
        log.warning(
            "the %s had a problem with backend %s%s: %s",
            *(event.kind, problem.backend, f", object {named}" if named else "", problem.message),
            extra={"event": "problem", "kind": event.kind, "backend_key": problem.backend, "object_id": named},
        )
    if event.skipped is not None:
        log.debug("no %s: %s", event.kind, event.skipped, extra=extra)
    elif event.kind == "sweep":
        log.log(
            logging.INFO if event.deleted or event.failed else logging.DEBUG,
            "swept%s: %d objects deleted, %d held, %d failed",
            *(" (dry run)" if event.dry_run else "", event.deleted, event.held, event.failed),
            extra=extra,
        )
    elif event.kind == "verify":
        log.log(
            logging.ERROR if event.discrepancies else logging.INFO,
            "verified: %d files, %d discrepancies",
            *(event.verified, event.discrepancies),
            extra=extra,
        )
    else:
        log.log(
            logging.INFO if event.listed else logging.DEBUG,
            "reconciled%s: %d objects listed, %d noted",
            *(" (dry run)" if event.dry_run else "", event.listed, event.noted),
            extra=extra,
        )


_WRITERS: Final[Mapping[type[Event], Callable[[logging.Logger, Any], None]]] = {
    Stored: _write_stored,
    Attached: _write_attached,
    Released: _write_released,
    Deleted: _write_deleted,
    Refused: _write_refused,
    Served: _write_served,
    Collected: _write_collected,
}


# -- errors ------------------------------------------------------------------------------------------------------------


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what lies behind it, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = _behind(error)


def _behind(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _secrets(error: BaseException, location: str | None) -> list[str]:
    """Return the spellings of the keys that the errors of a chain are about."""
    keys: list[object] = [location]
    for each in _chain(error):
        if isinstance(each, StorageError):
            keys += [each.location, each.value if isinstance(each, InvalidKeyError) else None]
    # A key of a letter or two would be found in every other word.
    known = [key for key in keys if isinstance(key, str) and len(key) > 3]
    return [spelling for key in known for spelling in (repr(key)[1:-1], quote(key), quote(key, safe=""), key)]


def _text_of(error: BaseException, secrets: list[str]) -> str:
    origin = getattr(error, "orig", None)  # SQLAlchemy's errors show the statement and its values
    if isinstance(origin, BaseException) and origin is not error:
        return f"{type(error).__name__}: {_text_of(origin, secrets)}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"[Errno {error.errno}] {error.strerror}"  # without the path
    text = str(error)
    for secret in secrets:
        text = text.replace(secret, "\N{HORIZONTAL ELLIPSIS}")
    return printable(text)


def _stand_in(error: BaseException, secrets: list[str]) -> BaseException:
    """Return a chain of errors that has the classes' names, the stacks and the texts, and none of the data."""
    first: BaseException | None = None
    last: BaseException | None = None
    for each in _chain(error):
        kind = type(each)
        named = type(kind.__name__, (Exception,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
        stand_in: BaseException = named(_text_of(each, secrets)).with_traceback(each.__traceback__)
        if last is None:
            first = stand_in
        else:
            last.__cause__ = stand_in
        last = stand_in
    return first if first is not None else error
