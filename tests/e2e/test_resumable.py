"""Client programs upload over cuts, kills and restarts, to two workers by turns, and what arrives is what was sent."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.cutter import Cutter
from tests.support.parts import TUS_CLIENT, need, node
from tests.support.processes import answers, free_port, start, stop, wait_until
from tests.support.s3 import S3Server

MIB = 1024 * 1024
DEEP = os.environ.get("GRANITE_DEEP") == "1"
SIZE = 1024 * MIB if DEEP else 36 * MIB
PAIRS = [
    ("tuspy", "sqlite, disk"),
    ("tus-js-client", "postgresql, s3"),
    ("tus-js-client ietf-draft-05", "sqlite, disk"),
]
if DEEP:
    PAIRS += [
        ("tuspy", "postgresql, s3"),
        ("tus-js-client", "sqlite, disk"),
        ("tus-js-client ietf-draft-05", "postgresql, s3"),
        ("tus-js-client ietf-draft-03", "sqlite, disk"),
    ]
HERE = Path(__file__).parent / "tus_client"
ANN = {"Tus-Resumable": "1.0.0", "Authorization": "Bearer ann"}


class Site:
    """Two workers behind a way that can be cut."""

    def __init__(self, env: dict[str, str], folder: Path, cutter: Cutter) -> None:
        self.cutter = cutter
        self.url = f"http://127.0.0.1:{cutter.port}"
        self.growth: list[int] = []
        """By how many bytes each worker has grown at most."""
        self._idle: dict[int, int] = {}
        self._env = {**env, "PYTHONPATH": str(HERE.parents[2])}
        self._folder = folder
        self._workers: dict[int, subprocess.Popen[bytes]] = {}

    def begin(self) -> int:
        """Start a worker; its port."""
        port = free_port()
        log = self._folder / f"{port}.log"
        process = start([sys.executable, "-m", "tests.support.resumable_app", str(port)], log=log, env=self._env)
        self._workers[port] = process
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/pid"), process=process, log=log, patience=120)
        self._warm_up(port)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is counted from here
        self._idle[port] = _memory(process, "VmRSS")
        return port

    @staticmethod
    def _warm_up(port: int) -> None:
        """Have everything imported and connected that an upload needs."""
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=ANN, timeout=60) as client:
            made = client.post("/uploads", headers={"Upload-Length": str(6 * MIB)})
            sent = client.patch(
                made.headers["location"],
                content=bytes(6 * MIB),
                headers={"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"},
            )
            assert sent.status_code == 204
            client.delete(made.headers["location"])

    def kill(self, port: int) -> None:
        process = self._workers.pop(port)
        self._note(port, process)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for port, process in self._workers.items():
            self._note(port, process)
            stop(process)
        self._workers.clear()

    def _note(self, port: int, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self.growth.append(_memory(process, "VmHWM") - self._idle[port])


def _memory(process: subprocess.Popen[bytes], name: str) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (found,) = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:")]
    return found


@pytest.fixture
def content(tmp_path: Path) -> tuple[Path, str]:
    path, digest, noise = tmp_path / "träume.bin", hashlib.sha256(), random.Random(7)
    with path.open("wb") as file:
        for _ in range(SIZE // MIB):
            piece = noise.randbytes(MIB)
            digest.update(piece)
            file.write(piece)
        file.write(b"and some")
        digest.update(b"and some")
    return path, digest.hexdigest()


@pytest.fixture
def env(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    times = {"UPLOAD_LEASE": "6", "UPLOAD_RECORD_EVERY": "0.5", "UPLOAD_PATIENCE": "2"}
    if request.param == "sqlite, disk":
        database, storage = f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3", f"file:{tmp_path}/files"
        yield {**times, "DATABASE_URL": database, "STORAGE_URL": storage}
        return
    server: S3Server = request.getfixturevalue("ministack")
    bucket = server.create_bucket()
    yield {
        **times,
        "DATABASE_URL": request.getfixturevalue("postgres_async_url"),
        "STORAGE_URL": f"s3://{bucket}/films?endpoint_url={server.endpoint}&region={server.region}&part_size={5 * MIB}",
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }
    server.drop_bucket(bucket)


@pytest.fixture
def site(env: dict[str, str], tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        cutter = stack.enter_context(Cutter(rate=(200 if DEEP else 12) * MIB))
        site = Site(env, tmp_path, cutter)
        stack.callback(site.end)
        yield site


def _argv(client: str, site: Site, path: Path) -> list[str]:
    endpoint = f"{site.url}/uploads"
    if client == "tuspy":
        return [sys.executable, str(HERE / "upload.py"), endpoint, str(path), str(SIZE // 3)]
    need("tus-client")
    protocol = client.partition(" ")[2] or "tus-v1"
    return [node(), str(HERE / "upload.mjs"), endpoint, str(path), str(SIZE // 3), "1", protocol]


@pytest.mark.parametrize(("client", "env"), PAIRS, indirect=["env"], ids=[", ".join(each) for each in PAIRS])
@pytest.mark.timeout(1800 if DEEP else 600)
def test_a_client_uploads_over_cuts_and_kills(
    client: str,
    site: Site,
    content: tuple[Path, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    path, digest = content
    argv = _argv(client, site, path)
    if client != "tuspy":
        project = tmp_path / "client"
        project.mkdir()
        (project / "upload.mjs").write_text((HERE / "upload.mjs").read_text())
        (project / "package.json").write_text((HERE / "package.json").read_text())
        (project / "node_modules").symlink_to(TUS_CLIENT / "node_modules")
        argv[1] = str(project / "upload.mjs")
    first, second = site.begin(), site.begin()
    site.cutter.ports = [first]
    log = tmp_path / "client.log"
    cuts = kills = 0
    with log.open("wb") as said:
        program = subprocess.Popen(argv, stdout=said, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        for number, share in enumerate((0.15, 0.3, 0.45, 0.6, 0.75), 1):
            wait_until(
                lambda share=share: site.cutter.passed > share * SIZE or program.poll() is not None,  # type: ignore[misc]
                patience=600,
            )
            if program.poll() is not None:  # faster than we are
                break
            if number % 2:
                site.cutter.cut()
                cuts += 1
                continue
            kills += 1
            site.kill(site.cutter.ports[0])  # in the middle of a PATCH
            if kills == 1:
                site.cutter.ports = [second]
                continue
            site.cutter.ports = [site.begin()]
        wait_until(lambda: program.poll() is not None, patience=600)
    finally:
        program.kill()
        program.wait()
    assert program.returncode == 0, log.read_text()
    token = json.loads(log.read_text().splitlines()[-1])["token"]
    video = httpx.post(f"{site.url}/videos", json={"token": token}, headers=ANN, timeout=60).json()
    assert (video["checksum"], video["size"], video["name"]) == (f"sha256:{digest}", path.stat().st_size, "träume.bin")
    assert cuts
    assert kills
    site.end()
    record_property(
        "figures",
        f"Resumable uploads, {client}: {SIZE // MIB} MiB over {cuts} cuts and {kills} kills, "
        f"{site.cutter.passed / MIB:.0f} MiB sent, a worker grew by {max(site.growth) / MIB:.0f} MiB",
    )
    assert max(site.growth) < 16 * MIB  # on S3 two parts of 5 MiB, and what malloc keeps for the threads that send
