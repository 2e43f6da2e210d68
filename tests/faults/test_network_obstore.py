"""The network between obstore and a store misbehaves: the verbs and faults of boto3's backend, and its laws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from granite_core.backends.obstore import ObstoreStorageBackend
from tests.faults.test_network_s3 import OPERATIONS, PATIENT, Case, Operation, Way, befall
from tests.support.network import DEEP, Tally, calm_retries
from tests.support.proxy.http_faults import HTTP_FAULTS, NamedFault
from tests.support.s3 import S3Server

NOT_OURS = {"create taken in parts", "clear unfinished", "copy in parts"}
UNSIGNED = ("delete many", "a bit flipped in the request")
"""obstore does not tell which keys the answer names, so another key than ours may go where nobody looks at the
signature, as the stand-in does not."""


class ObstoreWay(Way):
    """The way to one server: straight through boto3, and through the proxy with obstore as a URL makes it."""

    def case(self, *, colour: str = "sync", read_timeout: float = PATIENT, attempts: int = 1) -> Case:
        case = super().case(colour=colour, read_timeout=read_timeout, attempts=attempts)
        backend: Any = ObstoreStorageBackend(
            f"s3://{self.bucket}/{case.straight.prefix}",
            endpoint_url=self.proxy.endpoint,
            region=self.server.region,
            connect_timeout=read_timeout,
            read_timeout=read_timeout,
            max_attempts=attempts,
        )
        backend.part_size = self.part
        return Case(self, backend, case.straight, colour)


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return Tally("The network, obstore", record_property)


@contextmanager
def way_to(server: S3Server) -> Iterator[Way]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        calm_retries(monkeypatch)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        way = ObstoreWay(server)
        yield way
        way.close()


@pytest.fixture(scope="module")
def way(ministack: S3Server) -> Iterator[Way]:
    with way_to(ministack) as way:
        yield way


def rows() -> Iterator[Any]:
    for number, operation in enumerate(OPERATIONS):
        for turn, fault in enumerate(HTTP_FAULTS):
            wanted = operation.name not in NOT_OURS and operation.believes != fault.name
            wanted = wanted and (operation.name, fault.name) != UNSIGNED
            if wanted and (DEEP or fault.name == "200 of something else" or (number + turn) % 4 == 0):
                yield pytest.param(operation, fault, id=f"{operation.name}-{fault.name}")


@pytest.mark.parametrize(("operation", "fault"), list(rows()))
async def test_every_verb_at_every_request(operation: Operation, fault: NamedFault, way: Way, tally: Tally) -> None:
    for at in range(1, await way.requests_of(operation) + 1):
        await befall(operation, fault, way, tally, at, 1, 1)


async def test_many_keys_that_change_on_the_way_are_refused_by_their_signature(rgw: S3Server, tally: Tally) -> None:
    (operation,) = (each for each in OPERATIONS if each.name == UNSIGNED[0])
    (fault,) = (each for each in HTTP_FAULTS if each.name == UNSIGNED[1])
    with way_to(rgw) as way:
        await befall(operation, fault, way, tally, 1, 1, 1)
