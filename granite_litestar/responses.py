"""Sending stored files: a plan of ``granite_core.serving`` becomes ASGI messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal

from litestar.exceptions import HTTPException, ImproperlyConfiguredException, NotFoundException
from litestar.response import Response
from litestar.response.base import ASGIResponse
from litestar.status_codes import HTTP_206_PARTIAL_CONTENT

from granite_core import ChecksumMismatchError, ObjectNotFoundError, StorageError
from granite_core.serving import NO_STORE, PRIVATE_NO_CACHE, BodyPart, ServePlan, ServeSettings, plan_download
from granite_litestar._outcome import Outcome
from granite_litestar._redirects import ASGIFileRedirect
from granite_litestar._state import async_manager_of
from granite_litestar.exceptions import status_of

if TYPE_CHECKING:
    from litestar import Litestar, Request
    from litestar.background_tasks import BackgroundTask, BackgroundTasks
    from litestar.datastructures import Cookie
    from litestar.enums import MediaType
    from litestar.types import Receive, ResponseCookies, ResponseHeaders, Scope, Send, TypeEncodersMap

    from granite_core import AsyncObjectReader, AsyncStorageManager, Delivery, StoredObjectRef, UrlPlan

__all__ = ["ASGIFileDownload", "ChunkPacer", "FileDownload"]

_DECIDED_BY_THE_PLAN: Final = frozenset(
    {
        "accept-ranges", "allow", "content-digest", "content-encoding", "content-length", "content-range",
        "content-type", "etag", "last-modified", "repr-digest", "transfer-encoding", "x-content-type-options",
    }
)  # fmt: skip
"""Headers that the bytes depend on: nobody else may set them on a file's response."""


