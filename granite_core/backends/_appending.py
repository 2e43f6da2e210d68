"""A file that is written in several goes: appended to in place, beside the name that it gets in the end.

Whoever writes it holds a lock on it. A process that sleeps, and is believed dead, keeps that lock: then the next go
takes a copy of what was kept, and the sleeper writes on into a file without a name.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from granite_core.backends._files import close_quietly, failure, link_as
from granite_core.backends.base import ObjectStat
from granite_core.backends.resumable import ResumableWriter
from granite_core.errors import BackendError, BackendUnavailableError, ObjectNotFoundError, UnfinishableError
from granite_core.keys import RESERVED_PREFIX, split_key

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PART_PREFIX", "AppendingWriter", "owner_of_part"]

PART_PREFIX: Final = f"{RESERVED_PREFIX}-part-"
START_ATTEMPTS: Final = 100
COPY_BYTES: Final = 1024 * 1024
_OPEN: Final = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})


def owner_of_part(name: str) -> str:
    """Return the last segment of the key that a file beside it is for; empty for other files."""
    return name.removeprefix(PART_PREFIX).partition("-")[2] if name.startswith(PART_PREFIX) else ""


class Folders(Protocol):
    """What is needed of the backend."""

    durable: bool
    _file_mode: int

    def _open_folder(self, names: list[str], *, make: bool = False, sync: bool = False) -> int: ...

    def stat(self, location: str) -> ObjectStat: ...

    def discard_unfinished(self, location: str, state: str | None) -> None: ...


class AppendingWriter(ResumableWriter):
    """One go at a file.

    Args:
        backend: Where it is.
        location: The object's key.
        offset: How many bytes of it the state stands for.
        state: What was kept; None to begin.
        durable: Whether a checkpoint survives a power cut.

    Raises:
        UnfinishableError: What was written is gone.
        BackendError: It cannot be opened.
    """

    def __init__(self, backend: Folders, location: str, offset: int, state: str | None, *, durable: bool) -> None:
        self.offset = offset
        self._begun = offset
        self._backend = backend
        self._location = location
        self._durable = durable
        *self._folders, self._name = split_key(location)
        known = json.loads(state) if state else {}
        self._part: str = known.get("part", "")
        self._gone: list[str] = known.get("gone", [])
        self._source: str = known.get("from", "")
        self._borrowed = False
        self._file = self._folder = -1
        self._name_is_safe = self._is_there = self._closed = self._made = False
        self._told = 0
        self._changed = not self._part
        try:
            self._open()
        except OSError as error:
            self.close()
            raise failure(error, "resume", location, absent=False) from error
        except BaseException:
            self.close()
            raise

    @staticmethod
    def files(name: str, state: str | None) -> list[str]:
        """Return the names of the files that a state speaks of, for an object of a name."""
        known = json.loads(state) if state else {}
        return [f"{PART_PREFIX}{part}-{name}" for part in (known.get("part"), *known.get("gone", ())) if part]

    @property
    def state(self) -> str | None:
        """Which file it is; it is made by the first ``write``."""
        return self._dump() if self._changed else None

    def write(self, data: Buffer, /) -> None:
        """Append."""
        view = memoryview(data).cast("B")
        try:
            self._start("write")
            while view:
                done = os.write(self._file, view)  # may take less than it was given
                self.offset += done
                view = view[done:]
        except OSError as error:
            self.close()
            raise failure(error, "write", self._location, absent=False) from error
        except BaseException:
            self.close()
            raise

    def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
        """Bring what was written to the disk, and with it, once, the name."""
        try:
            self._check_open("checkpoint")
            if last:
                self._start("checkpoint")  # an empty object is a file too
            if self._durable and self._file >= 0:
                os.fsync(self._file)
                if not self._name_is_safe:
                    os.fsync(self._folder)
                    self._name_is_safe = True
        except OSError as error:
            self.close()
            raise failure(error, "checkpoint", self._location, absent=False) from error
        self._told += self._made
        return self._dump()

    def commit(self) -> None:
        """Give the file its final name."""
        try:
            self._check_open("commit")
            if not self._is_there:
                self._start("commit")
                found = os.fstat(self._file).st_size
                if found != self.offset:
                    raise OSError(errno.EIO, f"the file holds {found} bytes, {self.offset} were written")
                link_as(self._name, self._file_name, self._folder, durable=self._durable, location=self._location)
        except OSError as error:
            raise failure(error, "commit", self._location, absent=False) from error
        finally:
            self.close()
        self.stored_size = self.offset  # which is the length that was found
        with suppress(BackendError):  # an older file may still be there
            self._backend.discard_unfinished(self._location, self._dump())

    def withdraw(self, *, refused: bool = False) -> None:
        """Remove the file where this go made it and nobody goes on with it."""
        mine = self._made and self._told <= refused
        self._made = False
        if mine:
            with suppress(OSError, BackendError):
                mine = self._unlink()
        self.close()
        if mine:
            with suppress(BackendError):  # and the folders that it leaves empty
                self._backend.discard_unfinished(self._location, json.dumps({"part": self._part}))

    def close(self) -> None:
        """Close the file, and with it unlock it."""
        self._closed = True
        file, self._file = self._file, -1
        folder, self._folder = self._folder, -1
        close_quietly(file)
        close_quietly(folder)

    # -- the file ------------------------------------------------------------------------------------------------------

    @property
    def _file_name(self) -> str:
        return f"{PART_PREFIX}{self._part}-{self._name}"

    def _open(self) -> None:
        """Open the file of the goes before, and lock it."""
        if not self._part:
            self._part = secrets.token_hex(4)
            return
        try:
            self._folder = self._backend._open_folder(self._folders)
            if self._source:
                self._rename(self._source)  # nothing was recorded of the copy
            self._file = os.open(self._file_name, _OPEN, dir_fd=self._folder)
        except FileNotFoundError:
            self._file_is_gone()
            return
        locked = self._lock()
        if locked and not self._has_its_name():  # whoever had it locked has withdrawn, or committed, meanwhile
            os.close(self._file)
            self._file = -1
            self._file_is_gone()
            return
        found = os.fstat(self._file).st_size
        if found < self.offset:
            raise UnfinishableError(
                f"of what was written, {found} bytes are left of {self.offset}",
                operation="resume",
                backend="file",
                location=self._location,
            )
        if not locked:
            self._source = self._part
            self._rename(secrets.token_hex(4))
            self._borrowed = True
            return
        self._source = ""
        os.ftruncate(self._file, self.offset)
        os.lseek(self._file, self.offset, os.SEEK_SET)

    def _rename(self, part: str) -> None:
        """Go on under another name; the file of the one before is removed at the end."""
        self._gone = [each for each in (*self._gone, self._part) if each != part]
        self._part = part
        self._changed = True

    def _file_is_gone(self) -> None:
        """Nothing was written yet, or all was and has its final name; else it is lost."""
        try:
            self._is_there = self._backend.stat(self._location).size == self.offset
        except ObjectNotFoundError:
            self._is_there = False
        if self.offset and not self._is_there:
            raise UnfinishableError(
                "what was written is gone", operation="resume", backend="file", location=self._location
            )
        if not self._is_there:
            self._rename(secrets.token_hex(4))  # whoever made the name up may still make its file

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                raise
            return False
        return True

    def _has_its_name(self) -> bool:
        """Whether the name still leads to the file that is open."""
        try:
            there = os.stat(self._file_name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._file))

    def _unlink(self) -> bool:
        """Take the file's name away while it is locked, so that who opens it sees that; False where another has it."""
        if self._file < 0:
            self._folder = self._backend._open_folder(self._folders)
            self._file = os.open(self._file_name, _OPEN, dir_fd=self._folder)
            if not self._lock():
                return False
        os.unlink(self._file_name, dir_fd=self._folder)
        return True

    def _start(self, operation: str) -> None:
        """Make the file where there is none that we may write to."""
        self._check_open(operation)
        if self._is_there or (self._file >= 0 and not self._borrowed):
            return
        before, self._file = self._file, -1
        folder, self._folder = self._folder, -1
        try:
            self._make()
            if before >= 0:
                self._take_over(before)
                self._source = ""
        finally:
            for descriptor in (before, folder):
                if descriptor >= 0:
                    os.close(descriptor)
        self._changed = self._borrowed = self._name_is_safe = False

    def _make(self) -> None:
        for _ in range(START_ATTEMPTS):
            try:
                catch_up = self._durable and not self._backend.durable
                self._folder = self._backend._open_folder(self._folders, make=True, sync=catch_up)
                flags = _OPEN | os.O_CREAT | os.O_EXCL  # the name is ours alone
                self._file = os.open(self._file_name, flags, self._backend._file_mode, dir_fd=self._folder)
                self._made, self._told = True, 0
                break
            except FileNotFoundError:  # a delete pruned the folder, empty until now, between two of our steps
                os.close(self._folder)
                self._folder = -1
        else:
            raise BackendUnavailableError(
                "the folder vanishes again and again", operation="write", backend="file", location=self._location
            )
        if not self._lock():
            raise BackendUnavailableError(
                "another process has the file open", operation="write", backend="file", location=self._location
            )

    def _take_over(self, before: int) -> None:
        """Copy what was kept out of a file that another process has locked."""
        position = 0
        while position < self._begun:
            wanted = min(COPY_BYTES * 64, self._begun - position)
            try:
                done = os.copy_file_range(before, self._file, wanted, position, position)
            except (OSError, AttributeError):  # other file systems, other systems
                data = os.pread(before, min(COPY_BYTES, wanted), position)
                done = os.pwrite(self._file, data, position)
            if not done:
                raise OSError(errno.EIO, "the file is shorter than it was")
            position += done
        os.lseek(self._file, self._begun, os.SEEK_SET)
        if self._durable:
            os.fsync(self._file)

    def _dump(self) -> str:
        known = {"part": self._part, "gone": self._gone, "from": self._source}
        return json.dumps({name: value for name, value in known.items() if value})

    def _check_open(self, operation: str) -> None:
        if self._closed:
            raise BackendError("the writer is closed", operation=operation, backend="file", location=self._location)
