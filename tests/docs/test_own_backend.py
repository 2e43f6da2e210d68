"""The backends of the how-to keep the contract, and the suite runs in their authors' own projects."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.testing import BackendConformance
from tests.support.projects import run_pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class TestSQLite(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        spec = importlib.util.spec_from_file_location("own_backend", EXAMPLES / "own_backend.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.SQLiteBackend(tmp_path / "objects.db")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return shutil.copytree(EXAMPLES / "small_backend", tmp_path / "project")


_STRICT = ("--strict-markers", "--strict-config", "-W", "error")


# Authors have pytest set up in their own way.
@pytest.mark.parametrize(
    "arguments",
    [
        ("-k", "plain or wrapped"),
        ("-n", "2", "-k", "plain and (program or range)"),
        ("--import-mode=importlib", "-p", "no:asyncio", "-k", "plain and (program or range)", *_STRICT),
    ],
)
def test_the_suite_passes_in_its_authors_project(project: Path, arguments: tuple[str, ...]) -> None:
    done = run_pytest(project, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED test_small_backend.py::TestSmallBackend::test_any_program_does_what_a_dictionary_does[plain]" in (
        done.stdout
    )


def test_the_suite_says_in_its_authors_project_what_is_broken(project: Path) -> None:
    source = (project / "small_backend.py").read_text()
    (project / "small_backend.py").write_text(source.replace("content[offset:][:length]", "content[offset:]"))
    done = run_pytest(project, "-k", "plain")
    assert done.returncode == 1
    assert "FAILED test_small_backend.py::TestSmallBackend::test_a_range_is_read_exactly[plain-10-20]" in done.stdout
    assert "assert reader.read() == CONTENT[offset:][:length]" in done.stdout  # pytest shows what was compared


def test_a_deviation_that_is_none_any_more_is_told(project: Path) -> None:
    file = project / "test_small_backend.py"
    wrong = file.read_text().replace("test_memory_does_not_grow_with_what_is_written", "test_exists_tells_both")
    file.write_text(wrong)
    done = run_pytest(project, "-k", "exists_tells_both and plain")
    assert done.returncode == 1
    assert "[XPASS(strict)]" in done.stdout
