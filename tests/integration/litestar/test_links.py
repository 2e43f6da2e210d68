"""Links over real sockets: what whoever has one gets, for how long, and who is sent to the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin, SQLAlchemySyncConfig
from litestar import Litestar, get, post
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult, DefineMiddleware
from litestar.testing import TestClient
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import (
    AsyncStorageManager,
    ConfigurationError,
    LocalStorageBackend,
    MemoryStorageBackend,
    S3StorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
)
from granite_core.events import Event, Served
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileDownload, FileRoute, GraniteConfig, GranitePlugin
from tests.support.s3 import S3Server

from .downloads_support import CountingBackend, client_of, content_of, etag_of, wait_until

CONTENT = content_of(100_000)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRETS = ["s" * 32]


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return NOW + self.ahead


@dataclass
class World:
    clock: Clock
    backend: CountingBackend

    def manager(self, urls: UrlSettings | None = None, *policies: StoragePolicy) -> StorageManager:
        known = [StoragePolicy("docs"), StoragePolicy("open", public=True, immutable=True), *policies]
        settings = urls or UrlSettings(secrets=SECRETS)
        return StorageManager(
            {"main": self.backend}, {each.storage_key: each for each in known}, urls=settings, now=self.clock
        )


@pytest.fixture
def world() -> World:
    return World(Clock(), CountingBackend())


def app_of(manager: StorageManager, *handlers: Any, **options: Any) -> Litestar:
    config = options.pop("granite", {})
    plugins = [*options.pop("plugins", ()), GranitePlugin(GraniteConfig(manager, gc=None, **config))]
    return Litestar(handlers, plugins=plugins, logging_config=None, **options)


@pytest.fixture
def manager(world: World) -> StorageManager:
    return world.manager()


@pytest.fixture
def client(manager: StorageManager) -> Iterator[httpx.Client]:
    with client_of(app_of(manager)) as client:
        yield client


def put(
    manager: StorageManager, content: bytes = CONTENT, name: str = "data.bin", policy: str = "docs"
) -> StoredObjectRef:
    return manager.put_bytes(policy, content=content, original_filename=name)


def said_by_granite(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(each.getMessage() for each in caplog.records if each.name.startswith("granite"))


# -- what whoever has a link gets --------------------------------------------------------------------------------------


def test_a_link_gives_the_file_as_any_download_does(client: httpx.Client, manager: StorageManager) -> None:
    ref = put(manager)
    url = manager.url(ref)
    whole = client.get(url)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert whole.headers["etag"] == etag_of(ref)
    assert whole.headers["last-modified"] == "Sun, 01 Mar 2026 12:00:00 GMT"
    assert whole.headers["content-disposition"] == 'attachment; filename="data.bin"'
    assert whole.headers["cross-origin-resource-policy"] == "cross-origin"
    assert whole.headers["referrer-policy"] == "no-referrer"
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = client.get(url, headers={"Range": "bytes=10-19", "If-Range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, CONTENT[10:20])
    assert client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert client.get(url, headers={"Range": "bytes=999999-"}).status_code == 416
    head = client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))


def test_head_and_304_touch_no_storage(client: httpx.Client, manager: StorageManager, world: World) -> None:
    ref = put(manager)
    world.backend.forget()
    client.head(manager.url(ref))
    client.get(manager.url(ref), headers={"If-None-Match": etag_of(ref)})
    assert world.backend.opened == []


def test_the_name_at_its_end_is_decoration(client: httpx.Client, manager: StorageManager) -> None:
    url = manager.url(put(manager, b"<html>", "page.html"))
    token = url.split("/")[2]
    for name in ("x", "page.txt", "image.png", quote("ü b?#", safe=""), "..."):
        answer = client.get(f"/files/{token}/{name}")
        assert answer.content == b"<html>"
        assert answer.headers["content-disposition"] == 'attachment; filename="page.html"'
        assert answer.headers["content-type"].startswith("text/html")
        assert "sandbox" in answer.headers["content-security-policy"]


def test_names_and_dispositions_of_a_link_are_its_own(client: httpx.Client, manager: StorageManager) -> None:
    ref = put(manager, b"hello", "a.txt")
    assert client.get(manager.url(ref)).headers["content-disposition"] == 'inline; filename="a.txt"'
    url = manager.url(ref, disposition="attachment", filename="né/b.txt")
    expected = 'attachment; filename="b.txt"'
    assert client.get(url).headers["content-disposition"] == expected


def test_a_link_lasts_until_its_end_and_copies_no_longer(
    client: httpx.Client, manager: StorageManager, world: World
) -> None:
    url = manager.url(put(manager), expires_in=timedelta(minutes=10))
    assert client.get(url).headers["cache-control"] == "private, max-age=660"
    world.clock.ahead = timedelta(minutes=10, seconds=50)
    assert client.get(url).headers["cache-control"] == "private, max-age=10"
    world.clock.ahead = timedelta(minutes=11)
    gone = client.get(url)
    assert gone.status_code == 410
    assert gone.json() == {
        "status_code": 410, "detail": "The link or token has expired.", "extra": {"code": "token_expired"}
    }  # fmt: skip
    assert gone.headers["cache-control"] == "no-store"
    assert client.head(url).status_code == 410


def test_what_is_no_link_of_ours_is_not_found(client: httpx.Client, manager: StorageManager, world: World) -> None:
    url = manager.url(put(manager))
    token = url.split("/")[2]
    stranger = world.manager(UrlSettings(secrets=["x" * 32])).url(put(manager))
    flipped = token[:20] + ("A" if token[20] != "A" else "B") + token[21:]
    for wrong in (
        flipped,
        token[:-1],
        token + "A",
        token[:10],
        "x",
        "%00",
        "a" * 20_000,
        quote("ü"),
        stranger.split("/")[2],
    ):
        answer = client.get(f"/files/{wrong}/data.bin")
        assert answer.status_code in (404, 431), wrong[:30]
    answer = client.get(f"/files/{flipped}/data.bin")
    assert answer.json()["extra"] == {"code": "token_invalid"}
    assert answer.headers["cache-control"] == "no-store"
    assert client.get(f"/files/{token}").status_code == 404
    assert client.post(url).status_code == 405


def test_an_object_that_is_gone_is_not_found(
    client: httpx.Client, manager: StorageManager, caplog: pytest.LogCaptureFixture
) -> None:
    ref = put(manager)
    url = manager.url(ref)
    manager.delete(ref)
    with caplog.at_level(logging.INFO, "granite"):
        assert client.get(url).status_code == 404
    assert url.split("/")[2] not in said_by_granite(caplog)


def test_what_fails_leaves_no_link_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    manager = world.manager()
    url = manager.url(put(manager))
    world.backend.reported_size = 5
    with caplog.at_level(logging.INFO, "granite"), client_of(app_of(manager)) as client:
        assert client.get(url).status_code == 500
    assert "checksum_mismatch" in said_by_granite(caplog)
    assert url.split("/")[2] not in said_by_granite(caplog)


def test_a_public_link_may_be_kept_by_everybody(client: httpx.Client, manager: StorageManager, world: World) -> None:
    url = manager.url(put(manager, policy="open"))
    world.clock.ahead = timedelta(days=3000)
    assert client.get(url).headers["cache-control"] == "public, max-age=31536000, immutable"
    closed = world.manager(None, StoragePolicy("open"))
    with client_of(app_of(closed)) as later:
        assert later.get(url).status_code == 404


# -- workers and secrets -----------------------------------------------------------------------------------------------


def test_workers_with_the_same_secrets_give_and_answer_the_same_links(world: World) -> None:
    one, two = world.manager(), world.manager()
    ref = put(one)
    assert one.url(ref) == two.url(ref)
    with client_of(app_of(two)) as client:
        assert client.get(one.url(ref)).content == CONTENT


def test_links_survive_a_new_secret_until_the_old_one_is_taken_away(world: World) -> None:
    ref = put(world.manager())
    old = world.manager().url(ref)
    during = world.manager(UrlSettings(secrets=["n" * 32, *SECRETS]))
    with client_of(app_of(during)) as client:
        assert client.get(old).status_code == 200
        assert client.get(during.url(ref)).status_code == 200
    with client_of(app_of(world.manager(UrlSettings(secrets=["n" * 32])))) as client:
        assert client.get(old).status_code == 404
        assert client.get(during.url(ref)).status_code == 200


# -- beside the application's own settings -----------------------------------------------------------------------------


class Nobody(AbstractAuthenticationMiddleware):
    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        raise NotAuthorizedException


def test_a_link_needs_no_login_and_is_not_compressed(manager: StorageManager) -> None:
    @get("/private")
    async def private() -> str:
        return "x"

    app = app_of(
        manager,
        private,
        middleware=[DefineMiddleware(Nobody)],
        compression_config=CompressionConfig(backend="gzip", minimum_size=1),
        cors_config=CORSConfig(allow_origins=["https://other.example"]),
    )
    url = manager.url(put(manager, b"x" * 10_000, "a.txt"))
    with client_of(app) as client:
        assert client.get("/private").status_code == 401
        answer = client.get(url, headers={"Accept-Encoding": "gzip", "Origin": "https://other.example"})
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers
        assert "Content-Disposition" in answer.headers["access-control-expose-headers"]


def test_guards_of_the_whole_application_hold_for_links_too(manager: StorageManager) -> None:
    def nobody(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        raise NotAuthorizedException

    with client_of(app_of(manager, guards=[nobody])) as client:
        assert client.get(manager.url(put(manager))).status_code == 401


def test_an_application_under_a_path_answers_its_links_there(world: World) -> None:
    manager = world.manager(UrlSettings(secrets=SECRETS, path="/api/links", public_url="https://app.example"))
    url = manager.url(put(manager))
    assert url.startswith("https://app.example/api/links/")
    with client_of(app_of(manager, path="/api")) as client:
        assert client.get(urlsplit(url).path).status_code == 200
    with pytest.raises(ConfigurationError, match="/api/files"):
        app_of(world.manager(), path="/api")


def test_without_secrets_there_is_no_route(world: World) -> None:
    app = app_of(world.manager(UrlSettings()))
    assert not [route.path for route in app.routes if route.path.startswith("/files")]


def test_handlers_make_links_of_what_they_are_given(manager: StorageManager) -> None:
    ref = put(manager)

    @get("/link")
    async def link(files: NamedDependency[AsyncStorageManager]) -> str:
        return await files.url(ref)

    with client_of(app_of(manager, link)) as client:
        assert client.get(client.get("/link").text).content == CONTENT


def test_the_description_tells_of_links(manager: StorageManager) -> None:
    schema = app_of(manager).openapi_schema.to_schema()
    path = schema["paths"]["/files/{token}/{filename}"]
    assert {"200", "206", "304", "404", "410", "412", "416"} <= path["get"]["responses"].keys()
    assert "302" not in path["get"]["responses"]
    assert path["get"]["operationId"] == "getFileLink"


# -- sending clients to the store --------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Paper(Base):
    __tablename__ = "link_paper"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("papers")


@dataclass
class Library:
    """An application with papers 1 (text) and 2 (a page), in whatever backend."""

    manager: StorageManager
    folder: Path

    def app(self, **route: Any) -> Litestar:
        alchemy = SQLAlchemySyncConfig(
            connection_string=f"sqlite:///{self.folder}/db.sqlite3", metadata=Base.metadata, create_all=True
        )
        self.manager.register(Base)
        Base.metadata.create_all(alchemy.get_engine())
        with alchemy.get_session() as session:
            if session.get(Paper, 1) is None:
                put = self.manager.put_bytes
                session.add(Paper(id=1, file=put("papers", content=b"hello", original_filename="né.txt")))
                session.add(Paper(id=2, file=put("papers", content=b"<html>", original_filename="page.html")))
                session.commit()
            self.refs = {each.id: each.file for each in session.query(Paper)}

        @post("/export")
        async def export() -> FileDownload:
            return FileDownload(self.refs[1], filename="export.txt")

        route = {"public": True, **route}
        downloads = [FileRoute("/papers/{id:int}/file", Paper.file, **route)]
        return app_of(self.manager, export, plugins=[SQLAlchemyPlugin(alchemy)], granite={"downloads": downloads})


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[S3StorageBackend]:
    bucket = s3_server.create_bucket()
    client = s3_server.client()
    yield S3StorageBackend(
        bucket, "some/where", client, atomic_create=False, public_url=f"{s3_server.endpoint}/{bucket}"
    )
    client.close()
    s3_server.drop_bucket(bucket)


def library(tmp_path: Path, backend: Any, **policy: Any) -> Library:
    settings = UrlSettings(secrets=SECRETS)
    return Library(StorageManager({"main": backend}, [StoragePolicy("papers", **policy)], urls=settings), tmp_path)


def fetch(url: str, **request: Any) -> httpx.Response:
    with httpx.Client(trust_env=False) as store:
        return store.request(request.pop("method", "GET"), url, **request)


def test_clients_are_sent_to_the_store_and_get_the_file_there(tmp_path: Path, s3: S3StorageBackend) -> None:
    shelf = library(tmp_path, s3, delivery="redirect")
    heard: list[Event] = []
    shelf.manager.listen(heard.append, Served)
    with client_of(shelf.app()) as client:
        sent = client.get("/papers/1/file")
        assert wait_until(lambda: heard)
        [told] = heard
        assert isinstance(told, Served)
        assert (told.status, told.sent, told.size, told.complete) == (302, 0, 5, True)
        assert (sent.status_code, sent.content, sent.headers["content-length"]) == (302, b"", "0")
        assert sent.headers["cache-control"] == "no-store"
        found = fetch(sent.headers["location"])
        assert (found.status_code, found.content) == (200, b"hello")
        assert found.headers["content-type"] == "text/plain; charset=utf-8"
        assert found.headers["content-disposition"] == "inline; filename=\"ne.txt\"; filename*=UTF-8''n%C3%A9.txt"
        assert found.headers["cache-control"] == "private"
        assert fetch(sent.headers["location"], headers={"Range": "bytes=1-2"}).content == b"el"
        saved = fetch(client.get("/papers/1/file?download").headers["location"])
        assert saved.headers["content-disposition"].startswith("attachment")
        page = fetch(client.get("/papers/2/file").headers["location"])
        assert page.headers["content-disposition"] == 'attachment; filename="page.html"'


def test_head_is_sent_to_where_head_is_answered(tmp_path: Path, s3: S3StorageBackend) -> None:
    with client_of(library(tmp_path, s3, delivery="auto").app()) as client:
        sent = client.head("/papers/1/file")
        assert sent.status_code == 302
        found = fetch(sent.headers["location"], method="HEAD")
        assert (found.status_code, found.headers["content-length"]) == (200, "5")


def test_other_methods_are_sent_to_a_get(tmp_path: Path, s3: S3StorageBackend) -> None:
    with client_of(library(tmp_path, s3, delivery="redirect").app()) as client:
        sent = client.post("/export")
        assert sent.status_code == 303
        assert 'filename="export.txt"' in fetch(sent.headers["location"]).headers["content-disposition"]


def test_who_may_not_have_the_file_is_sent_nowhere(tmp_path: Path, s3: S3StorageBackend) -> None:
    app = library(tmp_path, s3, delivery="redirect").app(public=False, authorize=lambda row, _: row.id == 2)
    with client_of(app) as client:
        refused = client.get("/papers/1/file")
        assert (refused.status_code, refused.headers.get("location")) == (403, None)
        assert client.get("/papers/2/file").status_code == 302
        assert client.get("/papers/3/file").status_code == 404


def test_what_was_sent_out_cannot_be_bent(tmp_path: Path, rgw: S3Server) -> None:
    bucket = rgw.create_bucket()
    shelf = library(tmp_path, S3StorageBackend(bucket, client=rgw.client(), atomic_create=False), delivery="redirect")
    with client_of(shelf.app()) as client:
        url = client.get("/papers/2/file").headers["location"]
    assert fetch(url).status_code == 200
    assert fetch(url.replace("attachment", "inline")).status_code == 403
    assert fetch(url.replace("page.html", "other.html")).status_code == 403
    assert fetch(url.replace("X-Amz-Expires=990", "X-Amz-Expires=99000")).status_code == 403
    assert fetch(url.partition("?")[0]).status_code == 403
    rgw.drop_bucket(bucket)


def test_a_route_may_say_how_its_files_are_delivered(tmp_path: Path, s3: S3StorageBackend) -> None:
    shelf = library(tmp_path, s3, delivery="redirect")
    with client_of(shelf.app(delivery="stream")) as client:
        assert client.get("/papers/1/file").content == b"hello"


def test_a_laptop_streams_what_the_store_would_give(tmp_path: Path) -> None:
    local = LocalStorageBackend(tmp_path / "files", durable=False)
    with client_of(library(tmp_path, local, delivery="auto").app()) as client:
        assert client.get("/papers/1/file").content == b"hello"


@pytest.mark.parametrize(("policy", "route"), [("redirect", None), ("stream", "redirect")])
def test_redirecting_from_a_store_that_cannot_is_refused_at_the_start(tmp_path: Path, policy: Any, route: Any) -> None:
    with pytest.raises(ConfigurationError, match='"auto"'):
        library(tmp_path, MemoryStorageBackend(), delivery=policy).app(delivery=route)


def test_a_link_too_long_for_the_store_is_ours_and_redirects(tmp_path: Path, s3: S3StorageBackend) -> None:
    shelf = library(tmp_path, s3, delivery="redirect")
    with client_of(shelf.app()) as client:
        url = shelf.manager.url(shelf.refs[1], expires_in=timedelta(days=30), filename="long.txt")
        sent = client.get(url)
        assert sent.status_code == 302
        assert sent.headers["cache-control"] == "private, max-age=450"
        assert 'filename="long.txt"' in fetch(sent.headers["location"]).headers["content-disposition"]


def test_two_visits_are_sent_to_one_address_so_that_browsers_cache(tmp_path: Path, s3: S3StorageBackend) -> None:
    shelf = library(tmp_path, s3, delivery="redirect")
    moment = datetime.now(UTC)
    shelf.manager.now = lambda: moment  # type: ignore[misc]
    with client_of(shelf.app()) as client:
        assert len({client.get("/papers/1/file").headers["location"] for _ in range(3)}) == 1


def test_the_description_tells_of_the_way_to_the_store(tmp_path: Path, s3: S3StorageBackend) -> None:
    schema = library(tmp_path, s3, delivery="auto").app().openapi_schema.to_schema()
    for path in ("/papers/{id}/file", "/files/{token}/{filename}"):
        for method in ("get", "head"):
            assert schema["paths"][path][method]["responses"]["302"]["headers"].keys() == {"Location", "Cache-Control"}
    assert "303" in schema["paths"]["/export"]["post"]["responses"]


# -- public files in the store -----------------------------------------------------------------------------------------


def open_to_all(s3: S3StorageBackend) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{s3.bucket}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    s3.client.put_bucket_policy(Bucket=s3.bucket, Policy=policy)


def test_public_files_come_from_the_bucket_marked_with_how_to_treat_them(tmp_path: Path, s3: S3StorageBackend) -> None:
    open_to_all(s3)
    shelf = library(tmp_path, s3, public=True, cache_max_age=timedelta(days=7), immutable=True, delivery="redirect")
    with client_of(shelf.app()) as client:
        text, page = (shelf.manager.url(shelf.refs[number]) for number in (1, 2))
        assert "?" not in text
        found = fetch(text)
        assert (found.status_code, found.content) == (200, b"hello")
        assert found.headers["cache-control"] == "public, max-age=604800, immutable"
        assert found.headers["content-disposition"].startswith("inline")
        assert fetch(page).headers["content-disposition"] == 'attachment; filename="page.html"'
        sent = client.get("/papers/1/file")
        assert (sent.status_code, sent.headers["location"]) == (302, text)
    copied = shelf.manager.copy(shelf.refs[2])
    assert fetch(shelf.manager.url(copied)).headers["content-disposition"] == 'attachment; filename="page.html"'


def test_a_public_link_of_ours_works_where_there_is_no_store_to_ask(tmp_path: Path) -> None:
    shelf = library(tmp_path, LocalStorageBackend(tmp_path / "files", durable=False), public=True)
    with TestClient(shelf.app()) as client:
        assert client.get(shelf.manager.url(shelf.refs[1])).text == "hello"
