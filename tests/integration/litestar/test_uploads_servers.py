"""Uploads over real sockets: what servers and clients really do."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from litestar import Litestar, post, put
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException

from granite_core import AsyncStorageManager, StagedFile
from granite_core.backends.local import LocalStorageBackend
from granite_litestar import MultipartBody, RawUpload, Upload, UploadDTO
from tests.support.upload_apps import MB, SERVERS, eventually, make_app, make_manager, serve, stored


class Form(UploadDTO):
    title: str = ""
    file: Annotated[StagedFile, Upload("documents")]


class Big(UploadDTO):
    title: str = ""
    file: Annotated[StagedFile, Upload("anything")]


def refuse(connection: ASGIConnection[Any, Any, Any, Any], _: Any) -> None:
    raise NotAuthorizedException


@post("/")
async def create(data: MultipartBody[Form]) -> StagedFile:
    return data.file


@post("/big")
async def create_big(data: MultipartBody[Big]) -> StagedFile:
    await data.file.keep()
    return data.file


@post("/thread", sync_to_thread=True)
def create_in_thread(data: MultipartBody[Form]) -> StagedFile:
    time.sleep(0.01)
    return data.file


@post("/guarded", guards=[refuse])
async def guarded(data: MultipartBody[Big]) -> None: ...


@post("/fails")
async def fails(data: MultipartBody[Form]) -> None:
    raise RuntimeError("mine")


@put("/raw")
async def raw(data: Annotated[StagedFile, RawUpload("documents")]) -> StagedFile:
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def manager(root: Path) -> AsyncStorageManager:
    return make_manager(LocalStorageBackend(root, durable=False))


@pytest.fixture(scope="module")
def app(manager: AsyncStorageManager) -> Litestar:
    return make_app(manager, [create, create_big, create_in_thread, guarded, fails, raw], logging_config=None)


@pytest.fixture(scope="module", params=SERVERS)
def url(request: pytest.FixtureRequest, app: Litestar) -> Iterator[str]:
    with serve(app, request.param) as address:
        yield address


@pytest.fixture(autouse=True)
async def nothing_is_left(root: Path) -> AsyncIterator[None]:
    yield
    await eventually(lambda: everything(root) == [])


def everything(root: Path) -> list[Path]:
    """Every file below the root, temporary ones too."""
    # Not rglob: folders vanish meanwhile.
    return [Path(folder, name) for folder, _, names in os.walk(root) for name in names]


def form_of(size: int, *, head: int = 65536) -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nBig\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'
    piece = b"x" * head
    for _ in range(size // head):
        yield piece
    yield b"\r\n--b--\r\n"


FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=b"}


def test_forms_arrive(url: str) -> None:
    for path in ("/", "/thread"):
        response = httpx.post(f"{url}{path}", data={"title": "x"}, files={"file": ("naïve.txt", b"hello")})
        assert response.status_code == 201, response.text
        assert (response.json()["filename"], response.json()["size"]) == ("naïve.txt", 5)


def test_raw_bodies_arrive(url: str) -> None:
    response = httpx.put(f"{url}/raw?filename=a.txt", content=b"hello")
    assert (response.status_code, response.json()["filename"]) == (200, "a.txt")
    response = httpx.put(f"{url}/raw", content=iter([b"chun", b"ked"]))
    assert (response.status_code, response.json()["size"]) == (200, 7)


def test_a_hundred_megabytes_take_no_memory(url: str, manager: AsyncStorageManager) -> None:
    httpx.post(f"{url}/big", content=form_of(MB), headers=FORM_TYPE)
    tracemalloc.start()
    try:
        response = httpx.post(f"{url}/big", content=form_of(100 * MB), headers=FORM_TYPE, timeout=60)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (response.status_code, response.json()["size"]) == (201, 100 * MB)
    # The client runs in this process too. granian reads ahead outside of Python's memory.
    assert peak < 8 * MB
    backend = manager.sync.get_backend("main")
    for location in stored(manager):
        backend.delete(location)


def test_the_loop_runs_on_while_files_are_stored(url: str) -> None:
    gaps: list[float] = []
    stop = threading.Event()

    def poll() -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                start = time.monotonic()
                client.get(f"{url}/nowhere")
                gaps.append(time.monotonic() - start)

    thread = threading.Thread(target=poll)
    thread.start()
    for _ in range(5):
        assert httpx.post(f"{url}/", content=form_of(MB - 65536), headers=FORM_TYPE).status_code == 201
    stop.set()
    thread.join()
    assert max(gaps) < 1


def test_a_client_that_sends_too_much_gets_its_answer(url: str) -> None:
    response = httpx.post(f"{url}/", content=form_of(20 * MB), headers=FORM_TYPE, timeout=30)
    assert response.status_code == 413
    assert response.json()["extra"]["field"] == "file"
    response = httpx.put(f"{url}/raw", content=iter([b"x" * 65536] * 320), timeout=30)
    assert (response.status_code, response.json()["extra"]["limit"]) == (413, MB)


def test_a_client_that_asks_first_never_sends(url: str) -> None:
    """Expect: 100-continue (RFC 9110 section 10.1.1) is answered by the refusal."""
    host, port = url.removeprefix("http://").split(":")
    for path, head, status in [
        ("/guarded", "Content-Length: 1000000", b" 401 "),
        ("/raw", "Content-Length: 100000000", b" 413 "),
        ("/raw", "Content-Length: 5\r\nContent-Encoding: gzip", b" 415 "),
    ]:
        method = "PUT" if path == "/raw" else "POST"
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{head}\r\n\r\n"
            connection.sendall(request.encode())
            assert status in connection.recv(4096).partition(b"\r\n")[0]


def test_wrong_forms_and_failing_handlers_leave_nothing(url: str) -> None:
    answers = [
        httpx.post(f"{url}/", data={"title": "x"}, files={"other": b"x"}),
        httpx.post(f"{url}/fails", files={"file": b"x" * 500_000}),
        httpx.post(f"{url}/", content=b"--b\r\nnonsense", headers=FORM_TYPE),
        httpx.post(f"{url}/", json={}),
        httpx.post(f"{url}/guarded", files={"file": b"x" * 500_000}),
    ]
    assert [each.status_code for each in answers] == [422, 500, 400, 415, 401]


@pytest.mark.parametrize("path", ["/", "/raw"])
@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_leaves_leaves_nothing(url: str, root: Path, path: str, abruptly: bool) -> None:
    host, port = url.removeprefix("http://").split(":")
    method = "PUT" if path == "/raw" else "POST"
    with socket.create_connection((host, int(port))) as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\n" if path == "/" else ""
        connection.sendall(head.encode() + b"\r\n")
        if path == "/":
            connection.sendall(b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n')
        connection.sendall(b"x" * 600_000)
        await eventually(lambda: everything(root) != [])
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await eventually(lambda: everything(root) == [])


async def test_many_clients_at_once(url: str) -> None:
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=40), timeout=60) as client:

        async def one(index: int) -> None:
            content = bytes([index]) * (index * 4000)
            response = await client.post(f"{url}/", data={"title": str(index)}, files={"file": content})
            assert (response.status_code, response.json()["size"]) == (201, len(content))

        await asyncio.gather(*(one(index) for index in range(200)))
