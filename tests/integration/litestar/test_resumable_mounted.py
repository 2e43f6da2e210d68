"""Resumable uploads beside the rest of an application: its CORS, its subjects and context, its hooks, its logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, Request, delete, get, post
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.params import FromPath
from litestar.testing import TestClient
from sqlalchemy.ext.asyncio import create_async_engine

from granite_core import (
    Announcement,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    UploadDeniedError,
    UrlSettings,
)
from granite_litestar import GraniteConfig, GranitePlugin, ResumableUploads, TokenConfig, finished_upload
from tests.support.resumable_app import Base

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}
PARTNER, STUDIO, STRANGER = "https://partner.example", "https://studio.example", "https://stranger.example"

SOME = "abcdefghijklmnopqrstuv2345"

Client = TestClient[Litestar]


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    @contextmanager
    def serve(
        *routes: ResumableUploads, cors: CORSConfig | None = None, path: str = "", before: Any = None, **config: Any
    ) -> Iterator[tuple[Client, MemoryStorageBackend]]:
        backend = MemoryStorageBackend()
        policies = [
            StoragePolicy("videos", max_size=100, before_upload=[before] if before else []),
            StoragePolicy("tenants", key_template="{tenant}"),
        ]
        manager = StorageManager(
            {"main": backend}, policies, urls=UrlSettings(secrets=["x" * 40], path=f"{path}/files")
        )
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3")

        @delete("/documents/{number:int}")
        async def remove(number: FromPath[int]) -> None: ...

        @get("/uploads/statistics")
        async def count() -> int:
            return 0

        async def make_tables() -> None:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)

        plugin = GranitePlugin(
            GraniteConfig(manager=manager, engines=[engine], models=[Base], gc=None, uploads=routes, **config)
        )

        @post("/videos")
        async def attach(request: Request[Any, Any, Any]) -> int:
            return (await finished_upload(request, (await request.json())["token"], "videos")).size

        app = Litestar(
            [remove, count, attach],
            plugins=[plugin],
            on_startup=[make_tables],
            cors_config=cors,
            path=path,
            response_cookies={"one": "1", "two": "2"},
            logging_config=None,  # caplog hears nothing otherwise
        )
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client, backend

    return serve


def strict() -> CORSConfig:
    return CORSConfig(
        allow_origins=[PARTNER],
        allow_methods=["GET"],
        allow_headers=["Accept"],
        expose_headers=["X-Total"],
        allow_credentials=True,
        max_age=7,
    )


def videos(path: str = "/uploads", **options: Any) -> ResumableUploads:
    return ResumableUploads(path, storage_key="videos", public=True, **options)


def preflight(client: Client, path: str, origin: str, method: str = "PATCH", headers: str = "") -> Any:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return client.options(path, headers=asked | ({"Access-Control-Request-Headers": headers} if headers else {}))


def about_origins(answer: Any) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_of_other_routes_the_cors_config_says_what_it_said(serve: Any) -> None:
    told = []
    for routes in ([], [videos(allow_origins=["*"])]):
        with serve(*routes, cors=strict()) as (client, _):
            asked = [preflight(client, "/documents/1", origin, "DELETE") for origin in (PARTNER, STRANGER)]
            asked += [client.delete("/documents/1", headers={"Origin": origin}) for origin in (PARTNER, STRANGER)]
            asked += [preflight(client, "/uploads/statistics", PARTNER, "DELETE")]
            asked += [client.get(path, headers={"Origin": PARTNER}) for path in ("/nowhere", "/uploads/statistics")]
            told.append(
                [(each.status_code, each.text, about_origins(each), each.headers.get("vary")) for each in asked]
            )
    assert told[0] == told[1]
    assert told[0][0][0] == 400


@pytest.mark.parametrize("path", ["", "/api"])
def test_origins_of_the_cors_config_may_upload_though_it_allows_less_elsewhere(serve: Any, path: str) -> None:
    with serve(videos(), cors=strict(), path=path) as (client, _):
        for place in (f"{path}/uploads", f"{path}/uploads/{SOME}"):
            asked = preflight(client, place, PARTNER, headers="tus-resumable")
            assert (asked.status_code, asked.content) == (204, b"")
            said = about_origins(asked)
            assert said["access-control-allow-origin"] == PARTNER
            assert said["access-control-allow-credentials"] == "true"
            assert said["access-control-max-age"] == "7"
            assert "PATCH" in said["access-control-allow-methods"]
            assert {"Upload-Offset", "accept"} <= set(said["access-control-allow-headers"].split(", "))
            assert asked.headers["tus-max-size"] == "100"
            assert not about_origins(preflight(client, place, STRANGER))
        made = client.post(f"{path}/uploads", headers={**TUS, "Upload-Length": "1", "Origin": PARTNER})
        assert made.headers["location"].startswith(f"{path}/uploads/")
        assert made.headers["access-control-allow-credentials"] == "true"
        assert {"Location", "X-Total"} <= set(made.headers["access-control-expose-headers"].split(", "))
        assert made.headers["vary"] == "Origin"
        assert len(made.headers.get_list("set-cookie")) == 2, "what else an answer says stays"
        assert not about_origins(client.post(f"{path}/uploads", headers={**TUS, "Origin": STRANGER}))


def test_origins_that_a_route_names_hold_beside_a_cors_config(serve: Any) -> None:
    with serve(videos(allow_origins=[STUDIO]), cors=strict()) as (client, _):
        asked = about_origins(preflight(client, "/uploads", STUDIO, "POST"))
        assert asked["access-control-allow-origin"] == STUDIO
        assert "access-control-allow-credentials" not in asked, "cookies are the CORSConfig's to allow"
        made = client.post("/uploads", headers={**TUS, "Upload-Length": "1", "Origin": STUDIO})
        assert about_origins(made)["access-control-allow-origin"] == STUDIO
        refused = client.post("/uploads", headers={"Origin": STUDIO})
        assert refused.status_code == 412
        assert about_origins(refused)["access-control-allow-origin"] == STUDIO, "a page must be able to read why"
        for path in ("/uploads", "//uploads", "/uploads//", f"/uploads/{SOME}/", f"//uploads///{SOME}"):
            place = f"http://testserver.local{path}"
            assert not about_origins(preflight(client, place, PARTNER)), "they are all that may upload here"
            assert not about_origins(client.head(place, headers={**TUS, "Origin": PARTNER}))
            assert about_origins(preflight(client, place, STUDIO))["access-control-allow-origin"] == STUDIO


@pytest.mark.parametrize("own", [[], ["*"], [STUDIO]])
def test_a_config_that_names_no_origin_lets_no_page_send_cookies(serve: Any, own: list[str]) -> None:
    open_to_all = CORSConfig(allow_origins=["*"], allow_credentials=True)
    with serve(videos(allow_origins=own), cors=open_to_all) as (client, _):
        said = about_origins(preflight(client, "/uploads", STUDIO, "POST"))
        cookies = said.get("access-control-allow-credentials") == "true"
        assert not cookies or said["access-control-allow-origin"] == "*", "what browsers refuse, as elsewhere"


def test_headers_of_the_application_may_be_sent_with_an_upload(serve: Any) -> None:
    with serve(videos(allow_origins=["*"])) as (client, _):
        said = about_origins(preflight(client, "/uploads", STRANGER, headers="x-tenant, tus-resumable"))
        assert said["access-control-allow-origin"] == "*"
        assert "x-tenant" in said["access-control-allow-headers"].split(", ")


@pytest.mark.parametrize("tenant", ["a%20b", "a%3Fb", "%E2%82%AC", "%25", "a%23", "x%0D%0ASet-Cookie:%20a=b"])
def test_an_upload_is_where_its_location_says_and_nowhere_else(serve: Any, tenant: str) -> None:
    with serve(videos("/t/{tenant:str}/uploads")) as (client, _):
        for says, asks in (({**TUS, "Upload-Length": "1"}, TUS), ({"Upload-Complete": "?0"}, {})):
            made = client.post(f"/t/{tenant}/uploads", headers=says)
            assert made.status_code == 201
            location = made.headers["location"]
            assert location.isascii()
            assert location.isprintable()
            assert client.head(location, headers=asks).is_success
            elsewhere = f"/t/bob/uploads/{location.rpartition('/')[2]}"
            assert client.head(elsewhere, headers=asks).status_code == 404
            assert client.delete(elsewhere, headers=asks).status_code in (404, 412)
            assert client.head(location, headers=asks).is_success


def user_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    return connection.headers.get("x-user")


def test_uploads_belong_to_whom_tokens_belong_to(serve: Any) -> None:
    with serve(videos(), tokens=TokenConfig(user_of)) as (client, _):
        made = client.post("/uploads", headers={**TUS, "Upload-Length": "1", "X-User": "ann"})
        assert client.head(made.headers["location"], headers={**TUS, "X-User": "ann"}).status_code == 200
        assert client.head(made.headers["location"], headers=TUS).status_code == 404
        said = {**TUS, **BYTES, "Upload-Length": "5", "X-User": "ann"}
        token = client.post("/uploads", content=b"hello", headers=said).headers["granite-upload-token"]
        assert client.post("/videos", json={"token": token}).status_code == 404
        assert client.post("/videos", json={"token": token}, headers={"X-User": "ann"}).text == "5"
        nobodys = client.post("/uploads", headers={**TUS, "Upload-Length": "1"})
        assert client.head(nobodys.headers["location"], headers=TUS).status_code == 200


@pytest.mark.parametrize("of_route", [True, False])
def test_a_subject_that_is_too_long_is_the_clients_fault(serve: Any, of_route: bool) -> None:
    route = videos(subject=user_of) if of_route else videos()
    with serve(route, **({} if of_route else {"tokens": TokenConfig(user_of)})) as (client, _):
        answer = client.post("/uploads", headers={**TUS, "Upload-Length": "1", "X-User": "x" * 256})
        assert answer.status_code == 400
        assert answer.json()["extra"] == {"code": "subject_too_long", "field": "subject", "limit": 255, "value": 256}


def test_the_applications_context_plans_where_an_upload_goes(serve: Any) -> None:
    async def tenant(connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, str]:
        return {"tenant": connection.headers["x-tenant"]}

    route = ResumableUploads("/uploads", storage_key="tenants", public=True)
    with serve(route, context=tenant) as (client, backend):
        said = {**TUS, **BYTES, "Upload-Length": "1", "X-Tenant": "acme"}
        assert client.post("/uploads", content=b"x", headers=said).status_code == 201
        (location,) = backend.iter_locations()
        assert location.startswith("acme/")


def test_a_hook_refuses_an_upload_by_its_connection(serve: Any) -> None:
    def only_ann(announcement: Announcement) -> None:
        if announcement.connection.headers.get("x-user") != "ann":
            raise UploadDeniedError("only ann")

    with serve(videos(), before=only_ann) as (client, _):
        assert client.post("/uploads", headers={**TUS, "Upload-Length": "1"}).status_code == 403
        assert client.post("/uploads", headers={**TUS, "Upload-Length": "1", "X-User": "ann"}).status_code == 201


def test_no_log_tells_where_an_upload_is(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="granite")
    with serve(videos()) as (client, _):
        url = client.post("/uploads", headers={**TUS, "Upload-Length": "5"}).headers["location"]
        for offset in (3, 0):
            client.patch(url, content=b"hello", headers={**TUS, **BYTES, "Upload-Offset": str(offset)})
        client.delete(url, headers=TUS)
        client.head(url, headers=TUS)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("granite")]
    assert any("/uploads/#" in each for each in said)
    assert not any(url.rpartition("/")[2] in each for each in said)
