"""Alembic writes migrations for files and tables that need nothing of Granite, and finds nothing more to do."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, ForeignKey, MetaData, create_engine, inspect, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    CollectionRefusedError,
    ConfigurationError,
    MemoryStorageBackend,
    MissingExtraError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field, files_field, ref_location, tables_of
from granite_core.integrations.sqlalchemy.migrations import compare_lookup_indexes
from tests.integration.sqlalchemy.world import World, fix_pysqlite

ENV = """
from alembic import context
{head}
def run(connection):
    context.configure(
        connection=connection, target_metadata=context.config.attributes["metadata"],
        compare_server_default=True, {options}
    )
    with context.begin_transaction():
        context.run_migrations()

with context.config.attributes["engine"].connect() as connection:
    run(connection)
"""
HEAD = """
from granite_core.integrations.sqlalchemy import migrations
migrations.compare_lookup_indexes()
"""
RENDER = "render_item=migrations.render_item,"
TEMPLATE = '''"""${message}"""
from alembic import op
import sqlalchemy as sa
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
'''

BY_HAND = Path(__file__).parents[3] / "docs" / "examples" / "migrations_by_hand"

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy and Alembic say that they pass over the index which Granite compares itself.
    "ignore:Skipped unsupported reflection of expression-based index",
    "ignore:autogenerate skipping metadata-specified expression-based index",
)


class Project:
    """A folder of migrations, as a user has it."""

    def __init__(self, folder: Path, engine: Engine, metadata: Any, *, head: str = HEAD, options: str = RENDER) -> None:
        self.folder = folder / "migrations"
        (self.folder / "versions").mkdir(parents=True)
        (self.folder / "env.py").write_text(ENV.format(head=head, options=options))
        (self.folder / "script.py.mako").write_text(TEMPLATE)
        self.config = Config()
        self.config.set_main_option("script_location", str(self.folder))
        self.config.set_main_option("path_separator", "os")
        self.config.attributes.update(engine=engine, metadata=metadata)

    def revise(self) -> str:
        """Autogenerate a migration, and return its text."""
        script: Any = command.revision(self.config, "a change", autogenerate=True)
        return Path(script.path).read_text()

    def upgrade(self) -> None:
        command.upgrade(self.config, "head")

    def downgrade(self) -> None:
        command.downgrade(self.config, "base")

    def check(self) -> None:
        """Raise where the database is not what the models say."""
        command.check(self.config)


@pytest.fixture(params=["sqlite", "psycopg"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(
        f"sqlite:///{tmp_path}/db.sqlite3" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    )
    if request.param == "sqlite":
        fix_pysqlite(engine)
    yield engine
    engine.dispose()


def index_names(engine: Engine, table: str) -> set[str]:
    catalogue = (
        "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = :table"
        if engine.dialect.name == "sqlite"
        else "SELECT indexname FROM pg_indexes WHERE tablename = :table"
    )
    with engine.connect() as connection:
        return set(connection.execute(text(catalogue), {"table": table}).scalars())


def make_models(*, with_files: bool) -> Any:
    class Base(DeclarativeBase):
        pass

    class Shelf(Base):
        __tablename__ = "shelf"
        id: Mapped[int] = mapped_column(primary_key=True)
        if with_files:  # added to a table that is there already, and holds rows
            photo: Mapped[StoredObjectRef | None] = file_field("documents")
            more: Mapped[list[StoredObjectRef]] = files_field("documents", server_default="[]")

    if with_files:

        class Book(Base):
            __tablename__ = "book"
            id: Mapped[int] = mapped_column(primary_key=True)
            shelf_id: Mapped[int | None] = mapped_column(ForeignKey("shelf.id"))
            scan: Mapped[StoredObjectRef | None] = file_field("documents")
            plain: Mapped[StoredObjectRef | None] = file_field("documents", index=False)
            pages: Mapped[list[StoredObjectRef]] = files_field("pages")

        Base.book = Book  # type: ignore[attr-defined]
    return Base


@pytest.mark.parametrize("options", [RENDER, f"{RENDER} render_as_batch=True,", 'user_module_prefix="sa.",'])
def test_fields_and_tables_come_and_go_and_the_second_run_finds_nothing(
    engine: Engine, tmp_path: Path, options: str
) -> None:
    """The third way is advanced-alchemy's environment, which knows no ``render_item``."""
    before, after = make_models(with_files=False), make_models(with_files=True)
    project = Project(tmp_path, engine, before.metadata, options=options)
    project.revise()
    project.upgrade()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO shelf (id) VALUES (1)"))
    with pytest.raises(CommandError):
        project.config.attributes["metadata"] = after.metadata
        project.check()

    written = project.revise()
    assert "granite_core" not in written
    assert not re.search(r"\bStoredObjectRef", written)
    project.upgrade()
    project.check()
    assert "ix_book_scan_location" in index_names(engine, "book")
    assert "ix_shelf_photo_location" in index_names(engine, "shelf")
    assert "ix_book_plain_location" not in index_names(engine, "book")
    kinds = {str(each["type"]) for each in inspect(engine).get_columns("book") if each["name"] in ("scan", "pages")}
    assert kinds == {"JSONB" if engine.dialect.name == "postgresql" else "JSON"}

    if "batch" not in options and engine.dialect.name == "sqlite":
        return  # it drops no column
    project.downgrade()
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}


