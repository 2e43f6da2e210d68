"""An application that came from granite-storage: how it collects now, and what it may do once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import JSON, Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    LocalStorageBackend,
    StorageManager,
    StoragePolicy,
    StoredContentMixin,
    StoredObjectRef,
    StoredObjectRefType,
)
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger

engine = create_engine("sqlite:///documents.db")

# the part "model" begins
manager = StorageManager(
    backends={"main": LocalStorageBackend("var/storage")},
    policies={
        "documents": StoragePolicy(storage_key="documents", backend_key="main", key_prefix="docs"),
        "avatars": StoragePolicy(storage_key="avatars", backend_key="main", key_prefix="avatars"),
    },
)


class Base(DeclarativeBase):
    pass


class Document(StoredContentMixin, Base):
    __tablename__ = "document"
    __stored_content_field_name__ = "_file_ref"
    __stored_content_storage_key__ = "documents"

    id: Mapped[int] = mapped_column(primary_key=True)
    _file_ref: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType(), nullable=True)


Document.configure_storage_manager(manager)
# the part "model" ends


class User(Base):
    __tablename__ = "user_account"

    id: Mapped[int] = mapped_column(primary_key=True)
    avatar: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # ref.to_dict(), in a plain column


def held_by_users(locations: Collection[str]) -> Collection[str]:
    # the part "elsewhere" begins
    location = User.avatar["location"].as_string()
    with Session(engine) as session:
        return session.scalars(select(location).where(location.in_(locations))).all()
    # the part "elsewhere" ends


def collector(engine: Engine) -> Collector:
    # the part "collector" begins
    return Collector(manager, SQLAlchemyLedger([engine], Base.metadata), references=[held_by_users])
    # the part "collector" ends


def name_backends(session: Session) -> None:
    # the part "names" begins
    for document in session.scalars(select(Document).execution_options(yield_per=500)):
        ref = document._file_ref
        if ref is not None and ref.location:
            key = manager.backend_key_of(ref.backend, ref.storage_key, ref.location)
            if key != ref.backend:
                document._file_ref = StoredObjectRef.from_dict({**ref.to_dict(), "backend": key})
    session.commit()
    # the part "names" ends


def store_texts(session: Session) -> None:
    # the part "texts" begins
    for document in session.scalars(select(Document)):
        ref = document._file_ref
        if ref is not None and ref.inline_text is not None:
            document.set_content(ref.inline_text, filename="content.md")
            session.commit()
    # the part "texts" ends
