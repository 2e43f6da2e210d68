"""`FileDownload` over real sockets: what a client sees, and what the backend is asked for."""

from __future__ import annotations

import email.parser
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar, get, post, route
from litestar.background_tasks import BackgroundTask
from litestar.config.app import AppConfig
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.datastructures import CacheControlHeader, Cookie, ResponseHeader
from litestar.params import FromPath
from litestar.plugins import InitPlugin
from litestar.response import Response

from granite_core import AsyncStorageManager, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.backends.local import LocalStorageBackend
from granite_core.events import object_id
from granite_litestar._middleware import exempt_from_compression, expose_headers
from granite_litestar.exceptions import exception_handlers
from granite_litestar.responses import FileDownload

from .downloads_support import CountingBackend, client_of, content_of, etag_of, raw_request, serving, wait_until

SIZE = 300_000
CONTENT = content_of(SIZE)
BIG = 64 * 1024 * 1024


class Neighbours(InitPlugin):
    """What Granite's plugin does to the application's other settings."""

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        exempt_from_compression(app_config)
        expose_headers(app_config)
        return app_config


@dataclass
class World:
    backend: CountingBackend
    manager: StorageManager
    files: dict[str, StoredObjectRef]
    background: list[str]

    def app(self, **options: Any) -> Litestar:
        @route("/files/{name:str}", http_method=["GET", "HEAD"])
        async def serve(name: FromPath[str]) -> FileDownload:
            return FileDownload(self.files[name])

        @post("/export")
        async def export() -> FileDownload:
            return FileDownload(self.files["data"], filename="export.bin")

        app = Litestar(
            [serve, export, *options.pop("handlers", ())],
            openapi_config=None,
            plugins=[Neighbours()],
            logging_config=None,
            exception_handlers=dict[Any, Any](exception_handlers()),
            **options,
        )
        app.state["granite_manager"] = AsyncStorageManager(self.manager)
        return app


@pytest.fixture
def world() -> World:
    backend = CountingBackend()
    manager = StorageManager(
        {"main": backend}, [StoragePolicy("docs", "main"), StoragePolicy("att", "main", disposition="attachment")]
    )
    put = manager.put_bytes
    files: dict[str, StoredObjectRef] = {
        "data": put("docs", content=CONTENT, original_filename="data.bin"),
        "empty": put("docs", content=b"", original_filename="empty.bin"),
        "text": put("docs", content=b"hello", original_filename="hello.txt"),
        "page": put("docs", content=b"<html><script>alert(1)</script>" + b" " * 9000, original_filename="page.html"),
        "named": put("docs", content=b"x" * 2000, original_filename='na\u00efve "\u65e5\u672c" 100%.txt'),
        "attached": put("att", content=b"hello", original_filename="hello.txt"),
        "missing": put("docs", content=b"gone", original_filename="gone.bin"),
    }  # fmt: skip
    manager.delete(files["missing"])
    stranger = files["text"].to_dict() | {"storage_key": "dropped"}
    files["dropped"] = StoredObjectRef.from_dict(stranger)
    return World(backend, manager, files, [])


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    with client_of(world.app()) as client:
        yield client


# -- what a client sees ------------------------------------------------------------------------------------------------


