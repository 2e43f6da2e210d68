"""The doctor at real databases: what is missing, what may not be done, what hides rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, MetaData, create_engine, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import Finding, LocalStorageBackend, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.doctor import examine
from granite_core.gc import Collector
from granite_core.gc.marker import MARKER_KEY
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field
from tests.integration.sqlalchemy.collecting import bury, collector, keep, tables
from tests.integration.sqlalchemy.world import Base, Document, World


class Stray(DeclarativeBase):
    metadata = MetaData(info={"granite_tables": False})


class Note(Stray):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")


def diagnose(world: World) -> dict[str, Finding]:
    found = SQLAlchemyLedger([world.any_engine], Base.metadata).diagnose(0)
    return {each.code: each for each in found}


class TestDatabases:
    def test_a_database_that_is_as_the_models_say(self, world: World) -> None:
        def scenario() -> None:
            found = diagnose(world)
            assert found["database"].severity == "ok"
            assert set(found) - {"database"} <= {"sqlite-journal"}

        world.run(scenario)

    def test_what_is_missing_is_named(self, world: World) -> None:
        def scenario() -> None:
            with world.engine.begin() as connection:
                connection.execute(text("DROP INDEX ix_document_file_location"))
                connection.execute(text("DROP INDEX ix_granite_tombstone_written_at"))
                connection.execute(text("ALTER TABLE granite_tombstone DROP COLUMN retention"))
                connection.execute(text("DROP TABLE granite_column"))
            found = SQLAlchemyLedger([world.any_engine], Base.metadata).diagnose(0)
            told = sorted(each.found.partition(":")[0] for each in found if each.code != "sqlite-journal")
            assert told == [
                "table document has no index ix_document_file_location",
                "table granite_tombstone has no column retention",
                "table granite_tombstone has no index ix_granite_tombstone_written_at",
                "there is no table granite_column",
            ]

        world.run(scenario)

    def test_memory_and_impatience_are_told_of(self, tmp_path: Path) -> None:
        memory = create_engine("sqlite://")
        Base.metadata.create_all(memory)
        found = {each.code: each for each in SQLAlchemyLedger([memory], Base.metadata).diagnose(0)}
        assert found["database-memory"].severity == "warning"
        hasty = create_engine(f"sqlite:///{tmp_path}/db", connect_args={"timeout": 0.1})
        Base.metadata.create_all(hasty)
        found = {each.code: each for each in SQLAlchemyLedger([hasty], Base.metadata).diagnose(0)}
        assert found["sqlite-timeout"].severity == "warning"
        hasty.dispose()


class TestRights:
    @pytest.fixture
    def admin(self, postgres_url: str) -> Iterator[Engine]:
        engine = create_engine(postgres_url)
        Base.metadata.create_all(engine)
        yield engine
        engine.dispose()

    @pytest.fixture
    def reader(self, admin: Engine) -> Iterator[Engine]:
        """A user who may only read what the application's own tables hold."""
        role = f"granite_{uuid4().hex}"
        with admin.begin() as connection:
            connection.execute(text(f"CREATE ROLE {role} LOGIN"))
            connection.execute(text(f"GRANT SELECT ON document, folder, account, company TO {role}"))
        engine = create_engine(make_url(admin.url).set(username=role))
        yield engine
        engine.dispose()
        with admin.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))

    def diagnose(self, engine: Engine) -> list[Finding]:
        return list(SQLAlchemyLedger([engine], Base.metadata).diagnose(0))

    def test_what_a_user_may_not_do_is_granted_by_the_advice(self, admin: Engine, reader: Engine) -> None:
        found = self.diagnose(reader)
        assert [each.code for each in found] == ["database-privileges"] * 6
        assert all("lacks SELECT, INSERT, UPDATE, DELETE on granite_" in each.found for each in found)
        with admin.begin() as connection:
            for each in found:
                connection.execute(text(each.advice))
        assert [each.code for each in self.diagnose(reader)] == ["database"]

    def test_row_level_security_is_ended_by_the_advice(self, admin: Engine, reader: Engine) -> None:
        with admin.begin() as connection:
            connection.execute(text("ALTER TABLE document ENABLE ROW LEVEL SECURITY"))
        hiding = [each for each in self.diagnose(reader) if each.code == "database-row-security"]
        assert len(hiding) == 1
        with admin.begin() as connection:
            connection.execute(text(hiding[0].advice))
        assert "database-row-security" not in {each.code for each in self.diagnose(reader)}


