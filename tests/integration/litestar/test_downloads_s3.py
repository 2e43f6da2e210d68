"""`FileDownload` from S3: ranges and empty files over a store that answers differently from a disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from litestar import Litestar, route
from litestar.params import FromPath
from litestar.testing import TestClient

from granite_core import S3StorageBackend, StorageManager, StoragePolicy, StoredObjectRef
from granite_litestar import FileDownload, GraniteConfig, GranitePlugin
from tests.support.s3 import S3Server

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def client(s3_server: S3Server) -> Iterator[TestClient[Litestar]]:
    bucket = s3_server.create_bucket()
    backend = S3StorageBackend(bucket, client=s3_server.client(), atomic_create=False)
    manager = StorageManager({"main": backend}, [StoragePolicy("files", "main")])
    refs: dict[str, StoredObjectRef] = {
        "data": manager.put_bytes("files", content=CONTENT),
        "empty": manager.put_bytes("files", content=b""),
        "gone": manager.put_bytes("files", content=b"gone"),
    }
    manager.delete(refs["gone"])

    @route("/files/{name:str}", http_method=["GET", "HEAD"])
    async def download(name: FromPath[str]) -> FileDownload:
        return FileDownload(refs[name])

    with TestClient(Litestar([download], plugins=[GranitePlugin(GraniteConfig(manager=manager, gc=None))])) as client:
        yield client
    s3_server.drop_bucket(bucket)


def test_files_come_from_s3_as_from_anywhere(client: TestClient[Litestar]) -> None:
    whole = client.get("/files/data")
    assert (whole.status_code, whole.content) == (200, CONTENT)
    for asked, expected in (("0-9", CONTENT[:10]), ("-7", CONTENT[-7:]), ("1048000-", CONTENT[1048000:])):
        part = client.get("/files/data", headers={"Range": f"bytes={asked}", "If-Range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, expected), asked
    several = client.get("/files/data", headers={"Range": "bytes=0-1,5000-5003"})
    assert several.status_code == 206
    assert CONTENT[5000:5004] in several.content
    assert client.get("/files/data", headers={"Range": "bytes=9999999-"}).status_code == 416
    assert client.get("/files/data", headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    empty = client.get("/files/empty", headers={"Range": "bytes=0-"})
    assert (empty.status_code, empty.content) == (200, b"")
    assert client.get("/files/gone").status_code == 404
