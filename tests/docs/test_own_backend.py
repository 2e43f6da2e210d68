"""The backend of the how-to keeps the contract."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.testing import BackendConformance

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "own_backend.py"


class TestSQLite(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        spec = importlib.util.spec_from_file_location("own_backend", EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.SQLiteBackend(tmp_path / "objects.db")
