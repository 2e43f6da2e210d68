"""`FileDownload` message by message: what servers do not let a test see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from litestar import Litestar, Response, get, post, route
from litestar.config.app import AppConfig
from litestar.config.compression import CompressionConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.plugins import InitPlugin, ReceiveRoutePlugin
from litestar.response import Redirect
from litestar.routes import BaseRoute

from granite_core import AsyncStorageManager, StorageManager, StoragePolicy
from granite_litestar import DownloadOperation
from granite_litestar._middleware import compression_opt_key, exempt_from_compression, mark_downloads
from granite_litestar._pacing import ChunkPacer
from granite_litestar.responses import FileDownload

from .downloads_support import CountingBackend, content_of

SIZE = 1_000_000
Messages = list[Any]


class Exchange:
    """One request, with the server's side in the test's hands."""

    def __init__(self, backend: CountingBackend, *, headers: dict[str, str] | None = None) -> None:
        manager = StorageManager({"main": backend}, [StoragePolicy("docs", "main")])
        ref = manager.put_bytes("docs", content=content_of(SIZE))

        @get("/file")
        async def serve() -> FileDownload:
            return FileDownload(ref)

        self.app = Litestar([serve], openapi_config=None, logging_config=None)
        self.app.state["granite_manager"] = AsyncStorageManager(manager)
        self.scope: Any = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "scheme": "http", "path": "/file", "raw_path": b"/file", "query_string": b"", "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {}, "extensions": {},
        }  # fmt: skip
        self.sent: Messages = []
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.may_send = asyncio.Event()
        self.may_send.set()

    async def send(self, message: Any) -> None:
        await self.may_send.wait()
        self.sent.append(message)

    async def run(self) -> None:
        await self.app(self.scope, self.incoming.get, self.send)

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


async def test_the_last_bytes_end_the_body_and_nothing_follows() -> None:
    backend = CountingBackend()
    exchange = Exchange(backend)
    await exchange.run()
    assert [message.get("more_body") for message in exchange.sent[1:]].count(False) == 1
    assert exchange.sent[-1]["more_body"] is False
    assert exchange.body == content_of(SIZE)
    assert backend.closed == 1


async def test_several_parts_are_opened_and_closed_one_after_another() -> None:
    backend = CountingBackend()
    exchange = Exchange(backend, headers={"Range": "bytes=0-9,500000-599999,-5"})
    await exchange.run()
    assert exchange.sent[0]["status"] == 206
    assert dict(exchange.sent[0]["headers"])[b"content-length"] == str(len(exchange.body)).encode()
    assert exchange.sent[-1]["more_body"] is False
    assert backend.closed == len(backend.opened) == 3


async def test_a_disconnect_ends_the_response_at_the_next_chunk() -> None:
    backend = CountingBackend()
    exchange = Exchange(backend)
    backend.read_seconds = 0.02
    exchange.incoming.put_nowait({"type": "http.disconnect"})
    await exchange.run()
    assert backend.bytes_read <= 2 * ChunkPacer.SMALLEST
    assert backend.closed == 1
    assert exchange.sent[-1].get("more_body", True) is not False


async def test_a_failure_after_the_disconnect_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    backend = CountingBackend(fail_after=0)
    exchange = Exchange(backend)
    backend.read_seconds = 0.05
    exchange.incoming.put_nowait({"type": "http.disconnect"})
    await exchange.run()
    assert backend.closed == 1
    assert "failed" not in caplog.text


@pytest.mark.parametrize("steps", range(4))
async def test_a_cancelled_response_closes_its_reader(steps: int) -> None:
    backend = CountingBackend()
    exchange = Exchange(backend)
    backend.read_seconds = 0.01
    exchange.may_send.clear()
    task = asyncio.create_task(exchange.run())
    for _ in range(steps):
        await asyncio.sleep(0.03)
        exchange.may_send.set()
        await asyncio.sleep(0)
        exchange.may_send.clear()
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.closed == len(backend.opened)


async def test_a_send_that_fails_closes_the_reader() -> None:
    backend = CountingBackend()
    exchange = Exchange(backend)

    async def refuse(message: Any) -> None:
        if exchange.sent:
            raise OSError("the connection is gone")
        exchange.sent.append(message)

    with pytest.raises(Exception, match="after response started"):
        await exchange.app(exchange.scope, exchange.incoming.get, refuse)
    assert backend.closed == len(backend.opened) == 1


def test_chunks_grow_for_prompt_peers_and_shrink_for_slow_ones() -> None:
    pacer = ChunkPacer()
    sizes = []
    for _ in range(300):
        sizes.append(pacer.size)
        pacer.sent(pacer.size, 0.0)
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (32 * 1024, 1024 * 1024)
    assert sizes.count(32 * 1024) == 129  # what a kernel takes for a peer that reads nothing shows nothing
    for _ in range(10):
        pacer.sent(pacer.size, 0.5)
    assert pacer.size == 32 * 1024


def test_handlers_that_say_they_return_files_are_marked() -> None:
    class Marks(InitPlugin, ReceiveRoutePlugin):
        key = ""

        def on_app_init(self, app_config: AppConfig) -> AppConfig:
            exempt_from_compression(app_config)
            self.key = compression_opt_key(app_config)
            return app_config

        def receive_route(self, route: BaseRoute) -> None:
            mark_downloads(route, self.key)

    @route("/file/{name:str}", http_method=["GET", "HEAD"])
    async def file(name: FromPath[str]) -> FileDownload:
        raise NotImplementedError

    @get("/maybe")
    async def maybe() -> FileDownload | None:
        raise NotImplementedError

    @get("/text")
    async def text() -> str:
        return ""

    @get("/hidden", operation_class=DownloadOperation)
    async def hidden() -> Response[Any]:
        raise NotImplementedError

    @get("/named", operation_id="getNamed", responses={404: ResponseSpec(None, description="None of that name.")})
    async def named() -> FileDownload:
        raise NotImplementedError

    @post("/convert")
    async def convert() -> FileDownload | Redirect:
        raise NotImplementedError

    handlers = [file, maybe, text, hidden, named, convert]
    app = Litestar(handlers, plugins=[Marks()], compression_config=CompressionConfig(backend="gzip"))
    marked = {
        handler.fn.__name__: dict(handler.opt)
        for each in app.routes
        for handler in getattr(each, "route_handlers", ())
        if handler.fn in [each.fn for each in handlers]
    }
    assert marked == {
        "file": {"exclude_from_compression": True},
        "convert": {"exclude_from_compression": True},
        "hidden": {"exclude_from_compression": True},
        "maybe": {"exclude_from_compression": True},
        "named": {"exclude_from_compression": True},
        "text": {},
    }
    paths = app.openapi_schema.to_schema()["paths"]
    assert "206" in paths["/file/{name}"]["get"]["responses"]
    assert paths["/file/{name}"]["head"]["responses"].keys() == {"200", "304", "400", "412"}
    perhaps = paths["/maybe"]["get"]["responses"]["200"]
    assert perhaps["content"].keys() == {"*/*", "application/json"}
    assert not any(header["required"] for header in perhaps["headers"].values())
    assert paths["/convert"]["post"]["responses"].keys() == {"200", "201", "404", "500", "503"}
    assert paths["/hidden"]["get"]["responses"].keys() == paths["/maybe"]["get"]["responses"].keys()
    assert "206" not in paths["/text"]["get"]["responses"]
    assert paths["/named"]["get"]["operationId"] == "getNamed"
    assert paths["/named"]["get"]["responses"]["404"]["description"] == "None of that name."
