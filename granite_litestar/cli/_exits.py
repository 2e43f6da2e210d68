"""How a command ends: its exit code, and what is said of an error. No traceback for what was raised on purpose."""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from granite_core import (
    CollectionRefusedError,
    ConfigurationError,
    ContentRejectedError,
    InvalidKeyError,
    ObjectNotFoundError,
    StaleRefError,
    StorageError,
)

__all__ = ["CommandError", "Exit", "exit_code", "explain"]


class Exit(IntEnum):
    """What a script can tell from a command's exit code."""

    DONE = 0
    PROBLEMS = 1
    """It was done, and found or had problems, which it lists. Litestar itself ends so where it finds no application."""
    USAGE = 2
    """The command line is wrong."""
    REFUSED = 3
    """It refused, to lose nothing: the message says why and what to do. Also: not confirmed."""
    UNAVAILABLE = 4
    """A backend or a database cannot be reached, or failed."""
    BUSY = 5
    """Another worker holds the lease, or the database is in use: nothing was done, try again later."""
    MISCONFIGURED = 6
    """The application or its database is set up in a way that cannot work."""
    NOT_FOUND = 7
    """There is no such object or row."""
    REJECTED = 8
    """The policy does not accept the content, or the row does not accept the file."""
    INCOMPLETE = 9
    """It was stopped before its end; the same command goes on there."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CommandError(Exception):
    """What a command itself has to say when it cannot go on."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


def exit_code(error: BaseException) -> Exit | None:
    """Return what an error means for a script; None for one that nobody raised on purpose."""
    if isinstance(error, CommandError):
        return error.code
    kinds: list[tuple[type[BaseException], Exit]] = [
        (CollectionRefusedError, Exit.REFUSED),
        (ConfigurationError, Exit.MISCONFIGURED),
        (ObjectNotFoundError, Exit.NOT_FOUND),
        (InvalidKeyError, Exit.USAGE),
        (ContentRejectedError, Exit.REJECTED),
        (StaleRefError, Exit.REJECTED),
        (StorageError, Exit.UNAVAILABLE),
        (SQLAlchemyError, Exit.UNAVAILABLE),
        (OSError, Exit.UNAVAILABLE),
    ]
    return next((code for kind, code in kinds if isinstance(error, kind)), None)


def explain(error: BaseException) -> str:
    """Return what to say of an error: no statement, no parameters, no traceback."""
    if isinstance(error, DBAPIError):
        said = str(error.orig).strip().splitlines()
        return f"the database says: {said[0] if said else type(error.orig).__name__}"
    if isinstance(error, (CommandError, StorageError)):
        return str(error)
    return f"{type(error).__name__}: {error}"