def test_a_file_comes_out_as_it_went_in(client: httpx.Client, world: World) -> None:
    answer = client.get("/files/data")
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == str(SIZE)
    assert answer.headers["etag"] == etag_of(world.files["data"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["repr-digest"] == answer.headers["content-digest"]
    assert wait_until(lambda: world.backend.closed == len(world.backend.opened) == 1)


def test_small_and_empty_files(client: httpx.Client, world: World) -> None:
    assert client.get("/files/text").content == b"hello"
    assert client.get("/files/text").headers["content-type"] == "text/plain; charset=utf-8"
    empty = client.get("/files/empty")
    assert (empty.status_code, empty.content, empty.headers["content-length"]) == (200, b"", "0")
    assert client.get("/files/empty", headers={"Range": "bytes=0-"}).status_code == 200
    assert wait_until(lambda: world.backend.closed == len(world.backend.opened) == 4)


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=299999-", 299_999, SIZE),
        ("bytes=-1000", SIZE - 1000, SIZE),
        ("bytes=0-", 0, SIZE),
        ("bytes=70000-250000", 70_000, 250_001),
    ],
)
def test_a_range_reads_that_range_and_no_more(
    client: httpx.Client, world: World, value: str, start: int, stop: int
) -> None:
    answer = client.get("/files/data", headers={"Range": value})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert world.backend.opened == [(start, stop - start)]
    assert world.backend.bytes_read == stop - start


def test_several_ranges_are_a_multipart_body(client: httpx.Client, world: World) -> None:
    answer = client.get("/files/data", headers={"Range": "bytes=1000-1999,-10,0-99"})
    assert answer.status_code == 206
    assert len(answer.content) == int(answer.headers["content-length"])
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = email.parser.BytesParser().parsebytes(head + answer.content).get_payload()
    assert isinstance(parts, list)
    assert [part["Content-Range"] for part in parts] == [  # type: ignore[index]
        f"bytes 1000-1999/{SIZE}",
        f"bytes {SIZE - 10}-{SIZE - 1}/{SIZE}",
        f"bytes 0-99/{SIZE}",
    ]
    for wanted in (CONTENT[1000:2000], CONTENT[-10:], CONTENT[:100]):
        assert wanted in answer.content
    assert world.backend.opened == [(1000, 1000), (SIZE - 10, 10), (0, 100)]
    assert wait_until(lambda: world.backend.closed == 3)


def test_head_and_answers_without_a_body_touch_no_storage(client: httpx.Client, world: World) -> None:
    tag = etag_of(world.files["data"])
    get_headers = client.get("/files/data").headers
    world.backend.forget()
    head = client.head("/files/data")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(SIZE))
    differing = {"date", "content-digest"}
    assert {k: v for k, v in head.headers.items() if k not in differing} == {
        k: v for k, v in get_headers.items() if k not in differing
    }
    assert client.get("/files/data", headers={"If-None-Match": tag}).status_code == 304
    assert client.head("/files/data", headers={"If-None-Match": tag}).status_code == 304
    assert client.get("/files/data", headers={"If-Match": '"x"'}).status_code == 412
    unsatisfied = client.get("/files/data", headers={"Range": "bytes=999999-"})
    assert (unsatisfied.status_code, unsatisfied.headers["content-range"]) == (416, f"bytes */{SIZE}")
    not_allowed = client.delete("/files/data")
    assert not_allowed.status_code == 405
    assert {"GET", "HEAD"} <= set(not_allowed.headers["allow"].split(", "))
    assert world.backend.opened == []


def test_a_304_has_no_length_and_no_type(client: httpx.Client, world: World) -> None:
    answer = client.get("/files/data", headers={"If-None-Match": "*"})
    assert set(answer.headers) - {"date", "server"} == {"etag", "cache-control"}


