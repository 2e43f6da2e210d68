"""Direct uploads over real sockets: one client, unchanged, whatever the store."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import uvicorn
from botocore.exceptions import ClientError
from litestar import Litestar, Request, get, post
from litestar.connection import ASGIConnection
from litestar.exceptions import ImproperlyConfiguredException, NotAuthorizedException
from litestar.testing import TestClient
from sqlalchemy import create_engine, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    Capability,
    ChecksumMismatchError,
    LocalStorageBackend,
    MemoryStorageBackend,
    ObstoreStorageBackend,
    S3StorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UploadDeniedError,
    UploadNotFoundError,
    UploadOffsetError,
    UrlSettings,
)
from granite_core.backends.adapter import AdaptedStorageBackend, adapted
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import (
    SQLAlchemyLedger,
    SQLAlchemyUploadLedger,
    db_now,
    file_field,
    prepare_sqlite,
    tables_of,
)
from granite_core.keys import DIRECT
from granite_core.uploads import Direct, DirectSettings, Uploads, UploadStatus
from granite_litestar import DirectUploads, GraniteConfig, GranitePlugin, begin_direct_form, finished_upload
from tests.support.direct_client import DirectClient
from tests.support.s3 import S3Server
from tests.support.seven_methods import FolderBackend

MIB = 1024 * 1024
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.7\n" + bytes(range(256)) * 40
LARGE = b"%PDF-1.7\n" + uuid.uuid4().bytes * (11 * MIB // 16)
DONE = "https://pages.example/done"


class Base(DeclarativeBase):
    pass


class Video(Base):
    __tablename__ = "direct_video"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    file: Mapped[StoredObjectRef] = file_field("videos")


class Picture(Base):
    __tablename__ = "direct_picture"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    file: Mapped[StoredObjectRef] = file_field("pictures")


def user_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    return connection.headers.get("authorization", "").removeprefix("Bearer ")


def signed_in(connection: ASGIConnection[Any, Any, Any, Any], _: object) -> None:
    if not user_of(connection):
        raise NotAuthorizedException("who are you?")


def no_mallory(announced: Any) -> None:
    if announced.filename == "mallory.pdf":
        raise UploadDeniedError("not you")


@dataclass
class World:
    base: str
    manager: StorageManager
    database: str
    backend: Any
    heeds_checksums: bool
    clients: list[DirectClient] = field(default_factory=list)

    def client(self, user: str = "ann", path: str = "/direct") -> DirectClient:
        self.clients.append(DirectClient(self.base, user, path))
        return self.clients[-1]

    @property
    def engine(self) -> Any:
        engine = create_engine(self.database)
        prepare_sqlite(engine)
        return engine

    def everything(self) -> set[str]:
        """Every key of the store, reserved ones too, but for the store's marker; and every unfinished upload."""
        backend, found = self.backend, set()
        if isinstance(backend, (LocalStorageBackend, AdaptedStorageBackend)):
            root = Path(getattr(backend, "_root", None) or backend.inner.root)
            found = {str(each.relative_to(root)) for each in root.rglob("*") if each.is_file()}
        elif isinstance(backend, MemoryStorageBackend):
            found = {each.decode() for each in backend._keys}
        else:
            client, bucket = backend.test_client, backend.test_bucket
            found = {each["Key"] for each in client.list_objects_v2(Bucket=bucket).get("Contents", ())}
            unfinished = client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
            found |= {f"unfinished {each['Key']}" for each in unfinished}
        return {each for each in found if not each.endswith(".granite/store")}

    def check_nothing_remains(self) -> None:
        """Once their time has passed, uploads leave nothing with a grace and a sweep; what rows hold stays."""
        self.expire()
        self.sweep()
        prefix = "pre/fix/" if self.is_bucket else ""
        with Session(self.engine) as session:
            held = {prefix + each.file.location for each in session.query(Video)}
        assert self.everything() == held

    @property
    def is_bucket(self) -> bool:
        return Capability.PRESIGNED_PUT in self.backend.capabilities

    def expire(self) -> None:
        t = tables_of(Base.metadata).upload
        with self.engine.begin() as connection:
            connection.execute(update(t).values(expires_at=db_now() - 1, held_until=0))

    def sweep(self) -> None:
        """Let the grace pass, and sweep."""
        t = tables_of(Base.metadata).tombstone
        collector = Collector(self.manager, SQLAlchemyLedger([(self.engine, Base.metadata)]), GCConfig(max_share=1))
        collector.sweep()
        with self.engine.begin() as connection:
            connection.execute(t.update().values(written_at=0, retry_at=0))
        report = collector.sweep()
        assert not report.problems, report

    def direct(self, **settings: Any) -> Direct:
        uploads = Uploads(self.manager, SQLAlchemyUploadLedger(self.engine, Base.metadata))
        return Direct(uploads, lambda token: f"/bytes/{token}", DirectSettings(**settings))


