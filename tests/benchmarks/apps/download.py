"""Applications that give out `/large` and `/small`, two files on local disk; each function makes one.

Annotations are not postponed here: frameworks could not resolve the names that each function imports for itself.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.servers import values

SETTINGS = values()
PATHS = {name: Path(SETTINGS[name]["path"]) for name in ("large", "small")}


def granite(delivery: Any = "stream", **config: Any) -> Any:
    from litestar import Litestar, route
    from litestar.params import FromPath

    from granite_core import LocalStorageBackend, StorageManager, StoragePolicy, StoredObjectRef
    from granite_litestar import FileDownload, GraniteConfig, GranitePlugin

    policy = StoragePolicy("files", "main", delivery=delivery)
    manager = StorageManager({"main": LocalStorageBackend(SETTINGS["store"])}, [policy])
    refs = {name: StoredObjectRef.from_dict(SETTINGS[name]["ref"]) for name in PATHS}

    @route("/{name:str}", http_method=["GET", "HEAD"])
    async def download(name: FromPath[str]) -> FileDownload:
        return FileDownload(refs[name])

    return Litestar([download], plugins=[GranitePlugin(GraniteConfig(manager, gc=None, **config))], openapi_config=None)


def granite_streamed() -> Any:
    """Without leaving whole files to a server that could send them."""
    return granite(pathsend=False)


def granite_offloaded() -> Any:
    """With nginx in front, which sends the files."""
    from granite_core import Offload

    return granite("offload", offload=Offload({SETTINGS["store"]: "/_files"}))


def litestar_file() -> Any:
    from litestar import Litestar, get
    from litestar.params import FromPath
    from litestar.response import File

    @get("/{name:str}")
    async def download(name: FromPath[str]) -> File:
        return File(PATHS[name], filename="a.jpg")

    return Litestar([download], openapi_config=None)


def hello() -> Any:
    """The least a Litestar handler can do."""
    from litestar import Litestar, route
    from litestar.response import Response

    @route("/{name:str}", http_method=["GET", "HEAD"])
    async def say() -> Response[bytes]:
        return Response(b"hello", media_type="application/octet-stream")

    return Litestar([say], openapi_config=None)


def starlette_file() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import FileResponse
    from starlette.routing import Route

    async def download(request: Any) -> FileResponse:
        return FileResponse(PATHS[request.path_params["name"]], filename="a.jpg")

    return Starlette(routes=[Route("/{name}", download)])


def granite_storage() -> Any:
    """What it documents is a file object to send; Starlette sends it."""
    from granite_storage import StorageManager, StoragePolicy, StoredObjectRef
    from granite_storage.backends.local import LocalStorageBackend
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    policies = {"files": StoragePolicy("files", "main")}
    manager = StorageManager({"main": LocalStorageBackend(SETTINGS["store"])}, policies)
    refs = {name: StoredObjectRef.from_dict(SETTINGS[name]["ref"]) for name in PATHS}

    def chunks(ref: Any) -> Iterator[bytes]:
        with manager.open(ref) as file:
            yield from iter(partial(file.read, 1024 * 1024), b"")

    async def download(request: Any) -> StreamingResponse:
        ref = refs[request.path_params["name"]]
        return StreamingResponse(chunks(ref), headers={"content-length": str(ref.size)})

    return Starlette(routes=[Route("/{name}", download)])


def advanced_alchemy() -> Any:
    """What it documents is the whole content; Litestar sends it."""
    from advanced_alchemy.types.file_object import FileObject, storages
    from advanced_alchemy.types.file_object.backends.obstore import ObstoreBackend
    from litestar import Litestar, get
    from litestar.params import FromPath
    from litestar.response import Response

    root = Path(SETTINGS["store"])
    storages.register_backend(ObstoreBackend(key="main", fs=f"file://{root}/"))

    @get("/{name:str}")
    async def download(name: FromPath[str]) -> Response[bytes]:
        file = FileObject(backend="main", filename=str(PATHS[name].relative_to(root)))
        return Response(await file.get_content_async(), media_type="application/octet-stream")

    return Litestar([download], openapi_config=None)


def raw() -> Any:
    """ASGI and nothing else: small files are read on the loop, large ones in a thread, 1 MiB at a time."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = PATHS.get(scope["path"][1:])
        if path is None:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        with path.open("rb", buffering=0) as file:
            size = file.seek(0, 2)
            file.seek(0)
            headers = [(b"content-length", b"%d" % size), (b"content-type", b"application/octet-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if size <= 65536:
                await send({"type": "http.response.body", "body": file.read()})
                return
            loop = asyncio.get_running_loop()
            while data := await loop.run_in_executor(None, file.read, 1024 * 1024):
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    return app


def pathsend() -> Any:
    """ASGI's path send extension: the server sends the file."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = PATHS.get(scope["path"][1:])
        status = 200 if path else 404
        headers = [(b"content-length", b"%d" % (path.stat().st_size if path else 0))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if path:
            await send({"type": "http.response.pathsend", "path": str(path)})
        else:
            await send({"type": "http.response.body", "body": b""})

    return app
