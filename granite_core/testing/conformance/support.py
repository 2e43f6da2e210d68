"""What the groups of conformance tests share."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ClassVar, TypeVar

import pytest

from granite_core.backends.base import Capability, StorageBackend

__all__ = ["MIB", "BackendTests", "all_at_once", "assert_same", "memory_peak", "noise"]

T = TypeVar("T")
MIB = 1024 * 1024


class BackendTests:
    """Base of the groups: settings, and what decides a skip."""

    deviations: ClassVar[Mapping[str, str]] = {}
    large: ClassVar[int] = 20 * MIB + 12_345
    many: ClassVar[int] = 1_100
    memory_limit: ClassVar[int] = 40 * MIB

    @pytest.fixture(autouse=True)
    def _expect_deviations(self, request: pytest.FixtureRequest) -> None:
        name = getattr(request.node, "originalname", None) or request.node.name
        if reason := self.deviations.get(name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @staticmethod
    def needs(backend: StorageBackend, capability: Capability) -> None:
        """Skip the test where the capability is not claimed."""
        if capability not in backend.capabilities:
            pytest.skip(f"the backend does not claim {capability.value}")

    @staticmethod
    def keys(backend: StorageBackend, prefix: str = "", start_after: str | None = None) -> list[str]:
        """Return the keys that a listing yields, in its order."""
        found = [each.location for each in backend.list_objects(prefix=prefix, start_after=start_after)]
        assert list(backend.list_keys(prefix=prefix, start_after=start_after)) == found
        return found


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that look random and are the same every time."""
    return random.Random(seed).randbytes(size)


def assert_same(actual: bytes, expected: bytes) -> None:
    """Fail where two contents differ, and say where. For large ones: pytest's own diff takes minutes in CI."""
    if actual == expected:
        return
    pairs = zip(actual, expected, strict=False)
    at = next((index for index, (mine, theirs) in enumerate(pairs) if mine != theirs), min(len(actual), len(expected)))
    pytest.fail(f"contents differ from byte {at} on; {len(actual)} bytes came, {len(expected)} were expected")


def all_at_once(work: Callable[[int], T], times: int, threads: int = 16) -> list[T]:
    """Call ``work`` with 0, 1, …, from several threads, and return the results in that order."""
    with ThreadPoolExecutor(min(times, threads)) as pool:
        return list(pool.map(work, range(times)))


@contextmanager
def memory_peak() -> Iterator[Callable[[], int]]:
    """Yield a function that tells the highest number of bytes that Python held since the block began."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
