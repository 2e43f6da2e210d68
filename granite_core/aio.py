"""The asynchronous manager: the only place where sync and async meet.

There is one implementation, the synchronous one. A one-shot verb is one hop of it to the backend's own bounded pool
of threads; a stream shares the intake, so that admitting bytes runs on the loop and only a full buffer costs a hop.
A cancelled hop is joined before the cancellation goes on: no thread works on behind a caller's back.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Final, Literal, TypeVar, Unpack, cast, overload

from granite_core._hops import INLINE_BYTES, AsyncObjectReader, Hop, hop, hop_or_undo, hop_to, joined, open_reader
from granite_core._open_source import OpenSource
from granite_core._pending import PendingFile
from granite_core.backends.base import Capability, ObjectReader, ObjectStat, ReadableStream, StorageBackend
from granite_core.claims import AsyncQuotas
from granite_core.errors import StorageError
from granite_core.hooks import Announcement, BeforeUpload
from granite_core.manager import PutOptions, StorageManager
from granite_core.progress import Meter, ProgressCallback
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.remote import FetchRules, RemoteFile
from granite_core.sources import Source, SourceInput, async_chunks, bytes_left, is_async_stream
from granite_core.staging import StagedWrite
from granite_core.validation import async_form, naming_the_field
from granite_core.verifying import VerifyingReader, is_whole

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path
    from typing import Any, Self

    from typing_extensions import Buffer

    from granite_core.policies import Delivery, StoragePolicy
    from granite_core.urls import Disposition, UrlPlan

__all__ = ["AsyncObjectReader", "AsyncStagedWrite", "AsyncStorageManager", "accepted", "answer", "hop", "joined"]


T = TypeVar("T")

VERIFY_BYTES: Final = 1024 * 1024
PIECE_BYTES: Final = 256 * 1024


class AsyncStorageManager:
    """The verbs of ``StorageManager`` for asynchronous code; nothing here blocks the event loop.

    Args:
        manager: The manager whose backends and policies are used.
    """

    def __init__(self, manager: StorageManager) -> None:
        self.sync: Final = manager

    @property
    def quotas(self) -> AsyncQuotas:
        """What scopes have stored; see ``StorageManager.quotas``."""
        return AsyncQuotas(self.sync.quotas)

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

    async def ask_before(self, announced: Announcement) -> None:
        """Have the hooks of its policy decide whether an upload may begin; see ``StorageManager.ask_before``."""
        policy = self.sync.get_policy(announced.storage_key)
        with self.sync.telling_of_refusals(announced.storage_key, announced.field):
            await _ask_before(self.sync.get_backend_for_policy(policy), policy.before_upload, announced)

    async def wait_for_hooks(self, at_most: timedelta | None = None) -> bool:
        """Wait for the hooks that are under way after commits; see ``StorageManager.wait_for_hooks``."""
        return await self.sync._aftermath.wait_async(at_most)

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
        write = self.stage(
            storage_key,
            filename=original_filename,
            content_type=content_type,
            expected_size=memoryview(content).nbytes,
            model_name=model_name,
            entity_id=entity_id,
            field_name=field_name,
            extra=extra,
            context=context,
        )
        return await write.put(lambda beneath: beneath.write(content))

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
        progress: ProgressCallback | None = None,
    ) -> StagedFile:
        """Store a stream and return its ref; see ``StorageManager.put_stream``.

        Args: as there; ``stream`` may also be asynchronous: an iterable of bytes, which is closed if it is an
        iterator, or have a ``read`` to be awaited. ``progress`` may be asynchronous, too.
        """
        write = self.stage(
            storage_key,
            filename=original_filename,
            content_type=content_type,
            model_name=model_name,
            entity_id=entity_id,
            field_name=field_name,
            extra=extra,
            context=context,
        )
        if is_async_stream(stream):
            return await write.put_chunks(async_chunks(stream), Meter(progress, None))
        reading = cast("ReadableStream", stream)
        return await write.put_stream(reading, Meter(progress, bytes_left(reading) if progress else None))

    async def put(self, storage_key: str, content: SourceInput, **options: Unpack[PutOptions]) -> StagedFile:
        """Store anything that can be stored, and return its ref; see ``StorageManager.put``.

        Args: as there; ``content`` may also be asynchronous: an iterable of bytes, which is closed if it is an
        iterator, or have a ``read`` to be awaited. ``progress`` may be asynchronous, too.
        """
        return await self.put_source(storage_key, Source(content), options)

    async def put_url(
        self, storage_key: str, url: str, *, rules: FetchRules | None = None, **options: Unpack[PutOptions]
    ) -> StagedFile:
        """Fetch a file from another server and store it while it comes; see ``StorageManager.put_url``.

        Threads of the manager's own wait for other servers, and none of a backend's.
        """
        return await self.put_source(storage_key, Source(RemoteFile(url, rules)), options)

    async def put_source(self, storage_key: str, source: Source, options: PutOptions) -> StagedFile:
        """Store a source; see ``put``."""
        manager, progress = self.sync, options.get("progress")
        with manager.telling_of_refusals(storage_key, options.get("field")):
            if source.is_async:
                chunks = source.chunks()
                known = OpenSource(stream=io.BytesIO(), filename=source.filename)
                write = AsyncStagedWrite(manager.stage_opened(storage_key, known, options))
                return await write.put_chunks(chunks, Meter(progress, None))
            if source.remote is not None:
                return await self._put_remote(storage_key, source.remote, options)
            backend = manager.get_backend_for_policy(storage_key)
            opened = await hop_or_undo(backend, source.open_here, lambda made: made.close())
            try:
                write = AsyncStagedWrite(manager.stage_opened(storage_key, opened, options))
                return await write.put_stream(opened.stream, Meter(progress, opened.size))
            finally:
                await hop(backend, opened.close)

    async def _put_remote(self, storage_key: str, file: RemoteFile, options: PutOptions) -> StagedFile:
        threads = self.sync.fetching.executor()
        fetch = await hop_to(threads, partial(file.begin, self.sync.fetch_rules))  # the first imports HTTP and TLS
        wait = partial(hop_to, threads, on_cancel=fetch.interrupt)
        try:
            opened = await wait(fetch.open)
            write = AsyncStagedWrite(self.sync.stage_opened(storage_key, opened, options))

            async def chunks() -> AsyncIterator[bytes]:
                while data := await wait(partial(opened.stream.read, PIECE_BYTES)):
                    yield data

            return await write.put_chunks(chunks(), Meter(options.get("progress"), opened.size))
        finally:
            fetch.close()

    async def copy(
        self,
        ref: StoredObjectRef,
        storage_key: str | None = None,
        *,
        context: Mapping[str, str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> StagedFile:
        """Store the same content again under a new key; see ``StorageManager.copy``."""
        write = AsyncStagedWrite(self.sync.stage_copy(ref, storage_key, context=context))
        return await write.put_copy(self.sync.backend_of(ref), ref, Meter(progress, ref.size))

    async def get(self, ref: StoredObjectRef, *, verify: bool | None = None) -> bytes:
        """Return the whole content; see ``StorageManager.get``."""
        return await hop(self.sync.backend_of(ref), self.sync.get, ref, verify=verify)

    async def open(
        self, ref: StoredObjectRef, *, offset: int = 0, length: int | None = None, verify: bool | None = None
    ) -> AsyncObjectReader:
        """Open the content, or a range of it, for reading from front to back; see ``StorageManager.open``."""
        backend = self.sync.backend_of(ref)
        wanted = max(0, ref.size - offset) if length is None else length
        opening = partial(backend.open_reader, ref.location, offset=offset, length=length)
        if self.sync.verifies(ref, verify):
            if is_whole(ref, offset, length):
                opening = partial(_open_verifying, backend, ref)
            else:
                await self._read_through(ref)
        return await open_reader(backend, opening, wanted=wanted)

    async def _read_through(self, ref: StoredObjectRef) -> None:
        """Read an object to its end, piece by piece, so that a caller who is cancelled is heard soon."""
        async with await self.open(ref, verify=True) as reader:
            while await reader.read(VERIFY_BYTES):
                pass

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

    async def local_path(self, ref: StoredObjectRef) -> Path | None:
        """Return the file on disk that holds exactly an object; see ``StorageManager.local_path``."""
        backend = self.sync.backend_of(ref)
        if ref.size <= INLINE_BYTES or Capability.LOCAL_PATH not in backend.capabilities:
            return self.sync.local_path(ref)
        return await hop(backend, self.sync.local_path, ref)

    async def verify(self, ref: StoredObjectRef) -> None:
        """Hold the stored object against its ref; see ``StorageManager.verify``."""
        await hop(self.sync.backend_of(ref), self.sync.verify, ref)

    @overload
    async def url(
        self,
        file: StoredObjectRef,
        *,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
        filename: str | None = None,
        delivery: Delivery | None = None,
    ) -> str: ...

    @overload
    async def url(
        self,
        file: object,
        field: Any,
        *,
        item: StoredObjectRef | None = None,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
    ) -> str: ...

    async def url(self, file: Any, field: Any = None, **wanted: Any) -> str:
        """Return an address under which whoever has it may have a file; see ``StorageManager.url``."""
        if field is not None:
            return self.sync.url(file, field, **wanted)
        return await self.carry_out(self.sync.plan_url(file, **wanted))

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
    """An object on its way in; see ``StagedWrite``. As an async context manager it aborts unless committed.

    While a thread stores one buffer, the next is gathered here: two are held, and a third while pieces are joined.
    """

    def __init__(self, write: StagedWrite) -> None:
        self._write = write
        self._draining: Hop[None] | None = None

    @property
    def size(self) -> int:
        """Bytes admitted so far."""
        return self._write.size

    async def begin(self) -> None:
        """Ask the policy's hooks whether this may be stored, and reserve room; see ``StagedWrite.begin``."""
        if not self._write.has_begun:
            self._write.mark_begun()
            try:
                await _ask_before(self._write.backend, self._write.hooks_to_ask(), self._write.announced)
                if (claim := self._write.claim) is not None:
                    await claim.begin_async(partial(answer, self._write.backend))
            except BaseException as error:
                await hop(self._write.backend, self._write.fail, error)
                raise

    async def write(self, data: Buffer) -> None:
        """Take the next bytes; see ``StagedWrite.write``. That they cannot be stored may be told by a later call."""
        try:
            await self.begin()
            full = self._write.admit(data)
        except BaseException:
            try:
                await self._drained()  # what went wrong there went wrong before
            finally:
                await self.abort()
            raise
        if full:
            await self._drain()

    async def _drain(self) -> None:
        """Have a thread store what was gathered, once the buffer before it is stored."""
        await self._drained()
        judged, pieces = self._write.is_open, self._write.hand_over()
        try:
            self._draining = Hop(self._write.backend.executor(), partial(self._write.drain, pieces))
        except RuntimeError:  # no thread could be had
            self._write.take_back(pieces)
            raise
        if not judged:
            await self._drained()  # nothing more is taken of what the first bytes show to be unwanted

    async def _drained(self) -> None:
        """Wait until nothing is being stored; raise what went wrong with it."""
        draining, self._draining = self._draining, None
        if draining is not None:
            await draining.joined()

    async def commit(self) -> StagedFile:
        """Make the object durable, have it validated, and return its ref; see ``StagedWrite.commit``.

        Asynchronous validators are awaited here. When the caller is cancelled meanwhile, what was stored is let go.
        """
        await self.begin()
        try:
            await self._drained()
        except BaseException:
            await self.abort()
            raise
        return await accepted(await hop_or_undo(self._write.backend, self._write.store, PendingFile.discard))

    async def put(self, fill: Callable[[StagedWrite], object]) -> StagedFile:
        """Let a blocking call write everything, in the backend's threads, and commit.

        Args:
            fill: Is given the write beneath, and neither commits nor aborts it.
        """
        await self.begin()

        def store() -> PendingFile:
            with self._write as write:
                fill(write)
                return write.store()

        return await accepted(await hop_or_undo(self._write.backend, store, PendingFile.discard))

    async def put_stream(self, stream: ReadableStream, meter: Meter) -> StagedFile:
        """Write a blocking stream, in the backend's threads, and commit; told of on the loop where anybody listens."""
        if not meter.is_wanted:
            return await self.put(lambda beneath: beneath.write_from(stream))
        async with self:
            await self.begin()
            await meter.tell_async(0)
            while await hop(self._write.backend, self._write.write_piece, stream):
                await meter.tell_async(self.size)
            return await self._told(await self.commit(), meter)

    async def put_chunks(self, chunks: AsyncIterator[bytes], meter: Meter) -> StagedFile:
        """Write what comes, never more than two buffers ahead of the store, and commit."""
        async with self, _closed(chunks):
            await self.begin()
            await meter.tell_async(0)
            async for data in chunks:
                await self.write(data)
                await meter.tell_async(self.size)
            return await self._told(await self.commit(), meter)

    async def put_copy(self, backend: StorageBackend, ref: StoredObjectRef, meter: Meter) -> StagedFile:
        """Write the content of a stored object, and commit."""
        if not meter.is_wanted:
            return await self.put(lambda beneath: beneath.copy_from(backend, ref))
        if self._write.copies_by_itself(backend):
            await meter.tell_async(0)
            stored = await self.put(lambda beneath: beneath.copy_from(backend, ref))
            return await self._told(stored, meter)
        reader = await hop_or_undo(backend, partial(backend.open_reader, ref.location), lambda opened: opened.close())
        try:
            return await self.put_stream(reader, meter)
        finally:
            await hop(backend, reader.close)

    async def _told(self, stored: StagedFile, meter: Meter) -> StagedFile:
        """Tell that a file is stored; when that fails, nobody has its ref and it goes."""
        try:
            await meter.tell_async(stored.size, at_end=True)
        except BaseException:
            with suppress(StorageError):
                await hop(self._write.backend, stored.discard)
            raise
        return stored

    async def abort(self) -> None:
        """Give up; nothing remains. Idempotent, never raises, and runs to its end even when cancelled."""
        try:
            with suppress(Exception):  # it has given up already
                await self._drained()
        finally:
            await hop(self._write.backend, self._write.abort)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.abort()


