"""The store's marker: an object that says which database a store belongs to."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Final

from granite_core.backends.base import StorageBackend
from granite_core.errors import BackendError, ObjectExistsError, ObjectNotFoundError
from granite_core.keys import RESERVED_PREFIX

__all__ = ["MARKER_KEY", "mark_name", "read_marker", "replace_marker", "store_id", "write_marker"]

MARKER_KEY: Final = f"{RESERVED_PREFIX}/store"


def store_id(backend: StorageBackend) -> str:
    """Return what tells a backend's store from others, in the names of what a database remembers of it."""
    return hashlib.sha256(repr(backend.identity).encode()).hexdigest()[:32]


def mark_name(backend: StorageBackend) -> str:
    """Return the name under which a database remembers that it has marked a backend's store."""
    return f"store:{store_id(backend)}"


def read_marker(backend: StorageBackend) -> str | None:
    """Return the name of the database the store belongs to; None where there is no marker. Blocks.

    Raises:
        BackendError: The store cannot be asked, or the marker is none of ours.
    """
    try:
        content = backend.get(MARKER_KEY)
    except ObjectNotFoundError:
        return None
    try:
        return str(json.loads(content)["database"])
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"the store's marker {MARKER_KEY!r} cannot be understood", operation="check", location=MARKER_KEY
        ) from error


def write_marker(backend: StorageBackend, database: str) -> str:
    """Mark a store that has no marker, and return whose it is then: another one may have been faster. Blocks.

    Raises:
        BackendError: The store failed.
    """
    with suppress(ObjectExistsError):
        backend.put_bytes(MARKER_KEY, json.dumps({"database": database}).encode(), content_type="application/json")
    return read_marker(backend) or database


def replace_marker(backend: StorageBackend, database: str) -> None:
    """Give a store to another database. Blocks.

    Raises:
        BackendError: The store failed.
    """
    backend.delete(MARKER_KEY)  # a key is never overwritten
    write_marker(backend, database)
