"""Single rows by hand: who holds an object, what a row holds, putting a file into a row."""

from __future__ import annotations

import pytest

from granite_core import ConfigurationError, ObjectNotFoundError, StaleRefError
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from tests.integration.sqlalchemy.collecting import keep
from tests.integration.sqlalchemy.world import QUARTER, Base, Company, Document, World


def ledger(world: World) -> SQLAlchemyLedger:
    return SQLAlchemyLedger([world.any_engine], Base.metadata)


def test_every_row_that_holds_an_object_is_found(world: World) -> None:
    def scenario() -> None:
        ref = keep(world)
        with world.session() as session:
            session.add_all([Document(cover=ref, pages=[ref, ref]), Company(id=3, logo=ref), Document()])
            session.commit()
        found = ledger(world).holders(ref.location)
        assert sorted(str(column) for column, _ in found) == [
            "company.logo",
            "document.cover",
            "document.file",
            "document.pages",
        ]
        assert {row.key for column, row in found if column.column == "logo"} == {"3"}
        assert ledger(world).holders("nothing") == []
        with world.session() as session:
            session.add_all([Document(file=ref) for _ in range(5)])
            session.commit()
        assert (
            len([row for column, row in ledger(world).holders(ref.location, limit=2) if column.column == "file"]) == 2
        )

    world.run(scenario)


def test_a_rows_file_is_found_by_model_or_table_and_replaced(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            document = Document(file=world.stage(b"old"))
            session.add(document)
            session.commit()
            key = str(document.id)
        rows = ledger(world)
        names = ["Document.file", f"{Document.__module__}.Document.file", "document.file"]
        assert len({rows.row_file(name, key) for name in names[:1]}) == 1
        for name in names:
            found = rows.row_file(name, key)
            assert (found.storage_key, found.many, len(found.refs)) == ("documents", False, 1)
        old = found.refs[0]
        new = world.stage(b"new")
        rows.attach("Document.file", key, new)
        assert rows.row_file("Document.file", key).refs == (new,)
        assert world.tombstones() == [old.location]
        page = world.manager.put_bytes("pages", content=b"1")
        rows.attach("Document.pages", key, page)
        rows.attach("Document.pages", key, new)
        assert rows.row_file("Document.pages", key).refs == (page, new)
        world.check_laws()

    world.run(scenario)


def test_an_inherited_field_goes_by_either_class(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            session.add(Company(id=3, avatar=world.stage()))
            session.commit()
        for name in ("Company.avatar", "Account.avatar", "account.avatar"):
            assert len(ledger(world).row_file(name, "3").refs) == 1

    world.run(scenario)


@pytest.mark.parametrize(
    ("field", "key", "error", "says"),
    [
        ("Document.nothing", "1", ConfigurationError, "no file field 'Document.nothing'"),
        ("Document.file", "not a uuid", ConfigurationError, "no primary key of Document"),
        ("Company.logo", "4", ObjectNotFoundError, "there is no Company 4"),
    ],
)
def test_what_is_not_there_is_told(world: World, field: str, key: str, error: type[Exception], says: str) -> None:
    def scenario() -> None:
        with pytest.raises(error, match=says):
            ledger(world).row_file(field, key)

    world.run(scenario)


def test_a_file_that_was_staged_too_long_ago_is_refused(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            session.add(Company(id=3))
            session.commit()
        staged = world.stage()
        world.later(QUARTER)
        with pytest.raises(StaleRefError):
            ledger(world).attach("Company.logo", "3", staged)

    world.run(scenario)
