"""The whole: writers, collectors, the store and the clock; and the laws.

A state is a tuple of numbers, one for each part: the world, each writer, each collector. Parts are numbered as they
are met, and what a part can do next is worked out once for what it sees, not once for each state.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import product
from typing import Generic, NamedTuple, TypeAlias, TypeVar, cast

from tests.model.bounds import Bounds
from tests.model.clock import Clock
from tests.model.collectors import Collectors
from tests.model.laws import Laws
from tests.model.protocol import Protocol
from tests.model.state import (
    NOTHING,
    UNCHANGED,
    UNKNOWN,
    Collector,
    Label,
    Locks,
    Mode,
    Object,
    Status,
    Tombs,
    World,
    Writer,
    changed,
    recorded,
)
from tests.model.writers import Writers

__all__ = ["Event", "Packed", "System", "View"]

Packed: TypeAlias = tuple[int, ...]
"""The numbers of a world, of writers and of collectors."""

T = TypeVar("T", bound=Hashable)


Event: TypeAlias = tuple[int, Label]
"""Whose step it was, by the place of its number in the state, and what it was."""


class View(NamedTuple):
    """A state as one can read it."""

    world: World
    writers: tuple[Writer, ...]
    collectors: tuple[Collector, ...]


class Numbers(Generic[T]):
    """Numbers for things, in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self.things: list[T] = []

    def __call__(self, thing: T) -> int:
        number = self._numbers.setdefault(thing, len(self.things))
        if number == len(self.things):
            self.things.append(thing)
        return number


