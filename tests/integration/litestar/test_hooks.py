"""A policy's hooks hear of uploads before their first byte, with the connection that brings them."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from litestar import Litestar, Request, post, put
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.testing import TestClient

from granite_core import (
    Announcement,
    AsyncStorageManager,
    MemoryStorageBackend,
    StagedFile,
    StorageManager,
    StoragePolicy,
    UploadDeniedError,
    ValidationFailedError,
)
from granite_litestar import GraniteConfig, GranitePlugin, MultipartBody, RawUpload, Upload, UploadDTO

ASKED: list[Announcement] = []


async def only_ann(announced: Announcement) -> None:
    ASKED.append(announced)
    user = announced.connection.headers.get("x-user")
    if user is None:
        raise NotAuthorizedException("Who are you?")
    if user != "ann":
        raise UploadDeniedError("only Ann may")


def nothing_large(announced: Announcement) -> None:
    if announced.filename == "large.txt":
        raise ValidationFailedError("your room is used up", code="quota", limit=10, value=11)


class Letter(UploadDTO):
    text: str
    file: Annotated[StagedFile, Upload("notes")]


@post("/form")
async def form(data: MultipartBody[Letter]) -> str:
    return data.text


@put("/raw")
async def raw(data: Annotated[StagedFile, RawUpload("notes")]) -> None:
    assert data.size


@post("/code")
async def code(files: NamedDependency[AsyncStorageManager], request: Request[Any, Any, Any]) -> None:
    await files.put("notes", await request.body())


@pytest.fixture
def backend() -> MemoryStorageBackend:
    ASKED.clear()
    return MemoryStorageBackend()


@pytest.fixture
def client(backend: MemoryStorageBackend) -> Any:
    policy = StoragePolicy("notes", before_upload=[only_ann, nothing_large])
    plugin = GranitePlugin(GraniteConfig(manager=StorageManager({"main": backend}, [policy]), gc=None))
    with TestClient(Litestar([form, raw, code], plugins=[plugin])) as client:
        yield client


def send(client: Any, way: str, user: str | None, name: str = "a.txt") -> Any:
    headers = {} if user is None else {"x-user": user}
    if way == "form":
        return client.post(
            "/form", data={"text": "hi"}, files={"file": (name, b"hello", "text/plain")}, headers=headers
        )
    if way == "raw":
        return client.put(f"/raw?filename={name}", content=b"hello", headers={"content-type": "text/plain", **headers})
    return client.post("/code", content=b"hello", headers=headers)


@pytest.mark.parametrize("way", ["form", "raw", "code"])
def test_a_hook_answers_by_the_connection_before_anything_is_stored(
    client: Any, backend: MemoryStorageBackend, way: str
) -> None:
    assert send(client, way, None).status_code == 401
    denied = send(client, way, "bob")
    assert denied.status_code == 403
    assert denied.json()["extra"] == {
        "code": "upload_denied",
        "field": {"form": "file", "raw": "data"}.get(way, "notes"),
    }
    assert not [*backend.iter_locations()]
    assert send(client, way, "ann").is_success
    if way != "code":
        assert (ASKED[-1].filename, ASKED[-1].content_type) == ("a.txt", "text/plain")
        assert ASKED[-1].size == (5 if way == "raw" else None)


def test_what_a_hook_finds_wrong_stands_beside_a_form_s_other_errors(
    client: Any, backend: MemoryStorageBackend
) -> None:
    refused = client.post("/form", files={"file": ("large.txt", b"hello")}, headers={"x-user": "ann"})
    assert refused.status_code == 422
    assert [(each["field"], each["code"]) for each in refused.json()["extra"]] == [
        ("text", "required"),
        ("file", "quota"),
    ]
    raw = send(client, "raw", "ann", "large.txt")
    assert (raw.status_code, raw.json()["extra"]) == (422, {"code": "quota", "field": "data", "limit": 10, "value": 11})
    assert not [*backend.iter_locations()]
