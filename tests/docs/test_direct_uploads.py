"""The page on direct uploads: its application takes what its client sends."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import answers, free_port, running

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), "direct_uploads:app"]
    program = running(
        argv,
        log=tmp_path / "log",
        ready=lambda: answers(url),
        cwd=tmp_path,
        env={"PYTHONPATH": str(EXAMPLES.parents[1])},
    )
    with program:
        yield url


def _client() -> Any:
    spec = importlib.util.spec_from_file_location("direct_client", EXAMPLES / "direct_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_python_client_uploads_a_film(server: str, sample_mp4: Path, tmp_path: Path) -> None:
    film = _client().upload(server, str(sample_mp4), "Sample", {"X-User": "ann"})
    assert film["id"]
    (stored,) = [each for each in (tmp_path / "var/files").rglob("*.mp4") if each.is_file()]
    assert stored.read_bytes() == Path(sample_mp4).read_bytes()
