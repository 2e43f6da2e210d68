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

__all__ = ["answers", "free_port", "run", "running", "start", "stop", "wait_until"]

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
    with log.open("ab") as output:
        return subprocess.Popen(
            _tethered(argv, uid, death_signal),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(env),
            cwd=cwd,
        )


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    uid: int = -1,
    patience: float = 120,
) -> str:
    """Run a program to its end, which is ours at the latest, and return what it printed.

    Raises:
        RuntimeError: It failed; the message holds what it complained about.
    """
    done = subprocess.run(
        _tethered(argv, uid, signal.SIGKILL),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=_environment(env),
        cwd=cwd,
        text=True,
        timeout=patience,
        check=False,
    )
    if done.returncode != 0:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        raise RuntimeError(f"{' '.join(map(str, argv))} ended with {done.returncode}: {said}")
    return done.stdout


def _tethered(argv: Sequence[str | Path], uid: int, death_signal: signal.Signals) -> list[str]:
    tether = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), str(int(death_signal)), str(uid)]
    return [*tether, *map(str, argv)]


def _environment(added: Mapping[str, str] | None) -> dict[str, str]:
    # A virtual environment's variables would mislead programs that are scripts of another Python, as Ceph's are.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PYTHONHOME"))}
    return {**ours, **(added or {})}


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
