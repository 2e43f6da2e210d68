"""What a writer can do next: a session's transaction, as the coupling plays it."""

from __future__ import annotations

from tests.model.bounds import Bounds
from tests.model.flushes import Flushes, Moves, oldest_ages, with_rows
from tests.model.protocol import Protocol, check
from tests.model.state import (
    NOTHING,
    UNCHANGED,
    UNKNOWN,
    Graces,
    Locks,
    Mode,
    Phase,
    Saved,
    Status,
    World,
    Writer,
    buried,
    changed,
    recorded,
)

__all__ = ["Writers"]


class Writers:
    """The steps of writers.

    Args:
        bounds: How large the world is.
        protocol: Which safeguards there are.
    """

    def __init__(self, bounds: Bounds, protocol: Protocol) -> None:
        self.bounds = bounds
        self.protocol = protocol
        self.flushes = Flushes(bounds, protocol, self.undo)
        self.unchanged = (UNCHANGED,) * bounds.places

    def moves(self, world: World, writer: Writer, locks: Locks) -> Moves:
        match writer.phase:
            case Phase.IDLE:
                yield from self.when_idle(world, writer)
            case Phase.OUTER:
                yield from self.when_outer(world, writer)
            case Phase.ACTIVE:
                yield from self.when_active(world, writer, locks)
            case Phase.GUARDED:
                yield from self.flushes.look_up_again(world, writer, locks)
            case Phase.ADMITTED:
                yield from self.flushes.statement(world, writer, locks)
            case Phase.READ:
                yield from self.flushes.autocommitted(world, writer, locks)
            case Phase.WRITTEN:
                yield from self.flushes.bury(world, writer)
            case Phase.COMMITTING:
                yield from self.when_committing(world, writer)
        for position in range(len(world.objects)):
            if writer.noted >> position & 1:
                after = writer._replace(noted=writer.noted & ~(1 << position))
                yield ("notes", position + 1), world._replace(tombs=buried(world.tombs, position)), after
        if writer.phase != Phase.IDLE or writer.noted:
            yield ("dies",), world, Writer(writer.mode, writer.quarter, writer.transactions)

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
            yield ("begins",), world, self.begun(writer._replace(base=self.saved(writer)))
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

    def snapshot(self, world: World, writer: Writer) -> tuple[tuple[int, ...], tuple[int, ...], Graces] | tuple[()]:
        if not writer.mode.has_snapshot:
            return ()
        return world.rows, oldest_ages(world.tombs), world.graces

    # -- in a transaction ----------------------------------------------------------------------------------------------

    def when_active(self, world: World, writer: Writer, locks: Locks) -> Moves:
        if writer.left:
            yield from self.flushes.begin(world, writer, locks)
        if writer.savepoints and not writer.savepoint:
            saved = writer._replace(savepoint=self.saved(writer), savepoints=writer.savepoints - 1)
            yield ("makes a savepoint",), world, saved
        if writer.savepoint:
            yield ("rolls back to the savepoint",), world, self.savepoint_undone(writer, writer.savepoint)
        yield from self.end(world, writer)

    def saved(self, writer: Writer) -> Saved:
        return Saved(writer.looked_up, writer.written, writer.shared, writer.buried, writer.touched, writer.recording)

    def savepoint_undone(self, writer: Writer, saved: Saved) -> Writer:
        """Its row locks are gone, and with them what it had learned from the rows; it asks for the grace again."""
        learned = writer.looked_up & ~saved.looked_up
        # A shorter grace than its own stays what it relies on; that its own was recorded may be undone.
        relied = writer.relied if writer.relied < writer.quarter else UNKNOWN
        writer = writer._replace(**saved._asdict(), savepoint=None, relied=relied)
        if not self.protocol.forgets:
            return writer
        known = tuple(UNKNOWN if learned >> position & 1 else age for position, age in enumerate(writer.known))
        return writer._replace(known=known)

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
            yield ("commits",), world, checked._replace(phase=Phase.COMMITTING, clock=checked.limit)

    def checked(self, writer: Writer) -> Writer | None:
        """What comes before COMMIT; None when it is refused."""
        ages = tuple(age for _, age in writer.remembers)
        fine, renew = check(writer.oldest, ages, self.protocol.within(writer.limit))
        if not fine and self.protocol.checks:
            return None
        if not renew or not self.protocol.renews:
            return writer
        again = {(writer.remembers[position][0], 0) for position in renew}
        kept = {each for position, each in enumerate(writer.remembers) if position not in renew}
        return writer._replace(buried=tuple(sorted({*writer.buried, *again})), remembers=tuple(sorted(kept | again)))

    def when_committing(self, world: World, writer: Writer) -> Moves:
        yield ("fails",), *self.undo(world, writer)
        if self.bounds.databases > 1:
            yield from self.commit_one(world, writer)
            return
        yield ("is committed",), *self.commit(world, writer)
        if self.bounds.notes:
            then, after = self.commit(world, writer)
            yield ("is committed, and believes it failed",), then, after._replace(noted=writer.noted | writer.flushed)

    def commit_one(self, world: World, writer: Writer) -> Moves:
        """A session commits its connections one after another."""
        for database in range(self.bounds.databases):
            here = [row for row in range(self.bounds.places) if row % self.bounds.databases == database]
            graves = [self.bounds.grave(each, database) for each in range(self.bounds.objects)]
            now = writer._replace(
                written=tuple(new if row in here else UNCHANGED for row, new in enumerate(writer.written)),
                buried=tuple(each for each in writer.buried if each[0] in graves),
            )
            later = writer._replace(
                written=tuple(UNCHANGED if row in here else new for row, new in enumerate(writer.written)),
                buried=tuple(each for each in writer.buried if each[0] not in graves),
                shared=writer.shared & ~sum(1 << row for row in here),
            )
            is_last = (later.written, later.buried, later.shared) == (self.unchanged, (), 0)
            if later != writer or is_last:
                then, ended = self.commit(world, now)
                yield ("is committed in database", database + 1), then, ended if is_last else later

    def commit(self, world: World, writer: Writer) -> tuple[World, Writer]:
        rows = tuple(old if new == UNCHANGED else new for old, new in zip(world.rows, writer.written, strict=True))
        tombs = world.tombs
        for grave, age in writer.buried:
            tombs = buried(tombs, grave, age)
        graces = world.graces
        if writer.recording != UNKNOWN:
            graces = recorded(graces, writer.quarter, writer.recording)
        then = with_rows(world._replace(tombs=tombs, graces=graces), rows)
        if self.bounds.upload:
            came = writer.touched if writer.touched != UNKNOWN else world.bytes_came
            then = then._replace(bytes_came=UNKNOWN if rows[-1] == NOTHING else came)
        if writer.takes and world.rows[-1] != NOTHING:
            position = world.rows[-1] - 1
            taken = then.objects[position]._replace(status=Status.TAKEN)
            then = then._replace(objects=changed(then.objects, position, taken))
        return then, self.ended(writer)

    def undo(self, world: World, writer: Writer) -> tuple[World, Writer]:
        """A rollback, whoever wanted it."""
        if not self.protocol.only_sweep_deletes:
            objects = tuple(
                found._replace(status=Status.GONE) if writer.flushed >> position & 1 else found
                for position, found in enumerate(world.objects)
            )
            world = world._replace(objects=objects)
        base = writer.base
        if not writer.mode.is_joined or base is None or (base.written == self.unchanged and not base.buried):
            after = self.ended(writer)
        else:
            after = self.session_ended(writer)._replace(**base._asdict())
        if self.bounds.notes:
            after = after._replace(noted=writer.noted | writer.flushed)
        return world, after

    def ended(self, writer: Writer) -> Writer:
        return Writer(writer.mode, writer.quarter, writer.transactions, noted=writer.noted)

    def session_ended(self, writer: Writer) -> Writer:
        """Back in the outer transaction."""
        return self.ended(writer)._replace(
            phase=Phase.OUTER,
            opened=writer.opened,
            snapshot=writer.snapshot,
            written=writer.written,
            shared=writer.shared,
            buried=writer.buried,
            touched=writer.touched,
            recording=writer.recording,
            clock=writer.clock,
        )
