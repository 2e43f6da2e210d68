"""The documentation builds without a warning, and its examples run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.parts import promised

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


def test_the_documentation_builds_without_warnings(tmp_path: Path) -> None:
    if importlib.util.find_spec("sphinx") is None and not promised():
        pytest.skip("not installed: sphinx")
    argv = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dirhtml", "-d", tmp_path / "doctrees"]
    done = subprocess.run([*argv, "docs", tmp_path / "html"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_the_example_that_runs() -> None:
    shown = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    source = (ROOT / "docs" / "examples" / "quickstart.py").read_text()
    assert shown
    for block in shown:
        assert block in source


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    """Every example can be run as a script, and ends by itself; what it serves or stores is tested beside this."""
    if importlib.util.find_spec("granite_litestar.plugin") is None and not promised():
        pytest.skip("granite_litestar is not complete")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, example], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
