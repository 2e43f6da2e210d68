"""Whether a database is as the models say, and lets the collector do its work. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Table, func, inspect, select, text
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from granite_core.findings import Finding, Severity
from granite_core.integrations.sqlalchemy._database import Database
from granite_core.integrations.sqlalchemy._indexes import index_names, lookup_indexes
from granite_core.integrations.sqlalchemy._transaction import fields_by_class
from granite_core.integrations.sqlalchemy.tables import QUOTA_TABLES
from granite_core.manager import MANAGER_KEY, StorageManager

__all__ = ["Diagnosis"]

_MIGRATE: Final = "write and run a migration (alembic revision --autogenerate, alembic upgrade head)"
_INDEXED: Final = ("postgresql", "sqlite")
_NEEDED: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")


class Diagnosis:
    """The part of the ledger that says what is wrong with it."""

    _all: list[Database]

    def policies_named(self) -> Collection[str]:
        """Return the policies that file fields name."""
        types: list[Any] = [column.type for each in self._all for column in each.columns]
        return {each.storage_key for each in types if each.storage_key is not None}

    def strangers(self, manager: StorageManager) -> Sequence[Finding]:
        """Say which models with file fields this ledger does not look at, or ``manager`` does not know."""
        known = [column for each in self._all for column in each.columns]
        found = []
        for class_, fields in [*fields_by_class.items()]:
            for each in fields:
                bound = each.column.table.metadata.info.get(MANAGER_KEY)
                if bound is None:
                    found.append(_unbound(f"{class_.__module__}.{class_.__qualname__}"))
                    break
                if bound is manager and not any(each.column is column for column in known):
                    found.append(_overlooked(f"{class_.__module__}.{class_.__qualname__}", each.key))
        return found

    def diagnose(self, database: int) -> Sequence[Finding]:
        """Say what is wrong with a database, what is missing, and what is fine."""
        it = self._all[database]
        found = it.read(partial(_inspect, it))
        if it.tables is None and it.columns:
            found.append(
                Finding(
                    "tables-none",
                    Severity.WARNING,
                    "these models do without Granite's tables: nothing remembers what was let go, and reconciles begin "
                    "anew each time",
                    'leave metadata.info["granite_tables"] = False out',
                )
            )
        if all(each.severity is Severity.NOTE for each in found):
            found.append(Finding("database", Severity.OK, "tables, columns and indexes are as the models say"))
        return found


def _unbound(model: str) -> Finding:
    return Finding(
        "model-unbound",
        Severity.WARNING,
        "no manager is bound to it: a flush with a file of it fails",
        "call manager.register(Base) where the manager is made, or name the base in GraniteConfig(models=…)",
        f"model {model}",
    )


def _overlooked(model: str, field: str) -> Finding:
    return Finding(
        "model-overlooked",
        Severity.ERROR,
        f"its field {field!r} is in no database of the collector: what it holds would look like nobody's",
        "add its engine: a configuration of SQLAlchemyPlugin with that metadata, or GraniteConfig(engines=…)",
        f"model {model}",
    )


def _inspect(database: Database, connection: Connection) -> list[Finding]:
    ours: list[Table] = [] if database.tables is None else [*database.tables.all]
    tables = list(dict.fromkeys(column.table for column in database.columns if column.table not in ours))
    found: list[Finding] = []
    for table in (*tables, *ours):
        found += _judge_table(database, connection, table)
    there = [each for each in (*tables, *ours) if _has(database, connection, each)]
    if judge := _BY_DIALECT.get(connection.dialect.name):
        found += judge(database, connection, there, ours)
    return found


def _has(database: Database, connection: Connection, table: Table) -> bool:
    return inspect(connection).has_table(table.name, schema=_schema(database, table))


def _schema(database: Database, table: Table) -> str | None:
    return database.schemas.get(table.schema, table.schema)


def _judge_table(database: Database, connection: Connection, table: Table) -> Iterator[Finding]:
    inspector, schema = inspect(connection), _schema(database, table)
    name = ".".join(filter(None, (schema, table.name)))
    if not inspector.has_table(table.name, schema=schema):
        advice = f"{_MIGRATE}, or Base.metadata.create_all(engine)"
        said, severity = f"there is no table {name}", Severity.ERROR
        if table.name in QUOTA_TABLES:
            said, severity = f"{said}, which policies with quotas need", Severity.WARNING
        yield Finding("table-missing", severity, said, advice)
        return
    columns = {each["name"] for each in inspector.get_columns(table.name, schema=schema)}
    if missing := [each.name for each in table.columns if each.name not in columns]:
        said = f"table {name} has no column {', '.join(missing)}"
        yield Finding("column-missing", Severity.ERROR, said, f"its migration has not been run: {_MIGRATE}")
    wanted = lookup_indexes(table, connection.dialect.name) if connection.dialect.name in _INDEXED else []
    if table.name.startswith("granite_"):
        wanted += table.indexes
    indexes = index_names(connection, table, schema)
    for index in wanted:
        if index.name not in indexes:
            yield Finding(
                "index-missing",
                Severity.WARNING,
                f"table {name} has no index {index.name}: every look-up reads the whole table",
                f"{_MIGRATE}; on SQLite with compare_lookup_indexes, see the page on Alembic",
            )


# -- what each kind of database has of its own -------------------------------------------------------------------------


def _judge_postgresql(
    database: Database, connection: Connection, tables: Sequence[Table], ours: Sequence[Table]
) -> Iterator[Finding]:
    if connection.scalar(select(func.pg_is_in_recovery())):
        yield Finding(
            "database-replica",
            Severity.ERROR,
            "this is a replica: what it does not know yet would look like nobody's",
            "let the collector connect to the primary",
        )
    quote = connection.dialect.identifier_preparer.quote
    user = connection.scalar(text("SELECT current_user"))
    for table in tables:
        name = ".".join(quote(each) for each in (_schema(database, table), table.name) if each)
        wanted = _NEEDED if table in ours else ("SELECT",)
        missing = [each for each in wanted if not connection.scalar(select(func.has_table_privilege(name, each)))]
        if missing:
            yield Finding(
                "database-privileges",
                Severity.ERROR,
                f"user {user} lacks {', '.join(missing)} on {name}",
                f'GRANT {", ".join(missing)} ON {name} TO "{user}";',
            )
        elif connection.scalar(select(func.row_security_active(name))):
            yield Finding(
                "database-row-security",
                Severity.ERROR,
                f"row-level security hides rows of {name} from user {user}: the collector refuses to run",
                f'ALTER ROLE "{user}" BYPASSRLS;',
            )


def _judge_sqlite(
    database: Database, connection: Connection, tables: Sequence[Table], ours: Sequence[Table]
) -> Iterator[Finding]:
    if isinstance(database.engine.pool, (StaticPool, SingletonThreadPool)) or not database.engine.url.database:
        yield Finding(
            "database-memory",
            Severity.WARNING,
            "it is kept in the memory of one process, and gone with it; its files stay, and are nobody's then",
            "use a file: sqlite:///app.sqlite3",
        )
        return
    if connection.scalar(text("PRAGMA journal_mode")) != "wal":
        yield Finding(
            "sqlite-journal",
            Severity.NOTE,
            "readers and the writer wait for each other",
            "prepare_sqlite(engine); or PRAGMA journal_mode=WAL, once: it stays with the file",
        )
    if (connection.scalar(text("PRAGMA busy_timeout")) or 0) < 1000:
        yield Finding(
            "sqlite-timeout",
            Severity.WARNING,
            "who finds it locked fails at once",
            'prepare_sqlite(engine); or create_engine(…, connect_args={"timeout": 15})',
        )


_BY_DIALECT: Final[dict[str, Callable[..., Iterator[Finding]]]] = {
    "postgresql": _judge_postgresql,
    "sqlite": _judge_sqlite,
}
