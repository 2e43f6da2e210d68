"""Quotas in the tables that lie beside the models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine, MetaData, exc, inspect

from granite_core.errors import BackendUnavailableError, ConfigurationError
from granite_core.gc.ports import LedgerBusyError
from granite_core.integrations.sqlalchemy import _quota_rows as rows
from granite_core.integrations.sqlalchemy._calls import Calls
from granite_core.integrations.sqlalchemy._database import AnyEngine, Database
from granite_core.integrations.sqlalchemy._joining import joined_connection
from granite_core.integrations.sqlalchemy._own_pool import beside
from granite_core.integrations.sqlalchemy.tables import GraniteTables, tables_of
from granite_core.quotas import Counted, QuotaUsage, Share

__all__ = ["SQLAlchemyQuotaLedger"]

T = TypeVar("T")


class SQLAlchemyQuotaLedger(Calls):
    """Counts what is stored, as rows of ``granite_quota`` and ``granite_usage``.

    It must be among the databases of the collector, which gives back what it sweeps. It has connections of its own, as
    many at most as the engine may have: whoever counts often holds one of the engine's already, and if all did that
    waited for another, nobody would get one.

    Args:
        engine: An engine of either colour; a tenant's schema is one with a ``schema_translate_map``.
        metadata: The metadata of the models there.

    Raises:
        ConfigurationError: The metadata has opted out of Granite's tables.
    """

    def __init__(self, engine: AnyEngine, metadata: MetaData) -> None:
        tables = tables_of(metadata)
        if tables is None:
            raise ConfigurationError("quotas need Granite's tables: do not opt out of them")
        self._tables: Final[GraniteTables] = tables
        shared = engine if isinstance(engine, Engine) else engine.sync_engine
        self._pool: Final = shared.pool
        self._database: Final = Database(beside(shared), [metadata])
        self._joined: Connection | None = None

    @property
    def needs_loop(self) -> bool:
        """Whether the engine is asynchronous."""
        return self._database.is_async

    @property
    def _needs_loop(self) -> bool:
        return self._database.is_async

    def here(self) -> SQLAlchemyQuotaLedger:
        """Return what counts in the transaction of a flush, where another transaction would wait for that."""
        joined = joined_connection()
        if joined is None or joined.engine.pool is not self._pool:
            return self
        bound = object.__new__(SQLAlchemyQuotaLedger)
        bound.__dict__.update(self.__dict__, _joined=joined)
        return bound

    def check(self) -> None:
        """See that the tables are there; see ``QuotaLedger.check``."""
        missing = self._database.read(self._missing)
        if missing:
            raise ConfigurationError(
                f"{self._database.label} has no table {', '.join(missing)}, in which quotas are counted: create it "
                "(create_all or a migration)",
                value=missing,
            )

    def _missing(self, connection: Connection) -> list[str]:
        inspector, schemas = inspect(connection), self._database.schemas
        ours = self._tables.quota, self._tables.usage
        return [t.name for t in ours if not inspector.has_table(t.name, schema=schemas.get(t.schema, t.schema))]

    def hold(
        self,
        counted: Counted,
        shares: Sequence[Share] | None,
        *,
        size: int,
        wish: int | None = None,
        beside: Collection[str] = (),
        field: str,
    ) -> int:
        """Count an object with a number of bytes; see ``QuotaLedger.hold``."""
        wanted = size if wish is None else wish

        def step(connection: Connection) -> int:
            return rows.hold_usage(
                connection, self._tables, counted, shares, size=size, wish=wanted, beside=beside, field=field
            )

        return self._write(step)

    def release(self, locations: Collection[str]) -> None:
        """Count objects no more; see ``QuotaLedger.release``."""
        self._write(lambda c: rows.release_usage(c, self._tables, locations))

    def move(self, before: str, after: str) -> None:
        """Count an object in place of another one; see ``QuotaLedger.move``."""
        self._write(lambda c: rows.move_usage(c, self._tables, before, after))

    def usage(self, scope: str) -> QuotaUsage:
        """Return what a scope has."""
        return self._read(partial(rows.read_usage, quota=self._tables.quota, scope=scope))

    def recount(self, scope: str) -> QuotaUsage:
        """Add up what is counted for a scope, and correct its sum."""
        return self._write(lambda c: rows.recount_usage(c, self._tables, scope))

    def scopes(self, *, after: str | None = None, limit: int = 1000) -> Sequence[QuotaUsage]:
        """Return what scopes have, in the order of their names."""
        return self._read(partial(rows.list_scopes, quota=self._tables.quota, after=after, limit=limit))

    def _write(self, step: Callable[[Connection], T]) -> T:
        if self._joined is not None:
            return step(self._joined)
        return self._ask(lambda: self._database.write(step))

    def _read(self, step: Callable[[Connection], T]) -> T:
        return self._ask(lambda: self._database.read(step))

    def _ask(self, call: Callable[[], T]) -> T:
        """Ask the database.

        Raises:
            BackendUnavailableError: It is away, or has no connection left.
            ConfigurationError: It has no such tables.
        """
        try:
            return call()
        except LedgerBusyError as busy:
            raise BackendUnavailableError(str(busy), operation="count") from busy
        except exc.ProgrammingError:
            self.check()
            raise
        except (exc.InterfaceError, exc.OperationalError, exc.TimeoutError, OSError) as error:
            if self._database.engine.dialect.name == "sqlite":
                self.check()  # there a missing table is an OperationalError, too
            raise BackendUnavailableError(
                f"what is stored cannot be counted now: {self._database.label} does not answer", operation="count"
            ) from error
