"""Small applications with upload routes, and ways to run them: on a real server, or message by message."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from litestar import Litestar
from litestar.config.app import AppConfig

from granite_core import AsyncStorageManager, StorageBackend, StorageManager, StoragePolicy, StoredObjectRef
from granite_litestar import FormLimits, StreamingUploads, exception_handlers, file_view
from granite_litestar._openapi_uploads import FileSchemaPlugin

__all__ = ["SERVERS", "Conversation", "eventually", "make_app", "make_manager", "serve", "stored"]

MB = 1024 * 1024

SERVERS = ("uvicorn-h11", "uvicorn-httptools", "granian")


def make_manager(backend: StorageBackend) -> AsyncStorageManager:
    """`documents` takes up to 1 MiB, `pages` 1 KiB, `texts` only text, `anything` has no limit."""
    policies = [
        StoragePolicy("documents", "main", max_size=MB),
        StoragePolicy("pages", "main", max_size=1024),
        StoragePolicy("texts", "main", max_size=MB, content_types=["text/plain"]),
        StoragePolicy("anything", "main"),
    ]
    return AsyncStorageManager(StorageManager(backends={"main": backend}, policies=policies))


def make_app(
    manager: AsyncStorageManager,
    handlers: Sequence[Any],
    *,
    limits: FormLimits | None = None,
    context: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Litestar:
    """An application with the streaming uploads and nothing else of the plugin."""

    def install(config: AppConfig) -> AppConfig:
        StreamingUploads(manager, limits, context).install(config)
        config.exception_handlers = {**exception_handlers(), **config.exception_handlers}
        config.type_encoders = {StoredObjectRef: file_view, **(config.type_encoders or {})}
        config.plugins.append(FileSchemaPlugin())
        return config

    return Litestar(list(handlers), on_app_init=[install], **options)


def stored(manager: AsyncStorageManager) -> list[str]:
    """Every key in the backend."""
    return list(manager.sync.get_backend("main").iter_locations())


async def eventually(condition: Callable[[], bool], *, patience: float = 5) -> None:
    """Wait until something holds: what a request leaves is cleared after its answer was sent."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)


# ---------------------------------------------------------------------------------------------------------- servers
@contextlib.contextmanager
def serve(app: Any, server: str) -> Iterator[str]:
    """Run an application on a real server in a thread, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    run = _granian if server == "granian" else _uvicorn
    with run(app, port, server.rpartition("-")[2]):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _uvicorn(app: Any, port: int, http: str) -> Iterator[None]:
    import uvicorn

    config = uvicorn.Config(app, port=port, http=http, log_level="critical", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        _wait_for(port)
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextlib.contextmanager
def _granian(app: Any, port: int, _: str) -> Iterator[None]:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    loop = asyncio.new_event_loop()
    server = Server(app, port=port, interface=Interfaces.ASGI, log_enabled=False)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.serve())

    thread = threading.Thread(target=run, name="granian")
    thread.start()
    try:
        _wait_for(port)
        yield
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(10)
        assert not thread.is_alive()
        loop.close()


def _wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return


# -------------------------------------------------------------------------------------------------------- messages
class Conversation:
    """One request to an application, message by message, so that a test sees when the body is asked for.

    `chunks` is what the body comes in; the client leaves after them unless the last one is also the end.
    """

    def __init__(
        self,
        app: Any,
        method: str = "POST",
        path: str = "/",
        *,
        chunks: Sequence[bytes] | Callable[[], AsyncIterator[bytes]] = (),
        headers: Sequence[tuple[str, str]] = (),
        leaves: bool = False,
    ) -> None:
        self.app = app
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path.partition("?")[0],
            "raw_path": path.partition("?")[0].encode(),
            "query_string": path.partition("?")[2].encode(),
            "root_path": "",
            "headers": [(b"host", b"test"), *((k.lower().encode(), v.encode("latin-1")) for k, v in headers)],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        self.receives = 0
        self.status = 0
        self.body = b""
        self.headers: dict[str, str] = {}
        self._chunks = chunks if callable(chunks) else None
        self._list = [] if callable(chunks) else list(chunks)
        self._leaves = leaves
        self._ended = False

    async def run(self) -> Conversation:
        source = self._source()

        async def receive() -> dict[str, Any]:
            self.receives += 1
            return await anext(source)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {k.decode().lower(): v.decode("latin-1") for k, v in message["headers"]}
            elif message["type"] == "http.response.body":
                self.body += message.get("body", b"")

        call: Awaitable[None] = self.app(self.scope, receive, send)
        await call
        return self

    async def _source(self) -> AsyncIterator[dict[str, Any]]:
        if self._chunks is not None:
            async for chunk in self._chunks():
                yield {"type": "http.request", "body": chunk, "more_body": True}
        for chunk in self._list:
            yield {"type": "http.request", "body": chunk, "more_body": True}
        if not self._leaves:
            yield {"type": "http.request", "body": b"", "more_body": False}
        while True:
            yield {"type": "http.disconnect"}
