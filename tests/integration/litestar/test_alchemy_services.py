"""advanced-alchemy's repositories and services keep files and rows together, in every verb, on both colours."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from advanced_alchemy.cache import CacheConfig

from granite_core import StaleRefError, StoredObjectRef, unsaved
from tests.integration.litestar.alchemy_support import Alchemy, Bill, Report


def url_of(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path}/db.sqlite3"
        case "aiosqlite":
            return f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3"
        case "psycopg":
            return str(request.getfixturevalue("postgres_url"))
        case _:
            return str(request.getfixturevalue("postgres_async_url"))


@pytest.fixture(params=["sqlite", "aiosqlite", "psycopg", "asyncpg"])
def alchemy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Alchemy]:
    with Alchemy(url_of(request, tmp_path)).running() as alchemy:
        yield alchemy


def given(alchemy: Alchemy, title: str = "given") -> Any:
    """A committed row with a file and two pages."""

    async def create(service: Any) -> Any:
        pages = [alchemy.stage(b"1"), alchemy.stage(b"2")]
        return await service.create({"title": title, "file": alchemy.stage(b"file"), "pages": pages}, auto_commit=True)

    return alchemy.run(create)


def locations(report: Any) -> set[str]:
    return {report.file.location, *(page.location for page in report.pages)}


def test_create_stores_what_is_unsaved_and_keeps_what_is_staged(alchemy: Alchemy) -> None:
    async def program(service: Any) -> list[Any]:
        one = await service.create({"title": "1", "file": unsaved(b"one")}, auto_commit=True)
        two = await service.create(Report(title="2", file=alchemy.stage(b"two"), pages=[unsaved(b"page")]))
        many = await service.create_many(
            [{"title": "3", "file": unsaved(b"three")}, Report(title="4", file=alchemy.stage(b"four"))],
            auto_commit=True,
        )
        return [one, two, *many]

    made = alchemy.run(program)
    assert [alchemy.manager.get(each.file) for each in made] == [b"one", b"two", b"three", b"four"]
    assert len(alchemy.held()) == 5
    assert alchemy.stored() == alchemy.held()


def test_an_update_of_other_fields_leaves_the_files_as_they_are(alchemy: Alchemy) -> None:
    report = given(alchemy)

    async def by_id(service: Any) -> None:
        await service.update({"title": "by id"}, item_id=report.id, auto_commit=True)

    async def by_model(service: Any) -> None:
        await service.update({"id": report.id, "title": "by model"}, auto_commit=True)

    async def upsert(service: Any) -> None:
        await service.upsert({"id": report.id, "title": "upsert"}, auto_commit=True)

    async def upsert_by_field(service: Any) -> None:
        data = {"title": "upsert", "summary": "by field"}
        await service.upsert(data, match_fields=["title"], auto_commit=True)

    async def update_many(service: Any) -> None:
        await service.update_many([{"id": report.id, "title": "update many"}], auto_commit=True)

    async def upsert_many(service: Any) -> None:
        await service.upsert_many([{"id": report.id, "title": "upsert many"}], auto_commit=True)

    async def merge(service: Any) -> None:
        await service.repository.session.merge(Report(id=report.id, title="merge"))
        await service.repository.session.commit()

    async def get_and_update(service: Any) -> None:
        await service.get_and_update(match_fields="title", title="merge", summary="new", auto_commit=True)

    for program in (by_id, by_model, upsert, upsert_by_field, update_many, upsert_many, merge, get_and_update):
        alchemy.run(program)
        assert alchemy.held() == locations(report), program.__name__
        assert len(alchemy.rows()) == 1, program.__name__
    assert alchemy.rows()[0]["summary"] == "new"
    assert alchemy.tombstones() == set()


def test_update_and_upsert_replace_files_and_let_the_old_ones_go(alchemy: Alchemy) -> None:
    report = given(alchemy)
    gone: set[str] = set()

    async def update(service: Any) -> Any:
        return await service.update(
            {"file": unsaved(b"updated"), "pages": [report.pages[0], unsaved(b"3")]},
            item_id=report.id,
            auto_commit=True,
        )

    async def update_model(service: Any) -> Any:
        return await service.update(Report(id=report.id, file=alchemy.stage(b"model")), auto_commit=True)

    async def upsert(service: Any) -> Any:
        return await service.upsert({"id": report.id, "title": "x", "file": unsaved(b"upserted")}, auto_commit=True)

    async def clear(service: Any) -> Any:
        return await service.update({"file": None, "pages": []}, item_id=report.id, auto_commit=True)

    before = locations(report)
    for program in (update, update_model, upsert, clear):
        alchemy.run(program)
        gone |= before - alchemy.held()
        assert alchemy.tombstones() == gone, program.__name__
        before = alchemy.held()
    assert alchemy.held() == set()


def test_delete_lets_the_files_go(alchemy: Alchemy) -> None:
    report = given(alchemy)

    async def delete(service: Any) -> None:
        await service.delete(report.id, auto_commit=True)

    alchemy.run(delete)
    assert alchemy.tombstones() == locations(report)
    alchemy.collect()
    assert alchemy.stored() == set()


def test_files_of_rows_that_are_deleted_in_bulk_are_found_by_the_reconcile(alchemy: Alchemy) -> None:
    reports = [given(alchemy, title) for title in ("a", "b", "c")]

    async def delete_many(service: Any) -> None:
        await service.delete_many([reports[0].id], auto_commit=True)

    async def delete_where(service: Any) -> None:
        await service.delete_where(Report.title == "b", auto_commit=True)

    alchemy.run(delete_many)
    alchemy.run(delete_where)
    assert alchemy.held() == locations(reports[2])
    alchemy.collect()


def test_a_bulk_update_writes_fresh_and_held_files_and_no_others(alchemy: Alchemy) -> None:
    first, second = given(alchemy, "first"), given(alchemy, "second")
    old = alchemy.old()

    async def fresh(service: Any) -> None:
        await service.update_many(
            [{"id": first.id, "file": alchemy.stage(b"fresh")}, {"id": second.id, "pages": [alchemy.stage(b"page")]}],
            auto_commit=True,
        )

    async def held(service: Any) -> None:
        await service.update_many([{"id": first.id, "file": second.file}], auto_commit=True)

    async def stale(service: Any) -> None:
        await service.update_many([{"id": first.id, "file": old}], auto_commit=True)

    async def stale_in_list(service: Any) -> None:
        await service.upsert_many([Report(id=first.id, title="first", pages=[old])], auto_commit=True)

    alchemy.run(fresh)
    alchemy.run(held)
    assert len(alchemy.held()) == 4
    alchemy.run(stale, status=409)
    alchemy.run(stale_in_list, status=409)
    assert old.location not in alchemy.held()
    alchemy.collect()


def test_a_bulk_write_stores_what_is_unsaved(alchemy: Alchemy) -> None:
    report = given(alchemy)

    async def update_many(service: Any) -> Any:
        [row] = await service.update_many([{"id": report.id, "file": unsaved(b"bulk", filename="b.txt")}])
        await service.repository.session.commit()
        return row.file

    async def upsert_many(service: Any) -> Any:
        rows = [
            Report(id=report.id, title="there", file=unsaved(b"there"), pages=[unsaved(b"page")]),
            Report(id=uuid4(), title="new", file=unsaved(b"new")),
        ]
        return [row.file for row in await service.upsert_many(rows, auto_commit=True)]

    async def too_large(service: Any) -> Any:
        await service.update_many([{"id": report.id, "file": unsaved(b"x" * 1001)}], auto_commit=True)

    file = alchemy.run(update_many)
    assert isinstance(file, StoredObjectRef)
    assert (file.original_filename, alchemy.manager.get(file)) == ("b.txt", b"bulk")
    assert {alchemy.manager.get(file) for file in alchemy.run(upsert_many)} == {b"there", b"new"}
    assert len(alchemy.held()) == 3
    alchemy.run(too_large, status=413)
    alchemy.collect()


def test_a_request_that_fails_leaves_neither_rows_nor_files(alchemy: Alchemy) -> None:
    given(alchemy)

    async def twice(service: Any) -> None:
        await service.create({"title": "given", "file": unsaved(b"second")}, auto_commit=True)

    async def stale(service: Any) -> None:
        with pytest.raises(StaleRefError):
            await service.create({"title": "stale", "file": alchemy.old()}, auto_commit=True)

    alchemy.run(twice, status=409)
    alchemy.run(stale)
    assert len(alchemy.rows()) == 1
    alchemy.collect()


def test_audit_columns_follow_a_change_of_a_file_alone(alchemy: Alchemy) -> None:
    report = given(alchemy)
    created, updated = report.created_at, report.updated_at

    async def append(service: Any) -> Any:
        row = await service.get(report.id)
        row.pages.append(alchemy.stage(b"3"))
        await service.repository.session.commit()
        return row

    row = alchemy.run(append)
    assert row.created_at == created
    assert row.updated_at > updated
    assert len(row.pages) == 3


@pytest.mark.parametrize("alchemy_url", ["sqlite", "aiosqlite", "psycopg", "asyncpg"], indirect=True)
def test_keys_that_the_database_gives(alchemy_url: str) -> None:
    with Alchemy(alchemy_url, model=Bill).running() as alchemy:

        async def program(service: Any) -> Any:
            bill = await service.create({"number": 1, "scan": unsaved(b"1")}, auto_commit=True)
            await service.update({"scan": unsaved(b"2")}, item_id=bill.id, auto_commit=True)
            await service.upsert_many([{"number": 1, "scan": alchemy.stage(b"3")}], match_fields=["number"])
            await service.repository.session.commit()
            return bill.id

        key = alchemy.run(program)
        assert isinstance(key, int)
        [row] = alchemy.rows()
        assert alchemy.manager.get(row["scan"]) == b"3"
        alchemy.collect()


@pytest.fixture
def alchemy_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


def test_a_row_from_the_cache_has_its_files(tmp_path: Path) -> None:
    """The cache's own serializer would make text of a ref."""
    cache = CacheConfig(
        backend="dogpile.cache.memory", serializer=pickle.dumps, deserializer=lambda data, model: pickle.loads(data)
    )
    with Alchemy(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3", cache_config=cache).running() as alchemy:
        report = given(alchemy)

        async def get(service: Any) -> Any:
            return await service.get(report.id, auto_expunge=True)

        assert alchemy.run(get).title == "given"
        with alchemy.look() as connection:
            connection.execute(Report.__table__.update().values(title="changed behind its back"))
        cached = alchemy.run(get)
        assert cached.title == "given"
        assert cached.file == report.file
        assert list(cached.pages) == list(report.pages)
