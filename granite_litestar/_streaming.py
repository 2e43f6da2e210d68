"""How a request's body reaches the storage while it arrives: between the server and everything in Litestar.

Litestar calls guards, then reads the body, then opens dependencies, then calls the handler. The middleware wraps
``receive``, so that the first read, whoever asks for it, takes the whole body in, stages the files, and answers with
a small stand-in for it. A data transfer object hands the handler what was staged. When the request has ended, with
its answer sent, whatever was staged and not used is let go.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

import anyio
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType

from granite_core import (
    AsyncStagedWrite,
    AsyncStorageManager,
    ContentRejectedError,
    ContentTooLargeError,
    StagedFile,
    StorageError,
)
from granite_core.hooks import connection_factory
from granite_core.logs import describe_error, extra_of
from granite_litestar.exceptions import MalformedBodyError, UnsupportedBodyError, UploadInterruptedError

if TYPE_CHECKING:
    from litestar.connection import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.types import ASGIApp, HTTPReceiveMessage, HTTPScope, Receive, Scope, Send

__all__ = [
    "PLAN_KEY",
    "BodyPlan",
    "FileSink",
    "UploadContext",
    "UploadMiddleware",
    "UploadRequest",
    "result_of",
    "upload_of",
]

logger = logging.getLogger("granite.uploads")

PLAN_KEY: Final = "granite_body_plan"
"""Where a handler's ``opt`` holds what to do with its body."""

_STATE_KEY: Final = "_granite_upload"

_LENGTH: Final = re.compile(r"[0-9]{1,19}")
"""What no body passes has 19 digits; Python minds numbers of thousands."""

UploadContext: TypeAlias = (
    "Callable[[ASGIConnection[Any, Any, Any, Any]], Mapping[str, str] | Awaitable[Mapping[str, str]]]"
)
"""Gives values for the names in policies' ``key_template``, by an upload's connection."""


class BodyPlan(Protocol):
    """What to do with the bodies of one handler."""

    @property
    def max_body(self) -> int | None:
        """Largest body in bytes; None where nothing limits it."""

    def adapt(self, upload: UploadRequest) -> None:
        """Change what the application sees of the request, before it sees any."""

    async def read(self, upload: UploadRequest) -> bytes:
        """Take the body in, staging files with ``upload``, and return the stand-in that Litestar reads.

        Raises:
            StorageError: The content is refused, or cannot be stored.
            HTTPException: The body is refused.
        """


