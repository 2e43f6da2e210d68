"""What is told of answers and refusals, and that nothing told of anything holds a secret."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import boto3
import httpx
import pytest
from botocore.config import Config
from litestar import Litestar, post, route
from litestar.params import FromPath
from litestar.testing import TestClient
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    BackendError,
    LocalStorageBackend,
    S3StorageBackend,
    StagedFile,
    StorageBackend,
    StorageError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.events import Attached, Collected, Deleted, Event, Refused, Released, Served, Stored, object_id
from granite_core.gc import Collector
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, file_field, tables_of
from granite_core.testing import FaultyBackend
from granite_litestar import (
    FileDownload,
    FormLimits,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RawUpload,
    Upload,
    UploadDTO,
)
from tests.support.s3 import S3Server

from .downloads_support import CountingBackend, client_of, raw_request, serving, wait_until

SIZE = 1_000_000


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "letter"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("docs")


class Form(UploadDTO):
    __form_limits__ = FormLimits(max_field_size=100, max_ignored_size=50)

    file: Annotated[StagedFile, Upload("docs")]
    title: str = ""


@post("/form")
async def take_form(data: MultipartBody[Form]) -> None: ...


@post("/raw")
async def take_raw(data: Annotated[StagedFile, RawUpload("docs", field="scan")]) -> None: ...


def make_manager(backend: StorageBackend, **options: Any) -> StorageManager:
    policies = [StoragePolicy("docs", "main", max_size=2 * SIZE, key_prefix="sealed/prefix")]
    return StorageManager({"main": backend}, policies, **options)


def make_app(manager: StorageManager, files: dict[str, StoredObjectRef]) -> Litestar:
    @route("/files/{name:str}", http_method=["GET", "HEAD"])
    async def serve(name: FromPath[str]) -> FileDownload:
        return FileDownload(files[name])

    plugin = GranitePlugin(GraniteConfig(manager=manager, gc=None))
    return Litestar([serve, take_form, take_raw], plugins=[plugin], logging_config=None)


class World:
    def __init__(self) -> None:
        self.backend = CountingBackend()
        self.manager = make_manager(self.backend)
        self.file = self.manager.put_bytes("docs", content=bytes(SIZE), original_filename="a.bin")
        self.missing = self.manager.put_bytes("docs", content=b"x")
        self.manager.delete(self.missing)
        self.app = make_app(self.manager, {"file": self.file, "missing": self.missing})
        self.served: list[Served] = []
        self.refused: list[Refused] = []
        self.manager.listen(self._hear, Served, Refused)

    def _hear(self, event: Event) -> None:
        (self.served if isinstance(event, Served) else self.refused).append(event)  # type: ignore[attr-defined]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Iterator[TestClient[Litestar]]:
    with TestClient(world.app, raise_server_exceptions=False) as client:
        yield client


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "status", "sent"),
    [
        ("GET", {}, 200, SIZE),
        ("HEAD", {}, 200, 0),
        ("GET", {"Range": "bytes=10-19"}, 206, 10),
        ("GET", {"Range": f"bytes={SIZE}-"}, 416, 0),
        ("GET", {"If-None-Match": "*"}, 304, 0),
        ("GET", {"If-Match": '"another"'}, 412, 0),
    ],
)
def test_an_answer_is_told_with_its_status_and_bytes(
    client: TestClient[Litestar], world: World, method: str, headers: dict[str, str], status: int, sent: int
) -> None:
    answer = client.request(method, "/files/file", headers=headers)
    assert answer.status_code == status
    [event] = world.served
    assert 0 <= event.seconds < 60
    assert event == Served(
        **world.manager.name_of(world.file),
        method=method,
        status=status,
        size=SIZE,
        sent=sent,
        seconds=event.seconds,
        complete=True,
    )


def test_several_ranges_count_what_stands_between_them(client: TestClient[Litestar], world: World) -> None:
    answer = client.get("/files/file", headers={"Range": "bytes=0-9,500000-500009"})
    assert answer.status_code == 206
    assert world.served[0].sent == len(answer.content) > 20
    assert world.served[0].complete


def test_a_missing_object_is_an_error_with_its_cause(
    client: TestClient[Litestar], world: World, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.get("/files/missing").status_code == 404
    [event] = world.served
    assert (event.status, event.sent, event.complete, event.error) == (404, 0, False, "object_not_found")
    assert isinstance(event.cause, StorageError)
    [record] = [each for each in caplog.records if each.name.startswith("granite")]
    assert (record.name, record.levelno) == ("granite.served", logging.ERROR)
    assert "is missing" in record.getMessage()


def test_what_the_exception_handler_tells_is_not_logged_twice(
    client: TestClient[Litestar], world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.backend.reported_size = 7
    assert client.get("/files/file").status_code == 500
    [event] = world.served
    assert (event.status, event.error, event.cause) == (500, "checksum_mismatch", None)
    assert [each.name for each in caplog.records if each.name.startswith("granite")] == ["granite.requests"]
    assert object_id(world.file.location) in caplog.text
    assert "/files/file" in caplog.text


def test_a_failure_on_the_way_is_told_with_what_was_sent(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.backend.fail_after = 100_000
    with client_of(world.app) as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/files/file")
    assert wait_until(lambda: world.served)
    [event] = world.served
    assert (event.status, event.complete, event.error) == (200, False, "backend_unavailable")
    assert 100_000 <= event.sent < SIZE
    [record] = [each for each in caplog.records if each.name.startswith("granite")]
    assert "failed while it was being sent" in record.getMessage()


def test_a_client_that_left_is_told_and_is_no_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.backend.read_seconds = 0.05
    with serving(world.app) as address, caplog.at_level(logging.DEBUG, "granite"):
        sock = raw_request(address, b"GET /files/file HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        sock.close()
        assert wait_until(lambda: world.served)
    [event] = world.served
    assert (event.status, event.complete, event.error, event.cause) == (200, False, None, None)
    assert event.sent < SIZE
    [record] = [each for each in caplog.records if each.name == "granite.served"]
    assert (record.levelno, "the client left" in record.getMessage()) == (logging.DEBUG, True)


# -- refusals ----------------------------------------------------------------------------------------------------------


def refusal(storage_key: str, field: str | None, limit: int, value: int) -> Refused:
    return Refused(storage_key=storage_key, field=field, code="content_too_large", limit=limit, value=value)


def test_what_a_policy_refuses_is_told_once(client: TestClient[Litestar], world: World) -> None:
    assert client.post("/form", files={"file": bytes(2 * SIZE + 1)}).status_code == 413
    assert client.post("/raw", content=bytes(2 * SIZE + 1)).status_code == 413
    [form, raw] = world.refused
    assert (form.storage_key, form.field, form.limit) == ("docs", "file", 2 * SIZE)
    assert raw == refusal("docs", "scan", 2 * SIZE, 2 * SIZE + 1)


def test_what_a_form_refuses_is_told_once(client: TestClient[Litestar], world: World) -> None:
    assert client.post("/form", data={"title": "x" * 101}, files={"file": b"x"}).status_code == 413
    assert client.post("/form", files={"file": b"x", "a\x85\u2028b": b"x" * 51}).status_code == 413
    [title, unknown] = world.refused
    assert title == refusal("", "title", 100, 101)
    assert (unknown.storage_key, unknown.limit) == ("", 50)
    assert unknown.field is not None
    assert unknown.field.isprintable()


def test_the_request_line_steps_back_behind_the_event(
    client: TestClient[Litestar], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "granite"):
        client.post("/raw", content=bytes(2 * SIZE + 1))
    lines = [(each.name, each.levelname) for each in caplog.records if each.name.startswith("granite")]
    assert lines == [("granite.refused", "INFO"), ("granite.requests", "DEBUG")]


# -- no secrets --------------------------------------------------------------------------------------------------------


class Store:
    """A backend that works, the same place through one that does not, and what must never be told of either."""

    def __init__(self, working: StorageBackend, broken: StorageBackend, secrets: list[str]) -> None:
        self.working = FaultyBackend(working)
        self.broken = FaultyBackend(broken)
        self._secrets = secrets

    def secrets(self) -> list[str]:
        """Credentials, addresses, folders, and the random part of every key that was ever used."""
        keys = {key for _, key in [*self.working.log, *self.broken.log] if key and not key.startswith(".granite")}
        return [*self._secrets, "sealed/prefix", *{key.rpartition("/")[2] for key in keys}]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3_bucket: Callable[..., tuple[Any, str]]) -> Store:
    if request.param == "local":
        root = tmp_path / "private-root" / "files"
        (tmp_path / "private-root" / "gone").mkdir(parents=True)
        gone = LocalStorageBackend(tmp_path / "private-root" / "gone" / "files")
        gone.put_bytes("x", b"")
        shutil.rmtree(tmp_path / "private-root" / "gone")
        return Store(LocalStorageBackend(root), gone, ["private-root"])
    server: S3Server = request.getfixturevalue("ministack")
    client, bucket = s3_bucket(server)
    dead = boto3.client(
        "s3",
        endpoint_url="http://127.0.0.1:9",
        aws_access_key_id="AKIANEVERTOLD",
        aws_secret_access_key="a-secret-never-told",
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, proxies={}),
    )
    return Store(
        S3StorageBackend(bucket=bucket, prefix="hidden-prefix", client=client),
        S3StorageBackend(bucket=bucket, prefix="hidden-prefix", client=dead),
        ["hidden-prefix", "AKIANEVERTOLD", "a-secret-never-told", "127.0.0.1:9"],
    )


EVIL = "in\r\nvoice\x1b[31m\u202efdp.exe"


def use_everything(manager: StorageManager, engine: Engine) -> None:
    """Every verb, when all is well and when content is refused."""
    manager.register(Base)
    files = {"a": manager.put_bytes("docs", content=b"hello", original_filename=EVIL)}
    files["missing"] = manager.put_stream("docs", stream=io.BytesIO(b"x"))
    copy = manager.copy(files["a"])
    manager.verify(copy)
    manager.discard(copy)
    with manager.open(files["a"]) as reader:
        reader.read()
    with pytest.raises(StorageError):
        manager.put_bytes("docs", content=bytes(2 * SIZE + 1), original_filename=EVIL)
    with Session(engine) as session:
        letter = Letter(file=files["a"])
        session.add(letter)
        session.commit()
        letter.file = manager.put_bytes("docs", content=b"new")
        session.flush()
        session.rollback()
        letter.file = manager.put_bytes("docs", content=b"newer")
        session.commit()
        files["kept"] = letter.file
    manager.delete(files["missing"])
    with TestClient(make_app(manager, files), raise_server_exceptions=False) as client:
        for name, status in (("kept", 200), ("missing", 404)):
            assert client.get(f"/files/{name}").status_code == status
        client.head("/files/kept")
        assert client.post("/form", files={"file": (EVIL, b"x")}).status_code == 201
        assert client.post("/form", data={EVIL: "x" * 101}, files={"file": (EVIL, b"x")}).status_code == 413
        assert client.post("/raw", content=bytes(2 * SIZE + 1), params={"filename": EVIL}).status_code == 413
    collect(manager, engine)


def break_everything(manager: StorageManager, engine: Engine, broken: FaultyBackend) -> None:
    """Every verb, when the store cannot be reached or makes mistakes."""
    with Session(engine) as session:
        kept = session.scalars(select(Letter)).one().file
    assert kept is not None
    app = make_app(manager, {"kept": kept})
    manager.note([kept, StoredObjectRef("docs", "main", "sealed/prefix/_/abcdefghijkl", 1)])
    with TestClient(app, raise_server_exceptions=False) as client, manager.override(main=broken):
        assert client.get("/files/kept").status_code in (404, 503)
        assert client.post("/raw", content=b"x").status_code in (500, 503)
        collect(manager, engine)
    if isinstance(broken.inner, S3StorageBackend):  # a folder that is gone stops the start
        with manager.override(main=broken), TestClient(app):
            pass
    with TestClient(app, raise_server_exceptions=False) as client:
        backend: Any = manager.get_backend("main")
        backend.fail("open_reader", PermissionError(13, "Permission denied", f"/private-root/{kept.location}"))
        assert client.get("/files/kept").status_code == 500
        backend.fail("delete", BackendError(f"cannot delete {kept.location}", location=kept.location))
        assert client.post("/raw", content=b"x").status_code == 201
        backend.fail("read", BackendError(f"cannot read {kept.location}", location=kept.location))
        client.get("/files/kept")

    def deny() -> None:
        raise PermissionError(f"no: {backend.log[-1][1]}")

    backend.call("delete", deny, times=None)
    collect(manager, engine)
    backend.heal()


def collect(manager: StorageManager, engine: Engine) -> None:
    ledger = SQLAlchemyLedger([engine], Base.metadata)
    tables = tables_of(Base.metadata)
    assert tables is not None
    collector = Collector(manager, ledger)
    collector.reconcile(max_share=1)
    collector.sweep()
    with engine.begin() as connection:
        connection.execute(tables.tombstone.update().values(written_at=0, retry_at=0))
    collector.sweep(dry_run=True)
    collector.sweep()


def test_no_event_and_no_line_holds_a_secret(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []
    manager = make_manager(store.working, listeners=[heard.append])
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    Base.metadata.create_all(engine)
    with caplog.at_level(logging.DEBUG, "granite"):
        use_everything(manager, engine)
        break_everything(manager, engine, store.broken)
    engine.dispose()
    assert {type(each) for each in heard} == {Stored, Attached, Released, Deleted, Refused, Served, Collected}

    ours = [each for each in caplog.records if each.name.startswith("granite")]
    assert {each.name for each in ours} >= {
        *(f"granite.{each.name}" for each in heard),
        *("granite.uploads", "granite.requests"),
    }
    lines = logging.Formatter("%(message)s")
    told = [repr(each) for each in heard] + [repr(each.to_dict()) for each in heard]
    for record in ours:
        assert record.getMessage().isprintable()
        assert hasattr(record, "event")
        data = {name: value for name, value in vars(record).items() if name not in ("exc_info", "exc_text", "args")}
        # Stack traces show lines of source, of these very tests too.
        text = "\n".join(line for line in lines.format(record).splitlines() if not line.startswith("    "))
        told += [text, repr(data), repr(record.args)]
    for secret in store.secrets():
        assert not [each for each in told if secret in each], secret
    assert not [each for each in told if "voice" in each and "fdp.exe" in each and EVIL in each]


def test_an_unknown_error_of_a_users_backend_is_told_without_the_key(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FaultyBackend(world.backend)
    backend.fail("open_reader", BackendError(f"cannot open {world.file.location}", location=world.file.location))
    with world.manager.override(main=backend), TestClient(world.app, raise_server_exceptions=False) as client:
        assert client.get("/files/file").status_code == 500
    text = "\n".join(each.getMessage() for each in caplog.records if each.name.startswith("granite"))
    assert "cannot open …" in text
    assert world.file.location not in text
