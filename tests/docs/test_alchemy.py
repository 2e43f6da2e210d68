"""The letters, from which the guide on advanced-alchemy quotes, do what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        ROOT / "docs" / "examples",
        "--port",
        str(port),
        "alchemy:app",
    ]
    program = running(
        argv, log=tmp_path / "log", ready=lambda: answers(url), cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    with program, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def test_letters_are_written_read_changed_archived_and_removed(client: httpx.Client) -> None:
    letter = client.post("/letters", data={"title": "One"}, files={"file": ("one.txt", b"one")}).json()
    assert client.put(f"/letters/{letter}/file?filename=1.txt", content=b"first").status_code == 200
    assert client.get(f"/letters/{letter}/file").content == b"first"
    assert client.put("/letters").json() == 3

    forged = {"storage_key": "letters", "backend": "main", "location": "x", "size": 1}
    changed = client.patch(f"/letters/{letter}", json={"title": "Changed", "file": forged, "pages": [forged]}).json()
    assert (changed["title"], changed["file"]["filename"], changed["pages"]) == ("Changed", "1.txt", [])
    listed = client.get("/letters").json()
    assert sorted(each["file"]["filename"] for each in listed) == ["1.txt", *["letter.txt"] * 3]
    assert client.get(f"/letters/{letter}").json()["file"] == changed["file"]

    archived = client.post(f"/letters/{letter}/archive").json()
    assert client.delete(f"/letters/{letter}").status_code == 204
    assert client.get(f"/letters/{letter}/file").status_code == 404
    assert client.get(f"/archive/{archived}/file").content == b"first"
