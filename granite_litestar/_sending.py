"""Carrying a plan of ``granite_core.serving`` out: a file becomes ASGI messages, or others are asked to send it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec
from litestar.exceptions import HTTPException, NotFoundException
from litestar.response.base import ASGIResponse
from litestar.status_codes import HTTP_200_OK, HTTP_206_PARTIAL_CONTENT, HTTP_304_NOT_MODIFIED

from granite_core import ChecksumMismatchError, ObjectNotFoundError, StorageError
from granite_litestar._outcome import Outcome
from granite_litestar._pacing import ChunkPacer
from granite_litestar._pathsend import send_path, sends_paths
from granite_litestar.exceptions import status_of

if TYPE_CHECKING:
    from pathlib import Path

    from litestar.background_tasks import BackgroundTask, BackgroundTasks
    from litestar.datastructures import Cookie
    from litestar.types import Receive, Scope, Send

    from granite_core import AsyncObjectReader, AsyncStorageManager, Offload, StoredObjectRef
    from granite_core.serving import BodyPart, ServePlan

__all__ = ["ASGIFileDownload", "Handover"]

AT_ONCE_BYTES: Final = 64 * 1024
"""A body of at most so many bytes is read before anything of it is sent."""


class Handover(msgspec.Struct, frozen=True):
    """How the web server in front is asked to send a file.

    Args:
        offload: What it calls the files.
        headers: The answer's headers, all that do not depend on what it sends.
    """

    offload: Offload
    headers: Sequence[tuple[str, str]]


class ASGIFileDownload(ASGIResponse):
    """Carries a plan out: opens readers, sends their bytes, closes them on every way out."""

    __slots__ = ("_handover", "_manager", "_outcome", "_plan", "_ref")

    def __init__(
        self,
        manager: AsyncStorageManager,
        ref: StoredObjectRef,
        plan: ServePlan,
        *,
        headers: Iterable[tuple[str, str]],
        cookies: Iterable[Cookie],
        background: BackgroundTask | BackgroundTasks | None = None,
        handover: Handover | None = None,
    ) -> None:
        # As a response to HEAD: Litestar would add a type and a length of its own otherwise.
        super().__init__(background=background, cookies=cookies, is_head_response=True, status_code=plan.status)
        lasting = headers is plan.headers and plan.status in (HTTP_200_OK, HTTP_304_NOT_MODIFIED)
        self.headers.headers = [*_kept(plan.headers)] if lasting else _encoded(headers)
        self._handover = handover
        self._manager = manager
        self._ref = ref
        self._plan = plan
        self._outcome = Outcome(plan.status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response.

        Raises:
            NotFoundException: The object is missing; nothing was sent.
            ChecksumMismatchError: The object is not of the size that the ref says; nothing was sent.
            StorageError: The backend failed. If the head was sent already, the server closes the connection.
        """
        outcome = self._outcome
        try:
            if not self._plan.parts:
                await self._end(send, b"")
            elif self._handover is not None and await self._offload(self._handover, send):
                pass
            elif self._is_small:
                await self._send_at_once(send)
            elif not await self._send_path(scope, send):
                await self._send_file(receive, send)
        except StorageError as error:
            outcome.fail(error, status_of(error))
            raise
        finally:
            outcome.tell(self._manager, self._ref, scope)
        if self.background is not None:
            await self.background()

    async def _start(self, send: Send) -> None:
        if not self._outcome.started:
            await self.start_response(send)
            self._outcome.started = True

    async def _end(self, send: Send, body: bytes) -> None:
        """Send a response whose whole body is at hand."""
        await self._start(send)
        await send({"type": "http.response.body", "body": body, "more_body": False})
        self._outcome.sent = len(body)
        self._outcome.complete = True

    # -- by others -----------------------------------------------------------------------------------------------------

    async def _offload(self, handover: Handover, send: Send) -> bool:
        """Have the web server in front send the file, where it has a name for it."""
        path = await self._find_file()
        name = None if path is None else handover.offload.name_of(path)
        if name is None:
            return False
        told = ((handover.offload.header, name), ("Content-Length", "0"))
        self.headers.headers = _encoded((*handover.headers, *told))
        self.status_code = HTTP_200_OK  # the web server makes a 206 of it, or does not
        await self._end(send, b"")
        return True

    async def _send_path(self, scope: Scope, send: Send) -> bool:
        """Have the server send the file, where it offers that; a small one is sent sooner than a server opens it."""
        plan = self._plan
        if plan.status != HTTP_200_OK or not sends_paths(scope) or self._verifies:
            return False
        path = await self._find_file()
        if path is None:
            return False
        await self._start(send)
        if not await send_path(scope, send, path):
            return False
        self._outcome.sent = plan.content_length
        self._outcome.complete = True
        return True

    async def _find_file(self) -> Path | None:
        try:
            return await self._manager.local_path(self._ref)
        except ObjectNotFoundError as error:
            raise self._missing(error) from error

    # -- by ourselves --------------------------------------------------------------------------------------------------

    @property
    def _is_small(self) -> bool:
        """Whether all of the body is worth no more than one piece."""
        plan = self._plan
        return plan.content_length <= AT_ONCE_BYTES and len(plan.parts) == 1 and not self._verifies_first

    @property
    def _verifies_first(self) -> bool:
        """Whether the whole object is read before a range of it, which may take a while."""
        return self._plan.status == HTTP_206_PARTIAL_CONTENT and self._verifies

    async def _send_at_once(self, send: Send) -> None:
        """Read all before anything is sent: whatever goes wrong becomes a proper answer."""
        reader = await self._open_first()
        try:
            left, pieces = self._plan.content_length, []
            while left:
                pieces.append(await self._read(reader, left, left))
                left -= len(pieces[-1])
        finally:
            await reader.close()
        await self._end(send, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    async def _send_file(self, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()
        reader: AsyncObjectReader | None = None
        # uvicorn and granian take and drop what is sent to a client that left: only `receive` tells.
        watcher = asyncio.create_task(_watch_for_disconnect(receive, gone))
        try:
            reader = await (self._open_unless_gone(gone) if self._verifies_first else self._open_first())
            if reader is not None:
                # Where the first bytes are the last ones too, an object that is not what it was is a proper error.
                ahead = await reader.read(self._first_size) if self._verifies and not self._verifies_first else b""
                await self._start(send)
                await self._send_unless_gone(reader, send, gone, ahead)
        finally:
            watcher.cancel()
            if reader is not None:
                await reader.close()

    @property
    def _verifies(self) -> bool:
        return self._manager.sync.verifies(self._ref)

    @property
    def _first_size(self) -> int:
        return min(ChunkPacer.SMALLEST, self._plan.parts[0].length)

    async def _send_unless_gone(self, reader: AsyncObjectReader, send: Send, gone: asyncio.Event, ahead: bytes) -> None:
        try:
            await self._send_body(reader, send, gone, ahead)
            self._outcome.complete = not gone.is_set()
        except StorageError:
            if not gone.is_set():
                raise

    async def _send_body(self, first: AsyncObjectReader, send: Send, gone: asyncio.Event, ahead: bytes) -> None:
        pacer = ChunkPacer()
        *_, last = self._plan.parts
        for part in self._plan.parts:
            final = part is last and not self._plan.closing
            if part is self._plan.parts[0]:
                await self._send_part(part, first, send, gone, pacer, final=final, ahead=ahead)
            else:
                # The first part has been verified, and the whole object with it.
                opening = self._manager.open(self._ref, offset=part.offset, length=part.length, verify=False)
                async with await opening as reader:
                    await self._send_part(part, reader, send, gone, pacer, final=final)
            if gone.is_set():
                return
        if self._plan.closing:
            await send({"type": "http.response.body", "body": self._plan.closing, "more_body": False})
            self._outcome.sent += len(self._plan.closing)

    async def _send_part(
        self,
        part: BodyPart,
        reader: AsyncObjectReader,
        send: Send,
        gone: asyncio.Event,
        pacer: ChunkPacer,
        *,
        final: bool,
        ahead: bytes = b"",
    ) -> None:
        clock = asyncio.get_running_loop().time
        if part.prelude or not part.length:
            more = bool(part.length) or not final
            await send({"type": "http.response.body", "body": part.prelude, "more_body": more})
            self._outcome.sent += len(part.prelude)
        left = part.length
        while left and not gone.is_set():
            data, ahead = ahead or await self._read(reader, min(pacer.size, left), left), b""
            if gone.is_set():
                return
            left -= len(data)
            began = clock()
            await send({"type": "http.response.body", "body": data, "more_body": bool(left) or not final})
            self._outcome.sent += len(data)
            pacer.sent(len(data), clock() - began)

    async def _read(self, reader: AsyncObjectReader, size: int, left: int) -> bytes:
        data = await reader.read(size)
        if not data:
            raise StorageError(
                f"the stored object ended {left} bytes early",
                operation="read",
                backend=self._ref.backend,
                location=self._ref.location,
            )
        return data

    async def _open_unless_gone(self, gone: asyncio.Event) -> AsyncObjectReader | None:
        """Open the object, but stop when the client leaves meanwhile."""
        opening = asyncio.ensure_future(self._open_first())
        leaving = asyncio.ensure_future(gone.wait())
        try:
            await asyncio.wait((opening, leaving), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _dropped(opening)
            raise
        finally:
            leaving.cancel()
        if opening.done():
            return opening.result()
        await _dropped(opening)
        return None

    async def _open_first(self) -> AsyncObjectReader:
        """Open the object before anything is sent, so that what is wrong with it becomes a proper answer."""
        part = self._plan.parts[0]
        try:
            reader = await self._manager.open(self._ref, offset=part.offset, length=part.length)
        except ObjectNotFoundError as error:
            raise self._missing(error) from error
        if reader.size != self._ref.size:
            await reader.close()
            raise ChecksumMismatchError(
                f"the stored object has {reader.size} bytes, its ref says {self._ref.size}",
                operation="open",
                backend=self._ref.backend,
                location=self._ref.location,
                limit=self._ref.size,
                value=reader.size,
            )
        return reader

    def _missing(self, error: ObjectNotFoundError) -> NotFoundException:
        # A row that points at nothing is never normal, although the client is only told that there is no file.
        self._outcome.fail(error, HTTPStatus.NOT_FOUND, told=False)
        return NotFoundException("The file does not exist.")


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


@lru_cache(maxsize=512)
def _kept(headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    """The headers of a plan that nobody added to and that tells of no range: the same each time a file is asked for."""
    return _encoded(headers)


async def _dropped(opening: asyncio.Future[AsyncObjectReader]) -> None:
    """Stop what opens a reader that nobody wants any more."""
    opening.cancel()
    with suppress(asyncio.CancelledError, HTTPException, StorageError):
        await (await opening).close()


async def _watch_for_disconnect(receive: Receive, gone: asyncio.Event) -> None:
    """Set ``gone`` when the client has left; any body of the request is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()
