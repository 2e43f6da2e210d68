"""From an id in a log line to the rows and bytes it is about."""

from __future__ import annotations

import logging

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import MemoryStorageBackend, StorageManager, StoragePolicy, StoredObjectRef, unsaved
from granite_core.events import Event, Stored
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field
from granite_core.logs import exc_info_of, extra_of


class Base(DeclarativeBase):
    pass


class Report(Base):
    __tablename__ = "report"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("reports")


logger = logging.getLogger(__name__)
manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("reports")])
manager.register(Base)


# the part "find" begins
def find(engine: Engine, object_id: str) -> None:
    for column, row in SQLAlchemyLedger([engine], Base.metadata).holders_by_id(object_id):
        print(column, row.key, [ref.original_filename for ref in row.refs])
    print(manager.find_object(object_id))  # backend key and location; None when the bytes are gone
    # the part "find" ends


# the part "own lines" begins
def convert(ref: StoredObjectRef) -> None:
    try:
        manager.get(ref).decode()
    except ValueError as error:
        extra = extra_of(ref, event="not_converted")
        logger.warning("object %s is no text", extra["object_id"], extra=extra, exc_info=exc_info_of(error))
    # the part "own lines" ends


def main() -> None:
    ids: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Stored):
            ids.append(event.object_id)

    manager.listen(note, Stored)
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine, expire_on_commit=False) as session:
        report = Report(file=unsaved(b"\xff\x00", filename="report.txt"))
        session.add(report)
        session.commit()
    find(engine, ids[0])
    assert report.file is not None
    convert(report.file)


if __name__ == "__main__":
    main()
