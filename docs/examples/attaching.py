"""Attach, replace, share, list and let go: what a session does with files, and what becomes of them."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import LocalStorageBackend, StorageManager, StoragePolicy, StoredObjectRef, unsaved
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field, files_field


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoice"

    id: Mapped[int] = mapped_column(primary_key=True)
    scan: Mapped[StoredObjectRef | None] = file_field("invoices")
    pages: Mapped[list[StoredObjectRef]] = files_field("invoices")


def attach(session: Session, manager: StorageManager) -> Invoice:
    # the part "attach" begins
    invoice = Invoice(scan=unsaved(b"%PDF-1.7 ...", filename="scan.pdf"))  # stored when the session flushes
    invoice.pages.append(unsaved(b"page one", filename="1.txt"))
    session.add(invoice)
    session.commit()

    ready = manager.put_bytes("invoices", content=b"%PDF-1.7 better", original_filename="scan.pdf")
    invoice.scan = ready  # what is staged already is assigned as it is; the old file waits for the collector
    session.commit()
    # the part "attach" ends
    return invoice


def undo(session: Session, invoice: Invoice) -> None:
    # the part "undo" begins
    before = invoice.scan
    with session.begin_nested() as savepoint:
        invoice.scan = None
        session.flush()
        savepoint.rollback()
    session.commit()
    assert invoice.scan == before  # neither the row nor the bytes have changed
    # the part "undo" ends


def share_and_let_go(session: Session, invoice: Invoice) -> None:
    # the part "share" begins
    copy = Invoice(scan=invoice.scan)  # two rows, one object; it stays until both have let it go
    session.add(copy)
    session.commit()
    session.delete(invoice)
    session.commit()
    # the part "share" ends


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStorageBackend(Path(folder) / "files")
        manager = StorageManager({"main": store}, [StoragePolicy("invoices", "main")], grace=timedelta(seconds=20))
        manager.register(Base)
        engine = create_engine(f"sqlite:///{folder}/invoices.sqlite3")
        Base.metadata.create_all(engine)
        with Session(engine, expire_on_commit=False) as session:
            invoice = attach(session, manager)
            undo(session, invoice)
            share_and_let_go(session, invoice)

        # the part "collect" begins
        collector = Collector(manager, SQLAlchemyLedger([engine], Base.metadata))
        print(collector.reconcile(dry_run=True).to_dict())  # what nobody points at, and no tombstone knows of
        print(collector.sweep().to_dict())  # deletes what was let go, once the grace has passed
        # the part "collect" ends
        engine.dispose()


if __name__ == "__main__":
    main()
