"""Files with a plain SQLAlchemy session and a local folder; no web framework is involved."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import LocalStorageBackend, StorageManager, StoragePolicy, StoredObjectRef, unsaved
from granite_core.integrations.sqlalchemy import file_field


class Base(DeclarativeBase):
    pass


class Report(Base):
    __tablename__ = "report"

    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("reports")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        manager = StorageManager(
            backends={"main": LocalStorageBackend(Path(folder) / "files")},
            policies=[StoragePolicy("reports", "main", max_size=10_000_000)],
        )
        manager.register(Base)
        engine = create_engine(f"sqlite:///{folder}/reports.sqlite3")
        Base.metadata.create_all(engine)

        with Session(engine, expire_on_commit=False) as session:
            report = Report(file=unsaved(b"name,amount\nrent,900\n", filename="report.csv"))
            session.add(report)
            session.commit()  # the bytes were durable before the row was written

        assert report.file is not None
        with manager.open(report.file) as stored:
            print(report.file.original_filename, report.file.content_type, stored.read().decode())
        engine.dispose()


if __name__ == "__main__":
    main()
