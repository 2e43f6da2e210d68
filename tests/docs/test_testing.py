"""The project of the how-to on testing is run by pytest, as its author would."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from tests.support.projects import run_pytest

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "docs" / "examples" / "testing"


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("--import-mode=importlib", "-p", "no:asyncio")])
def test_the_project_of_the_how_to_passes(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project)
    done = run_pytest(project, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 10
    assert not (project / "var").exists()  # where the application keeps files outside tests


def test_the_kit_fails_what_should_fail(tmp_path: Path) -> None:
    shutil.copytree(PROJECT, tmp_path, dirs_exist_ok=True)
    test = (tmp_path / "tests" / "test_reports.py").read_text()
    test = test.replace("assert_only_stored([old, new])", "assert_only_stored([new])")
    (tmp_path / "tests" / "test_reports.py").write_text(test)
    done = run_pytest(tmp_path, "-k", "replaced")
    assert done.returncode == 1
    assert "AssertionError: only 1 objects should be stored; beside them stored is" in done.stdout


def test_a_project_that_does_not_say_its_manager_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["granite_core.testing.plugin"]\n')
    (tmp_path / "test_it.py").write_text("def test_it(granite_storage): ...\n")
    done = run_pytest(tmp_path)
    assert done.returncode == 1
    assert "define a fixture granite_manager that returns it" in done.stdout


def test_nothing_is_loaded_unless_it_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "entry-points" not in project
