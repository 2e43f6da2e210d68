"""How large a world is explored."""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.state import Kind, Mode

__all__ = ["Bounds"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a world is explored.

    Args:
        modes: How each writer's session reaches the database; one for each writer.
        transactions: How many each writer may begin.
        operations: How many rows it may change in each.
        savepoints: How many savepoints it may make in each.
        statements: Whether writers also send statements past the flush.
        objects: How many objects there are.
        rows: How many rows there are.
        collectors: What each collector does.
        quarter: A quarter of the grace, in ticks.
        notes: Whether a process notes what its failed transactions had flushed.
    """

    modes: tuple[Mode, ...] = (Mode.READ_COMMITTED, Mode.READ_COMMITTED)
    transactions: int = 1
    operations: int = 2
    savepoints: int = 0
    statements: bool = False
    objects: int = 1
    rows: int = 2
    collectors: tuple[Kind, ...] = (Kind.SWEEP,)
    quarter: int = 1
    notes: bool = False

    @property
    def grace(self) -> int:
        """The grace, in ticks."""
        return 4 * self.quarter
