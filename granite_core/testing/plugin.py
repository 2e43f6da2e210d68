"""Fixtures for pytest. Name it in your top ``conftest.py``: ``pytest_plugins = ["granite_core.testing.plugin"]``.

It is not loaded by itself: whoever only has the package installed pays nothing for it, in no test run.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from granite_core.manager import StorageManager
from granite_core.testing.storage import MemoryStorage, memory_storage

__all__ = ["granite_manager", "granite_storage"]


@pytest.fixture
def granite_manager() -> StorageManager:
    """The manager that the application uses: define a fixture of this name, in any scope, that returns it."""
    raise pytest.UsageError(
        "granite_storage needs the application's manager: define a fixture granite_manager that returns it"
    )


@pytest.fixture
def granite_storage(granite_manager: StorageManager) -> Iterator[MemoryStorage]:
    """The application's manager with an empty store in memory behind every backend, for the length of a test."""
    with memory_storage(granite_manager) as storage:
        yield storage
