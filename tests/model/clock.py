"""A tick of the clock: everything grows older, if what is assumed of durations lets it."""

from __future__ import annotations

from tests.model.bounds import Bounds
from tests.model.protocol import Protocol
from tests.model.state import UNKNOWN, Buried, Graces, Mode, Phase, Saved, Status, Tombs, World, Writer

__all__ = ["Clock"]


class Clock:
    """What a tick does.

    Args:
        bounds: How large the world is.
        protocol: Which safeguards and assumptions there are.
    """

    def __init__(self, bounds: Bounds, protocol: Protocol) -> None:
        self.bounds = bounds
        self.protocol = protocol
        self.grace = 4 * bounds.longest
        self.oldest = protocol.within(bounds.longest)
        """An age that is refused; nobody asks for greater ones but of tombstones."""

    def world(self, world: World) -> World:
        """The world a tick later."""
        return world._replace(
            objects=tuple(
                found._replace(age=_older(found.age, self.oldest)) if found.status != Status.UNBORN else found
                for found in world.objects
            ),
            tombs=self.tombs(world.tombs),
            replica=(world.replica[0], self.tombs(world.replica[1])) if world.replica else (),
            bytes_came=_older(world.bytes_came, self.bounds.expires),
            graces=self.graces(world.graces),
        )

    def graces(self, graces: Graces) -> Graces:
        return tuple((quarter, _older(age, self.grace)) for quarter, age in graces)

    def tombs(self, tombs: Tombs) -> Tombs:
        return tuple(tuple(sorted({(_older(age, self.grace), marks) for age, marks in row})) for row in tombs)

    def writer(self, writer: Writer) -> Writer | None:
        """A writer a tick later; None where it is assumed to go on before."""
        if not self.may_wait(writer):
            return None
        if writer.opened == UNKNOWN:
            return writer
        savepoint, base, snapshot = writer.savepoint, writer.base, writer.snapshot
        if snapshot:
            seen, ages, graces = snapshot
            snapshot = seen, tuple(_older(age, self.grace) for age in ages), self.graces(graces)
        oldest = self.protocol.within(writer.quarter)
        return writer._replace(
            opened=_older(writer.opened, oldest),
            began=_older(writer.began, oldest),
            known=tuple(_older(age, oldest) for age in writer.known),
            oldest=_older(writer.oldest, oldest),
            clock=writer.clock - 1 if writer.clock > 0 else writer.clock,
            buried=self.buried(writer.buried),
            remembers=self.buried(writer.remembers),
            snapshot=snapshot,
            savepoint=savepoint and self.saved(savepoint),
            base=base and self.saved(base),
            touched=_older(writer.touched, self.bounds.expires),
            recording=_older(writer.recording, self.grace),
        )

    def saved(self, saved: Saved) -> Saved:
        touched = _older(saved.touched, self.bounds.expires)
        recording = _older(saved.recording, self.grace)
        return saved._replace(buried=self.buried(saved.buried), touched=touched, recording=recording)

    def buried(self, tombstones: Buried) -> Buried:
        return tuple(sorted({(position, _older(age, self.grace)) for position, age in tombstones}))

    def may_wait(self, writer: Writer) -> bool:
        """Whether a writer may take another tick for what it is doing."""
        if writer.clock != 0:
            return True
        if writer.phase == Phase.COMMITTING:
            return not self.protocol.quick_commit
        if writer.mode.is_joined:
            return not self.protocol.quick_outer
        return writer.mode is not Mode.AUTOCOMMIT or not self.protocol.quick_statement


def _older(age: int, limit: int) -> int:
    return age + 1 if UNKNOWN < age < limit else age
