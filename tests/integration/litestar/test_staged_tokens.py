"""Files that wait for a form: staged first, handed in by token later, on every database, colour and kind of body."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    SQLAlchemySyncConfig,
)
from litestar import Litestar, Request, Response, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException, NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery, JSONBody
from litestar.testing import TestClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    ConfigurationError,
    LocalStorageBackend,
    MemoryStorageBackend,
    S3StorageBackend,
    StagedFile,
    StorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
)
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, db_now, file_field, files_field
from granite_core.integrations.sqlalchemy.tables import tables_of
from granite_litestar import (
    FieldError,
    FormValidationError,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RequestTokens,
    ResumableUploads,
    StagedUploads,
    TokenConfig,
    TokenRules,
    Upload,
    UploadDTO,
)

SECRET = "a secret of at least thirty-two bytes"
PDF = b"%PDF-1.7\n" + bytes(range(256)) * 20
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
REFUSED = {
    "code": "token_refused",
    "message": "this upload cannot be used, or not any more: choose the file again",
}


class Base(DeclarativeBase):
    """A metadata of its own: other tests have file fields with other policies."""


class Letter(Base):
    __tablename__ = "token_letter"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    title: Mapped[str] = mapped_column(unique=True)
    file: Mapped[StoredObjectRef | None] = file_field("letters")
    portrait: Mapped[StoredObjectRef | None] = file_field("portraits")
    pages: Mapped[list[StoredObjectRef]] = files_field("letters")


Title = Annotated[str, msgspec.Meta(min_length=3)]


class NewLetter(UploadDTO):
    __keep_files__ = True

    title: Title
    file: Annotated[StagedFile | None, Upload(Letter.file, tokens=True)] = None
    portrait: Annotated[StagedFile | None, Upload(Letter.portrait, tokens=TokenRules(Letter.portrait))] = None
    pages: Annotated[list[StagedFile], Upload(Letter.pages, max_count=3, tokens=TokenRules(once=False))] = []


class MustHaveFile(UploadDTO):
    title: Title
    file: Annotated[StagedFile, Upload(Letter.file, tokens=True)]


def letter_of(data: NewLetter | MustHaveFile) -> Letter:
    if isinstance(data, MustHaveFile):
        return Letter(title=data.title, file=data.file)
    return Letter(title=data.title, file=data.file, portrait=data.portrait, pages=[*data.pages])


async def commit(db_session: AsyncSession | Session, letter: Letter) -> None:
    db_session.add(letter)
    done = db_session.commit()
    if done is not None:
        await done


@post("/letters")
async def create(data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession]) -> list[Any]:
    await commit(db_session, letter_of(data))
    return [data.file, data.portrait, [*data.pages]]


@post("/json")
async def create_from_json(data: JSONBody[NewLetter], db_session: NamedDependency[AsyncSession]) -> list[Any]:
    await commit(db_session, letter_of(data))
    return [data.file, data.portrait, [*data.pages]]


@post("/strict")
async def create_strictly(data: MultipartBody[MustHaveFile], db_session: NamedDependency[AsyncSession]) -> None:
    await commit(db_session, letter_of(data))


@post("/unlucky")
async def fail(data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession], how: FromQuery[str]) -> None:
    """A request that ends otherwise than in a commit."""
    if how == "savepoint":
        async with db_session.begin_nested() as savepoint:
            db_session.add(letter_of(data))
            await db_session.flush()
            await savepoint.rollback()
        await db_session.commit()
        return
    db_session.add(letter_of(data))
    await db_session.flush()
    if how == "rollback":
        await db_session.rollback()
    elif how == "close":
        await db_session.close()
    else:
        raise HTTPException(status_code=418)


@post("/by-hand")
async def redeem_by_hand(
    data: JSONBody[dict[str, str]],
    db_session: NamedDependency[AsyncSession],
    file_tokens: NamedDependency[RequestTokens],
) -> None:
    file = await file_tokens.redeem(data["upload"], Letter.file, field="upload")
    await commit(db_session, Letter(title=str(uuid4()), file=file))


@post("/taken")
async def refuse_twice(
    data: MultipartBody[NewLetter],
    db_session: NamedDependency[AsyncSession],
    file_tokens: NamedDependency[RequestTokens],
) -> None:
    """What only the handler finds wrong with a form, which is then shown again."""
    db_session.add(letter_of(data))
    try:
        await db_session.commit()
    except IntegrityError as error:
        await db_session.rollback()
        raise await file_tokens.refusal([FieldError("title", "taken", "there is one already")]) from error


@post("/sync/letters", sync_to_thread=True)
def create_in_thread(data: MultipartBody[NewLetter], db_session: NamedDependency[Session]) -> list[Any]:
    db_session.add(letter_of(data))
    db_session.commit()
    return [data.file, data.portrait, [*data.pages]]


meeting = threading.Barrier(2)
"""Where two requests wait for each other, their tokens looked at and nothing written."""


@post("/race")
async def race(data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, meeting.wait, 20)
    await commit(db_session, letter_of(data))


@post("/sync/race", sync_to_thread=True)
def race_in_thread(data: MultipartBody[NewLetter], db_session: NamedDependency[Session]) -> None:
    meeting.wait(20)
    db_session.add(letter_of(data))
    db_session.commit()


@post("/sync/taken", sync_to_thread=True)
def refuse_in_thread(
    data: MultipartBody[NewLetter],
    db_session: NamedDependency[Session],
    file_tokens: NamedDependency[RequestTokens],
) -> None:
    db_session.add(letter_of(data))
    try:
        db_session.commit()
    except IntegrityError as error:
        db_session.rollback()
        raise file_tokens.sync.refusal([FieldError("title", "taken", "there is one already")]) from error


@post("/sync/issue", sync_to_thread=True)
def issue_in_thread(data: MultipartBody[NewLetter], file_tokens: NamedDependency[RequestTokens]) -> Response[Any]:
    assert data.file is not None
    return Response(file_tokens.sync.issue(data.file))


def user_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    return connection.headers.get("x-user")


def signed_in(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    if user_of(connection) == "nobody":
        raise NotAuthorizedException


def make_manager(backend: StorageBackend, *, secrets: Sequence[str] = (SECRET,)) -> StorageManager:
    return StorageManager(
        backends={"main": backend},
        policies=[
            StoragePolicy("letters", "main", max_size=100_000),
            StoragePolicy("portraits", "main", max_size=1000, content_types=["image/*"]),
        ],
        urls=UrlSettings(secrets=secrets),
    )


ROUTES: list[Any] = [
    StagedUploads("/staged", Letter.file, guards=[signed_in]),
    StagedUploads("/staged/portraits", "portraits", purpose=Letter.portrait, public=True),
    StagedUploads("/staged/other", "letters", purpose="something else", public=True, name="other"),
    ResumableUploads("/resumed", storage_key="letters", public=True, subject=lambda each: user_of(each) or ""),
    StagedUploads("/staged/short", "letters", public=True, name="short", expires_in=timedelta(seconds=2)),
]


def form(title: str | None, **data: str | Sequence[str]) -> list[tuple[str, Any]]:
    """The texts of a form, as a browser sends them."""
    found = {"title": title or f"letter {uuid4()}", **data}
    several = {name: [value] if isinstance(value, str) else value for name, value in found.items()}
    return [(name, (None, each)) for name, values in several.items() for each in values]


@dataclass
class World:
    """An application, its store and its database."""

    app: Litestar
    client: TestClient[Litestar]
    manager: StorageManager
    engine: sa.Engine
    prefix: str

    def stage(self, content: bytes = PDF, path: str = "/staged", *, user: str = "ada", name: str = "a.pdf") -> str:
        answer = self.client.post(f"{path}?filename={name}", content=content, headers={"x-user": user})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def submit(
        self, path: str = "/letters", *, user: str = "ada", title: str | None = None, files: Any = None, **data: Any
    ) -> httpx.Response:
        """Send a form as a browser does, be there files or not."""
        parts = [
            (name, (None, each))
            for name, value in data.items()
            for each in ([value] if isinstance(value, str) else value)
        ]
        parts += [("title", (None, title or f"letter {uuid4()}")), *(files or [])]
        return self.client.post(f"{self.prefix}{path}", files=parts, headers={"x-user": user})

    def rows(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(Letter.__table__)).all())

    def sessions(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(uploads())).all())

    def stored(self) -> set[str]:
        return {each.location for each in self.manager.get_backend("main").list_objects()}

    def held(self) -> set[str]:
        found = {each.location for row in self.rows() for each in (row.file, row.portrait, *row.pages) if each}
        return found | {each.location for each in self.sessions()}

    def collect(self) -> None:
        """Everything is old, and swept."""
        with self.engine.begin() as connection:
            tables = tables_of(Base.metadata)
            assert tables is not None
            connection.execute(tables.tombstone.update().values(written_at=0))
        Collector(self.manager, SQLAlchemyLedger([(self.engine, Base.metadata)]), GCConfig(max_share=1)).sweep()


def uploads() -> sa.Table:
    tables = tables_of(Base.metadata)
    assert tables is not None
    return tables.upload


def make_app(manager: StorageManager, url: str, *, asynchronous: bool, **config: Any) -> Litestar:
    alchemy: Any
    if asynchronous:
        alchemy = SQLAlchemyAsyncConfig(
            connection_string=url,
            session_config=AsyncSessionConfig(expire_on_commit=False),
            create_all=True,
            metadata=Base.metadata,
        )
    else:
        alchemy = SQLAlchemySyncConfig(connection_string=url, create_all=True, metadata=Base.metadata)
    of_async = [create, create_from_json, create_strictly, fail, refuse_twice, race, redeem_by_hand]
    of_sync = [create_in_thread, issue_in_thread, refuse_in_thread, race_in_thread]
    handlers = of_async if asynchronous else of_sync
    settings = {"uploads": ROUTES, "tokens": TokenConfig(user_of), "gc": None, **config}
    granite = GranitePlugin(GraniteConfig(manager=manager, **settings))
    return Litestar(handlers, plugins=[granite, SQLAlchemyPlugin(alchemy)])


@pytest.fixture(params=["aiosqlite", "sqlite", "asyncpg", "psycopg"])
def everywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Each kind of engine; SQLite with a disk, PostgreSQL with S3."""
    if request.param in ("sqlite", "aiosqlite"):
        backend: StorageBackend = LocalStorageBackend(tmp_path / "files")
        url = sync = f"sqlite:///{tmp_path}/letters.db"
        if request.param == "aiosqlite":
            url = sync.replace("sqlite:", "sqlite+aiosqlite:")
    else:
        database = request.getfixturevalue("postgres_database")
        server = request.getfixturevalue("ministack")
        client, bucket = request.getfixturevalue("s3_bucket")(server)
        backend = S3StorageBackend(bucket=bucket, client=client)
        sync = database.sync_url
        url = database.async_url if request.param == "asyncpg" else sync
    yield from run(backend, url, sync, asynchronous=request.param in ("aiosqlite", "asyncpg"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite+aiosqlite:///{tmp_path}/letters.db"
    yield from run(MemoryStorageBackend(), url, url.replace("+aiosqlite", ""), asynchronous=True)


def run(backend: StorageBackend, url: str, sync: str, *, asynchronous: bool) -> Iterator[World]:
    manager = make_manager(backend)
    app = make_app(manager, url, asynchronous=asynchronous)
    engine = sa.create_engine(sync)
    with TestClient(app) as client:
        yield World(app, client, manager, engine, "" if asynchronous else "/sync")
    engine.dispose()


def refused(answer: httpx.Response, *fields: str) -> bool:
    """Whether these fields are refused as one is whose token is not good, and nothing else is said."""
    assert answer.status_code == 422, answer.text
    assert answer.json()["extra"] == [{"field": each, **REFUSED} for each in fields]
    return True


# ------------------------------------------------------------------------------------------------------------- staging
def test_a_file_is_staged_first_and_handed_in_later(everywhere: World) -> None:
    world = everywhere
    answer = world.client.post("/staged?filename=a.pdf", content=PDF, headers={"x-user": "ada"})
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert {**told, "token": "", "expires": ""} == {
        "token": "",
        "filename": "a.pdf",
        "size": len(PDF),
        "content_type": "application/pdf",
        "expires": "",
    }
    left = datetime.fromisoformat(told["expires"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(days=1, minutes=1)
    assert answer.headers["cache-control"] == "no-store"
    assert len(world.sessions()) == 1
    world.collect()

    sent = world.submit(file=told["token"])
    assert sent.status_code == 201, sent.text
    assert sent.json()[0]["filename"] == "a.pdf"
    assert world.sessions() == []
    (row,) = world.rows()
    assert world.manager.get(row.file) == PDF
    world.collect()
    assert world.stored() == {row.file.location}

    assert refused(world.submit(file=told["token"]), "file")


def test_one_of_two_submits_wins(everywhere: World) -> None:
    world = everywhere
    token = world.stage()
    with ThreadPoolExecutor(2) as threads:
        submits = [threads.submit(world.submit, "/race", file=token) for _ in range(2)]
    answers = sorted((each.result() for each in submits), key=lambda each: each.status_code)
    assert [each.status_code for each in answers] == [201, 422], [each.text for each in answers]
    assert refused(answers[1], "file")
    assert len(world.rows()) == 1
    assert world.sessions() == []
    world.collect()
    assert world.stored() == {world.rows()[0].file.location}


def test_what_a_handler_finds_wrong_keeps_the_files_too(everywhere: World) -> None:
    world = everywhere
    assert world.submit(title="Moss").status_code == 201
    token = world.stage()
    again = world.submit("/taken", title="Moss", file=token, files=[("pages", ("1.txt", b"one"))])
    assert again.status_code == 422, again.text
    assert again.json()["extra"] == [{"field": "title", "code": "taken", "message": "there is one already"}]
    staged = again.json()["staged"]
    assert staged["file"][0]["token"] == token
    world.collect()
    sent = world.submit(title="Fern", file=token, pages=staged["pages"][0]["token"])
    assert sent.status_code == 201, sent.text
    assert [sent.json()[0]["filename"], sent.json()[2][0]["filename"]] == ["a.pdf", "1.txt"]
    world.collect()
    assert world.stored() == world.held()


@pytest.mark.parametrize("how", ["rollback", "savepoint", "close", "error"])
def test_a_token_is_good_again_when_nothing_was_committed(world: World, how: str) -> None:
    token = world.stage()
    sent = world.submit(f"/unlucky?how={how}", file=token)
    assert sent.status_code == (418 if how == "error" else 201), sent.text
    assert world.rows() == []
    world.collect()
    assert world.submit(file=token).status_code == 201
    assert refused(world.submit(file=token), "file")


# ------------------------------------------------------------------------------------------------------------ refusals
def test_every_token_that_is_not_good_is_refused_alike(world: World) -> None:
    good = world.stage()
    (kept,) = world.sessions()
    consumed = world.stage()
    assert world.submit(file=consumed).status_code == 201
    expired = world.stage(path="/staged/short")
    gone = world.stage()
    with world.engine.begin() as connection:
        connection.execute(uploads().update().values(expires_at=db_now() - 1).where(uploads().c.id != kept.id))
    Collector(world.manager, SQLAlchemyLedger([(world.engine, Base.metadata)]), GCConfig()).sweep()
    bad = {
        "no token": "hello",
        "not ASCII": "ж" * 40,
        "a forged one": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "one that was cut": good[:-8],
        "a long one": "A" * 100_000,
        "one that was used": consumed,
        "one that has expired": expired,
        "one whose upload has ended": gone,
        "one of another purpose": world.stage(path="/staged/other"),
        "one of another policy": world.stage(PNG, "/staged/portraits", name="a.png"),
        "one of somebody else": world.stage(user="bob"),
        "a link": world.manager.url(world.rows()[0].file).split("/")[2],
    }
    before = len(world.rows())
    bodies = {}
    for name, token in bad.items():
        for answer in (
            world.submit(file=token),
            world.client.post("/json", json={"title": "Moss", "file": token}, headers={"x-user": "ada"}),
        ):
            assert refused(answer, "file"), name
            bodies[name] = answer.text
    assert len(set(bodies.values())) == 1
    assert len(world.rows()) == before
    assert refused(world.submit(portrait=good), "portrait")  # of another policy, and without the field's purpose
    assert refused(world.submit(file=good, user="bob"), "file")
    assert refused(world.submit(file="hello", portrait="hello", pages=["hello", good]), "file", "portrait", "pages")
    assert world.submit(file=good).status_code == 201, "none of these used it"


def test_a_token_tells_nothing(world: World) -> None:
    token = world.stage(name="secret-name.pdf")
    (session,) = world.sessions()
    raw = base64.urlsafe_b64decode(f"{token}{'=' * (-len(token) % 4)}")
    for told in (session.id, session.location, "letters", "secret-name", "ada", "main"):
        assert told.encode() not in raw


def test_what_expires_is_swept(world: World) -> None:
    world.stage()
    with world.engine.begin() as connection:
        connection.execute(uploads().update().values(expires_at=db_now() - 1))
    world.collect()
    assert world.sessions() == []
    world.collect()
    assert world.stored() == set()


def test_secrets_are_those_of_links_and_rotate(tmp_path: Path) -> None:
    backend, url = MemoryStorageBackend(), f"sqlite+aiosqlite:///{tmp_path}/letters.db"
    sync = url.replace("+aiosqlite", "")

    def world(*secrets: str) -> Any:
        manager = make_manager(backend, secrets=secrets)
        return TestClient(make_app(manager, url, asynchronous=True)), manager

    def submit(client: TestClient[Litestar], token: str) -> int:
        return client.post("/letters", files=form(None, file=token), headers={"x-user": "ada"}).status_code

    client, _ = world(SECRET)
    with client:
        staged = [client.post("/staged", content=PDF, headers={"x-user": "ada"}) for _ in range(2)]
        tokens = [each.json()["token"] for each in staged]
    client, _ = world("a newer secret of thirty-two bytes or more", SECRET)
    with client:
        assert submit(client, tokens[0]) == 201
    client, _ = world("a newer secret of thirty-two bytes or more")
    with client:
        assert submit(client, tokens[1]) == 422
    sa.create_engine(sync).dispose()


# --------------------------------------------------------------------------------------------------------------- forms
def test_a_form_that_is_refused_comes_back_with_the_tokens_of_its_files(everywhere: World) -> None:
    """The title comes first, and is too short; what was uploaded is kept all the same."""
    world = everywhere
    files = [
        ("file", ("a.pdf", PDF)),
        ("portrait", ("p.png", PNG)),
        ("pages", ("1.txt", b"one")),
        ("pages", ("2.txt", b"two")),
    ]
    first = world.submit(title="x", files=files)
    assert first.status_code == 422
    assert [each["field"] for each in first.json()["extra"]] == ["title"]
    staged = first.json()["staged"]
    shown = {name: [each["filename"] for each in tokens] for name, tokens in staged.items()}
    assert shown == {"file": ["a.pdf"], "portrait": ["p.png"], "pages": ["1.txt", "2.txt"]}
    assert first.headers["cache-control"] == "no-store"
    stored = world.stored()
    world.collect()
    assert world.stored() == stored

    tokens = {name: [each["token"] for each in told] for name, told in staged.items()}
    second = world.submit(title="y", **tokens)
    assert second.status_code == 422
    assert second.json()["staged"] == staged, "the same tokens again"
    third = world.submit(title="Moss", **tokens)
    assert third.status_code == 201, third.text
    assert world.stored() == stored, "nothing was uploaded twice"
    (row,) = world.rows()
    assert [world.manager.get(each) for each in (row.file, row.portrait, *row.pages)] == [PDF, PNG, b"one", b"two"]


def test_a_list_takes_files_and_tokens_in_the_order_they_come(world: World) -> None:
    tokens = [world.stage(f"{n}".encode(), name=f"{n}.txt") for n in range(2)]
    parts = [
        ("pages", (None, tokens[1])),
        ("pages", ("new.txt", b"new")),
        ("pages", (None, tokens[0])),
        ("title", (None, "Moss")),
    ]
    sent = world.client.post("/letters", files=parts, headers={"x-user": "ada"})
    assert [each["filename"] for each in sent.json()[2]] == ["1.txt", "new.txt", "0.txt"]
    too_many = world.submit(pages=tokens, files=[("pages", ("x", b"x")), ("pages", ("y", b"y"))])
    assert [(each["field"], each["code"]) for each in too_many.json()["extra"]] == [("pages", "too_many")]


def test_a_file_beside_a_token_is_the_one_that_was_chosen(world: World) -> None:
    token = world.stage(name="old.pdf")
    chosen = world.submit(file=token, files=[("file", ("new.pdf", PDF))])
    assert chosen.json()[0]["filename"] == "new.pdf"
    kept = world.submit(file=token, files=[("file", ("", b""))])
    assert kept.json()[0]["filename"] == "old.pdf"


def test_an_empty_token_is_absence(world: World) -> None:
    assert world.submit(file="", portrait="", pages="").json() == [None, None, []]
    missing = world.submit("/strict", file="")
    assert [each["code"] for each in missing.json()["extra"]] == ["required"]
    assert world.submit("/strict", file=world.stage()).status_code == 201


def test_a_token_comes_once_in_a_form_and_one_of_several_uses_comes_often(world: World) -> None:
    token = world.stage(name="a.txt")
    twice = world.client.post(
        "/letters", files=[*form(None), *[("file", (None, token))] * 2], headers={"x-user": "ada"}
    )
    assert [each["code"] for each in twice.json()["extra"]] == ["duplicate"]
    for _ in range(2):
        sent = world.submit(pages=[token, token])
        assert [each["filename"] for each in sent.json()[2]] == ["a.txt", "a.txt"]
    world.collect()
    assert len(world.rows()) == 2
    assert world.stored() == world.held()
    assert world.submit(file=token).status_code == 201
    assert refused(world.submit(pages=token), "pages")


def test_json_takes_tokens_where_files_were_expected(world: World) -> None:
    def send(path: str, body: Any) -> httpx.Response:
        return world.client.post(path, json=body, headers={"x-user": "ada"})

    for path in ("/letters", "/json"):
        portrait = world.stage(PNG, "/staged/portraits", name="p.png")
        body = {"title": f"of {path}", "file": world.stage(), "portrait": portrait, "pages": [world.stage()]}
        sent = send(path, body)
        assert sent.status_code == 201, sent.text
        assert sent.json()[0]["filename"] == "a.pdf"
        nothing = send(path, {"title": f"nothing of {path}", "file": None, "unknown": 1})
        assert nothing.json() == [None, None, []]
        wrong = send(path, {"title": 5, "file": {"location": "letters/x"}, "pages": "x" * 5})
        assert [(each["field"], each["code"]) for each in wrong.json()["extra"]] == [
            ("title", "invalid"),
            ("file", "invalid"),
            ("pages", "token_refused"),
        ]
        short = send(path, {"title": "x", "file": (token := world.stage())})
        assert short.json()["staged"]["file"][0]["token"] == token
        for broken in (b"{", b"[1]", b"[" * 100_000, b"\xff"):
            answer = world.client.post(path, content=broken, headers={"content-type": "application/json"})
            assert answer.status_code == 400, answer.text
        large = world.client.post(path, content=b" " * 2_000_000, headers={"content-type": "application/json"})
        assert large.status_code == 413
    assert send("/strict", {"title": "Moss"}).json()["extra"][0]["code"] == "required"
    wrong = world.client.post("/json", files=form("Moss"))
    assert (wrong.status_code, wrong.headers["accept-post"]) == (415, "application/json")


def test_what_came_in_pieces_is_handed_in_like_the_rest(world: World) -> None:
    """Every finished upload has a token, and a field takes each of its policy and subject."""
    head = {"tus-resumable": "1.0.0", "x-user": "ada", "content-type": "application/offset+octet-stream"}
    sent = world.client.post("/resumed", content=PDF, headers={**head, "upload-length": str(len(PDF))})
    token = sent.headers["granite-upload-token"]
    assert refused(world.submit(file=token, user="bob"), "file")
    assert refused(world.submit(portrait=token), "portrait")
    assert world.submit(file=token).json()[0]["size"] == len(PDF)
    assert refused(world.submit(file=token), "file")


def test_a_handler_takes_a_token_by_itself(world: World) -> None:
    body = {"upload": world.stage()}
    assert world.client.post("/by-hand", json=body, headers={"x-user": "ada"}).status_code == 201
    assert refused(world.client.post("/by-hand", json=body, headers={"x-user": "ada"}), "upload")


# -------------------------------------------------------------------------------------------------------- staged routes
def test_a_staged_file_comes_as_the_body_or_in_a_form(world: World) -> None:
    raw = world.client.post("/staged", content=PDF, headers={"content-disposition": 'attachment; filename="b.pdf"'})
    part = world.client.post("/staged", files={"file": ("b.pdf", PDF)})
    for answer in (raw, part):
        assert answer.status_code == 201, answer.text
        assert (answer.json()["filename"], answer.json()["size"]) == ("b.pdf", len(PDF))
    assert len(world.sessions()) == len(world.stored()) == 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"path": "/staged", "content": PDF, "headers": {"x-user": "nobody"}}, 401),
        ({"path": "/staged", "content": b"x" * 100_001}, 413),
        ({"path": "/staged", "files": {"file": ("x", b"x" * 100_001)}}, 413),
        ({"path": "/staged/portraits", "content": PDF[:900]}, 415),
        ({"path": "/staged/portraits", "files": {"file": ("x", PDF[:900])}}, 415),
        ({"path": "/staged", "files": {"other": ("x", PDF)}}, 422),
        ({"path": "/staged", "files": [("file", ("x", PDF)), ("file", ("y", PDF))]}, 422),
        ({"path": "/staged", "content": PDF, "headers": {"repr-digest": f"sha-256=:{'A' * 43}=:"}}, 422),
    ],
)
def test_what_cannot_be_staged_leaves_nothing(world: World, sent: dict[str, Any], status: int) -> None:
    answer = world.client.post(sent.pop("path"), **sent)
    assert answer.status_code == status, answer.text
    assert world.stored() == set()
    assert world.sessions() == []


