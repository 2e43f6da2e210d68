"""The asynchronous manager: the only place where sync and async meet.

There is one implementation, the synchronous one. A one-shot verb is one hop of it to the backend's own bounded pool
of threads; a stream shares the intake, so that admitting bytes runs on the loop and only a full buffer costs a hop.
A cancelled hop is joined before the cancellation goes on: no thread works on behind a caller's back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeVar, cast

from granite_core.backends.base import Capability, ObjectReader, ObjectStat, ReadableStream, StorageBackend
from granite_core.manager import StorageManager
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.staging import StagedWrite

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any, Self

    from typing_extensions import Buffer

    from granite_core.policies import Delivery, StoragePolicy
    from granite_core.urls import Disposition, UrlPlan

__all__ = ["AsyncObjectReader", "AsyncStagedWrite", "AsyncStorageManager", "hop", "joined"]

P = ParamSpec("P")
T = TypeVar("T")

INLINE_BYTES: Final = 64 * 1024
"""A local read of at most so many bytes costs less than the hop to a thread: it is done on the loop."""


async def hop(backend: StorageBackend, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call in the backend's threads, and join it even when the caller is cancelled meanwhile."""
    loop = asyncio.get_running_loop()
    return await joined(loop.run_in_executor(backend.executor(), partial(call, *args, **kwargs)))


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


async def _hop_or_undo(backend: StorageBackend, call: Callable[[], T], undo: Callable[[T], object]) -> T:
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


