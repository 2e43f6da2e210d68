"""What the operating system's errors mean, and how a file gets its name: shared by what writes files."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
)

__all__ = ["ABSENT", "close_quietly", "failure", "link_as"]

_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNAVAILABLE: Final = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE),
        *(errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN),  # read-only or pulled out: it may come back
        *(errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ECONNRESET),
    }
)


def link_as(name: str, temporary: str, folder: int, *, durable: bool, location: str) -> None:
    """Give a file that is complete, and on the disk, its final name, and take away the other one.

    Args:
        name: The name.
        temporary: The other one.
        folder: Descriptor of the folder that both are in.
        durable: Whether the name survives a power cut.
        location: The object's key, for errors.

    Raises:
        ObjectExistsError: The name is taken by another file.
        OSError: It could not be done; the name is not there.
    """
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError as error:
        if not _is_same(name, temporary, folder):
            raise ObjectExistsError(
                "the key is taken", operation="commit", backend="file", location=location
            ) from error
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise OSError(errno.EOPNOTSUPP, "the file system knows no hard links") from error
        if not _is_same(name, temporary, folder):  # on a network, an answer may be lost
            raise
    try:
        if durable:
            os.fsync(folder)  # the name, before anyone is told of it
    except OSError:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)  # a commit that raises leaves nothing visible
        raise
    try:  # noqa: SIM105 - suppress() takes a tenth of the call's time
        os.unlink(temporary, dir_fd=folder)
    except OSError:
        pass  # the object is there; a left-over second name is cleared later


def close_quietly(descriptor: int) -> None:
    """Close a file, or a folder, of which nothing more is asked; a negative one is none."""
    if descriptor >= 0:
        try:  # noqa: SIM105 - suppress() takes as long as the call itself
            os.close(descriptor)
        except OSError:
            pass


def _is_same(name: str, temporary: str, folder: int) -> bool:
    """Whether the name is already our file: NFS repeats a link whose answer was lost."""
    try:
        ours = os.stat(temporary, dir_fd=folder, follow_symlinks=False)
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(ours, there)


def failure(error: OSError, operation: str, location: str, *, absent: bool = True) -> StorageError:
    """Return the error to raise for one of the operating system; ``absent``: whether ENOENT speaks of the object."""
    kind: type[StorageError] = BackendError
    if absent and error.errno in ABSENT:
        return ObjectNotFoundError("no such object", operation=operation, backend="file", location=location)
    if error.errno in _DENIED:
        kind = AccessDeniedError
    elif error.errno in _FULL:
        kind = StorageFullError
    elif error.errno in _UNAVAILABLE:
        kind = BackendUnavailableError
    return kind(f"{operation}: {error.strerror or error}", operation=operation, backend="file", location=location)
