"""The real parts are really there: each does the least thing that it is for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import psycopg
import pytest

from tests.support.postgres import Database
from tests.support.s3 import S3Server


def test_postgres_answers(postgres_database: Database) -> None:
    url = postgres_database.sync_url.replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1, current_database()").fetchone() == (1, postgres_database.name)


async def test_postgres_answers_asyncpg(postgres_async_url: str) -> None:
    connection = await asyncpg.connect(postgres_async_url.replace("+asyncpg", ""))
    try:
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


def test_s3_server_keeps_an_object(s3_server: S3Server, s3_bucket) -> None:
    client, bucket = s3_bucket(s3_server)
    client.put_object(Bucket=bucket, Key="a/b.txt", Body=b"hello")
    assert client.get_object(Bucket=bucket, Key="a/b.txt")["Body"].read() == b"hello"


def test_rgw_refuses_a_wrong_signature(rgw: S3Server, s3_bucket) -> None:
    _, bucket = s3_bucket(rgw)
    stranger = S3Server(rgw.name, rgw.endpoint, rgw.access_key, "wrong").client()
    with pytest.raises(stranger.exceptions.ClientError, match="SignatureDoesNotMatch"):
        stranger.put_object(Bucket=bucket, Key="a", Body=b"")


def test_the_mp4_has_its_index_before_its_data(sample_mp4: Path, sample_webm: Path) -> None:
    head = sample_mp4.read_bytes()
    assert 0 < head.index(b"moov") < head.index(b"mdat")
    assert sample_webm.read_bytes().startswith(b"\x1aE\xdf\xa3")


_STARTS_A_SLEEPER = """
import sys, time
from pathlib import Path
from tests.support.processes import start
print(start(["sleep", "300"], log=Path(sys.argv[1])).pid, flush=True)
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_killed_run_leaves_no_process_behind(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", _STARTS_A_SLEEPER, tmp_path / "log"], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    sleeper = Path("/proc", starter.stdout.readline().decode().strip())
    deadline = time.monotonic() + 10
    while b"sleep" not in (sleeper / "cmdline").read_bytes().split(b"\0")[0]:
        assert time.monotonic() < deadline
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    while sleeper.exists() and _state(sleeper) != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _state(process: Path) -> str:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
