"""Direct uploads: routes by which a client is told how to send a file to the store itself, and has it taken over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ImproperlyConfiguredException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta

from granite_core import ConfigurationError, StagedFile, UploadGoneError, UploadNotFoundError
from granite_core.uploads import (
    AsyncDirect,
    AsyncUploads,
    DirectInstructions,
    DirectSettings,
    StagedToken,
    UploadSession,
    UploadSettings,
    UploadTokens,
)
from granite_litestar._direct_bytes import take_bytes
from granite_litestar._openapi_problems import UploadProblem, denials, problem
from granite_litestar._subjects import Subject, subject_of
from granite_litestar.exceptions import UNLOGGED_PATH_OPT_KEY

if TYPE_CHECKING:
    from litestar.config.app import AppConfig
    from litestar.openapi.spec import SecurityRequirement
    from litestar.types import Guard

    from granite_litestar._streaming import UploadContext
    from granite_litestar.config import GraniteConfig

__all__ = [
    "DirectUploads",
    "NewDirectUpload",
    "begin_direct_form",
    "complete_direct_upload",
    "mount_direct_uploads",
]

_NO_STORE: Final = {"Cache-Control": "no-store"}
_SHA256: Final = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})\Z")
_SHA256_PATTERN: Final = "^(sha256:)?[0-9a-fA-F]{64}$"
_MAX_BODY: Final = 64 * 1024
_STATE_KEY: Final = "granite_direct_uploads"
"""Key in ``app.state`` of what is mounted, by its path."""

AnyRequest: TypeAlias = Request[Any, Any, Any]


class NewDirectUpload(msgspec.Struct, forbid_unknown_fields=True):
    """What a client says of a file that it wants to send.

    Args:
        name: The file's name.
        size: Its length in bytes; only a form may leave it out.
        type: The media type that it is said to be of.
        sha256: The SHA-256 of its bytes in hexadecimal, where the client knows it.
        form: Whether a plain form is to send it.
    """

    name: Annotated[str, Meta(description="The file's name.", max_length=1024)] | None = None
    size: Annotated[int, Meta(description="Length in bytes; only a form may leave it out.", ge=0)] | None = None
    type: Annotated[str, Meta(description="The media type it is said to be of.", max_length=255)] | None = None
    sha256: Annotated[str, Meta(description="SHA-256 in hexadecimal, if known.", pattern=_SHA256_PATTERN)] | None = None
    form: Annotated[bool, Meta(description="Whether a plain form is to send it.")] = False


@dataclass(frozen=True)
class DirectUploads:
    """Routes for uploads whose bytes go to the store itself, past the application.

    ``POST path`` begins one, and tells which requests send its bytes; ``GET path/{id}`` tells them again, and those for
    further parts (``?first=101``); ``POST path/{id}/complete`` has the application copy, measure and judge what was
    sent, and answers with a token as other uploads do; ``DELETE path/{id}`` gives up. On stores that take no requests
    of others the bytes go to ``path/bytes/…``, and a client sees no difference.

    Args:
        path: Where uploads are begun.
        storage_key: The policy whose rules apply: size, types, validators, hooks.
        guards: Litestar's guards.
        public: Says that everybody may upload. Without it, guards are needed.
        subject: Called with the connection; returns to whom an upload belongs, text or what ``str`` makes one of, None
            for nobody. Another one's upload is not found, and its token is good for nobody else. In place of
            ``TokenConfig(subject=…)``; without either, whoever knows an upload's id may go on with it. More than 255
            characters are answered with 400.
        settings: How long things may take.
        direct: How bytes are sent: when in parts, how long the signed requests are good.
        context: Called with the connection of what begins an upload; returns values for the names in the policy's
            ``key_template``. In place of ``GraniteConfig(context=…)``.
        form_redirect: Address of a page that browsers are sent to when a plain form has sent its file; ``?upload=`` and
            the id are added. Absolute, as stores want it. Without it the answer to a form is 204.
        name: The handlers' name, for ``route_reverse``; by default ``direct:`` and the path.
        security: What the API's description says of how to authenticate: nothing can be read from guards.
        raises: What the guards raise, for the API's description; 403 by default.
        tags: Tags of the API's description.
        include_in_schema: Whether the API's description tells of these routes.

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
    direct: DirectSettings = field(default_factory=DirectSettings)
    context: UploadContext | None = None
    form_redirect: str | None = None
    name: str | None = None
    security: Sequence[SecurityRequirement] | None = None
    raises: Sequence[type[HTTPException]] = ()
    tags: Sequence[str] | None = None
    include_in_schema: bool = True

    def __post_init__(self) -> None:
        if not self.guards and not self.public:
            raise ConfigurationError(
                f"{self.path}: who may upload? Give guards=[…], or public=True where everybody may"
            )
        if self.form_redirect is not None and not self.form_redirect.startswith(("https://", "http://")):
            raise ConfigurationError(
                f"{self.path}: form_redirect must be an absolute address", value=self.form_redirect
            )


