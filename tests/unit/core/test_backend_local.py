"""What the conformance suite cannot ask of every backend: files, folders, links, disks."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from granite_core.backends.local import TEMPORARY_PREFIX, LocalStorageBackend
from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    InvalidKeyError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
)
from granite_core.gc.marker import MARKER_KEY

HOUR = timedelta(hours=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "root"


@pytest.fixture
def backend(root: Path) -> LocalStorageBackend:
    return LocalStorageBackend(root)


def files_below(root: Path) -> list[str]:
    return sorted(str(each.relative_to(root)) for each in root.rglob("*"))


def path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def break_call(monkeypatch: pytest.MonkeyPatch, name: str, error: int, at: int = 1) -> None:
    original, calls = getattr(os, name), iter(range(1, 1_000_000))

    def broken(*args: object, **kwargs: object) -> object:
        if next(calls) >= at:
            raise OSError(error, os.strerror(error))
        return original(*args, **kwargs)

    monkeypatch.setattr(os, name, broken)


class TestTheRoot:
    def test_nothing_is_touched_before_the_first_use(self, backend: LocalStorageBackend, root: Path) -> None:
        backend.open_writer("a/b").abort()
        assert not root.exists()

    def test_is_made_at_the_first_use(self, backend: LocalStorageBackend, root: Path) -> None:
        assert list(backend.list_objects()) == []
        assert root.is_dir()

    @pytest.mark.parametrize(
        "call",
        [
            lambda backend: backend.stat("a/b"),
            lambda backend: backend.open_reader("a/b"),
            lambda backend: backend.delete("a/b"),
            lambda backend: list(backend.list_objects()),
            lambda backend: list(backend.list_objects(prefix="a/")),
            lambda backend: backend.put_bytes("c", b""),
            lambda backend: backend.clear_unfinished(HOUR),
        ],
    )
    def test_that_vanished_is_no_empty_store(
        self, backend: LocalStorageBackend, root: Path, call: Callable[[LocalStorageBackend], object]
    ) -> None:
        backend.put_bytes("a/b", b"x")
        root.rename(root.with_name("elsewhere"))
        with pytest.raises(BackendUnavailableError):
            call(backend)
        assert not root.exists()

    def test_that_is_replaced_during_a_listing_ends_it_with_an_error(
        self, backend: LocalStorageBackend, root: Path
    ) -> None:
        for number in range(3):
            backend.put_bytes(f"a/{number}", b"x")
        listing = backend.list_objects()
        next(listing)
        root.rename(root.with_name("elsewhere"))
        root.mkdir()
        with pytest.raises(BackendUnavailableError, match="replaced"):
            list(listing)

    def test_whose_disk_was_unmounted_refuses_everything(self, backend: LocalStorageBackend, root: Path) -> None:
        backend.put_bytes("a", b"x")
        backend._device, backend._beneath = -1, str(root.parent)  # as if another device had been mounted there
        with pytest.raises(BackendUnavailableError, match="mounted"):
            backend.stat("a")

    def test_may_be_a_symbolic_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        backend = LocalStorageBackend(tmp_path / "link")
        backend.put_bytes("a/b", b"x")
        assert (tmp_path / "real/a/b").read_bytes() == b"x"
        assert backend.identity == LocalStorageBackend(tmp_path / "real").identity

    def test_that_is_a_file_is_an_error_and_no_absence(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(BackendError) as caught:
            LocalStorageBackend(tmp_path / "file").exists("a")
        assert not isinstance(caught.value, ObjectNotFoundError)

    def test_stays_where_it_was_when_the_process_moves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        backend = LocalStorageBackend("files")
        backend.put_bytes("a", b"x")
        monkeypatch.chdir("/")
        assert backend.get("a") == b"x"


class TestEscapes:
    @pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a/", "", "a\0b", "."])
    def test_by_the_key_are_refused(self, backend: LocalStorageBackend, key: str) -> None:
        for verb in (backend.stat, backend.open_reader, backend.open_writer, backend.delete, backend.local_path):
            with pytest.raises(InvalidKeyError):
                verb(key)

    @pytest.mark.parametrize("prefix", ["../", "../../etc/", "/", "/etc/", "./", "a/../"])
    def test_by_the_prefix_find_nothing(self, backend: LocalStorageBackend, prefix: str) -> None:
        backend.put_bytes("a/b", b"x")
        assert list(backend.list_objects(prefix=prefix)) == []

    @pytest.mark.parametrize("link", ["link", "a/link", "a/b/link"])
    @pytest.mark.parametrize("used", [False, True], ids=["at once", "later"])
    def test_through_a_linked_folder_are_refused(
        self, backend: LocalStorageBackend, root: Path, tmp_path: Path, link: str, used: bool
    ) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/secret").write_bytes(b"secret")
        if used:
            backend.put_bytes(f"{link}/secret", b"ours")
            (root / link / "secret").unlink()
            (root / link).rmdir()
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(tmp_path / "outside")
        for verb in (backend.stat, backend.open_reader, backend.delete, backend.local_path):
            with pytest.raises(BackendError, match="symbolic link"):
                verb(f"{link}/secret")
        with pytest.raises(BackendError, match="symbolic link"):
            backend.put_bytes(f"{link}/new", b"x")
        assert list(backend.list_objects()) == []
        assert files_below(tmp_path / "outside") == ["secret"]

    def test_through_a_linked_file_are_refused(self, backend: LocalStorageBackend, root: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        root.mkdir(parents=True)
        (root / "link").symlink_to(tmp_path / "secret")
        for verb in (backend.stat, backend.open_reader, backend.local_path):
            with pytest.raises(BackendError, match="symbolic link"):
                verb("link")
        with pytest.raises(ObjectExistsError):
            backend.put_bytes("link", b"x")
        assert list(backend.list_objects()) == []
        assert (tmp_path / "secret").read_bytes() == b"secret"


class TestWriting:
    def test_leaves_one_file_and_no_temporary_one(self, backend: LocalStorageBackend, root: Path) -> None:
        backend.put_bytes("a/b", b"x")
        assert files_below(root) == ["a", "a/b"]
        assert (root / "a/b").stat().st_nlink == 1

    def test_gives_files_and_folders_their_modes(self, root: Path) -> None:
        mask = os.umask(0)
        try:
            LocalStorageBackend(root, file_mode=0o600, folder_mode=0o700).put_bytes("a/b", b"x")
        finally:
            os.umask(mask)
        assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o600
        assert stat.S_IMODE((root / "a").stat().st_mode) == 0o700

    def test_syncs_the_file_before_its_name_and_every_new_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "root").mkdir()
        done: list[str] = []
        sync, link = os.fsync, os.link

        def watched_sync(descriptor: int) -> None:
            done.append(f"sync {path_of(descriptor).name}")
            sync(descriptor)

        def watched_link(*args: object, **kwargs: object) -> None:
            done.append("link")
            link(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "fsync", watched_sync)
        monkeypatch.setattr(os, "link", watched_link)
        backend = LocalStorageBackend(tmp_path / "root")
        backend.put_bytes("a/b/c", b"x")
        assert [each for each in done if ".granite" not in each] == ["sync root", "sync a", "link", "sync b"]
        assert done[2].startswith("sync .granite-tmp-")
        done.clear()
        LocalStorageBackend(tmp_path / "root", durable=False).put_bytes("d/e", b"x")
        assert done == ["link"]

    @pytest.mark.parametrize("call", ["open", "write", "fsync", "fstat", "lseek", "close", "link"])
    @pytest.mark.parametrize("at", range(1, 6))
    def test_that_fails_at_any_step_leaves_nothing(
        self, backend: LocalStorageBackend, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int
    ) -> None:
        backend.put_bytes("there", b"")
        with monkeypatch.context() as patch:
            original, calls = getattr(os, call), iter(range(1, 1000))

            def broken(*args: object, **kwargs: object) -> object:
                if next(calls) == at:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return original(*args, **kwargs)

            patch.setattr(os, call, broken)
            try:
                backend.put_bytes("a/b/c", b"xy")
            except StorageError:
                failed = True
            else:
                failed = False
        assert backend.exists("a/b/c") is not failed
        assert [each for each in files_below(root) if ".granite" in each] == []

    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            (errno.EACCES, AccessDeniedError),
            (errno.EPERM, AccessDeniedError),
            (errno.ENOSPC, StorageFullError),
            (errno.EDQUOT, StorageFullError),
            (errno.EFBIG, StorageFullError),
            (errno.EIO, BackendError),
            (errno.EROFS, BackendUnavailableError),
            (errno.EMFILE, BackendUnavailableError),
            (errno.ETIMEDOUT, BackendUnavailableError),
            (errno.ESTALE, BackendUnavailableError),
        ],
    )
    def test_names_what_the_system_refused(
        self, backend: LocalStorageBackend, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
    ) -> None:
        writer = backend.open_writer("a/b")
        break_call(monkeypatch, "write", number)
        with pytest.raises(expected) as caught:
            writer.write(b"x")
        assert type(caught.value) is expected
        assert isinstance(caught.value.__cause__, OSError)
        monkeypatch.undo()
        with pytest.raises(BackendError):
            writer.commit()
        assert not backend.exists("a/b")

    def test_below_another_object_is_an_error(self, backend: LocalStorageBackend) -> None:
        backend.put_bytes("a", b"x")
        with pytest.raises(BackendError):
            backend.put_bytes("a/b", b"y")
        assert not backend.exists("a/b")
        assert backend.get("a") == b"x"

    def test_notices_a_file_that_lost_bytes(self, backend: LocalStorageBackend, root: Path) -> None:
        writer = backend.open_writer("a")
        writer.write(b"12345")
        os.truncate(next(root.iterdir()), 3)
        with pytest.raises(BackendError, match="3 bytes"):
            writer.commit()
        assert files_below(root) == []

    def test_takes_a_link_that_was_made_twice_for_its_own(
        self, backend: LocalStorageBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = os.link

        def twice(*args: object, **kwargs: object) -> None:
            link(*args, **kwargs)  # type: ignore[arg-type]
            link(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "link", twice)
        backend.put_bytes("a", b"x")
        assert backend.get("a") == b"x"

    def test_survives_deletes_that_prune_its_folder(self, root: Path) -> None:
        backend = LocalStorageBackend(root, durable=False)
        failures: list[BaseException] = []

        def work(name: str) -> None:
            try:
                for number in range(300):
                    key = f"a/b/{name}{number}"
                    backend.put_bytes(key, b"x")
                    backend.delete(key)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in "xyz"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert files_below(root) == []

    def test_leaks_no_descriptor(self, backend: LocalStorageBackend) -> None:
        backend.put_bytes("a/b", b"x" * 100)
        before = open_descriptors()
        for number in range(5):
            backend.put_bytes(f"c/{number}", b"x")
            backend.get("a/b")
            backend.copy("a/b", f"d/{number}")
            with pytest.raises(ObjectExistsError):
                backend.put_bytes("a/b", b"y")
            with pytest.raises(ObjectNotFoundError):
                backend.open_reader("a/absent")
            with pytest.raises(ObjectNotFoundError):
                backend.open_reader("a")
            list(backend.list_objects())
            next(backend.list_objects())
        assert open_descriptors() == before


class TestDeleting:
    def test_prunes_the_folders_that_it_leaves_empty(self, backend: LocalStorageBackend, root: Path) -> None:
        backend.put_bytes("a/b/c/d", b"x")
        backend.put_bytes("a/e", b"x")
        backend.delete("a/b/c/d")
        assert files_below(root) == ["a", "a/e"]
        backend.delete("a/e")
        assert files_below(root) == []

    def test_keeps_a_folder_in_which_someone_writes(self, backend: LocalStorageBackend) -> None:
        backend.put_bytes("a/b", b"x")
        with backend.open_writer("a/c") as writer:
            writer.write(b"y")
            backend.delete("a/b")
            writer.commit()
        assert backend.get("a/c") == b"y"


class TestListing:
    def test_skips_links_pipes_and_names_that_are_no_keys(self, backend: LocalStorageBackend, root: Path) -> None:
        backend.put_bytes("a/b", b"x")
        (root / "a/link").symlink_to(root / "a/b")
        os.mkfifo(root / "a/pipe")
        (root / "a/back\\slash").write_bytes(b"")
        (root / "a/tab\t").write_bytes(b"")
        (root / ("a/" + "l" * 201)).write_bytes(b"")
        Path(os.fsdecode(os.fsencode(root) + b"/a/\xff\xfe")).write_bytes(b"")
        assert list(backend.iter_locations()) == ["a/b"]
        with pytest.raises(ObjectNotFoundError):
            backend.open_reader("a/pipe")

    def test_enters_only_folders_that_can_hold_a_key_wanted(
        self, backend: LocalStorageBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for first in "abc":
            for second in "xyz":
                backend.put_bytes(f"{first}/{second}/1", b"")
        scanned = []
        scan = os.scandir
        monkeypatch.setattr(os, "scandir", lambda fd: scanned.append(str(path_of(fd))[-3:]) or scan(fd))
        assert list(backend.iter_locations("b/y")) == ["b/y/1"]
        assert scanned == ["t/b", "b/y"]
        scanned.clear()
        found = [each.location for each in backend.list_objects(start_after="c/x/1")]
        assert found == ["c/y/1", "c/z/1"]
        assert scanned == ["oot", "t/c", "c/x", "c/y", "c/z"]

    def test_that_cannot_read_a_folder_does_not_end_in_silence(
        self, backend: LocalStorageBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend.put_bytes("a/b", b"x")
        break_call(monkeypatch, "scandir", errno.EACCES, at=2)
        with pytest.raises(AccessDeniedError):
            list(backend.list_objects())


class TestUnfinished:
    def test_files_beside_names_of_our_own_are_cleared_too(self, backend: LocalStorageBackend, root: Path) -> None:
        backend.put_bytes(MARKER_KEY, b"whose store this is")
        left = (root / MARKER_KEY).with_name(f"{TEMPORARY_PREFIX}0123")
        left.write_bytes(b"half")
        os.utime(left, (1, 1))
        assert backend.clear_unfinished(HOUR) == 1
        assert not left.exists()
        assert backend.get(MARKER_KEY) == b"whose store this is"

    def test_files_are_cleared_when_they_are_old(self, backend: LocalStorageBackend, root: Path) -> None:
        backend.put_bytes("a/kept", b"x")
        dead, alive = backend.open_writer("a/dead/1"), backend.open_writer("a/alive")
        for writer in (dead, alive):
            writer.write(b"y")
        temporary = next((root / "a/dead").iterdir())
        os.utime(temporary, (1, 1))
        assert backend.clear_unfinished(HOUR) == 1
        assert not (root / "a/dead").exists()
        alive.commit()
        assert list(backend.iter_locations()) == ["a/alive", "a/kept"]
        with pytest.raises(BackendError):
            dead.commit()


def test_a_file_that_shrinks_under_a_reader_is_an_error_and_no_end(backend: LocalStorageBackend, root: Path) -> None:
    backend.put_bytes("a", b"12345")
    with backend.open_reader("a") as reader:
        assert reader.read(2) == b"12"
        os.truncate(root / "a", 3)
        with pytest.raises(BackendError, match="shorter"):
            reader.read(3)


def test_a_file_that_shrinks_under_an_open_file_is_an_error_and_no_end(
    backend: LocalStorageBackend, root: Path
) -> None:
    backend.put_bytes("a", b"12345")
    with backend.open("a") as file:
        os.truncate(root / "a", 3)
        with pytest.raises(BackendError, match="shorter"):
            file.read()


class TestSeveralGoes:
    def test_one_that_sleeps_before_its_first_byte_does_not_touch_what_came_since(
        self, backend: LocalStorageBackend, root: Path
    ) -> None:
        sleeper = backend.resume_writer("a/b")
        state = sleeper.state
        with backend.resume_writer("a/b", state=state) as writer:
            writer.write(b"B" * 1000)
            state = writer.checkpoint()
        sleeper.write(b"A" * 2000)
        sleeper.close()
        with backend.resume_writer("a/b", offset=1000, state=state) as writer:
            writer.checkpoint(last=True)
            writer.commit()
        assert backend.get("a/b") == b"B" * 1000
        assert files_below(root) == ["a", "a/b"]

    @pytest.mark.parametrize("died", ["before it could record anything more", "without a byte"])
    def test_what_a_sleeper_has_locked_stays_good_until_its_copy_is_recorded(
        self, backend: LocalStorageBackend, died: str
    ) -> None:
        sleeper = backend.resume_writer("a/b")
        sleeper.write(b"x" * 1000)
        kept = sleeper.checkpoint()
        cut = backend.resume_writer("a/b", offset=1000, state=kept)
        state = cut.checkpoint(ends=True) if died == "without a byte" else cut.state
        cut.close()
        with backend.resume_writer("a/b", offset=1000, state=state) as writer:
            writer.write(b"y" * 10)
            state = writer.checkpoint()
        sleeper.write(b"z" * 1000)
        sleeper.close()
        with backend.resume_writer("a/b", offset=1010, state=state) as writer:
            writer.checkpoint(last=True)
            writer.commit()
        assert backend.get("a/b") == b"x" * 1000 + b"y" * 10