class UploadRequest:
    """One request whose body is taken in while it arrives.

    Args:
        plan: What to do with the body.
        manager: Stores the files.
        scope: The connection.
        receive: The server's ``receive``.
        warned: Names of the handlers that were warned of already.
        find_context: Gives the request's ``context``.
    """

    def __init__(
        self,
        plan: BodyPlan,
        manager: AsyncStorageManager,
        scope: HTTPScope,
        receive: Receive,
        warned: set[str],
        find_context: UploadContext | None = None,
    ) -> None:
        self.plan: Final = plan
        self.manager: Final = manager
        self.scope: Final = scope
        self.headers: Final = _headers(scope)
        self.result: Any = None
        """What the body became; set by the plan."""
        self.context: Mapping[str, str] = {}
        """Values for the names in policies' ``key_template``; known before the first byte is read."""
        self.stand_in_boundary = ""
        """Boundary of a form that stands in for a body that was none."""
        self._find_context = find_context
        self._receive = receive
        self._warned = warned
        self._lock = asyncio.Lock()
        self._staged: list[StagedFile] = []
        self._taken = 0
        self._more = True
        self._read = False
        self._error: Exception | None = None

    async def receive(self) -> HTTPReceiveMessage:
        """Stand in for the server's ``receive``: the first call takes the body in."""
        async with self._lock:
            if self._error is not None:
                raise self._error
            if not self._read:
                return {"type": "http.request", "body": await self._take(), "more_body": False}
        return await self._receive()  # type: ignore[return-value]  # any message of the body

    async def _take(self) -> bytes:
        try:
            self._refuse_early()
            self._warn_of_open_sessions()
            await self._take_context()
            stand_in = await self.plan.read(self)
        except BaseException as error:
            # Whoever reads again learns the same: half a body must never pass for a whole one.
            self._error = error if isinstance(error, Exception) else UploadInterruptedError(detail="cancelled")
            if isinstance(error, ContentRejectedError):
                self.manager.sync.events.refused(error)  # a limit of the body or the form; a policy has told already
            raise
        self._read = True
        return stand_in

    async def _take_context(self) -> None:
        if self._find_context is not None:
            found = self._find_context(self.connection())
            self.context = await found if inspect.isawaitable(found) else found

    def connection(self) -> Request[Any, Any, Any]:
        """Return the request as the handler's class of it."""
        return cast("Request[Any, Any, Any]", _connection_of(self.scope))

    def _refuse_early(self) -> None:
        """Refuse what the head of the request shows already, before a byte is asked for (and 100-continue sent)."""
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise UnsupportedBodyError(
                detail=f"The body of an upload must not have a Content-Encoding, this one has {coding!r}",
                headers={"Accept-Encoding": "identity"},
                extra={"code": "content_encoding", "value": coding},
            )
        announced = self.content_length
        if announced is not None:
            self._check_size(announced)

    def _warn_of_open_sessions(self) -> None:
        """Tell the operator, once for each handler, that a slow client would hold a database connection."""
        # advanced-alchemy keeps the sessions of a request here, and offers no public way to ask for all of them.
        sessions = cast("dict[str, Any]", self.scope.get("_aa_connection_state", {})).values()
        held = any(hasattr(session, "in_transaction") and session.in_transaction() for session in sessions)
        handler = self.scope["route_handler"]
        if not held or str(handler) in self._warned:
            return
        self._warned.add(str(handler))
        guards = [guard for layer in handler.ownership_layers for guard in layer.guards or ()]
        logger.warning(
            "%s: a database session is open while its upload arrives, and a slow client holds the connection; let "
            "what opens it before the handler, such as its guards (%s), commit, roll back or close it",
            handler,
            ", ".join(getattr(guard, "__qualname__", repr(guard)) for guard in guards) or "it has none",
            extra={"event": "open_session", "handler": str(handler)},
        )

    @property
    def content_length(self) -> int | None:
        """The announced length of the body in bytes, where there is one.

        Raises:
            MalformedBodyError: It is no length.
        """
        value = self.headers.get("content-length")
        if value is None:
            return None
        if not _LENGTH.fullmatch(value):
            raise MalformedBodyError(detail="The Content-Length is no number")
        return int(value)

    def _check_size(self, size: int) -> None:
        limit = self.plan.max_body
        if limit is not None and size > limit:
            raise ContentTooLargeError(
                f"the request's body: more than the {limit} bytes allowed", operation="put", limit=limit, value=size
            )

    async def next_chunk(self) -> bytes | None:
        """Wait for the next bytes of the body; None at its end.

        Raises:
            UploadInterruptedError: The client left.
            ContentTooLargeError: The body is over the plan's limit.
        """
        while self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise UploadInterruptedError(detail="The client left before its upload was complete")
            self._more = message.get("more_body", False)
            if data := message.get("body", b""):
                self._taken += len(data)
                self._check_size(self._taken)
                return data
        return None

    def own(self, staged: StagedFile) -> None:
        """Let a file go with the request unless something uses it."""
        self._staged.append(staged)

    async def release(self) -> None:
        """Let go what was staged and not used. Runs to its end even when the request is cancelled."""
        unused = [staged for staged in self._staged if not (staged.kept or staged.discarded)]
        if unused:
            await _joined(self._discard(unused))

    async def _discard(self, unused: list[StagedFile]) -> None:
        for staged in unused:
            try:
                await self.manager.discard(staged)
            except StorageError as error:
                extra = extra_of(staged, event="not_let_go", error=error.code)
                logger.warning(
                    "the unused upload %s could not be let go; the reconcile finds it: %s",
                    *(extra["object_id"], describe_error(error)),
                    extra=extra,
                )


