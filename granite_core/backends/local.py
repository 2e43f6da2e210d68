"""Objects as files below one folder of a POSIX file system.

What is written becomes visible in one step and never overwrites: a temporary file beside the final name, checked,
synced, then hard-linked to that name. Paths are walked folder by folder with directory descriptors and without
following symbolic links, so that no key and no link inside the root leads out of it (the root itself may be a link).
The file system must know hard links; ``a`` and ``a/b`` cannot both be objects on one.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat as stat_module
import threading
import time
from bisect import bisect
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from granite_core.backends._appending import PART_PREFIX, AppendingWriter, owner_of_part
from granite_core.backends._disk import judge_disk, look_at_disk
from granite_core.backends._files import ABSENT, close_quietly, failure, link_as
from granite_core.backends.base import (
    NO_OPTIONS,
    Capability,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    ResumableWriter,
    StorageBackend,
    WriteOptions,
    location_of,
)
from granite_core.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    InvalidKeyError,
    StorageError,
)
from granite_core.findings import Finding, Severity
from granite_core.keys import DIRECT, RESERVED_PREFIX, split_key, validate_key
from granite_core.refs import StoredObjectRef

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LocalStorageBackend"]

TEMPORARY_PREFIX: Final = f"{RESERVED_PREFIX}-tmp-"
READ_BYTES: Final = 1 << 30  # one read(2) ends at 2 GiB
START_ATTEMPTS: Final = 100

_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_ROOT: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER: Final = _ROOT | _NO_FOLLOW
_READ: Final = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)  # a FIFO must not block the opener
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW

_NO_WAIT: Final = getattr(os, "RWF_NOWAIT", -1)  # elsewhere no flag at all: the call fails, and says "unknown"


class LocalStorageBackend(StorageBackend):
    """Keeps each object in a file of its own below a root folder.

    Args:
        root_dir: The root. Made at first use where it is missing; when it vanishes later, every call raises
            ``BackendUnavailableError``: an unmounted disk is not an empty store.
        make_root: Whether to make it. Say False for a root below a mount point: while the disk is not mounted there,
            it is missing, and a process that starts then stores nothing where nobody will find it.
        durable: Whether a commit or delete that has returned survives a power cut, unless the policy says otherwise
            of its own commits. Costs two syncs per object.
        file_mode: Permissions of object files, less the umask. A web server that sends them must be able to read.
        folder_mode: Permissions of folders, less the umask.

    Raises:
        ConfigurationError: The platform has no directory descriptors (Windows).
    """

    backend_name = "local"
    capabilities = frozenset(
        {
            Capability.ATOMIC_CREATE,
            Capability.KEY_LISTING,
            Capability.LOCAL_PATH,
            Capability.RESUMABLE_WRITES,
            Capability.SERVER_SIDE_COPY,
        }
    )

    def __init__(
        self,
        root_dir: str | os.PathLike[str],
        *,
        make_root: bool = True,
        durable: bool = True,
        file_mode: int = 0o640,
        folder_mode: int = 0o750,
    ) -> None:
        if os.open not in os.supports_dir_fd:
            raise ConfigurationError("LocalStorageBackend needs a POSIX system")
        self._root = os.path.abspath(os.fspath(root_dir))
        self.durable = durable
        self._may_make_root = make_root
        self._file_mode = file_mode
        self._folder_mode = folder_mode
        self._lock = threading.Lock()
        self._device: int | None = None  # of the root, once it was seen
        self._beneath = ""  # the folder around the mount point, if the root was seen on a disk of its own

    @property
    def identity(self) -> tuple[str, ...]:
        """The folders that lead to the root, links resolved."""
        return ("file", *Path(os.path.realpath(self._root)).parts)

    def open_writer(
        self,
        location: str,
        *,
        content_type: str | None = None,
        size: int | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ObjectWriter:
        """Return a writer to a temporary file beside the final name. Of the options it heeds ``durable``."""
        return _LocalWriter(self, location, durable=self._durable_by(options))

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object, or a range of it."""
        return self._open(location, offset, length)

    def _open(self, location: str, offset: int = 0, length: int | None = None) -> _LocalReader:
        try:
            folder, name = self._open_parent(location)
            try:
                descriptor = os.open(name, _READ, dir_fd=folder)
            finally:
                os.close(folder)
            try:
                status = os.fstat(descriptor)
                if not stat_module.S_ISREG(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "not a regular file")
                return _LocalReader(location, descriptor, status.st_size, offset, length)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise failure(error, "open", location) from error

    def stat(self, location: str) -> ObjectStat:
        """Return size and time of an object."""
        try:
            folder, name = self._open_parent(location)
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            finally:
                os.close(folder)
            if stat_module.S_ISLNK(status.st_mode):
                raise OSError(errno.ELOOP, "a symbolic link is in the way")
            if not stat_module.S_ISREG(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a regular file")
        except OSError as error:
            raise failure(error, "stat", location) from error
        return _object_stat(location, status)

    def delete(self, location: str | StoredObjectRef) -> None:
        """Delete an object, by its key or ref, and the folders that it leaves empty."""
        location = location_of(location)
        segments = split_key(location)
        try:
            folder, name = self._open_parent(location)
            try:
                os.unlink(name, dir_fd=folder)
                if self.durable:
                    os.fsync(folder)  # or a power cut brings the deleted name back
            finally:
                os.close(folder)
        except IsADirectoryError:
            return
        except OSError as error:
            if error.errno in ABSENT:
                return
            raise failure(error, "delete", location) from error
        self._prune(segments[:-1])

    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        """Walk the folders in byte order of whole keys, entering only those that can hold a key wanted."""
        for path, folder, names in self._list(prefix, start_after):
            for name in names:
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # deleted since the folder was read
                except OSError as error:
                    raise failure(error, "list", prefix, absent=False) from error
                if stat_module.S_ISREG(status.st_mode):
                    yield _object_stat(path + name, status)

    def list_keys(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[str]:
        """Do as ``list_objects`` does, from what the folders say alone: no file is looked at."""
        if type(self).list_objects is not LocalStorageBackend.list_objects:
            yield from super().list_keys(prefix=prefix, start_after=start_after)  # who lists less says so there
            return
        for path, _, names in self._list(prefix, start_after):
            for name in names:
                yield path + name

    def _list(self, prefix: str, start_after: str | None) -> Iterator[tuple[str, int, list[str]]]:
        before = self._root_inode()
        try:
            # Code points sort as their UTF-8 bytes do, so strings are compared as they are.
            yield from self._walk(prefix, start_after or "")
            if self._root_inode() != before:
                raise OSError(errno.ESTALE, "the root folder was replaced while it was listed")
        except OSError as error:
            raise failure(error, "list", prefix, absent=False) from error

    def copy(self, source: str, target: str, *, options: WriteOptions = NO_OPTIONS) -> None:
        """Copy an object inside the kernel, sharing blocks where the file system can."""
        durable = self._durable_by(options)
        with self._open(source) as reader, _LocalWriter(self, target, durable=durable) as writer:
            writer.fill_from(reader)
            writer.commit()

    def local_path(self, location: str) -> Path | None:
        """Return the object's file, by a path without links.

        Raises:
            ObjectNotFoundError: There is no such object.
        """
        self.stat(location)  # no link leads out of the root, and the file is there
        return Path(os.path.realpath(self._root), *split_key(location))

    def resume_writer(
        self,
        location: str,
        *,
        offset: int = 0,
        state: str | None = None,
        content_type: str | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ResumableWriter:
        """Go on with a file beside the final name, to which is appended. Of the options it heeds ``durable``."""
        return AppendingWriter(self, location, offset, state, durable=self._durable_by(options))

    def discard_unfinished(self, location: str, state: str | None) -> None:
        """Remove the file to which was appended."""
        segments = split_key(location)
        try:
            folder = self._open_folder(segments[:-1])
            try:
                for name in AppendingWriter.files(segments[-1], state):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno in ABSENT:
                return
            raise failure(error, "discard", location, absent=False) from error
        self._prune(segments[:-1])

    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        """Remove temporary files of writers that died, files of uploads that nobody goes on with, and direct ones."""
        before, cleared, emptied = time.time() - older_than.total_seconds(), 0, set()
        try:
            for path, folder, names in self._walk("", "", temporary=True):
                for name in names:
                    if path + (owner_of_part(name) or name) in keep:
                        continue
                    with suppress(FileNotFoundError):  # its writer, or another process that clears, was faster
                        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime < before:
                            os.unlink(name, dir_fd=folder)
                            cleared += 1
                            emptied.add(path)
        except OSError as error:
            raise failure(error, "clear", "", absent=False) from error
        for path in emptied:
            self._prune(path.split("/")[:-1])
        return cleared

    def check(self) -> None:
        """Look whether files can be written, linked and deleted here.

        Raises:
            ConfigurationError: They cannot.
            BackendUnavailableError: The disk is away, or read-only, at the moment.
            StorageFullError: It is full.
        """
        probe = f"{RESERVED_PREFIX}-check-{secrets.token_hex(8)}"
        try:
            self.put_bytes(probe, b"")
            self.delete(probe)
        except BackendError as error:
            if error.retryable:
                raise
            raise ConfigurationError(f"{self._root!r} cannot be used: {error}", backend="file") from error

    def diagnose(self, *, origins: Collection[str] = (), receives: bool = False) -> Sequence[Finding]:
        """Judge the disk: room, inodes, how it is mounted, who may write there, whether it outlives a reboot."""
        try:
            return list(judge_disk(look_at_disk(self._root), durable=self.durable))
        except OSError as error:
            return [Finding("disk", Severity.WARNING, f"the system says nothing of the disk: {error.strerror}")]

    def __repr__(self) -> str:
        return f"<LocalStorageBackend {self._root!r}>"

    def _durable_by(self, options: WriteOptions) -> bool:
        return self.durable if options.durable is None else options.durable

    # -- folders -------------------------------------------------------------------------------------------------------

    def _open_root(self) -> int:
        """Open the root; make it if this process never saw it. What is wrong with it never means "no such object"."""
        try:
            try:
                descriptor = os.open(self._root, _ROOT)
            except FileNotFoundError:
                with self._lock:
                    if self._device is None and self._may_make_root:
                        self._make_root()
                descriptor = os.open(self._root, _ROOT)
            try:
                self._check_device(os.fstat(descriptor).st_dev)
            except BaseException:
                os.close(descriptor)
                raise
        except FileNotFoundError as error:
            raise BackendUnavailableError("the root folder is not there", operation="open", backend="file") from error
        except OSError as error:
            raise failure(error, "open root", "", absent=False) from error
        return descriptor

    def _check_device(self, device: int) -> None:
        """Refuse a mount point whose disk was unmounted: files written there would be hidden when it returns.

        It may return under another number.
        """
        if device == self._device:
            return
        if self._beneath and os.stat(self._beneath).st_dev == device:
            raise BackendUnavailableError(
                "nothing is mounted at the root folder any more", operation="open", backend="file"
            )
        self._device, self._beneath = device, _folder_beneath(os.path.realpath(self._root), device)

    def _root_inode(self) -> int:
        descriptor = self._open_root()
        try:
            return os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)

    def _make_root(self) -> None:
        missing, path = [], self._root
        while not os.path.lexists(path):
            missing.append(path)
            path = os.path.dirname(path)
        for each in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(each, self._folder_mode)
            _sync_folder(os.path.dirname(each))  # the new folder's name is kept in its parent; once, so always

    def _open_folder(self, names: list[str], *, make: bool = False, sync: bool = False) -> int:
        descriptor = -1 if sync else self._open_outermost(names)
        if descriptor < 0:
            descriptor = self._open_root()
        else:
            names = names[1:]
        try:
            for name in names:
                inner = self._open_or_make(name, descriptor) if make else _open_inner(name, descriptor)
                if sync:
                    os.fsync(descriptor)
                os.close(descriptor)
                descriptor = inner
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _open_outermost(self, names: list[str]) -> int:
        """Open the first of some folders by its path, which spares opening the root; negative where that is not enough.

        Nothing of the walk's promise is lost: O_NOFOLLOW is for the last part of a path, all before it is the root's.
        What is missing, is a link, or is on another disk than the root was, gets looked at step by step.
        """
        if not names:
            return -1
        try:
            descriptor = os.open(f"{self._root}/{names[0]}", _FOLDER)
        except OSError:
            return -1
        try:
            if os.fstat(descriptor).st_dev == self._device:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return -1

    def _open_or_make(self, name: str, parent: int) -> int:
        try:
            return _open_inner(name, parent)
        except FileNotFoundError:
            pass
        with suppress(FileExistsError):
            os.mkdir(name, self._folder_mode, dir_fd=parent)
        if self.durable:
            os.fsync(parent)  # the new folder's name is kept in its parent; at once, before anyone builds on it
        return _open_inner(name, parent)

    def _open_parent(self, location: str) -> tuple[int, str]:
        *folders, name = split_key(location)
        return self._open_folder(folders), name

    def _prune(self, folders: list[str]) -> None:
        """Remove folders that are empty, from the innermost outwards.

        A folder in which a writer has its temporary file is not empty. One that is about to make it there finds the
        folder gone and begins again.
        """
        with suppress(OSError, StorageError):
            for depth in range(len(folders), 0, -1):
                with suppress(FileNotFoundError):  # a writer that failed did not come so far
                    parent = self._open_folder(folders[: depth - 1])
                    try:
                        os.rmdir(folders[depth - 1], dir_fd=parent)
                    finally:
                        os.close(parent)

    def _walk(self, prefix: str, after: str, *, temporary: bool = False) -> Iterator[tuple[str, int, list[str]]]:
        """Yield ``(folder path with its slash, folder descriptor, file names)`` in byte order of whole keys.

        A folder is handed over in parts where others lie between its files.
        """
        start = prefix.split("/")[:-1]
        if any(name in ("", ".", "..") or name.startswith(RESERVED_PREFIX) for name in start):
            return
        try:
            top = self._open_folder(start)
        except OSError as error:
            if error.errno in ABSENT:
                return
            raise
        levels: list[tuple[str, int, Iterator[str | list[str]] | None]] = [
            ("".join(f"{name}/" for name in start), top, None)
        ]
        try:
            while levels:
                path, folder, names = levels[-1]
                if names is None:
                    names = _entries(folder, path, prefix, after, temporary)
                    levels[-1] = (path, folder, names)
                found = next(names, None)
                if found is None:
                    os.close(levels.pop()[1])
                elif isinstance(found, list):
                    yield path, folder, found
                else:
                    with suppress(FileNotFoundError):  # pruned since its parent was read
                        levels.append((path + found, os.open(found[:-1], _FOLDER, dir_fd=folder), None))
        finally:
            for _, folder, _ in levels:
                os.close(folder)


class _LocalWriter(ObjectWriter):
    def __init__(self, backend: LocalStorageBackend, location: str, *, durable: bool) -> None:
        self._backend = backend
        self._durable = durable
        self._location = location
        self._segments = split_key(location)
        self._temporary = ""
        self._folder = -1
        self._file = -1
        self._written = 0
        self._started = False
        self._closed = False

    def write(self, data: Buffer, /) -> None:
        try:
            if self._file < 0:
                self._start("write")
            done, size = os.write(self._file, data), memoryview(data).nbytes
            self._written += done
            while done < size:  # it may take less than it was given
                more = os.write(self._file, memoryview(data).cast("B")[done:])
                self._written += more
                done += more
        except OSError as error:
            self.abort()
            raise failure(error, "write", self._location, absent=False) from error
        except BaseException:
            self.abort()  # nothing may be committed that lacks these bytes
            raise

    def fill_from(self, reader: _LocalReader) -> None:
        try:
            self._start("copy")
            self._written += reader.send_to(self._file)
        except OSError as error:
            self.abort()
            raise failure(error, "copy", self._location, absent=False) from error
        while data := reader.read(1024 * 1024):  # what the kernel would not copy
            self.write(data)

    def commit(self) -> None:
        try:
            if self._file < 0:
                self._start("commit")
            self._publish()
        except OSError as error:
            self.abort()
            raise failure(error, "commit", self._location, absent=False) from error
        except BaseException:
            self.abort()
            raise
        self._closed = True
        self._close()

    def abort(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._folder >= 0 and self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)
        self._close()
        if self._started:
            self._backend._prune(self._segments[:-1])

    def _start(self, operation: str) -> None:
        if self._closed:
            raise BackendError("the writer is closed", operation=operation, backend="file", location=self._location)
        if self._file >= 0:
            return
        self._started = True
        for _ in range(START_ATTEMPTS):
            try:
                # Where the backend is not durable, a folder that is there already may not be on the disk yet.
                catch_up = self._durable and not self._backend.durable
                self._folder = self._backend._open_folder(self._segments[:-1], make=True, sync=catch_up)
                self._temporary = f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
                self._file = os.open(self._temporary, _CREATE, self._backend._file_mode, dir_fd=self._folder)
                return
            except FileNotFoundError:
                self._close()  # a delete pruned the folder, empty until now, between two of our steps
        raise BackendUnavailableError(
            "the folder vanishes again and again", operation=operation, backend="file", location=self._location
        )

    def _publish(self) -> None:
        name = self._segments[-1]
        found = os.lseek(self._file, 0, os.SEEK_END)
        if found != self._written:
            raise OSError(errno.EIO, f"the file holds {found} bytes, {self._written} were written")
        if self._durable:
            os.fsync(self._file)  # the bytes, before a name points at them
        descriptor, self._file = self._file, -1
        os.close(descriptor)  # NFS tells of a full disk only here
        link_as(name, self._temporary, self._folder, durable=self._durable, location=self._location)

    def _close(self) -> None:
        file, self._file = self._file, -1
        folder, self._folder = self._folder, -1
        close_quietly(file)
        close_quietly(folder)


class _LocalReader(ObjectReader):
    def __init__(self, location: str, descriptor: int, size: int, offset: int, length: int | None) -> None:
        self.size = size
        self._location = location
        self._descriptor = descriptor
        self._position = min(offset, size)
        self._end = size if length is None else min(size, offset + length)
        self._may_be_at_hand = True

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._end - self._position)
        left = left if size < 0 else min(size, left)
        if left <= READ_BYTES:
            return self._read_once(left)
        pieces = []
        while left:
            pieces.append(self._read_once(min(left, READ_BYTES)))
            left -= len(pieces[-1])
        return b"".join(pieces)

    def _read_once(self, size: int) -> bytes:
        if not size:
            return b""
        try:
            if self._descriptor < 0:
                raise OSError(errno.EBADF, "the reader is closed")
            data = os.pread(self._descriptor, size, self._position)
            if not data:
                raise OSError(errno.EIO, "the file is shorter than it was")
        except OSError as error:
            raise failure(error, "read", self._location, absent=False) from error
        self._position += len(data)
        if len(data) < size:  # an interrupted read; the end of the range is told from it above
            return data + self._read_once(size - len(data))
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        size = min(len(buffer), max(0, self._end - self._position))
        if not size:
            return 0
        try:
            if self._descriptor < 0:
                raise OSError(errno.EBADF, "the reader is closed")
            count = os.preadv(self._descriptor, [buffer[:size]], self._position)
            if not count:
                raise OSError(errno.EIO, "the file is shorter than it was")
        except OSError as error:
            raise failure(error, "read", self._location, absent=False) from error
        self._position += count
        return count

    def read_at_hand(self, size: int, /) -> bytes | None:
        """Return what the kernel has in memory (preadv2(2), ``RWF_NOWAIT``); file systems that cannot tell say None."""
        size = min(size, max(0, self._end - self._position))
        if not size:
            return b""
        if not self._may_be_at_hand:
            return None
        buffer = bytearray(size)
        try:
            count = os.preadv(self._descriptor, [buffer], self._position, _NO_WAIT)
        except BlockingIOError:
            return None
        except (OSError, NotImplementedError):
            count = 0  # tmpfs and other systems cannot tell; an error is told of by `read`
        if not count:
            self._may_be_at_hand = False
            return None
        self._position += count
        return bytes(buffer) if count == size else bytes(memoryview(buffer)[:count])

    def send_to(self, descriptor: int) -> int:
        """Copy what is left to the end of another file as far as the kernel can; return how many bytes it did."""
        done = 0
        with suppress(OSError, AttributeError):  # other file systems, other systems: the caller copies the rest
            while self._position < self._end:
                count = os.copy_file_range(
                    self._descriptor, descriptor, min(self._end - self._position, READ_BYTES), self._position
                )
                if not count:
                    break
                done += count
                self._position += count
        return done

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        close_quietly(descriptor)


def _open_inner(name: str, parent: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat_module.S_ISLNK(status.st_mode):
                raise OSError(errno.ELOOP, "a symbolic link is in the way") from error
        raise


def _folder_beneath(folder: str, device: int) -> str:
    """The innermost folder around another one that is on another device; empty where there is none."""
    while (outer := os.path.dirname(folder)) != folder:
        if os.stat(outer).st_dev != device:
            return outer
        folder = outer
    return ""


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, _ROOT)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: int, path: str, prefix: str, after: str, temporary: bool) -> Iterator[str | list[str]]:
    """Yield what a folder holds that may lead to keys wanted: folders with a slash, and the files between them.

    In byte order of the keys. The slash counts in it: ``a.txt`` comes before what is in ``a/``.
    """
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if not temporary and name.startswith(RESERVED_PREFIX):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(name + "/")
            elif temporary:
                if path == DIRECT or name.startswith((TEMPORARY_PREFIX, PART_PREFIX)):
                    files.append(name)
            elif entry.is_file(follow_symlinks=False):
                files.append(name)
    if not temporary:
        files, folders = (_wanted(each, path, prefix, after) for each in (files, folders))
    start = 0
    for each in folders:
        end = bisect(files, each, start)
        if start < end:
            yield files[start:end]
        yield each
        start = end
    if start < len(files):
        yield files[start:] if start else files


def _wanted(names: list[str], path: str, prefix: str, after: str) -> list[str]:
    """Return those that may lead to keys wanted, in order."""
    names.sort()
    if prefix and len(prefix) > len(path):
        rest = prefix[len(path) :]
        names = [each for each in names if each.startswith(rest) or (each[-1] == "/" and rest.startswith(each))]
    if after and path < after:
        names = [each for each in names if path + each > after or (each[-1] == "/" and after.startswith(path + each))]
    together = "".join(names)  # as good as always they are all fine, which is seen at once
    if _is_plain(together) and all(len(each) <= 200 for each in names):
        return names
    return [each for each in names if _may_be_in_key(each)]


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and "\\" not in text


def _may_be_in_key(name: str) -> bool:
    """Whether a foreign file's name could be part of a key at all."""
    if _is_plain(name) and len(name) <= 200:
        return True
    try:
        validate_key(name.rstrip("/"))
    except InvalidKeyError:
        return False
    return True


def _object_stat(location: str, status: os.stat_result) -> ObjectStat:
    return ObjectStat(
        location,
        status.st_size,
        datetime.fromtimestamp(status.st_mtime, UTC),
        f"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}",
    )
