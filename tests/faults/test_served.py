"""What a client of the application sees of a disk that fails, and of bytes that changed at rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import pytest
from litestar import Litestar, post, put, route
from litestar.params import FromPath
from litestar.testing import TestClient

from granite_core import (
    ChecksumMismatchError,
    LocalStorageBackend,
    StagedFile,
    StorageFullError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.gc import Collector, VerifyOptions
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from granite_core.serving import entity_tag
from granite_litestar import (
    FileDownload,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RawUpload,
    Upload,
    UploadDTO,
)
from tests.faults.disks import Disk
from tests.faults.test_disks import Service
from tests.faults.world import Base

CONTENT: Final = bytes(range(256)) * 8
POLICIES: Final = [StoragePolicy("plain", "main"), StoragePolicy("verified", "main", verify_reads=True)]


class Form(UploadDTO):
    file: Annotated[StagedFile, Upload("plain")]


class Served:
    """An application that takes files in and gives them out, all by their number."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.manager = StorageManager({"main": LocalStorageBackend(root, **options)}, POLICIES)
        self.refs: list[StoredObjectRef] = []

        @put("/raw")
        async def take_raw(data: Annotated[StagedFile, RawUpload("plain")]) -> None:
            await data.keep()
            self.refs.append(data)

        @post("/form")
        async def take_form(data: MultipartBody[Form]) -> None:
            await data.file.keep()
            self.refs.append(data.file)

        @route("/{number:int}", http_method=["GET", "HEAD"])
        async def give(number: FromPath[int]) -> FileDownload:
            return FileDownload(self.refs[number])

        plugin = GranitePlugin(GraniteConfig(manager=self.manager, gc=None))
        self.app = Litestar([take_raw, take_form, give], plugins=[plugin], logging_config=None)

    @contextmanager
    def client(self) -> Iterator[TestClient[Litestar]]:
        with TestClient(self.app, raise_server_exceptions=False) as client:
            yield client

    def keep(self, storage_key: str) -> StoredObjectRef:
        self.refs.append(self.manager.put_bytes(storage_key, content=CONTENT))
        return self.refs[-1]


def uploads(client: TestClient[Litestar]) -> list[Any]:
    body = bytes(300_000)
    return [
        client.put("/raw", content=body, headers={"content-type": "application/octet-stream"}),
        client.post("/form", files={"file": ("a.bin", body)}),
    ]


def tells_nothing(answer: Any, served: Served) -> bool:
    """Whether an answer keeps paths and keys to itself."""
    names = [str(served.manager.backends["main"]), *(ref.location for ref in served.refs), "root", "granite-tmp"]
    return not any(name in answer.text for name in names)


class TestADiskThatFails:
    def test_is_507_when_it_is_full_and_still_serves(self, disk: Disk) -> None:
        served = Served(disk.root)
        served.keep("plain")
        filler = disk.fill()
        before = disk.files()
        with served.client() as client:  # an application may be started now, too
            for answer in uploads(client):
                assert answer.status_code == 507
                assert answer.json() == {"status_code": 507, "detail": StorageFullError.public}
                assert "retry-after" not in answer.headers
                assert tells_nothing(answer, served)
            assert disk.files() == before
            assert client.get("/0").content == CONTENT
            filler.unlink()
            assert {answer.status_code for answer in uploads(client)} == {200, 201}

    def test_is_503_when_it_is_read_only_and_still_serves(self, disk: Disk) -> None:
        served = Served(disk.root)
        served.keep("plain")
        disk.set_read_only(read_only=True)
        with served.client() as client:
            for answer in uploads(client):
                assert answer.status_code == 503
                assert tells_nothing(answer, served)
            assert client.get("/0").content == CONTENT
            disk.set_read_only(read_only=False)
            assert {answer.status_code for answer in uploads(client)} == {200, 201}

    @pytest.mark.parametrize("restarted", [False, True], ids=["under a process", "before a process"])
    def test_is_503_when_it_is_gone_and_serves_when_it_is_back(self, disk: Disk, restarted: bool) -> None:
        (disk.root / "files").mkdir()
        served = Served(disk.root / "files", make_root=False)
        ref = served.keep("plain")
        disk.remove()
        if restarted:
            refs, served = served.refs, Served(disk.root / "files", make_root=False)
            served.refs += refs
        with served.client() as client:
            for answer in [*uploads(client), client.get("/0"), client.get("/0", headers={"range": "bytes=0-4"})]:
                assert answer.status_code == 503
                assert answer.headers["retry-after"]
                assert "etag" not in answer.headers
                assert tells_nothing(answer, served)
            # What a client has already is as good as ever, and what a file is like is in the row.
            known = client.head("/0").headers["etag"]
            assert known == entity_tag(ref)
            assert client.get("/0", headers={"if-none-match": known}).status_code == 304
            disk.insert()
            assert client.get("/0").content == CONTENT
            assert {answer.status_code for answer in uploads(client)} == {200, 201}


