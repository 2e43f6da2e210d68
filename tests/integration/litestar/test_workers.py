"""Two worker processes on one database and one store: both serve, one at a time collects, both stop when told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx

from granite_core import LocalStorageBackend
from tests.support.processes import free_port, running

ROOT = Path(__file__).parents[3]


def wait_for(condition: object, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def test_what_two_workers_replace_is_collected_once_and_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "uvicorn", "tests.support.worker_app:app", "--port", str(port), "--workers", "2"]
    env = {"GRANITE_WORKER_APP": str(tmp_path), "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-m", "tests.support.worker_app"], cwd=ROOT, env={**os.environ, **env}, check=True)

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/pid").is_success
        except httpx.TransportError:
            return False

    with running([*argv, "--log-level", "warning"], log=log, ready=answers, env=env, cwd=ROOT) as server:
        pids: set[int] = set()

        def both() -> bool:
            pids.add(httpx.get(f"{url}/pid").json())
            return len(pids) == 2

        wait_for(both)
        notes = [uuid4() for _ in range(12)]

        def write(job: tuple[object, bytes]) -> None:
            note, content = job
            httpx.put(f"{url}/notes/{note}", content=content, timeout=30).raise_for_status()

        with ThreadPoolExecutor(4) as pool:
            for version in (b"first", b"second", b"third"):
                list(pool.map(write, [(note, b"%s %s" % (version, note.bytes)) for note in notes]))
        store = LocalStorageBackend(tmp_path / "files")
        wait_for(lambda: len([*store.iter_locations()]) == len(notes))
        for note in notes:
            assert httpx.get(f"{url}/notes/{note}").content == b"third " + note.bytes
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) in (0, -signal.SIGTERM)
    said = log.read_text()
    assert "Traceback" not in said, said
    assert "refused" not in said, said
