"""The verification: holds every row against its object, and every object against the rows. Changes nothing."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from granite_core._chunks import chunks
from granite_core.backends.base import ObjectStat
from granite_core.errors import (
    BackendError,
    BackendUnavailableError,
    ChecksumMismatchError,
    ConfigurationError,
    ObjectNotFoundError,
)
from granite_core.gc._pace import Pace
from granite_core.gc._run import Run, next_page
from granite_core.gc.marker import MARKER_KEY, mark_name, read_marker
from granite_core.gc.plan import check_marker, check_overlaps, distinct_backends
from granite_core.gc.ports import FileColumn, LedgerBusyError, RefRow
from granite_core.gc.reports import Discrepancy, DiscrepancyKind, Problem, StoreCount, VerifyReport
from granite_core.refs import StoredObjectRef

if TYPE_CHECKING:
    from granite_core.gc.collector import Collector

__all__ = ["Verify", "VerifyOptions"]

KEPT: Final = 50
"""So many discrepancies are named; the others are counted."""
PAGE_WITH_CHECKSUMS: Final = 64
"""Rows after which the position is kept, where every object is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What is verified, and how fast. ``page_size``, ``rate_limit`` and ``time_budget`` are those of ``GCConfig``.

    Args:
        checksums: Read every object and compare its SHA-256; without, only whether it is there, and its size.
        storage_key: Files of this policy only.
        backend_key: Files in this backend only.
        stores: Go the way back too: list the backends and count what no row holds.
        workers: How many objects are looked at at a time; each takes up to 1 MiB of memory while it is read.
        byte_rate: Bytes per second that are read at most; None for no limit.
        restart: Begin anew, whatever was left unfinished.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    checksums: bool = False
    storage_key: str | None = None
    backend_key: str | None = None
    stores: bool = True
    workers: int = 8
    byte_rate: float | None = None
    restart: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigurationError("a verification needs at least one worker", value=self.workers)
        if self.byte_rate is not None and self.byte_rate <= 0:
            raise ConfigurationError("byte_rate must be more than nothing", value=self.byte_rate)

    @property
    def name(self) -> str:
        """Under what the position is kept: a run goes on with one of the same kind only."""
        kind = repr((self.checksums, self.storage_key, self.backend_key, self.stores))
        return f"verify:{hashlib.sha256(kind.encode()).hexdigest()[:32]}"


@dataclass(slots=True)
class Position:
    """Where a verification stands, and what it has found. Goes through JSON.

    Args:
        part: The column or backend it is at; empty before the first.
        after: Where in there.
        done: The parts it is through with.
    """

    part: str = ""
    after: str | None = None
    done: list[str] = field(default_factory=list)
    rows: int = 0
    refs: int = 0
    bytes: int = 0
    read: int = 0
    without_checksum: int = 0
    found: dict[str, int] = field(default_factory=dict)
    discrepancies: list[Discrepancy] = field(default_factory=list)
    stores: dict[str, StoreCount] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Position:
        """Read what ``to_json`` wrote."""
        data = json.loads(text)
        data["discrepancies"] = [
            Discrepancy(**{**each, "kind": DiscrepancyKind(each["kind"])}) for each in data["discrepancies"]
        ]
        data["stores"] = {key: StoreCount(**each) for key, each in data["stores"].items()}
        return cls(**data)

    def to_json(self) -> str:
        """Return the form that is kept."""
        return json.dumps(asdict(self))

    def add(self, discrepancy: Discrepancy) -> None:
        """Count a discrepancy, and keep it if it is one of the first."""
        self.found[discrepancy.kind.value] = self.found.get(discrepancy.kind.value, 0) + 1
        if len(self.discrepancies) < KEPT:
            self.discrepancies.append(discrepancy)


class _Task(msgspec.Struct, frozen=True):
    """One ref of one row."""

    column: FileColumn
    row: RefRow
    ref: StoredObjectRef
    backend: str

    def differs(self, kind: DiscrepancyKind, message: str) -> Discrepancy:
        return Discrepancy(kind, str(self.column), self.row.key, self.backend, self.ref.location, message)


class _Result(msgspec.Struct, frozen=True):
    """What became of a task."""

    task: _Task
    read: int = 0
    discrepancy: Discrepancy | None = None
    away: bool = False


class _StoppedError(Exception):
    """The run was told to end in the middle of an object."""


