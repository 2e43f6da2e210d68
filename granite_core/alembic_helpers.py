"""granite-storage's module of this name: what its users import from there, they import from here."""

from __future__ import annotations

from granite_core.integrations.sqlalchemy import portable_storage_ref_type

__all__ = ["portable_storage_ref_type"]
