"""What the routes of direct uploads answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias
from urllib.parse import quote

import msgspec
from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta

from granite_core import StagedFile, StoragePolicy, UploadGoneError, UploadNotFoundError, UploadOffsetError
from granite_core.uploads import (
    AsyncDirect,
    AsyncUploads,
    DirectInstructions,
    StagedToken,
    UploadSession,
    UploadTokens,
)
from granite_litestar._direct_bytes import take_bytes
from granite_litestar._openapi_problems import UploadProblem, denials, problem
from granite_litestar._subjects import subject_of
from granite_litestar.exceptions import (
    UNLOGGED_PATH_OPT_KEY,
    FieldError,
    FormValidationError,
    MalformedBodyError,
    UnsupportedBodyError,
)

if TYPE_CHECKING:
    from granite_litestar.direct import DirectUploads

__all__ = ["AnyRequest", "NewDirectUpload", "Routes"]

NO_STORE: Final = {"Cache-Control": "no-store"}
SHA256: Final = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
SHA256_PATTERN: Final = f"^{SHA256.pattern}$"  # of JSON Schema; in Python such a pattern lets a line end pass
PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
MAX_BODY: Final = 64 * 1024
ROUTE: Final = "route"
"""In the details of a session: where it was begun. Other routes may have other guards."""

AnyRequest: TypeAlias = Request[Any, Any, Any]

PROBLEMS: Final[dict[int, ResponseSpec]] = {
    400: problem("The request cannot be understood."),
    403: problem("You may not do this, or the application denies the upload (`upload_denied`)."),
    404: problem("There is no such upload."),
    409: problem("Not all bytes have come, or the upload is finished.", UploadProblem),
    410: problem("The upload has ended."),
    413: problem("The file is larger than allowed.", UploadProblem),
    415: problem("The file is of a type that is not accepted.", UploadProblem),
    422: problem("The content is refused, or its size or checksum is not what was announced.", UploadProblem),
    423: problem("The upload is being completed."),
}


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
    sha256: Annotated[str, Meta(description="SHA-256 in hexadecimal, if known.", pattern=SHA256_PATTERN)] | None = None
    form: Annotated[bool, Meta(description="Whether a plain form is to send it.")] = False


class Routes:
    """Answers the requests of one ``DirectUploads``.

    Args:
        route: What is mounted.
        policy: Its policy.
        provider: Gives the uploads, once the application runs.
    """

    def __init__(self, route: DirectUploads, policy: StoragePolicy, provider: Callable[[], AsyncUploads]) -> None:
        self._route = route
        self._policy = policy
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

        page = Annotated[int, QueryParameter(ge=1, description="Number of the part to begin with, from 1.")]
        begin.__annotations__ = {
            "data": JSONBody[NewDirectUpload],
            "request": AnyRequest,
            "return": Response[DirectInstructions],
        }
        begin.__doc__ = "Begin an upload, and be told which requests send its bytes to the store."
        tell.__annotations__ = {
            "request": AnyRequest,
            "upload_id": FromPath[str],
            "first": page,
            "return": Response[DirectInstructions],
        }
        tell.__doc__ = "Be told anew which requests send an upload's bytes; of its parts, from one on."
        complete.__annotations__ = {"request": AnyRequest, "upload_id": FromPath[str], "return": Response[StagedToken]}
        complete.__doc__ = "Have what was sent taken over, measured and judged; get the token that stands for the file."
        discard.__annotations__ = {"request": AnyRequest, "upload_id": FromPath[str], "return": None}
        discard.__doc__ = "Give an upload up; what was sent is removed."
        take.__annotations__ = {"request": AnyRequest, "return": Response[Any]}
        take.__doc__ = "Take bytes in the store's place."
        one = f"{base}/{{upload_id:str}}"
        refusals = [400, 409, 413, 415, 422, *([403] if self._policy.before_upload else [])]
        return [
            self._handler(base or "/", "POST", begin, 201, "begin", refusals, request_max_body_size=MAX_BODY),
            self._handler(one, "GET", tell, 200, "upload", [400, 404, 409, 410]),
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
        responses = {**denials(route.guards, None, 403, route.raises), **{each: PROBLEMS[each] for each in refusals}}
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

    async def begin(self, data: NewDirectUpload, request: AnyRequest) -> Response[DirectInstructions]:
        """Begin an upload."""
        if request.content_type[0] != MediaType.JSON:  # scripts of any origin may send other types
            raise UnsupportedBodyError(detail="What is to be sent is told as application/json")
        if data.size is None and not data.form:
            raise _wrong("size", "required", "How many bytes there will be is needed.")
        digest = None if data.sha256 is None else SHA256.fullmatch(data.sha256)
        if data.sha256 is not None and digest is None:
            raise _wrong("sha256", "invalid", "This is no SHA-256 in hexadecimal.")
        told = await self.begun(
            request,
            filename=data.name,
            size=data.size,
            content_type=data.type,
            checksum=None if digest is None else f"sha256:{digest[1].lower()}",
            form=data.form,
        )
        location = f"{self._base(request)}/{told.id}"
        return Response(told, status_code=201, headers={**NO_STORE, "Location": location})

    async def begun(self, request: AnyRequest, **said: Any) -> DirectInstructions:
        """Begin an upload; see ``AsyncDirect.begin``."""
        direct = self._direct(request)
        session = await direct.begin(
            self._route.storage_key,
            subject=await self._subject(request),
            context=await self._context(request),
            details={ROUTE: self._path(request)},
            **said,
        )
        return await direct.instructions(session, redirect=self._redirect(session))

    async def tell(self, request: AnyRequest, upload_id: str, first: int) -> Response[DirectInstructions]:
        """Tell the requests of an upload."""
        direct = self._direct(request)
        session = await self._find(request, direct, upload_id, await self._subject(request))
        try:
            told = await direct.instructions(session, first=first, redirect=self._redirect(session))
        except UploadOffsetError as error:
            if error.field is None:
                raise
            raise MalformedBodyError(
                detail="The upload has no such part", extra={"field": error.field, "limit": error.limit}
            ) from error
        return Response(told, headers=NO_STORE)

    async def complete(self, request: AnyRequest, upload_id: str) -> Response[StagedToken]:
        """Take over what was sent."""
        session, file = await self.completed(request, upload_id)
        token = UploadTokens.of(self._provider().sync.manager).issue(session)
        expires = session.expires_at.replace(microsecond=0)  # as it is sealed
        return Response(
            StagedToken(token, file.original_filename, file.size, file.content_type, expires), headers=NO_STORE
        )

    async def completed(self, request: AnyRequest, upload_id: str) -> tuple[UploadSession, StagedFile]:
        """Have an upload taken over, and return its file."""
        direct, subject = self._direct(request), await self._subject(request)
        await self._find(request, direct, upload_id, subject)
        session = await direct.complete(upload_id, subject=subject)
        if session.file is None:
            raise UploadGoneError("the upload has ended", operation="complete")
        return session, session.file

    async def discard(self, request: AnyRequest, upload_id: str) -> None:
        """Give an upload up."""
        direct, subject = self._direct(request), await self._subject(request)
        await self._find(request, direct, upload_id, subject)
        await direct.discard(upload_id, subject=subject)

    # -- what these have in common -------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self._route.name or f"direct:{self._route.path}"

    def _direct(self, request: AnyRequest) -> AsyncDirect:
        uploads = self._provider()
        public = (uploads.sync.manager.links.settings.public_url or "").rstrip("/")
        base = f"{public}{self._base(request)}"
        return AsyncDirect(uploads, lambda token: f"{base}/bytes/{token}", self._route.direct)

    def _base(self, request: AnyRequest) -> str:
        """Where the routes are, as a client sees it, whatever the application is mounted at."""
        return f"{request.scope.get('root_path', '').rstrip('/')}{self._path(request)}"

    def _path(self, request: AnyRequest) -> str:
        """Where the routes are within the application. Parameters of it are those of the request's own path."""
        found = request.app.get_handler_index_by_name(f"{self._name}:begin")
        template = found["paths"][0].rstrip("/") if found else ""
        try:
            return PARAMETER.sub(lambda match: quote(str(request.path_params[match[1]])), template)
        except KeyError as missing:
            raise ImproperlyConfiguredException(f"{template}: the page's own path must have {missing}") from None

    async def _find(self, request: AnyRequest, direct: AsyncDirect, upload_id: str, subject: str) -> UploadSession:
        session = await direct.find(upload_id, subject=subject)
        if session.storage_key != self._route.storage_key or session.details.get(ROUTE) != self._path(request):
            raise UploadNotFoundError("the upload was made elsewhere", operation="find")
        return session

    async def _subject(self, request: AnyRequest) -> str:
        return await subject_of(request, self._route.subject)

    async def _context(self, request: AnyRequest) -> Mapping[str, str] | None:
        find = self._route.context
        if find is None:
            return None
        found = find(request)
        return found if isinstance(found, Mapping) else await found

    def _redirect(self, session: UploadSession) -> str | None:
        page = self._route.form_redirect
        return None if page is None else f"{page}{'&' if '?' in page else '?'}upload={session.id}"


def _wrong(field: str, code: str, message: str) -> FormValidationError:
    return FormValidationError([FieldError(field, code, message)])
