from __future__ import annotations

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.backends.memory import MemoryStorageBackend
from granite_core.testing import BackendConformance, FaultyBackend

IN_MEMORY = {
    "test_memory_does_not_grow_with_what_is_written": "memory is where it keeps objects",
}


class TestMemory(BackendConformance):
    deviations = IN_MEMORY

    @pytest.fixture
    def backend(self) -> StorageBackend:
        return MemoryStorageBackend()


class TestMemoryThroughFaultInjection(BackendConformance):
    deviations = IN_MEMORY

    @pytest.fixture
    def backend(self) -> StorageBackend:
        return FaultyBackend(MemoryStorageBackend())
