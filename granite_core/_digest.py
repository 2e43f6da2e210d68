"""The SHA-256 of what comes in, made beside the writing of it where that is worth a second thread."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from granite_core._pool import begin

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

__all__ = ["OVERLAP_BYTES", "Digest"]

OVERLAP_BYTES: Final = 512 * 1024
"""From which size on a piece is hashed in a second thread: 0.3 ms of work, many times what handing it over costs."""

PIECES_BEHIND: Final = 2
"""How many pieces may wait for the thread that hashes them: what one stream holds of them in memory."""


class Digest:
    """A SHA-256 that is fed piece by piece, by one thread at a time.

    Large pieces are hashed in a thread of the process's own while the caller writes them and fetches the next; when as
    many are at work as there are processors to spare, the caller hashes them.
    """

    __slots__ = ("_beside", "_hash")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._beside: _Beside | None = None

    def update(self, data: bytes) -> None:
        """Take the next piece."""
        if len(data) >= OVERLAP_BYTES:
            if self._beside is None:
                self._beside = _Beside(self._hash)
            if self._beside.take(data):
                return
        self.wait()
        self._hash.update(data)

    def hexdigest(self) -> str:
        """Return the SHA-256 of all pieces."""
        self.wait()
        if self._beside is not None and self._beside.failure is not None:
            raise self._beside.failure
        return self._hash.hexdigest()

    def wait(self) -> None:
        """Wait until nobody works on it any more."""
        if self._beside is not None:
            self._beside.wait()


class _Beside:
    """The pieces of one content that a helper hashes, in their order.

    It may be some pieces behind: whoever writes waits for the disk now and then, and the helper for a processor. A
    helper that has none left is free for others.
    """

    def __init__(self, digest: HASH) -> None:
        self._hash = digest
        self._pieces: deque[bytes] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._at_work = False
        self.failure: BaseException | None = None

    def take(self, data: bytes) -> bool:
        """Have a piece hashed, as soon as there is room for it; False where no helper is free."""
        with self._changed:
            while self._at_work and len(self._pieces) >= PIECES_BEHIND:
                self._changed.wait()
            if not self._at_work:
                self._at_work = _helpers().begin(self._work)
            if self._at_work:
                self._pieces.append(data)
            return self._at_work

    def wait(self) -> None:
        """Wait until all pieces are hashed."""
        with self._changed:
            while self._at_work:
                self._changed.wait()

    def _work(self, end: Callable[[], None]) -> None:
        while True:
            with self._changed:
                if not self._pieces:
                    end()
                    self._at_work = False
                    self._changed.notify_all()
                    return
                data = self._pieces[0]
            try:
                self._hash.update(data)
            except BaseException as error:  # noqa: BLE001 - raised where the digest is asked for
                self.failure = error
            with self._changed:
                self._pieces.popleft()
                self._changed.notify_all()


class _Helpers:
    """The threads of a process that hash. Made at first use, and anew after a fork, which they do not survive."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._count = max(0, min(4, _processors() - 1))
        self._free = threading.Semaphore(self._count)
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def begin(self, work: Callable[[Callable[[], None]], None]) -> bool:
        """Have one of them do some work, which says when it is at its end; False where none is free."""
        if not self._free.acquire(blocking=False):
            return False
        try:
            with self._lock:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="granite-hash")
            begin(self._threads, partial(work, self._free.release))
        except RuntimeError:  # the interpreter is ending, or the system gives no more threads
            self._free.release()
            return False
        return True


_known: list[_Helpers] = []


def _helpers() -> _Helpers:
    if not _known or _known[-1].process != os.getpid():
        _known[:] = [_Helpers()]
    return _known[-1]


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
