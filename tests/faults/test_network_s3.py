"""The network between us and an object store misbehaves: each verb, at each of its requests, in each way of the table.

Every verb ends in success or in a typed error that tells nobody where the store is, within the time that is configured.
What it reports as stored is stored and whole; nothing that was there is harmed; what is left over is what a reconcile
clears; and the next try works.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from granite_core import AsyncStorageManager, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.backends import backend_from_url
from granite_core.backends.s3 import S3StorageBackend, buffer_budget
from granite_core.errors import ObjectExistsError, StorageError
from granite_core.testing.conformance.support import noise
from tests.support.network import DEEP, Tally, calm_retries, shown_to_nobody
from tests.support.proxy.http import HttpProxy
from tests.support.proxy.http_faults import HTTP_FAULTS, NamedFault, befall_if_it_applies
from tests.support.s3 import S3Server

KIB = 1024
SMALL = noise(3 * KIB)
PART = 64 * KIB
"""The length of parts for the stand-in; S3 and Ceph refuse parts of less than 5 MiB."""
FULL_PART = 5 * KIB * KIB
NOW = timedelta(seconds=-60)
MATTERS_MOST = {
    "reset after the request",
    "truncated body",
    "delivered late",
    "503 SlowDown",
    "200 of something else",
    "a bit flipped in the request",
}
"""Faults that befall every request of every verb, deep or not."""
QUICK, LONGER, PATIENT = 0.5, 10.0, 20.0
"""Seconds until a silent store is given up; the same where a busy machine was taken for one; where none is silent."""


class Way:
    """The way to one server: straight, and through the proxy with clients as a URL makes them."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.bucket = server.create_bucket()
        self.proxy = HttpProxy(server.endpoint)
        self.is_atomic = server.name != "rgw"
        self.part = PART if self.is_atomic else FULL_PART
        self.large = noise(2 * self.part + 100)
        self._cases = count(1)
        self._clients: dict[tuple[float, int], Any] = {}
        self._straight = server.client()
        self._requests: dict[str, int] = {}

    def close(self) -> None:
        self.proxy.__exit__(None, None, None)
        self.server.drop_bucket(self.bucket)

    def client(self, read_timeout: float, attempts: int) -> Any:
        if (read_timeout, attempts) not in self._clients:
            url = f"s3://{self.bucket}?endpoint_url={self.proxy.endpoint}&region={self.server.region}"
            url += f"&connect_timeout={read_timeout}&read_timeout={read_timeout}&max_attempts={attempts}"
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("AWS_ACCESS_KEY_ID", self.server.access_key)
                environment.setenv("AWS_SECRET_ACCESS_KEY", self.server.secret_key)
                client = self._clients[read_timeout, attempts] = backend_from_url(url).client  # type: ignore[attr-defined]
            # Two keys a page, so that a listing is more than one request.
            client.meta.events.register(
                "provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 2}
            )
        return self._clients[read_timeout, attempts]

    async def requests_of(self, operation: Operation) -> int:
        """How many requests a verb makes, when nothing goes wrong."""
        if operation.name not in self._requests:
            case = self.case()
            operation.prepare(case)
            before = len(self.proxy.requests)
            await operation.act(case)
            case.check()
            self._requests[operation.name] = len(self.proxy.requests) - before
        return self._requests[operation.name]

    def case(self, *, colour: str = "sync", read_timeout: float = PATIENT, attempts: int = 1) -> Case:
        prefix = f"case{next(self._cases)}"
        options: dict[str, Any] = {"atomic_create": self.is_atomic}
        client = self.client(read_timeout, attempts)
        case = Case(
            self,
            S3StorageBackend(self.bucket, prefix, client=client, **options),
            S3StorageBackend(self.bucket, prefix, client=self._straight, **options),
            colour,
        )
        for each in (case.backend, case.straight):
            each.part_size = self.part
            each.copy_limit = 2 * self.part
        return case


