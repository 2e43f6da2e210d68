"""The places in which operations die, and the processes that do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.forks import Forks
from tests.faults.world import Bucket, Place


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A database and a store, by parameter: `("sqlite" or "postgresql", "disk" or "s3")`."""
    database, store = request.param
    url, async_url = f"sqlite:///{tmp_path}/db.sqlite3", f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3"
    if database == "postgresql":
        made = request.getfixturevalue("postgres_database")
        url, async_url = made.sync_url, made.async_url
    server: Any = request.getfixturevalue("ministack") if store == "s3" else None
    kept = Bucket(server, server.create_bucket()) if server is not None else f"{tmp_path}/files"
    found = Place(url, async_url, kept)
    found.make_tables()
    yield found
    if isinstance(kept, Bucket):
        server.drop_bucket(kept.name)
