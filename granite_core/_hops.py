"""Blocking calls on behalf of an event loop: made in a backend's own threads, and joined whatever happens.

A cancelled hop is joined before the cancellation goes on: no thread works on behind a caller's back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, ParamSpec, TypeVar, cast

from granite_core._pool import begin
from granite_core.backends.base import Capability, ObjectReader, StorageBackend

if TYPE_CHECKING:
    from typing import Self

__all__ = ["INLINE_BYTES", "AsyncObjectReader", "Hop", "hop", "hop_or_undo", "hop_to", "joined", "open_reader"]

P = ParamSpec("P")
T = TypeVar("T")

INLINE_BYTES: Final = 64 * 1024
"""A local read of at most so many bytes costs less than the hop to a thread: it is done on the loop."""


async def hop(backend: StorageBackend, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call in the backend's threads, and join it even when the caller is cancelled meanwhile."""
    return await hop_to(backend.executor(), partial(call, *args, **kwargs))


async def hop_to(executor: Executor, call: Callable[[], T], *, on_cancel: Callable[[], object] | None = None) -> T:
    """Run a blocking call in some threads; see ``hop``.

    Args:
        executor: The threads.
        call: What blocks.
        on_cancel: Asks it to end early; called when the caller is cancelled.
    """
    return await Hop(executor, call).joined(on_cancel)


class Hop(Generic[T]):
    """A blocking call that was begun in a thread, and has to be joined. One future waits for it.

    ``run_in_executor`` and ``shield`` would make two, and chain them by callbacks.

    Args:
        executor: The threads.
        call: What blocks.

    Raises:
        RuntimeError: There is no thread for it; the call will never be made.
    """

    __slots__ = ("_answer", "_done", "_error", "_loop", "_waiter")

    def __init__(self, executor: Executor, call: Callable[[], T]) -> None:
        self._answer: T | None = None
        self._done = False
        self._error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        begin(executor, partial(self._run, call))

    async def joined(self, on_cancel: Callable[[], object] | None = None) -> T:
        """Wait for the call's end, and return or raise what it did; wait even when the caller is cancelled meanwhile.

        Args:
            on_cancel: Asks it to end early; called when the caller is cancelled.
        """
        try:
            await self._ended()
        except asyncio.CancelledError:
            if on_cancel is not None:
                on_cancel()
            while not self._done:
                # Told again to stop: the thread cannot be, so its end is still waited for.
                with suppress(asyncio.CancelledError):
                    await self._ended()
            self._error = None  # the cancellation is what the caller hears of
            raise
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it would be held by its own traceback
        return cast("T", self._answer)

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._answer = call()
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._done = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _ended(self) -> None:
        if not self._done:
            self._waiter = self._loop.create_future()
            await self._waiter


async def joined(future: asyncio.Future[T], on_cancel: Callable[[], object] | None = None) -> T:
    """Wait for work in a thread, and for its end even when the caller is cancelled meanwhile.

    Args:
        future: The work.
        on_cancel: Asks the work to end early; called when the caller is cancelled.
    """
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                # Told again to stop: the thread cannot be, so its end is still waited for.
                continue
        if not future.cancelled():
            future.exception()  # retrieved: the cancellation is what the caller hears of
        raise


async def hop_or_undo(backend: StorageBackend, call: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Hop, and undo what the call made when its caller was cancelled meanwhile: nobody else holds the result."""
    made: list[T] = []

    def run() -> T:
        made.append(call())
        return made[0]

    try:
        return await hop(backend, run)
    except asyncio.CancelledError:
        for each in made:
            await hop(backend, undo, each)
        raise


async def open_reader(
    backend: StorageBackend, opening: Callable[[], ObjectReader], *, wanted: int
) -> AsyncObjectReader:
    """Open an object, or a range of it, for reading from front to back.

    Args:
        backend: Where it is.
        opening: Opens it; blocks.
        wanted: How many bytes that is thought to be: few of them are read on the loop where the disk is local.

    Raises:
        ObjectNotFoundError: The object is gone.
        BackendError: It cannot be opened.
    """
    inline = wanted <= INLINE_BYTES and Capability.LOCAL_PATH in backend.capabilities
    reader = opening() if inline else await hop_or_undo(backend, opening, lambda opened: opened.close())
    return AsyncObjectReader(backend, reader, inline)


class AsyncObjectReader:
    """An object, or a range of it, being read from front to back. Made by ``AsyncStorageManager.open``."""

    def __init__(self, backend: StorageBackend, reader: ObjectReader, inline: bool) -> None:
        self._backend = backend
        self._reader = reader
        self._inline = inline
        self.size: Final = reader.size
        """Length in bytes of the whole object, whatever range is read."""

    async def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; ``b""`` only at the end of the range; all that is left for -1.

        Raises:
            ObjectNotFoundError: The object has gone meanwhile.
            BackendError: The bytes cannot be had.
        """
        if self._inline:
            return self._reader.read(size)
        if 0 <= size <= INLINE_BYTES and (data := self._reader.read_at_hand(size)) is not None:
            return data
        return await hop(self._backend, self._reader.read, size)

    async def close(self) -> None:
        """Free what is held. Idempotent, and runs to its end even when cancelled."""
        if self._inline:
            self._reader.close()
        else:
            await hop(self._backend, self._reader.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
