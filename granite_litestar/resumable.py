"""Resumable uploads: routes that Uppy, tus-js-client, tuspy and others speak to.

A client creates an upload, sends its bytes in as many requests as it takes, to whichever worker, and is given a token
when all have come. The token is handed in with a form, or as JSON, and attaches the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import ASGIMiddleware

from granite_core import ConfigurationError, StoragePolicy
from granite_core.uploads import AsyncUploads, UploadSettings
from granite_litestar import _draft as draft
from granite_litestar import _tus as tus
from granite_litestar._resumable_cors import CrossOrigin, check_origins
from granite_litestar._resumable_desk import Desk, UploadsProvider
from granite_litestar._resumable_draft import DraftProtocol
from granite_litestar._resumable_tus import TusProtocol
from granite_litestar._streaming import UploadContext
from granite_litestar._subjects import Subject
from granite_litestar._upload_mounts import prepared
from granite_litestar.exceptions import UNLOGGED_PATH_OPT_KEY

if TYPE_CHECKING:
    from litestar.config.app import AppConfig
    from litestar.types import ASGIApp, Guard, HTTPScope, Receive, Scope, Send

    from granite_litestar.config import GraniteConfig

__all__ = ["ResumableUploads", "Subject", "UploadsProvider", "mount_resumable_uploads"]

_ON_ALL: Final = ("OPTIONS", "POST")
_ON_ONE: Final = ("OPTIONS", "HEAD", "PATCH", "DELETE")
_OVERRIDE: Final = "x-http-method-override"
_METHODS: Final = ("OPTIONS", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_VERSION: Final = tus.VERSION.encode()


@dataclass(frozen=True)
class ResumableUploads:
    """Routes for uploads that survive cut connections, restarts and a change of worker.

    They speak tus 1.0.0, with all extensions but ``checksum-trailer`` and ``concatenation-unfinished``, and what the
    IETF drafts in its place (draft-ietf-httpbis-resumable-upload, interop versions 5 to 8); by its headers a request
    says which. Guards decide before anything is read; only ``OPTIONS`` passes without them, as browsers send it without
    credentials.

    When all bytes have come, and the policy's validators accept them, the answer carries a token in the header
    ``Granite-Upload-Token``; so does each later answer to ``HEAD``. The client hands it in with whatever makes the row,
    and ``finished_upload`` gives its file.

    The API's description leaves them out: their clients are libraries, which ask ``OPTIONS``.

    Args:
        path: Where uploads are created; an upload is below it.
        storage_key: The policy whose rules apply: size, types, validators.
        guards: Litestar's guards. They see the method that ``X-HTTP-Method-Override`` means; the application's own
            middleware sees the one that was sent, mostly ``POST``.
        public: Says that everybody may upload. Without it, guards are needed.
        subject: Called with the connection; returns to whom an upload belongs, text or what ``str`` makes one of, None
            for nobody. Another one's upload is not found, and its token is good for nobody else. In place of
            ``TokenConfig(subject=…)``; without either, whoever knows an upload's address may go on with it. More than
            255 characters are answered with 400.
        settings: How long things may take.
        allow_origins: Origins of other sites whose pages may upload, ``"*"`` for all. Without any, those of the
            application's ``CORSConfig`` may, where it has one. With either, these routes allow and expose what the
            protocol needs; what the ``CORSConfig`` says of other routes stays as it is. Whether a browser may send
            cookies, it alone says.
        context: Called with the connection of what creates an upload; returns values for the names in the policy's
            ``key_template``. In place of ``GraniteConfig(context=…)``.
        name: The handlers' name, for ``route_reverse``; by default ``uploads:`` and the path.

    Raises:
        ConfigurationError: Nothing says who may upload, or what is to be an origin is none.
    """

    path: str
    _: KW_ONLY
    storage_key: str
    guards: Sequence[Guard] = ()
    public: bool = False
    subject: Subject | None = None
    settings: UploadSettings = field(default_factory=UploadSettings)
    allow_origins: Sequence[str] = ()
    context: UploadContext | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.guards and not self.public:
            raise ConfigurationError(
                f"{self.path}: who may upload? Give guards=[…], or public=True where everybody may"
            )
        check_origins(self.path, self.allow_origins)

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
            routes.handler(on_all, ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], name=name),
            routes.handler(on_one, ["OPTIONS"], name=f"{name}:upload:options", guarded=False),
            routes.handler(on_one, ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], name=f"{name}:upload"),
        ]


class _Routes:
    """Answers the requests of one ``ResumableUploads``."""

    def __init__(self, route: ResumableUploads, provider: UploadsProvider) -> None:
        self._route = route
        self._desk = Desk(route, provider, "tus")
        self._tus = TusProtocol(self._desk)
        self._draft = DraftProtocol(Desk(route, provider, "draft"))

    def handler(self, path: str, methods: list[Any], *, name: str, guarded: bool = True) -> HTTPRouteHandler:
        async def answer(request: Any) -> Any:
            return await self.answer(request)

        async def describe(request: Any) -> Any:
            return self.describe(request)

        called = answer if guarded else describe
        called.__annotations__ = {"request": Request[Any, Any, Any], "return": Response[Any]}
        return HTTPRouteHandler(
            path,
            http_method=methods,
            name=name,
            guards=[*self._route.guards] if guarded else [],
            middleware=[_Protocol()],
            include_in_schema=False,
            request_max_body_size=None,
            # What changes anything has a header that no form can send, and no page of another origin unasked.
            opt={"exclude_from_csrf": True, UNLOGGED_PATH_OPT_KEY: "upload_id"},
        )(called)

    def describe(self, request: Request[Any, Any, Any]) -> Response[Any]:
        """Answer ``OPTIONS``: what the server can do."""
        on_one = "upload_id" in request.path_params
        return Response(None, status_code=204, headers=options_of(self._desk.policy, on_one=on_one))

    async def answer(self, request: Request[Any, Any, Any]) -> Response[Any]:
        """Answer a request by its method, in the protocol that it speaks."""
        on_one = "upload_id" in request.path_params
        allowed = _ON_ONE if on_one else _ON_ALL
        meant = request.headers.get(_OVERRIDE, request.method).upper()
        in_draft = await self._is_in_draft(request)
        if meant != request.method or not (meant in allowed or (meant == "GET" and on_one and in_draft)):
            raise tus.TusError(405, "Method Not Allowed", headers={"Allow": ", ".join(allowed)})
        if meant == "OPTIONS":
            return self.describe(request)
        if in_draft:
            return await self._draft.answer(request)
        if request.headers.get("tus-resumable") != tus.VERSION:
            raise tus.TusError(412, f"Only tus {tus.VERSION} is spoken here", headers={"Tus-Version": tus.VERSION})
        return await self._tus.answer(request)

    async def _is_in_draft(self, request: Request[Any, Any, Any]) -> bool:
        if draft.is_spoken(request.headers):
            return True
        if "tus-resumable" in request.headers or "upload_id" not in request.path_params:
            return False
        # A client of the RFC to come will not say so where it only asks or ends.
        return request.method in ("HEAD", "GET", "DELETE") and not await self._desk.knows(request)


class _Protocol(ASGIMiddleware):
    """The method that is meant, before guards look at it; and the version, in every answer, whoever gives it."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Change the request's method, and add a header to its answer.

        tus has any method be ignored beside the header. ``OPTIONS`` stays what it is: it passes without guards.
        """
        request = cast("HTTPScope", scope)
        asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in request["headers"]}
        meant = asked.get(_OVERRIDE, "").upper()
        in_draft, sent = draft.is_spoken(asked), request["method"]
        if meant in _METHODS and sent != "OPTIONS":
            request["method"] = cast("Any", meant)
        # What HEAD is answered has the length of a body, and no body: to a POST that answer would never end.
        has_no_body = request["method"] == "HEAD" and sent != "HEAD"

        async def send_as_asked(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"]]
                if not in_draft and (b"tus-resumable", _VERSION) not in headers:
                    headers.append((b"tus-resumable", _VERSION))
                if has_no_body:
                    headers = [each for each in headers if each[0].lower() != b"content-length"]
                    headers += [(b"content-length", b"0")] if message["status"] != HTTPStatus.NO_CONTENT else []
                message["headers"] = headers
                request["method"] = sent  # by which the server knows whether a body follows
            elif has_no_body and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            await next_app(scope, receive, send_as_asked)
        finally:
            request["method"] = sent


def options_of(policy: StoragePolicy, *, on_one: bool) -> dict[str, str]:
    """Return what ``OPTIONS`` says: what the server can do.

    Args:
        policy: Whose rules apply.
        on_one: Whether one upload is asked about.
    """
    headers = {
        "Tus-Resumable": tus.VERSION,
        "Tus-Version": tus.VERSION,
        "Tus-Extension": ",".join(tus.EXTENSIONS),
        "Tus-Checksum-Algorithm": ",".join(tus.CHECKSUMS),
        "Allow": ", ".join(_ON_ONE if on_one else _ON_ALL),
        "Accept-Patch": f"{tus.OFFSET_TYPE}, {draft.PARTIAL_TYPE}",
        **draft.told_limits(draft.NEWEST, max_size=policy.max_size),
    }
    if policy.max_size is not None:
        headers["Tus-Max-Size"] = str(policy.max_size)
    return headers


def mount_resumable_uploads(
    app_config: AppConfig,
    config: GraniteConfig,
    routes: Iterable[ResumableUploads],
    provider: Callable[[ResumableUploads], AsyncUploads],
) -> None:
    """Add resumable uploads to an application.

    Args:
        app_config: Of the application being built.
        config: What its plugin sets up.
        routes: The uploads.
        provider: Gives a route its uploads, once the application runs.

    Raises:
        ConfigurationError: A policy is not there, or nothing seals tokens.
    """
    manager = config.manager
    given = prepared(routes, config, "resumable uploads")

    def describe(route: ResumableUploads, on_one: bool) -> Mapping[str, str]:
        return options_of(manager.get_policy(route.storage_key), on_one=on_one)

    if cross_origin := CrossOrigin(given, app_config.path or "", app_config.cors_config, describe):
        app_config.before_send.append(cross_origin.before_send)
    for route in given:
        app_config.route_handlers.extend(route.handlers(partial(_uploads_of, provider, route)))


def _uploads_of(
    provider: Callable[[ResumableUploads], AsyncUploads], route: ResumableUploads, _storage_key: str
) -> AsyncUploads:
    return provider(route)