async def begin_direct_form(
    request: AnyRequest, path: str, *, filename: str | None = None, content_type: str | None = None
) -> DirectInstructions:
    """Begin an upload that a plain form is to send, for the page that shows the form.

    The page puts the ``fields`` of ``request`` into hidden inputs, before a file input called ``file``, and posts them
    to its ``url`` as ``multipart/form-data``; so the store, or the application in its place, takes the file.

    Args:
        request: The page's request: tells whom the upload belongs to.
        path: Of the ``DirectUploads`` whose rules apply.
        filename: Name of the file; the store does not tell that of the one it took.
        content_type: Media type the file will claim; believed only where the bytes do not tell.

    Raises:
        ContentRejectedError: A hook of the policy refuses it.
        ImproperlyConfiguredException: Nothing is mounted there.
        BackendError: It cannot be begun now.
    """
    return await _routes_at(request, path).begun(request, filename=filename, content_type=content_type, form=True)


async def complete_direct_upload(request: AnyRequest, path: str, upload_id: str) -> StagedFile:
    """Have an upload taken over, for the page that a form led to; return its file, to be assigned to a field.

    Args:
        request: The page's request; of whom the upload belongs to.
        path: Of the ``DirectUploads`` that it was begun with.
        upload_id: What came as ``?upload=``.

    Raises:
        StorageError: As ``Direct.complete``.
        ImproperlyConfiguredException: Nothing is mounted there.
    """
    return (await _routes_at(request, path).completed(request, upload_id))[1]


def _routes_at(request: AnyRequest, path: str) -> _Routes:
    found: Any = request.app.state.get(_STATE_KEY, {}).get(path)
    if not isinstance(found, _Routes):
        raise ImproperlyConfiguredException(f"no DirectUploads({path!r}) is mounted")
    return found


