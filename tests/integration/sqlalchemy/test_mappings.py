"""Every way of mapping a class: its files are stored, admitted and let go alike."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, deferred, mapped_column, synonym, validates

from granite_core import (
    ContentTooLargeError,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    unsaved,
)
from granite_core.integrations.sqlalchemy import (
    StoredObjectRefListType,
    StoredObjectRefType,
    file_field,
    files_field,
)
from tests.integration.sqlalchemy.world import QUARTER, World, make_world


class Zoo(DeclarativeBase):
    pass


class HasFiles:
    file: Mapped[StoredObjectRef | None] = file_field("documents", info={"of": "the user"})
    pages: Mapped[list[StoredObjectRef]] = files_field("pages")


class Mixed(HasFiles, Zoo):
    __tablename__ = "mixed"
    id: Mapped[int] = mapped_column(primary_key=True)


class Abstract(Zoo):
    __abstract__ = True
    file: Mapped[StoredObjectRef | None] = file_field("documents")


class OfAbstract(Abstract):
    __tablename__ = "of_abstract"
    id: Mapped[int] = mapped_column(primary_key=True)


class Employee(HasFiles, Zoo):
    __tablename__ = "employee"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}


class Engineer(Employee):
    """Joined, and without a file column in its own table."""

    __tablename__ = "engineer"
    id: Mapped[int] = mapped_column(ForeignKey("employee.id"), primary_key=True)
    language: Mapped[str | None]
    __mapper_args__ = {"polymorphic_identity": "engineer"}


class Manager(Employee):
    """In its parent's table."""

    badge: Mapped[StoredObjectRef | None] = file_field("documents", nullable=True)
    __mapper_args__ = {"polymorphic_identity": "manager"}


class Apart(Mixed):
    """A concrete child: a table of its own."""

    __tablename__ = "apart"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")
    pages: Mapped[list[StoredObjectRef]] = files_field("pages")
    __mapper_args__ = {"concrete": True}


class Versioned(HasFiles, Zoo):
    __tablename__ = "versioned"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    changed: Mapped[int] = mapped_column(server_default="1", server_onupdate=None)
    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}


class Data(MappedAsDataclass, Zoo, kw_only=True):
    __tablename__ = "data"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    file: Mapped[StoredObjectRef | None] = file_field("documents", default=None)
    pages: Mapped[list[StoredObjectRef]] = files_field("pages", default_factory=list)


class Renamed(Zoo):
    """Attributes that are not named as their columns."""

    __tablename__ = "renamed"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = mapped_column("c_file", StoredObjectRefType("documents"))
    pages: Mapped[list[StoredObjectRef]] = mapped_column("c_pages", StoredObjectRefListType("pages"))


class Imperative:
    file: Any
    pages: Any


_imperative = Table(
    "imperative",
    Zoo.metadata,
    Column("id", Integer, primary_key=True),
    Column("f", StoredObjectRefType("documents")),
    Column("p", StoredObjectRefListType("pages")),
)
Zoo.registry.map_imperatively(Imperative, _imperative, properties={"file": _imperative.c.f, "pages": _imperative.c.p})


