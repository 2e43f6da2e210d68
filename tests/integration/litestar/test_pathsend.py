"""Whole files that granian sends by their path, whatever stands between a response and the server."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar, Response, route
from litestar.background_tasks import BackgroundTask
from litestar.config.compression import CompressionConfig
from litestar.logging import LoggingConfig
from litestar.middleware.logging import LoggingMiddlewareConfig
from litestar.params import FromPath
from litestar.plugins.prometheus import PrometheusConfig

from granite_core import (
    LocalStorageBackend,
    MemoryStorageBackend,
    ObjectReader,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.events import Served
from granite_core.testing.conformance.support import assert_same
from granite_litestar import FileDownload, GraniteConfig, GranitePlugin
from tests.support.upload_apps import serve

from .downloads_support import content_of, wait_until

CONTENT = content_of(3_000_000)


class CountedDisk(LocalStorageBackend):
    """Counts how often it is read."""

    opened = 0

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        self.opened += 1
        return super().open_reader(location, offset=offset, length=length)


@dataclass
class World:
    root: Path

    def __post_init__(self) -> None:
        self.disk = CountedDisk(self.root)
        policies = [
            StoragePolicy("files", "main"),
            StoragePolicy("checked", "main", verify_reads=True),
            StoragePolicy("memory", "memory"),
        ]
        self.manager = StorageManager({"main": self.disk, "memory": MemoryStorageBackend()}, policies)
        self.files = {key: self.manager.put_bytes(key, content=CONTENT) for key in ("files", "checked", "memory")}
        self.files["small"] = self.manager.put_bytes("files", content=CONTENT[:60_000])
        self.files["page"] = self.manager.put_bytes("files", content=b"<!doctype html>" + bytes(100_000))
        self.ran: list[str] = []

    def path_of(self, ref: StoredObjectRef) -> Path:
        return self.root / ref.location

    @contextmanager
    def client(self, server: str = "granian", *, pathsend: bool = True, **options: Any) -> Iterator[httpx.Client]:
        @route("/{name:str}", http_method=["GET", "HEAD"])
        async def download(name: FromPath[str]) -> Response[Any]:  # nothing says that this is a file
            return FileDownload(self.files[name], background=BackgroundTask(self.ran.append, name))

        plugins = [GranitePlugin(GraniteConfig(self.manager, gc=None, pathsend=pathsend))]
        app = Litestar([download], plugins=plugins, openapi_config=None, **{"logging_config": None, **options})
        with serve(app, server) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            yield client


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_server_sends_a_whole_file(world: World) -> None:
    told: list[Any] = []
    world.manager.listen(told.append, Served)
    with world.client() as client:
        answer = client.get("/files")
        assert answer.status_code == 200
        assert_same(answer.content, CONTENT)
        assert world.disk.opened == 0
        head = client.head("/files").headers
        assert {name: value for name, value in answer.headers.items() if name not in ("date", "content-digest")} == {
            name: value for name, value in head.items() if name != "date"
        }
        assert wait_until(lambda: len(told) == 2)
    assert [(each.status, each.sent, each.complete) for each in told] == [(200, len(CONTENT), True), (200, 0, True)]
    assert world.ran == ["files", "files"]


@pytest.mark.parametrize(
    ("name", "headers", "status"),
    [
        ("files", {"Range": "bytes=5-2000000"}, 206),
        ("files", {"Range": "bytes=0-9,2000000-2000009"}, 206),
        ("small", {}, 200),
        ("checked", {}, 200),
        ("memory", {}, 200),
    ],
)
def test_what_is_no_whole_large_file_on_disk_is_sent_by_us(
    world: World, name: str, headers: dict[str, str], status: int
) -> None:
    with world.client() as client:
        answer = client.get(f"/{name}", headers=headers)
        assert answer.status_code == status
        assert len(answer.content) == int(answer.headers["content-length"])
        assert (world.disk.opened > 0) == (name != "memory")


def test_it_can_be_turned_off_and_other_servers_do_not_offer_it(world: World) -> None:
    for number, (server, pathsend) in enumerate([("granian", False), ("uvicorn-httptools", True)], start=1):
        with world.client(server, pathsend=pathsend) as client:
            assert_same(client.get("/files").content, CONTENT)
        assert world.disk.opened == number


def test_a_file_that_is_gone_or_cut_is_noticed_before_anything_is_sent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.path_of(world.files["files"]).unlink()
    os.truncate(world.path_of(world.files["page"]), 7)
    with world.client() as client:
        gone = client.get("/files")
        assert (gone.status_code, gone.json()["detail"]) == (404, "The file does not exist.")
        assert client.get("/page").status_code == 500
    assert "is missing" in caplog.text
    assert "has 7 bytes" in caplog.text


@pytest.mark.parametrize("fault", ["unlinked", "cut", "grown"])
def test_a_file_that_changes_behind_the_server_is_never_passed_off_as_the_whole(world: World, fault: str) -> None:
    path = world.path_of(world.files["files"])

    async def meddle(message: Any, scope: Any) -> None:
        if message["type"] == "http.response.pathsend":
            if fault == "unlinked":
                path.unlink()
            elif fault == "cut":
                os.truncate(path, 1_000_000)
            else:
                with path.open("ab") as file:
                    file.write(b"more")

    with world.client(before_send=[meddle]) as client:
        if fault == "cut":
            with pytest.raises(httpx.RemoteProtocolError):
                client.get("/files")
        else:
            answer = client.get("/files")
            assert (answer.status_code, len(answer.content)) == (
                (404, 9) if fault == "unlinked" else (200, len(CONTENT))
            )


# ------------------------------------------------------------------------------------------------------- middleware
def forwards_what_it_knows(app: Any) -> Any:
    """As middleware is written that knows of two messages."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def known(message: Any) -> None:
            if message["type"] in ("http.response.start", "http.response.body"):
                await send(message)

        await app(scope, receive, known)

    return middleware


