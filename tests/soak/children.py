"""Processes to be killed, paused and started again at little cost: forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.support.tether import PR_SET_PDEATHSIG

__all__ = ["Child", "begin_child"]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.soak.worker", "tests.soak.collecting"])


def begin_child(folder: Path, name: str) -> None:
    """The first lines of a child: it ends when its parent does, and what it complains about is kept."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
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

    def start(self) -> None:
        self.lives += 1
        self._process = _forks.Process(
            target=self._target, args=(self.name, self.lives, *self._arguments), name=self.name, daemon=True
        )
        self._process.start()

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None