def test_what_a_migration_made_serves_rows_and_collector(engine: Engine, tmp_path: Path) -> None:
    Base = make_models(with_files=True)
    project = Project(tmp_path, engine, Base.metadata)
    project.revise()
    project.upgrade()
    world = World(engine, base=Base)
    with world.session() as session:
        book = Base.book(scan=world.stage(b"scan"), pages=[world.stage(b"page")])
        session.add(book)
        session.commit()
        book.scan = None
        session.commit()
    assert len(world.tombstones()) == 1
    world.check_laws()
    report = Collector(world.manager, SQLAlchemyLedger([engine], Base.metadata), GCConfig()).reconcile()
    assert report.backends[0].noted == 0


def test_an_index_that_a_batch_migration_lost_is_found_missing(tmp_path: Path) -> None:
    """SQLite changes a column by copying the table, and Alembic does not see the index that it should copy too."""
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    Base = make_models(with_files=True)
    Base.metadata.create_all(engine)
    project = Project(tmp_path, engine, Base.metadata)
    project.check()
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_book_scan_location"))
    written = project.revise()
    assert len(re.findall("create_index", written)) == 1
    project.upgrade()
    project.check()
    with engine.connect() as connection:
        look_up = select(ref_location(Base.book.scan)).where(ref_location(Base.book.scan).in_(["a", "b"]))
        query = look_up.compile(connection, compile_kwargs={"literal_binds": True})
        assert "ix_book_scan_location" in str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all())
    engine.dispose()


@pytest.mark.parametrize("made_on", ["sqlite", "postgresql"])
def test_a_migration_made_on_one_database_serves_the_other(made_on: str, postgres_url: str, tmp_path: Path) -> None:
    local, postgres = create_engine(f"sqlite:///{tmp_path}/db.sqlite3"), create_engine(postgres_url)
    Base = make_models(with_files=True)
    project = Project(tmp_path, local if made_on == "sqlite" else postgres, Base.metadata)
    project.revise()
    for engine in (local, postgres):
        project.config.attributes["engine"] = engine
        project.upgrade()
        project.check()
        assert "ix_book_scan_location" in index_names(engine, "book")
        engine.dispose()


def test_an_older_sqlite_gets_the_index_in_the_words_it_knows() -> None:
    dialect = sqlite.dialect()
    dialect.dbapi = SimpleNamespace(sqlite_version_info=(3, 37, 2))
    Base = make_models(with_files=True)
    assert "json_extract(book.scan, '$.location')" in str(select(ref_location(Base.book.scan)).compile(dialect=dialect))