def test_conditional_fields_decide_in_order(client: httpx.Client, world: World) -> None:
    tag = etag_of(world.files["data"])
    modified = client.head("/files/data").headers["last-modified"]
    past, future = "Thu, 01 Jan 2015 00:00:00 GMT", "Fri, 01 Jan 2094 00:00:00 GMT"
    matrix = [
        ({"If-Match": tag}, 200),
        ({"If-Match": '"x"', "If-None-Match": tag}, 412),
        ({"If-Unmodified-Since": past}, 412),
        ({"If-Unmodified-Since": future}, 200),
        ({"If-Match": tag, "If-Unmodified-Since": past}, 200),
        ({"If-None-Match": f"W/{tag}"}, 304),
        ({"If-None-Match": '"x"', "If-Modified-Since": future}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": past}, 200),
        ({"Range": "bytes=0-9", "If-Range": tag}, 206),
        ({"Range": "bytes=0-9", "If-Range": '"x"'}, 200),
        ({"Range": "bytes=0-9", "If-None-Match": tag}, 304),
        ({"Range": "bytes=0-9", "If-Match": '"x"'}, 412),
    ]
    for headers, status in matrix:
        assert client.get("/files/data", headers=headers).status_code == status, headers


def test_other_methods_of_a_handler_send_the_whole_file(client: httpx.Client) -> None:
    answer = client.post("/export", headers={"Range": "bytes=0-9", "If-None-Match": "*"})
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-disposition"] == 'attachment; filename="export.bin"'


def test_names_and_types_are_made_safe(client: httpx.Client) -> None:
    named = client.get("/files/named").headers["content-disposition"]
    assert named == (
        "inline; filename=\"naive ____ 100_.txt\"; filename*=UTF-8''na%C3%AFve%20%22%E6%97%A5%E6%9C%AC%22%20100%25.txt"
    )
    page = client.get("/files/page")
    assert page.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in page.headers["content-security-policy"]
    assert client.get("/files/text").headers["content-disposition"].startswith("inline")
    assert client.get("/files/attached").headers["content-disposition"].startswith("attachment")
    assert client.get("/files/dropped").headers["content-disposition"].startswith("attachment")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_resumes_a_download(world: World, tmp_path: Path) -> None:
    half = tmp_path / "data.bin"
    half.write_bytes(CONTENT[:123_456])
    with serving(world.app()) as address:
        subprocess.run(["curl", "-sSf", "-C", "-", "-o", str(half), f"{address}/files/data"], check=True, timeout=30)
        some = subprocess.run(["curl", "-sSf", "-r", "10-19", f"{address}/files/data"], check=True, capture_output=True)
    assert half.read_bytes() == CONTENT
    assert some.stdout == CONTENT[10:20]
    assert world.backend.opened == [(123_456, SIZE - 123_456), (10, 10)]


# -- beside the rest of the application --------------------------------------------------------------------------------


def test_compression_leaves_files_alone_and_compresses_the_rest(world: World) -> None:
    @get("/page")
    async def page() -> str:
        return "x" * 5000

    @get("/sly/{name:str}")
    async def sly(name: FromPath[str]) -> Response[Any]:
        return FileDownload(world.files[name])

    config = CompressionConfig(backend="gzip", minimum_size=1)
    headers = {"Accept-Encoding": "gzip"}
    with client_of(world.app(handlers=[page, sly], compression_config=config)) as client:
        assert client.get("/page", headers=headers).headers["content-encoding"] == "gzip"
        for path in ("/files/data", "/sly/data", "/sly/page", "/sly/empty"):
            whole = client.get(path, headers=headers)
            assert "content-encoding" not in whole.headers
            assert "content-length" in whole.headers
        part = client.get("/sly/data", headers={**headers, "Range": "bytes=5-200000"})
        assert (part.status_code, part.content) == (206, CONTENT[5:200_001])
        assert "content-encoding" not in part.headers
        assert client.get("/sly/missing", headers=headers).status_code == 404
    assert config.exclude_opt_key is None


def test_cors_exposes_what_ranges_need(world: World) -> None:
    config = CORSConfig(allow_origins=["https://app.example"], expose_headers=["X-Own", "etag"])
    with client_of(world.app(cors_config=config)) as client:
        answer = client.get("/files/text", headers={"Origin": "https://app.example"})
    exposed = {name.lower() for name in answer.headers["access-control-expose-headers"].split(", ")}
    assert {"x-own", "etag", "content-range", "accept-ranges", "content-disposition", "repr-digest"} <= exposed
    assert config.expose_headers == ["X-Own", "etag"]


def test_headers_and_cookies_of_the_application_are_kept(world: World) -> None:
    async def after_request(response: Response[Any]) -> Response[Any]:
        response.headers["X-After"] = "1"
        response.set_cookie("seen", "yes")
        return response

    async def before_send(message: Any, scope: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"].append((b"x-before-send", b"1"))

    @get(
        "/own",
        response_headers=[ResponseHeader(name="Content-Length", value="3"), ResponseHeader(name="X-Layer", value="1")],
        response_cookies=[Cookie(key="layer", value="1")],
        cache_control=CacheControlHeader(public=True, max_age=60),
    )
    async def own() -> FileDownload:
        return FileDownload(
            world.files["text"],
            headers={"Content-Security-Policy": "frame-ancestors 'none'", "Content-Type": "text/html"},
            background=BackgroundTask(world.background.append, "ran"),
        )

    @get("/store")
    async def store() -> FileDownload:
        return FileDownload(world.files["text"], headers={"Cache-Control": "no-store"})

    app = world.app(handlers=[own, store], after_request=after_request, before_send=[before_send])
    with client_of(app) as client:
        answer = client.get("/own")
        assert client.get("/store").headers.get_list("cache-control") == ["no-store"]
        not_modified = client.get("/own", headers={"If-None-Match": "*"})
    assert answer.content == b"hello"
    assert [answer.headers[name] for name in ("x-after", "x-before-send", "x-layer")] == ["1", "1", "1"]
    assert dict(answer.cookies) == {"seen": "yes", "layer": "1"}
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers.get_list("cache-control") == ["private, no-cache"]
    assert answer.headers.get_list("content-security-policy") == [
        "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        "frame-ancestors 'none'",
    ]
    assert not_modified.headers["x-after"] == "1"
    assert world.background == ["ran", "ran"]


def test_the_response_cache_is_refused(world: World) -> None:
    @get("/cached", cache=60)
    async def cached() -> FileDownload:
        return FileDownload(world.files["text"])

    with client_of(world.app(handlers=[cached])) as client:
        assert client.get("/cached").status_code == 500


# -- when things go wrong ----------------------------------------------------------------------------------------------


def test_a_missing_object_is_a_404_for_the_client_and_an_error_for_the_operator(
    client: httpx.Client, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "granite"):
        answer = client.get("/files/missing")
    location = world.files["missing"].location
    assert answer.status_code == 404
    assert location not in answer.text
    assert "etag" not in answer.headers
    [record] = [each for each in caplog.records if each.name == "granite.served"]
    assert object_id(location) in record.getMessage()
    assert location not in caplog.text


def test_an_object_of_another_size_is_never_sent(
    client: httpx.Client, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.backend.reported_size = 7
    answer = client.get("/files/data", headers={"Range": "bytes=0-1"})
    assert answer.status_code == 500
    assert "has 7 bytes" in caplog.text
    assert wait_until(lambda: world.backend.closed == len(world.backend.opened) == 1)


@pytest.mark.parametrize("fault", ["fail_after", "end_after"])
def test_a_failure_on_the_way_cuts_the_connection(
    client: httpx.Client, world: World, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    setattr(world.backend, fault, 100_000)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/files/data")
    assert wait_until(lambda: world.backend.closed == 1)
    assert "failed while it was being sent" in caplog.text
    assert client.get("/files/text").content == b"hello"


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_client_that_leaves_stops_the_reading(world: World, http: str) -> None:
    world.files["big"] = world.manager.put_bytes("docs", content=bytes(BIG))
    world.backend.forget()
    with serving(world.app(), http=http) as address:
        sock = raw_request(address, b"GET /files/big HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        sock.close()
        assert wait_until(lambda: world.backend.closed == 1)
        assert world.backend.bytes_read < BIG // 2
        before = world.backend.bytes_read
        time.sleep(0.2)
        assert world.backend.bytes_read == before


def test_a_client_that_stalls_holds_little_and_no_thread(world: World) -> None:
    world.files["big"] = world.manager.put_bytes("docs", content=bytes(BIG))
    world.backend.forget()
    with serving(world.app()) as address:
        sockets = [
            raw_request(address, b"GET /files/big HTTP/1.1\r\nHost: x\r\n\r\n", receive_buffer=4096) for _ in range(40)
        ]
        try:
            assert wait_until(lambda: len(world.backend.opened) == 40)
            # More than the backend has threads, and still another client is served at once.
            assert httpx.get(f"{address}/files/text", timeout=5).content == b"hello"
            time.sleep(0.3)
            assert world.backend.bytes_read < 40 * 8 * 1024 * 1024
        finally:
            for sock in sockets:
                sock.close()
        assert wait_until(lambda: world.backend.closed == len(world.backend.opened))


def test_chunks_grow_while_the_peer_keeps_up(client: httpx.Client, world: World) -> None:
    world.files["big"] = world.manager.put_bytes("docs", content=bytes(BIG))
    world.backend.forget()
    assert len(client.get("/files/big").content) == BIG
    assert world.backend.sizes[0] == 32 * 1024
    assert max(world.backend.sizes) > 32 * 1024
    assert max(world.backend.sizes) <= 1024 * 1024


def test_a_pipelined_request_after_a_file_is_answered(world: World) -> None:
    request = (
        b"GET /files/data HTTP/1.1\r\nHost: x\r\n\r\nGET /files/text HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    with serving(world.app()) as address:
        sock = raw_request(address, request)
        received = bytearray()
        sock.settimeout(10)
        while data := sock.recv(65536):
            received += data
        sock.close()
    assert received.endswith(b"\r\n\r\nhello")
    assert received.count(b"HTTP/1.1 200") == 2


def test_small_local_files_are_read_without_a_thread(world: World, tmp_path: Path) -> None:
    local = LocalStorageBackend(tmp_path)
    manager = StorageManager({"main": local}, [StoragePolicy("docs", "main")])
    world.manager, world.files = (
        manager,
        {
            "small": manager.put_bytes("docs", content=b"small"),
            "large": manager.put_bytes("docs", content=CONTENT),
        },
    )
    local.close()
    with client_of(world.app()) as client:
        assert client.get("/files/small").content == b"small"
        assert local._executor is None
        assert client.get("/files/large").content == CONTENT
        assert client.get("/files/large", headers={"Range": "bytes=7-"}).content == CONTENT[7:]


def test_what_the_kernel_has_in_memory_is_read_without_a_thread(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalStorageBackend(tmp_path)
    world.manager = StorageManager({"main": local}, [StoragePolicy("docs", "main")])
    world.files = {"large": world.manager.put_bytes("docs", content=CONTENT)}
    hops: list[Any] = []
    reader = type(local.open_reader(world.files["large"].location))
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda self, size=-1: hops.append(size) or read(self, size))  # type: ignore[func-returns-value]
    with (tmp_path / world.files["large"].location).open("rb") as file:
        can_tell = _can_tell(file.fileno())
    with client_of(world.app()) as client:
        assert client.get("/files/large").content == CONTENT
    assert (hops == []) == can_tell


def _can_tell(descriptor: int) -> bool:
    """Whether this system and its file system know what they have in memory (preadv2(2))."""
    try:
        return os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except (AttributeError, OSError):
        return False


def test_without_a_manager_the_error_names_the_plugin(world: World) -> None:
    app = world.app(debug=True)
    del app.state["granite_manager"]
    with client_of(app) as client:
        answer = client.get("/files/text")
    assert answer.status_code == 500
    assert "GranitePlugin" in answer.text


def test_staged_files_can_be_served_too(client: httpx.Client, world: World) -> None:
    staged = world.manager.put_bytes("docs", content=b"fresh")
    assert isinstance(staged, StagedFile)
    world.files["fresh"] = staged
    assert client.get("/files/fresh").content == b"fresh"
    assert not staged.kept
