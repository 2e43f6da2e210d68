"""granite-storage's module of this name: what its users import from there, they import from here."""

from __future__ import annotations

from granite_core.errors import ContentTooLargeError, StorageError

__all__ = ["ContentTooLargeError", "StorageError"]
