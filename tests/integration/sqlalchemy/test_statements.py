"""Statements that a session executes past the flush: what they write passes its rule, what they compare does not."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import bindparam, event, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import StatementError

from granite_core import ContentTooLargeError, StaleRefError, StoredObjectRef, unsaved
from tests.integration.sqlalchemy.test_transactions import given_document, the_document
from tests.integration.sqlalchemy.world import QUARTER, Account, Company, Document, World


def given_old(world: World) -> StoredObjectRef:
    """A ref that was staged long ago, and that no row holds."""
    old = world.stage(b"old")
    world.later(QUARTER)
    return old


def dialect_insert(world: World) -> Any:
    return (postgresql if world.engine.dialect.name == "postgresql" else sqlite).insert(Document)


def test_columns_of_a_joined_parent_pass_the_rule_too(world: World) -> None:
    def scenario() -> None:
        old = given_old(world)
        with world.session() as session:
            session.add(Company())
            session.commit()
            with pytest.raises(StaleRefError):
                session.execute(insert(Company), [{"kind": "company", "avatar": old}])
            session.rollback()
            number = session.scalars(select(Account.id)).one()
            with pytest.raises(StaleRefError):
                session.execute(update(Company), [{"id": number, "avatar": old}])
            session.rollback()
            session.execute(update(Company), [{"id": number, "avatar": world.stage()}])
            session.commit()
        assert ("account", "avatar") in world.known_columns()
        assert len(world.held()) == 1

    world.run(scenario)


def test_rows_returned_as_entities_pass_the_rule_too(world: World) -> None:
    def scenario() -> None:
        old = given_old(world)
        with world.session() as session:
            for file in (world.stage(), old):
                inserted = insert(Document).values(title="x", file=file, pages=[]).returning(Document)
                query = select(Document).from_statement(inserted)
                if file is old:
                    with pytest.raises(StaleRefError):
                        session.scalars(query)
                else:
                    assert session.scalars(query).one().file == file
                    session.rollback()
        assert world.held() == set()

    world.run(scenario)


def test_a_ref_that_is_compared_and_written_passes_the_rule(world: World) -> None:
    def scenario() -> None:
        given_document(world)
        old = given_old(world)
        with world.session() as session, pytest.raises(StaleRefError):
            differs = or_(Document.file != old, Document.file.is_(None))
            session.execute(update(Document).where(differs).values(file=old))
        assert old.location not in world.held()

    world.run(scenario)


def test_a_ref_may_be_compared_in_any_way(world: World) -> None:
    def scenario() -> None:
        held = given_document(world, pages=[])
        old = given_old(world)
        with world.session() as session:
            for condition in (
                Document.file == held,
                Document.file.in_([held, old]),
                Document.file != old,
                Document.pages == [],
                Document.pages != [old],
                Document.file["size"].as_integer() == held.size,
            ):
                assert session.scalars(select(Document).where(condition)).one().file == held
                changed = session.execute(update(Document).where(condition).values(title="seen"))
                assert changed.rowcount == 1

    world.run(scenario)


def test_comparing_with_a_staged_file_does_not_use_it(world: World) -> None:
    def scenario() -> None:
        staged = world.stage()
        with world.session() as session:
            assert session.scalars(select(Document).where(Document.file == staged)).all() == []
        assert world.manager.discard(staged)

    world.run(scenario)


def test_an_upsert_passes_the_rule(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            first = dialect_insert(world).values(title="x", file=world.stage(b"1"), pages=[])
            session.execute(first)
            old = given_old(world)
            fresh = dialect_insert(world).values(title="x", file=world.stage(b"2"), pages=[])
            taken = {"file": fresh.excluded.file}
            where = Document.file != old
            session.execute(fresh.on_conflict_do_update(index_elements=["title"], set_=taken, where=where))
            with pytest.raises(StaleRefError):
                session.execute(fresh.on_conflict_do_update(index_elements=["title"], set_={"file": old}))

    world.run(scenario)


def test_an_insert_of_many_rows_returns_what_it_wrote(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            rows = [{"title": str(n), "file": world.stage(b"%d" % n), "pages": []} for n in range(20)]
            found = session.scalars(insert(Document).returning(Document, sort_by_parameter_order=True), rows).all()
            assert [document.file for document in found] == [row["file"] for row in rows]
            session.commit()
        world.check_laws()

    world.run(scenario)


def test_a_schema_translation_of_the_statement_holds_for_the_look_up_too(request: pytest.FixtureRequest) -> None:
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    from tests.integration.sqlalchemy.world import Base

    engine = create_engine(request.getfixturevalue("postgres_url"))
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA one"))
        connection.execute(text("CREATE SCHEMA two"))
    world = World(engine)
    for schema in ("one", "two"):
        Base.metadata.create_all(engine.execution_options(schema_translate_map={None: schema}))
    old = world.stage()
    with Session(engine) as session:
        for schema in ("one", "two"):
            options: Any = {"schema_translate_map": {None: schema}}
            session.execute(insert(Document).values(title="x", file=old, pages=[]), execution_options=options)
            session.commit()
            registered = session.execute(text(f"SELECT table_name, column_name FROM {schema}.granite_column")).all()
            assert ("document", "file") in [tuple(row) for row in registered]
        world.later(QUARTER)
        session.execute(update(Document).values(cover=old), execution_options=options)
        session.commit()
    engine.dispose()


def test_appending_to_a_long_list_looks_at_no_other_row(world: World) -> None:
    statements: list[str] = []

    def scenario() -> None:
        with world.session() as session:
            session.add(Document(pages=[world.stage(b"%d" % n) for n in range(5)]))
            session.commit()
        world.later(QUARTER)
        event.listen(world.engine, "before_cursor_execute", lambda c, cu, s, p, x, m: statements.append(s))
        with world.session() as session:
            document = the_document(session)
            document.pages.append(world.stage(b"last"))
            session.commit()

    world.run(scenario)
    world.run(world.check_laws)
    assert not [statement for statement in statements if "json_each" in statement or "jsonb_array" in statement]


def test_a_bulk_update_may_name_its_rows_by_parameters(world: World) -> None:
    def scenario() -> None:
        given_document(world)
        with world.session() as session:
            statement = update(Document.__table__).where(Document.title == bindparam("which"))
            session.execute(statement.values(cover=world.stage(b"cover")), {"which": "given"})
            session.commit()
        assert len(world.held()) == 2
        world.check_laws()

    world.run(scenario)


class TestUnsavedContentInStatements:
    def test_is_stored_in_every_form_of_insert(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.execute(insert(Document).values(file=unsaved(b"1"), pages=[unsaved(b"2")]))
                session.execute(insert(Document).values([{"file": unsaved(b"3"), "pages": []}]))
                rows = [{"file": unsaved(b"%d" % n), "pages": [unsaved(b"p")]} for n in range(4, 6)]
                made = session.scalars(insert(Document).returning(Document), rows).all()
                session.execute(dialect_insert(world).values(title="x", file=unsaved(b"6"), pages=[]))
                assert {world.manager.get(each.file) for each in made if each.file} == {b"4", b"5"}
                session.commit()
            assert len(world.held()) == 8
            world.check_laws()

        world.run(scenario)

    def test_is_stored_by_updates_and_seen_in_objects_that_are_loaded(self, world: World) -> None:
        def scenario() -> None:
            given_document(world)
            with world.session(expire_on_commit=False) as session:
                document = the_document(session)
                assert document.pages == []
                new = {"file": unsaved(b"1"), "pages": [unsaved(b"2")]}
                session.execute(update(Document).where(Document.id == document.id).values(**new))
                assert world.manager.get(document.file) == b"1"
                session.execute(update(Document), [{"id": document.id, "pages": [unsaved(b"3"), unsaved(b"4")]}])
                assert [world.manager.get(page) for page in document.pages] == [b"3", b"4"]
                document.pages.append(world.stage(b"5"))  # still tracked
                session.commit()
                session.expire_all()
                assert [world.manager.get(page) for page in document.pages] == [b"3", b"4", b"5"]
            world.check_laws(left_to_reconcile=2)

        world.run(scenario)

    def test_is_stored_once_however_often_it_is_written(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                content = unsaved(b"once")
                session.execute(insert(Document), [{"file": content, "pages": []} for _ in range(3)])
                session.commit()
            assert len(world.rows()) == 3
            assert len(world.stored()) == 1

        world.run(scenario)

    def test_that_a_policy_refuses_is_told_and_a_rollback_leaves_a_note(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                with pytest.raises(ContentTooLargeError):
                    session.execute(insert(Document).values(file=unsaved(b"x" * 1001), pages=[]))
                session.rollback()
                session.execute(insert(Document).values(file=unsaved(b"x"), pages=[]))
                session.rollback()
            assert world.held() == set()
            world.check_laws()

        world.run(scenario)

    def test_is_refused_on_a_bare_connection(self, world: World) -> None:
        def scenario() -> None:
            with world.engine.begin() as connection, pytest.raises(StatementError, match="a session"):
                connection.execute(insert(Document.__table__).values(file=unsaved(b"x"), pages=[]))
            assert world.stored() == set()

        world.run(scenario)
