"""Backends with seven methods keep the contract behind the adapter, but for what seven methods cannot tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from granite_core.backends.adapter import adapted
from granite_core.backends.base import StorageBackend
from granite_core.testing import BackendConformance
from tests.support.seven_methods import DictBackend, FolderBackend

UNTOLD = {
    "test_stat_tells_size_and_time": "seven methods do not tell when an object was stored",
    "test_a_listing_tells_what_stat_tells": "seven methods list keys, no sizes",
}


class TestFolderWithSevenMethods(BackendConformance):
    memory_limit = 4 * 1024 * 1024
    deviations = UNTOLD

    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        return adapted("main", FolderBackend(tmp_path))


class TestBodiesWithSevenMethods(BackendConformance):
    deviations = {**UNTOLD, "test_memory_does_not_grow_with_what_is_written": "memory is where it keeps objects"}

    @pytest.fixture
    def backend(self) -> StorageBackend:
        return adapted("main", DictBackend())
