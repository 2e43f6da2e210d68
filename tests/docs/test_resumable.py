"""The page on resumable uploads: its application takes what its clients send."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.parts import TUS_CLIENT, need, node
from tests.support.processes import answers, free_port, running

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), "resumable_uploads:app"]
    program = running(
        argv,
        log=folder / "log",
        ready=lambda: answers(url),
        cwd=folder,
        env={"PYTHONPATH": str(EXAMPLES.parents[1])},
    )
    with program:
        yield url


def _client() -> Any:
    spec = importlib.util.spec_from_file_location("resumable_client", EXAMPLES / "resumable_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stored(folder: Path) -> list[bytes]:
    return [each.read_bytes() for each in (folder / "var/files").rglob("*.mp4") if each.is_file()]


def test_the_python_client_uploads_a_film(
    server: str, sample_mp4: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    film = _client().upload(server, str(sample_mp4), "Sample", {"X-User": "ann"})
    assert film["id"]
    assert Path(sample_mp4).read_bytes() in _stored(folder)


USE = """
import { upload } from "./resumable_draft.mjs";
const [path, endpoint] = process.argv.slice(2);
const steps = [];
const onProgress = (sent) => steps.push(sent);
const token = await upload(path, { endpoint, headers: { "X-User": "ann" }, chunkSize: 400_000, onProgress });
console.log(JSON.stringify({ token, steps }));
"""


def test_a_client_of_the_draft_uploads_a_film(server: str, sample_mp4: Path, folder: Path, tmp_path: Path) -> None:
    need("tus-client")
    film = tmp_path / "harbour.mp4"
    film.write_bytes(sample_mp4.read_bytes() + os.urandom(1_000_000))
    shutil.copy(EXAMPLES / "resumable_draft.mjs", tmp_path)
    (tmp_path / "use.mjs").write_text(USE)
    (tmp_path / "node_modules").symlink_to(TUS_CLIENT / "node_modules")
    argv = [node(), str(tmp_path / "use.mjs"), str(film), f"{server}/uploads"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stderr
    told = json.loads(said.stdout)
    assert told["steps"][-1] == film.stat().st_size
    made = httpx.post(f"{server}/films", json={"title": "Harbour", "upload": told["token"]}, headers={"X-User": "ann"})
    assert made.status_code == 201, made.text
    assert film.read_bytes() in _stored(folder)
