"""Refs that a client wrote: in a body they are no refs, and one that an application makes of them gets into no row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from advanced_alchemy.extensions.litestar import SQLAlchemyDTO, SQLAlchemyDTOConfig
from hypothesis import given
from hypothesis import strategies as st
from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from sqlalchemy.orm import Session

from granite_core import StoredObjectRef
from granite_litestar import FileView, file_view
from tests.hostile.world import Letter, World

VICTIM = b"what belongs to another tenant"


class ByMsgspec(msgspec.Struct):
    title: str
    file: StoredObjectRef | None = None


class ByPydantic(pydantic.BaseModel, arbitrary_types_allowed=True):
    title: str
    file: StoredObjectRef | None = None


LetterDTO = SQLAlchemyDTO[Annotated[Letter, SQLAlchemyDTOConfig(partial=True)]]


@post("/by-dto", dto=LetterDTO, return_dto=LetterDTO, sync_to_thread=True)
def by_dto(data: JSONBody[Letter], db_session: NamedDependency[Session]) -> Letter:
    data.pages = []
    db_session.add(data)
    db_session.commit()
    return data


def _kept(ref: StoredObjectRef | None, session: Session) -> FileView | None:
    session.add(Letter(title="", file=ref, pages=[]))
    session.commit()
    return None if ref is None else file_view(ref)


@post("/by-msgspec", sync_to_thread=True)
def by_msgspec(data: JSONBody[ByMsgspec], db_session: NamedDependency[Session]) -> FileView | None:
    return _kept(data.file, db_session)


@post("/by-pydantic", sync_to_thread=True)
def by_pydantic(data: JSONBody[ByPydantic], db_session: NamedDependency[Session]) -> FileView | None:
    return _kept(data.file, db_session)


HANDLERS = [by_dto, by_msgspec, by_pydantic]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World.made(tmp_path_factory.mktemp("refs"), *HANDLERS) as world:
        yield world


@pytest.fixture(scope="module")
def victim(world: World) -> StoredObjectRef:
    """Another's file, committed long ago."""
    row = world.put(VICTIM, "secret.txt")
    return next(each.file for each in world.letters() if each.id == row)  # type: ignore[return-value]


def forged(victim: StoredObjectRef) -> list[Any]:
    """What a client might write who knows everything about a file but its key, which nobody is told."""
    whole = victim.to_dict()
    folder = victim.location.rpartition("/")[0]
    return [
        {**whole, "location": f"{folder}/nosuchobject"},
        {**whole, "location": folder},
        {**whole, "location": f"{victim.location}/x"},
        {**whole, "location": f"./{victim.location}"},
        {**whole, "location": "../../../../etc/passwd"},
        {**whole, "location": "/etc/passwd"},
        {**whole, "location": ".granite-store.json"},
        {**whole, "location": "a\0b"},
        {**whole, "location": "\ud800"},
        {**whole, "location": "a" * 5000},
        {**whole, "location": "%"},
        {**whole, "location": "x", "backend": "../other"},
        {**whole, "location": "x", "size": 2**80},
        {**whole, "location": "x", "extra": {"a": 1e300}},
        {**whole, "location": "x", "size": "1"},
        {**whole, "location": ["a"]},
        {**whole, "location": None},
        {},
        [],
        "x",
        7,
        {"storage_key": "letters"},
    ]


async def sent(world: World, path: str, value: Any) -> Any:
    body = json.dumps({"title": "x", "file": value}).encode()
    return await world.ask("POST", path, [body], [("Content-Type", "application/json")])


async def test_a_data_transfer_object_takes_no_ref(world: World, victim: StoredObjectRef) -> None:
    for value in (victim.to_dict(), *forged(victim)):
        answer = await sent(world, "/by-dto", value)
        if answer.status == 201:
            row = UUID(json.loads(answer.body)["id"])
            assert next(each.file for each in world.letters() if each.id == row) is None


@pytest.mark.parametrize("path", ["/by-msgspec", "/by-pydantic"])
async def test_a_model_takes_no_ref_out_of_json(world: World, victim: StoredObjectRef, path: str) -> None:
    assert (await sent(world, path, None)).status == 201
    for value in (victim.to_dict(), *forged(victim)):
        assert (await sent(world, path, value)).status == 400, value


BENT: list[dict[str, Any]] = [
    {"location": "../letters.db"},
    {"location": "x/../../letters.db"},
    {"location": "/etc/passwd"},
    {"location": ".granite-store.json"},
    {"location": "a\0b"},
    {"location": ""},
    {"location": "_"},
    {"backend": "other"},
    {"storage_key": "other"},
    {"size": -1},
    {"size": 2**80},
    {"checksum": "sha256:x\r\nX: y"},
    {"content_type": "text/html\r\nX: y"},
    {"created_at": "9" * 5000},
    {"original_filename": "a\r\nX: y"},
    {"extra": {"filename": "a\r\nX: y"}},
]


@pytest.mark.parametrize("bent", BENT, ids=str)
async def test_a_row_that_somebody_bent_leads_nowhere(
    world: World, victim: StoredObjectRef, bent: dict[str, Any]
) -> None:
    """By whoever can write to the database, or an application that makes refs of what clients send."""
    row = world.insert(file=StoredObjectRef.from_dict({**victim.to_dict(), **bent}))
    with world.judge.server_errors_allowed():
        answer = await world.ask("GET", f"/letters/{row}/file")
    assert answer.body == VICTIM if answer.status == 200 else answer.status in (404, 500)
    with world.engine.begin() as connection:
        connection.execute(sa.delete(Letter).where(Letter.id == row))


KEYS = [*StoredObjectRef("", "", "", 0).to_dict(), "legacy_inline_text", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=9),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_ref_or_a_value_error(value: Any) -> None:
    text = json.dumps(value)
    for read, given_ in ((StoredObjectRef.from_dict, value), (StoredObjectRef.from_json, text)):
        try:
            ref = read(given_)
        except ValueError:
            continue
        assert StoredObjectRef.from_json(ref.to_json()) == ref
        assert ref.location not in repr(ref) or len(ref.location) < 8
