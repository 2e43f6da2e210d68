"""A server that is told to stop while a file is on its way: what has come is kept, and nobody is kept out."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.processes import answers, free_port, running
from tests.support.resumable_server import row

ANN = {"Tus-Resumable": "1.0.0", "Authorization": "Bearer ann"}
SIZE = 60_000_000


@pytest.mark.parametrize("told_to", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_server_that_stops_records_what_has_come_and_gives_the_upload_back(
    tmp_path: Path, told_to: signal.Signals
) -> None:
    port, database, log = free_port(), f"{tmp_path}/db.sqlite3", tmp_path / "server.log"
    url = f"http://127.0.0.1:{port}"
    env = {
        "DATABASE_URL": f"sqlite+aiosqlite:///{database}",
        "STORAGE_URL": f"file:{tmp_path}/files",
        "UPLOAD_LEASE": "3600",
        "UPLOAD_RECORD_EVERY": "600",  # only the end of the go records
        "PYTHONPATH": os.getcwd(),
    }
    argv = [sys.executable, "-m", "tests.support.resumable_app", str(port)]
    with running(argv, log=log, ready=lambda: answers(f"{url}/pid"), patience=120, env=env) as process:
        made = httpx.post(f"{url}/uploads", headers={**ANN, "Upload-Length": str(SIZE)}, timeout=60)
        upload = made.headers["location"]
        sent = 0
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = (
                f"PATCH {upload} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nAuthorization: Bearer ann\r\n"
                f"Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\nContent-Length: {SIZE}\r\n\r\n"
            )
            connection.sendall(head.encode())
            try:
                while process.poll() is None and sent < SIZE:
                    connection.sendall(bytes(400_000))
                    sent += 400_000
                    time.sleep(0.05)
                    if sent == 8_000_000:
                        process.send_signal(told_to)
            except OSError:
                pass  # it does not read any more
        assert process.wait(60) is not None
    found = row(database, upload)
    (part,) = Path(tmp_path, "files").rglob(".granite-part-*")
    assert 8_000_000 <= found.received == part.stat().st_size <= sent, log.read_text()
    assert found.holder is None
