"""Disks that are full, read-only, out of descriptors, broken, or gone: what an application and its users see of it.

The file systems are real where this user may mount them. What the kernel says there is said by a stand-in too, at
every call in turn, in `test_deaths.py` and below, so that the laws are tried where nobody may mount.
"""

from __future__ import annotations

import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import create_engine, insert

from granite_core import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    CollectionRefusedError,
    LocalStorageBackend,
    StorageFullError,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.backends import local
from granite_core.backends.local import TEMPORARY_PREFIX
from granite_core.gc import Collector, GCConfig
from granite_core.gc.marker import MARKER_KEY
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, tables_of
from tests.faults.disks import Disk
from tests.faults.steps import Death, FileSystem, How, Steps
from tests.faults.world import Base, Document

KIB: Final = 1024
DAY: Final = timedelta(days=1)


class Service:
    """A process of an application whose files are on a disk, and whose rows are elsewhere."""

    def __init__(self, root: Path, database: Path) -> None:
        self.backend = LocalStorageBackend(root)
        self.manager = StorageManager({"main": self.backend}, [StoragePolicy("files", "main")])
        self.engine = create_engine(f"sqlite:///{database}")
        Base.metadata.create_all(self.engine)
        self.collector = Collector(
            self.manager, SQLAlchemyLedger([self.engine], Base.metadata), GCConfig(always_allowed=10**6)
        )

    def put(self, content: bytes = b"content") -> StoredObjectRef:
        return self.manager.put_bytes("files", content=content)

    def attach(self, ref: StoredObjectRef) -> None:
        """A committed row that holds a file."""
        with self.engine.begin() as connection:
            connection.execute(insert(Document).values(title=ref.location, file=ref, pages=[]))

    def let_go(self, *locations: str) -> None:
        """As if rows had let these objects go long ago."""
        tables: Any = tables_of(Base.metadata)
        with self.engine.begin() as connection:
            for each in locations:
                row = {"location": each, "backend": "main", "storage_key": "files", "written_at": 1}
                connection.execute(tables.tombstone.insert().values(row))

    def waiting(self) -> int:
        tables: Any = tables_of(Base.metadata)
        with self.engine.begin() as connection:
            connection.execute(tables.tombstone.update().values(retry_at=0))
            return len(connection.execute(tables.tombstone.select()).all())


VERBS: Final[dict[str, Callable[[Service, StoredObjectRef], object]]] = {
    "put_bytes": lambda service, ref: service.put(bytes(300 * KIB)),
    "put_stream": lambda service, ref: service.manager.put_stream("files", stream=io.BytesIO(bytes(300 * KIB))),
    "copy": lambda service, ref: service.manager.copy(ref),
    "writer": lambda service, ref: _write(service.backend, bytes(300 * KIB)),
}
"""What takes room."""

LOOKS: Final[dict[str, Callable[[Service, StoredObjectRef], object]]] = {
    "get": lambda service, ref: service.manager.get(ref),
    "open": lambda service, ref: service.manager.open(ref).read(),
    "stat": lambda service, ref: service.manager.stat(ref),
    "exists": lambda service, ref: service.manager.exists(ref),
    "verify": lambda service, ref: service.manager.verify(ref),
    "list": lambda service, ref: list(service.backend.list_objects()),
    "delete": lambda service, ref: service.manager.delete(ref),
    "clear": lambda service, ref: service.backend.clear_unfinished(DAY),
}
"""What takes none."""


def _write(backend: LocalStorageBackend, content: bytes) -> None:
    with backend.open_writer("files/written") as writer:
        writer.write(content)
        writer.commit()


@pytest.fixture
def service(disk: Disk, tmp_path: Path) -> Service:
    return Service(disk.root, tmp_path / "db.sqlite3")


class TestAFullDisk:
    @pytest.mark.parametrize("verb", VERBS)
    @pytest.mark.parametrize("leave", [0, 200 * KIB])
    def test_refuses_what_takes_room_and_keeps_nothing_of_it(
        self, disk: Disk, service: Service, verb: str, leave: int
    ) -> None:
        ref = service.put(bytes(300 * KIB))
        filler = disk.fill(leave=leave)
        before = disk.files()
        with pytest.raises(StorageFullError) as caught:
            VERBS[verb](service, ref)
        assert caught.value.backend == "file"
        assert isinstance(caught.value.__cause__, OSError)
        assert disk.files() == before
        filler.unlink()
        VERBS[verb](service, ref)

    def test_still_gives_lists_and_deletes(self, disk: Disk, service: Service) -> None:
        refs = [service.put(bytes(100 * KIB)) for _ in range(len(LOOKS))]
        disk.fill()
        for look, ref in zip(LOOKS.values(), refs, strict=True):
            look(service, ref)
        assert len(list(service.backend.list_objects())) == len(LOOKS) - 1
        service.put(b"room again")

    @pytest.mark.parametrize("known", [True, False], ids=["marked", "new"])
    def test_is_emptied_by_the_sweep(self, disk: Disk, service: Service, known: bool) -> None:
        """Also where the collector, never asked before, has no room for its own mark."""
        gone = service.put(bytes(300 * KIB))
        if known:
            service.collector.sweep()
        service.let_go(gone.location)
        disk.fill()
        assert service.collector.reconcile().backends[0].released
        report = service.collector.sweep()
        assert (report.deleted, report.failed) == (1, 0)
        service.collector.sweep()
        assert service.backend.exists(MARKER_KEY)

    @pytest.mark.parametrize("disk", ["size=1m,nr_inodes=40"], indirect=True)
    def test_without_inodes_refuses_and_leaves_no_folder(self, disk: Disk, service: Service) -> None:
        service.put()
        filler = disk.fill_inodes()
        for left in range(4):  # how far the new folders get
            before = disk.files()
            with pytest.raises(StorageFullError):
                service.backend.put_bytes("a/b/c/d", b"x")
            assert disk.files() == before
            (filler / str(left)).unlink()
        (filler / "4").unlink()
        service.backend.put_bytes("a/b/c/d", b"x")


