"""A backend wrapper that fails, or runs a callback, at a chosen call: for tests of what happens half-way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from granite_core.backends.base import (
    NO_OPTIONS,
    Capability,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    ResumableWriter,
    SignedRequest,
    StorageBackend,
    WriteOptions,
)
from granite_core.errors import BackendUnavailableError
from granite_core.findings import Finding

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FaultyBackend", "Operation"]

T = TypeVar("T")

Operation: TypeAlias = Literal[
    "open_writer",
    "write",
    "commit",
    "abort",
    "resume_writer",
    "checkpoint",
    "discard",
    "open_reader",
    "read",
    "close",
    "stat",
    "delete",
    "delete_many",
    "list",
    "copy",
    "begin_parts",
    "list_parts",
    "join_parts",
    "discard_parts",
    "clear",
]
"""What can be counted and broken. ``close`` is a reader's, or a resumable writer's; ``list`` counts a listing once,
when it begins; ``delete_many`` counts a call of a backend that claims ``Capability.BATCH_DELETE``, of others each
``delete``."""


@dataclass(slots=True)
class _Rule:
    operation: Operation
    first: int
    last: float
    late: bool
    act: Callable[[], object]


class FaultyBackend(StorageBackend):
    """Passes everything on to another backend, counts it, and breaks where it was told to.

    Example::

        backend = FaultyBackend(MemoryStorageBackend())
        backend.fail("write", at=3)                      # the third write from now on raises
        backend.fail("commit", late=True)                # the next commit happens, but its answer is lost
        backend.call("stat", lambda: backend.inner.delete(key))   # someone else is faster

    Args:
        inner: The backend that does the work.

    Attributes:
        inner: The same.
        calls: How often each operation was called.
        log: Every call as ``(operation, location)``, in order.
    """

    def __init__(self, inner: StorageBackend) -> None:
        self.inner = inner
        self.backend_name = inner.backend_name
        self.capabilities = inner.capabilities
        self.max_workers = inner.max_workers
        self.presign_limit = inner.presign_limit
        self.put_limit = inner.put_limit
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[Operation, str]] = []
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._writers: set[object] = set()
        self._readers: set[object] = set()

    @property
    def open_writers(self) -> int:
        """How many writers were begun and neither committed nor aborted."""
        return len(self._writers)

    @property
    def open_readers(self) -> int:
        """How many readers were opened and not closed."""
        return len(self._readers)

    def fail(
        self,
        operation: Operation,
        error: BaseException | type[BaseException] | None = None,
        *,
        at: int = 1,
        times: int | None = 1,
        late: bool = False,
    ) -> None:
        """Raise at a call.

        Args:
            operation: Which.
            error: What to raise; ``BackendUnavailableError`` unless told otherwise.
            at: At which call of that operation, counted from now; 1 is the next.
            times: At how many calls from there on; None for all.
            late: Raise after the inner backend has done its work: a lost answer.
        """

        def act() -> None:
            raise BackendUnavailableError(f"{operation} was made to fail") if error is None else error

        self.call(operation, act, at=at, times=times, late=late)

    def call(
        self,
        operation: Operation,
        callback: Callable[[], object],
        *,
        at: int = 1,
        times: int | None = 1,
        late: bool = False,
    ) -> None:
        """Run a callback at a call, before the inner backend is asked or (``late``) after; arguments as in ``fail``."""
        with self._lock:
            first = self.calls[operation] + at
            last = float("inf") if times is None else first + times - 1
            self._rules.append(_Rule(operation, first, last, late, callback))

    def heal(self) -> None:
        """Forget every rule; the counts stay."""
        with self._lock:
            self._rules.clear()

    # -- the contract --------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> tuple[str, ...]:
        """The inner backend's."""
        return self.inner.identity

    def open_writer(
        self,
        location: str,
        *,
        content_type: str | None = None,
        size: int | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ObjectWriter:
        """Return the inner backend's writer, watched."""
        return self._run(
            "open_writer",
            location,
            lambda: _FaultyWriter(
                self,
                location,
                self.inner.open_writer(location, content_type=content_type, size=size, options=options),
            ),
        )

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Return the inner backend's reader, watched."""
        return self._run(
            "open_reader",
            location,
            lambda: _FaultyReader(self, location, self.inner.open_reader(location, offset=offset, length=length)),
        )

    def stat(self, location: str) -> ObjectStat:
        """Ask the inner backend."""
        return self._run("stat", location, lambda: self.inner.stat(location))

    def delete(self, location: str) -> None:
        """Delete in the inner backend."""
        self._run("delete", location, lambda: self.inner.delete(location))

    def delete_many(self, locations: Collection[str]) -> Mapping[str, Exception]:
        """Delete in the inner backend; one after another, each counted, where it has no better way."""
        if Capability.BATCH_DELETE not in self.capabilities:
            return super().delete_many(locations)
        return self._run("delete_many", "", lambda: self.inner.delete_many(locations))

    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        """List the inner backend; a ``late`` rule acts after the last object."""
        late = self._count("list", prefix)
        yield from self.inner.list_objects(prefix=prefix, start_after=start_after)
        _act(late)

    def list_keys(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[str]:
        """List the inner backend's keys, as ``list_objects`` does its objects."""
        late = self._count("list", prefix)
        yield from self.inner.list_keys(prefix=prefix, start_after=start_after)
        _act(late)

    def copy(self, source: str, target: str, *, options: WriteOptions = NO_OPTIONS) -> None:
        """Copy in the inner backend."""
        self._run("copy", source, lambda: self.inner.copy(source, target, options=options))

    def local_path(self, location: str) -> Path | None:
        """Ask the inner backend; not counted."""
        return self.inner.local_path(location)

    def presign_get(self, location: str, **request: Any) -> str:
        """Ask the inner backend; not counted."""
        return self.inner.presign_get(location, **request)

    def public_address(self, location: str) -> str | None:
        """Ask the inner backend; not counted."""
        return self.inner.public_address(location)

    def presign_put(self, location: str, **asked: Any) -> SignedRequest:
        """Ask the inner backend; not counted, since nothing is sent."""
        return self.inner.presign_put(location, **asked)

    def presign_post(self, location: str, **asked: Any) -> SignedRequest:
        """Ask the inner backend; not counted, since nothing is sent."""
        return self.inner.presign_post(location, **asked)

    def presign_part(self, location: str, upload: str, number: int, **asked: Any) -> SignedRequest:
        """Ask the inner backend; not counted, since nothing is sent."""
        return self.inner.presign_part(location, upload, number, **asked)

    def begin_parts(self, location: str, *, content_type: str | None = None) -> str:
        """Begin in the inner backend."""
        return self._run("begin_parts", location, lambda: self.inner.begin_parts(location, content_type=content_type))

    def list_parts(self, location: str, upload: str) -> Mapping[int, int]:
        """List in the inner backend."""
        return self._run("list_parts", location, lambda: self.inner.list_parts(location, upload))

    def join_parts(self, location: str, upload: str) -> None:
        """Join in the inner backend."""
        self._run("join_parts", location, lambda: self.inner.join_parts(location, upload))

    def discard_parts(self, location: str, upload: str | None = None) -> None:
        """Discard in the inner backend."""
        self._run("discard_parts", location, lambda: self.inner.discard_parts(location, upload))

    def resume_writer(
        self,
        location: str,
        *,
        offset: int = 0,
        state: str | None = None,
        content_type: str | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ResumableWriter:
        """Return the inner backend's writer, watched."""
        arguments: Any = {"offset": offset, "state": state, "content_type": content_type, "options": options}
        return self._run(
            "resume_writer",
            location,
            lambda: _FaultyResumableWriter(self, location, self.inner.resume_writer(location, **arguments)),
        )

    def discard_unfinished(self, location: str, state: str | None) -> None:
        """Discard in the inner backend."""
        self._run("discard", location, lambda: self.inner.discard_unfinished(location, state))

    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        """Clear the inner backend."""
        told: Any = {"keep": keep} if keep else {}
        return self._run("clear", "", lambda: self.inner.clear_unfinished(older_than, **told))

    def check(self) -> None:
        """Check the inner backend; not counted."""
        self.inner.check()

    def diagnose(self, *, origins: Collection[str] = (), receives: bool = False) -> Sequence[Finding]:
        """Ask the inner backend; not counted."""
        asked = {"receives": True} if receives else {}
        return self.inner.diagnose(origins=origins, **asked)

    def close(self) -> None:
        """Close the inner backend; not counted."""
        super().close()
        self.inner.close()

    def _run(self, operation: Operation, location: str, work: Callable[[], T]) -> T:
        late = self._count(operation, location)
        result = work()
        _act(late)
        return result

    def _count(self, operation: Operation, location: str) -> list[_Rule]:
        with self._lock:
            self.calls[operation] += 1
            self.log.append((operation, location))
            number = self.calls[operation]
            due = [each for each in self._rules if each.operation == operation and each.first <= number <= each.last]
        _act([each for each in due if not each.late])
        return [each for each in due if each.late]


class _FaultyWriter(ObjectWriter):
    def __init__(self, backend: FaultyBackend, location: str, inner: ObjectWriter) -> None:
        self._backend = backend
        self._location = location
        self._inner = inner
        backend._writers.add(self)

    def write(self, data: Buffer, /) -> None:
        self._backend._run("write", self._location, lambda: self._inner.write(data))

    def commit(self) -> None:
        late = self._backend._count("commit", self._location)
        self._inner.commit()
        self._backend._writers.discard(self)
        _act(late)

    def abort(self) -> None:
        late = self._backend._count("abort", self._location)
        self._inner.abort()
        self._backend._writers.discard(self)
        _act(late)


class _FaultyResumableWriter(ResumableWriter):
    def __init__(self, backend: FaultyBackend, location: str, inner: ResumableWriter) -> None:
        self._backend = backend
        self._location = location
        self._inner = inner
        backend._writers.add(self)

    @property
    def offset(self) -> int:  # type: ignore[override] # the inner one's, always
        return self._inner.offset

    @property
    def state(self) -> str | None:
        return self._inner.state

    def write(self, data: Buffer, /) -> None:
        self._backend._run("write", self._location, lambda: self._inner.write(data))

    def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
        return self._backend._run("checkpoint", self._location, lambda: self._inner.checkpoint(ends=ends, last=last))

    def commit(self) -> None:
        self._inner.on_joined = self.on_joined
        self._backend._run("commit", self._location, self._inner.commit)
        self.stored_size = self._inner.stored_size

    @property
    def leftovers(self) -> Sequence[str]:
        return self._inner.leftovers

    def withdraw(self, *, refused: bool = False) -> None:
        late = self._backend._count("close", self._location)
        self._inner.withdraw(refused=refused)
        self._backend._writers.discard(self)
        _act(late)

    def close(self) -> None:
        late = self._backend._count("close", self._location)
        self._inner.close()
        self._backend._writers.discard(self)
        _act(late)


class _FaultyReader(ObjectReader):
    def __init__(self, backend: FaultyBackend, location: str, inner: ObjectReader) -> None:
        self.size = inner.size
        self._backend = backend
        self._location = location
        self._inner = inner
        backend._readers.add(self)

    def read(self, size: int = -1, /) -> bytes:
        return self._backend._run("read", self._location, lambda: self._inner.read(size))

    def close(self) -> None:
        late = self._backend._count("close", self._location)
        self._inner.close()
        self._backend._readers.discard(self)
        _act(late)


def _act(rules: list[_Rule]) -> None:
    for rule in rules:
        rule.act()
