"""Links to what a row holds: they follow the row, and need no route of their own."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    SQLAlchemySyncConfig,
)
from litestar import Litestar
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import (
    AsyncStorageManager,
    ConfigurationError,
    RowLink,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
)
from granite_core.integrations.sqlalchemy import file_field, files_field, link_column
from granite_core.urls import RowTarget
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin
from tests.support.postgres import Database

from .downloads_support import CountingBackend, client_of, wait_until


class Colour(enum.Enum):
    RED = "r"


class Base(DeclarativeBase):
    pass


class Document(Base):
    __tablename__ = "linked_document"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    kind: Mapped[str] = mapped_column(default="document")
    file: Mapped[StoredObjectRef | None] = file_field("docs")
    pages: Mapped[list[StoredObjectRef]] = files_field("docs")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "document"}


class Report(Document):
    __tablename__ = "linked_report"
    number: Mapped[UUID] = mapped_column(sa.ForeignKey("linked_document.id"), primary_key=True)
    annex: Mapped[StoredObjectRef | None] = file_field("docs", name="annex_file")
    __mapper_args__ = {"polymorphic_identity": "report"}


class Odd(Base):
    """Named by values of every kind."""

    __tablename__ = "linked_odd"
    text: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    moment: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), primary_key=True)
    price: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2), primary_key=True)
    raw: Mapped[bytes] = mapped_column(primary_key=True)
    colour: Mapped[Colour] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("docs")


class Audited(UUIDAuditBase):
    __tablename__ = "linked_audited"
    file: Mapped[StoredObjectRef | None] = file_field("docs")


class Clock:
    ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class World:
    def __init__(self, config: Any) -> None:
        self.clock = Clock()
        self.manager = StorageManager(
            {"main": CountingBackend()},
            [StoragePolicy("docs")],
            urls=UrlSettings(secrets=["s" * 32], public_url="https://app.example"),
            now=self.clock,
        )
        self.manager.register(Base, Audited)
        self.config = config

    def app(self, *downloads: FileRoute) -> Litestar:
        granite = GraniteConfig(self.manager, downloads=downloads, models=[Base, Audited], gc=None)
        return Litestar([], plugins=[SQLAlchemyPlugin(self.config), GranitePlugin(granite)], logging_config=None)

    def put(self, content: bytes, name: str = "a.txt") -> StoredObjectRef:
        return self.manager.put_bytes("docs", content=content, original_filename=name)


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest, postgres_database: Database) -> Iterator[World]:
    engine = sa.create_engine(postgres_database.sync_url)
    Base.metadata.create_all(engine)
    Audited.metadata.create_all(engine, [Audited.__table__])
    engine.dispose()
    if request.param == "sync":
        yield World(SQLAlchemySyncConfig(connection_string=postgres_database.sync_url, metadata=Base.metadata))
    else:
        yield World(
            SQLAlchemyAsyncConfig(
                connection_string=postgres_database.async_url,
                metadata=Base.metadata,
                session_config=AsyncSessionConfig(expire_on_commit=False),
            )
        )


@pytest.fixture
def session(world: World, postgres_database: Database) -> Iterator[Session]:
    engine = sa.create_engine(postgres_database.sync_url)
    with Session(engine) as session:
        yield session
    engine.dispose()


def path(url: str) -> str:
    assert url.startswith("https://app.example/files/")
    return url.removeprefix("https://app.example")


def saved(session: Session, row: Any) -> Any:
    session.add(row)
    session.commit()
    return row


def test_a_link_follows_the_row_and_ends_with_its_file(world: World, session: Session) -> None:
    document = saved(session, Document(file=world.put(b"first", "first.txt")))
    url = path(world.manager.url(document, Document.file))
    assert str(document.id) not in url
    with client_of(world.app()) as client:
        first = client.get(url)
        assert (first.status_code, first.content) == (200, b"first")
        assert first.headers["content-disposition"] == 'inline; filename="first.txt"'
        assert first.headers["cache-control"] == "private, no-cache"
        assert first.headers["cross-origin-resource-policy"] == "cross-origin"
        assert client.get(url, headers={"If-None-Match": first.headers["etag"]}).status_code == 304

        document.file = world.put(b"second", "second.txt")
        session.commit()
        second = client.get(url, headers={"If-None-Match": first.headers["etag"]})
        assert (second.status_code, second.content) == (200, b"second")
        assert second.headers["content-disposition"] == 'inline; filename="second.txt"'

        document.file = None
        session.commit()
        assert client.get(url).status_code == 404
        session.delete(document)
        session.commit()
        assert client.get(url).status_code == 404


def test_a_link_to_a_row_ends_when_its_time_is_over(world: World, session: Session) -> None:
    document = saved(session, Document(file=world.put(b"first")))
    url = path(world.manager.url(document, Document.file, expires_in=timedelta(minutes=10), disposition="attachment"))
    with client_of(world.app()) as client:
        assert client.get(url).headers["content-disposition"].startswith("attachment")
        world.clock.ahead = timedelta(minutes=12)
        assert client.get(url).status_code == 410


def test_one_file_of_many_is_named_by_itself(world: World, session: Session) -> None:
    one, two = world.put(b"one"), world.put(b"two", "two.txt")
    document = saved(session, Document(pages=[one, two]))
    url = path(world.manager.url(document, Document.pages, item=two))
    assert url.endswith("/two.txt")
    assert two.location not in url
    with client_of(world.app()) as client:
        assert client.get(url).content == b"two"
        document.pages.reverse()
        session.commit()
        assert client.get(url).content == b"two"
        document.pages.remove(two)
        session.commit()
        assert client.get(url).status_code == 404


def test_inherited_rows_are_found_by_the_table_that_holds_the_file(world: World, session: Session) -> None:
    report = saved(session, Report(file=world.put(b"body"), annex=world.put(b"annex")))
    with client_of(world.app()) as client:
        assert client.get(path(world.manager.url(report, Report.annex))).content == b"annex"
        assert client.get(path(world.manager.url(report, Report.file))).content == b"body"
        assert client.get(path(world.manager.url(report, Document.file))).content == b"body"


def test_rows_are_named_by_keys_of_every_kind(world: World, session: Session) -> None:
    odd = Odd(
        text="a/ü", number=2**60, day=date(2026, 1, 2), moment=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        price=Decimal("12.30"), raw=b"\x00\xff", colour=Colour.RED, file=world.put(b"odd"),
    )  # fmt: skip
    saved(session, odd)
    audited = saved(session, Audited(file=world.put(b"audited")))
    with client_of(world.app()) as client:
        assert client.get(path(world.manager.url(odd, Odd.file))).content == b"odd"
        assert client.get(path(world.manager.url(audited, Audited.file))).content == b"audited"


def test_no_connection_is_held_while_bytes_flow(world: World, session: Session) -> None:
    document = saved(session, Document(file=world.put(b"x" * 5_000_000)))
    engine = world.config.get_engine()
    pool = getattr(engine, "sync_engine", engine).pool
    with client_of(world.app()) as client, client.stream("GET", path(world.manager.url(document, Document.file))):
        assert wait_until(lambda: pool.checkedout() == 0)


def test_a_session_of_the_fields_route_is_used(world: World, session: Session, postgres_database: Database) -> None:
    asked: list[str] = []

    def open_session(connection: Any) -> Any:
        asked.append(connection.scope["path"])
        return world.config.get_session()

    document = saved(session, Document(file=world.put(b"x")))
    route = FileRoute(
        "/documents/{id:uuid}", Document.file, public=True, session=open_session, disposition="attachment"
    )
    with client_of(world.app(route)) as client:
        url = path(world.manager.url(document, Document.file))
        assert client.get(url).headers["content-disposition"].startswith("attachment")
        assert asked == [httpx.URL(url).path]


def test_a_link_to_a_table_that_is_gone_is_not_found(world: World, session: Session) -> None:
    document = saved(session, Document(file=world.put(b"x")))
    stranger = UrlSettings(secrets=["s" * 32])
    manager = StorageManager({"main": CountingBackend()}, [StoragePolicy("docs")], urls=stranger)
    granite = GraniteConfig(manager, models=[sa.MetaData()], gc=None)
    app = Litestar([], plugins=[SQLAlchemyPlugin(world.config), GranitePlugin(granite)], logging_config=None)
    world.manager.register(Base)
    with client_of(app) as client:
        assert client.get(path(world.manager.url(document, Document.file))).status_code == 404


@pytest.mark.parametrize("key", [("not a uuid",), (7,), ("a", "b"), ()])
def test_a_link_from_before_the_key_changed_is_not_found(world: World, key: tuple[Any, ...]) -> None:
    url = world.manager.links.row_address(RowTarget("linked_document", "file", key), now=world.manager.now())
    with client_of(world.app()) as client:
        assert client.get(path(url)).status_code == 404


def test_a_link_that_could_mean_two_tables_is_answered_by_neither() -> None:
    link = RowLink("linked_document", "file", ("x",), None, None, None)
    assert link_column([Base.metadata, sa.MetaData()], link) is Document.__table__.c.file
    with pytest.raises(ConfigurationError, match="either"):
        link_column([Base.metadata, Document.__table__.to_metadata(sa.MetaData()).metadata], link)
    assert link_column([Base.metadata], RowLink("linked_document", "kind", ("x",), None, None, None)) is None


async def test_asynchronous_code_links_rows_without_asking_the_database(postgres_database: Database) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(postgres_database.async_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    world = World(None)
    async with AsyncSession(engine) as session:
        document = Document(file=await AsyncStorageManager(world.manager).put_bytes("docs", content=b"x"))
        session.add(document)
        await session.commit()  # everything of it is expired
        url = await AsyncStorageManager(world.manager).url(document, Document.file)
        assert url == world.manager.url(document, Document.file)
        assert sa.inspect(document).expired
    await engine.dispose()


def test_what_cannot_be_linked_to_is_an_error() -> None:
    world = World(None)
    ref = world.put(b"x")
    document = Document(id=uuid4(), file=ref)
    with pytest.raises(ValueError, match="flush it"):
        world.manager.url(document, Document.file)
    with pytest.raises(ConfigurationError, match="no file field"):
        world.manager.url(document, Document.kind)
    with pytest.raises(ConfigurationError, match="not a str"):
        world.manager.url("document", Document.file)
    with pytest.raises(ConfigurationError, match="no field of Document"):
        world.manager.url(document, Odd.file)
    sa.orm.make_transient_to_detached(document)
    assert world.manager.url(document, Document.file)
    for field, item in ((Document.file, ref), (Document.pages, None)):
        with pytest.raises(ValueError, match="item="):
            world.manager.url(document, field, item=item)
