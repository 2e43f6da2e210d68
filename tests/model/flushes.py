"""What a flush does: it decides about every ref first, then come the rows' statements, and what they let go is buried.

A statement past the flush, in bulk or by Core, passes the same rule where Granite sees its values, and buries nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import TypeAlias

from tests.model.bounds import Bounds
from tests.model.protocol import Protocol, admit, admit_looked_up, guarded_age
from tests.model.state import (
    EXPIRES,
    NOTHING,
    UNCHANGED,
    UNKNOWN,
    Change,
    Label,
    Locks,
    Mode,
    Object,
    Phase,
    Status,
    Tombs,
    World,
    Writer,
    buried,
    changed,
    recorded,
)

__all__ = ["Flushes", "Moves", "oldest_ages", "with_rows"]

Moves: TypeAlias = Iterator[tuple[Label, World, Writer]]


class Flushes:
    """The steps of flushes.

    Args:
        bounds: How large the world is.
        protocol: Which safeguards there are.
        undo: How a transaction is undone, for a flush that fails.
    """

    def __init__(
        self, bounds: Bounds, protocol: Protocol, undo: Callable[[World, Writer], tuple[World, Writer]]
    ) -> None:
        self.bounds = bounds
        self.protocol = protocol
        self.undo = undo
        self.upload = bounds.rows if bounds.upload else None

    # -- before the first statement ------------------------------------------------------------------------------------

    def begin(self, world: World, writer: Writer, locks: Locks) -> Moves:
        """Every flush, and every statement past it, that may come next."""
        single = {row: [*self.changes(world, writer, row)] for row in range(self.bounds.places)}
        for row, changes in single.items():
            for change in changes:
                yield from self.admission(world, writer, locks, (change,), past=False)
                if self.bounds.statements and row != self.upload:
                    yield from self.admission(world, writer, locks, (change,), past=True)
        if min(self.bounds.flush, writer.left) > 1:
            for one, other in permutations(range(self.bounds.rows), 2):
                for pair in product(single[one], single[other]):
                    yield from self.admission(world, writer, locks, pair, past=False)
        if self.upload is not None:
            yield from self.with_upload(world, writer, locks, self.upload)
        if self.bounds.copies:
            for source, target in permutations(range(self.bounds.rows), 2):
                yield from self.copy(world, writer, locks, source, target)

    def changes(self, world: World, writer: Writer, row: int) -> Iterator[Change]:
        seen = self.seen(world, writer, row)
        if seen != NOTHING:
            yield Change(row, NOTHING)
        for each, found in enumerate(world.objects, 1):
            if found.status == Status.UNBORN or seen == each:
                continue
            if row != self.upload or (seen == NOTHING and found.age < writer.quarter):
                yield Change(row, each)

    def with_upload(self, world: World, writer: Writer, locks: Locks, upload: int) -> Moves:
        """An upload session is attached, is given bytes, or expires."""
        held = self.seen(world, writer, upload)
        for each, found in enumerate(world.objects, 1):
            if held == each or (found.status != Status.UNBORN and not self.protocol.gone_refuses):
                for row in range(self.bounds.rows):
                    pair = Change(upload, NOTHING, takes=each), Change(row, each)
                    yield from self.admission(world, writer, locks, pair, past=False)
                    yield from self.admission(world, writer, locks, pair[::-1], past=False)
        if held == NOTHING or world.rows[upload] != held or writer.mode is Mode.AUTOCOMMIT:
            return
        if writer.written[upload] == UNCHANGED and not (locks.changed | locks.shared) >> upload & 1:
            yield ("moves the expiry",), world, writer._replace(touched=0, left=writer.left - 1)
        if writer.touched == UNKNOWN and world.bytes_came >= self.bounds.expires:
            after = writer._replace(phase=Phase.ADMITTED, left=writer.left - 1)
            yield ("finds the upload expired",), world, after._replace(flush=(Change(upload, NOTHING, takes=EXPIRES),))

    def admission(
        self, world: World, writer: Writer, locks: Locks, changes: tuple[Change, ...], *, past: bool
    ) -> Moves:
        """Decide about every ref; the statements come next."""
        if any(each.new != NOTHING for each in changes):
            world, writer = self.settled(world, writer)
            if writer.mode is Mode.SQLITE and writer.recording != UNKNOWN and locks.changed:
                return
        cost = 1 if any(each.takes for each in changes) else len(changes)
        after = writer._replace(flush=changes, past=past, left=writer.left - cost)
        label = ("puts past the flush" if past else "flushes", *((each.row, each.new) for each in changes))
        news = {each.new for each in changes if each.new != NOTHING}
        if not news:
            yield label, world, after._replace(phase=Phase.ADMITTED)
            yield from self.buried_early(world, after, past=past)
            return
        trusted = not self.protocol.gone_refuses and any(each.takes for each in changes)
        for chosen in product(*(self.since(world, writer, each, trusted=trusted) for each in news)):
            if None in chosen:
                continue  # refused: nothing has happened
            known, flushed, asked = writer.known, writer.flushed, []
            for each, since in zip(news, chosen, strict=True):
                if since is None or since == UNKNOWN:
                    asked.append(each)
                    continue
                if known[each - 1] == UNKNOWN:
                    flushed |= 1 << each - 1
                known = changed(known, each - 1, since)
            yield from self.look_up(world, after._replace(known=known, flushed=flushed), locks, asked, label)

    def settled(self, world: World, writer: Writer) -> tuple[World, Writer]:
        """When it knows which grace it relies on; its own is recorded in the same transaction."""
        if writer.relied != UNKNOWN:
            return world, writer
        seen = writer.snapshot[2] if writer.snapshot else world.graces
        if writer.recording != UNKNOWN:
            seen = recorded(seen, writer.quarter, writer.recording)
        quarter, records = self.protocol.relied_on(writer.quarter, seen)
        if quarter < writer.quarter:  # else its own counts, and will
            writer = writer._replace(relied=quarter)
        if not records:
            return world, writer
        if writer.mode is Mode.AUTOCOMMIT:
            return world._replace(graces=recorded(world.graces, writer.quarter)), writer
        return world, writer._replace(recording=0)

    def since(self, world: World, writer: Writer, each: int, *, trusted: bool) -> set[int | None]:
        """A ref may come from who has just staged it, or from anywhere else: then a row may hold it already."""
        if trusted or not self.protocol.admits_by_rule:
            return {0}
        known, staged, within = writer.known[each - 1], world.objects[each - 1].age, self.admitted_within(writer)
        return {admit(known, staged, within, may_be_held=may_be_held) for may_be_held in (False, True)}

    def admitted_within(self, writer: Writer) -> int:
        within = self.protocol.within(writer.limit)
        return within if self.protocol.admits_by_age else 100 * within

    def buried_early(self, world: World, writer: Writer, *, past: bool) -> Moves:
        """Without the safeguard: written, and visible, when it was let go in memory; the flush comes when it comes."""
        if self.protocol.tombstone_with_change or past:
            return
        early = world
        for change in writer.flush:
            old = self.seen(world, writer, change.row)
            early = early._replace(tombs=buried(early.tombs, self.bounds.grave(old - 1, change.row)))
        label = ("buries, and clears later,", *((each.row, each.new) for each in writer.flush))
        yield label, early, writer._replace(phase=Phase.ADMITTED, past=True)

    def look_up(self, world: World, writer: Writer, locks: Locks, asked: list[int], label: Label) -> Moves:
        """Where an old tombstone waits the sweep may look at any moment: the holding row must not change before."""
        held = {each for each in asked if self.holders(world, writer, each)}
        waiting = [each for each in held if self.protocol.guards and self.old_graves(world, writer, each)]
        found = self.looked_up(world, writer, [each for each in asked if each not in waiting], held)
        if found is None or self.looked_up(world, found, waiting, held) is None:
            return
        if not waiting:
            yield label, world, self.admitted(found, asked)
            return
        writer = found
        if writer.mode is Mode.SQLITE and locks.changed:
            return
        tombs = world.tombs
        for each in waiting:
            everywhere = self.bounds.graves(each - 1)
            for grave in everywhere if self.protocol.guards_everywhere else self.old_graves(world, writer, each):
                if writer.mode is Mode.AUTOCOMMIT:
                    tombs = buried(tombs, grave)
                else:
                    writer = with_tombstone(writer, grave)
        guarding = sum(1 << each - 1 for each in waiting)
        yield label, world._replace(tombs=tombs), writer._replace(phase=Phase.GUARDED, guarding=guarding)

    def old_graves(self, world: World, writer: Writer, each: int) -> list[int]:
        """Where there is a tombstone that may be due before the row is committed: two quarters from now."""
        old = guarded_age(self.protocol.within(writer.limit))
        seen = writer.snapshot[1] if writer.snapshot else oldest_ages(world.tombs)
        return [grave for grave in self.bounds.graves(each - 1) if seen[grave] >= old]

    def holders(self, world: World, writer: Writer, each: int) -> list[int]:
        rows = self.bounds.places if self.protocol.counts_uploads else self.bounds.rows
        return [row for row in range(rows) if self.seen(world, writer, row) == each]

    def look_up_again(self, world: World, writer: Writer, locks: Locks) -> Moves:
        """Beside a young tombstone, which whoever looks later heeds; and keep a row that is found as it is."""
        waiting = [each for each in range(1, self.bounds.objects + 1) if writer.guarding >> each - 1 & 1]
        holders = [self.holders(world, writer, each) for each in waiting]
        held = {each for each, rows in zip(waiting, holders, strict=True) if rows}
        # The age is asked for only now: under AUTOCOMMIT the young tombstone has been growing older.
        found = self.looked_up(world, writer, waiting, held)
        if found is None:
            yield ("is refused", waiting[0]), *self.undo(world, writer)
            return
        label, after = ("looks again for", waiting[0]), self.admitted(found._replace(guarding=0), waiting)
        if writer.mode in (Mode.AUTOCOMMIT, Mode.SQLITE):
            yield label, world, after  # nothing can be locked, or all is locked already
            return
        for chosen in product(*filter(None, holders)):
            if all(self.lockable(world, writer, locks, row) for row in chosen):
                shared = after.shared
                for row in chosen:
                    shared |= 1 << row
                yield label, world, after._replace(shared=shared)

    def lockable(self, world: World, writer: Writer, locks: Locks, row: int) -> bool:
        """Whether a row that is seen is the latest, and nobody is changing it; else one waits, or is refused."""
        own = writer.written[row] != UNCHANGED
        return own or (not locks.changed >> row & 1 and world.rows[row] == self.seen(world, writer, row))

    def looked_up(self, world: World, writer: Writer, asked: list[int], held: set[int]) -> Writer | None:
        """With what it has learned; None when one of them is refused."""
        began, within = self.age_of_look_up(writer), self.admitted_within(writer)
        known, looked_up, flushed, oldest = writer.known, writer.looked_up, writer.flushed, writer.oldest
        for each in asked:
            since = admit_looked_up(began, world.objects[each - 1].age, within, held=each in held)
            if since is None:
                return None
            oldest = max(oldest, since)
            if each in held:
                known, looked_up = changed(known, each - 1, began), looked_up | 1 << each - 1
            else:
                known, flushed = changed(known, each - 1, since), flushed | 1 << each - 1
        return writer._replace(known=known, looked_up=looked_up, flushed=flushed, oldest=oldest)

    def admitted(self, writer: Writer, asked: list[int]) -> Writer:
        news = {each.new for each in writer.flush if each.new != NOTHING}
        oldest = max([writer.oldest, *(writer.known[each - 1] for each in news.difference(asked))])
        clock = UNKNOWN
        if writer.mode.is_joined:
            clock = writer.timed
        elif writer.mode is Mode.AUTOCOMMIT:
            clock = writer.limit
        return writer._replace(oldest=oldest, phase=Phase.ADMITTED, clock=clock)

    def age_of_look_up(self, writer: Writer) -> int:
        return writer.opened if self.protocol.ages_from_begin else writer.began

    def copy(self, world: World, writer: Writer, locks: Locks, source: int, target: int) -> Moves:
        """``INSERT ... SELECT``: nobody has seen its values, and nobody checks their age."""
        each, old = self.seen(world, writer, source), self.seen(world, writer, target)
        if each == NOTHING or old == each or (locks.changed | locks.shared) >> target & 1:
            return
        label = ("copies", source, target)
        after = writer._replace(left=writer.left - 1)
        if writer.mode is Mode.AUTOCOMMIT:
            yield label, with_rows(world, changed(world.rows, target, each)), after
            return
        if writer.snapshot and writer.snapshot[0][target] != world.rows[target]:
            return
        if self.protocol.steady_copy and writer.mode is not Mode.SQLITE:
            if not self.lockable(world, writer, locks, source):
                return
            after = after._replace(shared=after.shared | 1 << source)
        clock = writer.timed if writer.mode.is_joined else UNKNOWN
        yield label, world, after._replace(written=changed(after.written, target, each), clock=clock)

    # -- statements ----------------------------------------------------------------------------------------------------

    def statement(self, world: World, writer: Writer, locks: Locks) -> Moves:
        """The next row's own statement; it waits for whoever else is changing the row."""
        if writer.mode is Mode.AUTOCOMMIT:
            yield from self.reading(world, writer, locks)
            return
        change, *rest = writer.flush
        row = change.row
        if (locks.changed | locks.shared) >> row & 1:
            return
        own = writer.written[row]
        if own == UNCHANGED and writer.snapshot and writer.snapshot[0][row] != world.rows[row]:
            yield ("is refused by the database",), *self.undo(world, writer)
            return
        old = world.rows[row] if own == UNCHANGED else own
        ending = writer._replace(phase=Phase.ADMITTED if rest else Phase.ACTIVE, flush=tuple(rest))
        if change.takes > NOTHING and old != change.takes and self.protocol.gone_refuses:
            yield ("is refused, for the upload is gone",), *self.undo(world, writer)
            return
        if change.takes == EXPIRES:
            young = old == NOTHING or world.bytes_came < self.bounds.expires
            if young and self.protocol.expires_by_statement:
                yield ("finds it is not",), world, ending
                return
            ending = ending._replace(takes=young)
        releases = old not in (NOTHING, change.new) and not writer.past
        if releases:
            _, ending = self.settled(world, ending)
        after = ending._replace(
            written=changed(writer.written, row, change.new),
            touched=0 if row == self.upload and change.new != NOTHING else writer.touched,
            clock=ending.timed if writer.mode.is_joined else UNKNOWN,
        )
        if releases:
            after = self.released(after, old)
            if change.takes != EXPIRES or self.protocol.expiry_buries:
                after = with_tombstone(after, self.bounds.grave(old - 1, row))
        yield ("writes", row, change.new), world, after if rest else after._replace(past=False)

    def reading(self, world: World, writer: Writer, locks: Locks) -> Moves:
        """Under AUTOCOMMIT, what is overwritten may be another than was read."""
        if any((locks.changed | locks.shared) >> each.row & 1 for each in writer.flush):
            return
        read = tuple(each._replace(old=NOTHING if writer.past else world.rows[each.row]) for each in writer.flush)
        yield ("reads", *(each.row for each in read)), world, writer._replace(phase=Phase.READ, flush=read)

    def autocommitted(self, world: World, writer: Writer, locks: Locks) -> Moves:
        """Under AUTOCOMMIT each statement is visible at once."""
        change, *rest = writer.flush
        if (locks.changed | locks.shared) >> change.row & 1:
            return
        if change.takes > NOTHING and world.rows[change.row] != change.takes and self.protocol.gone_refuses:
            yield ("is refused, for the upload is gone",), *self.undo(world, writer)
            return
        owed = writer.owed
        if change.old not in (NOTHING, change.new):
            owed = (*owed, self.bounds.grave(change.old - 1, change.row))
        phase = Phase.READ if rest else Phase.WRITTEN if owed else Phase.ACTIVE
        after = writer._replace(phase=phase, flush=tuple(rest), owed=owed)
        then = with_rows(world, changed(world.rows, change.row, change.new))
        if change.row == self.upload:
            then = then._replace(bytes_came=0 if change.new != NOTHING else UNKNOWN)
        yield ("writes", change.row, change.new), then, after if rest else after._replace(clock=UNKNOWN, past=False)

    def bury(self, world: World, writer: Writer) -> Moves:
        """Under AUTOCOMMIT: the tombstones come after the statements."""
        grave, *rest = writer.owed
        old = grave % self.bounds.objects + 1
        world, writer = self.settled(world, writer)
        after = self.released(writer, old)._replace(owed=tuple(rest))
        if not rest:
            after = after._replace(phase=Phase.ACTIVE)
        yield ("buries", old), world._replace(tombs=buried(world.tombs, grave)), after

    def released(self, writer: Writer, old: int) -> Writer:
        """What a row held was read in this transaction: it may go into another row."""
        position = old - 1
        if writer.known[position] != UNKNOWN or (self.protocol.distrusts and writer.mode is Mode.AUTOCOMMIT):
            return writer
        known = changed(writer.known, position, self.age_of_look_up(writer))
        return writer._replace(known=known, looked_up=writer.looked_up | 1 << position)

    def seen(self, world: World, writer: Writer, row: int) -> int:
        """What a row holds in the writer's eyes."""
        if writer.written[row] != UNCHANGED:
            return writer.written[row]
        return writer.snapshot[0][row] if writer.snapshot else world.rows[row]


def with_tombstone(writer: Writer, grave: int) -> Writer:
    """With an uncommitted tombstone, which the session remembers."""
    return writer._replace(
        buried=tuple(sorted({*writer.buried, (grave, 0)})),
        remembers=tuple(sorted({*writer.remembers, (grave, 0)})),
    )


def oldest_ages(tombs: Tombs) -> tuple[int, ...]:
    """The age of the oldest tombstone in each grave."""
    return tuple(max((age for age, _ in row), default=UNKNOWN) for row in tombs)


def with_rows(world: World, rows: tuple[int, ...]) -> World:
    """With other rows; what one of them holds will have been held."""
    objects = tuple(
        Object(found.status, found.age, was_held=True) if each in rows else found
        for each, found in enumerate(world.objects, 1)
    )
    return world._replace(rows=rows, objects=objects)
