"""Granite's own tables, which join the user's metadata: tombstones, known columns, and the collector's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["OPT_OUT_KEY", "GraniteTables", "db_now", "tables_of"]

OPT_OUT_KEY: Final = "granite_tables"
"""Set ``metadata.info["granite_tables"] = False`` before the first model to do without the tables."""

_Id = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up by itself only where the type is INTEGER
_Text = String(1024)


@dataclass(frozen=True, slots=True)
class GraniteTables:
    """The tables in one metadata. Times are milliseconds since 1970 by the database's clock.

    Attributes:
        tombstone: After ``written_at`` + grace + ``retention``: look whether this object may go. A row whose ``run``
            is set was noted by a reconcile that has not ended, and is not looked at yet.
        column: Columns that ever held a ref, so that a process that does not know one of them collects nothing.
        state: The lease, the database's identity, where a reconcile stands, and what the last runs found.
    """

    tombstone: Table
    column: Table
    state: Table


class db_now(FunctionElement[int]):  # noqa: N801 - named as a SQL function is
    """The database's clock as milliseconds since 1970: the moment of asking, not of the transaction's start."""

    type = BigInteger()
    inherit_cache = True
    name = "granite_now"


@compiles(db_now)
def _now_default(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP) * 1000 AS BIGINT)"


@compiles(db_now, "postgresql")
def _now_postgresql(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(db_now, "sqlite")
def _now_sqlite(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(db_now, "mysql", "mariadb")
def _now_mysql(element: db_now, compiler: Any, **kw: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)"


def tables_of(metadata: MetaData) -> GraniteTables | None:
    """Return Granite's tables of a metadata, adding them where they are not there yet; None after an opt-out."""
    if metadata.info.get(OPT_OUT_KEY) is False:
        return None
    known = metadata.info.get(_TABLES_KEY)
    if not isinstance(known, GraniteTables) or known.tombstone.key not in metadata.tables:
        known = metadata.info[_TABLES_KEY] = _make(metadata)
    return known


_TABLES_KEY: Final = "granite_table_objects"


def _make(metadata: MetaData) -> GraniteTables:
    def table(name: str, *columns: Column[Any]) -> Table:
        # Reflected before the first model was declared: what the database has is what is used.
        reflected = metadata.tables.get(f"{metadata.schema}.{name}" if metadata.schema else name)
        return Table(name, metadata, *columns) if reflected is None else reflected

    return GraniteTables(
        tombstone=table(
            "granite_tombstone",
            Column("id", _Id, primary_key=True, autoincrement=True),
            Column("location", _Text, nullable=False, index=True),
            Column("backend", String(255), nullable=False),
            Column("storage_key", String(255), nullable=False),
            Column("written_at", BigInteger, nullable=False, index=True),
            Column("retention", BigInteger, nullable=False, server_default="0"),
            Column("attempts", Integer, nullable=False, server_default="0"),
            Column("retry_at", BigInteger, nullable=False, server_default="0"),
            Column("run", String(32), nullable=True),
        ),
        column=table(
            "granite_column",
            Column("id", _Id, primary_key=True, autoincrement=True),
            Column("schema_name", String(255), nullable=False),
            Column("table_name", String(255), nullable=False),
            Column("column_name", String(255), nullable=False),
        ),
        state=table(
            "granite_state",
            Column("name", String(255), primary_key=True),
            Column("holder", String(64), nullable=True),
            Column("expires_at", BigInteger, nullable=False, server_default="0"),
            Column("data", Text, nullable=True),
        ),
    )