class Natural(Zoo):
    __tablename__ = "natural"
    shelf: Mapped[str] = mapped_column(primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")
    other: Mapped[StoredObjectRef | None] = file_field("documents", index=False)


class Guarded(Zoo):
    __tablename__ = "guarded"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")
    alias: Mapped[StoredObjectRef | None] = synonym("file")
    late: Mapped[StoredObjectRef | None] = deferred(file_field("documents"), raiseload=True)

    @validates("file")
    def check(self, key: str, value: Any) -> Any:
        return value


@pytest.fixture
def world(url: str) -> Iterator[World]:
    with make_world(url, base=Zoo) as world:
        yield world


@pytest.mark.parametrize(
    "model",
    [Mixed, OfAbstract, Engineer, Manager, Apart, Versioned, Data, Renamed, Imperative],
    ids=lambda m: m.__name__,
)
def test_a_file_is_stored_replaced_and_let_go(world: World, model: Any) -> None:
    def scenario() -> None:
        with world.session() as session:
            row = model()
            row.file = unsaved(b"first")
            session.add(row)
            session.commit()
            first = row.file
            assert world.held() == {first.location}
            row.file = second = world.stage(b"second")
            session.commit()
            assert world.held() == {second.location}
            assert world.tombstones() == [first.location]
            if hasattr(row, "pages"):
                row.pages.append(third := world.stage(b"third"))
                session.commit()
                world.later(QUARTER)
                row.pages.append(world.stage(b"fourth"))
                session.commit()
                row.pages.remove(third)
                session.commit()
                assert set(world.tombstones()) == {first.location, third.location}
            session.delete(row)
            session.commit()
        assert world.held() == set()
        world.check_laws()

    world.run(scenario)


def test_the_index_comes_with_the_column_of_a_mixin_or_an_abstract_base() -> None:
    indexes = {table.name: {index.name for index in table.indexes} for table in Zoo.metadata.sorted_tables}
    assert indexes["mixed"] == {"ix_mixed_file_location", "ix_mixed_pages_location"}
    assert indexes["of_abstract"] == {"ix_of_abstract_file_location"}
    assert indexes["employee"] == {f"ix_employee_{name}_location" for name in ("badge", "file", "pages")}
    assert indexes["natural"] == {"ix_natural_file_location"}
    assert Mixed.__table__.c.file.info["of"] == "the user"


def test_a_copied_table_has_each_index_once() -> None:
    copies = MetaData()
    for table in Zoo.metadata.sorted_tables:
        copy = table.to_metadata(copies)
        assert sorted(str(index.name) for index in copy.indexes) == sorted(str(index.name) for index in table.indexes)


def test_a_row_that_takes_a_deleted_one_s_key_lets_its_file_go(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            old = Natural(shelf="a", place=1, file=world.stage(b"old"), other=world.stage(b"stays"))
            session.add(old)
            session.commit()
            gone, stays = old.file, old.other
            session.delete(old)
            session.add(Natural(shelf="a", place=1, file=world.stage(b"new")))
            session.commit()
            assert stays.location in world.held() or stays.location in world.tombstones()
        assert gone.location in world.tombstones()
        world.check_laws()

    world.run(scenario)


def test_a_row_whose_key_changes_lets_its_file_go(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            row = Natural(shelf="a", place=1, file=world.stage(b"old"))
            session.add(row)
            session.commit()
            old = row.file
            row.place, row.file = 2, world.stage(b"new")
            session.commit()
        assert world.tombstones() == [old.location]
        world.check_laws()

    world.run(scenario)


def test_many_rows_with_composite_keys_are_deleted(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            session.add_all(Natural(shelf="s", place=n, file=world.stage(b"%d" % n)) for n in range(250))
            session.commit()
            for row in session.scalars(select(Natural)).all():
                session.delete(row)
            session.commit()
        assert len(set(world.tombstones())) == 250
        world.check_laws()

    world.run(scenario)


def test_synonyms_validators_and_attributes_that_must_not_load(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            row = Guarded(alias=unsaved(b"1"), late=world.stage(b"late"))
            session.add(row)
            session.commit()
            row.alias, row.late = unsaved(b"2"), None
            session.commit()
        assert len(world.tombstones()) == 2
        world.check_laws()

    world.run(scenario)


def test_a_field_added_to_a_class_that_is_declared_already(world: World) -> None:
    class Growing(Zoo):
        __tablename__ = f"growing_{uuid.uuid4().hex}"
        id: Mapped[int] = mapped_column(primary_key=True)

    Growing.file = file_field("documents", nullable=True)

    def scenario() -> None:
        Zoo.metadata.create_all(world.engine)
        with world.session() as session:
            session.add(Growing(file=unsaved(b"hello")))
            session.commit()
        world.check_laws()

    world.run(scenario)
    Zoo.metadata.remove(Growing.__table__)
    Zoo.registry._dispose_cls(Growing)


def test_tables_that_were_reflected_before_the_first_model(world: World) -> None:
    reflected = MetaData()
    world.run(lambda: reflected.reflect(world.engine, only=["granite_tombstone", "granite_column", "granite_state"]))

    class Base(DeclarativeBase):
        metadata = reflected

    class Late(Base):
        __tablename__ = "late"
        id: Mapped[int] = mapped_column(primary_key=True)
        file: Mapped[StoredObjectRef | None] = file_field("documents")

    world.manager.register(Base)

    def scenario() -> None:
        Base.metadata.create_all(world.engine)
        with world.session() as session:
            late = Late(file=world.stage())
            session.add(late)
            session.commit()
            late.file = None
            session.commit()
        assert len(world.tombstones()) == 1

    world.run(scenario)


class TestTheListOfANewObject:
    """It is there for who asks, and says nothing about the row until it is changed."""

    def test_is_one_list_that_becomes_the_row_s_when_it_is_changed(self, world: World) -> None:
        def scenario() -> None:
            row = Mixed()
            pages = row.pages
            assert pages == []
            assert row.pages is pages
            assert "pages" not in vars(row)
            pages.append(world.stage(b"1"))
            assert vars(row)["pages"] is pages
            with world.session() as session:
                session.add(row)
                session.commit()
                row.pages.append(world.stage(b"2"))
                session.commit()
                session.expire_all()
                assert len(row.pages) == 2
            world.check_laws()

        world.run(scenario)

    def test_is_still_the_row_s_after_a_flush_that_came_before_its_change(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                row = Mixed()
                pages = row.pages
                session.add(row)
                session.flush()
                pages.append(world.stage())
                session.commit()
                session.expire_all()
                assert len(row.pages) == 1

        world.run(scenario)

    def test_that_nobody_asked_for_is_written_as_empty(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                session.add_all([Mixed(), Renamed(), Imperative(), Apart()])
                session.commit()
                for model in (Mixed, Renamed, Imperative, Apart):
                    row: Any = session.scalars(select(model)).first()
                    assert row.pages == []
                    row.pages.append(world.stage())
                session.commit()
            assert len(world.held()) == 4

        world.run(scenario)

    def test_does_not_empty_a_row_that_a_partial_object_is_merged_into(self, world: World) -> None:
        def scenario() -> None:
            with world.session() as session:
                row = Mixed(pages=[world.stage()])
                session.add(row)
                session.commit()
                file = world.stage(b"file")
                for partial in (Mixed(id=row.id, file=file), Mixed(id=row.id)):
                    assert partial.pages == []
                    session.merge(partial)
                    session.commit()
                session.expire_all()
                assert (row.file, len(row.pages)) == (file, 1)
                session.merge(Mixed(id=row.id, pages=[]))
                session.commit()
                assert row.pages == []
            world.check_laws()

        world.run(scenario)

    def test_that_was_replaced_meanwhile_is_the_row_s_no_more(self, world: World) -> None:
        def scenario() -> None:
            row = Mixed()
            pages = row.pages
            row.pages = [world.stage(b"1")]
            pages.append(world.stage(b"2"))
            assert len(row.pages) == 1
            again = pickle.loads(pickle.dumps(Mixed()))
            again.pages.append(world.stage(b"3"))
            assert len(again.pages) == 1

        world.run(scenario)


class TestContentOfSeveralFields:
    def test_is_stored_by_the_rules_of_each_policy(self, world: World) -> None:
        def scenario() -> None:
            content = unsaved(b"x" * 1001)
            with world.session() as session:
                row = Mixed(pages=[content])
                session.add(row)
                session.commit()
                row.file = content
                with pytest.raises(ContentTooLargeError):
                    session.commit()

        world.run(scenario)

    def test_is_stored_by_the_manager_of_each_base(self, world: World) -> None:
        class Other(DeclarativeBase):
            pass

        class Note(Other):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            file: Mapped[StoredObjectRef | None] = file_field("documents")

        store = MemoryStorageBackend()
        StorageManager({"main": store}, [StoragePolicy("documents", "main")]).register(Other)

        def scenario() -> None:
            Other.metadata.create_all(world.engine)
            content = unsaved(b"hello")
            with world.session() as session:
                session.add_all([Mixed(file=content), Note(file=content)])
                session.commit()
            world.check_laws()

        world.run(scenario)
        assert len([*store.iter_locations()]) == 1


def test_a_file_s_name_is_changed_without_its_bytes(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            row = Mixed(file=world.stage(name="old.txt"), pages=[world.stage()])
            session.add(row)
            session.commit()
            row.file = StoredObjectRef.from_dict({**row.file.to_dict(), "original_filename": "new.txt"})
            session.commit()
            session.expire_all()
            assert row.file.original_filename == "new.txt"
        assert world.tombstones() == []
        world.check_laws()

    world.run(scenario)


def test_a_row_whose_file_cannot_be_read_hides_no_other(world: World) -> None:
    def scenario() -> None:
        with world.session() as session:
            session.add_all([Mixed(file=world.stage(name=f"{number}.txt")) for number in range(3)])
            session.commit()
            first = session.scalars(select(Mixed).order_by(Mixed.id)).first()
            session.execute(text("UPDATE mixed SET file = '{\"size\": 1}' WHERE id = :id"), {"id": first.id})
            session.commit()
            found = [row.file for row in session.scalars(select(Mixed).order_by(Mixed.id))]
            with pytest.raises(ValueError, match="storage_key"):
                _ = found[0].original_filename
            assert [each.original_filename for each in found[1:]] == ["1.txt", "2.txt"]

    world.run(scenario)


def test_columns_that_a_migration_made_plain_json_are_looked_up_too(postgres_url: str) -> None:
    with make_world(postgres_url, base=Zoo) as world:
        with world.engine.begin() as connection:
            connection.execute(text("DROP INDEX ix_mixed_pages_location"))  # there is none for this type
            connection.execute(text("ALTER TABLE mixed ALTER file TYPE json, ALTER pages TYPE json"))
        with world.session() as session:
            session.add(Mixed(file=world.stage(b"file"), pages=[world.stage(b"page")]))
            session.commit()
            world.later(QUARTER)
            first = session.scalars(select(Mixed)).one()
            session.add(Mixed(file=first.pages[0], pages=[first.file]))
            session.commit()
        world.check_laws()
