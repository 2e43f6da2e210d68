"""The laws, asked of a world: of what is stored and committed, whatever else is under way."""

from __future__ import annotations

from tests.model.bounds import Bounds
from tests.model.clock import Clock
from tests.model.collectors import Collectors
from tests.model.state import NOTHING, Collector, Kind, Mode, Status, World

__all__ = ["Laws"]


class Laws:
    """The first three laws.

    Args:
        bounds: How large the world is.
        clock: What a tick does.
        collectors: How the collector works.
        losses_only: Whether to ask only whether a file was lost, not whether one lingers.
    """

    def __init__(self, bounds: Bounds, clock: Clock, collectors: Collectors, *, losses_only: bool = False) -> None:
        self.bounds = bounds
        self.losses_only = losses_only
        self.clock = clock
        self.collectors = collectors
        # Statements past the flush, and AUTOCOMMIT that dies or is overtaken, leave no tombstone: the reconcile does.
        # So do copies within the database, and a COMMIT that only one of two databases has had.
        passed = bounds.statements or bounds.copies or bounds.databases > 1
        self.every_release_is_told = not passed and Mode.AUTOCOMMIT not in bounds.modes

    def broken(self, world: World) -> str | None:
        """Which law a world breaks, if any."""
        lost = self.lost(world)
        return lost if lost is not None or self.losses_only else self.lingering(world)

    def lost(self, world: World) -> str | None:
        """Whether a file is gone that should not be: the first law, and the third."""
        for row, held in enumerate(world.rows):
            if held != NOTHING and world.objects[held - 1].status != Status.STORED:
                return f"law 1: row {row + 1} holds file {held}, which is gone"
        for each, found in enumerate(world.objects, 1):
            if found.status == Status.TAKEN:
                return f"law 3: file {each} was collected as an upload in flight"
        return None

    def lingering(self, world: World) -> str | None:
        """Whether something would stay for ever, or for no reason until the next reconcile: the second law."""
        for each, found in enumerate(world.objects, 1):
            loose = found.status == Status.STORED and each not in world.rows
            if self.every_release_is_told and loose and found.was_held and not self.is_told(world, each):
                return f"law 2: file {each} was let go, and no tombstone tells of it"
        left = self.collected(world)
        for each, found in enumerate(left.objects, 1):
            if found.status == Status.STORED and each not in left.rows:
                return f"law 2: file {each} lingers after a reconcile, the grace and a sweep"
        return "law 2: tombstones linger" if any(left.tombs) else None

    def is_told(self, world: World, each: int) -> bool:
        return any(world.tombs[grave] for grave in self.bounds.graves(each - 1))

    def collected(self, world: World) -> World:
        """The world when everybody has died, and a reconcile, the grace and a sweep have passed."""
        unread = tuple(tuple(sorted({(age, 0) for age, _ in row})) for row in world.tombs)
        world = self.run(world._replace(tombs=unread), Kind.RECONCILE)
        for _ in range(self.clock.grace):
            world = self.clock.world(world)
        return self.run(world, Kind.SWEEP)

    def run(self, world: World, kind: Kind) -> World:
        """Let one collector work: the reconcile once, the sweep until there is nothing left to do."""
        collector = idle = Collector(kind)
        while True:
            moves = [move for move in self.collectors.moves(world, collector, 1) if move[0] != ("dies",)]
            if not moves:
                return world
            _, world, collector = moves[0]
            if kind is Kind.RECONCILE and collector == idle:
                return world