class System:
    """What can happen in a world of some size under a protocol.

    Args:
        bounds: How large the world is.
        protocol: The protocol, whole or with safeguards taken away.
        symmetric: Whether states that differ only in the numbers of equal writers are taken for one.
        losses_only: Whether to ask only for lost files, as the removal of a safeguard does.
    """

    def __init__(
        self,
        bounds: Bounds,
        protocol: Protocol | None = None,
        *,
        symmetric: bool = False,
        losses_only: bool = False,
    ) -> None:
        self.bounds = bounds
        self.protocol = protocol or Protocol()
        self.writers = Writers(bounds, self.protocol)
        self.collectors = Collectors(bounds, self.protocol)
        self.clock = Clock(bounds, self.protocol)
        self.laws = Laws(bounds, self.clock, self.collectors, losses_only=losses_only)
        kinds = {(mode, bounds.quarter_of(number)) for number, mode in enumerate(bounds.modes)}
        self.records_longer = self.protocol.records_grace and bounds.longest > bounds.quarter
        self.symmetric = symmetric and len(kinds) < len(bounds.modes)
        self.worlds: Numbers[World] = Numbers()
        self.writing: Numbers[Writer] = Numbers()
        self.collecting: Numbers[Collector] = Numbers()
        self.first_collector = 1 + len(bounds.modes)
        self._writer_moves: dict[tuple[int, ...], list[tuple[Label, int, int]]] = {}
        self._collector_moves: dict[tuple[int, ...], list[tuple[Label, int, int]]] = {}
        self._world_moves: dict[int, list[tuple[Event, int]]] = {}
        self._later: dict[int, tuple[Event, int]] = {}
        self._writer_later: dict[int, int | None] = {}
        self._locks: dict[int, Locks] = {}
        self._broken: dict[int, str | None] = {}

    def initial(self) -> Iterator[Packed]:
        """A world at rest: an object not stored yet; held by a row, or by none, with a tombstone or without.

        The collector's grace has long been known; a longer one that a writer has, too, or not yet.
        """
        bounds = self.bounds
        writers = [
            self.writing(Writer(mode, bounds.quarter_of(number), bounds.transactions))
            for number, mode in enumerate(bounds.modes)
        ]
        collectors = [self.collecting(Collector(kind)) for kind in bounds.collectors]
        unborn = (Object(),) * bounds.objects
        loose = (Object(Status.STORED, self.clock.oldest), *unborn[1:])
        kept = (Object(Status.STORED, self.clock.oldest, was_held=True), *unborn[1:])
        empty = (NOTHING,) * bounds.places
        held = changed(empty, 0, 1)
        none: Tombs = ((),) * (bounds.objects * bounds.databases)
        one: Tombs = (((0, 0),), *none[1:])
        beginnings = [
            (unborn, empty, none),
            (kept, held, none),
            (kept, held, one),
            (kept, empty, one),
            (loose, empty, none),
        ]
        if bounds.objects > 1:
            both = (kept[0], *kept[:1], *unborn[2:])
            beginnings.append((both, changed(held, 1, 2), none))
            beginnings.append((both, changed(held, 1, 2), one))
        if bounds.upload:
            uploading = changed(empty, bounds.rows, 1)
            beginnings.append((kept, uploading, none))
            beginnings.append((kept, uploading, one))
        known = (bounds.quarter, self.clock.grace)
        graces = [(known,)]
        if self.records_longer:
            graces.append((known, (bounds.longest, self.clock.grace)))
        for (objects, rows, tombs), recorded_ones in product(beginnings, graces):
            replica = () if self.protocol.primary else (rows, tombs)
            came = 0 if bounds.upload and rows[-1] != NOTHING else UNKNOWN
            world = World(objects, rows, tombs, replica, came, recorded_ones)
            yield (self.worlds(world), *writers, *collectors)

    def view(self, state: Packed) -> View:
        """A state as one can read it."""
        return View(
            self.worlds.things[state[0]],
            tuple(self.writing.things[each] for each in state[1 : self.first_collector]),
            tuple(self.collecting.things[each] for each in state[self.first_collector :]),
        )

    def successors(self, state: Packed) -> list[tuple[Event, Packed]]:
        """Everything that can happen next."""
        world, first = state[0], self.first_collector
        found = []
        locks = [self._locks[each] if each in self._locks else self._find_locks(each) for each in state[1:first]]
        for place in range(1, first):
            altered = shared = 0
            for other, lock in enumerate(locks, 1):
                if other != place:
                    altered |= lock[0]
                    shared |= lock[1]
            key = (world, state[place], altered, shared)
            moves = self._writer_moves.get(key)
            if moves is None:
                moves = self._find_writer_moves(key)
            before, after = state[1:place], state[place + 1 :]
            for label, then, writer in moves:
                found.append(((place, label), self._canonical((then, *before, writer, *after))))
        for place in range(first, len(state)):
            working = (world, state[place], place)
            moves = self._collector_moves.get(working)
            if moves is None:
                moves = self._find_collector_moves(working)
            before, after = state[1:place], state[place + 1 :]
            found.extend(((place, label), (then, *before, collector, *after)) for label, then, collector in moves)
        rest = state[1:]
        moves_of_world = self._world_moves.get(world)
        if moves_of_world is None:
            moves_of_world = self._find_world_moves(world)
        found.extend((event, (then, *rest)) for event, then in moves_of_world)
        later = [
            self._writer_later[each] if each in self._writer_later else self._find_writer_later(each)
            for each in state[1:first]
        ]
        if None not in later:
            event, then = self._later.get(world) or self._find_later(world)
            found.append((event, self._canonical((then, *cast("list[int]", later), *state[first:]))))
        return found

    def broken(self, state: Packed) -> str | None:
        """Which law a state breaks."""
        world = state[0]
        if world not in self._broken:
            self._broken[world] = self.laws.broken(self.worlds.things[world])
        return self._broken[world]

    # -- steps, worked out once for what a part can see ----------------------------------------------------------------

    def _canonical(self, state: Packed) -> Packed:
        if not self.symmetric:
            return state
        first = self.first_collector
        return (state[0], *sorted(state[1:first]), *state[first:])

    def _find_locks(self, number: int) -> Locks:
        writer = self.writing.things[number]
        altered = sum(1 << row for row, value in enumerate(writer.written) if value != UNCHANGED)
        if writer.touched != UNKNOWN:
            altered |= 1 << self.bounds.rows
        if writer.mode is Mode.SQLITE and (altered or writer.buried or writer.recording != UNKNOWN):
            altered = -1
        locks = self._locks[number] = Locks(altered, writer.shared)
        return locks

    def _find_writer_moves(self, key: tuple[int, ...]) -> list[tuple[Label, int, int]]:
        world, writer = self.worlds.things[key[0]], self.writing.things[key[1]]
        moves = self._writer_moves[key] = [
            (label, self.worlds(then), self.writing(after))
            for label, then, after in self.writers.moves(world, writer, Locks(key[2], key[3]))
        ]
        return moves

    def _find_collector_moves(self, key: tuple[int, ...]) -> list[tuple[Label, int, int]]:
        world, collector = self.worlds.things[key[0]], self.collecting.things[key[1]]
        moves = self._collector_moves[key] = [
            (label, self.worlds(then), self.collecting(after))
            for label, then, after in self.collectors.moves(world, collector, 1 << key[2] - self.first_collector)
        ]
        return moves

    def _find_world_moves(self, number: int) -> list[tuple[Event, int]]:
        world = self.worlds.things[number]
        moves: list[tuple[Event, int]] = []
        for position, found in enumerate(world.objects):
            if found.status == Status.UNBORN:
                objects = changed(world.objects, position, Object(Status.STORED))
                moves.append(((0, ("is staged", position + 1)), self.worlds(world._replace(objects=objects))))
        if world.replica and world.replica != (world.rows, world.tombs):
            caught_up = world._replace(replica=(world.rows, world.tombs))
            moves.append(((0, ("catches up",)), self.worlds(caught_up)))
        if self.records_longer and world.recorded < self.bounds.longest:
            told = world._replace(graces=recorded(world.graces, self.bounds.longest))
            moves.append(((0, ("records the longer grace",)), self.worlds(told)))
        self._world_moves[number] = moves
        return moves

    def _find_later(self, number: int) -> tuple[Event, int]:
        later = self._later[number] = (0, ("time passes",)), self.worlds(self.clock.world(self.worlds.things[number]))
        return later

    def _find_writer_later(self, number: int) -> int | None:
        then = self.clock.writer(self.writing.things[number])
        later = self._writer_later[number] = None if then is None else self.writing(then)
        return later
