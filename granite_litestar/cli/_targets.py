"""How a command is told of an object: by its key, by a ref, or as a row's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from granite_core import ObjectNotFoundError, StorageManager, StoredObjectRef
from granite_litestar.cli._exits import CommandError, Exit

if TYPE_CHECKING:
    from granite_core.integrations.sqlalchemy import SQLAlchemyLedger

__all__ = ["BACKEND", "ITEM", "OF", "Target", "find", "needs_rows"]

BACKEND: Final = click.option("--backend", help="The backend that the location is in, where there are several.")
OF: Final = click.option("--of", nargs=2, metavar="FIELD KEY", help="The file of a row: Document.file 42.")
ITEM: Final = click.option("--item", type=int, default=0, show_default=True, help="Which one of a list.")


@dataclass(frozen=True, slots=True)
class Target:
    """An object that a command is about.

    Args:
        backend: ``backend_key`` of the backend it is in.
        location: Its key.
        ref: What a row, or the user, says of it; None where only its key is known.
    """

    backend: str
    location: str
    ref: StoredObjectRef | None = None


def needs_rows(manager: StorageManager, text: str | None, backend: str | None, of: Any) -> bool:
    """Whether the database has to be asked where an object is."""
    if of:
        return True
    return backend is None and len(manager.backends) > 1 and not (text or "").startswith("{")


def find(
    manager: StorageManager,
    ledger: SQLAlchemyLedger | None,
    text: str | None = None,
    *,
    backend: str | None = None,
    of: tuple[str, str] | None = None,
    item: int = 0,
) -> Target:
    """Find out what is meant.

    Raises:
        CommandError: It cannot be told.
        ObjectNotFoundError: The row holds no such file.
    """
    if (text is None) == (not of):
        raise CommandError(Exit.USAGE, "say either a location (or a ref), or --of FIELD KEY")
    if of and ledger is not None:
        held = ledger.row_file(*of).refs
        if not -len(held) <= item < len(held):
            raise ObjectNotFoundError(f"{of[0]} of row {of[1]} holds {len(held)} files")
        return _of(manager, held[item])
    text = text or ""
    if text.startswith("{"):
        try:
            return _of(manager, StoredObjectRef.from_json(text))
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"that is no ref: {error}") from error
    if backend is not None:
        manager.get_backend(backend)
        return Target(backend, text)
    if ledger is not None:
        for _, row in ledger.holders(text, limit=1):
            return next(_of(manager, ref) for ref in row.refs if ref.location == text)
    if len(manager.backends) > 1:
        known = ", ".join(manager.backends)
        raise CommandError(Exit.USAGE, f"no row holds {text!r}, so say where it is: --backend, one of {known}")
    return Target(next(iter(manager.backends)), text)


def _of(manager: StorageManager, ref: StoredObjectRef) -> Target:
    key = manager.backend_key_of(ref.backend, ref.storage_key, ref.location)
    manager.get_backend(key)
    return Target(key, ref.location, ref)
