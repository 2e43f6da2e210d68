"""What a writer can do next: a session's transaction, statement by statement, as the coupling plays it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from tests.model.bounds import Bounds
from tests.model.protocol import Protocol, admit, admit_looked_up, check, guarded_age
from tests.model.state import (
    NOTHING,
    UNCHANGED,
    UNKNOWN,
    Label,
    Locks,
    Mode,
    Object,
    Phase,
    Status,
    World,
    Writer,
    buried,
    changed,
)

__all__ = ["Writers"]

Moves: TypeAlias = Iterator[tuple[Label, World, Writer]]


class Writers:
    """The steps of writers.

    Args:
        bounds: How large the world is.
        protocol: Which safeguards there are.
    """

    def __init__(self, bounds: Bounds, protocol: Protocol) -> None:
        self.bounds = bounds
        self.protocol = protocol
        self.within = protocol.within(bounds)
        self.admitted_within = self.within if protocol.admits_by_age else 10 * bounds.grace
        self.unchanged = (UNCHANGED,) * bounds.rows
        self.kinds = ((0, "puts"), (1, "puts past the flush"))[: 1 + bounds.statements]

    def moves(self, world: World, writer: Writer, locks: Locks) -> Moves:
        match writer.phase:
            case Phase.IDLE:
                yield from self.when_idle(world, writer)
            case Phase.OUTER:
                yield from self.when_outer(world, writer)
            case Phase.ACTIVE:
                yield from self.when_active(world, writer, locks)
            case Phase.GUARDED:
                yield from self.look_up_again(world, writer)
            case Phase.ADMITTED:
                yield from self.statement(world, writer, locks)
            case Phase.READ:
                yield from self.autocommitted(world, writer, locks)
            case Phase.WRITTEN:
                old = writer.flush[2]
                after = self.released(writer, old)._replace(phase=Phase.ACTIVE, flush=(), clock=UNKNOWN)
                yield ("buries", old), world._replace(tombs=buried(world.tombs, old - 1)), after
            case Phase.COMMITTING:
                yield ("is committed",), *self.commit(world, writer)
                yield ("fails",), *self.undo(world, writer)
        for position in range(len(world.objects)):
            if writer.noted >> position & 1:
                after = writer._replace(noted=writer.noted & ~(1 << position))
                yield ("notes", position + 1), world._replace(tombs=buried(world.tombs, position)), after

    # -- between transactions ------------------------------------------------------------------------------------------

    def when_idle(self, world: World, writer: Writer) -> Moves:
        if not writer.transactions:
            return
        opened = writer._replace(opened=0, snapshot=self.snapshot(world, writer), written=self.unchanged)
        if writer.mode.is_joined:
            yield ("is given a transaction",), world, opened._replace(phase=Phase.OUTER)
        else:
            yield ("begins",), world, self.begun(opened)

    def when_outer(self, world: World, writer: Writer) -> Moves:
        if writer.transactions:
            base = (writer.written, writer.shared, writer.buried)
            yield ("begins",), world, self.begun(writer._replace(base=base))
        if writer.clock != UNKNOWN:
            yield ("is committed by the outer transaction",), *self.commit(world, writer)
            yield ("is rolled back by the outer transaction",), world, self.ended(writer)

    def begun(self, writer: Writer) -> Writer:
        return writer._replace(
            phase=Phase.ACTIVE,
            transactions=writer.transactions - 1,
            left=self.bounds.operations,
            savepoints=self.bounds.savepoints if writer.mode is not Mode.AUTOCOMMIT else 0,
            began=0,
            known=(UNKNOWN,) * self.bounds.objects,
        )

    def snapshot(self, world: World, writer: Writer) -> tuple[tuple[int, ...], tuple[int, ...]] | tuple[()]:
        if not writer.mode.has_snapshot:
            return ()
        return world.rows, tuple(_oldest(row) for row in world.tombs)

    # -- in a transaction ----------------------------------------------------------------------------------------------

    def when_active(self, world: World, writer: Writer, locks: Locks) -> Moves:
        if writer.left:
            for row in range(self.bounds.rows):
                seen = self.seen(world, writer, row)
                if seen != NOTHING:
                    yield from self.clear(world, writer, row, seen)
                for each, found in enumerate(world.objects, 1):
                    if found.status != Status.UNBORN and seen != each:
                        yield from self.put(world, writer, locks, row, each)
        if writer.savepoints and not writer.savepoint:
            saved = (writer.written, writer.shared, writer.buried)
            yield ("makes a savepoint",), world, writer._replace(savepoint=saved, savepoints=writer.savepoints - 1)
        if writer.savepoint:
            yield ("rolls back to the savepoint",), world, self.savepoint_undone(writer)
        yield from self.end(world, writer)

    def clear(self, world: World, writer: Writer, row: int, old: int) -> Moves:
        after = writer._replace(phase=Phase.ADMITTED, left=writer.left - 1)
        yield ("clears", row), world, after._replace(flush=(row, NOTHING, NOTHING, 0))
        if self.bounds.statements:
            yield ("clears past the flush", row), world, after._replace(flush=(row, NOTHING, NOTHING, 1))
        if not self.protocol.tombstone_with_change:
            # Written, and visible, when the object was let go in memory; the flush comes when it comes.
            early = world._replace(tombs=buried(world.tombs, old - 1))
            yield ("buries, and clears later,", row), early, after._replace(flush=(row, NOTHING, NOTHING, 1))

    def put(self, world: World, writer: Writer, locks: Locks, row: int, each: int) -> Moves:
        """A flush, or a statement past it, decides about a ref; its statement comes next."""
        known = writer.known[each - 1]
        since: int | None = 0
        if self.protocol.admits_by_rule:
            since = admit(known, world.objects[each - 1].age, self.admitted_within)
        if since is None:
            return  # refused: nothing has happened
        if since == UNKNOWN:
            yield from self.look_up(world, writer, locks, row, each)
            return
        if known == UNKNOWN:
            writer = writer._replace(flushed=writer.flushed | 1 << each - 1)
        yield from self.admitted(world, writer, row, each, since)

    def look_up(self, world: World, writer: Writer, locks: Locks, row: int, each: int) -> Moves:
        """Where an old tombstone waits the sweep may look at any moment: the holding row must not change before."""
        position = each - 1
        holders = [other for other in range(self.bounds.rows) if self.seen(world, writer, other) == each]
        since = admit_looked_up(self.age_of_look_up(writer), self.admitted_within, bool(holders))
        if since is None:
            return
        writer = writer._replace(looked_up=writer.looked_up | 1 << position)
        oldest = writer.snapshot[1][position] if writer.snapshot else _oldest(world.tombs[position])
        if not self.protocol.guards or oldest < guarded_age(self.within):
            yield from self.admitted(world, writer, row, each, since)
        elif writer.mode is Mode.AUTOCOMMIT:
            after = writer._replace(phase=Phase.GUARDED, flush=(row, each, NOTHING, 0))
            yield ("guards", each), world._replace(tombs=buried(world.tombs, position)), after
        else:
            for holder in holders:
                if writer.written[holder] != each and (locks.changed >> holder & 1 or world.rows[holder] != each):
                    continue
                guarded = self.with_tombstone(writer._replace(shared=writer.shared | 1 << holder), position)
                yield from self.admitted(world, guarded, row, each, since)

    def look_up_again(self, world: World, writer: Writer) -> Moves:
        row, each, _, _ = writer.flush
        since = admit_looked_up(self.age_of_look_up(writer), self.admitted_within, each in world.rows)
        if since is None:
            yield ("is refused", each), world, writer._replace(phase=Phase.ACTIVE, flush=(), left=writer.left - 1)
        else:
            yield from self.admitted(world, writer, row, each, since)

    def admitted(self, world: World, writer: Writer, row: int, each: int, since: int) -> Moves:
        after = writer._replace(
            known=changed(writer.known, each - 1, since),
            oldest=max(writer.oldest, since),
            phase=Phase.ADMITTED,
            left=writer.left - 1,
            clock=self.clock_of_flush(writer, admits=True),
        )
        for past, word in self.kinds:
            yield (word, row, each), world, after._replace(flush=(row, each, NOTHING, past))

    def clock_of_flush(self, writer: Writer, *, admits: bool = False) -> int:
        """What is assumed to be quick counts from the first flush in an outer transaction, and from each look-up."""
        if writer.mode.is_joined:
            return max(writer.clock, 0)
        return 0 if admits and writer.mode is Mode.AUTOCOMMIT else UNKNOWN

    def age_of_look_up(self, writer: Writer) -> int:
        return writer.opened if self.protocol.ages_from_begin else writer.began

    def statement(self, world: World, writer: Writer, locks: Locks) -> Moves:
        """The row's own statement; it waits for whoever else is changing the row."""
        row, new, _, past = writer.flush
        if (locks.changed | locks.shared) >> row & 1:
            return
        if writer.mode is Mode.AUTOCOMMIT:
            old = NOTHING if past else world.rows[row]
            yield ("reads", row), world, writer._replace(phase=Phase.READ, flush=(row, new, old, past))
            return
        own = writer.written[row]
        if own == UNCHANGED and writer.snapshot and writer.snapshot[0][row] != world.rows[row]:
            return  # the database refuses; the transaction can only be rolled back
        old = world.rows[row] if own == UNCHANGED else own
        after = writer._replace(
            phase=Phase.ACTIVE,
            flush=(),
            written=changed(writer.written, row, new),
            clock=self.clock_of_flush(writer),
        )
        if old not in (NOTHING, new) and not past:
            after = self.with_tombstone(self.released(after, old), old - 1)
        yield ("writes", row, new), world, after

    def autocommitted(self, world: World, writer: Writer, locks: Locks) -> Moves:
        """Under AUTOCOMMIT the statement is visible at once, and what it overwrites may be another than was read."""
        row, new, old, _ = writer.flush
        if (locks.changed | locks.shared) >> row & 1:
            return
        after = writer._replace(phase=Phase.ACTIVE, flush=(), clock=UNKNOWN)
        if old not in (NOTHING, new):
            after = after._replace(phase=Phase.WRITTEN, flush=writer.flush)
        yield ("writes", row, new), with_rows(world, changed(world.rows, row, new)), after

    def released(self, writer: Writer, old: int) -> Writer:
        """What a row held was read in this transaction: it may go into another row."""
        position = old - 1
        if writer.known[position] != UNKNOWN or (self.protocol.distrusts and writer.mode is Mode.AUTOCOMMIT):
            return writer
        known = changed(writer.known, position, self.age_of_look_up(writer))
        return writer._replace(known=known, looked_up=writer.looked_up | 1 << position)

    def with_tombstone(self, writer: Writer, position: int) -> Writer:
        return writer._replace(
            buried=tuple(sorted({*writer.buried, (position, 0)})),
            remembers=tuple(sorted({*writer.remembers, (position, 0)})),
        )

    def seen(self, world: World, writer: Writer, row: int) -> int:
        """What a row holds in the writer's eyes."""
        if writer.written[row] != UNCHANGED:
            return writer.written[row]
        return writer.snapshot[0][row] if writer.snapshot else world.rows[row]

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, world: World, writer: Writer) -> Moves:
        yield ("rolls back",), *self.undo(world, writer)
        if writer.mode.is_joined and writer.clock != UNKNOWN:
            yield ("closes",), world, self.session_ended(writer)
        if writer.mode is Mode.AUTOCOMMIT:
            yield ("ends",), world, self.ended(writer)
            return
        checked = writer if writer.checked else self.checked(writer)
        if checked is None:
            return  # refused: the transaction can only be rolled back
        if not self.protocol.checks_last and not writer.checked:
            yield ("checks, and has one more flush to make,",), world, checked._replace(checked=True, left=1)
        elif writer.mode.is_joined:
            yield ("commits, as far as it can,",), world, self.session_ended(checked)
        else:
            yield ("commits",), world, checked._replace(phase=Phase.COMMITTING, clock=0)

    def checked(self, writer: Writer) -> Writer | None:
        """What comes before COMMIT; None when it is refused."""
        fine, renew = check(writer.oldest, tuple(age for _, age in writer.remembers), self.within)
        if not fine and self.protocol.checks:
            return None
        if not renew or not self.protocol.renews:
            return writer
        again = {(writer.remembers[position][0], 0) for position in renew}
        kept = {each for position, each in enumerate(writer.remembers) if position not in renew}
        return writer._replace(buried=tuple(sorted({*writer.buried, *again})), remembers=tuple(sorted(kept | again)))

    def commit(self, world: World, writer: Writer) -> tuple[World, Writer]:
        rows = tuple(old if new == UNCHANGED else new for old, new in zip(world.rows, writer.written, strict=True))
        tombs = world.tombs
        for position, age in writer.buried:
            tombs = buried(tombs, position, age)
        return with_rows(world._replace(tombs=tombs), rows), self.ended(writer)

    def undo(self, world: World, writer: Writer) -> tuple[World, Writer]:
        """A rollback, whoever wanted it; a crash is the same, and so is a COMMIT of which only the answer was lost."""
        if not self.protocol.only_sweep_deletes:
            objects = tuple(
                found._replace(status=Status.GONE) if writer.flushed >> position & 1 else found
                for position, found in enumerate(world.objects)
            )
            world = world._replace(objects=objects)
        if not writer.mode.is_joined:
            after = self.ended(writer)
        else:
            written, shared, tombstones = writer.base or (self.unchanged, 0, ())
            after = self.session_ended(writer)._replace(written=written, shared=shared, buried=tombstones)
            if written == self.unchanged and not tombstones:
                after = self.ended(after)
        if self.bounds.notes:
            after = after._replace(noted=writer.noted | writer.flushed)
        return world, after

    def savepoint_undone(self, writer: Writer) -> Writer:
        written, shared, tombstones = writer.savepoint or (writer.written, writer.shared, writer.buried)
        writer = writer._replace(written=written, shared=shared, buried=tombstones, savepoint=())
        if not self.protocol.forgets:
            return writer
        known = tuple(UNKNOWN if writer.looked_up >> position & 1 else age for position, age in enumerate(writer.known))
        return writer._replace(known=known, looked_up=0)

    def ended(self, writer: Writer) -> Writer:
        return Writer(writer.mode, writer.transactions, noted=writer.noted)

    def session_ended(self, writer: Writer) -> Writer:
        """Back in the outer transaction."""
        return self.ended(writer)._replace(
            phase=Phase.OUTER,
            opened=writer.opened,
            snapshot=writer.snapshot,
            written=writer.written,
            shared=writer.shared,
            buried=writer.buried,
            clock=writer.clock,
        )


def with_rows(world: World, rows: tuple[int, ...]) -> World:
    """With other rows; what one of them holds will have been held."""
    objects = tuple(
        Object(found.status, found.age, was_held=True) if each in rows else found
        for each, found in enumerate(world.objects, 1)
    )
    return world._replace(rows=rows, objects=objects)


def _oldest(row: tuple[tuple[int, int], ...]) -> int:
    return max((age for age, _ in row), default=UNKNOWN)
