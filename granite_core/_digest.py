"""The SHA-256 of what comes in, made beside the writing of it where that is worth a second thread."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

__all__ = ["OVERLAP_BYTES", "Digest"]

OVERLAP_BYTES: Final = 512 * 1024
"""From which size on a piece is hashed in a second thread: 0.3 ms of work, many times what handing it over costs."""


class Digest:
    """A SHA-256 that is fed piece by piece, by one thread at a time.

    A large piece is hashed in a thread of the process's own while the caller writes it and fetches the next; when as
    many are at work as there are processors to spare, the caller hashes it.
    """

    __slots__ = ("_hash", "_pending")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._pending: Future[None] | None = None

    def update(self, data: bytes) -> None:
        """Take the next piece."""
        if self._pending is not None:
            self.wait()
        if len(data) >= OVERLAP_BYTES:
            self._pending = _helpers().submit(self._hash, data)
        if self._pending is None:
            self._hash.update(data)

    def hexdigest(self) -> str:
        """Return the SHA-256 of all pieces."""
        self.wait()
        return self._hash.hexdigest()

    def wait(self) -> None:
        """Wait until nobody works on it any more."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


class _Helpers:
    """The threads of a process that hash. Made at first use, and anew after a fork, which they do not survive."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._count = max(0, min(4, _processors() - 1))
        self._free = threading.Semaphore(self._count)
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def submit(self, digest: HASH, data: bytes) -> Future[None] | None:
        """Have a piece hashed; None where no thread is free."""
        if not self._free.acquire(blocking=False):
            return None
        try:
            with self._lock:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="granite-hash")
            return self._threads.submit(self._update, digest, data)
        except RuntimeError:  # the interpreter is ending, or the system gives no more threads
            self._free.release()
            return None

    def _update(self, digest: HASH, data: bytes) -> None:
        try:
            digest.update(data)
        finally:
            self._free.release()


_known: list[_Helpers] = []


def _helpers() -> _Helpers:
    if not _known or _known[-1].process != os.getpid():
        _known[:] = [_Helpers()]
    return _known[-1]


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
