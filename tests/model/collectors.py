"""What a collector can do next: mark, wait, look, delete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from granite_core.gc.plan import Verdict
from tests.model.bounds import Bounds
from tests.model.protocol import Protocol, compare, sweep_verdict
from tests.model.state import Collector, Kind, Label, Object, Status, Tombs, Work, World, buried, changed

__all__ = ["Collectors"]

Moves: TypeAlias = Iterator[tuple[Label, World, Collector]]


class Collectors:
    """The steps of collectors.

    Args:
        bounds: How large the world is.
        protocol: Which safeguards there are.
    """

    def __init__(self, bounds: Bounds, protocol: Protocol) -> None:
        self.bounds = bounds
        self.protocol = protocol

    def moves(self, world: World, collector: Collector, bit: int) -> Moves:
        """The next steps of a collector, which is known by a bit."""
        if collector.work != Work.IDLE:
            yield ("dies",), *self.idle(world, collector, bit)
        if collector.kind is Kind.SWEEP:
            yield from self.sweep(world, collector, bit)
        else:
            yield from self.reconcile(world, collector, bit)

    # -- the sweep -----------------------------------------------------------------------------------------------------

    def sweep(self, world: World, collector: Collector, bit: int) -> Moves:
        position = collector.object
        match collector.work:
            case Work.IDLE if not self.protocol.grace_in_snapshot:
                awake = collector._replace(work=Work.AWAKE, recorded=world.recorded)
                yield ("reads the grace",), world, awake
            case Work.IDLE:
                yield from self.look_at_all(world, bit, 4 * world.recorded)
            case Work.AWAKE:
                yield from self.look_at_all(world, bit, 4 * collector.recorded)
            case Work.HALF if collector.databases:
                yield from self.look_on(world, collector, bit)
            case Work.HALF if collector.read:
                yield from self.decide(world, position, collector.read, self.holds(world.rows, position))
            case Work.HALF:
                marked, read = self.read(world, position, world.tombs, bit, self.due_at(4 * world.recorded))
                yield from self.decide(marked, position, read, collector.held)
            case Work.DELETE:
                objects = changed(world.objects, position, self.deleted(world, position))
                yield ("deletes", position + 1), world._replace(objects=objects), collector._replace(work=Work.DROP)
            case Work.DROP:
                tombs = world.tombs
                for grave in self.bounds.graves(position):
                    tombs = changed(tombs, grave, tuple(sorted({each for each in tombs[grave] if not each[1] & bit})))
                yield ("drops", position + 1), *self.idle(world._replace(tombs=tombs), collector, bit)

    def due_at(self, grace: int) -> int:
        return grace if self.protocol.waits else 0

    def look_at_all(self, world: World, bit: int, grace: int) -> Moves:
        rows, tombs = world.replica or (world.rows, world.tombs)
        due_at = self.due_at(grace)
        for position in range(self.bounds.objects):
            if any(age >= due_at for grave in self.bounds.graves(position) for age, _ in tombs[grave]):
                yield from self.look(world, position, rows, tombs, bit, due_at)

    def look(self, world: World, position: int, rows: tuple[int, ...], tombs: Tombs, bit: int, due_at: int) -> Moves:
        """The clock is read before the snapshot; to read it in the same moment finds the most to be due."""
        if self.bounds.databases > 1:
            if self.protocol.one_clock:
                for grave in self.bounds.graves(position):
                    world, _ = self.read(world, grave, world.tombs, bit, due_at)
            yield from self.look_on(world, Collector(Kind.SWEEP, Work.HALF, position), bit)
            return
        marked, read = self.read(world, position, tombs, bit, due_at)
        held = self.holds(rows, position)
        if self.protocol.one_snapshot:
            yield from self.decide(marked, position, read, held)
            return
        half = Collector(Kind.SWEEP, Work.HALF, position)
        yield ("reads the tombstones of", position + 1), marked, half._replace(read=read)
        yield ("reads the rows for", position + 1), world, half._replace(held=held)

    def look_on(self, world: World, collector: Collector, bit: int) -> Moves:
        """Look into the next database: several have no snapshot in common."""
        number, count = collector.databases, self.bounds.databases
        if number == count:
            yield from self.look_back(world, collector, bit)
            return
        position, grave = collector.object, self.bounds.grave(collector.object, number)
        if self.protocol.one_clock:  # what was due before the first look was marked there
            read = tuple(bool(marks & bit) for _, marks in world.tombs[grave])
        else:
            world, read = self.read(world, grave, world.tombs, bit, self.due_at(4 * world.recorded))
        read = (*collector.read, *read)
        held = collector.held or self.holds(world.rows[number::count], position)
        if number + 1 == count and not self.protocol.looks_back:
            yield from self.decide(world, position, read, held)
        else:
            after = collector._replace(read=read, held=held, databases=number + 1)
            yield (f"looks into database {number + 1} for", position + 1), world, after

    def look_back(self, world: World, collector: Collector, bit: int) -> Moves:
        """Read the tombstones once more: another sweep may have dropped them, and nobody has heeded them since."""
        tombs = [world.tombs[grave] for grave in self.bounds.graves(collector.object)]
        read = tuple(bool(marks & bit) for row in tombs for _, marks in row)
        if any(read):
            yield from self.decide(world, collector.object, read, collector.held)
        else:
            yield ("finds the tombstones gone of", collector.object + 1), *self.idle(world, collector, bit)

    def read(self, world: World, position: int, tombs: Tombs, bit: int, due_at: int) -> tuple[World, tuple[bool, ...]]:
        due = {age for age, _ in tombs[position] if age >= due_at}
        marked = {(age, marks | bit) if age in due else (age, marks) for age, marks in world.tombs[position]}
        tombs_after = changed(world.tombs, position, tuple(sorted(marked)))
        return world._replace(tombs=tombs_after), tuple(age >= due_at for age, _ in tombs[position])

    def holds(self, rows: tuple[int, ...], position: int) -> bool:
        return self.protocol.looks and position + 1 in self.counted(rows)

    def counted(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        return rows if self.protocol.counts_uploads else rows[: self.bounds.rows]

    def decide(self, world: World, position: int, read: tuple[bool, ...], held: bool) -> Moves:
        if not self.protocol.heeds_younger:
            read = tuple(due for due in read if due)
        verdict = sweep_verdict(read, held)
        if verdict is not None:
            work = Work.DELETE if verdict is Verdict.DELETE else Work.DROP
            yield ("looks", position + 1, verdict.name), world, Collector(Kind.SWEEP, work, position)

    def deleted(self, world: World, position: int) -> Object:
        found = world.objects[position]
        within, _ = self.protocol.relied_on(self.bounds.longest, world.graces)
        alive = found.status == Status.STORED and found.age < within
        return found._replace(status=Status.TAKEN if alive else Status.GONE)

    # -- the reconcile -------------------------------------------------------------------------------------------------

    def reconcile(self, world: World, collector: Collector, bit: int) -> Moves:
        match collector.work:
            case Work.IDLE:
                listed = _bits(found.status == Status.STORED for found in world.objects)
                if listed:
                    yield ("lists",), world, Collector(Kind.RECONCILE, Work.LISTED, listed)
            case Work.LISTED:
                rows = self.counted(world.rows)
                accounted = _bits(
                    each in rows or any(world.tombs[grave] for grave in self.bounds.graves(each - 1))
                    for each in range(1, self.bounds.objects + 1)
                )
                loose = compare(collector.object, accounted)
                if loose:
                    yield ("compares",), world, Collector(Kind.RECONCILE, Work.NOTED, loose)
                else:
                    yield ("finds nothing",), *self.idle(world, collector, bit)
            case Work.NOTED:
                tombs = world.tombs
                for position in range(len(world.objects)):
                    if collector.object >> position & 1:
                        tombs = buried(tombs, position)
                yield ("releases its notes",), *self.idle(world._replace(tombs=tombs), collector, bit)

    def idle(self, world: World, collector: Collector, bit: int) -> tuple[World, Collector]:
        """Back to the beginning; what it has read, others may read too."""
        tombs = tuple(tuple(sorted({(age, marks & ~bit) for age, marks in row})) for row in world.tombs)
        return world._replace(tombs=tombs), Collector(collector.kind)


def _bits(flags: Iterator[bool]) -> int:
    return sum(1 << position for position, flag in enumerate(flags) if flag)
