"""Blocking calls from code that SQLAlchemy may run in a greenlet of an event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqlalchemy.util import await_only

from granite_core.aio import AsyncStagedWrite, AsyncStorageManager, hop
from granite_core.backends.base import StorageBackend
from granite_core.manager import PutOptions, StorageManager
from granite_core.refs import StagedFile
from granite_core.sources import Source
from granite_core.staging import StagedWrite

__all__ = ["in_greenlet", "run_blocking", "run_put", "run_put_source"]

P = ParamSpec("P")
T = TypeVar("T")


def in_greenlet() -> bool:
    """Tell whether SQLAlchemy runs this code in a greenlet, so that ``await_only`` works."""
    greenlet = sys.modules.get("greenlet")  # optional: SQLAlchemy imports it for its asyncio extension only
    return greenlet is not None and hasattr(greenlet.getcurrent(), "__sqlalchemy_greenlet_provider__")


def run_blocking(backend: StorageBackend, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a call that blocks on a backend: in the backend's threads where there is an event loop beneath, else here."""
    if in_greenlet():
        return await_only(hop(backend, call, *args, **kwargs))
    return call(*args, **kwargs)


def run_put_source(manager: StorageManager, storage_key: str, source: Source, options: PutOptions) -> StagedFile:
    """Store a source: awaiting it, or in threads, where there is an event loop beneath, else here."""
    if in_greenlet():
        return await_only(AsyncStorageManager(manager).put_source(storage_key, source, options))
    return manager.put_source(storage_key, source, options)


def run_put(write: StagedWrite, fill: Callable[[StagedWrite], object]) -> StagedFile:
    """Fill and commit a write: in its backend's threads where there is an event loop beneath, else here."""
    if in_greenlet():
        return await_only(AsyncStagedWrite(write).put(fill))
    with write:
        fill(write)
        return write.commit()
