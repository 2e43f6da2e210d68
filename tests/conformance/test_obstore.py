from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.backends.obstore import ObstoreStorageBackend
from granite_core.testing import BackendConformance, FaultyBackend
from tests.support.obstore import s3_store
from tests.support.s3 import S3Server


@pytest.fixture(scope="class")
def ministack_bucket(ministack: S3Server) -> Iterator[str]:
    bucket = ministack.create_bucket()
    yield bucket
    ministack.drop_bucket(bucket)


@pytest.fixture(scope="class")
def rgw_bucket(rgw: S3Server) -> Iterator[str]:
    bucket = rgw.create_bucket()
    yield bucket
    rgw.drop_bucket(bucket)


class TestObstoreOnMiniStack(BackendConformance):
    programs = 20

    @pytest.fixture
    def backend(self, ministack: S3Server, ministack_bucket: str) -> Iterator[StorageBackend]:
        backend = ObstoreStorageBackend(s3_store(ministack, ministack_bucket), uuid4().hex)
        yield backend
        clean(backend)


class TestObstoreOnCeph(BackendConformance):
    programs = 3  # it takes its time to copy

    @pytest.fixture
    def backend(self, rgw: S3Server, rgw_bucket: str) -> Iterator[StorageBackend]:
        backend = ObstoreStorageBackend(s3_store(rgw, rgw_bucket), uuid4().hex, part_size=5 * 1024 * 1024)
        yield backend
        clean(backend)


class TestObstoreOnDisk(BackendConformance):
    programs = 20

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[StorageBackend]:
        from obstore.store import LocalStore

        backend = ObstoreStorageBackend(LocalStore(tmp_path / "root", mkdir=True), "folder")
        yield backend
        backend.close()


class TestObstoreInMemory(BackendConformance):
    programs = 20
    deviations = {"test_memory_does_not_grow_with_what_is_written": "memory is where it keeps objects"}

    @pytest.fixture
    def backend(self) -> Iterator[StorageBackend]:
        from obstore.store import MemoryStore

        backend = FaultyBackend(ObstoreStorageBackend(MemoryStore()))
        yield backend
        backend.close()


def clean(backend: StorageBackend) -> None:
    for each in backend.list_objects():  # both servers keep everything in memory
        backend.delete(each.location)
    backend.close()
