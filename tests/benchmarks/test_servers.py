"""No server outlives whoever started it, in whatever way that ends."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.benchmarks.servers import nginx, serve
from tests.support.parts import need
from tests.support.processes import wait_until

SETTINGS = {name: {"path": os.devnull} for name in ("large", "small")}


def starter(server: str, folder: Path, connection: Connection) -> None:
    """What a contender is: a process that starts a server and tells its processes, and then is killed."""
    started = (
        nginx(folder, "location / { return 200; }")
        if server == "nginx"
        else serve("download:raw", folder, SETTINGS, on="granian" if server == "granian" else "uvicorn")
    )
    with started as address:
        children = Path(f"/proc/{address.pid}/task").glob("*/children")
        connection.send([address.pid, *(int(pid) for each in children for pid in each.read_text().split())])
        connection.recv()


@pytest.mark.parametrize("server", ["uvicorn", "granian", "nginx"])
def test_a_killed_contender_leaves_no_server(server: str, tmp_path: Path) -> None:
    if server == "nginx":
        need("nginx")
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=starter, args=(server, tmp_path, theirs))
    process.start()
    assert ours.poll(60), (tmp_path / "server.log").read_text()
    pids = ours.recv()
    assert len(pids) > (1 if server == "granian" else 0)
    process.kill()
    process.join()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), patience=20)