class _Routes:
    """Answers the requests of one ``DirectUploads``."""

    def __init__(self, route: DirectUploads, provider: Callable[[], AsyncUploads]) -> None:
        self._route = route
        self._provider = provider

    def handlers(self) -> list[HTTPRouteHandler]:
        """Make the handlers."""
        base = self._route.path.rstrip("/")

        async def begin(data: Any, request: Any) -> Any:
            return await self.begin(data, request)

        async def tell(request: Any, upload_id: Any, first: Any = 1) -> Any:
            return await self.tell(request, upload_id, first)

        async def complete(request: Any, upload_id: Any) -> Any:
            return await self.complete(request, upload_id)

        async def discard(request: Any, upload_id: Any) -> Any:
            await self.discard(request, upload_id)

        async def take(request: Any) -> Any:
            return await take_bytes(self._direct(request), request, request.path_params["token"])

        any_request = Request[Any, Any, Any]
        page = Annotated[int, QueryParameter(ge=1, description="Number of the part to begin with, from 1.")]
        begin.__annotations__ = {
            "data": JSONBody[NewDirectUpload],
            "request": any_request,
            "return": Response[DirectInstructions],
        }
        begin.__doc__ = "Begin an upload, and be told which requests send its bytes to the store."
        tell.__annotations__ = {
            "request": any_request,
            "upload_id": FromPath[str],
            "first": page,
            "return": Response[DirectInstructions],
        }
        tell.__doc__ = "Be told anew which requests send an upload's bytes; of its parts, from one on."
        complete.__annotations__ = {"request": any_request, "upload_id": FromPath[str], "return": Response[StagedToken]}
        complete.__doc__ = "Have what was sent taken over, measured and judged; get the token that stands for the file."
        discard.__annotations__ = {"request": any_request, "upload_id": FromPath[str], "return": None}
        discard.__doc__ = "Give an upload up; what was sent is removed."
        take.__annotations__ = {"request": any_request, "return": Response[Any]}
        take.__doc__ = "Take bytes in the store's place."
        one = f"{base}/{{upload_id:str}}"
        return [
            self._handler(
                base or "/", "POST", begin, 201, "begin", [400, 409, 413, 415, 422], request_max_body_size=_MAX_BODY
            ),
            self._handler(one, "GET", tell, 200, "upload", [404, 409, 410]),
            self._handler(f"{one}/complete", "POST", complete, 200, "complete", [404, 409, 410, 413, 415, 422, 423]),
            self._handler(one, "DELETE", discard, 204, "discard", [404, 410]),
            HTTPRouteHandler(
                f"{base}/bytes/{{token:str}}",
                http_method=["PUT", "POST"],
                name=f"{self._name}:bytes",
                include_in_schema=False,
                request_max_body_size=None,
                # The address is the permission, as it would be one of the store's.
                opt={"exclude_from_csrf": True, "exclude_from_auth": True, UNLOGGED_PATH_OPT_KEY: True},
            )(take),
        ]

    def _handler(
        self, path: str, method: Any, called: Any, status: int, name: str, refusals: Sequence[int], **more: Any
    ) -> HTTPRouteHandler:
        route = self._route
        responses = {**denials(route.guards, None, 403, route.raises), **{each: _PROBLEMS[each] for each in refusals}}
        return HTTPRouteHandler(
            path,
            http_method=method,
            name=f"{self._name}:{name}",
            status_code=status,
            guards=[*route.guards],
            responses=responses,
            security=route.security,
            raises=route.raises,
            tags=route.tags,
            include_in_schema=route.include_in_schema,
            **more,
        )(called)

    # -- one request ---------------------------------------------------------------------------------------------------

    async def begin(self, data: NewDirectUpload, request: Request[Any, Any, Any]) -> Response[DirectInstructions]:
        """Begin an upload."""
        if data.size is None and not data.form:
            raise _no_size()
        digest = None if data.sha256 is None else _SHA256.match(data.sha256)
        told = await self.begun(
            request,
            filename=data.name,
            size=data.size,
            content_type=data.type,
            checksum=None if digest is None else f"sha256:{digest[1].lower()}",
            form=data.form,
        )
        location = f"{_base(request, self._route.path)}/{told.id}"
        return Response(told, status_code=201, headers={**_NO_STORE, "Location": location})

    async def begun(self, request: AnyRequest, **said: Any) -> DirectInstructions:
        """Begin an upload; see ``AsyncDirect.begin``."""
        direct = self._direct(request)
        session = await direct.begin(
            self._route.storage_key, subject=await self._subject(request), context=await self._context(request), **said
        )
        return await direct.instructions(session, redirect=self._redirect(session))

    async def tell(self, request: Request[Any, Any, Any], upload_id: str, first: int) -> Response[DirectInstructions]:
        """Tell the requests of an upload."""
        direct = self._direct(request)
        session = await self._find(direct, upload_id, await self._subject(request))
        told = await direct.instructions(session, first=first, redirect=self._redirect(session))
        return Response(told, headers=_NO_STORE)

    async def complete(self, request: Request[Any, Any, Any], upload_id: str) -> Response[StagedToken]:
        """Take over what was sent."""
        session, file = await self.completed(request, upload_id)
        token = UploadTokens.of(self._provider().sync.manager).issue(session)
        expires = session.expires_at.replace(microsecond=0)  # as it is sealed
        return Response(
            StagedToken(token, file.original_filename, file.size, file.content_type, expires), headers=_NO_STORE
        )

    async def completed(self, request: AnyRequest, upload_id: str) -> tuple[UploadSession, StagedFile]:
        """Have an upload taken over, and return its file."""
        direct, subject = self._direct(request), await self._subject(request)
        await self._find(direct, upload_id, subject)
        session = await direct.complete(upload_id, subject=subject)
        if session.file is None:
            raise UploadGoneError("the upload has ended", operation="complete")
        return session, session.file

    async def discard(self, request: Request[Any, Any, Any], upload_id: str) -> None:
        """Give an upload up."""
        direct, subject = self._direct(request), await self._subject(request)
        await self._find(direct, upload_id, subject)
        await direct.discard(upload_id, subject=subject)

    # -- what these have in common -------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self._route.name or f"direct:{self._route.path}"

    def _direct(self, request: Request[Any, Any, Any]) -> AsyncDirect:
        uploads = self._provider()
        public = (uploads.sync.manager.links.settings.public_url or "").rstrip("/")
        base = f"{public}{_base(request, self._route.path)}"
        return AsyncDirect(uploads, lambda token: f"{base}/bytes/{token}", self._route.direct)

    async def _find(self, direct: AsyncDirect, upload_id: str, subject: str) -> UploadSession:
        session = await direct.find(upload_id, subject=subject)
        if session.storage_key != self._route.storage_key:
            raise UploadNotFoundError("the upload was made elsewhere", operation="find")
        return session

    async def _subject(self, request: Request[Any, Any, Any]) -> str:
        return await subject_of(request, self._route.subject)

    async def _context(self, request: Request[Any, Any, Any]) -> Mapping[str, str] | None:
        find = self._route.context
        if find is None:
            return None
        found = find(request)
        return found if isinstance(found, Mapping) else await found

    def _redirect(self, session: UploadSession) -> str | None:
        page = self._route.form_redirect
        return None if page is None else f"{page}{'&' if '?' in page else '?'}upload={session.id}"