class ChunkPacer:
    """How many bytes to read at a time: few for a slow peer, more the longer it keeps up.

    A stalled download holds two chunks (one here, one in the server), so a chunk grows only once the peer has taken
    several of its size without making us wait, and halves when it does not.
    """

    SMALLEST: Final = 64 * 1024
    LARGEST: Final = 1024 * 1024
    _PROMPT_SECONDS: Final = 0.02
    _STREAK: Final = 8

    def __init__(self) -> None:
        self.size = self.SMALLEST
        """Bytes to read next."""
        self._streak = 0

    def sent(self, seconds: float) -> None:
        """Note how long the server took to accept a chunk."""
        if seconds > self._PROMPT_SECONDS:
            self.size = max(self.SMALLEST, self.size // 2)
            self._streak = 0
            return
        self._streak += 1
        if self._streak >= self._STREAK:
            self.size = min(self.LARGEST, self.size * 2)
            self._streak = 0


class FileDownload(Response[None]):
    """A stored file as the response of a handler.

    Answers ranges and conditional requests, streams in constant memory, and lets go of the file when the client
    leaves. The handler is a route for GET and HEAD, since files are asked for by both::

        @route("/reports/{year:int}", http_method=["GET", "HEAD"], guards=[staff])
        async def report(year: int, db_session: NamedDependency[AsyncSession]) -> FileDownload:
            ...
            return FileDownload(report.file)

    HEAD, 304, 412 and 416 touch no storage. A missing object is a 404, and an error in the log of ``granite.served``.
    To other methods, for instance a POST that makes an export, the whole file is the answer.

    Headers and cookies that the application sets are kept. What describes the bytes (their type, length, range,
    validators and digests) is not the application's to set; a ``Content-Security-Policy`` is sent beside ours.

    Args:
        ref: The file to send, which the client may have: whoever returns it has checked that.
        disposition: ``"auto"`` shows safe types in the browser and offers the rest for download; ``"attachment"``
            offers everything for download. By default what the policy of the ref says.
        filename: Name to offer instead of the one the file came with.
        cache_control: Value of ``Cache-Control``.
        delivery: ``"stream"``, ``"redirect"`` or ``"auto"``: whether clients are sent to the store. By default what the
            policy of the ref says. Where the store has no address to send them to, the file is streamed.
        redirect_cache_control: Value of ``Cache-Control`` of the way there. By default it is asked each time.
        cross_origin_resource_policy: Which sites may embed the file.
        background: Task to run after the response.
        cookies: Cookies to set.
        headers: Further headers.

    Raises:
        ValueError: A value that cannot stand in a header.
    """

    __slots__ = ("_delivery", "_disposition", "_redirect_cache_control", "_settings", "ref")

    def __init__(
        self,
        ref: StoredObjectRef,
        *,
        disposition: Literal["auto", "attachment"] | None = None,
        filename: str | None = None,
        cache_control: str = PRIVATE_NO_CACHE,
        delivery: Delivery | None = None,
        redirect_cache_control: str = NO_STORE,
        cross_origin_resource_policy: Literal["same-origin", "same-site", "cross-origin"] = "same-origin",
        background: BackgroundTask | BackgroundTasks | None = None,
        cookies: ResponseCookies | None = None,
        headers: ResponseHeaders | None = None,
    ) -> None:
        super().__init__(content=None, background=background, cookies=cookies, headers=headers)
        self.ref = ref
        self._delivery = delivery
        self._disposition = disposition
        self._redirect_cache_control = redirect_cache_control
        self._settings = ServeSettings(
            disposition=disposition or "attachment",
            filename=filename,
            cache_control=cache_control,
            cross_origin_resource_policy=cross_origin_resource_policy,
        )

    def to_asgi_response(
        self,
        app: Litestar | None,
        request: Request[Any, Any, Any],
        *,
        background: BackgroundTask | BackgroundTasks | None = None,
        cookies: Iterable[Cookie] | None = None,
        encoded_headers: Iterable[tuple[bytes, bytes]] | None = None,
        headers: dict[str, str] | None = None,
        is_head_response: bool = False,
        media_type: MediaType | str | None = None,
        status_code: int | None = None,
        type_encoders: TypeEncodersMap | None = None,
    ) -> ASGIFileDownload | ASGIFileRedirect:
        """Plan the answer to a request. No I/O.

        Args:
            app: Not used.
            request: What the plan answers.
            background: Task of the handler, unless the response has its own.
            cookies: Cookies of the handler's layers.
            encoded_headers: Not used.
            headers: Headers of the handler's layers.
            is_head_response: Not used: the request says so.
            media_type: Not used: the file has its own.
            status_code: Not used: the plan has its own.
            type_encoders: Not used.

        Raises:
            ImproperlyConfiguredException: No manager, or the handler's response is to be cached by Litestar.
        """
        if getattr(request.route_handler, "cache", False):
            raise ImproperlyConfiguredException(
                "Litestar's response cache would hold whole files in memory, and give one range for another: "
                "remove `cache` from this handler and say `cache_control=` on FileDownload"
            )
        manager = async_manager_of(request.app)
        cookies = [*self.cookies, *(cookies or ())]
        background = self.background or background
        if (target := self._target(manager)) is not None:
            policy = ("Cross-Origin-Resource-Policy", self._settings.cross_origin_resource_policy)
            planned = (("Cache-Control", self._redirect_cache_control), policy)
            # How long the file may be kept says nothing about the way to it.
            own = {name: value for name, value in self.headers.items() if name.lower() != "cache-control"}
            merged = _merged(planned, layered=headers or {}, own=own)
            return ASGIFileRedirect(
                manager, self.ref, target, request.method, headers=merged, cookies=cookies, background=background
            )
        conditional = request.method in ("GET", "HEAD")
        plan = plan_download(
            request.method if conditional else "GET",
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]]
            if conditional
            else (),
            self.ref,
            now=manager.sync.now(),
            settings=self._resolved_settings(manager),
        )
        return ASGIFileDownload(
            manager,
            self.ref,
            plan,
            headers=_merged(plan.headers, layered=headers or {}, own=self.headers),
            cookies=cookies,
            background=background,
        )

    def _target(self, manager: AsyncStorageManager) -> UrlPlan | None:
        """Where to send the client, or None to stream."""
        if (self._delivery or manager.sync.policy_of(self.ref).delivery) == "stream":
            return None
        return manager.sync.plan_redirect(self.ref, disposition=self._disposition, filename=self._settings.filename)

    def _resolved_settings(self, manager: AsyncStorageManager) -> ServeSettings:
        if self._disposition is None:
            return self._settings.with_disposition(manager.sync.policy_of(self.ref).disposition)
        return self._settings


