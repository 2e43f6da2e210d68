"""A server with resumable uploads, and what its database has of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import Connection, create_engine, func, select, update

from granite_core.integrations.sqlalchemy import tables_of
from tests.support.resumable_app import Base, make_app

__all__ = ["change", "count", "row", "serving"]


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[tuple[str, str]]:
    """The server's address, and the path of its database."""
    database = f"{folder}/db.sqlite3"
    times = {"lease": 8, "record_every": 0.3, "patience": 0.5}
    app = make_app(f"sqlite+aiosqlite:///{database}", f"file:{folder}/files", **{**times, **options})
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not running.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", database
    running.should_exit = True
    thread.join(30)


def change(database: str, url: str, **values: Any) -> None:
    """Change the row of an upload."""
    with _connected(database) as (connection, t):
        changed = connection.execute(update(t).where(t.c.id == url.rpartition("/")[2]).values(**values))
        assert changed.rowcount == 1


def row(database: str, url: str) -> Any:
    """The row of an upload."""
    with _connected(database) as (connection, t):
        return connection.execute(select(t).where(t.c.id == url.rpartition("/")[2])).one()


def count(database: str) -> int:
    """How many uploads there are."""
    with _connected(database) as (connection, t):
        return int(connection.scalar(select(func.count()).select_from(t)) or 0)


@contextmanager
def _connected(database: str) -> Iterator[tuple[Connection, Any]]:
    found = tables_of(Base.metadata)
    assert found is not None
    engine = create_engine(f"sqlite:///{database}")
    with engine.begin() as connection:
        yield connection, found.upload
    engine.dispose()