async def accepted(pending: PendingFile) -> StagedFile:
    """Have the validators look at a stored file: asynchronous ones here, the others in the backend's threads.

    When one refuses, or the caller is cancelled meanwhile, the file is let go.
    """
    try:
        for validator in pending.validators:
            with naming_the_field(pending.candidate):
                await _call(pending.backend, validator, pending.candidate)
    except BaseException as error:
        await hop(pending.backend, pending.refuse, error)
        raise
    return pending.staged


async def _ask_before(backend: StorageBackend, hooks: Iterable[BeforeUpload], announced: Announcement) -> None:
    for hook in hooks:
        with naming_the_field(announced):
            await _call(backend, hook, announced)


async def _call(backend: StorageBackend, hook: Callable[[T], object], given: T) -> None:
    """Call a validator or hook."""
    await answer(backend, hook, given)


async def answer(backend: StorageBackend, hook: Callable[[T], object], given: T) -> object:
    """Call a function of a policy: awaiting it where that can be done, else in the backend's threads."""
    form = async_form(hook)
    answer = form(given) if form is not None else await hop(backend, copy_context().run, hook, given)
    return await answer if isawaitable(answer) else answer


def _open_verifying(backend: StorageBackend, ref: StoredObjectRef) -> ObjectReader:
    return VerifyingReader(backend.open_reader(ref.location), ref)


@asynccontextmanager
async def _closed(chunks: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """End an asynchronous iterator on every way out: it may hold what has to be given back."""
    try:
        yield
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()
