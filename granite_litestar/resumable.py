"""Resumable uploads: the routes of tus 1.0, which Uppy, tus-js-client, tuspy and others speak.

A client creates an upload, sends its bytes in as many requests as it takes, to whichever worker, and is given a token
when all have come. The token is handed in with a form, or as JSON, and attaches the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import ASGIMiddleware

from granite_core import (
    ConfigurationError,
    ContentRejectedError,
    StorageError,
    UploadGoneError,
    UploadNotFoundError,
    UploadOffsetError,
)
from granite_core.uploads import PARTIAL, AsyncUploads, UploadSession, UploadSettings, UploadStatus, UploadTokens
from granite_litestar import _tus as tus
from granite_litestar._arriving import Body, ClientLeftError, WrongChecksumError
from granite_litestar.exceptions import handle_storage_error

if TYPE_CHECKING:
    from litestar.config.app import AppConfig
    from litestar.connection import ASGIConnection
    from litestar.types import ASGIApp, Guard, HTTPResponseStartEvent, Receive, Scope, Send

__all__ = ["ResumableUploads", "Subject", "UploadsProvider", "admit_resumable_uploads", "build_resumable_handlers"]

Subject: TypeAlias = "Callable[[ASGIConnection[Any, Any, Any, Any]], str | Awaitable[str]]"
"""Says to whom a connection's uploads belong."""

UploadsProvider: TypeAlias = "Callable[[str], AsyncUploads]"
"""Gives the uploads of the database that keeps those of a policy."""

KIND: Final = "tus"
_ROUTE: Final = "route"
_METADATA: Final = "metadata"
_CONCAT: Final = "concat"
_ON_ALL: Final = ("OPTIONS", "POST")
_ON_ONE: Final = ("OPTIONS", "HEAD", "PATCH", "DELETE")
_OVERRIDE: Final = "x-http-method-override"
_NO_STORE: Final = {"Cache-Control": "no-store"}

EXPOSED: Final = (
    *("Location", "Tus-Version", "Tus-Resumable", "Tus-Max-Size", "Tus-Extension", "Tus-Checksum-Algorithm"),
    *("Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Expires", "Upload-Concat"),
    tus.TOKEN_HEADER,
)
SENT: Final = (
    *("Authorization", "Content-Type", "Tus-Resumable", "Upload-Offset", "Upload-Length", "Upload-Defer-Length"),
    *("Upload-Metadata", "Upload-Concat", "Upload-Checksum", "X-HTTP-Method-Override", "X-Requested-With"),
)
METHODS: Final = ("POST", "HEAD", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True)
class ResumableUploads:
    """Routes for uploads that survive cut connections, restarts and a change of worker (tus 1.0.0).

    All extensions of the protocol but ``checksum-trailer`` and ``concatenation-unfinished``. Guards decide before
    anything is read; only ``OPTIONS`` passes without them, as browsers send it without credentials.

    When all bytes have come, and the policy's validators accept them, the answer carries a token in the header
    ``Granite-Upload-Token``; so does each later answer to ``HEAD``. The client hands it in with whatever makes the row,
    and ``finished_upload`` gives its file.

    Args:
        path: Where uploads are created; an upload is below it.
        storage_key: The policy whose rules apply: size, types, validators.
        guards: Litestar's guards.
        public: Says that everybody may upload. Without it, guards are needed.
        subject: Called with the connection; returns to whom an upload belongs. Another one's upload is not found, and
            its token is good for nobody else. Without it, whoever knows an upload's address may go on with it.
        settings: How long things may take.
        allow_origins: Origins of other sites whose pages may upload, where the application has no ``CORSConfig`` for
            them; ``"*"`` for all. A ``CORSConfig`` of the application's is extended by what the protocol needs.
        context: Called with the connection of what creates an upload; returns values for the names in the policy's
            ``key_template``. In place of ``GraniteConfig(context=…)``.
        name: The handlers' name, for ``route_reverse``; by default ``uploads:`` and the path.
        tags: Tags of the API's description.

    Raises:
        ConfigurationError: Nothing says who may upload.
    """

    path: str
    _: KW_ONLY
    storage_key: str
    guards: Sequence[Guard] = ()
    public: bool = False
    subject: Subject | None = None
    settings: UploadSettings = field(default_factory=UploadSettings)
    allow_origins: Sequence[str] = ()
    context: Callable[[ASGIConnection[Any, Any, Any, Any]], Mapping[str, str] | Awaitable[Mapping[str, str]]] | None = (
        None
    )
    name: str | None = None
    tags: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not self.guards and not self.public:
            raise ConfigurationError(
                f"{self.path}: who may upload? Give guards=[…], or public=True where everybody may"
            )

    def handlers(self, provider: UploadsProvider) -> list[HTTPRouteHandler]:
        """Make the routes' handlers.

        Args:
            provider: Gives the uploads of the policy's database, once the application runs.
        """
        base = self.path.rstrip("/")
        routes = _Routes(self, provider)
        name = self.name or f"uploads:{self.path}"
        on_all, on_one = (base or "/"), f"{base}/{{upload_id:str}}"
        return [
            routes.handler(on_all, ["OPTIONS"], name=f"{name}:options", guarded=False),
            routes.handler(on_all, ["POST", "GET", "PUT", "PATCH", "DELETE"], name=name),
            routes.handler(on_one, ["OPTIONS"], name=f"{name}:upload:options", guarded=False),
            routes.handler(on_one, ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], name=f"{name}:upload"),
        ]


