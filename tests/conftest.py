"""What every test can ask for: real servers and programs, a fresh database, a fresh bucket.

A part that this machine lacks skips the test that asks for it, and fails it where all parts are promised
(tests/support/parts.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.broker import VARIABLE, Broker, ask
from tests.support.figures import figures_of
from tests.support.parts import TYPED_CLIENT, find_program, need
from tests.support.postgres import Database, PostgresServer
from tests.support.s3 import S3Server
from tests.support.typed_client import TypedClientTools

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

_TESTS = Path(__file__).parent
_LAYERS = {
    "benchmarks": "benchmark",
    "conformance": "conformance",
    "docs": "docs",
    "e2e": "e2e",
    "faults": "faults",
    "fuzz": "fuzz",
    "hostile": "hostile",
    "integration": "integration",
    "model": "model",
    "soak": "soak",
    "stateful": "stateful",
    "unit": "unit",
}

_broker: pytest.StashKey[Broker] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    # Workers of xdist inherit the variable; so does a run that is to use servers which are up already.
    if VARIABLE not in os.environ:
        broker = config.stash[_broker] = Broker()
        os.environ[VARIABLE] = broker.address


def pytest_unconfigure(config: pytest.Config) -> None:
    broker = config.stash.get(_broker, None)
    if broker is not None:
        del os.environ[VARIABLE]
        broker.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        layer = item.path.relative_to(_TESTS).parts[0]
        if layer in _LAYERS:
            item.add_marker(_LAYERS[layer])
    # What waits longest begins first, beside the rest: at the end others would have to wait for it.
    items.sort(key=lambda item: item.path.relative_to(_TESTS).parts[0] != "soak")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what proofs have counted (tests/support/figures.py)."""
    # A test's last report has all its properties, those that fixtures recorded at its end too.
    stats = terminalreporter.stats
    without = {each.nodeid for kind in ("skipped", "xfailed") for each in stats.get(kind, [])}
    reports = [each for kind in stats.values() for each in kind if _is_last(each) and each.nodeid not in without]
    figures = figures_of(each for report in reports for each in report.user_properties)
    if figures:
        terminalreporter.section("figures")
        for each in figures:
            terminalreporter.write_line(each)


def _is_last(report: object) -> bool:
    return isinstance(report, pytest.TestReport) and report.when == "teardown"


# -------------------------------------------------------------------------------------------------------- databases
@pytest.fixture(scope="session")
def postgres_server() -> PostgresServer:
    """A running PostgreSQL; `with postgres_server.database() as database:` makes one for a wider scope than a test."""
    need("postgres")
    server: PostgresServer = ask("postgres")
    return server


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A new, empty database: its `sync_url` (psycopg) and `async_url` (asyncpg)."""
    with postgres_server.database() as database:
        yield database


@pytest.fixture
def postgres_url(postgres_database: Database) -> str:
    """The psycopg URL of `postgres_database`."""
    return postgres_database.sync_url


@pytest.fixture
def postgres_async_url(postgres_database: Database) -> str:
    """The asyncpg URL of `postgres_database`, the same database as `postgres_url`."""
    return postgres_database.async_url


# ---------------------------------------------------------------------------------------------------- object stores
@pytest.fixture(scope="session")
def ministack() -> S3Server:
    """MiniStack, a stand-in S3: checks checksums and conditional requests, no signatures."""
    need("ministack")
    server: S3Server = ask("ministack")
    return server


@pytest.fixture(scope="session")
def rgw() -> S3Server:
    """Ceph's gateway, a real S3: checks signatures, presigned requests and policies."""
    need("ceph")
    server: S3Server = ask("ceph")
    return server


@pytest.fixture(scope="session", params=["ministack", "rgw"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def ministack_endpoint(ministack: S3Server) -> str:
    return ministack.endpoint


@pytest.fixture
def rgw_endpoint(rgw: S3Server) -> str:
    return rgw.endpoint


@pytest.fixture
def s3_bucket() -> Iterator[Callable[..., tuple[Any, str]]]:
    """`client, bucket = s3_bucket(server, versioned=False, **botocore_config)`: a new bucket, gone after the test."""
    made: list[tuple[S3Server, Any, str]] = []

    def make(server: S3Server, *, versioned: bool = False, **config: Any) -> tuple[Any, str]:
        client, bucket = server.client(**config), server.create_bucket(versioned=versioned)
        made.append((server, client, bucket))
        return client, bucket

    yield make
    for server, client, bucket in made:
        client.close()
        server.drop_bucket(bucket)


# --------------------------------------------------------------------------------------------------------- programs
@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Debian's Chromium, for Playwright's `executable_path`."""
    need("chromium")
    return find_program("chromium", "chromium-browser", "google-chrome") or ""


@pytest.fixture(scope="session")
def ffmpeg_path() -> str:
    need("ffmpeg")
    return find_program("ffmpeg") or ""


@pytest.fixture(scope="session")
def nginx_path() -> str:
    need("nginx")
    return find_program("nginx") or ""


@pytest.fixture(scope="session")
def typed_client() -> TypedClientTools:
    """Node, and npm's generator of clients and TypeScript."""
    need("typed-client")
    return TypedClientTools(TYPED_CLIENT)


@pytest.fixture(scope="session")
def sample_mp4() -> Path:
    """Twenty seconds of picture and sound, its index at the front."""
    need("video")
    video: Path = ask("video").mp4
    return video


@pytest.fixture(scope="session")
def sample_webm() -> Path:
    """Twenty seconds of picture and sound."""
    need("video")
    video: Path = ask("video").webm
    return video
