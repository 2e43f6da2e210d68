"""One application with every kind of route, and a judge of its answers that knows what must never be in them."""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from advanced_alchemy.extensions.litestar import SQLAlchemyPlugin, SQLAlchemySyncConfig
from litestar import Litestar, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.testing import TestClient
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    LocalStorageBackend,
    StagedFile,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
)
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_core.validators import ImageValidator
from granite_litestar import (
    FileRoute,
    FileView,
    FormLimits,
    GraniteConfig,
    GranitePlugin,
    MultipartBody,
    RawUpload,
    Upload,
    UploadDTO,
    UploadRoute,
    file_view,
)
from tests.support.upload_apps import Conversation

__all__ = ["LIMITS", "MAX_SIZE", "SAFE_INLINE", "SECRET", "Answer", "Judge", "Letter", "World", "form", "part"]

KB = 1024
MAX_SIZE = 256 * KB
SECRET = "a secret of at least thirty-two bytes"
LIMITS = FormLimits(max_field_size=32 * KB, max_text_size=64 * KB, max_ignored_size=64 * KB, max_parts=50)

SAFE_INLINE = re.compile(
    r"image/(png|jpeg|gif|webp|bmp|avif|vnd\.microsoft\.icon)|(audio|video)/|text/plain|application/pdf"
)
"""What may be shown in a browser, said independently of the code."""


_KEY = re.compile(r"(?<![A-Za-z0-9_-])[a-z2-7]{26}(?![A-Za-z0-9_-])")
"""The random part of every key."""


class Base(DeclarativeBase):
    pass


class Letter(Base):
    __tablename__ = "hostile_letter"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    slug: Mapped[str | None] = mapped_column(unique=True)
    number: Mapped[int | None] = mapped_column(unique=True)
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2), unique=True)
    weight: Mapped[float | None] = mapped_column(unique=True)
    day: Mapped[date | None] = mapped_column(unique=True)
    moment: Mapped[datetime | None] = mapped_column(unique=True)
    lasts: Mapped[timedelta | None] = mapped_column(unique=True)
    title: Mapped[str] = mapped_column(default="")
    file: Mapped[StoredObjectRef | None] = file_field("letters")
    pages: Mapped[list[StoredObjectRef]] = files_field("pages")


class NewLetter(UploadDTO):
    file: Annotated[StagedFile, Upload(Letter.file)]
    title: str = ""
    pages: Annotated[list[StagedFile], Upload(Letter.pages, max_count=3)] = []
    meta: dict[str, Any] | None = None
    number: int | None = None
    moment: datetime | None = None
    lasts: timedelta | None = None
    price: Decimal | None = None


class Strict(UploadDTO, forbid_unknown_fields=True):
    file: Annotated[StagedFile, Upload("texts")]


class Picture(UploadDTO):
    file: Annotated[StagedFile, Upload("pictures")]


@post("/letters", sync_to_thread=True)
def create(data: MultipartBody[NewLetter], db_session: NamedDependency[Session]) -> dict[str, Any]:
    letter = Letter(title=data.title[:100], file=data.file, pages=data.pages)
    db_session.add(letter)
    db_session.commit()
    return {"id": str(letter.id), "file": file_view(data.file), "pages": [file_view(each) for each in data.pages]}


@post("/bodies", sync_to_thread=True)
def take(data: Annotated[StagedFile, RawUpload(Letter.file)], db_session: NamedDependency[Session]) -> dict[str, Any]:
    letter = Letter(file=data, pages=[])
    db_session.add(letter)
    db_session.commit()
    return {"id": str(letter.id), "file": file_view(data)}


@post("/strict")
async def strict(data: MultipartBody[Strict]) -> FileView:
    return file_view(data.file)


@post("/pictures")
async def picture(data: MultipartBody[Picture]) -> FileView:
    return file_view(data.file)


@post("/tenants")
async def of_tenant(data: Annotated[StagedFile, RawUpload("tenants")]) -> FileView:
    return file_view(data)


@get("/letters/{letter_id:uuid}/link", sync_to_thread=True, raises=[NotFoundException])
def link(
    letter_id: FromPath[UUID], db_session: NamedDependency[Session], storage: NamedDependency[StorageManager]
) -> dict[str, str]:
    letter = db_session.get(Letter, letter_id)
    if letter is None or letter.file is None:
        raise NotFoundException
    return {"url": storage.url(letter.file)}


