"""Which graces the processes of a database work with: rows of the collector's state.

A sweep waits as long as the longest of them. They are only ever added to, but for the one who says that nobody works
with the longer ones any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4
from weakref import WeakKeyDictionary

from sqlalchemy import BigInteger, Column, Connection, ScalarSelect, Table, cast, func, literal, select

from granite_core.admission import RecordedGrace, Reliance, plan_reliance
from granite_core.integrations.sqlalchemy._rows import NO_OPTIONS, is_there, write_first
from granite_core.integrations.sqlalchemy._transaction import Transaction
from granite_core.integrations.sqlalchemy.tables import db_now, tables_of
from granite_core.manager import StorageManager

__all__ = ["forget_longer", "longest_grace", "quarter_for", "quarter_on", "record_grace"]

_PREFIX: Final = "grace:"
_DIGITS: Final = 13

_settled: WeakKeyDictionary[Any, set[tuple[str, int]]] = WeakKeyDictionary()
"""For each pool: graces that every sweep heeds, with the schemas that a connection translates to."""


def quarter_for(
    state: Transaction,
    connection: Connection,
    column: Column[Any],
    manager: StorageManager,
    options: Mapping[str, Any] = NO_OPTIONS,
    *,
    lasting: bool,
) -> timedelta:
    """Return how old anything may be that a transaction rests on: a quarter of the grace, if all sweeps heed it.

    Asks the database once for each process, and again while the grace is new there; writes it down, in the caller's
    transaction, where no process has worked with one as long.

    Args:
        state: What the transaction has done.
        connection: Where the rows are written.
        column: Which column gets a ref.
        manager: Whose grace it is.
        options: Options for the statements, such as a schema translation of their own.
        lasting: Whether what the database says now may be remembered.
    """
    tables = tables_of(column.table.metadata)
    if tables is None:
        return manager.attach_within
    own = int(manager.grace.total_seconds() * 1000)
    schemas = {**connection.get_execution_options(), **options}.get("schema_translate_map")
    known = _settled.setdefault(connection.engine.pool, set())
    place = repr(schemas), own
    if place in known:
        return manager.attach_within
    write_first(state, connection, column, options)
    if not is_there(connection, tables.state, options):
        return manager.attach_within
    plan = _plan(connection, tables.state, manager.grace, options)
    if plan.record:
        record_grace(connection, tables.state, own, options)
    if plan.settled and lasting:
        known.add(place)
    return plan.within


def quarter_on(connection: Connection, state: Table, grace: timedelta) -> timedelta:
    """Do as ``quarter_for`` does, for a transaction that is none of a session's.

    Args:
        connection: Where a row gets a ref.
        state: The table of the collector's state.
        grace: The grace of the process.
    """
    plan = _plan(connection, state, grace, NO_OPTIONS)
    if plan.record:
        record_grace(connection, state, int(grace.total_seconds() * 1000))
    return plan.within


def _plan(connection: Connection, state: Table, own: timedelta, options: Mapping[str, Any]) -> Reliance:
    query = select(state.c.name, db_now() - state.c.expires_at).where(state.c.name.startswith(_PREFIX))
    found = []
    for name, since_it_counts in connection.execute(query, execution_options=options):
        grace = timedelta(milliseconds=_grace_in(name))
        found.append(RecordedGrace(grace, timedelta(milliseconds=since_it_counts) + grace))
    return plan_reliance(own, found)


def record_grace(connection: Connection, state: Table, grace: int, options: Mapping[str, Any] = NO_OPTIONS) -> None:
    """Write a grace down where that has not been done.

    Args:
        connection: Where.
        state: The table of the collector's state.
        grace: In milliseconds.
        options: Options for the statement.
    """
    prefix = f"{_PREFIX}{grace:0{_DIGITS}d}:"
    there = select(state.c.name).where(state.c.name.startswith(prefix))
    # A name of our own: under a common one a second writer would wait for the first one's commit, or fail.
    values = select(literal(f"{prefix}{uuid4().hex[:8]}"), db_now() + grace).where(~there.exists())
    connection.execute(state.insert().from_select(["name", "expires_at"], values), execution_options=options)


def longest_grace(state: Table) -> ScalarSelect[int | None]:
    """Return the longest grace that was written down, in milliseconds, as a part of a query.

    Args:
        state: The table of the collector's state.
    """
    number = cast(func.substr(state.c.name, len(_PREFIX) + 1, _DIGITS), BigInteger)
    return select(func.max(number)).where(state.c.name.startswith(_PREFIX)).scalar_subquery()


def forget_longer(connection: Connection, state: Table, grace: int) -> list[int]:
    """Remove the graces that are longer than one; return them, in milliseconds, the longest first.

    Args:
        connection: Where.
        state: The table of the collector's state.
        grace: In milliseconds.
    """
    names = connection.scalars(select(state.c.name).where(state.c.name.startswith(_PREFIX))).all()
    longer = [name for name in names if _grace_in(name) > grace]
    if longer:
        connection.execute(state.delete().where(state.c.name.in_(longer)))
    return sorted({_grace_in(name) for name in longer}, reverse=True)


def _grace_in(name: str) -> int:
    return int(name[len(_PREFIX) : len(_PREFIX) + _DIGITS])