DIRECT_ONLY = [DirectUploads("/direct", storage_key="videos", public=True)]


def make_app(
    database: str, manager: StorageManager, *, path: str = "", handlers: Any = (), routes: Any = None
) -> Litestar:
    engine = create_async_engine(database.replace("sqlite:", "sqlite+aiosqlite:"))
    prepare_sqlite(engine.sync_engine)

    async def make_tables() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    @post("/videos")
    async def attach(request: Request[Any, Any, Any]) -> dict[str, Any]:
        said = await request.json()
        file = await finished_upload(request, said["token"], Video.file, subject=user_of(request))
        async with AsyncSession(engine, expire_on_commit=False) as db_session:
            db_session.add(Video(file=file))
            await db_session.commit()
        return {"size": file.size, "checksum": file.checksum, "type": file.content_type, "name": file.original_filename}

    direct = DirectSettings(parts_above=6 * MIB, part_size=5 * MIB, page=2)
    uploads = [
        DirectUploads(
            "/direct",
            storage_key="videos",
            guards=[signed_in],
            subject=user_of,
            direct=direct,
            form_redirect=DONE,
        ),
        DirectUploads("/teams/{team:str}/files", storage_key="videos", public=True, subject=user_of),
        DirectUploads("/pictures", storage_key="pictures", public=True, direct=direct),
        DirectUploads(
            "/hasty", storage_key="videos", public=True, direct=DirectSettings(requests_expire_in=timedelta(seconds=2))
        ),
    ]
    config = GraniteConfig(manager=manager, engines=[engine], models=[Base], gc=None, uploads=routes or uploads)
    return Litestar([attach, *handlers], path=path, plugins=[GranitePlugin(config)], on_startup=[make_tables])