def test_a_token_can_be_asked_for_in_a_thread(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    for world in run(MemoryStorageBackend(), url, url, asynchronous=False):
        issued = world.submit("/issue", files=[("file", ("a.pdf", PDF))])
        assert world.submit(file=issued.json()["token"]).status_code == 201


# ------------------------------------------------------------------------------------------------ the application's own
def test_the_applications_own_handlers_show_the_form_again(world: World) -> None:
    """Also where somebody was faster with the token, which only the flush finds out."""
    token = world.stage()
    seen: list[FormValidationError] = []

    def show(_: Request[Any, Any, Any], error: FormValidationError) -> Response[str]:
        seen.append(error)
        return Response("the form", status_code=422, media_type="text/html")

    def never(_: Request[Any, Any, Any], error: Exception) -> Response[str]:
        raise AssertionError

    @post("/late", exception_handlers={FormValidationError: show, Exception: never})
    async def late(data: MultipartBody[NewLetter], db_session: NamedDependency[AsyncSession]) -> None:
        with world.engine.begin() as connection:
            connection.execute(uploads().delete())
        await commit(db_session, letter_of(data))

    @post("/general", exception_handlers={HTTPException: show})
    async def general(data: MultipartBody[NewLetter]) -> None:
        """Litestar's base of them all is heeded as before."""

    world.app.register(late)
    world.app.register(general)
    assert world.submit("/late", title="Moss", file=token).text == "the form"
    assert [each.to_dict() for each in seen[0].errors] == [{"field": "file", **REFUSED}]
    assert ("title", "Moss") in seen[0].texts
    assert all(token not in text for _, text in seen[0].texts)
    assert world.submit("/general", title="x", files=[("file", ("a.pdf", PDF))]).text == "the form"
    assert [each.filename for each in seen[1].staged["file"]] == ["a.pdf"]


@pytest.mark.parametrize(
    ("config", "secrets", "said"),
    [
        ({}, (), "UrlSettings(secrets="),
        ({"tokens": None}, (SECRET,), "/staged: nothing says whom tokens belong to"),
        ({"tokens": None, "uploads": []}, (SECRET,), "NewLetter takes tokens, and nothing says whom they belong to"),
        ({"tokens_dependency_key": "1"}, (SECRET,), "must be a Python name"),
        ({"uploads": [ROUTES[0], ROUTES[0]]}, (SECRET,), "there is a route named 'staged:letters' already"),
    ],
)
def test_what_cannot_work_is_refused_at_start_up(
    tmp_path: Path, config: dict[str, Any], secrets: tuple[str, ...], said: str
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/letters.db"
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        make_app(make_manager(MemoryStorageBackend(), secrets=secrets), url, asynchronous=True, **config)


def test_a_route_says_who_may_stage() -> None:
    with pytest.raises(ConfigurationError, match="nothing says who may stage these files"):
        StagedUploads("/staged", "letters")
    with pytest.raises(ConfigurationError, match="the purpose of a token is a name or a mapped attribute"):
        StagedUploads("/staged", "letters", public=True, purpose=5)
    with pytest.raises(ConfigurationError, match="longer than nothing"):
        TokenConfig(None, expires_in=timedelta(0))


def test_a_database_must_be_told_at_start_up(tmp_path: Path) -> None:
    class Other(DeclarativeBase):
        pass

    class Copy(Other):
        __tablename__ = "token_copy"
        id: Mapped[int] = mapped_column(primary_key=True)
        portrait: Mapped[StoredObjectRef | None] = file_field("portraits")

    bases = Base, Other
    engines = [(sa.create_engine(f"sqlite:///{tmp_path}/{n}.db"), base.metadata) for n, base in enumerate(bases)]
    app = make_app(
        make_manager(MemoryStorageBackend()), f"sqlite+aiosqlite:///{tmp_path}/l.db", asynchronous=True, engines=engines
    )
    said = pytest.RaisesExc(ConfigurationError, match="/staged/portraits: which of 2 databases keeps the uploads")
    with pytest.RaisesGroup(said), TestClient(app):
        pass
    for engine, _ in engines:
        engine.dispose()


def test_the_api_describes_files_or_tokens(world: World) -> None:
    schema = world.app.openapi_schema.to_schema()
    content = schema["paths"]["/letters"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data"}, "of two types, generators of clients would take JSON and no file"
    form_schema = schema["components"]["schemas"][content["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]]
    either = form_schema["properties"]["file"]["anyOf"]
    assert [each.get("format") for each in either] == ["binary", None]
    assert [each.get("format") for each in form_schema["properties"]["pages"]["items"]["anyOf"]] == ["binary", None]
    assert content["multipart/form-data"]["encoding"]["portrait"]["contentType"] == "image/*, text/plain"
    assert "as JSON too" in form_schema["description"]
    content = schema["paths"]["/json"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json"}
    as_json = content["application/json"]["schema"]
    assert (as_json["properties"]["file"]["type"], as_json["required"]) == ("string", ["title"])
    staged = schema["paths"]["/staged"]["post"]
    assert {"multipart/form-data", "application/octet-stream"} <= set(staged["requestBody"]["content"])
    assert "201" in staged["responses"]
