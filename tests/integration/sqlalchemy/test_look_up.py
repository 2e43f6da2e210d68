"""The look-up finds a ref wherever it is held, by an index where there is one (laws 1, 3)."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import StoredObjectRef
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_columns, files_field, held_locations
from tests.integration.sqlalchemy.collecting import bury, collector, reconcile, store, sweep
from tests.integration.sqlalchemy.world import Base, Document, World, make_world

SINGLE, PAGES = "ix_document_file_location", "ix_document_pages_location"
ODD = ['a"b', "a\\b", '\\"', "a,b", "{a}", "NULL", "null", "a b", "'", "ä/ö", "%s :x", "a\nb", "", '"']


def ref(location: str) -> StoredObjectRef:
    return StoredObjectRef("documents", "main", location, 7)


def hold(world: World, *, files: list[str] = [], pages: list[list[str]] = []) -> None:  # noqa: B006 - only read
    """Rows that hold objects, whatever their keys look like."""
    rows: list[dict[str, Any]] = [{"file": ref(each)} for each in files]
    rows += [{"pages": [ref(each) for each in some]} for some in pages]
    with world.engine.begin() as connection:
        for row in rows:
            connection.execute(insert(Document.__table__).values(row))


def look(world: World, locations: list[str]) -> set[str]:
    with world.engine.connect() as connection:
        return held_locations(connection, file_columns(Base.metadata), locations)


def loose(world: World, locations: list[str]) -> set[str]:
    ledger = SQLAlchemyLedger([world.any_engine], Base.metadata)
    ledger.check()
    return ledger.loose(locations)


def drop_indexes(world: World) -> None:
    with world.engine.begin() as connection:
        for name in (SINGLE, PAGES):
            connection.execute(text(f"DROP INDEX {name}"))


class TestEverythingIsFound:
    @pytest.mark.parametrize("indexed", [True, False])
    def test_whatever_the_keys_hold(self, world: World, indexed: bool) -> None:
        def scenario() -> None:
            if not indexed:
                drop_indexes(world)
            hold(world, files=ODD[::2], pages=[ODD[1::4], ODD[3::4]])
            wanted = [*ODD, *(f"{each}x" for each in ODD)]
            assert look(world, wanted) == set(ODD)
            assert loose(world, wanted) == {f"{each}x" for each in ODD}
            assert look(world, []) == loose(world, []) == set()
            assert look(world, ["x"]) == set()

        world.run(scenario)

    def test_what_a_list_column_holds_that_is_no_list_hides_nothing(self, world: World) -> None:
        def scenario() -> None:
            hold(world, pages=[["a"], [], ["b", "b", "c"]])
            with world.engine.begin() as connection:
                connection.execute(
                    text(
                        "UPDATE document SET pages = 'null' WHERE json_array_length(pages) = 0"
                        if world.engine.dialect.name == "sqlite"
                        else "UPDATE document SET pages = 'null' WHERE pages = '[]'"
                    )
                )
            assert look(world, ["a", "b", "c", "d"]) == {"a", "b", "c"}
            assert loose(world, ["a", "b", "c", "d"]) == {"d"}

        world.run(scenario)

    @pytest.mark.parametrize("indexed", [True, False])
    def test_a_reconcile_and_a_sweep_take_what_nobody_holds(self, world: World, indexed: bool) -> None:
        def scenario() -> None:
            if not indexed:
                drop_indexes(world)
            everything = [f"{number:03d}" for number in range(60)]
            store(world, *everything)
            hold(world, files=everything[:20], pages=[everything[20:30], everything[30:40]])
            for each in everything[45:50]:
                bury(world, each)
            report = reconcile(world, {"page_size": 7})
            assert (report.listed, report.noted) == (60, 15)
            assert report.backends[0].examples == (*everything[40:45], *everything[50:60])
            assert world.tombstones() == everything[40:]
            for each in everything[:40]:
                bury(world, each)
            report = sweep(world)
            assert (report.deleted, report.held) == (5, 40)
            assert world.stored() == {*everything[:45], *everything[50:]}

        world.run(scenario)

    def test_many_more_than_go_into_a_statement(self, world: World) -> None:
        def scenario() -> None:
            held = [f"held/{number:05d}" for number in range(40)]
            hold(world, files=held[:20], pages=[held[20:]])
            wanted = [*held, *(f"lost/{number:05d}" for number in range(21_000))]
            assert look(world, wanted) == set(held)
            assert len(loose(world, wanted)) == 21_000

        world.run(scenario)

    def test_an_index_that_came_or_went_since_the_last_run_changes_nothing(self, world: World) -> None:
        def scenario() -> None:
            hold(world, files=["a"], pages=[["b"]])
            store(world, "a", "b", "c")
            with_indexes = collector(world)
            assert with_indexes.reconcile().noted == 1
            drop_indexes(world)
            assert with_indexes.reconcile().noted == 0
            assert world.tombstones() == ["c"]

        world.run(scenario)


class TestStretches:
    """On SQLite what an index holds beside a page of a listing is handed over at once, and proves nothing missing."""

    @pytest.fixture(params=["UTF-8", "UTF-16le"])
    def world(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
        with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as connection:
            connection.execute(f"PRAGMA encoding = '{request.param}'")
            connection.execute("CREATE TABLE something (id INTEGER)")
        with make_world(f"sqlite:///{tmp_path}/db.sqlite3") as world:
            yield world

    @staticmethod
    def fill(world: World, locations: Iterable[str]) -> None:
        with world.engine.begin() as connection:
            connection.execute(insert(Document.__table__), [{"file": ref(each)} for each in locations])

    def test_keys_of_every_kind_between_those_of_others(self, world: World) -> None:
        kinds = [*filter(None, ODD), "\x01", "\x7f", "\ufb00", "\U0001f600", "z" * 300]
        wanted = [f"{kind}{number:03d}" for kind in kinds for number in range(100)]
        self.fill(world, wanted[::2])
        self.fill(world, wanted[::4])  # twice
        self.fill(world, (f"{each}+" for each in wanted))
        assert loose(world, wanted) == set(wanted[1::2])
        assert loose(world, [*reversed(wanted)]) == set(wanted[1::2])

    def test_a_range_that_holds_much_more_than_the_page(self, world: World) -> None:
        numbers = [f"{number:05d}" for number in range(9000)]
        self.fill(world, numbers)
        wanted = [*numbers[::6], "00000x", "08990x"]
        assert loose(world, wanted) == {"00000x", "08990x"}

    def test_a_row_with_what_is_no_text_hides_no_other(self, world: World) -> None:
        wanted = [f"{number:05d}" for number in range(2000)]
        self.fill(world, wanted[:-1])
        for odd in ('{"location": "00005\\ud800"}', '{"location": 7}', "{}", "null"):
            with world.engine.begin() as connection:
                connection.execute(
                    text("UPDATE document SET file = :odd WHERE file ->> 'location' = '00005'"), {"odd": odd}
                )
            assert loose(world, wanted) == {"00005", wanted[-1]}
            with world.engine.begin() as connection:
                connection.execute(
                    text("UPDATE document SET file = :new WHERE file = :odd"),
                    {"new": '{"location": "00005"}', "odd": odd},
                )
            assert loose(world, wanted) == {wanted[-1]}

    def test_the_index_is_read_in_its_order(self, world: World) -> None:
        sent: list[tuple[str, Any]] = []
        event.listen(world.engine, "before_cursor_execute", lambda *a: sent.append((a[2], a[3])))
        loose(world, [f"{number:05d}" for number in range(2000)])
        ((statement, values),) = [each for each in sent if "group_array" in each[0] and "FROM document" in each[0]]
        with world.engine.connect() as connection:
            plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all())
        assert re.search(rf"SEARCH document USING (COVERING )?INDEX {SINGLE} \(<expr>>\? AND <expr><\?\)", plan)
        assert "TEMP B-TREE" not in plan


class TestIndexes:
    """Whether a statement can go by an index is asked of the database: small tables are read faster without."""

    @contextmanager
    def plans(self, world: World, *, by_cost: bool = False) -> Iterator[Callable[[], str]]:
        """How the statements that were sent are carried out."""
        sent: list[tuple[str, Any]] = []

        def note(c: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
            if "document" in statement and statement.startswith("SELECT") and not executemany:
                sent.append((statement, parameters))

        def explain() -> str:
            is_sqlite = world.engine.dialect.name == "sqlite"
            with world.engine.connect() as connection:
                if not is_sqlite and not by_cost:
                    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                how = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
                return "\n".join(
                    str(connection.exec_driver_sql(f"{how} {statement}", parameters).all())
                    for statement, parameters in [*sent]
                )

        event.listen(world.engine, "before_cursor_execute", note)
        try:
            yield explain
        finally:
            event.remove(world.engine, "before_cursor_execute", note)

    @pytest.fixture(params=["sqlite", "psycopg"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Any) -> str:
        if request.param == "sqlite":
            return f"sqlite:///{tmp_path}/db.sqlite3"
        return str(request.getfixturevalue("postgres_url"))

    @pytest.mark.parametrize("ask", [look, loose], ids=["look", "loose"])
    def test_every_look_up_goes_by_the_indexes(self, world: World, ask: Callable[..., set[str]]) -> None:
        hold(world, files=["a"], pages=[["b"]])
        with self.plans(world) as plans:
            ask(world, ["a", "b", "c"])
        assert SINGLE in plans()
        assert (PAGES in plans()) is (world.engine.dialect.name == "postgresql"), "SQLite has none for arrays"

    def test_without_statistics_a_big_table_is_not_read_from_end_to_end(self, postgres_url: str) -> None:
        """PostgreSQL knows nothing of a new index until the next ANALYZE, and thinks that it finds a lot."""
        with make_world(postgres_url) as world:
            with world.engine.begin() as connection:
                connection.execute(text("ALTER TABLE document SET (autovacuum_enabled = off)"))
                connection.execute(
                    text(
                        "INSERT INTO document (id, pages, file) SELECT gen_random_uuid(), '[]', "
                        "json_build_object('location', 'k' || n, 'backend', 'main') FROM generate_series(1, 30000) n"
                    )
                )
            with self.plans(world, by_cost=True) as plans:
                assert loose(world, [f"k{number}" for number in range(2000)]) == {"k0"}
            assert SINGLE in plans()
            assert "Anti Join" not in plans(), "everything beside everything"

    def test_no_row_is_held_against_one_key_after_the_other(self, postgres_url: str) -> None:
        """Comparing with an array, PostgreSQL goes through all of it for each row that no index has picked."""
        with make_world(postgres_url) as world:
            drop_indexes(world)
            hold(world, files=["a"], pages=[["b"]])
            bury(world, "c")
            with self.plans(world) as plans:
                assert loose(world, [*map(str, range(1000)), "a", "b", "c"]) == {*map(str, range(1000))}
                collector(world).sweep()
            assert "Semi Join" in plans()
            assert "= ANY (" not in plans()

    def test_order_does_not_depend_on_the_rules_of_a_language(self, postgres_url: str) -> None:
        with make_world(postgres_url) as world, world.engine.connect() as connection:
            query = text("SELECT indexdef FROM pg_indexes WHERE indexname = :name")
            assert "text_pattern_ops" in str(connection.scalar(query, {"name": SINGLE}))
            assert "USING gin (pages jsonb_path_ops)" in str(connection.scalar(query, {"name": PAGES}))

    def test_on_sqlite_the_index_of_a_list_holds_nothing(self, tmp_path: Any) -> None:
        with make_world(f"sqlite:///{tmp_path}/db.sqlite3") as world:
            hold(world, pages=[["a", "b"]])
            with world.engine.connect() as connection:
                query = text("SELECT sql FROM sqlite_master WHERE name = :name")
                assert str(connection.scalar(query, {"name": PAGES})).endswith("WHERE 0")

    def test_an_index_whose_making_failed_is_not_counted_on(self, postgres_url: str) -> None:
        with make_world(postgres_url) as world:
            hold(world, files=["a"], pages=[["b"]])
            with world.engine.begin() as connection:
                for name in (SINGLE, PAGES):
                    query = text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)")
                    connection.execute(query, {"name": name})
            with self.plans(world) as plans:
                assert loose(world, ["a", "b", "c"]) == {"c"}
            assert "ix_document_" not in plans()
            found = SQLAlchemyLedger([world.engine], Base.metadata).diagnose(0)
            assert [each.code for each in found] == ["index-missing"] * 2
            assert "document has no index" in found[0].found


def test_a_list_field_may_do_without_the_index(postgres_url: str) -> None:
    class Plain(DeclarativeBase):
        pass

    class Album(Plain):
        __tablename__ = "album"
        id: Mapped[int] = mapped_column(primary_key=True)
        photos: Mapped[list[StoredObjectRef]] = files_field("photos", index=False)

    assert Album.__table__.indexes == set()
    engine = create_engine(postgres_url)
    Plain.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Album.__table__).values(id=1, photos=[ref("a")]))
        assert held_locations(connection, file_columns(Plain.metadata), ["a", "b"]) == {"a"}
    engine.dispose()
