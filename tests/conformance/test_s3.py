from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.backends.s3 import S3StorageBackend
from granite_core.testing import BackendConformance, FaultyBackend
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


class TestS3OnMiniStack(BackendConformance):
    @pytest.fixture
    def backend(self, ministack: S3Server, ministack_bucket: str) -> Iterator[StorageBackend]:
        client = ministack.client(max_pool_connections=32)
        backend = S3StorageBackend(ministack_bucket, uuid4().hex, client)
        yield backend
        clean(backend)
        client.close()


class TestS3ThroughFaultInjection(BackendConformance):
    programs = 10

    @pytest.fixture
    def backend(self, ministack: S3Server, ministack_bucket: str) -> Iterator[StorageBackend]:
        client = ministack.client(max_pool_connections=32)
        backend = FaultyBackend(S3StorageBackend(ministack_bucket, uuid4().hex, client))
        yield backend
        clean(backend)
        client.close()


class TestS3OnCeph(BackendConformance):
    programs = 5  # it takes its time to copy

    @pytest.fixture
    def backend(self, rgw: S3Server, rgw_bucket: str) -> Iterator[StorageBackend]:
        client = rgw.client(max_pool_connections=32)
        backend = S3StorageBackend(rgw_bucket, uuid4().hex, client, part_size=5 * 1024 * 1024, atomic_create=False)
        yield backend
        clean(backend)
        client.close()


def clean(backend: StorageBackend) -> None:
    for each in backend.list_objects():  # both servers keep everything in memory
        backend.delete(each.location)
    backend.close()