class TestAReadOnlyDisk:
    @pytest.mark.parametrize("verb", [*VERBS, "delete"])
    def test_refuses_changes_until_it_is_none_any_more(self, disk: Disk, service: Service, verb: str) -> None:
        ref = service.put()
        disk.set_read_only(read_only=True)
        change = {**VERBS, **LOOKS}[verb]
        before = disk.files()
        with pytest.raises(BackendUnavailableError, match="Read-only"):
            change(service, ref)
        assert disk.files() == before
        disk.set_read_only(read_only=False)
        change(service, ref)

    def test_still_gives_and_lists(self, disk: Disk, service: Service) -> None:
        ref = service.put()
        disk.set_read_only(read_only=True)
        for name in set(LOOKS) - {"delete"}:
            LOOKS[name](service, ref)

    def test_keeps_the_sweeps_work_for_later(self, disk: Disk, service: Service) -> None:
        gone = service.put()
        service.collector.sweep()
        service.let_go(gone.location)
        disk.set_read_only(read_only=True)
        report = service.collector.sweep()
        assert (report.deleted, report.failed, service.waiting()) == (0, 1, 1)
        disk.set_read_only(read_only=False)
        assert service.collector.sweep().deleted == 1


class TestADiskThatIsGone:
    """What is beneath the mount point is an empty folder: no store, and no place for files."""

    @pytest.mark.parametrize("verb", [*VERBS, *LOOKS])
    def test_is_no_empty_store(self, disk: Disk, service: Service, verb: str) -> None:
        ref = service.put()
        call = {**VERBS, **LOOKS}[verb]
        disk.remove()
        with pytest.raises(BackendUnavailableError):
            call(service, ref)
        assert list(disk.root.iterdir()) == []
        disk.insert()
        call(service, ref)

    @pytest.mark.parametrize("below", ["", "files"], ids=["at the mount point", "below it"])
    def test_may_come_back_as_another_device(self, disk: Disk, tmp_path: Path, below: str) -> None:
        service = Service(disk.root / below, tmp_path / "db.sqlite3")
        ref = service.put()
        disk.remove()
        (disk.root / below).mkdir(exist_ok=True)  # as an earlier accident may have left it
        with pytest.raises(BackendUnavailableError):
            service.manager.get(ref)
        disk.insert_as_another_device()
        assert service.manager.get(ref) == b"content"
        service.put()

    @pytest.mark.parametrize("new_process", [False, True], ids=["under a process", "before a process"])
    def test_makes_nobody_believe_that_objects_are_gone(
        self, disk: Disk, service: Service, tmp_path: Path, new_process: bool
    ) -> None:
        ref = service.put()
        service.attach(ref)
        gone = service.put()
        service.let_go(gone.location)
        service.collector.reconcile()
        disk.remove()
        if new_process:
            service = Service(disk.root, tmp_path / "db.sqlite3")
        for run in (service.collector.sweep, service.collector.reconcile, service.collector.verify):
            if new_process:
                with pytest.raises(CollectionRefusedError, match="mark is gone"):
                    run()
            elif run == service.collector.verify:
                with pytest.raises(BackendUnavailableError):
                    run()
            else:
                assert run().problems
        assert service.waiting() == 1
        assert list(disk.root.iterdir()) == []
        disk.insert()
        assert service.collector.verify().found == {}
        assert service.collector.reconcile().backends[0].released
        assert service.collector.sweep().deleted == 1
        assert service.manager.get(ref) == b"content"

    def test_is_not_made_up_for_where_the_root_must_be_there(self, disk: Disk) -> None:
        backend = LocalStorageBackend(disk.root / "files", make_root=False)
        with pytest.raises(BackendUnavailableError, match="not there"):
            backend.put_bytes("a", b"x")
        assert list(disk.root.iterdir()) == []
        (disk.root / "files").mkdir()
        backend.put_bytes("a", b"x")


