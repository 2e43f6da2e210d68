"""What the collection tests share: a collector over a small world, objects nobody holds, time that is moved in rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from granite_core import StoredObjectRef
from granite_core.gc import Collector, GCConfig, ReconcileReport, SweepReport
from granite_core.integrations.sqlalchemy import GraniteTables, SQLAlchemyLedger, db_now, tables_of
from tests.integration.sqlalchemy.world import GRACE, Base, Document, World

GRACE_MS = int(GRACE.total_seconds() * 1000)
MINUTE = 60_000


def tables() -> GraniteTables:
    found = tables_of(Base.metadata)
    assert found is not None
    return found


def collector(world: World, *, references: Any = (), **config: Any) -> Collector:
    ledger = SQLAlchemyLedger([world.any_engine], Base.metadata)
    return Collector(world.manager, ledger, GCConfig(**config), references=references)


def sweep(world: World, **options: Any) -> SweepReport:
    return collector(world).sweep(**options)


def reconcile(world: World, config: dict[str, Any] | None = None, **options: Any) -> ReconcileReport:
    return collector(world, **(config or {})).reconcile(**options)


def store(world: World, *locations: str) -> None:
    """Objects that no row holds."""
    for location in locations:
        world.store.put_bytes(location, b"content")


def bury(world: World, location: str, *, age: int = GRACE_MS + MINUTE, **values: Any) -> None:
    """A tombstone that was written so many milliseconds ago."""
    row = {"location": location, "backend": "main", "storage_key": "documents", **values}
    with world.engine.begin() as connection:
        connection.execute(tables().tombstone.insert().values(written_at=db_now() - age, **row))


def age_everything(world: World, by: int = GRACE_MS + MINUTE) -> None:
    """Let time pass for every tombstone."""
    t = tables().tombstone
    with world.engine.begin() as connection:
        connection.execute(t.update().values(written_at=t.c.written_at - by, retry_at=0))


def rows_of(world: World, table: Any) -> list[Any]:
    with world.engine.connect() as connection:
        return list(connection.execute(select(table).order_by(*table.primary_key.columns)))


def keep(world: World, content: bytes = b"kept", **fields: Any) -> StoredObjectRef:
    """A committed row that holds a file."""
    with world.session() as session:
        document = Document(file=world.stage(content), **fields)
        session.add(document)
        session.commit()
        return document.file  # type: ignore[return-value]
