"""Films that nginx sends: the application decides who may have them, and hands over their names."""

from __future__ import annotations

import os

from litestar import Litestar, post, route
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from granite_core import AsyncStorageManager, LocalStorageBackend, Offload, StorageManager, StoragePolicy
from granite_core import StoredObjectRef as Ref
from granite_litestar import FileDownload, GraniteConfig, GranitePlugin

FOLDER = os.environ.get("FILES", "var/files")
films: dict[str, Ref] = {}  # stands for your table


@post("/films/{name:str}")
async def add(name: FromPath[str], body: bytes, files: NamedDependency[AsyncStorageManager]) -> None:
    films[name] = await files.put_bytes("films", content=body)


@route("/films/{name:str}", http_method=["GET", "HEAD"])
async def film(name: FromPath[str]) -> FileDownload:
    if name not in films:
        raise NotFoundException
    return FileDownload(films[name])


# the part "offload" begins
manager = StorageManager(
    backends={"main": LocalStorageBackend(FOLDER, file_mode=0o644, folder_mode=0o755)},
    policies=[StoragePolicy("films", delivery="auto")],
)
token = os.environ.get("OFFLOAD_TOKEN")  # nginx has it too; on a laptop there is neither
offload = Offload({FOLDER: "/_files"}, token=token) if token else None
plugin = GranitePlugin(GraniteConfig(manager=manager, offload=offload, gc=None))
# the part "offload" ends

app = Litestar([add, film], plugins=[plugin])
