"""Two declarative bases in one database: Granite's tables are declared once, and the collector is told of both."""

from __future__ import annotations

import tempfile

from sqlalchemy import MetaData, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import MemoryStorageBackend, StorageManager, StoragePolicy, StoredObjectRef, unsaved
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field


# the part "bases" begins
class Base(DeclarativeBase):
    pass


class ArchiveBase(DeclarativeBase):
    metadata = MetaData(info={"granite_tables": Base.metadata})
    # the part "bases" ends


class Letter(Base):
    __tablename__ = "letter"

    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("letters")


class ArchivedLetter(ArchiveBase):
    __tablename__ = "archived_letter"

    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("letters")


def main() -> None:
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("letters", "main")])
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/letters.sqlite3")
        # the part "both" begins
        manager.register(Base, ArchiveBase)
        for base in (Base, ArchiveBase):
            base.metadata.create_all(engine)
        ledger = SQLAlchemyLedger([(engine, Base.metadata), (engine, ArchiveBase.metadata)])
        # the part "both" ends
        with Session(engine) as session:
            letter = Letter(file=unsaved(b"Dear all"))
            session.add(letter)
            session.commit()
            session.add(ArchivedLetter(file=letter.file))
            session.delete(letter)
            session.commit()
        print(Collector(manager, ledger).reconcile().to_dict())
        engine.dispose()


if __name__ == "__main__":
    main()
