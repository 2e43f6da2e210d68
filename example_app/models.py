"""The one model, and the database it lives in."""

from __future__ import annotations

from typing import Any

from advanced_alchemy.base import UUIDAuditBase
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Mapped

from granite_core import StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field, files_field

__all__ = ["Item", "make_engine"]


class Item(UUIDAuditBase):
    """Something in the library: a file, and what was attached to it."""

    __tablename__ = "item"

    title: Mapped[str]
    file: Mapped[StoredObjectRef] = file_field("library", nullable=False)
    attachments: Mapped[list[StoredObjectRef]] = files_field("attachments")


def make_engine(url: str) -> AsyncEngine:
    """Connect; SQLite with a write-ahead log and patience, so that uploads and the collector need not wait long."""
    engine = create_async_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=15000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine
