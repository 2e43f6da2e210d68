"""The places in which operations die, the processes that do, and disks that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disks import Disk, may_mount, small_disk
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


@pytest.fixture
def disk(
    request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]
) -> Iterator[Disk]:
    """A small disk of a test's own; with other mount options by parameter."""
    if not may_mount():
        # Promised nowhere, CI included: what the kernel says there a stand-in says too (`TestAKernelThatSaysNo`).
        pytest.skip("mounting file systems takes root")
    record_property("counted", "Bad disks, real file systems|1|cases")
    with small_disk(tmp_path, getattr(request, "param", "size=1m")) as made:
        yield made
