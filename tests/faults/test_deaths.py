"""Each operation dies at each of its steps, and the laws hold: in every database, on every store, in every way.

After a death comes a restart: a new manager, a new engine, and for a kill a new process. Then every committed row's
file is there and whole; what is committed is what was before, or what should be after; a reconcile, the grace and a
sweep leave exactly what rows hold; and the operation, done again, works.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from sqlalchemy.exc import SQLAlchemyError

from granite_core import StorageError
from tests.faults.forks import Forks
from tests.faults.operations import OPERATIONS, FailedAnswerError, Operation
from tests.faults.steps import Death, How
from tests.faults.world import Place, Rows, World

PLACES: Final = [(database, store) for database in ("sqlite", "postgresql") for store in ("disk", "s3")]

DEEP: Final = os.environ.get("GRANITE_DEEP") == "1"

SHARE: Final[dict[tuple[str, str], dict[How, int]]] = {
    ("sqlite", "disk"): {"fault": 5, "outage": 9, "kill": 9},
    ("sqlite", "s3"): {"fault": 20, "outage": 40, "kill": 40},
    ("postgresql", "disk"): {"fault": 20, "outage": 40, "kill": 40},
    ("postgresql", "s3"): {"fault": 20, "outage": 40, "kill": 40},
}
"""Of so many moments one is tried, other ones for each operation, unless GRANITE_DEEP=1 asks for all: it takes long."""


@pytest.mark.parametrize("place", PLACES, indirect=True, ids="-".join)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.timeout(3600 if DEEP else 180)
def test_an_operation_may_die_at_any_step(
    place: Place, name: str, forks: Forks, request: pytest.FixtureRequest, record_property: Any
) -> None:
    where, operation = request.node.callspec.params["place"], OPERATIONS[name]
    if not DEEP and not operation.everywhere and where != ("sqlite", "s3"):
        pytest.skip("tried on SQLite and S3; everywhere with GRANITE_DEEP=1")
    run = Run(place, operation, forks)
    run.once()  # the first time there is more to do, which the test below is about
    run.once()
    for how in get_args(How):
        run.die_at_moments(
            how, every=1 if DEEP else SHARE[where][how] * operation.sparse, turn=7 * list(OPERATIONS).index(name)
        )
    record_property("figures", f"{name}, {' and '.join(where)}: {run.figures()}")
    assert run.deaths.total()


@pytest.mark.parametrize("name", ["attach and commit", "sweep", "reconcile"])
@pytest.mark.timeout(3600 if DEEP else 180)
def test_an_operation_may_die_the_first_time(name: str, forks: Forks, tmp_path: Path, record_property: Any) -> None:
    """When folders, the store's mark and the database's own rows are made."""

    def fresh(number: int) -> Run:
        folder = tmp_path / str(number)
        folder.mkdir()
        url = f"{folder}/db.sqlite3"
        place = Place(f"sqlite:///{url}", f"sqlite+aiosqlite:///{url}", f"{folder}/files")
        place.make_tables()
        return Run(place, OPERATIONS[name], forks)

    first = fresh(0)
    first.once()
    for how in ("fault", "kill"):
        for at in range(1, len(first.moments[how]) + 1, 1 if DEEP else 17):
            run = fresh(first.deaths.total() + 1)
            run.once(Death(at, how))
            first.deaths[how] += 1
            first.mended += run.mended
    record_property("figures", f"{name}, sqlite and disk, the first time: {first.figures()}")


COUNTED: Final = (
    *("put small", "attach and commit", "replace", "delete", "copy", "sweep"),
    *("reconcile", "upload in goes", "upload directly"),
)


@pytest.mark.parametrize("place", [("sqlite", "disk"), ("postgresql", "disk")], indirect=True, ids="-".join)
@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.timeout(3600 if DEEP else 180)
def test_what_is_counted_is_what_is_there_wherever_an_operation_dies(
    place: Place,
    name: str,
    forks: Forks,
    request: pytest.FixtureRequest,
    record_property: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # What pytest keeps of the pool's complaints keeps the frames, and so the connections that check_pool looks for.
    caplog.set_level(logging.CRITICAL + 1, logger="sqlalchemy.pool")
    where = request.node.callspec.params["place"]
    if not DEEP and where != ("sqlite", "disk"):
        pytest.skip("tried on SQLite; on PostgreSQL with GRANITE_DEEP=1")
    run = Run(replace(place, counts=True), OPERATIONS[name], forks)
    run.once()
    run.once()
    for how in get_args(How):
        run.die_at_moments(how, every=1 if DEEP else 60, turn=11 * COUNTED.index(name))
    record_property("figures", f"{name}, counted, {' and '.join(where)}: {run.figures()}")
    assert run.deaths.total()


_once = count()


@dataclass
class Run:
    """One operation dying over and over in one place."""

    place: Place
    operation: Operation
    forks: Forks
    steps: list[str] = field(default_factory=list)
    moments: dict[How, list[str]] = field(default_factory=dict)
    deaths: Counter[How] = field(default_factory=Counter)
    mended: int = 0

    def die_at_moments(self, how: How, *, every: int, turn: int) -> None:
        """Die at one moment of so many, and at those about the last COMMIT."""
        names = self.moments[how]
        commits = [at for at, name in enumerate(names, 1) if "COMMIT" in name][-2 if how == "fault" else -1 :]
        for at in sorted({*range(1 + turn % min(every, len(names)), len(names) + 1, every), *commits}):
            self.once(Death(at, how))

    def once(self, death: Death | None = None) -> None:
        """Die, or not, and be checked."""
        before = self.prepared()
        salt = f"{death} {next(_once)}"  # never the same twice: an operation that finds its work done does nothing
        after = self.operation.outcome(before, salt)
        done = self.killed(salt, death) if death is not None and death.how == "kill" else self.failed(salt, death)

        world = World(self.place)
        try:
            committed = world.rows()
            assert committed in ([after] if done else [before, after])
            world.check_rows()
            world.recover()
            world.check_rows()
            assert world.rows() == committed
            world.check_nothing_lingers()
            world.check_counted()
            self.operation.run(world, salt)
            assert world.rows() == after
            world.check_rows()
        finally:
            world.close()

    def prepared(self) -> Rows:
        world = World(self.place)
        self.operation.prepare(world)
        rows = world.rows()
        world.close()
        return rows

    def killed(self, salt: str, death: Death) -> bool:
        """Run the operation in a process that is killed at a moment; whether it came to its end before."""
        died = self.forks.run(self.place, self.operation.name, salt, death.at)
        self.deaths["kill"] += died
        return not died

    def failed(self, salt: str, death: Death | None) -> bool:
        """Run the operation up to an exception; whether it reported success all the same."""
        world = World(self.place)
        world.warm_up()
        done = True
        try:
            with world.steps.counting(death):
                self.operation.run(world, salt)
        except (StorageError, SQLAlchemyError, FailedAnswerError):
            assert death is not None
            done = False
        if death is None:
            self.count(world)
        elif world.steps.died:
            self.deaths[death.how] += 1
            self.mended += done
        world.check_pool()
        world.check_nothing_is_open()
        world.close()
        return done

    def count(self, world: World) -> None:
        """Take the figures of a run in which nothing went wrong."""
        self.steps = steps = world.steps.steps
        self.moments = {"fault": world.steps.moments, "outage": steps, "kill": [*steps, "the end, and nobody was told"]}

    def figures(self) -> str:
        kinds = Counter(each.split()[0] for each in self.steps)
        return (
            f"{len(self.steps)} steps ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}); died "
            + ", ".join(f"of {how} {self.deaths[how]}x at {len(self.moments[how])} moments" for how in get_args(How))
            + f"; {self.mended} mended on the way, 0 lost, 0 lingering"
        )