class Verify(Run):
    """One verification."""

    lease = "lease:verify"
    kind = "verify"

    def __init__(self, collector: Collector, options: VerifyOptions, stop: threading.Event) -> None:
        super().__init__(collector, False, stop)  # noqa: FBT003 - a run that is no dry run: it keeps its position
        if options.storage_key is not None:
            collector.manager.get_policy(options.storage_key)
        if options.backend_key is not None:
            collector.manager.get_backend(options.backend_key)
        self.options = options
        self.pool: Executor
        self.position = Position()
        self.resumed = False
        self.bytes = Pace(options.byte_rate, stop)

    def run(self) -> VerifyReport:
        try:
            skipped = self.prepare()
        except LedgerBusyError as busy:
            return self.report(str(busy))
        if skipped is not None:
            return self.report(skipped)
        try:
            self.load()
            with ThreadPoolExecutor(self.options.workers, thread_name_prefix="granite-verify") as self.pool:
                self.go_through()
        except LedgerBusyError as busy:
            self.stopped = True
            return self.report(str(busy))
        finally:
            self.end()
        return self.report(None)

    def prepare(self) -> str | None:
        """Look whether all rows can be seen, then take the lease. Whose store it is does not matter here."""
        self.ledger.check()
        self.backends = self.manager.backends
        identities = {key: backend.identity for key, backend in self.backends.items()}
        if self.options.stores:
            check_overlaps(identities)
        self.places = distinct_backends(identities)
        self.check_marks()
        if self._needs_lease and (winner := self._wait_for_lease()) is not None:
            return f"the lease is held by {winner}"
        return None

    def check_marks(self) -> None:
        """Refuse a store that has lost our mark: all would be missing. What cannot be asked is told of one by one."""
        remembered = self.ledger.states()
        for key, aliases in self.places.items():
            backend = self.backends[key]
            looked_at = self.options.backend_key is None or self.options.backend_key in aliases
            if looked_at and mark_name(backend) in remembered:
                with suppress(BackendError):
                    found = self.ledger.call(backend, read_marker, backend)
                    check_marker(key, found, found, marked=True)

    def report(self, skipped: str | None) -> VerifyReport:
        at = self.position
        return VerifyReport(
            checksums=self.options.checksums,
            rows=at.rows,
            refs=at.refs,
            bytes=at.bytes,
            read=at.read,
            without_checksum=at.without_checksum,
            found=dict(sorted(at.found.items())),
            discrepancies=tuple(at.discrepancies),
            stores=tuple(at.stores.values()),
            problems=tuple(self.problems),
            skipped=skipped,
            resumed=self.resumed,
            stopped=self.stopped,
            seconds=self.seconds,
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    # -- where it stands -----------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Go on where the last run of this kind stopped."""
        state = self.ledger.states().get(self.options.name)
        if state is not None and state.data and not self.options.restart:
            self.position = Position.from_json(state.data)
            self.resumed = True

    def save(self) -> None:
        """Keep the position; it is committed with every page."""
        self.ledger.record(self.options.name, self.position.to_json())

    def go_through(self) -> None:
        """Take part after part: every column, then every backend."""
        for name, part in self.parts():
            if name in self.position.done:
                continue
            if self.position.part != name:
                self.position.part, self.position.after = name, None
            if not part():
                self.stopped = True
                return
            self.position.done.append(name)
            self.save()
        self.ledger.record(self.options.name, "")

    def parts(self) -> Iterator[tuple[str, Callable[[], bool]]]:
        """Yield the name of each part, and what goes through it and says whether it reached the end."""
        for column in self.ledger.columns():
            yield f"column:{column.database}:{column}", partial(self.verify_column, column)
        for key, aliases in self.places.items() if self.options.stores else ():
            if self.options.backend_key is None or self.options.backend_key in aliases:
                yield f"backend:{key}", partial(self.count_store, key)

    def after_page(self, objects: int, began: float) -> bool:
        """Keep the position; whether to go on."""
        self.save()
        if self.is_over_time():
            return False
        self.pace(objects, time.monotonic() - began)
        return True

    # -- rows to objects -----------------------------------------------------------------------------------------------

    def verify_column(self, column: FileColumn) -> bool:
        """Hold every row of a column against its objects; whether the end was reached."""
        limit = min(self.config.page_size, PAGE_WITH_CHECKSUMS) if self.options.checksums else self.config.page_size
        looked_at = 0
        while not self.must_stop():
            began = time.monotonic()
            try:
                page = self.ledger.refs(column, after=self.position.after, limit=limit)
            except ConfigurationError as error:
                self.problems.append(Problem("", None, str(error)))
                return True
            tasks = [task for row in page.rows for task in self.tasks(column, row)]
            results = self.examine(tasks)
            if results is None:
                return False
            self.take_in(column, page.rows, results)
            self.position.after = page.after
            looked_at += len(tasks)
            self.tell(str(column), looked_at, sum(self.position.found.values()), self.position.read)
            if page.after is None:
                return True
            if not self.after_page(len(tasks), began):
                break
        return False

    def tasks(self, column: FileColumn, row: RefRow) -> Iterator[_Task]:
        """Yield what is to be looked at of a row."""
        options = self.options
        places = next((a for a in self.places.values() if options.backend_key in a), ())
        for ref in row.refs:
            backend = self.manager.backend_key_of(ref.backend, ref.storage_key, ref.location)
            if options.storage_key not in (None, ref.storage_key):
                continue
            if options.backend_key is not None and backend not in places:
                continue
            yield _Task(column, row, ref, backend)

    def examine(self, tasks: Sequence[_Task]) -> list[_Result] | None:
        """Look at objects, some at a time; None when told to stop meanwhile.

        Raises:
            BackendUnavailableError: It was not one object that could not be had: the backend itself is away.
        """
        results: list[_Result] = []
        # Few at a time where they are read: the lease is renewed between them.
        for some in chunks(tasks, self.options.workers * 2 if self.options.checksums else len(tasks) or 1):
            try:
                results += self.ledger.call(None, self.examine_at_once, some)
            except _StoppedError:
                self.stopped = True
            if self.must_stop() and len(results) < len(tasks):
                return None
            for key in {each.task.backend for each in results[-len(some) :] if each.away}:
                self.ledger.call(self.backends[key], self.backends[key].exists, MARKER_KEY)
        return results

    def examine_at_once(self, tasks: Sequence[_Task]) -> list[_Result]:
        """Look at objects in threads of our own."""
        return list(self.pool.map(self.look_at, tasks))

    def look_at(self, task: _Task) -> _Result:
        """Hold one object against its ref."""
        if task.backend not in self.backends:
            why = f"there is no backend {task.backend!r}"
            return _Result(task, discrepancy=task.differs(DiscrepancyKind.NO_BACKEND, why))
        read = 0

        def on_read(size: int) -> None:
            nonlocal read
            read += size
            if self.stop.is_set():
                raise _StoppedError
            self.bytes.spend(size)

        try:
            if self.options.checksums:
                self.manager.verify(task.ref, on_read=on_read)
                return _Result(task, read)
            size = self.manager.stat(task.ref).size
        except ObjectNotFoundError:
            return _Result(task, read, task.differs(DiscrepancyKind.MISSING, "there is no such object"))
        except ChecksumMismatchError as error:
            if not isinstance(error.value, int):
                why = f"its SHA-256 is {error.value}, the row says {task.ref.checksum}"
                return _Result(task, read, task.differs(DiscrepancyKind.CHECKSUM, why))
            size = error.value
        except BackendError as error:
            away = isinstance(error, BackendUnavailableError)
            return _Result(task, read, task.differs(DiscrepancyKind.UNREADABLE, str(error)), away)
        if size != task.ref.size:
            why = f"it has {size} bytes, the row says {task.ref.size}"
            return _Result(task, read, task.differs(DiscrepancyKind.SIZE, why))
        return _Result(task, read)

    def take_in(self, column: FileColumn, rows: Sequence[RefRow], results: Sequence[_Result]) -> None:
        """Count a page. What seems wrong is looked up again: the row may have let it go meanwhile."""
        at = self.position
        at.rows += len(rows)
        for row in rows:
            if row.error is not None:
                at.add(Discrepancy(DiscrepancyKind.UNDECODABLE, str(column), row.key, "", "", row.error))
        suspects = {each.task.ref.location for each in results if each.discrepancy is not None}
        held = self.ledger.look(suspects, grace=self.grace).held if suspects else frozenset()
        for each in results:
            ref = each.task.ref
            at.refs += 1
            at.bytes += ref.size
            at.read += each.read
            at.without_checksum += self.options.checksums and not ref.checksum
            if each.discrepancy is not None and ref.location in held:
                at.add(each.discrepancy)

    # -- and back ------------------------------------------------------------------------------------------------------

    def count_store(self, key: str) -> bool:
        """Count what a backend's listing shows, by who holds it; whether the end was reached."""
        backend, at = self.backends[key], self.position
        count = at.stores.get(key, StoreCount(key))
        listing = backend.list_objects(start_after=at.after)
        while not self.must_stop():
            began = time.monotonic()
            page, at_end = self.ledger.call(backend, next_page, listing, self.config.page_size)
            if page:
                count = at.stores[key] = self.counted(count, page)
                at.after = page[-1].location
                self.tell(key, count.objects, count.nobodys, count.bytes)
            if at_end:
                at.stores[key] = count
                return True
            if not self.after_page(len(page), began):
                break
        return False

    def counted(self, count: StoreCount, page: Sequence[ObjectStat]) -> StoreCount:
        """Add a page to what was counted."""
        locations = [each.location for each in page]
        held = self.held_elsewhere(locations)
        look = self.ledger.look(locations, grace=self.grace)
        held |= look.held
        waiting = {each.location for each in look.tombstones} - held
        nobodys = [each for each in page if each.location not in held and each.location not in waiting]
        return replace(
            count,
            objects=count.objects + len(page),
            bytes=count.bytes + sum(each.known_size for each in page),
            held=count.held + len(held),
            waiting=count.waiting + len(waiting),
            nobodys=count.nobodys + len(nobodys),
            nobodys_bytes=count.nobodys_bytes + sum(each.known_size for each in nobodys),
        )