ROUTES = {
    "slug:str": "/slugs/{slug:str}/file",
    "number:int": "/numbers/{number:int}/file",
    "price:decimal": "/prices/{price:decimal}/file",
    "weight:float": "/weights/{weight:float}/file",
    "day:date": "/days/{day:date}/file",
    "moment:datetime": "/moments/{moment:datetime}/file",
    "lasts:timedelta": "/spans/{lasts:timedelta}/file",
}


@dataclass
class World:
    """A running application, its store seen from behind, and what was logged."""

    app: Litestar
    manager: StorageManager
    root: Path
    engine: sa.Engine
    said: list[str]
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        self.judge = Judge(self)

    @classmethod
    @contextmanager
    def made(cls, folder: Path, *handlers: Any) -> Iterator[World]:
        root = folder / "files"
        manager = StorageManager(
            {"main": LocalStorageBackend(root, durable=False)},
            [
                StoragePolicy("letters", "main", max_size=MAX_SIZE),
                StoragePolicy("pages", "main", max_size=4 * KB),
                StoragePolicy("texts", "main", max_size=4 * KB, content_types=["text/plain"]),
                StoragePolicy("pictures", "main", max_size=MAX_SIZE, validators=[ImageValidator(max_pixels=1_000_000)]),
                StoragePolicy("tenants", "main", max_size=KB, key_template="{tenant}"),
            ],
            urls=UrlSettings(secrets=[SECRET]),
        )
        engine = sa.create_engine(f"sqlite:///{folder}/letters.db")
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        Base.metadata.create_all(engine)
        app = Litestar(
            [create, take, strict, picture, of_tenant, link, *handlers],
            plugins=[
                SQLAlchemyPlugin(
                    SQLAlchemySyncConfig(bind_key="hostile", engine_instance=engine, metadata=Base.metadata)
                ),
                GranitePlugin(
                    GraniteConfig(
                        manager,
                        downloads=[
                            FileRoute("/letters/{id:uuid}/file", Letter.file, public=True),
                            FileRoute("/letters/{id:uuid}/pages/{item:str}", Letter.pages, public=True),
                            *(FileRoute(path, Letter.file, public=True, name=name) for name, path in ROUTES.items()),
                        ],
                        uploads=[UploadRoute("/letters/{id:uuid}/file", Letter.file, public=True)],
                        gc=None,
                        form_limits=LIMITS,
                        context=_tenant,
                    )
                ),
            ],
            logging_config=None,
            after_exception=[_keep_the_stack],
        )
        said: list[str] = []
        with _heard(said), TestClient(app):  # for its lifespan
            yield cls(app, manager, root, engine, said)
        engine.dispose()

    async def ask(
        self,
        method: str,
        path: str,
        chunks: Iterable[bytes] = (),
        headers: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """Send a request past any server, headers as they are, and have the answer judged."""
        talk = await Conversation(self.app, method, path, chunks=list(chunks), headers=list(headers)).run()
        answer = Answer(talk.status, talk.headers, talk.body)
        self.judge.check(answer)
        return answer

    def letters(self) -> list[Letter]:
        with Session(self.engine) as session:
            return list(session.scalars(sa.select(Letter)))

    def insert(self, **values: Any) -> UUID:
        """Add a row past the application."""
        values = {"id": uuid4(), "title": "", "pages": [], **values}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Letter).values(**values))
        return values["id"]  # type: ignore[no-any-return]

    def put(self, content: bytes, name: str | None = "a.txt", content_type: str | None = None, **row: Any) -> UUID:
        """Store a file and give it a row, past the application."""
        ref = self.manager.put_bytes("letters", content=content, original_filename=name, content_type=content_type)
        return self.insert(file=ref, **row)

    def files(self) -> list[Path]:
        """Every file below the root, temporary ones too."""
        return [Path(folder, name) for folder, _, names in os.walk(self.root) for name in names]

    def unused(self) -> set[str]:
        """What is stored, in no row, and left to no collector."""
        held = {ref.location for letter in self.letters() for ref in (letter.file, *letter.pages) if ref is not None}
        with self.engine.connect() as connection:
            held |= {*connection.scalars(sa.text("SELECT location FROM granite_tombstone"))}
        return {path.relative_to(self.root).as_posix() for path in self.files()} - held


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Judge:
    """Says what is wrong with any answer whatever."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._worst = 499
        self.judged = 0
        folder = str(world.root.parent)
        self._never = [
            folder,
            SECRET,
            "Traceback",
            "granite_core",
            "granite_litestar",
            "site-packages",
            "sqlalchemy",
            "sqlite",
        ]

    def check(self, answer: Answer) -> None:
        """Fail where an answer is a server error, tells a path, a key or a secret, or would be run by a browser."""
        self.judged += 1
        assert 200 <= answer.status <= self._worst, (answer.status, answer.body[:500], _stacks[-1:])
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        assert all(" " <= each <= "~" for value in answer.headers.values() for each in value), head
        is_file = "accept-ranges" in answer.headers
        shown = head if is_file else head + answer.body.decode("utf-8", "replace")
        for never in self._never:
            assert never not in shown, (never, shown[:1000])
        assert not _KEY.search(shown), shown[:1000]
        if is_file and answer.status in (200, 206):
            self.check_file(answer.headers)
        elif answer.status >= 400 and answer.body:
            assert answer.headers["content-type"].partition(";")[0] == "application/json", head

    @contextmanager
    def server_errors_allowed(self) -> Iterator[None]:
        """Where the server is at fault: it still tells nothing."""
        self._worst = 599
        try:
            yield
        finally:
            self._worst = 499

    def check_file(self, headers: Mapping[str, str]) -> None:
        """Fail where a browser would run a file, or guess what it is."""
        kind = headers["content-type"].partition(";")[0]
        assert headers["x-content-type-options"] == "nosniff"
        assert "cross-origin-resource-policy" in headers
        assert not re.search("javascript|ecmascript|jscript|livescript|css|wasm|x-mixed-replace", kind), kind
        inline = not headers["content-disposition"].startswith("attachment")
        assert not inline or SAFE_INLINE.match(kind), headers
        if kind != "application/pdf":
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src" not in policy
            assert policy.endswith("sandbox") or kind.startswith(("image/", "audio/", "video/"))

    def check_logs(self) -> None:
        """Fail where a client could write lines of its own into the log, or a secret or a key is in it."""
        for line in self._world.said:
            assert line.isprintable(), line
            assert SECRET not in line
            assert not _KEY.search(line), line

    def check_store(self) -> None:
        """Fail where anything is outside of the root, under a name that no key has, or of no use to anyone."""
        root = self._world.root
        assert {each.name for each in root.parent.iterdir()} <= {"files", "letters.db", "letters.db-journal"}
        end = time.monotonic() + 20
        while self._world.unused() and time.monotonic() < end:  # what a request leaves goes after its answer
            time.sleep(0.05)
        assert self._world.unused() == set()
        for path in self._world.files():
            assert re.fullmatch(r"[A-Za-z0-9_.%/-]+", path.relative_to(root).as_posix()), path


_stacks: list[str] = []
"""Of what went wrong, for whoever reads a failure."""


async def _keep_the_stack(error: Exception, scope: Any) -> None:
    _stacks[:] = ["".join(traceback.format_exception(error))]


def _tenant(connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, str]:
    """As an application would that trusts a header."""
    return {"tenant": connection.headers.get("x-tenant", "nobody")}


@contextmanager
def _heard(said: list[str]) -> Iterator[None]:
    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    ear, logger = Ear(), logging.getLogger("granite")
    level = logger.level
    logger.addHandler(ear)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)


# ------------------------------------------------------------------------------------------------------------- forms
def part(name: bytes, body: bytes = b"x", *, filename: bytes | None = None, more: bytes = b"") -> bytes:
    """One part of a form with the boundary `b`, as raw as it comes."""
    file = b"" if filename is None else b'; filename="%s"' % filename
    return b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n%s\r\n%s\r\n' % (name, file, more, body)


def form(*parts: bytes) -> bytes:
    """A whole form with the boundary `b`."""
    return b"".join(parts) + b"--b--\r\n"


FORM = [("Content-Type", "multipart/form-data; boundary=b")]
