"""Collect outside of an application: in a script, a cron job, or a job of your queue; over several databases."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import MemoryStorageBackend, StorageManager, StoragePolicy, StoredObjectRef, unsaved
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field


class Base(DeclarativeBase):
    pass


class ArchiveBase(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoice"

    id: Mapped[int] = mapped_column(primary_key=True)
    scan: Mapped[StoredObjectRef | None] = file_field("invoices")


class OldInvoice(ArchiveBase):
    __tablename__ = "old_invoice"

    id: Mapped[int] = mapped_column(primary_key=True)
    scan: Mapped[StoredObjectRef | None] = file_field("invoices")


def collect(manager: StorageManager, engine: Engine) -> None:
    # the part "run" begins
    collector = Collector(manager, SQLAlchemyLedger([engine], Base.metadata), GCConfig())

    collector.sweep(dry_run=True)  # what would go
    report = collector.sweep()  # on an asynchronous engine: await collector.asweep()
    print(report.to_dict())
    report = collector.reconcile()  # await collector.areconcile()
    print(report.to_dict())
    # the part "run" ends


def ledger_of_many(engine: Engine, archive_engine: Engine, tenants: list[str]) -> SQLAlchemyLedger:
    # the part "many" begins
    return SQLAlchemyLedger(
        [
            engine,
            (archive_engine, ArchiveBase.metadata),
            *(engine.execution_options(schema_translate_map={None: tenant}) for tenant in tenants),
        ],
        Base.metadata,
    )
    # the part "many" ends


def main() -> None:
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("invoices")], grace=timedelta(minutes=1))
    manager.register(Base, ArchiveBase)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine, archive_engine = (create_engine(f"sqlite:///{folder}/{each}.sqlite3") for each in ("main", "archive"))
        event.listen(engine, "connect", lambda raw, _: raw.execute(f"ATTACH '{folder}/acme.sqlite3' AS acme"))
        acme = engine.execution_options(schema_translate_map={None: "acme"})
        for each, metadata in ((engine, Base.metadata), (acme, Base.metadata), (archive_engine, ArchiveBase.metadata)):
            metadata.create_all(each)
        collect(manager, engine)

        for each, model in ((engine, Invoice), (acme, Invoice), (archive_engine, OldInvoice)):
            with Session(each) as session:
                session.add(model(scan=unsaved(b"an invoice")))
                session.commit()
        manager.put_bytes("invoices", content=b"nobody points at this")
        report = Collector(manager, ledger_of_many(engine, archive_engine, ["acme"])).reconcile()
        assert (report.listed, report.noted) == (4, 1), report
        engine.dispose()
        archive_engine.dispose()


if __name__ == "__main__":
    main()
