"""An application to operate on from the command line; its database and stores come from the environment.

`OPERATED_DATABASE` is a SQLAlchemy URL of either colour, `OPERATED_STORES` a JSON object of storage URLs by key. With
`OPERATED_DIRECT` clients send documents to the store themselves.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    SQLAlchemySyncConfig,
)
from litestar import Litestar
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import StorageManager, StoragePolicy, StoredObjectRef, UrlSettings, backend_from_url
from granite_core.gc import GCConfig
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import DirectUploads, GraniteConfig, GranitePlugin

__all__ = ["Base", "Document", "create_app", "make_manager"]


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "document"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    file: Mapped[StoredObjectRef | None] = file_field("documents")
    pages: Mapped[list[StoredObjectRef]] = files_field("pages")


def make_manager() -> StorageManager:
    stores = json.loads(os.environ["OPERATED_STORES"])
    last = list(stores)[-1]
    return StorageManager(
        {key: backend_from_url(url) for key, url in stores.items()},
        [
            StoragePolicy("documents", "main", key_prefix="documents", max_size=20_000_000),
            StoragePolicy("pages", last, key_prefix="pages", content_types=["text/*", "image/*"]),
        ],
        grace=timedelta(seconds=float(os.environ.get("OPERATED_GRACE", "7200"))),
        urls=UrlSettings(secrets=["a secret that is as long as it has to be"]),
    )


def make_engine() -> Any:
    url = os.environ["OPERATED_DATABASE"]
    return create_async_engine(url) if "asyncpg" in url or "aiosqlite" in url else create_engine(url)


def create_app() -> Litestar:
    engine = make_engine()
    if engine.dialect.is_async:
        alchemy: Any = SQLAlchemyAsyncConfig(
            engine_instance=engine,
            metadata=Base.metadata,
            session_config=AsyncSessionConfig(expire_on_commit=False),
        )
    else:
        alchemy = SQLAlchemySyncConfig(engine_instance=engine, metadata=Base.metadata)
    gc = None if os.environ.get("OPERATED_GC") == "none" else GCConfig(always_allowed=5, page_size=2)
    uploads = (
        [DirectUploads("/direct", storage_key="documents", public=True)] if "OPERATED_DIRECT" in os.environ else []
    )
    config = GraniteConfig(make_manager(), gc=gc, uploads=uploads)
    return Litestar(plugins=[GranitePlugin(config), SQLAlchemyPlugin(alchemy)])
