"""What runs in a contender's process: its work, and the measuring around it."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["LOG", "Make", "Measured", "Sample", "Task", "Watched", "Work", "main"]

TICKS = os.sysconf("SC_CLK_TCK")
LOG = "stderr.log"


@dataclass(frozen=True)
class Task:
    """What a contender is given: a folder of its own, and the case's values."""

    folder: Path
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass(frozen=True)
class Measured:
    """How often the work was done, and how long it took by a measure of its own: a percentile of many, say."""

    operations: int
    seconds: float


@dataclass(frozen=True)
class Work:
    """What a contender hands back.

    `run` does the work once, or says how often it did it, and how long that took where it knows better. Neither
    `warm_up`, done once before memory is looked at, nor `prepare`, done before each round, is measured; `check` raises
    where what was done is not what was asked for. `server` is the process that does the work where that is not the
    contender's own, or all that have a part in it.
    """

    run: Callable[[], int | Measured | None]
    warm_up: Callable[[], object] | None = None
    prepare: Callable[[], object] | None = None
    check: Callable[[], object] | None = None
    server: int | tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sample:
    """A round: seconds for one operation, and bytes that memory grew by, at most, since the first round began."""

    wall: float
    cpu: float
    server_cpu: float | None
    memory: int
    operations: int


Make: TypeAlias = Callable[[Task], AbstractContextManager[Work]]


def main(connection: Connection, make: Make, task: Task) -> None:
    """Answer what the harness asks until it hangs up. What libraries complain about goes to a file in its folder."""
    with (task.folder / LOG).open("ab") as log:
        os.dup2(log.fileno(), 2)
    try:
        with make(task) as work:
            if work.warm_up is not None:
                work.warm_up()
            server = work.server or os.getpid()
            watched = Watched(server if isinstance(server, tuple) else (server,))
            connection.send(("ready", None))
            while (question := connection.recv()) is not None:
                kind, argument = question
                if kind == "round":
                    connection.send(("sample", _round(work, watched, argument)))
                else:
                    if work.check is not None:
                        work.check()
                    connection.send(("checked", None))
    except EOFError:
        pass
    except BaseException as error:
        tail = "".join(traceback.format_tb(error.__traceback__)[-2:])
        with contextlib.suppress(OSError):
            connection.send(("error", f"{type(error).__name__}: {error}\n{tail}"))


def _round(work: Work, watched: Watched, repeat: int) -> Sample:
    if work.prepare is not None:
        work.prepare()
    gc.collect()
    watched.begin()
    server_cpu = watched.cpu() if work.server else 0.0
    cpu, began, done = _own_cpu(), time.perf_counter(), 0
    own: float | None = None
    for _ in range(repeat):
        count = work.run()
        if isinstance(count, Measured):
            own, count = count.seconds, count.operations
        done += 1 if count is None else count
    wall, cpu = time.perf_counter() - began, _own_cpu() - cpu
    if not done:
        raise RuntimeError("nothing was done")
    return Sample(
        wall / done if own is None else own,
        cpu / done,
        (watched.cpu() - server_cpu) / done if work.server else None,
        watched.growth(),
        done,
    )


def _own_cpu() -> float:
    """Seconds of this process, and of those of its children that have ended: a load client, say."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class Watched:
    """Processes and their descendants, as /proc shows them."""

    def __init__(self, pids: tuple[int, ...]) -> None:
        self._pids = pids
        self._idle: int | None = None

    def begin(self) -> None:
        """Let the kernel's mark of the highest memory begin anew (proc(5), clear_refs)."""
        for pid in self._family():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        if self._idle is None:
            self._idle = self._memory("VmRSS")

    def growth(self) -> int:
        """Bytes between what was resident before the first round and the most since `begin`."""
        return max(0, self._memory("VmHWM") - (self._idle or 0))

    def cpu(self) -> float:
        """Seconds spent so far; its grain is the kernel's, mostly 10 ms."""
        ticks = 0
        for pid in self._family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(each) for each in fields[11:15])  # user, system, and those of children that ended
        return ticks / TICKS

    def _memory(self, name: str) -> int:
        total = 0
        for pid in self._family():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                total += int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024
        return total

    def _family(self) -> list[int]:
        if self._pids == (os.getpid(),):
            return [*self._pids]  # a load client is no part of what is measured
        found: list[int] = []
        pending = [*self._pids]
        while pending:
            pid = pending.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    pending.extend(int(each) for each in children.read_text().split())
        return found