def test_a_revision_by_hand_and_a_table_that_is_not_included_get_no_index(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    Base = make_models(with_files=True)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_book_scan_location"))
    only = "include_object=lambda object, name, kind, *_: name != 'book',"
    project = Project(tmp_path, engine, Base.metadata, options=f"{RENDER} {only}")
    project.check()
    script: Any = command.revision(project.config, "by hand")
    assert "create_index" not in Path(script.path).read_text()
    engine.dispose()


def test_without_alembic_the_comparison_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alembic.autogenerate", None)
    with pytest.raises(MissingExtraError, match=r"granite-litestar\[alembic\]"):
        compare_lookup_indexes.__wrapped__()


def test_a_json_column_of_an_older_migration_becomes_jsonb(postgres_url: str, tmp_path: Path) -> None:
    engine = create_engine(postgres_url)
    Base = make_models(with_files=True)
    Base.metadata.create_all(engine)
    world = World(engine, base=Base)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_book_pages_location"))  # there is none for the older type
        connection.execute(text("ALTER TABLE book ALTER scan TYPE json, ALTER pages TYPE json"))
    with world.session() as session:
        session.add(Base.book(scan=world.stage(b"scan"), pages=[world.stage(b"page")]))
        session.commit()
    project = Project(tmp_path, engine, Base.metadata)
    assert "granite_core" not in project.revise()
    project.upgrade()
    project.check()
    assert len(world.rows()) == 2
    world.check_laws()
    engine.dispose()


class TestByHand:
    """What the how-to page shows."""

    def upgrade(self, project: Project, name: str) -> None:
        shutil.copy(BY_HAND / f"{name}.py", project.folder / "versions")
        project.upgrade()

    def test_the_index_is_created_while_others_write(self, postgres_url: str, tmp_path: Path) -> None:
        engine = create_engine(postgres_url)
        Base = make_models(with_files=True)
        Base.metadata.create_all(engine)
        project = Project(tmp_path, engine, Base.metadata)
        with engine.begin() as connection:
            connection.execute(text("DROP INDEX ix_book_scan_location"))
        self.upgrade(project, "index")
        project.check()
        engine.dispose()

    def test_a_file_column_is_renamed_and_another_dropped(self, engine: Engine, tmp_path: Path) -> None:
        before = make_models(with_files=True)
        before.metadata.create_all(engine)
        world = World(engine, base=before)
        with world.session() as session:
            session.add(before.book(scan=world.stage(b"scan"), plain=world.stage(b"plain")))
            session.commit()

        class Base(DeclarativeBase):
            pass

        class Book(Base):
            __tablename__ = "book"
            id: Mapped[int] = mapped_column(primary_key=True)
            image: Mapped[StoredObjectRef | None] = file_field("documents")
            pages: Mapped[list[StoredObjectRef]] = files_field("pages")

        world.manager.register(Base)
        collector = Collector(world.manager, SQLAlchemyLedger([engine], Base.metadata), GCConfig())
        project = Project(tmp_path, engine, before.metadata)
        with pytest.raises(CollectionRefusedError):
            collector.reconcile()
        self.upgrade(project, "rename")
        self.upgrade(project, "drop")
        report = collector.reconcile()
        assert report.backends[0].noted == 1  # the file of the column that is gone
        assert [ref.size for ref in World(engine, base=Base).rows()] == [4]


class TestTwoMetadatasInOneDatabase:
    @pytest.fixture
    def bases(self) -> tuple[Any, Any]:
        class First(DeclarativeBase):
            pass

        class Second(DeclarativeBase):
            metadata = MetaData(info={"granite_tables": First.metadata})

        class One(First):
            __tablename__ = "one"
            id: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = file_field("documents")

        class Two(Second):
            __tablename__ = "two"
            id: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = file_field("documents")

        return One, Two

    def test_share_the_tables_of_one(self, engine: Engine, tmp_path: Path, bases: tuple[Any, Any]) -> None:
        One, Two = bases
        project = Project(tmp_path, engine, [One.metadata, Two.metadata])
        assert project.revise().count("create_table('granite_tombstone'") == 1
        project.upgrade()
        project.check()

        world = World(engine, base=One)
        world.manager.register(Two)
        with world.session() as session:
            one, two = One(file=world.stage(b"one")), Two(file=world.stage(b"two"))
            session.add_all([one, two])
            session.commit()
            files = {one.file.location, two.file.location}
            one.file = two.file = None
            session.commit()
        assert set(world.tombstones()) == files
        assert world.known_columns() == {("one", "file"), ("two", "file")}

        with pytest.raises(CollectionRefusedError, match=r"two\.file"):
            Collector(world.manager, SQLAlchemyLedger([engine], One.metadata), GCConfig()).sweep()
        ledger = SQLAlchemyLedger([(engine, One.metadata), (engine, Two.metadata)])
        assert len(ledger.databases) == 1
        Collector(world.manager, ledger, GCConfig()).sweep()

    def test_that_say_so_too_late_or_wrongly_are_told(self, bases: tuple[Any, Any]) -> None:
        One, Two = bases
        One.metadata.info["granite_tables"] = MetaData()
        with pytest.raises(ConfigurationError, match="too late"):
            tables_of(One.metadata)
        for wrong in (Two.metadata, MetaData(info={"granite_tables": False}), "First"):
            with pytest.raises(ConfigurationError, match="the MetaData of the same database"):
                tables_of(MetaData(info={"granite_tables": wrong}))
        assert tables_of(MetaData(info={"granite_tables": False})) is None
        assert tables_of(MetaData(info={"granite_tables": True})) is not None


def test_tables_in_two_schemas_of_one_database_are_both_swept(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    models: list[Any] = []
    for schema in ("one", "two"):

        class Base(DeclarativeBase):
            metadata = MetaData(schema=schema)

        class Thing(Base):
            __tablename__ = "thing"
            id: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = file_field("documents")

        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
        Base.metadata.create_all(engine)
        models.append(Thing)
    store = MemoryStorageBackend()
    manager = StorageManager({"main": store}, [StoragePolicy("documents", "main")])
    world = World(engine, base=models[0])
    manager.register(*models)
    with world.session() as session:
        things = [model(file=manager.put_bytes("documents", content=b"x")) for model in models]
        session.add_all(things)
        session.commit()
        for thing in things:
            session.delete(thing)
        session.commit()
    for schema in ("one", "two"):
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE {schema}.granite_tombstone SET written_at = 0"))
    ledger = SQLAlchemyLedger([(engine, model.metadata) for model in models])
    assert len(ledger.databases) == 2
    assert Collector(manager, ledger, GCConfig()).sweep().deleted == 2
    engine.dispose()