class TestADiskWithinAStore:
    """One folder of a store may be a disk of its own."""

    @pytest.mark.parametrize("verb", [*VERBS, *LOOKS])
    def test_is_used_like_the_rest(self, disk: Disk, tmp_path: Path, verb: str) -> None:
        service = Service(disk.root.parent, tmp_path / "db.sqlite3")
        policy = StoragePolicy("files", "main", key_prefix=disk.root.name)
        service.manager = StorageManager({"main": service.backend}, [policy])
        ref = service.put()
        assert disk.files() > {ref.location.removeprefix(f"{disk.root.name}/")}
        {**VERBS, **LOOKS}[verb](service, ref)
        assert service.backend.exists(ref.location) is (verb != "delete")


SAID: Final = {
    errno.ENOSPC: StorageFullError,
    errno.EDQUOT: StorageFullError,
    errno.EROFS: BackendUnavailableError,
    errno.EMFILE: BackendUnavailableError,
    errno.EIO: BackendError,
    errno.EACCES: AccessDeniedError,
}
"""What the kernel may say, and what Granite makes of it."""


class TestAKernelThatSaysNo:
    """At every call in turn, by a stand-in: for those who may not mount, and for what no mount can be made to say."""

    @pytest.mark.parametrize("how", ["fault", "outage"])
    @pytest.mark.parametrize("number", SAID, ids=errno.errorcode.get)
    @pytest.mark.parametrize("verb", VERBS)
    def test_is_understood_and_leaves_nothing(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        verb: str,
        number: int,
        how: How,
        record_property: Callable[[str, object], None],
    ) -> None:
        root, steps = tmp_path / "files", Steps()
        service = Service(root, tmp_path / "db.sqlite3")
        ref = service.put()
        monkeypatch.setattr(local, "os", FileSystem(steps, number))
        with steps.counting():
            VERBS[verb](service, ref)
        _forget(service, ref)
        for at, name in enumerate(steps.moments if how == "fault" else steps.steps, 1):
            raised: BaseException | None = None
            try:
                with steps.counting(Death(at, how)):
                    VERBS[verb](service, ref)
            except BackendError as error:
                raised = error
            assert _open_below(root) == []
            assert raised is None or type(raised) is SAID[number]
            if raised is not None and how == "fault":  # an outage also keeps it from tidying up
                assert _files_below(root) == {ref.location}
            elif "unlink" not in name and how == "fault":
                assert not [each for each in _files_below(root) if TEMPORARY_PREFIX in each]
            service.backend.clear_unfinished(-DAY)
            _forget(service, ref)
            assert _files_below(root) == {ref.location}
            record_property("counted", f"Bad disks, said by a stand-in|1|{how}s")
        VERBS[verb](service, ref)


class TestNoDescriptorsLeft:
    @pytest.mark.parametrize("verb", [*VERBS, *LOOKS])
    def test_is_an_outage_that_passes(
        self, tmp_path: Path, verb: str, record_property: Callable[[str, object], None]
    ) -> None:
        service = Service(tmp_path / "files", tmp_path / "db.sqlite3")
        call, ref, failed = {**VERBS, **LOOKS}[verb], service.put(), 0
        before = _everything_below(tmp_path / "files")
        for free in range(12):
            with _descriptors_left(free):
                try:
                    call(service, ref)
                    break
                except BackendUnavailableError:
                    failed += 1
            assert _everything_below(tmp_path / "files") == before
            assert _open_below(tmp_path / "files") == []
        assert 0 < failed < 11
        record_property("counted", f"Bad disks, no descriptors left|{failed}|refusals")
        assert _open_below(tmp_path / "files") == []


def test_a_file_larger_than_there_can_be_is_refused(tmp_path: Path) -> None:
    service = Service(tmp_path / "files", tmp_path / "db.sqlite3")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ref = service.put()
    before = _everything_below(tmp_path / "files")
    for verb in set(VERBS) - {"copy"}:
        resource.setrlimit(resource.RLIMIT_FSIZE, (128 * KIB, hard))
        try:
            with pytest.raises(StorageFullError, match="File too large"):
                VERBS[verb](service, ref)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert _everything_below(tmp_path / "files") == before
        VERBS[verb](service, ref)
        _forget(service, ref)


def _everything_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def _files_below(root: Path) -> set[str]:
    return {each for each in _everything_below(root) if (root / each).is_file()}


def _forget(service: Service, ref: StoredObjectRef) -> None:
    """Delete all but one object."""
    for each in [each.location for each in service.backend.list_objects()]:
        if each != ref.location:
            service.backend.delete(each)


def _open_below(root: Path) -> list[str]:
    """What this process has open there."""
    links = [os.readlink(each.path) for each in os.scandir("/proc/self/fd") if os.path.lexists(each.path)]
    return [each for each in links if each.startswith(str(root))]


@contextmanager
def _descriptors_left(free: int) -> Iterator[None]:
    """Let this process open so many more files, and no other one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 64, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
