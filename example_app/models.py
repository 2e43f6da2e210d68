"""The one model, and the database it lives in."""

from __future__ import annotations

from advanced_alchemy.base import UUIDAuditBase
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Mapped

from granite_core import StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field, files_field, prepare_sqlite

__all__ = ["Item", "make_engine"]


class Item(UUIDAuditBase):
    """Something in the library: a file, and what was attached to it."""

    __tablename__ = "item"

    title: Mapped[str]
    file: Mapped[StoredObjectRef] = file_field("library", nullable=False)
    attachments: Mapped[list[StoredObjectRef]] = files_field("attachments")


def make_engine(url: str) -> AsyncEngine:
    """Connect; SQLite with a write-ahead log and patience, so that uploads and the collector need not wait long."""
    return prepare_sqlite(create_async_engine(url))
