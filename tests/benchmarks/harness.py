"""Runs contenders side by side, each in a process of its own, and keeps what each round cost.

A case is one piece of work and those who do it. Its rounds are interleaved: every contender does its first round, then
every one its second, in an order that turns, so that a machine that is busy for a while is busy for all. Nothing here
judges: a case that failed is reported, a slow one is a number.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.worker import LOG, Make, Sample, Task, main

__all__ = ["Case", "Contender", "Goal", "Outcome", "Result", "run_case"]

START_SECONDS = 600.0  # an index over a million rows may have to be built first
ROUND_SECONDS = 900.0

SetUp = Callable[[Path, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Contender:
    """Who does the work.

    `make` has to be a function of a module, or a `partial` of one: it is called in a process of its own.
    """

    name: str
    make: Make
    kind: Literal["floor", "ours", "peer"] = "peer"
    needs: tuple[str, ...] = ()
    """Modules without which it cannot take part."""
    note: str = ""
    """What it does less, or differently."""
    missing: str | None = None
    """Why it cannot take part, where that is not a module."""

    def why_not(self) -> str | None:
        absent = [each for each in self.needs if importlib.util.find_spec(each) is None]
        return self.missing or (f"not installed: {', '.join(absent)}" if absent else None)


@dataclass(frozen=True)
class Goal:
    """What one contender's figure is meant to be.

    As a share of another's; ``least`` is in seconds, of the best round, and ``memory`` in bytes: of nobody's.
    """

    of: str
    at_most: float
    to: str | None = None
    metric: Literal["wall", "cpu", "memory", "least"] = "wall"


@dataclass(frozen=True)
class Case:
    """One piece of work.

    `repeat` says how often it is done in a round; `size` how many bytes one doing moves. `set_up` makes, once, what all
    contenders find; what it returns joins `values`.
    """

    subject: str
    name: str
    contenders: Sequence[Contender]
    baseline: str
    values: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 7
    repeat: int = 1
    size: int | None = None
    unit: str = "operation"
    set_up: SetUp | None = None
    goals: Sequence[Goal] = ()
    on_disk: bool = False
    """Whether its files have to be on a disk; they are in memory otherwise, where the machine has room there."""
    room: int = 0
    """Bytes its files take at most."""


@dataclass(frozen=True)
class Outcome:
    """How a contender fared."""

    contender: Contender
    samples: tuple[Sample, ...] = ()
    absent: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Result:
    """A case with the outcome of each contender, in the case's order."""

    case: Case
    outcomes: tuple[Outcome, ...]


def run_case(case: Case, *, rounds: int | None = None, say: Callable[[str], None] = lambda _: None) -> Result:
    """Let every contender of a case do its rounds."""
    count = rounds or case.rounds
    with tempfile.TemporaryDirectory(prefix="granite-bench-", dir=_place(case)) as folder, ExitStack() as stack:
        shared = Path(folder, "shared")
        shared.mkdir()
        values = dict(case.values)
        if case.set_up is not None:
            values.update(_elsewhere(case.set_up, shared, values))
        outcomes: dict[str, Outcome] = {}
        workers: dict[str, _Worker] = {}
        samples: dict[str, list[Sample]] = {}
        for number, contender in enumerate(case.contenders):
            absent = contender.why_not()
            if absent:
                outcomes[contender.name] = Outcome(contender, absent=absent)
                continue
            own = Path(folder, str(number))
            own.mkdir()
            workers[contender.name] = stack.enter_context(_worker(contender, Task(own, values)))
            samples[contender.name] = []
        for name, worker in workers.items():  # all, before the first round: their imports would disturb it
            try:
                worker.ready()
            except _FailedError as error:
                outcomes[name] = Outcome(worker.contender, error=str(error))
        names = list(workers)
        for number in range(count):
            turn = number % (len(names) or 1)
            for name in names[turn:] + names[:turn]:
                if name in outcomes:
                    continue
                say(f"{case.subject}, {case.name}: round {number + 1} of {count}, {name}")
                try:
                    samples[name].append(workers[name].ask(("round", case.repeat)))
                    if number == count - 1:
                        workers[name].ask(("check", None))
                except _FailedError as error:
                    outcomes[name] = Outcome(workers[name].contender, tuple(samples[name]), error=str(error))
        for name, worker in workers.items():
            outcomes.setdefault(name, Outcome(worker.contender, tuple(samples[name])))
    return Result(case, tuple(outcomes[each.name] for each in case.contenders))


def _place(case: Case) -> str | None:
    memory = Path("/dev/shm")
    if case.on_disk or not memory.is_dir():
        return None
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024
    return str(memory) if case.room < free / 2 else None  # the contenders need memory of their own


class _FailedError(Exception):
    """A contender raised, or its process died."""


class _Worker:
    def __init__(self, contender: Contender, process: Any, connection: Connection, log: Path) -> None:
        self.contender = contender
        self._log = log
        self._process = process
        self._connection = connection

    def ready(self) -> None:
        """Wait until it can begin."""
        self._answer(START_SECONDS)

    def ask(self, question: tuple[str, Any], patience: float = ROUND_SECONDS) -> Any:
        try:
            self._connection.send(question)
        except OSError as error:
            raise _FailedError("its process has ended") from error
        return self._answer(patience)

    def _answer(self, patience: float) -> Any:
        try:
            if not self._connection.poll(patience):
                raise _FailedError(f"no answer within {patience:g} s")
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise _FailedError(f"its process ended with {self._process.exitcode}: {self._complaint()}") from error
        if kind == "error":
            raise _FailedError(value)
        return value

    def _complaint(self) -> str:
        return self._log.read_text(errors="replace")[-1000:] if self._log.exists() else ""

    def end(self) -> None:
        """Ask the process to leave, which ends its servers; insist after a while."""
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


_processes = multiprocessing.get_context("spawn")  # a fork would begin with our memory


@contextmanager
def _worker(contender: Contender, task: Task) -> Iterator[_Worker]:
    ours, theirs = _processes.Pipe()
    process = _processes.Process(target=main, args=(theirs, contender.make, task), daemon=True)
    process.start()
    theirs.close()
    worker = _Worker(contender, process, ours, task.folder / LOG)
    try:
        yield worker
    finally:
        worker.end()


def _elsewhere(call: SetUp, folder: Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make what a case needs in a process of its own: what it leaves in memory is not passed on."""
    with _processes.Pool(1) as pool:
        return pool.apply(partial(call, folder, dict(values)))