class FileSink:
    """A file on its way from a request to the storage; opened by its first byte.

    Args:
        upload: The request.
        storage_key: The policy it is stored under.
        filename: The client's name for it.
        content_type: The client's word on its type.
        field: Its name for errors.
        expected_size: Its announced size in bytes.
        checksum: Its announced checksum, ``"sha256:…"``.
    """

    def __init__(
        self,
        upload: UploadRequest,
        storage_key: str,
        *,
        filename: str | None,
        content_type: str | None,
        field: str | None,
        expected_size: int | None = None,
        checksum: str | None = None,
    ) -> None:
        self._upload = upload
        self._write: AsyncStagedWrite = upload.manager.stage(
            storage_key,
            filename=filename or None,
            content_type=content_type,
            field=field,
            expected_size=expected_size,
            checksum=checksum,
            context=upload.context,
        )

    async def begin(self) -> None:
        """Have the policy's hooks decide, before a byte of the file is taken."""
        await self._write.begin()

    async def write(self, data: bytes) -> None:
        """Take the next bytes; waits while they are stored, and so holds the client back."""
        await self._write.write(data)

    async def commit(self) -> StagedFile:
        """Make the file durable, and let it go with the request unless something uses it."""
        staged = await self._write.commit()
        self._upload.own(staged)
        return staged

    async def abort(self) -> None:
        """Give up; nothing remains."""
        await self._write.abort()


class UploadMiddleware:
    """Puts an ``UploadRequest`` around every handler that takes its body in while it arrives.

    It must be the outermost middleware, so that whatever reads the body reads the stand-in.

    Args:
        manager: Stores the files.
        context: Gives values for the names in policies' ``key_template``.
    """

    def __init__(self, manager: AsyncStorageManager, context: UploadContext | None = None) -> None:
        self._manager = manager
        self._context = context
        self._warned: set[str] = set()

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application."""
        manager, warned, context = self._manager, self._warned, self._context

        async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
            connection_factory.set(partial(_connection_of, scope))
            plan: BodyPlan | None = scope["route_handler"].opt.get(PLAN_KEY)
            if plan is None or scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            upload = UploadRequest(plan, manager, scope, receive, warned, context)
            scope["state"][_STATE_KEY] = upload
            plan.adapt(upload)
            try:
                await app(scope, upload.receive, send)
            finally:
                await upload.release()

        return middleware


def _connection_of(scope: Scope) -> ASGIConnection[Any, Any, Any, Any]:
    """The connection as handlers have it: with its user, its path, its state."""
    if scope["type"] != ScopeType.HTTP:
        return ASGIConnection(scope)
    return cast("HTTPRouteHandler", scope["route_handler"]).resolve_request_class()(scope)


def upload_of(scope: Scope) -> UploadRequest:
    """Return the upload that the middleware put into a connection."""
    upload: UploadRequest = scope["state"][_STATE_KEY]
    return upload


def result_of(scope: Scope) -> Any:
    """Return what the upload of a connection became; None where there is none, or it is not read yet."""
    upload = scope["state"].get(_STATE_KEY)
    return upload.result if isinstance(upload, UploadRequest) else None


def _headers(scope: HTTPScope) -> dict[str, str]:
    """The request's fields by lower-case name, repeated ones joined (RFC 9110 section 5.2): none hides another."""
    fields: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields


async def _joined(work: Any) -> None:
    """Wait for some work to end, however often the caller is told to stop meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: list[asyncio.CancelledError] = []
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled.append(error)
    task.result()
    if cancelled:
        raise cancelled[0]