@contextmanager
def running(app: Litestar) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def backend_on(server: S3Server, bucket: str, *, obstore: bool = False) -> Any:
    backend: Any
    if obstore:
        from obstore.store import S3Store

        store = S3Store(
            bucket,
            endpoint=server.endpoint,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            region=server.region,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        backend = ObstoreStorageBackend(store, "pre/fix")
    else:
        backend = S3StorageBackend(bucket, "pre/fix", server.client(), atomic_create=server.name != "rgw")
    backend.test_client, backend.test_bucket = server.client(), bucket
    return backend


DEEP = os.environ.get("GRANITE_DEEP") == "1"
STORES = ["local", "ministack", "rgw", *(["memory", "seven methods", "rgw-obstore"] if DEEP else [])]


@pytest.fixture(scope="module", params=STORES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("direct")
    server: S3Server | None = None
    if request.param == "local":
        backend: Any = LocalStorageBackend(folder / "files")
    elif request.param == "memory":
        backend = MemoryStorageBackend()
    elif request.param == "seven methods":
        backend = adapted("main", FolderBackend(folder / "files"))
    else:
        server = request.getfixturevalue(request.param.partition("-")[0])
        assert server is not None
        bucket = server.create_bucket()
        backend = backend_on(server, bucket, obstore="obstore" in request.param)
        if server.name == "rgw" or "rgw" in request.param:
            backend.atomic_create = False
    manager = StorageManager(
        {"main": backend},
        [
            StoragePolicy("videos", max_size=32 * MIB, key_prefix="videos", before_upload=[no_mallory]),
            StoragePolicy("pictures", max_size=100_000, content_types=["image/png"]),
        ],
        urls=UrlSettings(secrets=["a secret that is as long as it has to be"]),
    )
    database = f"sqlite:///{folder}/db.sqlite3"
    with running(make_app(database, manager)) as base:
        world = World(
            base,
            manager,
            database,
            backend,
            heeds_checksums="rgw" not in request.param,
        )
        yield world
        for each in world.clients:
            each.close()
        world.check_nothing_remains()
    if server is not None:
        server.drop_bucket(backend.test_bucket)


@pytest.fixture(autouse=True)
def nothing_remains(request: pytest.FixtureRequest) -> Iterator[None]:
    """After all tests of a store nothing remains; told after each, by GRANITE_DEEP=1, which test left it."""
    yield
    if DEEP and "world" in request.fixturenames:
        request.getfixturevalue("world").check_nothing_remains()


@pytest.mark.parametrize("content", [PDF, LARGE, b""], ids=["one request", "parts", "empty"])
def test_what_a_client_sends_becomes_a_file(world: World, content: bytes) -> None:
    client = world.client()
    said = {"name": "a.pdf", "type": "application/pdf", "sha256": hashlib.sha256(content).hexdigest()}
    answer = client.upload(content, **said)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    kind = "application/pdf" if content else "application/octet-stream"
    assert (told["filename"], told["size"], told["content_type"]) == ("a.pdf", len(content), kind)
    attached = client.attach(told["token"])
    assert attached.status_code == 201, attached.text
    assert attached.json()["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    with Session(world.engine) as session:
        file = max((each.file for each in session.query(Video)), key=lambda each: each.created_at or "")
    assert world.manager.get(file) == content
    assert ".granite" not in file.location
    assert client.attach(told["token"]).status_code == 404, "a token is good for one row"


def test_a_plain_form_sends_a_file_without_saying_its_size(world: World) -> None:
    client = world.client()
    begun = client.begin(name="a.pdf", type="application/pdf", form=True)
    assert begun.status_code == 201, begun.text
    told = begun.json()
    assert told["way"] == "post"
    sent = client.send(told["request"], PDF)
    assert sent.status_code == 303, sent.text
    assert sent.headers["location"].startswith(f"{DONE}?upload={told['id']}")
    answer = client.complete(told["id"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] == len(PDF)


def test_a_form_takes_no_more_than_the_policy_does(world: World) -> None:
    client = world.client(path="/pictures")
    told = client.begin(name="a.png", form=True).json()
    sent = client.send(told["request"], b"x" * 300_000)
    answer = client.complete(told["id"])
    assert (sent.is_success, answer.status_code) == (False, 409)


def test_completing_twice_gives_the_same_file(world: World) -> None:
    client = world.client()
    told = client.begin(name="a.pdf", size=len(PDF)).json()
    client.send_all(told, PDF)
    first, second = client.complete(told["id"]), client.complete(told["id"])
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert client.attach(second.json()["token"]).status_code == 201
    assert client.complete(told["id"]).status_code == 404


def test_sending_again_after_completion_changes_nothing(world: World) -> None:
    client = world.client()
    told = client.begin(name="a.pdf", size=len(PDF), type="application/pdf").json()
    client.send_all(told, PDF)
    token = client.complete(told["id"]).json()["token"]
    client.send(told["request"], bytes(len(PDF)))  # the store may take it; it lies where no row looks
    attached = client.attach(token)
    assert attached.status_code == 201
    assert attached.json()["checksum"] == f"sha256:{hashlib.sha256(PDF).hexdigest()}"
    with Session(world.engine) as session:
        files = [each.file for each in session.query(Video)]
    assert all(world.manager.get(each)[:4] in (b"%PDF", b"") for each in files)


def test_sending_again_before_completion_replaces(world: World) -> None:
    client = world.client()
    other = PDF[:-1] + b"!"
    told = client.begin(name="a.pdf", size=len(PDF)).json()
    client.send_all(told, PDF)
    client.send_all(told, other)
    token = client.complete(told["id"]).json()["token"]
    assert client.attach(token).json()["checksum"] == f"sha256:{hashlib.sha256(other).hexdigest()}"


@pytest.mark.parametrize("length", [-1, 1], ids=["fewer", "more"])
def test_another_length_than_was_said_is_refused(world: World, length: int) -> None:
    client = world.client()
    told = client.begin(name="a.pdf", size=len(PDF)).json()
    sent = client.send(told["request"], PDF + b"x" if length > 0 else PDF[:-1])
    assert not sent.is_success
    assert client.complete(told["id"]).status_code == 409
    client.send_all(told, PDF)
    assert client.complete(told["id"]).status_code == 200


@pytest.mark.parametrize("content", [PDF[:-1], PDF + b"x"], ids=["fewer", "more"])
def test_what_a_store_lets_through_is_measured_again(world: World, content: bytes) -> None:
    """As a store would that does not hold a request against its signature."""
    direct = world.direct()
    session = direct.begin("videos", filename="a.pdf", size=len(PDF))
    (key,) = session.progress.leftovers
    world.backend.put_bytes(key, content)
    with pytest.raises(ChecksumMismatchError) as refused:
        direct.complete(session.id)
    assert refused.value.limit == len(PDF)
    with pytest.raises(UploadNotFoundError):
        direct.complete(session.id)


def test_another_content_than_was_said_is_refused(world: World) -> None:
    client = world.client()
    said = {"name": "a.pdf", "size": len(PDF), "sha256": hashlib.sha256(PDF).hexdigest()}
    told = client.begin(**said).json()
    sent = client.send(told["request"], PDF[:-1] + b"!")
    assert sent.is_success is not world.heeds_checksums
    answer = client.complete(told["id"])
    assert answer.status_code == (422 if sent.is_success else 409), answer.text
    if sent.is_success:
        assert answer.json()["extra"]["code"] == "checksum_mismatch"


def test_another_type_than_is_accepted_is_refused_by_its_first_bytes(world: World) -> None:
    client = world.client(path="/pictures")
    answer = client.upload(PDF, name="a.png", type="image/png")
    assert answer.status_code == 415, answer.text
    accepted = client.upload(PNG, name="a.png", type="image/png")
    assert accepted.status_code == 200, accepted.text
    assert accepted.json()["content_type"] == "image/png"


def test_too_large_a_file_is_refused_before_any_byte(world: World) -> None:
    answer = world.client(path="/pictures").begin(name="a.png", size=100_001)
    assert answer.status_code == 413
    assert answer.json()["extra"]["limit"] == 100_000


def test_hooks_are_asked_when_an_upload_begins(world: World) -> None:
    assert world.client().begin(name="mallory.pdf", size=10).status_code == 403


def test_nothing_sent_is_nothing_to_complete(world: World) -> None:
    client = world.client()
    for size in (10, 11 * MIB):
        told = client.begin(name="a.pdf", size=size).json()
        answer = client.complete(told["id"])
        assert answer.status_code == 409, answer.text
        assert answer.json()["extra"]["code"] == "upload_offset"


def test_a_part_that_is_missing_can_still_come(world: World) -> None:
    client = world.client()
    told = client.begin(name="a.pdf", size=len(LARGE)).json()
    if told["way"] != "parts":
        pytest.skip("this store takes it in one request")
    size = told["parts"]["size"]
    assert client.send(told["parts"]["requests"][0], LARGE[:size]).is_success
    assert client.complete(told["id"]).status_code == 409
    client.send_all(told, LARGE)
    assert client.complete(told["id"]).status_code == 200


def test_another_subject_finds_nothing(world: World) -> None:
    ann, bob = world.client(), world.client("bob")
    told = ann.begin(name="a.pdf", size=len(PDF)).json()
    ann.send_all(told, PDF)
    assert bob.complete(told["id"]).status_code == 404
    assert bob.discard(told["id"]).status_code == 404
    assert bob.app.get(f"/direct/{told['id']}").status_code == 404
    token = ann.complete(told["id"]).json()["token"]
    assert bob.attach(token).status_code == 404
    assert world.client("").begin(name="a.pdf", size=10).status_code == 401


@pytest.mark.parametrize("content", [PDF, LARGE], ids=["one request", "parts"])
def test_what_is_given_up_is_removed_at_once(world: World, content: bytes) -> None:
    client = world.client()
    before = world.everything()
    told = client.begin(name="a.pdf", size=len(content)).json()
    client.send_all(told, content)
    assert world.everything() != before
    assert client.discard(told["id"]).status_code == 204
    assert world.everything() == before
    assert client.complete(told["id"]).status_code == 404


@pytest.mark.parametrize("content", [PDF, LARGE], ids=["one request", "parts"])
def test_what_is_never_completed_is_swept(world: World, content: bytes) -> None:
    client = world.client()
    world.check_nothing_remains()
    before = world.everything()
    told = client.begin(name="a.pdf", size=len(content)).json()
    client.send_all(told, content)
    world.expire()
    assert client.complete(told["id"]).status_code == 410
    world.sweep()
    assert client.complete(told["id"]).status_code == 404
    assert world.everything() == before


def test_a_request_that_has_expired_is_refused(world: World) -> None:
    client = world.client(path="/hasty")
    told = client.begin(name="a.pdf", size=len(PDF)).json()
    time.sleep(2.5)
    sent = client.send(told["request"], PDF)
    assert not sent.is_success
    again = client.app.get(f"/hasty/{told['id']}").json()
    client.send_all(again, PDF)
    assert client.complete(told["id"]).status_code == 200


def test_the_same_verbs_serve_synchronous_code(world: World) -> None:
    direct, client = world.direct(), world.client()
    session = direct.begin("videos", filename="a.pdf", size=len(PDF), content_type="application/pdf")
    told = direct.instructions(session)
    assert told.request is not None
    if told.request.url.startswith("/bytes/"):
        direct.receive(told.request.url.removeprefix("/bytes/"), [PDF[:10], PDF[10:]])
    else:
        sent = client.anybody.put(told.request.url, content=PDF, headers=told.request.headers)
        assert sent.is_success
    finished = direct.complete(session.id)
    assert finished.status is UploadStatus.FINISHED
    assert finished.file is not None
    assert finished.file.content_type == "application/pdf"
    with pytest.raises(UploadOffsetError):
        direct.instructions(finished)
    with Session(world.engine) as db_session:
        db_session.add(Video(file=finished.file))
        db_session.commit()


def test_what_nobody_remembers_is_cleared_by_the_reconcile(world: World) -> None:
    """A request may outlive its upload by more than the grace, a store its database; and such keys no listing shows."""
    if isinstance(world.backend, AdaptedStorageBackend):
        pytest.skip("it lists no reserved keys, nor tells when something was stored")
    direct = world.direct()
    before = world.everything()
    world.backend.put_bytes(f"{DIRECT}{uuid.uuid4().hex}", PDF)
    living = direct.begin("videos", filename="b.pdf", size=len(PDF))
    (key,) = living.progress.leftovers
    world.backend.put_bytes(key, PDF)
    time.sleep(1.1)
    collector = Collector(
        world.manager,
        SQLAlchemyLedger([(world.engine, Base.metadata)]),
        GCConfig(max_share=1, unfinished_after=timedelta(seconds=1)),
    )
    report = collector.reconcile()
    assert not report.problems, report
    assert {each.removeprefix("pre/fix/") for each in world.everything() - before} == {key}
    assert direct.complete(living.id).status is UploadStatus.FINISHED


@pytest.mark.parametrize("ends", ["given up", "expired"])
def test_what_is_written_within_the_grace_of_an_upload_s_end_is_swept(world: World, ends: str) -> None:
    """By a request that is still good, or that was being taken when the process died that took it."""
    client, direct = world.client(), world.direct()
    world.check_nothing_remains()
    before = world.everything()
    session = direct.begin("videos", filename="a.pdf", size=len(PDF))
    request = direct.instructions(session).request
    assert request is not None
    if not world.is_bucket:
        write = direct.write_for(direct.opened(request.url.removeprefix("/bytes/")), session)
        write.admit(PDF)
        end(world, session.id, ends)
        write.commit()
    else:
        end(world, session.id, ends)
        assert client.anybody.put(request.url, content=PDF, headers=request.headers).is_success
    assert world.everything() > before
    world.sweep()
    assert world.everything() == before


def end(world: World, upload: str, ends: str) -> None:
    if ends == "given up":
        world.direct().uploads.discard(upload)
    else:
        world.expire()
        engine = SQLAlchemyLedger([(world.engine, Base.metadata)])
        assert Collector(world.manager, engine, GCConfig(max_share=1)).sweep().uploads


def test_the_application_takes_nothing_for_an_upload_that_ended_meanwhile(world: World) -> None:
    client, direct = world.client(), world.direct()
    told = own_request(world, client, size=len(PDF))
    before = world.everything()
    sealed = direct.instructions(direct.uploads.find(told["id"], subject="ann")).request
    assert sealed is not None

    def chunks() -> Iterator[bytes]:
        yield PDF[:100]
        direct.uploads.discard(told["id"], subject="ann")
        yield PDF[100:]

    with pytest.raises(UploadNotFoundError):
        direct.receive(sealed.url.removeprefix("/bytes/"), chunks())
    assert world.everything() == before


def own_request(world: World, client: DirectClient, **said: Any) -> dict[str, Any]:
    if world.is_bucket:
        pytest.skip("the store takes it")
    told: dict[str, Any] = client.begin(name="a.pdf", **said).json()
    return told


def test_the_application_takes_no_more_than_was_said_however_it_comes(world: World) -> None:
    client = world.client()
    told = own_request(world, client, size=300_000)
    before = world.everything()

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(100_000)

    url = urljoin(world.base, told["request"]["url"])
    assert client.anybody.put(url, content=endless()).status_code == 413
    assert client.anybody.put(url, content=b"x", headers={"Content-Encoding": "gzip"}).status_code == 415
    assert client.anybody.post(url, content=b"x").status_code == 415
    assert client.anybody.post(url, files={"other": b"x"}).status_code == 400
    assert client.anybody.put(url[:-2] + "xx", content=b"x").status_code == 404
    assert world.everything() == before


def test_a_connection_that_ends_leaves_nothing(world: World) -> None:
    client = world.client()
    told = own_request(world, client, size=2 * MIB)
    before = world.everything()
    parts = urlsplit(urljoin(world.base, told["request"]["url"]))
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        head = f"PUT {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {2 * MIB}\r\n\r\n"
        connection.sendall(head.encode() + bytes(MIB))
    deadline = time.monotonic() + 30
    while world.everything() != before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.complete(told["id"]).status_code == 409


def test_the_application_takes_nothing_for_an_upload_that_is_over(world: World) -> None:
    client = world.client()
    told = own_request(world, client, size=len(PDF))
    assert client.discard(told["id"]).status_code == 204
    assert client.send(told["request"], PDF).status_code == 404


def test_the_routes_are_described(world: World) -> None:
    described = world.client().app.get("/schema/openapi.json").json()
    assert {"/direct", "/direct/{upload_id}", "/direct/{upload_id}/complete"} <= set(described["paths"])
    assert not [path for path in described["paths"] if "bytes" in path]
    complete = described["paths"]["/direct/{upload_id}/complete"]["post"]
    assert {"200", "404", "409", "410", "413", "415", "422", "423"} <= set(complete["responses"])
    body = described["components"]["schemas"]["NewDirectUpload"]
    assert set(body["properties"]) == {"name", "size", "type", "sha256", "form"}


@pytest.mark.parametrize(
    "said",
    [
        {"name": "a.pdf"},
        {"size": -1},
        {"size": 1, "sha256": "abc"},
        {"size": 1, "sha256": "a" * 64 + "\n"},
        {"size": 1, "key": "videos/x"},
    ],
)
def test_what_cannot_be_meant_is_refused(world: World, said: dict[str, Any]) -> None:
    assert world.client().begin(**said).status_code in (400, 422)


def test_completing_goes_on_where_a_process_died_after_joining_the_parts(world: World) -> None:
    client, direct = world.client(), world.direct(parts_above=6 * MIB, part_size=5 * MIB)
    session = direct.begin("videos", filename="a.pdf", size=len(LARGE))
    parts = direct.instructions(session).parts
    if parts is None or parts.requests[0].url.startswith("/"):
        pytest.skip("nothing is joined here")
    for number, request in enumerate(parts.requests):
        data = LARGE[number * parts.size : (number + 1) * parts.size]
        assert client.anybody.put(request.url, content=data, headers=request.headers).is_success
    world.backend.join_parts(session.details["key"], session.progress.upload)
    assert direct.complete(session.id).status is UploadStatus.FINISHED


def test_an_upload_whose_parts_the_store_has_lost_is_over(world: World) -> None:
    """A rule of the bucket may abort what is unfinished for days."""
    client = world.client()
    told = client.begin(name="a.pdf", size=len(LARGE)).json()
    if told["way"] != "parts" or told["parts"]["requests"][0]["url"].startswith(("/", world.base)):
        pytest.skip("nothing is joined here")
    client.send_all(told, LARGE)
    session = world.direct().uploads.find(told["id"], subject="ann")
    world.backend.discard_parts(session.details["key"])
    answer = client.complete(told["id"])
    assert (answer.status_code, answer.json()["extra"]["code"]) == (410, "unfinishable")
    assert client.complete(told["id"]).status_code == 404


def test_parts_are_removed_where_uploads_may_not_be_listed(world: World) -> None:
    if not isinstance(world.backend, S3StorageBackend):
        pytest.skip("nothing is listed by boto here")
    client, before, events = world.client(), world.everything(), world.backend.client.meta.events
    told = client.begin(name="a.pdf", size=len(LARGE)).json()
    assert client.send(told["parts"]["requests"][0], LARGE[: told["parts"]["size"]]).is_success
    denied = ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "List")

    def deny(**_: Any) -> None:
        raise denied

    events.register("before-call.s3.ListMultipartUploads", deny)
    try:
        assert client.discard(told["id"]).status_code == 204
    finally:
        events.unregister("before-call.s3.ListMultipartUploads", deny)
    assert world.everything() == before


def test_of_two_that_complete_at_once_one_does_it(world: World) -> None:
    clients = [world.client() for _ in range(4)]
    told = clients[0].begin(name="a.pdf", size=len(PDF)).json()
    clients[0].send_all(told, PDF)
    with ThreadPoolExecutor(4) as threads:
        answered = list(threads.map(lambda client: client.complete(told["id"]), clients))
    assert {each.status_code for each in answered} <= {200, 423, 409}
    assert len({each.json()["token"] for each in answered if each.status_code == 200}) == 1
    assert clients[0].complete(told["id"]).status_code == 200


def test_whoever_is_beaten_to_completing_gets_the_file_too(world: World) -> None:
    direct = world.direct()
    session = direct.begin("videos", filename="a.pdf", size=len(PDF))
    world.backend.put_bytes(session.progress.leftovers[0], PDF)
    slow, lock = world.direct(), direct.uploads.ledger.lock

    def late(*said: Any, **more: Any) -> Any:
        direct.complete(session.id)
        return lock(*said, **more)

    slow.uploads.ledger.lock = late  # type: ignore[method-assign]  # between finding it and taking it
    assert slow.complete(session.id).file == direct.complete(session.id).file


def test_of_two_that_send_at_once_one_stays_and_both_are_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    direct, other = world.direct(), PDF[:-1] + b"!"
    session = direct.begin("videos", filename="a.pdf", size=len(PDF))
    request = direct.instructions(session).request
    assert request is not None
    if world.is_bucket:
        pytest.skip("the store takes it")
    write = direct.write_for(direct.opened(request.url.removeprefix("/bytes/")), session)
    write.admit(PDF)
    delete = write.backend.delete

    def late(key: str) -> None:
        monkeypatch.undo()
        delete(key)
        direct.receive(request.url.removeprefix("/bytes/"), [other])

    monkeypatch.setattr(write.backend, "delete", late)  # between removing what lies there and taking its place
    write.commit()
    finished = direct.complete(session.id).file
    assert finished is not None
    assert world.manager.get(finished) == other


def test_a_part_that_comes_again_while_parts_are_joined_is_joined(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(world.backend, S3StorageBackend):
        pytest.skip("nothing is joined by boto here")
    client, direct = world.client(), world.direct(parts_above=6 * MIB, part_size=5 * MIB)
    session = direct.begin("videos", filename="a.pdf", size=len(LARGE))
    parts = direct.instructions(session).parts
    assert parts is not None

    def send(number: int, content: bytes) -> None:
        data = content[number * parts.size : (number + 1) * parts.size]
        request = parts.requests[number]
        assert client.anybody.put(request.url, content=data, headers=request.headers).is_success

    for number in range(parts.count):
        send(number, LARGE)
    other, ask, asked = b"%PDF-1.7!" + LARGE[9:], world.backend._ask, list[str]()

    def late(operation: str, **said: Any) -> Any:
        if operation == "complete_multipart_upload" and operation not in asked:
            send(0, other)
        asked.append(operation)
        return ask(operation, **said)

    monkeypatch.setattr(world.backend, "_ask", late)
    finished = direct.complete(session.id).file
    assert finished is not None
    assert finished.checksum == f"sha256:{hashlib.sha256(other).hexdigest()}"


def test_there_are_no_more_parts_than_there_are(world: World) -> None:
    client = world.client()
    told = client.begin(name="a.pdf", size=len(LARGE)).json()
    assert told["parts"]["count"] == 3
    assert client.app.get(f"/direct/{told['id']}", params={"first": 3}).status_code == 200
    answer = client.app.get(f"/direct/{told['id']}", params={"first": 4})
    assert (answer.status_code, answer.json()["extra"]) == (400, {"field": "first", "limit": 3})


def test_an_upload_is_known_where_it_was_begun(world: World) -> None:
    """Another route may have other guards, and so may another folder of one route."""
    client = world.client()
    told = client.begin(name="a.pdf", size=len(PDF)).json()
    assert client.app.post(f"/hasty/{told['id']}/complete").status_code == 404
    team = world.client(path="/teams/a%20b/files")
    begun = team.begin(name="a.pdf", size=len(PDF))
    assert begun.status_code == 201, begun.text
    assert begun.headers["location"] == f"/teams/a%20b/files/{begun.json()['id']}"
    team.send_all(begun.json(), PDF)
    for other in ("/teams/c/files", "/direct"):
        assert client.app.post(f"{other}/{begun.json()['id']}/complete").status_code == 404
        assert client.app.delete(f"{other}/{begun.json()['id']}").status_code == 404
    assert team.complete(begun.json()["id"]).status_code == 200


def test_what_is_to_be_sent_is_told_as_json(world: World) -> None:
    """Pages of any origin may have a browser send a text or a form without asking."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = world.client().app.post("/direct", content=b'{"size": 3}', headers={"Content-Type": kind})
        assert answer.status_code == 415, answer.text


def test_what_is_told_leads_to_where_the_application_is_mounted(tmp_path: Path) -> None:
    """Whatever is above it, and whatever the page is called that shows a form."""
    manager = StorageManager(
        {"main": MemoryStorageBackend()},
        [StoragePolicy("videos", before_upload=[no_mallory]), StoragePolicy("pictures")],
        urls=UrlSettings(secrets=["a secret that is as long as it has to be"], path="/v1/files"),
    )

    @get("/my/direct/form")
    async def page(request: Request[Any, Any, Any]) -> str:
        told = await begin_direct_form(request, "/direct")
        assert told.request is not None
        return told.request.url

    made = make_app(f"sqlite:///{tmp_path}/db.sqlite3", manager, path="/v1", handlers=[page], routes=DIRECT_ONLY)
    with TestClient(made, root_path="/site") as client:
        url = client.get("/v1/my/direct/form").text
        assert url.startswith("/site/v1/direct/bytes/")
        assert client.post(url.removeprefix("/site"), files={"file": ("a.bin", b"0123")}).status_code == 204
        begun = client.post("/v1/direct", json={"name": "a.bin", "size": 4})
        assert begun.json()["request"]["url"].startswith("/site/v1/direct/bytes/")
        assert begun.headers["location"] == f"/site/v1/direct/{begun.json()['id']}"
        described = client.get("/v1/schema/openapi.json").json()["paths"]
        assert "403" in described["/v1/direct"]["post"]["responses"], "its policy's hooks may deny it"


def test_a_form_needs_routes_to_go_to(tmp_path: Path) -> None:
    app = Litestar([])
    request: Any = SimpleNamespace(app=app)
    with pytest.raises(ImproperlyConfiguredException, match="no DirectUploads"):
        asyncio.run(begin_direct_form(request, "/direct"))
