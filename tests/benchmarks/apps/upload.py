"""Applications that take a file in at `/`, raw or as the field `file` of a form, and answer with where it is.

None keeps a row, and none syncs to disk: the upload alone is measured. Annotations are not postponed here: frameworks
could not resolve the names that each function imports for itself.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from tests.benchmarks.servers import values

STORE = Path(values()["folder"], "store")
PIECE = 256 * 1024


class Sink:
    """Hashes and writes, in threads, what the event loop gathers: the least there is to do."""

    def __init__(self) -> None:
        self.target = STORE / uuid4().hex
        self.file = open(f"{self.target}.tmp", "xb", buffering=0)  # noqa: SIM115 - closed by `end`
        self.digest = hashlib.sha256()
        self.pieces: list[bytes] = []
        self.pending = 0

    async def take(self, data: bytes) -> None:
        self.pieces.append(data)
        self.pending += len(data)
        if self.pending >= PIECE:
            await asyncio.get_running_loop().run_in_executor(None, self.flush)

    def flush(self) -> None:
        data = b"".join(self.pieces)
        self.pieces, self.pending = [], 0
        self.digest.update(data)
        self.file.write(data)

    def end(self) -> None:
        self.flush()
        self.file.close()
        os.rename(f"{self.target}.tmp", self.target)

    async def answer(self) -> dict[str, str]:
        await asyncio.get_running_loop().run_in_executor(None, self.end)
        return {"path": str(self.target), "sha256": self.digest.hexdigest()}


def copied(source: Any) -> dict[str, str]:
    """Store an upload that a framework has spooled: hash, write, rename."""
    target = STORE / uuid4().hex
    digest = hashlib.sha256()
    with open(f"{target}.tmp", "xb", buffering=0) as file:
        while data := source.read(1024 * 1024):
            digest.update(data)
            file.write(data)
    os.rename(f"{target}.tmp", target)
    return {"path": str(target), "sha256": digest.hexdigest()}


def _asgi(take: Callable[[Any, Any], Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            status, content = 404, b""
        else:
            status, content = 201, json.dumps(await take(scope, receive)).encode()
        headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


def raw_body() -> Any:
    """ASGI and nothing else."""

    async def take(scope: Any, receive: Any) -> dict[str, str]:
        sink, more = Sink(), True
        while more:
            message = await receive()
            await sink.take(message.get("body", b""))
            more = message.get("more_body", False)
        return await sink.answer()

    return _asgi(take)


def raw_form() -> Any:
    """ASGI, a parser, and nothing else."""
    from multipart import PushMultipartParser

    async def take(scope: Any, receive: Any) -> dict[str, str]:
        boundary = dict(scope["headers"])[b"content-type"].partition(b"boundary=")[2]
        sink, more = Sink(), True
        with PushMultipartParser(boundary) as parser:
            while more:
                message = await receive()
                for found in parser.parse(message.get("body", b"")):
                    if isinstance(found, (bytes, bytearray)):
                        await sink.take(found)
                more = message.get("more_body", False)
        return await sink.answer()

    return _asgi(take)


def _granite(handler: Any) -> Any:
    from litestar import Litestar

    from granite_core import LocalStorageBackend, StorageManager, StoragePolicy
    from granite_litestar import GraniteConfig, GranitePlugin

    manager = StorageManager({"main": LocalStorageBackend(STORE, durable=False)}, [StoragePolicy("files", "main")])
    return Litestar([handler], plugins=[GranitePlugin(GraniteConfig(manager, gc=None))], openapi_config=None)


def granite_body() -> Any:
    from litestar import post

    from granite_core import StagedFile
    from granite_litestar import RawUpload

    @post("/")
    async def upload(data: Annotated[StagedFile, RawUpload("files")]) -> dict[str, str]:
        await data.keep()
        return {"path": str(STORE / data.location), "sha256": data.checksum.removeprefix("sha256:")}

    return _granite(upload)


def granite_form() -> Any:
    from litestar import post

    from granite_core import StagedFile
    from granite_litestar import MultipartBody, Upload, UploadDTO

    class Form(UploadDTO):
        file: Annotated[StagedFile, Upload("files")]

    @post("/")
    async def upload(data: MultipartBody[Form]) -> dict[str, str]:
        await data.file.keep()
        return {"path": str(STORE / data.file.location), "sha256": data.file.checksum.removeprefix("sha256:")}

    return _granite(upload)


def litestar_body() -> Any:
    """As one writes it by hand: the request's stream."""
    from litestar import Litestar, Request, post

    @post("/", request_max_body_size=None)
    async def upload(request: Request[Any, Any, Any]) -> dict[str, str]:
        sink = Sink()
        async for data in request.stream():
            await sink.take(data)
        return await sink.answer()

    return Litestar([upload], openapi_config=None)


def litestar_form() -> Any:
    from litestar import Litestar, post
    from litestar.datastructures import UploadFile
    from litestar.params import MultipartBody

    @post("/", request_max_body_size=None)
    async def upload(data: MultipartBody[dict[str, UploadFile]]) -> dict[str, str]:
        return await asyncio.to_thread(copied, data["file"].file)

    return Litestar([upload], openapi_config=None)


def advanced_alchemy_form() -> Any:
    """As its documentation shows it: the whole content becomes a FileObject."""
    from advanced_alchemy.types.file_object import FileObject, storages
    from advanced_alchemy.types.file_object.backends.obstore import ObstoreBackend
    from litestar import Litestar, post
    from litestar.datastructures import UploadFile
    from litestar.params import MultipartBody

    storages.register_backend(ObstoreBackend(key="main", fs=f"file://{STORE}/"))

    @post("/", request_max_body_size=None)
    async def upload(data: MultipartBody[dict[str, UploadFile]]) -> dict[str, str]:
        name = uuid4().hex
        content = await data["file"].read()
        await FileObject(backend="main", filename=name, content_type="text/plain", content=content).save_async()
        return {"path": str(STORE / name)}

    return Litestar([upload], openapi_config=None)


def starlette_form() -> Any:
    return _starlette(copied)


def granite_storage_form() -> Any:
    from granite_storage import StorageManager, StoragePolicy
    from granite_storage.backends.local import LocalStorageBackend

    manager = StorageManager({"main": LocalStorageBackend(STORE)}, {"files": StoragePolicy("files", "main")})

    def store(file: Any) -> dict[str, str]:
        ref = manager.put_stream(
            storage_key="files", model_name="document", entity_id=uuid4().hex, field_name="file", stream=file
        )
        return {"path": str(STORE / ref.location), "sha256": ref.checksum.removeprefix("sha256:")}

    return _starlette(store)


def sqlalchemy_file_form() -> Any:
    from libcloud.storage.drivers.local import LocalStorageDriver
    from sqlalchemy_file import File
    from sqlalchemy_file.storage import StorageManager

    (STORE / "files").mkdir()
    StorageManager.add_storage("files", LocalStorageDriver(str(STORE)).get_container("files"))

    def store(stream: Any) -> dict[str, str]:
        file = File(content=stream, filename="a.jpg")
        file.save_to_storage("files")
        return {"path": str(STORE / "files" / file["file_id"])}

    return _starlette(store)


def _starlette(store: Callable[[Any], dict[str, str]]) -> Any:
    """Starlette's form, which FastAPI's UploadFile is too; storing is left to a thread."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def upload(request: Request) -> JSONResponse:
        async with request.form() as form:
            return JSONResponse(await run_in_threadpool(store, form["file"].file), 201)

    return Starlette(routes=[Route("/", upload, methods=["POST"])])
