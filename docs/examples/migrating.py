"""Rows with a path become rows with a file: the models, and the four migrations that bring a database there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import LocalStorageBackend, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field

MEDIA = Path("media")  # where the paths lead

manager = StorageManager({"main": LocalStorageBackend("var/files")}, [StoragePolicy("letters", "main")])
engine = create_engine("sqlite:///letters.sqlite3")


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "letter"

    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("letters")  # it was: path: Mapped[str | None]


manager.register(Base)


def main() -> None:
    config = Config(attributes={"path_separator": "os"})
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))

    command.upgrade(config, "0001")  # the database as it was
    MEDIA.mkdir(exist_ok=True)
    (MEDIA / "letter.txt").write_bytes(b"Dear all")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO letter (id, path) VALUES (1, 'letter.txt')"))

    command.upgrade(config, "head")
    command.check(config)  # autogenerate finds nothing to do
    with Session(engine) as session:
        letter = session.get_one(Letter, 1)
        assert letter.file is not None
        assert manager.get(letter.file) == b"Dear all"
        print(letter.file)
    engine.dispose()


if __name__ == "__main__":
    from migrating import main  # the module that the migrations import

    main()