def _merged(
    planned: Sequence[tuple[str, str]], *, layered: dict[str, str], own: dict[str, Any]
) -> list[tuple[str, str]]:
    """Put the plan's headers and the application's together.

    Headers of the response itself override the plan's, those of its layers (``response_headers``, ``cache_control``)
    do not: an application that lets its pages be cached in public has not meant its private files.
    """
    decided = {name.lower() for name, _ in planned} | _DECIDED_BY_THE_PLAN
    override = {name.lower() for name in own} - _DECIDED_BY_THE_PLAN - {"content-security-policy"}
    headers = [(name, value) for name, value in planned if name.lower() not in override]
    for name, value in {**layered, **own}.items():
        key = name.lower()
        if key == "content-security-policy" or key in override or key not in decided:
            headers.append((name, str(value)))
    return headers


class ASGIFileDownload(ASGIResponse):
    """Carries a plan out: opens readers, sends their bytes, closes them on every way out."""

    __slots__ = ("_manager", "_outcome", "_plan", "_ref")

    def __init__(
        self,
        manager: AsyncStorageManager,
        ref: StoredObjectRef,
        plan: ServePlan,
        *,
        headers: list[tuple[str, str]],
        cookies: Iterable[Cookie],
        background: BackgroundTask | BackgroundTasks | None = None,
    ) -> None:
        # With its status Litestar would add a type and a length of its own to a response without them.
        super().__init__(
            background=background, cookies=cookies, headers=headers, is_head_response=True, status_code=plan.status
        )
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
            if self._plan.parts:
                await self._send_file(receive, send)
            else:
                await self.start_response(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                outcome.complete = True
        except StorageError as error:
            outcome.fail(error, status_of(error))
            raise
        finally:
            outcome.tell(self._manager, self._ref, scope)
        await self.after_response()

    async def _send_file(self, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()
        watcher: asyncio.Task[None] | None = None
        reader: AsyncObjectReader | None = None
        # The whole object is read before a range of it: that may take a while.
        verifies_first = self._plan.status == HTTP_206_PARTIAL_CONTENT and self._verifies
        try:
            if verifies_first or self._plan.content_length > ChunkPacer.SMALLEST:
                # uvicorn and granian take and drop what is sent to a client that left: only `receive` tells.
                watcher = asyncio.create_task(_watch_for_disconnect(receive, gone))
            reader = await (self._open_unless_gone(gone) if verifies_first else self._open_first())
            if reader is not None:
                # Where the first bytes are the last ones too, an object that is not what it was is a proper error.
                ahead = await reader.read(self._first_size) if self._verifies and not verifies_first else b""
                await self.start_response(send)
                self._outcome.started = True
                await self._send_unless_gone(reader, send, gone, ahead)
        finally:
            if watcher is not None:
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
            data, ahead = ahead or await reader.read(min(pacer.size, left)), b""
            if gone.is_set():
                return
            if not data:
                raise StorageError(
                    f"the stored object ended {left} bytes early",
                    operation="read",
                    backend=self._ref.backend,
                    location=self._ref.location,
                )
            left -= len(data)
            began = clock()
            await send({"type": "http.response.body", "body": data, "more_body": bool(left) or not final})
            self._outcome.sent += len(data)
            pacer.sent(clock() - began)

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
            # A row that points at nothing is never normal, although the client is only told that there is no file.
            self._outcome.fail(error, HTTPStatus.NOT_FOUND, told=False)
            raise NotFoundException("The file does not exist.") from error
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