DAMAGE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "a flipped bit at the front": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a flipped bit at the end": lambda data: data[:-1] + bytes([data[-1] ^ 128]),
    "cut short": lambda data: data[:-1],
    "grown": lambda data: data + b"x",
    "emptied": lambda data: b"",
}

REQUESTS: Final[dict[str, dict[str, str]]] = {
    "whole": {},
    "first bytes": {"range": "bytes=0-4"},
    "last bytes": {"range": "bytes=-5"},
    "two ranges": {"range": "bytes=0-4,1000-1004"},
    "all as a range": {"range": "bytes=0-"},
}


class TestBytesThatChanged:
    @pytest.mark.parametrize("damage", DAMAGE)
    def test_are_not_given_out_where_reads_are_verified(self, tmp_path: Path, damage: str) -> None:
        served = Served(tmp_path)
        path = tmp_path / served.keep("verified").location
        with served.client() as client:
            good = client.get("/0")
            assert good.content == CONTENT
            path.write_bytes(DAMAGE[damage](CONTENT))
            for headers in (*REQUESTS.values(), {**REQUESTS["first bytes"], "if-range": good.headers["etag"]}):
                answer = client.get("/0", headers=headers)
                assert answer.status_code == 500
                assert "etag" not in answer.headers
                assert tells_nothing(answer, served)
            # No byte is sent for these, and what they say of the content is what the row says.
            assert client.head("/0").content == b""
            fresh = client.get("/0", headers={"if-none-match": good.headers["etag"]})
            assert (fresh.status_code, fresh.content) == (304, b"")
            path.write_bytes(CONTENT)
            assert client.get("/0").content == CONTENT

    @pytest.mark.parametrize("damage", [each for each in DAMAGE if "bit" not in each])
    @pytest.mark.parametrize("request_kind", REQUESTS)
    def test_of_another_length_are_not_given_out_at_all(self, tmp_path: Path, damage: str, request_kind: str) -> None:
        served = Served(tmp_path)
        path = tmp_path / served.keep("plain").location
        path.write_bytes(DAMAGE[damage](CONTENT))
        with served.client() as client:
            answer = client.get("/0", headers=REQUESTS[request_kind])
        assert answer.status_code == 500
        assert "etag" not in answer.headers

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_are_found_by_a_verification(self, tmp_path: Path, damage: str) -> None:
        service = Service(tmp_path / "files", tmp_path / "db.sqlite3")
        ref, sound = service.put(CONTENT), service.put(CONTENT)
        service.attach(ref)
        service.attach(sound)
        Path(tmp_path, "files", ref.location).write_bytes(DAMAGE[damage](CONTENT))
        with pytest.raises(ChecksumMismatchError):
            service.manager.verify(ref)
        with pytest.raises(ChecksumMismatchError):
            service.manager.get(ref, verify=True)
        with service.manager.open(ref, verify=True) as file, pytest.raises(ChecksumMismatchError):
            file.read()
        collector = Collector(service.manager, SQLAlchemyLedger([service.engine], Base.metadata))
        report = collector.verify(VerifyOptions(checksums=True))
        kind = "checksum" if "bit" in damage else "size"
        assert report.found == {kind: 1}
        assert [each.location for each in report.discrepancies] == [ref.location]
