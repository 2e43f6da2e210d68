"""The network between an application and its store or database misbehaves, while it takes files in and hands them out.

No request ends in 500, none says where anything is, and what was answered with success is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from advanced_alchemy.base import UUIDBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, post
from litestar.di import NamedDependency
from litestar.testing import TestClient
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session

from granite_core import StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.backends import backend_from_url
from granite_core.backends.s3 import S3StorageBackend
from granite_core.integrations.sqlalchemy import file_field
from granite_core.testing.conformance.support import noise
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, MultipartBody, Upload, UploadDTO, UploadRoute
from tests.support.network import DEEP, Tally, calm_retries
from tests.support.postgres import PostgresServer
from tests.support.proxy import HttpProxy, PostgresProxy
from tests.support.proxy.http_faults import HTTP_FAULTS, NamedFault, befall_if_it_applies
from tests.support.proxy.postgres_faults import POSTGRES_FAULTS, DatabaseFault
from tests.support.s3 import S3Server

FIRST, SECOND = noise(3000), noise(4000, 2)
QUICK = 0.5
BIND = "network"


class Paper(UUIDBase):
    __bind_key__ = BIND
    __tablename__ = "paper"
    title: Mapped[str]
    file: Mapped[StoredObjectRef | None] = file_field("papers")


class NewPaper(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload(Paper.file)]


@post("/papers")
async def create(data: MultipartBody[NewPaper], db_session: NamedDependency[AsyncSession]) -> UUID:
    paper = Paper(title=data.title, file=data.file)
    db_session.add(paper)
    await db_session.commit()
    return paper.id


class Site:
    """The application, everything behind it through proxies, and the straight ways past them."""

    def __init__(self, store: S3Server, database: Any) -> None:
        self.s3 = HttpProxy(store.endpoint)
        self.postgres = PostgresProxy(database.server.host, database.server.port)
        self.bucket = store.create_bucket()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ACCESS_KEY_ID", store.access_key)
            environment.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
            self.backend = backend_from_url(
                f"s3://{self.bucket}?endpoint_url={self.s3.endpoint}&region={store.region}&max_attempts=1"
                f"&connect_timeout={QUICK}&read_timeout={QUICK}"
            )
            _ = self.backend.client  # type: ignore[attr-defined]
        self.straight = S3StorageBackend(self.bucket, client=store.client())
        self.engine = create_engine(database.sync_url)
        manager = StorageManager({"main": self.backend}, [StoragePolicy("papers", "main", verify_reads=True)])
        url = f"postgresql+asyncpg://postgres@127.0.0.1:{self.postgres.port}/{database.name}"
        config = SQLAlchemyAsyncConfig(
            connection_string=url,
            bind_key=BIND,
            session_config=AsyncSessionConfig(expire_on_commit=False),
            create_all=True,
        )
        self.app = Litestar(
            [create],
            plugins=[
                SQLAlchemyPlugin(config),
                GranitePlugin(
                    GraniteConfig(
                        manager,
                        gc=None,
                        downloads=[FileRoute("/papers/{id:uuid}/file", Paper.file, public=True)],
                        uploads=[UploadRoute("/papers/{id:uuid}/file", Paper.file, authorize=lambda *_: True)],
                    )
                ),
            ],
            logging_config=None,
        )
        self.client: TestClient[Litestar]

    def contents(self) -> dict[str, bytes]:
        """What rows hold, by title; all of it is there."""
        with Session(self.engine) as session:
            return {each.title: self.straight.get(each.file) for each in session.scalars(select(Paper)) if each.file}

    def post_paper(self, title: str) -> httpx.Response:
        return self.client.post("/papers", data={"title": title}, files={"file": ("a.bin", FIRST)})


@pytest.fixture(scope="module")
def site(ministack: S3Server, postgres_server: PostgresServer) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as monkeypatch, postgres_server.database() as database:
        calm_retries(monkeypatch)
        site = Site(ministack, database)
        with TestClient(site.app, raise_server_exceptions=False) as site.client:
            yield site
        site.engine.dispose()
        site.s3.__exit__(None, None, None)
        site.postgres.__exit__(None, None, None)
        ministack.drop_bucket(site.bucket)


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return Tally("The network, Application", record_property)


def send_form(site: Site, paper: str) -> httpx.Response:
    return site.post_paper("new")


def replace(site: Site, paper: str) -> httpx.Response:
    return site.client.put(f"/papers/{paper}/file", content=SECOND, headers={"Content-Type": "application/pdf"})


def download(site: Site, paper: str) -> httpx.Response:
    return site.client.get(f"/papers/{paper}/file")


def download_range(site: Site, paper: str) -> httpx.Response:
    return site.client.get(f"/papers/{paper}/file", headers={"Range": "bytes=10-"})


Ask = Callable[[Site, str], httpx.Response]
REQUESTS: dict[str, Ask] = {
    "send a form": send_form,
    "replace a file": replace,
    "download": download,
    "download a range": download_range,
}


def judge(site: Site, ask: Ask, answer: httpx.Response) -> None:
    """Hold an answer against what is true."""
    held = site.contents()
    assert held["old"] in (FIRST, SECOND)
    assert set(held.values()) <= {FIRST, SECOND}
    shown = f"{answer.text if not answer.is_success else ''} {dict(answer.headers)}"
    assert not re.search(r"127\.0\.0\.1|_/[a-z2-7]{20}|granite-[0-9a-f]{32}|[Bb]oto|asyncpg|sqlalchemy", shown), shown
    if not answer.is_success:
        return
    if ask is send_form:
        assert held["new"] == FIRST
    elif ask is replace:
        assert held["old"] == SECOND
    else:
        assert answer.content == (held["old"] if ask is download else held["old"][10:])


def said(answer: httpx.Response) -> str | None:
    """What became of a request; broken off in its body, an answer comes out of the test client as a 500 without any."""
    if answer.is_success:
        return None
    return str(answer.status_code) if answer.content else "broken off"


def begin(site: Site) -> str:
    with Session(site.engine) as session:
        for each in session.scalars(select(Paper)):
            session.delete(each)
        session.commit()
    answer = site.post_paper("old")
    assert answer.status_code == 201, answer.text
    return str(answer.json())


@pytest.mark.parametrize("fault", HTTP_FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("name", REQUESTS)
def test_the_store_is_away(name: str, fault: NamedFault, site: Site, tally: Tally) -> None:
    turn = list(REQUESTS).index(name) + HTTP_FAULTS.index(fault)
    if not DEEP and turn % 3:
        pytest.skip("a third of the table; all of it with GRANITE_DEEP=1")
    paper = begin(site)
    for times in (1, None) if DEEP else (None,):
        hits = site.s3.inject(befall_if_it_applies(fault), times=times)
        try:
            answer = REQUESTS[name](site, paper)
        finally:
            site.s3.heal()
        judge(site, REQUESTS[name], answer)
        flipped = fault.name == "a bit flipped in the answer"  # the object may as well have changed in the store
        broken_off = name.startswith("download") and said(answer) == "broken off"
        assert answer.is_success or broken_off or answer.status_code == (500 if flipped else 503), answer.text
        assert not fault.harmless or answer.is_success
        if hits:
            tally.count(said(answer))
    assert REQUESTS[name](site, begin(site)).is_success


@pytest.mark.parametrize("fault", [each for each in POSTGRES_FAULTS if not each.silent], ids=lambda fault: fault.name)
@pytest.mark.parametrize("name", REQUESTS)
def test_the_database_is_away(name: str, fault: DatabaseFault, site: Site, tally: Tally) -> None:
    """Granite's own routes answer 503; what becomes of an error in a handler is the application's."""
    turn = list(REQUESTS).index(name) + POSTGRES_FAULTS.index(fault)
    if not DEEP and turn % 3:
        pytest.skip("a third of the table; all of it with GRANITE_DEEP=1")
    paper = begin(site)
    before = len(site.postgres.rounds)
    REQUESTS[name](site, paper)
    rounds = len(site.postgres.rounds) - before
    for at in range(1, rounds + 1):
        if not DEEP and at != turn % rounds + 1:
            continue
        paper = begin(site)
        hits = site.postgres.inject(fault.befall, at=at)
        try:
            answer = REQUESTS[name](site, paper)
        finally:
            site.postgres.heal()
        judge(site, REQUESTS[name], answer)
        allowed = (500, 503) if name == "send a form" else (503,)
        assert answer.is_success or answer.status_code in allowed, (at, rounds, hits and hits[0].sql, answer.text)
        assert not fault.harmless or answer.is_success
        if hits:
            tally.count(said(answer))
