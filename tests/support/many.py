"""Processes side by side, to be killed, paused and started again at little cost: forks of one that imported all."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from .tether import PR_SET_PDEATHSIG

__all__ = ["Child", "begin_child", "end_with_parent", "preload", "side_by_side", "until"]

T = TypeVar("T")

_forks = multiprocessing.get_context("forkserver")
"""Where processes come from: one that has imported what they need, and has no threads and no connections."""

_preloaded: list[str] = []


def preload(*modules: str) -> None:
    """See that processes begin with these modules imported; said before the first of them is started."""
    _preloaded.extend(modules)
    _forks.set_forkserver_preload(_preloaded)


def end_with_parent() -> None:
    """See that this process is killed when the one it was forked from ends, which ends with the one that asked."""
    with suppress(AttributeError):  # no prctl but on Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def side_by_side(call: Callable[..., T], arguments: Iterable[tuple[Any, ...]], *, patience: float = 150) -> list[T]:
    """Call a function of a module with each of the arguments, all at once, and return what came of it, in order.

    Raises:
        BaseException: What a call raised.
    """
    each_of = list(arguments)
    with ProcessPoolExecutor(len(each_of), mp_context=_forks, initializer=end_with_parent) as pool:
        futures = [pool.submit(call, *each) for each in each_of]
        return [future.result(patience) for future in futures]


def until(condition: Callable[[], Any], seconds: float = 200) -> Any:
    """Ask again and again, and return the first answer that is true; fail when there is none for so long."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)
    return found


def begin_child(folder: Path, name: str) -> None:
    """The first lines of a child: it ends when its parent does, and what it complains about is kept in a file."""
    end_with_parent()
    errors = os.open(folder / f"{name}.stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable(file=sys.stderr)


class Child:
    """One place in the team, and whoever fills it now.

    Args:
        name: Its name, which its journal bears.
        target: What it runs; called with its name and the number of its life before ``arguments``.
        arguments: What else that is called with.
    """

    def __init__(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self.lives = 0
        self._target = target
        self._arguments = arguments
        self._process: BaseProcess | None = None

    @property
    def pid(self) -> int:
        pid = self._process.pid if self._process is not None else None
        if pid is None:
            raise RuntimeError(f"{self.name} was not started")
        return pid

    @property
    def has_ended(self) -> int | None:
        """How it ended by itself; None while it lives."""
        return self._process.exitcode if self._process is not None else None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        self.lives += 1
        self._process = _forks.Process(
            target=self._target, args=(self.name, self.lives, *self._arguments), name=self.name, daemon=True
        )
        self._process.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing where it was killed."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None
