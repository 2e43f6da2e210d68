"""Writing an object: one request, or an upload in parts that obstore takes from us as they become full.

obstore pulls an upload's parts from an asynchronous iterator; ours are pushed. They meet on one event loop in a thread
of its own, for all uploads of the process, so that a slow client holds no thread.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from granite_core.backends._bucket import TOKEN
from granite_core.backends._budget import buffer_budget
from granite_core.backends._pages import HUGE_BYTES
from granite_core.backends._parts import MAX_PARTS, part_length
from granite_core.backends.base import ObjectWriter, WriteOptions
from granite_core.backends.obstore.library import error_code, failure, http_status, library, obstore_errors
from granite_core.backends.obstore.memory import PartMemory
from granite_core.errors import (
    BackendError,
    BackendUnavailableError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

    from granite_core.backends.obstore.backend import ObstoreStorageBackend

__all__ = ["ObstoreWriter"]

AT_ONCE: Final = 2
"""How many parts of an upload are under way at a time, while the next one is filled."""

PUT_ATTEMPTS: Final = 3
_CONFLICT: Final = "ConditionalRequestConflict"
_REFUSED: Final = frozenset({_CONFLICT, "OperationAborted", "NoSuchUpload"})

_starting: Final = threading.Lock()
_loops: Final[dict[int, asyncio.AbstractEventLoop]] = {}


class _GivenUpError(Exception):
    """Ends an upload that nobody wants any more."""


class ObstoreWriter(ObjectWriter):
    """Holds at most three parts: one that is filled, and two that are sent.

    Every object carries a random token, as the S3 backend's do. When a store refuses our commit because the key is
    taken, or the upload gone, the token tells whether it was ourselves, in a try whose answer was lost.
    """

    def __init__(
        self,
        backend: ObstoreStorageBackend,
        location: str,
        content_type: str | None,
        size: int | None,
        options: WriteOptions,
    ) -> None:
        self._backend = backend
        self._location = location
        self._key = backend._key(location)
        self._token = secrets.token_hex(16)
        self._content_type = content_type
        self._options = options
        self._size = size
        self._limit = part_length(1, base=backend.part_size, size=size or 0)
        self._part = PartMemory(buffer_budget, self._limit, size)
        self._upload: _Upload | None = None
        self._sent = 0
        self._closed = False

    def write(self, data: Buffer, /) -> None:
        """Take bytes; hand a part over when it is full."""
        self._check_open("write")
        view = memoryview(data).cast("B")
        try:
            while view:
                room = self._limit - self._part.length
                if not room:
                    self._send_part()
                    continue
                self._part.append(view[:room])
                view = view[room:]
        except obstore_errors() as error:
            self.abort()
            raise self._failure(error, "write") from error
        except BaseException:
            self.abort()
            raise

    def commit(self) -> None:
        """Send what is left, and make the object visible."""
        self._check_open("commit")
        try:
            if self._upload is None:
                self._put()
            else:
                self._complete(self._upload)
        except obstore_errors() as error:
            self.abort()
            raise self._failure(error, "commit") from error
        except BaseException:
            self.abort()
            raise
        self._closed = True
        self._part.free()

    def abort(self) -> None:
        """Give up: wait for parts that are under way, or they would outlive the upload, then remove the upload."""
        if self._closed:
            return
        self._closed = True
        self._part.free()
        if self._upload is not None:
            self._upload.give_up()

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _send_part(self) -> None:
        if self._upload is None:
            self._upload = _Upload(self._start, AT_ONCE)
        self._sent += 1
        if self._sent > MAX_PARTS:
            raise BackendError(
                f"the object is too large for {MAX_PARTS} parts: tell its size, or set a greater part_size",
                operation="write",
                backend="obstore",
                location=self._location,
                limit=self._limit * MAX_PARTS,
            )
        full, self._part = self._part, PartMemory(buffer_budget, self._limit, HUGE_BYTES)
        if self._backend._keeps_buffers:
            content = bytes(full.content())
            full.free()
            self._upload.send(content)
        else:
            self._upload.send_part(full)

    async def _start(self, parts: _Upload) -> Any:
        return await library().put_async(
            self._backend._store(self._options),
            self._key,
            parts,
            attributes=self._attributes(),
            tags=self._tags(),
            use_multipart=True,
            chunk_size=self._limit,
            max_concurrency=AT_ONCE,
        )

    def _attributes(self) -> dict[str, str] | None:
        return self._backend._attributes(self._content_type, self._options, {TOKEN: self._token})

    def _tags(self) -> dict[str, str] | None:
        return dict(self._options.tags) or None

    # -- becoming visible ----------------------------------------------------------------------------------------------

    def _put(self) -> None:
        for _ in range(PUT_ATTEMPTS):
            try:
                library().put(
                    self._backend._store(self._options),
                    self._key,
                    bytes(self._part.content()) if self._backend._keeps_buffers else self._part.content(),
                    attributes=self._attributes(),
                    tags=self._tags(),
                    mode="create" if self._backend.atomic_create else "overwrite",
                    use_multipart=False,
                )
            except obstore_errors() as error:
                if not self._was_ours(error):
                    continue
            return
        raise BackendUnavailableError(
            "commit: another writer of the key gets in the way",
            operation="commit",
            backend="obstore",
            location=self._location,
        )

    def _complete(self, upload: _Upload) -> None:
        if self._part.length:
            self._send_part()
        try:
            upload.finish()
        except obstore_errors() as error:
            if not self._was_ours(error):
                raise BackendUnavailableError(
                    "commit: the upload must begin anew",
                    operation="commit",
                    backend="obstore",
                    location=self._location,
                ) from error

    def _was_ours(self, error: Exception) -> bool:
        """Learn what an error of a commit means: True if our object is there, False if the commit may be repeated.

        Raises:
            ObjectExistsError: Another object is there.
            StorageError: What the error said; our object is not there, or it could not be learned.
        """
        said, code = self._failure(error, "commit"), error_code(error, self._key)
        taken = type(error).__name__ in ("AlreadyExistsError", "PreconditionError")
        refused = taken or code in _REFUSED or http_status(error, self._key) == 409
        if not refused and not isinstance(said, BackendUnavailableError):
            raise said from error
        try:
            found = self._backend._token_of(self._location)
        except ObjectNotFoundError:
            found = None
        except StorageError:
            raise said from error
        if found == self._token:
            return True
        if found is not None and taken:
            raise ObjectExistsError(
                "the key is taken", operation="commit", backend="obstore", location=self._location
            ) from error
        if found is None and code == _CONFLICT:
            return False
        raise said from error

    def _failure(self, error: BaseException, operation: str) -> StorageError:
        found = failure(error, operation, self._location, key=self._key)
        # Absent is the place to write to, not the object.
        return self._error(str(found), operation) if isinstance(found, ObjectNotFoundError) else found

    def _error(self, text: str, operation: str) -> BackendError:
        return BackendError(text, operation=operation, backend="obstore", location=self._location)

    def _check_open(self, operation: str) -> None:
        if self._closed:
            raise self._error("the writer is closed", operation)


class _Upload:
    """An upload under way: parts go in from any thread, and come out as an asynchronous iterator on the loop.

    Args:
        start: Starts it, given the iterator; runs until the upload has ended.
        at_once: How many parts may have gone in and still be in use.
    """

    def __init__(self, start: Any, at_once: int) -> None:
        self._loop = _loop()
        self._at_once = at_once
        self._room = threading.Semaphore(at_once)
        self._parts: asyncio.Queue[deque[Buffer] | None] = asyncio.Queue()
        self._given_up = False
        self._ended: Future[Any] = asyncio.run_coroutine_threadsafe(start(self), self._loop)
        self._ended.add_done_callback(self._forget)

    # -- the pushing side, in any thread -------------------------------------------------------------------------------

    def send_part(self, part: PartMemory) -> None:
        """Hand over a part, once there is room for it."""
        self._room.acquire()
        if self._ended.done():
            self._room.release()
            part.free()
            self._raise_end()
        # Whoever is last to use it may be anywhere, even in the midst of taking a lock: the loop does the accounting.
        self.send(part.hand_over(partial(_call, self._loop, self._was_freed, part.taken)))

    def send(self, content: Buffer) -> None:
        """Hand over bytes that are no part of our memory."""
        if self._ended.done():
            self._raise_end()
        self._put(deque([content]))  # a queue of one: whoever takes it out keeps no name for it

    def _raise_end(self) -> NoReturn:
        self._ended.result()
        raise BackendError("the upload has ended before its time", operation="write", backend="obstore")

    def finish(self) -> Any:
        """Wait until everything is sent and the object visible."""
        self._put(None)
        return self._ended.result()

    def give_up(self) -> None:
        """Wait for the parts that are under way, and remove the upload. Never raises."""
        with suppress(Exception):
            for _ in range(0 if self._ended.done() else self._at_once):
                self._room.acquire()
            self._given_up = True
            self._put(None)
            self._ended.exception()
            settled = threading.Event()
            self._loop.call_soon_threadsafe(self._forget, None)
            self._loop.call_soon_threadsafe(self._loop.call_soon, settled.set)  # after what that has freed
            settled.wait(1)

    def _put(self, item: deque[Buffer] | None) -> None:
        self._loop.call_soon_threadsafe(self._parts.put_nowait, item)

    # -- the pulling side, on the loop ---------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Buffer:
        item = await self._parts.get()
        if item is not None:
            return item.pop()
        if self._given_up:
            raise _GivenUpError
        raise StopAsyncIteration

    def _forget(self, _: object) -> None:
        while not self._parts.empty():
            self._parts.get_nowait()
        self._room.release(self._at_once)

    def _was_freed(self, taken: int) -> None:
        buffer_budget.give(taken)
        self._room.release()


def _call(loop: asyncio.AbstractEventLoop, callback: Any, *args: Any) -> None:
    with suppress(RuntimeError):  # the loop is closed: the interpreter ends
        loop.call_soon_threadsafe(callback, *args)


def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; made, with its thread, at first use."""
    library()
    with _starting:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="granite-obstore", daemon=True).start()
        return loop