def _base(request: Request[Any, Any, Any], path: str) -> str:
    """The path under which a route is mounted, however the application is."""
    scope = request.scope
    shown = f"{scope.get('root_path', '').rstrip('/')}{scope['path']}"
    base = path.rstrip("/")
    return shown[: shown.rfind(base) + len(base)] if base and base in shown else f"{scope.get('root_path', '')}{base}"


def _no_size() -> HTTPException:
    from granite_litestar.exceptions import FieldError, FormValidationError

    return FormValidationError([FieldError("size", "required", "How many bytes there will be is needed.")])


_PROBLEMS: Final[dict[int, ResponseSpec]] = {
    400: problem("The request cannot be understood."),
    404: problem("There is no such upload."),
    409: problem("Not all bytes have come, or the upload is finished.", UploadProblem),
    410: problem("The upload has ended."),
    413: problem("The file is larger than allowed.", UploadProblem),
    415: problem("The file is of a type that is not accepted.", UploadProblem),
    422: problem("The content is refused, or its size or checksum is not what was announced.", UploadProblem),
    423: problem("The upload is being completed."),
}


def mount_direct_uploads(
    app_config: AppConfig,
    config: GraniteConfig,
    routes: Iterable[DirectUploads],
    provider: Callable[[DirectUploads], AsyncUploads],
) -> None:
    """Add direct uploads to an application.

    Args:
        app_config: Of the application being built.
        config: What its plugin sets up.
        routes: The uploads.
        provider: Gives a route its uploads, once the application runs.

    Raises:
        ConfigurationError: A policy is not there, or nothing seals tokens.
    """
    given = [_with_defaults(route, config) for route in routes]
    for route in given:
        config.manager.get_policy(route.storage_key)
    if given and config.manager.links.sealer is None:
        raise ConfigurationError(
            "direct uploads hand out sealed tokens: StorageManager(..., urls=UrlSettings(secrets=[...]))"
        )
    mounted = {route.path: _Routes(route, partial(provider, route)) for route in given}
    app_config.state[_STATE_KEY] = mounted
    for each in mounted.values():
        app_config.route_handlers.extend(each.handlers())


def _with_defaults(route: DirectUploads, config: GraniteConfig) -> DirectUploads:
    subject = route.subject or (config.tokens.subject if config.tokens is not None else None)
    return replace(route, subject=subject, context=route.context or config.context)
