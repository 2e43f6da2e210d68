from __future__ import annotations

from pathlib import Path

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.backends.local import LocalStorageBackend
from granite_core.testing import BackendConformance, FaultyBackend


class TestLocal(BackendConformance):
    memory_limit = 4 * 1024 * 1024

    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        return LocalStorageBackend(tmp_path / "root")


class TestLocalWithoutDurability(BackendConformance):
    memory_limit = 4 * 1024 * 1024

    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        return LocalStorageBackend(tmp_path / "root", durable=False)


class TestLocalThroughFaultInjection(BackendConformance):
    memory_limit = 4 * 1024 * 1024

    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        return FaultyBackend(LocalStorageBackend(tmp_path / "root"))
