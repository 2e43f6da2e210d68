"""What every process of a soak is told: where the database and the store are, and how fast time passes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from granite_core import LocalStorageBackend, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.backends.base import StorageBackend
from granite_core.backends.s3 import S3StorageBackend
from granite_core.events import Listener
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, prepare_sqlite
from tests.support.s3 import S3Server

from .models import Base

__all__ = ["MIB", "Bucket", "Site"]

MIB = 2**20


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 server."""

    server: S3Server
    name: str


class _Folder(LocalStorageBackend):
    def __init__(self, root: Path, delete_takes: float) -> None:
        super().__init__(root)
        self._delete_takes = delete_takes

    def delete(self, location: str | StoredObjectRef) -> None:
        time.sleep(self._delete_takes)
        super().delete(location)


@dataclass(frozen=True)
class Site:
    """Where things are, and the pace.

    Args:
        folder: Where journals go, and with local storage the files too.
        sync_url: The database for synchronous engines.
        async_url: The same database for asynchronous ones.
        bucket: Where objects go; None for the folder ``files``.
        seed: Where all randomness begins.
        grace: In seconds.
        lease: For how many seconds a dead collector keeps the others waiting.
        unfinished: After how many seconds an upload that nobody goes on with is cleared.
        pause: How many seconds a worker rests on average between two transactions.
        delete_takes: How many seconds the deletion of an object takes at least, in a local folder.
    """

    folder: Path
    sync_url: str
    async_url: str
    bucket: Bucket | None
    seed: int
    grace: float = 10
    lease: float = 3
    unfinished: float = 15
    pause: float = 0.05
    delete_takes: float = 0

    @property
    def is_sqlite(self) -> bool:
        return self.sync_url.startswith("sqlite")

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def large(self) -> int:
        """From so many bytes on, an object is stored in parts."""
        return 5 * MIB

    def backend(self) -> StorageBackend:
        if self.bucket is None:
            return _Folder(self.files, self.delete_takes)
        return S3StorageBackend(self.bucket.name, client=self.bucket.server.client(), part_size=self.large)

    def manager(self, *listeners: Listener) -> StorageManager:
        manager = StorageManager(
            {"main": self.backend()},
            [StoragePolicy("documents", "main", key_prefix="d"), StoragePolicy("pages", "main", key_prefix="p")],
            grace=timedelta(seconds=self.grace),
            listeners=listeners,
        )
        manager.register(Base)
        return manager

    def engine(self, **options: Any) -> Engine:
        # The database's own tables then say which process did what.
        named = {} if self.is_sqlite else {"application_name": str(os.getpid())}
        return prepare_sqlite(create_engine(self.sync_url, connect_args=named, **options))

    def async_engine(self, **options: Any) -> AsyncEngine:
        return prepare_sqlite(create_async_engine(self.async_url, **options))

    def collector(self, manager: StorageManager, engine: Engine) -> Collector:
        config = GCConfig(
            always_allowed=10**9,  # a share of what is there says nothing where most of it goes again
            batch_size=25,
            page_size=100,
            lease_for=timedelta(seconds=self.lease),
            unfinished_after=timedelta(seconds=self.unfinished),
        )
        return Collector(manager, SQLAlchemyLedger([engine], Base.metadata), config)