class _Routes:
    """Answers the requests of one ``ResumableUploads``."""

    def __init__(self, route: ResumableUploads, provider: UploadsProvider) -> None:
        self.route = route
        self._provider = provider

    def handler(self, path: str, methods: list[Any], *, name: str, guarded: bool = True) -> HTTPRouteHandler:
        async def answer(request: Any) -> Any:
            return await self.answer(request)

        async def describe(request: Any) -> Any:
            return self.describe(request)

        called = answer if guarded else describe
        called.__annotations__ = {"request": Request[Any, Any, Any], "return": Response[Any]}
        called.__doc__ = "Upload in several requests (tus 1.0.0)."
        return HTTPRouteHandler(
            path,
            http_method=methods,
            name=name,
            guards=[*self.route.guards] if guarded else [],
            middleware=[_Headers(self.route.allow_origins)],
            include_in_schema=False,
            request_max_body_size=None,
            # What changes anything has a header that no form can send, and no page of another origin unasked.
            opt={"exclude_from_csrf": True},
            tags=self.route.tags,
        )(called)

    @property
    def uploads(self) -> AsyncUploads:
        return self._provider(self.route.storage_key)

    # -- what the server can do ----------------------------------------------------------------------------------------

    def describe(self, request: Request[Any, Any, Any]) -> Response[Any]:
        """Answer ``OPTIONS``: of the protocol, and of browsers before they send anything else."""
        headers = {
            "Tus-Version": tus.VERSION,
            "Tus-Extension": ",".join(tus.EXTENSIONS),
            "Tus-Checksum-Algorithm": ",".join(tus.CHECKSUMS),
            "Allow": ", ".join(_ON_ONE if "upload_id" in request.path_params else _ON_ALL),
        }
        limit = self.uploads.sync.manager.get_policy(self.route.storage_key).max_size
        if limit is not None:
            headers["Tus-Max-Size"] = str(limit)
        if "access-control-request-method" in request.headers:
            headers["Access-Control-Allow-Methods"] = ", ".join(METHODS)
            headers["Access-Control-Allow-Headers"] = ", ".join(SENT)
            headers["Access-Control-Max-Age"] = "86400"
        return Response(None, status_code=204, headers=headers)

    # -- one request ---------------------------------------------------------------------------------------------------

    async def answer(self, request: Request[Any, Any, Any]) -> Response[Any]:
        """Answer a request by the method that it means."""
        method = request.headers.get(_OVERRIDE, request.method).upper()
        on_one = "upload_id" in request.path_params
        allowed = _ON_ONE if on_one else _ON_ALL
        if method == "OPTIONS":
            return self.describe(request)
        if method not in allowed:
            raise tus.TusError(405, "Method Not Allowed", headers={"Allow": ", ".join(allowed)})
        if request.headers.get("tus-resumable") != tus.VERSION:
            raise tus.TusError(412, f"Only tus {tus.VERSION} is spoken here", headers={"Tus-Version": tus.VERSION})
        try:
            subject = await self._subject(request)
            if method == "POST":
                return await self.create(request, subject)
            session = await self._find(request.path_params["upload_id"], subject)
            match method:
                case "HEAD":
                    return await self.tell(session)
                case "PATCH":
                    return await self.receive(request, session)
                case _:
                    await self.uploads.discard(session.id, kind=KIND, subject=subject)
                    return Response(None, status_code=204)
        except StorageError as error:
            return _answer_to(request, error)

    async def create(self, request: Request[Any, Any, Any], subject: str) -> Response[Any]:
        """Answer ``POST``: make an upload, and take what comes with it."""
        wanted = tus.parse_creation(request.headers)
        body = Body(request)
        has_body = body.length != 0 and (body.length is not None or "transfer-encoding" in request.headers)
        if has_body and not body.is_of_type(tus.OFFSET_TYPE):
            raise tus.TusError(415, f"Bytes come as {tus.OFFSET_TYPE}")
        if wanted.parts is not None:
            session = await self._join(request, wanted, subject)
            return self._created(request, session)
        session = await self._make(request, wanted, subject, wanted.length)
        if has_body or session.is_complete:
            session = await self._take(body, session, None)
        return self._created(request, session, offset=has_body)

    async def tell(self, session: UploadSession) -> Response[Any]:
        """Answer ``HEAD``: where an upload stands."""
        if session.is_complete and session.status is UploadStatus.RECEIVING and not session.held:
            session = await self.uploads.complete(session.id, kind=KIND, subject=session.subject)
        headers = {"Upload-Offset": str(session.offset), **_NO_STORE, **self._standing(session)}
        if session.length is None:
            headers["Upload-Defer-Length"] = "1"
        else:
            headers["Upload-Length"] = str(session.length)
        if metadata := session.details.get(_METADATA):
            headers["Upload-Metadata"] = metadata
        if concat := session.details.get(_CONCAT):
            headers["Upload-Concat"] = concat
        return Response(None, status_code=200, headers=headers)

    async def receive(self, request: Request[Any, Any, Any], session: UploadSession) -> Response[Any]:
        """Answer ``PATCH``: take bytes."""
        body = Body(request)
        if (session.details.get(_CONCAT) or "partial") != "partial":
            raise tus.TusError(403, "An upload that is made of others takes no bytes")
        if not body.is_of_type(tus.OFFSET_TYPE):
            raise tus.TusError(415, f"Bytes come as {tus.OFFSET_TYPE}")
        offset = tus.parse_number(request.headers, "Upload-Offset")
        if offset is None:
            raise tus.TusError(400, "Upload-Offset is missing")
        length = tus.parse_number(request.headers, "Upload-Length")
        checksum = tus.parse_checksum(request.headers.get("upload-checksum"))
        finished = session.status is UploadStatus.FINISHED
        if not (finished and offset == session.offset and body.length == 0):
            session = await self._take(body, session, checksum, offset=offset, length=length)
        headers = {"Upload-Offset": str(session.offset), **self._standing(session)}
        return Response(None, status_code=204, headers=headers)

    # -- what these have in common -------------------------------------------------------------------------------------

    async def _make(
        self,
        request: Request[Any, Any, Any],
        wanted: tus.Creation,
        subject: str,
        length: int | None,
    ) -> UploadSession:
        said = tus.parse_metadata(wanted.metadata)
        details: dict[str, Any] = {_ROUTE: self.route.path}
        if wanted.metadata:
            details[_METADATA] = wanted.metadata.strip()
        if wanted.concat is not None:
            details[_CONCAT] = wanted.concat
        if wanted.partial:
            details[PARTIAL] = True
        return await self.uploads.create(
            self.route.storage_key,
            kind=KIND,
            subject=subject,
            length=length,
            filename=said.get("filename") or said.get("name"),
            content_type=said.get("filetype") or said.get("type"),
            context=await self._context(request),
            details=details,
        )

    async def _take(
        self,
        body: Body,
        session: UploadSession,
        checksum: tus.Checksum | None,
        *,
        offset: int = 0,
        length: int | None = None,
    ) -> UploadSession:
        """Take a request's bytes; the session as it stands then."""
        total = length if session.length is None else session.length
        if total is not None and body.length is not None and session.offset == offset <= total < offset + body.length:
            raise tus.TusError(413, f"The upload has {total} bytes, and these are more")
        try:
            return await body.take(self.uploads, session, checksum, offset=offset, length=length, kind=KIND)
        except WrongChecksumError as error:
            raise tus.TusError(460, "Checksum Mismatch") from error
        except ClientLeftError:
            return await self.uploads.find(session.id, kind=KIND, subject=session.subject)

    async def _join(self, request: Request[Any, Any, Any], wanted: tus.Creation, subject: str) -> UploadSession:
        """Make an upload of others, which go when it is finished."""
        parts = [await self._find(each, subject) for each in wanted.parts or ()]
        for each in parts:
            if not each.details.get(PARTIAL):
                raise tus.TusError(400, "Only partial uploads can be joined")
            if each.status is not UploadStatus.FINISHED:
                raise tus.TusError(409, "A part is not complete yet")
        session = await self._make(request, wanted, subject, sum(each.offset for each in parts))
        manager = self.uploads.sync.manager
        reception = await self.uploads.receive(session.id, offset=0, kind=KIND, subject=subject)
        try:
            for each in parts:
                if each.file is not None:
                    await reception.copy(manager.get_backend(each.backend), each.file)
            finished = await reception.finish()
        except BaseException:
            await reception.close(keep=False)
            await self._drop([session], subject)
            raise
        await self._drop(parts, subject)
        return finished or session

    async def _drop(self, sessions: Sequence[UploadSession], subject: str) -> None:
        for each in {each.id: each for each in sessions}.values():
            try:
                await self.uploads.discard(each.id, kind=KIND, subject=subject)
            except (UploadNotFoundError, UploadGoneError):
                continue

    def _created(
        self, request: Request[Any, Any, Any], session: UploadSession, *, offset: bool = False
    ) -> Response[Any]:
        scope = request.scope
        base = f"{scope.get('root_path', '').rstrip('/')}{scope['path'].rstrip('/')}"
        headers = {"Location": f"{base}/{session.id}", **self._standing(session)}
        if offset or session.status is UploadStatus.FINISHED:
            headers["Upload-Offset"] = str(session.offset)
        return Response(None, status_code=201, headers=headers)

    def _standing(self, session: UploadSession) -> dict[str, str]:
        """The headers of every answer about an upload: until when it lives, and what attaches it."""
        headers = {"Upload-Expires": tus.http_date(session.expires_at)}
        if session.status is UploadStatus.FINISHED and not session.details.get(PARTIAL):
            headers[tus.TOKEN_HEADER] = self.tokens.issue(session)
            headers |= _NO_STORE
        return headers

    @property
    def tokens(self) -> UploadTokens:
        return UploadTokens.of(self.uploads.sync.manager)

    async def _find(self, upload_id: str, subject: str) -> UploadSession:
        session = await self.uploads.find(upload_id, kind=KIND, subject=subject)
        if session.storage_key != self.route.storage_key or session.details.get(_ROUTE) != self.route.path:
            raise UploadNotFoundError("the upload was made elsewhere", operation="find")
        return session

    async def _subject(self, request: Request[Any, Any, Any]) -> str:
        if self.route.subject is None:
            return ""
        found = self.route.subject(request)
        return await found if inspect.isawaitable(found) else found

    async def _context(self, request: Request[Any, Any, Any]) -> Mapping[str, str] | None:
        if self.route.context is None:
            return None
        found = self.route.context(request)
        return await found if inspect.isawaitable(found) else found


