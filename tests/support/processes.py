"""Start programs that end with us, wait until they are ready, stop them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["answers", "free_port", "running", "start", "stop", "wait_until"]

_TETHER = Path(__file__).with_name("tether.py")


def start(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    uid: int = -1,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program whose output goes to `log`.

    It gets `death_signal` when the calling *thread* ends: call from a thread that lives as long as the program should.
    `env` is added to our own environment. `uid` runs it as that user (root only).
    """
    tether = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), str(int(death_signal)), str(uid)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*tether, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )


def stop(
    process: subprocess.Popen[bytes], *, with_signal: signal.Signals = signal.SIGTERM, patience: float = 10
) -> None:
    """Stop a program: ask, wait `patience` seconds, then kill. Does nothing where it has ended."""
    if process.poll() is not None:
        return
    process.send_signal(with_signal)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(patience)


@contextlib.contextmanager
def running(
    argv: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], bool],
    patience: float = 30,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs inside the with block, from `ready()` on."""
    process = start(argv, log=log, env=env, cwd=cwd)
    try:
        wait_until(ready, process=process, log=log, patience=patience)
        yield process
    finally:
        stop(process)


def wait_until(
    ready: Callable[[], bool],
    *,
    process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
    patience: float = 60,
) -> None:
    """Return when `ready()` is true; raise, with the log's end, when the program dies or `patience` seconds pass."""
    deadline = time.monotonic() + patience
    while not ready():
        died = process is not None and process.poll() is not None
        if died or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log and log.exists() else ""
            what = f"ended with {process.returncode}" if died and process else f"was not ready after {patience:g} s"
            raise RuntimeError(f"{process.args if process else ready} {what}\n{tail}")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Whether an HTTP server answers there, with whatever status."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