class AsyncStorageManager:
    """The verbs of ``StorageManager`` for asynchronous code; nothing here blocks the event loop.

    Args:
        manager: The manager whose backends and policies are used.
    """

    def __init__(self, manager: StorageManager) -> None:
        self.sync: Final = manager

    def get_policy(self, storage_key: str) -> StoragePolicy:
        """Return a policy; see ``StorageManager.get_policy``."""
        return self.sync.get_policy(storage_key)

    def get_backend_for_policy(self, policy: str | StoragePolicy) -> StorageBackend:
        """Return the backend new objects of a policy go to; see ``StorageManager.get_backend_for_policy``."""
        return self.sync.get_backend_for_policy(policy)

    def stage(
        self,
        storage_key: str,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        field: str | None = None,
        expected_size: int | None = None,
        checksum: str | None = None,
        model_name: str | None = None,
        entity_id: object = None,
        field_name: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> AsyncStagedWrite:
        """Begin to store an object piece by piece; see ``StorageManager.stage``. No I/O, so nothing to await."""
        return AsyncStagedWrite(
            self.sync.stage(
                storage_key,
                filename=filename,
                content_type=content_type,
                field=field,
                expected_size=expected_size,
                checksum=checksum,
                model_name=model_name,
                entity_id=entity_id,
                field_name=field_name,
                extra=extra,
                context=context,
            )
        )

    async def put_bytes(
        self,
        storage_key: str,
        model_name: str | None = None,
        entity_id: object = None,
        field_name: str | None = None,
        *,
        content: bytes | bytearray | memoryview,
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> StagedFile:
        """Store bytes and return their ref; see ``StorageManager.put_bytes``."""
        put = partial(
            self.sync.put_bytes,
            storage_key,
            model_name,
            entity_id,
            field_name,
            content=content,
            content_type=content_type,
            original_filename=original_filename,
            extra=extra,
            context=context,
        )
        return await self.put_by(storage_key, put)

    async def put_stream(
        self,
        storage_key: str,
        model_name: str | None = None,
        entity_id: object = None,
        field_name: str | None = None,
        *,
        stream: ReadableStream | AsyncIterable[bytes],
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> StagedFile:
        """Store a stream and return its ref; see ``StorageManager.put_stream``.

        Args: as there; ``stream`` may also be asynchronous: an iterable of bytes, or have a ``read`` to be awaited.
        """
        pull = _async_chunks(stream)
        if pull is None:
            put = partial(
                self.sync.put_stream,
                storage_key,
                model_name,
                entity_id,
                field_name,
                stream=cast("ReadableStream", stream),
                content_type=content_type,
                original_filename=original_filename,
                extra=extra,
                context=context,
            )
            return await self.put_by(storage_key, put)
        async with self.stage(
            storage_key,
            filename=original_filename,
            content_type=content_type,
            model_name=model_name,
            entity_id=entity_id,
            field_name=field_name,
            extra=extra,
            context=context,
        ) as write:
            async for data in pull:
                await write.write(data)
            return await write.commit()

    async def put_by(self, storage_key: str, put: Callable[[], StagedFile]) -> StagedFile:
        """Run a blocking call that stores something under a policy, in its backend's threads.

        What was stored for a caller that was cancelled meanwhile is let go: nobody else holds its ref.

        Args:
            storage_key: The policy, which names the backend.
            put: Stores one object with the synchronous manager and returns it.
        """
        backend = self.sync.get_backend_for_policy(storage_key)
        return await _hop_or_undo(backend, put, StagedFile.discard)

    async def copy(
        self, ref: StoredObjectRef, storage_key: str | None = None, *, context: Mapping[str, str] | None = None
    ) -> StagedFile:
        """Store the same content again under a new key; see ``StorageManager.copy``."""
        copy = partial(self.sync.copy, ref, storage_key, context=context)
        return await self.put_by(storage_key or ref.storage_key, copy)

    async def get(self, ref: StoredObjectRef) -> bytes:
        """Return the whole content; see ``StorageManager.get``."""
        return await hop(self.sync.backend_of(ref), self.sync.get, ref)

    async def open(self, ref: StoredObjectRef, *, offset: int = 0, length: int | None = None) -> AsyncObjectReader:
        """Open the content, or a range of it, for reading from front to back; see ``StorageManager.open``."""
        backend = self.sync.backend_of(ref)
        wanted = max(0, ref.size - offset) if length is None else length
        inline = wanted <= INLINE_BYTES and Capability.LOCAL_PATH in backend.capabilities
        if inline:
            return AsyncObjectReader(backend, backend.open_reader(ref.location, offset=offset, length=length), inline)
        reader = await _hop_or_undo(
            backend,
            partial(backend.open_reader, ref.location, offset=offset, length=length),
            lambda opened: opened.close(),
        )
        return AsyncObjectReader(backend, reader, inline)

    async def check(self) -> None:
        """Have every backend look whether it can do what it claims; see ``StorageBackend.check``.

        Raises:
            ConfigurationError: One cannot; the message says what to change.
            BackendError: One cannot be asked.
        """
        for backend in self.sync.backends.values():
            await hop(backend, backend.check)

    async def exists(self, ref: StoredObjectRef) -> bool:
        """Tell whether the object is there; see ``StorageManager.exists``."""
        return await hop(self.sync.backend_of(ref), self.sync.exists, ref)

    async def stat(self, ref: StoredObjectRef) -> ObjectStat:
        """Return what the backend knows of the object; see ``StorageManager.stat``."""
        return await hop(self.sync.backend_of(ref), self.sync.stat, ref)

    async def verify(self, ref: StoredObjectRef) -> None:
        """Hold the stored object against its ref; see ``StorageManager.verify``."""
        await hop(self.sync.backend_of(ref), self.sync.verify, ref)

    async def url(
        self,
        ref: StoredObjectRef,
        *,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
        filename: str | None = None,
        delivery: Delivery | None = None,
    ) -> str:
        """Return an address of the file; see ``StorageManager.url``."""
        plan = self.sync.plan_url(
            ref, expires_in=expires_in, disposition=disposition, filename=filename, delivery=delivery
        )
        return await self.carry_out(plan)

    async def carry_out(self, plan: UrlPlan, *, method: Literal["GET", "HEAD"] = "GET") -> str:
        """Return the address that was planned; only one that the store signs costs a hop."""
        if plan.blocks:
            return await hop(plan.backend, self.sync.links.carry_out, plan, method=method)
        return self.sync.links.carry_out(plan)

    async def delete(self, ref: StoredObjectRef) -> None:
        """Delete the object now, whatever still points at it; see ``StorageManager.delete``."""
        await hop(self.sync.backend_of(ref), self.sync.delete, ref)

    async def discard(self, staged: StagedFile) -> bool:
        """Let go what was staged and not used; see ``StorageManager.discard``. Not undone by a cancellation."""
        return await hop(self.sync.backend_of(staged), staged.discard)


class AsyncStagedWrite:
    """An object on its way in; see ``StagedWrite``. As an async context manager it aborts unless committed."""

    def __init__(self, write: StagedWrite) -> None:
        self._write = write

    @property
    def size(self) -> int:
        """Bytes admitted so far."""
        return self._write.size

    async def write(self, data: Buffer) -> None:
        """Take the next bytes; see ``StagedWrite.write``."""
        try:
            full = self._write.admit(data)
        except BaseException:
            await self.abort()
            raise
        if full:
            await hop(self._write.backend, self._write.drain)

    async def commit(self) -> StagedFile:
        """Make the object durable and return its ref; see ``StagedWrite.commit``.

        When the caller is cancelled meanwhile, what was stored is let go again.
        """
        return await _hop_or_undo(self._write.backend, self._write.commit, StagedFile.discard)

    async def abort(self) -> None:
        """Give up; nothing remains. Idempotent, never raises, and runs to its end even when cancelled."""
        await hop(self._write.backend, self._write.abort)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.abort()


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


def _async_chunks(stream: object) -> AsyncIterator[bytes] | None:
    """The chunks of an asynchronous stream, or None where it is a synchronous one."""
    if isinstance(stream, AsyncIterable):
        return aiter(stream)
    read = getattr(stream, "read", None)
    if asyncio.iscoroutinefunction(read):
        return _awaited_chunks(cast("Callable[[int], Awaitable[bytes]]", read))
    return None


async def _awaited_chunks(read: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    while data := await read(INLINE_BYTES):
        yield data
