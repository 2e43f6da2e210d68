"""Applications for clients that take their time: `/large` and `/medium` to fetch, `/raw` and `/form` to send files to.

Annotations are not postponed here: frameworks could not resolve the names that each function imports for itself.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any

from tests.benchmarks.servers import values

SETTINGS = values()


def granite(**config: Any) -> Any:
    from litestar import Litestar, post, put, route
    from litestar.params import FromPath

    from granite_core import LocalStorageBackend, S3StorageBackend, StagedFile, StorageManager, StoragePolicy
    from granite_core import StoredObjectRef as Ref
    from granite_litestar import FileDownload, GraniteConfig, GranitePlugin, MultipartBody, RawUpload, Upload, UploadDTO

    backend: Any = LocalStorageBackend(SETTINGS["store"], durable=False)
    if "s3" in SETTINGS:
        import boto3

        s3 = SETTINGS["s3"]
        client = boto3.client(
            "s3",
            endpoint_url=s3["endpoint"],
            region_name="us-east-1",
            aws_access_key_id=s3["access_key"],
            aws_secret_access_key=s3["secret_key"],
        )
        backend = S3StorageBackend(s3["bucket"], client=client, atomic_create=False)
    manager = StorageManager({"main": backend}, [StoragePolicy("files", "main")])
    refs = {name: Ref.from_dict(SETTINGS[name]) for name in ("large", "medium")}

    class Form(UploadDTO):
        file: Annotated[StagedFile, Upload("files")]

    @route("/{name:str}", http_method=["GET", "HEAD"])
    async def download(name: FromPath[str]) -> FileDownload:
        return FileDownload(refs[name])

    @put("/raw")
    async def raw(data: Annotated[StagedFile, RawUpload("files")]) -> str:
        return data.checksum

    @post("/form")
    async def form(data: MultipartBody[Form]) -> str:
        return data.file.checksum

    plugin = GranitePlugin(GraniteConfig(manager, gc=None, **config))
    return Litestar([download, raw, form], plugins=[plugin], openapi_config=None)


def granite_streamed() -> Any:
    """Without leaving whole files to a server that could send them: as ranges are, and what is not on disk."""
    return granite(pathsend=False)


def litestar() -> Any:
    """What Litestar has itself: files from disk, forms that are taken in before the handler runs."""
    from litestar import Litestar, get, post
    from litestar.datastructures import UploadFile
    from litestar.enums import RequestEncodingType
    from litestar.params import Body, FromPath
    from litestar.response import File

    paths = {name: Path(SETTINGS["store"], SETTINGS[name]["location"]) for name in ("large", "medium")}

    @get("/{name:str}")
    async def download(name: FromPath[str]) -> File:
        return File(paths[name], filename="a.bin")

    @post("/form", request_max_body_size=None)
    async def form(data: Annotated[dict[str, UploadFile], Body(media_type=RequestEncodingType.MULTI_PART)]) -> str:
        digest = hashlib.sha256()
        while piece := await data["file"].read(1024 * 1024):
            digest.update(piece)
        return digest.hexdigest()

    return Litestar([download, form], openapi_config=None)
