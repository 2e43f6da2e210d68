"""``litestar … granite …`` as operators run it: a program of its own, with a shell, a terminal and signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.litestar.cli_support import APP, System, local, operated
from tests.support.s3 import S3Server

__all__ = ["local"]

ROOT = Path(__file__).parents[3]
PROGRAM = [sys.executable, "-m", "litestar"]


def run(*arguments: str, app: str = APP, **options: Any) -> subprocess.CompletedProcess[bytes]:
    argv = [*PROGRAM, "--app", app, "granite", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=120, check=False, **options)


def answer(*arguments: str, **options: Any) -> Any:
    done = run(*arguments, "--json", **options)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return json.loads(done.stdout)


@pytest.fixture(params=["sqlite+folder", "postgresql+ceph"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    if request.param == "sqlite+folder":
        path = f"///{tmp_path}/db.sqlite3"
        with operated(monkeypatch, f"sqlite:{path}", f"sqlite:{path}", {"main": f"file:{tmp_path}/files"}) as found:
            yield found
        return
    rgw: S3Server = request.getfixturevalue("rgw")
    make: Callable[..., tuple[Any, str]] = request.getfixturevalue("s3_bucket")
    database = request.getfixturevalue("postgres_database")
    _, bucket = make(rgw)
    stores = {"main": f"s3://{bucket}/main?endpoint_url={rgw.endpoint}&region=us-east-1&atomic_create=false"}
    keys = {"AWS_ACCESS_KEY_ID": rgw.access_key, "AWS_SECRET_ACCESS_KEY": rgw.secret_key}
    with operated(monkeypatch, database.async_url, database.sync_url, stores, **keys) as found:
        yield found


def test_a_file_from_its_storing_to_its_end(anywhere: System, tmp_path: Path) -> None:
    document = anywhere.keep(b"first")
    content = os.urandom(6_000_000)
    (tmp_path / "report.bin").write_bytes(content)
    attach = ["--attach", "Document.file", str(document.id), "--yes"]
    ref = answer("put", "documents", str(tmp_path / "report.bin"), *attach)["ref"]
    assert run("cat", "--of", "Document.file", str(document.id)).stdout == content
    listed = [json.loads(line) for line in run("ls", "documents", "--json").stdout.splitlines()]
    assert {each["held_by"]: each["size"] for each in listed} == {"row": 6_000_000, "tombstone": 5}
    assert answer("verify", "--checksums")["sound"] is True
    assert run("rm", "documents", ref["location"], "--yes").returncode == 3
    anywhere.let_time_pass()
    assert answer("sweep", "--dry-run")["deleted"] == 1
    assert answer("sweep")["deleted"] == 1
    assert answer("reconcile")["noted"] == 0
    found = answer("status", "--store")
    assert [(each["objects"], each["bytes"]) for each in found["usage"]] == [(1, 6_000_000)]
    assert [each["objects"] for each in found["stores"]] == [1]
    assert run("rm", "documents", ref["location"], "--yes", "--force").returncode == 0
    missing = run("verify", "--json")
    assert (missing.returncode, json.loads(missing.stdout)["found"]) == (1, {"missing": 1})
    doctor = run("doctor", "--json")
    findings = json.loads(doctor.stdout)["findings"]
    assert {each["code"]: each["severity"] for each in findings if each["severity"] == "error"} == {
        "verify-unsound": "error"
    }
    assert b"Traceback" not in doctor.stderr


def test_ctrl_c_ends_a_run_after_its_step_and_the_next_goes_on(local: System) -> None:
    for _ in range(40):  # fifty seconds of work, of which it does a few
        local.keep(b"x" * 500)
    argv = [*PROGRAM, "--app", APP, "granite", "verify", "--checksums", "--workers", "1", "--byte-rate", "400"]
    # A shell starts what runs in the background with this signal ignored, and that is inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    while not (first := _position(local)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert first
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert b"Traceback" not in complaint
    report = answer("verify", "--checksums")
    assert (report["resumed"], report["refs"], report["sound"]) == (True, 40, True)


def _position(system: System) -> str | None:
    """How far the verification that is under way has come."""
    t = system.tables.state
    with system.engine.connect() as connection:
        found = connection.execute(t.select().where(t.c.name.startswith("verify:"))).one_or_none()
    return found.data if found is not None else None


@pytest.mark.parametrize(("said", "code", "left"), [(b"n\n", 3, 1), (b"y\n", 0, 0)])
def test_a_person_is_asked_before_bytes_go_away(
    local: System, monkeypatch: pytest.MonkeyPatch, said: bytes, code: int, left: int
) -> None:
    monkeypatch.setenv("OPERATED_GRACE", "0.001")
    local.manager.get_backend("main").put_bytes("documents/old", b"123")
    person, terminal = pty.openpty()
    argv = [*PROGRAM, "--app", APP, "granite", "rm", "documents", "documents/old"]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(terminal)
    os.write(person, said)
    _, asked = process.communicate(timeout=60)
    os.close(person)
    assert b"Delete 1 objects (3 B) for good?" in asked
    assert (process.returncode, len(local.stored())) == (code, left)


def test_a_reader_that_leaves_is_no_error(local: System) -> None:
    main = local.manager.get_backend("main")
    for number in range(3000):
        main.put_bytes(f"documents/{number:05}-{'x' * 150}", b"")
    command = f"{' '.join(PROGRAM)} --app {APP} granite ls documents --no-rows | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")


def test_a_terminal_sees_how_far_a_run_is_and_a_pipe_does_not(local: System) -> None:
    for _ in range(5):
        local.keep()
    person, terminal = pty.openpty()
    argv = [*PROGRAM, "--app", APP, "granite", "verify", "--json"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal, env=environment)
    out, _ = process.communicate(timeout=60)
    os.close(terminal)
    shown = os.read(person, 100_000)
    os.close(person)
    assert b"verifying" in shown
    assert json.loads(out)["sound"] is True
    assert run("verify", "--json").stderr == b""


def test_the_demo_has_the_commands_too(tmp_path: Path) -> None:
    environment = {**os.environ, "GRANITE_DEMO_DIR": str(tmp_path)}
    done = run("status", "--json", app="example_app.app:create_app", env=environment)
    assert done.returncode == 1, "its tables are made when it starts"
    assert "granite_" in json.loads(done.stdout)["refusal"] or "item" in json.loads(done.stdout)["refusal"]
    done = run("doctor", "--json", app="example_app.app:create_app", env=environment)
    codes = {each["code"] for each in json.loads(done.stdout)["findings"]}
    assert {"table-missing", "verbs"} <= codes