@dataclass
class Case:
    """A folder of the bucket of its own, and what is known to be in it."""

    way: Way
    backend: S3StorageBackend
    straight: S3StorageBackend
    colour: str
    contents: set[bytes] = field(default_factory=set)
    kept: dict[str, bytes] = field(default_factory=dict)
    """What must be there whatever happens."""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manager = self._manager(self.backend)

    def _manager(self, backend: S3StorageBackend) -> StorageManager:
        return StorageManager({"main": backend}, [StoragePolicy("files", "main", verify_reads=True)])

    async def call(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a verb of the manager, in the case's colour."""
        manager = self.manager if self.colour == "sync" else AsyncStorageManager(self.manager)
        result = getattr(manager, verb)(*args, **options)
        return await result if inspect.isawaitable(result) else result

    def put(self, content: bytes) -> StoredObjectRef:
        """Store something that is to stay, past the proxy."""
        self.contents.add(content)
        ref = self._manager(self.straight).put_bytes("files", content=content)
        self.kept[ref.location] = content
        return ref

    def uploads(self) -> list[Any]:
        where = {"Bucket": self.way.bucket, "Prefix": self.straight.prefix}
        return self.straight.client.list_multipart_uploads(**where).get("Uploads", [])

    def check(self) -> None:
        """Hold the laws against what is in the store."""
        found = {each.location: self.straight.get(each.location) for each in self.straight.list_objects()}
        for location, content in self.kept.items():
            assert found.get(location) == content, "what was stored is gone, or is not what was stored"
        assert set(found.values()) <= self.contents, "something is stored that nobody sent"
        if self.uploads():
            self.straight.clear_unfinished(NOW)
            assert not self.uploads(), "an upload is left that no reconcile clears"
        assert buffer_budget.used == 0, "memory was not given back"


@dataclass(frozen=True)
class Operation:
    """A verb.

    Args:
        name: Its name.
        act: Does it through the proxy, and checks what came of it.
        prepare: Puts there what it needs.
        believes: A fault whose word it must take: of bits that it cannot hold against anything, TLS is what keeps them
            from turning over; the answer to a HEAD has nothing but a status.
        refused: Its answer is an error in the place of a stream, the body of which boto3 reads once and no second time.
    """

    name: str
    act: Callable[[Case], Awaitable[None]]
    prepare: Callable[[Case], None] = lambda case: None
    believes: str = ""
    refused: bool = False


# ------------------------------------------------------------------------------------------------------- the verbs
def keep(case: Case, ref: StoredObjectRef, content: bytes) -> None:
    """A verb has said that it stored this: from now on it must be there."""
    assert ref.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
    case.kept[ref.location] = content


async def put_small(case: Case) -> None:
    case.contents.add(SMALL)
    keep(case, await case.call("put_bytes", "files", content=SMALL), SMALL)


async def put_multipart(case: Case) -> None:
    large = case.way.large
    case.contents.add(large)
    keep(case, await case.call("put_stream", "files", stream=io.BytesIO(large)), large)


async def abort_multipart(case: Case) -> None:
    writer = case.backend.open_writer("aborted")
    try:
        writer.write(case.way.large)
    finally:
        writer.abort()


def something_taken(case: Case) -> None:
    case.straight.put_bytes("taken", b"first")
    case.contents.add(b"first")
    case.kept["taken"] = b"first"


async def create_taken(case: Case) -> None:
    await clash(case, SMALL)


async def create_taken_in_parts(case: Case) -> None:
    await clash(case, case.way.large)


async def clash(case: Case, content: bytes) -> None:
    if not case.way.is_atomic:
        pytest.skip("this store does not create atomically")
    with pytest.raises(ObjectExistsError):
        case.backend.put_bytes("taken", content)


def something_small(case: Case) -> None:
    case.extra["ref"] = case.put(SMALL)


def something_large(case: Case) -> None:
    case.extra["ref"] = case.put(case.way.large)


async def get(case: Case) -> None:
    assert await case.call("get", case.extra["ref"]) == SMALL


async def get_through(case: Case) -> None:
    reader = await case.call("open", case.extra["ref"])
    pieces = []
    try:
        while data := await settled(reader.read(50_000)):
            pieces.append(data)
    finally:
        await settled(reader.close())
    assert b"".join(pieces) == case.way.large


async def get_range(case: Case) -> None:
    reader = await case.call("open", case.extra["ref"], offset=1000, length=1500, verify=False)
    try:
        assert await settled(reader.read(-1)) == SMALL[1000:2500]
    finally:
        await settled(reader.close())


async def get_range_behind_the_end(case: Case) -> None:
    with case.backend.open_reader(case.extra["ref"].location, offset=len(SMALL)) as reader:
        assert reader.size == len(SMALL)
        assert reader.read() == b""


async def settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def verify(case: Case) -> None:
    await case.call("verify", case.extra["ref"])


async def stat(case: Case) -> None:
    assert (await case.call("stat", case.extra["ref"])).size == len(SMALL)


async def exists(case: Case) -> None:
    assert await case.call("exists", case.extra["ref"])


async def delete(case: Case) -> None:
    del case.kept[case.extra["ref"].location]
    await case.call("delete", case.extra["ref"])


async def delete_absent(case: Case) -> None:
    case.backend.delete("absent")


async def delete_many(case: Case) -> None:
    going, case.kept = list(case.kept), {}
    failed = case.backend.delete_many([*going, "absent"])
    assert all(isinstance(each, StorageError) for each in failed.values())
    assert not any(case.straight.exists(each) for each in going if each not in failed)
    for error in failed.values():
        raise error


def three(case: Case) -> None:
    for number in range(3):
        case.straight.put_bytes(f"object{number}", SMALL)
        case.contents.add(SMALL)
        case.kept[f"object{number}"] = SMALL


async def list_all(case: Case) -> None:
    assert list(case.backend.iter_locations()) == list(case.kept)


async def copy(case: Case) -> None:
    keep(case, await case.call("copy", case.extra["ref"]), SMALL)


async def copy_in_parts(case: Case) -> None:
    keep(case, await case.call("copy", case.extra["ref"]), case.way.large)


def two_unfinished(case: Case) -> None:
    for number in range(2):
        writer = case.straight.open_writer(f"unfinished{number}")
        writer.write(b"x")
        writer.send_part()  # type: ignore[attr-defined]
        writer._join()  # type: ignore[attr-defined]
        writer._closed = True  # type: ignore[attr-defined]  # its process has died


async def clear_unfinished(case: Case) -> None:
    case.backend.clear_unfinished(NOW)


async def check(case: Case) -> None:
    case.contents |= {b"", b"x"}
    case.backend.check()


OPERATIONS = (
    Operation("put small", put_small),
    Operation("put multipart", put_multipart),
    Operation("abort multipart", abort_multipart),
    Operation("create taken", create_taken, something_taken),
    Operation("create taken in parts", create_taken_in_parts, something_taken),
    Operation("get", get, something_small),
    Operation("get through", get_through, something_large),
    Operation("get range", get_range, something_small, believes="a bit flipped in the answer"),
    Operation("get range behind the end", get_range_behind_the_end, something_small, refused=True),
    Operation("verify", verify, something_small),
    Operation("stat", stat, something_small),
    Operation("exists", exists, something_small, believes="404 of something else"),
    Operation("delete", delete, something_small),
    Operation("delete absent", delete_absent),
    Operation("delete many", delete_many, three),
    Operation("list", list_all, three, believes="a bit flipped in the answer"),
    Operation("copy", copy, something_small),
    Operation("copy in parts", copy_in_parts, something_large),
    Operation("clear unfinished", clear_unfinished, two_unfinished),
    Operation("check", check),
)


# -------------------------------------------------------------------------------------------------------- the table
@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return Tally("The network, S3", record_property)


@pytest.fixture(scope="module")
def ways() -> Iterator[dict[str, Way]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        calm_retries(monkeypatch)
        ways: dict[str, Way] = {}
        yield ways
        for way in ways.values():
            way.close()


@pytest.fixture
def way(server: str, ways: dict[str, Way], request: pytest.FixtureRequest) -> Way:
    if server not in ways:
        ways[server] = Way(request.getfixturevalue(server))
    return ways[server]


def rows() -> Iterator[Any]:
    """The table: all of it, or what matters most and a part of the rest in turn."""
    for server, share in (("ministack", 6), ("rgw", 24)):
        for number, operation in enumerate(OPERATIONS):
            for turn, fault in enumerate(HTTP_FAULTS):
                matters = server == "ministack" and fault.name in MATTERS_MOST
                if operation.believes != fault.name and (DEEP or matters or (number + turn) % share == 0):
                    yield pytest.param(server, operation, fault, id=f"{server}-{operation.name}-{fault.name}")


@pytest.mark.parametrize(("server", "operation", "fault"), list(rows()))
async def test_every_verb_at_every_request(operation: Operation, fault: NamedFault, way: Way, tally: Tally) -> None:
    """Deep, each fault befalls each request once and for good, with and without a second attempt; else one of these."""
    turn = OPERATIONS.index(operation) + HTTP_FAULTS.index(fault)
    requests = await way.requests_of(operation)
    every = [(1, 1), (2, 1), (2, None), (1, None)]
    for at in range(1, requests + 1):
        if DEEP or fault.name in MATTERS_MOST or at == turn % requests + 1:
            for attempts, times in every if DEEP else [every[(turn + at) % 3]]:
                await befall(operation, fault, way, tally, at, attempts, times)
    again = way.case()
    operation.prepare(again)
    await operation.act(again)
    again.check()


async def befall(
    operation: Operation,
    fault: NamedFault,
    way: Way,
    tally: Tally,
    at: int,
    attempts: int,
    times: int | None,
    given_up_after: float = QUICK,
) -> None:
    colour = ("sync", "async")[at % 2]
    case = way.case(colour=colour, read_timeout=given_up_after if fault.silent else PATIENT, attempts=attempts)
    operation.prepare(case)
    hits = way.proxy.inject(befall_if_it_applies(fault), at=at, times=times)
    where = f"{operation.name}, {fault.name}, request {at}, {attempts} attempts, {'once' if times else 'for good'}"
    began = time.monotonic()
    try:
        await operation.act(case)
        outcome = None
    except StorageError as error:
        outcome = error
    except BaseException as error:
        error.add_note(where)
        raise
    finally:
        way.proxy.heal()
    took = time.monotonic() - began
    befell = any(fault.applies(request) for request in hits)
    try:
        case.check()
        if outcome is not None:
            shown_to_nobody(outcome, *case.kept)
        if fault.harmless or not (befell or fault.silent):
            assert outcome is None, f"{outcome!r} although nothing was lost"
        elif fault.mended and times and attempts > 1 and not (operation.refused and fault.needs):
            if outcome is not None and fault.silent and given_up_after == QUICK:  # the second answer was slow, too
                await befall(operation, fault, way, tally, at, attempts, times, LONGER)
                return
            assert outcome is None, f"{outcome!r} although the second attempt could do it"
        assert took < 60, "it took longer than is configured"
    except BaseException as error:
        error.add_note(where)
        raise
    if befell:
        tally.count(outcome)
