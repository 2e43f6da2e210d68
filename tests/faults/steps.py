"""Counting what an operation does to the world outside, and ending it at any one of those moments.

A step is a call to the backend, the file system beneath it, the object store, or the database. It has two moments:
before it, when nothing of it has happened, and after it, when it has happened and its answer is not known yet. An
operation dies at a moment by an exception, once or from then on at every step, or by SIGKILL.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeVar, get_args

from granite_core import BackendUnavailableError
from granite_core.testing import FaultyBackend
from granite_core.testing.faults import Operation as BackendCall

__all__ = ["Death", "FileSystem", "How", "Steps", "watch_backend", "watch_client", "watch_dialect"]

T = TypeVar("T")

How = Literal["fault", "outage", "kill"]

NEVER_RAISE: Final = ("abort", "close")
"""What the contract of backends says never raises."""

OPENING: Final = ("open_writer", "open_reader", "resume_writer")
"""What answers with something to be closed: it fails, or it answers."""


@dataclass(frozen=True)
class Death:
    """Where an operation ends, and how.

    `fault`: an exception at that one moment. `outage`: an exception before that step and every later one. `kill`:
    SIGKILL. The moment after a step and the one before the next are the same to a process that is killed, and to an
    outage, so those two are counted in moments before steps.
    """

    at: int
    how: How


class Steps:
    """Counts steps while it is told to."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.moments: list[str] = []
        self.died = False
        self._death: Death | None = None
        self._both = True
        self._counting = False
        self._lock = threading.Lock()

    @contextmanager
    def counting(self, death: Death | None = None) -> Iterator[None]:
        """Count the steps within, and die."""
        self.steps, self.moments, self.died = [], [], False
        self._death, self._counting = death, True
        self._both = death is None or death.how == "fault"
        try:
            yield
        finally:
            self._counting = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within belongs to the test."""
        before, self._counting = self._counting, False
        try:
            yield
        finally:
            self._counting = before

    def take(
        self,
        name: str,
        work: Callable[[], T],
        fault: Callable[[], BaseException],
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """Do a step, with its two moments. `undo` frees the answer when that is lost."""
        self.before(name, fault)
        result = work()
        try:
            self.after(name, fault)
        except BaseException:
            if undo is not None:
                undo(result)
            raise
        return result

    def before(self, name: str, fault: Callable[[], BaseException] | None) -> None:
        """Nothing of the step has happened. Without a fault, only a kill can come here."""
        self._moment(name, fault, is_step=True)

    def after(self, name: str, fault: Callable[[], BaseException] | None) -> None:
        """The step has happened, and nobody knows yet."""
        if self._both:
            self._moment(f"{name}, answered", fault)

    def _moment(self, name: str, fault: Callable[[], BaseException] | None, *, is_step: bool = False) -> None:
        with self._lock:
            if not self._counting:
                return
            if is_step:
                self.steps.append(name)
            self.moments.append(name)
            now, death = len(self.moments), self._death
        if death is None or now < death.at or (now > death.at and death.how != "outage"):
            return
        if death.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if fault is not None:
            self.died = True
            raise fault()


def watch_backend(steps: Steps, backend: FaultyBackend) -> None:
    """Count the calls to a backend."""

    def fault() -> BaseException:
        return BackendUnavailableError("the backend was made to fail", operation="test", backend="main")

    for call in get_args(BackendCall):
        raises, name = None if call in NEVER_RAISE else fault, f"backend {call}"
        backend.call(call, partial(steps.before, name, raises), times=None)
        if call not in OPENING:
            backend.call(call, partial(steps.after, name, raises), times=None, late=True)


def watch_dialect(steps: Steps, dialect: Any) -> None:
    """Count an engine's calls to its driver, of whatever colour: connecting, every statement, COMMIT and ROLLBACK."""

    def fault() -> BaseException:
        error: BaseException = dialect.loaded_dbapi.OperationalError("the database was made to fail")
        return error

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(dialect, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            statement = args[1] if name.startswith("do_execute") else name.removeprefix("do_").upper()
            verb = str(statement).split(maxsplit=1)[0]
            undo = (lambda connection: connection.close()) if name == "connect" else None
            return steps.take(f"database {verb}", lambda: real(*args, **kwargs), fault, undo)

        return call

    for name in ("connect", "do_execute", "do_execute_no_params", "do_executemany", "do_commit", "do_rollback"):
        setattr(dialect, name, watched(name))


def watch_client(steps: Steps, client: Any) -> None:
    """Count a boto3 client's requests; once more, for other steps. It must not retry by itself, or it hides faults."""
    from botocore.exceptions import ConnectionClosedError

    session = client._endpoint.http_session
    real = type(session).send.__get__(session)

    def send(request: Any) -> Any:
        name = f"store {request.method}"
        return steps.take(name, lambda: real(request), lambda: ConnectionClosedError(endpoint_url=request.url))

    session.send = send


class FileSystem:
    """Stands in for `os` in the local backend: counts what reaches the disk, and says `number` where it dies."""

    WATCHED: Final = (
        *("open", "write", "fsync", "ftruncate", "link", "unlink", "mkdir", "rmdir"),
        *("stat", "scandir", "pread", "preadv", "copy_file_range"),
    )

    def __init__(self, steps: Steps, number: int = errno.EIO) -> None:
        for name in self.WATCHED:
            setattr(self, name, self._watched(steps, name, number))
        self.supports_dir_fd = {self.open}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _watched(self, steps: Steps, name: str, number: int) -> Callable[..., Any]:
        real = getattr(os, name)

        def fault() -> BaseException:
            return OSError(number, os.strerror(number))

        def copy(*args: Any) -> Any:
            steps.before(f"disk {name}", fault)  # no moment after it: it says how much it did, or fails
            return real(*args)

        if name == "copy_file_range":
            return copy
        undo: Any = {"open": os.close, "scandir": lambda entries: entries.close()}.get(name)
        return lambda *args, **kwargs: steps.take(f"disk {name}", lambda: real(*args, **kwargs), fault, undo)
