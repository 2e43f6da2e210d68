"""The rows of the soak: each says beside its files what their bytes must be, by the word of whoever made the bytes."""

from __future__ import annotations

from sqlalchemy import JSON
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field, files_field

__all__ = ["COLUMNS", "Album", "Base", "Document"]


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "document"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")
    sha256: Mapped[str | None]


class Album(Base):
    __tablename__ = "album"
    id: Mapped[int] = mapped_column(primary_key=True)
    pages: Mapped[list[StoredObjectRef]] = files_field("pages")
    sha256s: Mapped[list[str]] = mapped_column(JSON, default=list)


COLUMNS = (("document", "file", "sha256"), ("album", "pages", "sha256s"))
"""Where files are: table, file column, and the column that says what is in them."""
