"""The drive, from which the guide on policies quotes, does what it says."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
KB = 1024
ANN = {"X-User": "ann"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", ROOT / "docs" / "examples", "--port", str(port), "quotas:app"]
    program = running(
        argv, log=tmp_path / "log", ready=lambda: answers(url), cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    with program, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield client


def used(client: httpx.Client, who: str = "ann") -> dict[str, int]:
    found: dict[str, int] = client.get("/usage", headers={"X-User": who}).json()
    return found


def send(client: httpx.Client, size: int, who: str = "ann") -> httpx.Response:
    return client.post("/items", files={"file": ("a.bin", bytes(size))}, headers={"X-User": who})


def raw(client: httpx.Client, size: int, who: str = "ann") -> httpx.Response:
    return client.post("/raw", content=bytes(size), headers={"X-User": who, "Content-Type": "application/octet-stream"})


def tus(client: httpx.Client, size: int) -> httpx.Response:
    return client.post("/uploads", headers={**ANN, "Tus-Resumable": "1.0.0", "Upload-Length": str(size)})


def test_forms_raw_bodies_and_resumable_uploads_share_one_quota(client: httpx.Client) -> None:
    assert used(client) == {"bytes": 0, "files": 0}
    assert send(client, 40 * KB).status_code == 201
    assert raw(client, 30 * KB).status_code == 201
    begun = tus(client, 20 * KB)
    assert begun.status_code == 201
    assert used(client) == {"bytes": 90 * KB, "files": 3}
    for refused, field in ((send(client, 11 * KB), "file"), (raw(client, 11 * KB), "data")):
        assert refused.status_code == 413, refused.text
        extra = refused.json()["extra"]
        assert (extra["code"], extra["field"], extra["limit"]) == ("quota_exceeded", field, 100 * KB)
        assert "ann" not in refused.text
    assert tus(client, 11 * KB).status_code == 413
    assert used(client) == {"bytes": 90 * KB, "files": 3}
    ended = client.delete(begun.headers["location"], headers={**ANN, "Tus-Resumable": "1.0.0"})
    assert ended.status_code == 204
    assert used(client) == {"bytes": 70 * KB, "files": 2}


def test_an_upload_of_parts_needs_no_room_for_both(client: httpx.Client) -> None:
    base = {**ANN, "Tus-Resumable": "1.0.0"}
    parts = []
    for _ in range(2):
        begun = client.post("/uploads", headers={**base, "Upload-Length": str(40 * KB), "Upload-Concat": "partial"})
        assert begun.status_code == 201, begun.text
        sent = {**base, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        assert client.patch(begun.headers["location"], headers=sent, content=bytes(40 * KB)).status_code == 204
        parts.append(begun.headers["location"])
    assert used(client) == {"bytes": 80 * KB, "files": 2}
    whole = client.post("/uploads", headers={**base, "Upload-Concat": f"final;{' '.join(parts)}"})
    assert whole.status_code == 201, whole.text
    assert used(client) == {"bytes": 80 * KB, "files": 1}
    assert send(client, 21 * KB).status_code == 413


def test_operators_see_what_everybody_has(client: httpx.Client, tmp_path: Path) -> None:
    assert send(client, 40 * KB).status_code == 201
    examples = ROOT / "docs" / "examples"
    argv = [sys.executable, "-m", "litestar", "--app-dir", examples, "--app", "quotas:app", "granite", "quota"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for more in ([], ["--recount"]):
        told = subprocess.run([*argv, "--json", *more], cwd=tmp_path, env=env, capture_output=True, check=True)
        assert json.loads(told.stdout)["scopes"] == [
            {"scope": "company:acme", "bytes": 40 * KB, "files": 1},
            {"scope": "user:ann", "bytes": 40 * KB, "files": 1},
        ]
    database = sqlite3.connect(tmp_path / "quotas.sqlite3")
    with database:
        database.execute("DELETE FROM granite_usage")  # as if it had been stored before there were quotas
        database.execute("DELETE FROM granite_quota")
    database.close()
    for _ in range(2):
        more = ["--count", "Item.file", "--for", "user:{owner}"]
        told = subprocess.run([*argv, "--json", *more], cwd=tmp_path, env=env, capture_output=True, check=True)
        assert json.loads(told.stdout)["scopes"] == [{"scope": "user:ann", "bytes": 40 * KB, "files": 1}]
    wrong = [*argv, "--count", "Item.file", "--for", "user:{nobody}"]
    refused = subprocess.run(wrong, cwd=tmp_path, env=env, capture_output=True, check=False)
    assert refused.returncode == 2
    one = subprocess.run([*argv, "user:ben"], cwd=tmp_path, env=env, capture_output=True, check=True)
    assert re.search(r"user:ben\W+0\W+0\W", one.stdout.decode())


def test_a_company_s_limit_holds_for_all_of_its_users(client: httpx.Client) -> None:
    assert send(client, 950 * KB, "ben").status_code == 201
    refused = send(client, 60 * KB)
    assert refused.status_code == 413
    assert refused.json()["extra"]["limit"] == 1000 * KB
    assert used(client) == {"bytes": 0, "files": 0}


def test_of_many_that_come_at_once_as_many_are_taken_as_there_is_room_for(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = [each.status_code for each in pool.map(lambda _: send(client, 30 * KB), range(8))]
    assert sorted(answers) == [201] * 3 + [413] * 5
    assert used(client) == {"bytes": 90 * KB, "files": 3}