class _Headers(ASGIMiddleware):
    """What every answer says, whoever gives it: the version, and which origins may read it."""

    def __init__(self, allow_origins: Sequence[str]) -> None:
        self._allowed = tuple(allow_origins)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Add headers to the answer."""
        origin = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"), None)
        allowed = tus.origin_allowed(origin, self._allowed)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                _add(message, {"Tus-Resumable": tus.VERSION})
                if allowed is not None:
                    _add(
                        message,
                        {
                            "Access-Control-Allow-Origin": allowed,
                            "Access-Control-Expose-Headers": ", ".join(EXPOSED),
                            "Vary": "Origin",
                        },
                    )
            await send(message)

        await next_app(scope, receive, send_with_headers)


def _add(message: HTTPResponseStartEvent, headers: Mapping[str, str]) -> None:
    there = {name.lower() for name, _ in message["headers"]}
    added = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    message["headers"] = [*message["headers"], *(each for each in added if each[0] not in there)]


def _answer_to(request: Request[Any, Any, Any], error: StorageError) -> Response[Any]:
    """The answer of the table, but where the protocol has another one."""
    if isinstance(error, UploadOffsetError) and error.operation == "put":
        raise tus.TusError(413, "More bytes came than the upload has") from error
    response = handle_storage_error(request, error)
    if isinstance(error, UploadOffsetError) and isinstance(error.limit, int):
        response.headers["Upload-Offset"] = str(error.limit)
    if isinstance(error, (UploadNotFoundError, UploadGoneError, ContentRejectedError)):
        response.headers["Cache-Control"] = "no-store"
    return response


def admit_resumable_uploads(app_config: AppConfig, routes: Sequence[ResumableUploads]) -> None:
    """Let an application's own ``CORSConfig`` admit what the protocol needs; its origins stay its own.

    Args:
        app_config: Of the application being built.
        routes: Its resumable uploads; without any nothing happens.
    """
    config = app_config.cors_config
    if config is None or not routes:
        return
    app_config.cors_config = replace(
        config,
        allow_methods=_with(config.allow_methods, METHODS),
        allow_headers=_with(config.allow_headers, SENT),
        expose_headers=_with(config.expose_headers, EXPOSED),
    )


def _with(known: Sequence[Any], wanted: Sequence[str]) -> list[Any]:
    if "*" in known:
        return [*known]
    there = {str(each).lower() for each in known}
    return [*known, *(each for each in wanted if each.lower() not in there)]


def build_resumable_handlers(
    routes: Sequence[ResumableUploads], provider: Callable[[ResumableUploads], AsyncUploads]
) -> list[HTTPRouteHandler]:
    """Make the handlers of several routes.

    Args:
        routes: The application's.
        provider: Gives a route its uploads, once the application runs.
    """
    return [handler for route in routes for handler in route.handlers(lambda _, route=route: provider(route))]  # type: ignore[misc]