class TestExamination:
    def test_a_sound_system_is_found_sound(self, world: World) -> None:
        def scenario() -> None:
            keep(world)
            collector(world).sweep()
            collector(world).reconcile()
            told: list[str] = []
            found = examine(collector(world), told=told.append)
            assert [each.code for each in found if each.severity in ("error", "warning") and ours(each)] == [
                "backend-memory"
            ]
            assert [each.partition(" ")[0] for each in told] == ["the", "database", "backend"]

        world.run(scenario)

    def test_models_that_nobody_looks_at_are_told_of(self, world: World) -> None:
        def scenario() -> None:
            name = f"{Note.__module__}.Note"
            by_subject = {each.subject: each for each in examine(collector(world))}
            assert by_subject[f"model {name}"].code == "model-unbound"
            Stray.metadata.info["granite_manager"] = world.manager
            by_subject = {each.subject: each for each in examine(collector(world))}
            assert by_subject[f"model {name}"].code == "model-overlooked"
            del Stray.metadata.info["granite_manager"]

        world.run(scenario)

    def test_a_store_of_another_database_is_told_of(self, world: World) -> None:
        def scenario() -> None:
            world.store.put_bytes(MARKER_KEY, b'{"database": "production"}')
            found = {each.code: each for each in examine(collector(world))}
            assert found["store-foreign"].advice.endswith("litestar granite adopt main")

        world.run(scenario)

    def test_why_the_collector_refuses_is_told_of(self, world: World) -> None:
        def scenario() -> None:
            keep(world)
            with world.engine.begin() as connection:
                row = {"schema_name": "", "table_name": "gone", "column_name": "file"}
                connection.execute(tables().column.insert().values(row))
            found = {each.code: each for each in examine(collector(world))}
            assert "gone.file" in found["collector-refuses"].found

        world.run(scenario)

    def test_deletes_that_fail_and_runs_that_do_not_come_are_told_of(self, world: World) -> None:
        def scenario() -> None:
            keep(world)
            bury(world, "stuck", attempts=3)
            found = {each.code: each for each in examine(collector(world))}
            assert found["deletes-failing"].found.startswith("1 objects")
            assert found["sweep-never"].severity == "warning"

        world.run(scenario)

    def test_clocks_that_differ_are_told_of(self, world: World, monkeypatch: Any) -> None:
        def scenario() -> None:
            real = SQLAlchemyLedger.now
            monkeypatch.setattr(SQLAlchemyLedger, "now", lambda self, number=0: real(self, number) + 60_000)
            clocks = [each for each in examine(collector(world)) if each.code == "clock" and "database" in each.subject]
            assert [each.severity.value for each in clocks] == ["warning"]
            assert "60.0 s ahead" in clocks[0].found

        world.run(scenario)

    def test_a_database_that_is_away_hides_nothing_else(self, tmp_path: Path) -> None:
        engine = create_engine("postgresql+psycopg://me:secret@127.0.0.1:1/nowhere")
        manager = StorageManager(
            {"main": LocalStorageBackend(tmp_path)}, [StoragePolicy("documents", "main")], grace=timedelta(hours=2)
        )
        found = examine(Collector(manager, SQLAlchemyLedger([engine], Base.metadata)))
        by_code = {each.code: each for each in found}
        assert by_code["database"].severity == "error"
        assert by_code["verbs"].severity == "ok"
        assert "secret" not in repr(found)


def ours(finding: Finding) -> bool:
    """Not about the models of other tests, which live in this process too."""
    return not finding.subject.startswith("model ") or Document.__module__ in finding.subject