def holds_the_head_back(app: Any) -> Any:
    """As compression does: the head waits for the first of the body."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        held: list[Any] = []

        async def late(message: Any) -> None:
            if message["type"] == "http.response.start":
                held.append(message)
            elif message["type"] == "http.response.body":
                while held:
                    await send(held.pop())
                await send(message)

        await app(scope, receive, late)

    return middleware


def waits_for_the_end(app: Any) -> Any:
    """As metrics do: the last of the body must come by."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        ended: list[bool] = []

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ended.append(True)
            await send(message)

        await app(scope, receive, counted)
        assert ended == [True]

    return middleware


@pytest.mark.parametrize(
    ("middleware", "by_path"),
    [(forwards_what_it_knows, False), (holds_the_head_back, False), (waits_for_the_end, True)],
)
def test_middleware_that_knows_nothing_of_paths_is_none_the_wiser(
    world: World, middleware: Callable[[Any], Any], by_path: bool
) -> None:
    with world.client(middleware=[middleware]) as client:
        for _ in range(2):
            answer = client.get("/files")
            assert answer.status_code == 200
            assert_same(answer.content, CONTENT)
    assert (world.disk.opened == 0) == by_path


def test_litestar_s_compression_logging_and_metrics_see_what_they_always_see(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, log = PrometheusConfig(prefix="pathsend"), LoggingMiddlewareConfig(logger_name="pathsend")
    options = {
        "middleware": [log.middleware, metrics.middleware],
        "compression_config": CompressionConfig(backend="gzip", minimum_size=1),
        "logging_config": LoggingConfig(
            configure_root_logger=False, disable_existing_loggers=False, loggers={"pathsend": {"level": "INFO"}}
        ),
    }
    log.response_log_fields = ("status_code",)
    with caplog.at_level(logging.INFO), world.client(**options) as client:
        for name in ("files", "page"):
            answer = client.get(f"/{name}", headers={"Accept-Encoding": "gzip"})
            assert answer.status_code == 200
            assert "content-encoding" not in answer.headers
            assert len(answer.content) == world.files[name].size
    assert world.disk.opened == 0
    assert caplog.text.count("HTTP Response: status_code=200") == 2
