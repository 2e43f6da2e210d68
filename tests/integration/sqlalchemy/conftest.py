from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.sqlalchemy.world import World, make_world


@pytest.fixture(params=["sqlite", "aiosqlite", "psycopg", "asyncpg"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, on SQLite and PostgreSQL, for either colour."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path}/db.sqlite3"
        case "aiosqlite":
            return f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3"
        case "psycopg":
            return str(request.getfixturevalue("postgres_url"))
        case _:
            return str(request.getfixturevalue("postgres_async_url"))


@pytest.fixture
def world(url: str) -> Iterator[World]:
    with make_world(url) as world:
        yield world
