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
        flush: How many rows one flush may change: with two, a file moves, and two change places.
        savepoints: How many savepoints it may make in each.
        statements: Whether writers also send statements past the flush.
        copies: Whether they also copy refs from row to row within the database, unseen.
        objects: How many objects there are.
        rows: How many rows there are.
        databases: How many databases they are in, by turns; a session writes to all of them.
        upload: Whether there is one row more, which is an upload session.
        expires: How long after its last bytes an upload session expires, in ticks.
        collectors: What each collector does.
        quarter: A quarter of the grace, in ticks.
        quarters: The same for each writer, where processes differ; the first of ``modes`` has the first.
        notes: Whether a process notes what its failed transactions had flushed.
    """

    modes: tuple[Mode, ...] = (Mode.READ_COMMITTED, Mode.READ_COMMITTED)
    transactions: int = 1
    operations: int = 2
    flush: int = 1
    savepoints: int = 0
    statements: bool = False
    copies: bool = False
    objects: int = 1
    rows: int = 2
    databases: int = 1
    upload: bool = False
    expires: int = 1
    collectors: tuple[Kind, ...] = (Kind.SWEEP,)
    quarter: int = 1
    quarters: tuple[int, ...] = ()
    notes: bool = False

    @property
    def places(self) -> int:
        """How many rows there are, with the upload session's."""
        return self.rows + self.upload

    def grave(self, position: int, row: int) -> int:
        """The place of an object's tombstones in a row's database."""
        return position + self.objects * (row % self.databases)

    def graves(self, position: int) -> range:
        """The places of an object's tombstones in all databases."""
        return range(position, self.objects * self.databases, self.objects)

    @property
    def longest(self) -> int:
        """A quarter of the longest grace, in ticks."""
        return max((self.quarter, *self.quarters))

    def quarter_of(self, number: int) -> int:
        """A quarter of the grace of a writer, counted from 0."""
        return self.quarters[number] if self.quarters else self.quarter
