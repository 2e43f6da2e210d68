"""Routes that take a raw body: ready-made ones that put it into a row, and the marker for handlers of one's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from litestar import Request, Response
from litestar.exceptions import HTTPException, NotFoundException, PermissionDeniedException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Operation
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED, HTTP_412_PRECONDITION_FAILED

from granite_core import ConfigurationError, StagedFile, StoredObjectRef
from granite_core.serving import entity_tag
from granite_litestar._openapi_parts import OperationIds, amended
from granite_litestar._openapi_problems import denials
from granite_litestar._openapi_uploads import describe_upload_route, upload_route_answers
from granite_litestar._raw_body import RawUpload
from granite_litestar._rows import AnySession, Authorize, FoundRow, RowLookup, check_access, path_parameters, session_of
from granite_litestar._views import FileView, file_view

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler
    from litestar.openapi.spec import SecurityRequirement
    from litestar.types import Guard
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.sql.base import ExecutableOption

__all__ = ["PreconditionFailedError", "RawUpload", "UploadRoute", "build_upload_handlers", "precondition_holds"]

_ENTITY_TAG: Final = re.compile(r'(W/)?("[^"]*")')


class PreconditionFailedError(HTTPException):
    """The row's file is not the one the client knows: 412 (RFC 9110 section 15.5.13)."""

    status_code = HTTP_412_PRECONDITION_FAILED


@dataclass(frozen=True)
class UploadRoute:
    """A route, for PUT, that stores the request's body and makes it the file of a row.

    Parameters of the path name columns of the model, and must name one row. Guards and ``authorize`` decide before
    the first byte is read, in a session that is closed while the bytes arrive; ``authorize`` is asked again before
    the row is changed. ``If-Match`` and ``If-None-Match`` are heeded, so that nobody overwrites what they have not
    seen. The answer is 201 for a row that had no file and 200 for one that had, with the file's public view and ETag.

    A field of several files has no such route: take its file in a handler of your own, with ``RawUpload``.

    Args:
        path: For instance ``/documents/{id:uuid}/file``; a ``FileRoute`` may have the same.
        field: The model's attribute, for instance ``Document.file``.
        guards: Litestar's guards; they run before anything is read.
        authorize: Called with the loaded row and the connection, after the guards, while the row's session is open;
            sync or async; what is false denies.
        public: Says that everybody may replace every file of this field. Without it, guards or ``authorize`` are
            needed.
        denied: What those whom ``authorize`` denies are told: 403, or 404 to hide that there is a row.
        name: The handler's name, for ``route_reverse``; by default ``Document.file:upload``.
        options: SQLAlchemy's loader options for what an asynchronous ``authorize`` looks at.
        session: Opens a session for a connection, where it is not to come from ``SQLAlchemyPlugin``.
        session_key: ``session_dependency_key`` of the plugin's configuration to use, where several could be meant.
        security: What the API's description says of how to authenticate: nothing can be read from guards.
        raises: What the guards raise, and ``authorize`` beside 403, for the API's description; 403 by default.
        tags: Tags of the API's description.
        include_in_schema: Whether the API's description tells of this route.

    Raises:
        ConfigurationError: Nothing says who may replace the files, or something says it twice.
    """

    path: str
    field: InstrumentedAttribute[Any]
    _: KW_ONLY
    guards: Sequence[Guard] = ()
    authorize: Authorize | None = None
    public: bool = False
    denied: Literal[403, 404] = 403
    name: str | None = None
    options: Sequence[ExecutableOption] = ()
    session: Callable[[ASGIConnection[Any, Any, Any, Any]], AnySession] | None = None
    session_key: str | None = None
    security: Sequence[SecurityRequirement] | None = None
    raises: Sequence[type[HTTPException]] = ()
    tags: Sequence[str] | None = None
    include_in_schema: bool = True

    def __post_init__(self) -> None:
        check_access(self.path, self.guards, self.authorize, public=self.public, denied=self.denied, deed="replace")

    def handler(self) -> HTTPRouteHandler:
        """Make the route's handler.

        Raises:
            ConfigurationError: The field holds no single file, or the path does not name one row.
        """
        try:
            lookup = RowLookup(self.field, path_parameters(self.path), self.options)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.path}: {error}") from error
        if lookup.holds_many:
            raise ConfigurationError(
                f"{self.path}: {self.field} holds several files; take one in a handler with RawUpload and append it"
            )

        async def may_replace(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
            await self._look(lookup, connection)

        async def upload(data: Any, request: Any) -> Any:
            await self._look(lookup, request)
            before = await lookup.assign(
                self._open(lookup, request), request.path_params, data, lambda held: _check(request.headers, held)
            )
            if before is None:
                raise NotFoundException("There is nothing to put a file into.")
            tag = entity_tag(data)
            return Response(
                file_view(data),
                status_code=HTTP_201_CREATED if before.content is None else HTTP_200_OK,
                headers={"ETag": tag} if tag else None,
            )

        upload.__annotations__ = {
            "data": Annotated[StagedFile, RawUpload(self.field, field=self.field.key)],
            "request": Request[Any, Any, Any],
            "return": Response[FileView],
        }
        subject = f"{lookup.model.__name__}.{self.field.key}"
        upload.__doc__ = f"Replace {self.field.key} of {lookup.model.__name__}."
        return HTTPRouteHandler(
            self.path,
            http_method="PUT",
            name=self.name or f"{subject}:upload",
            guards=[*self.guards, may_replace],
            responses=upload_route_answers() | denials(self.guards, self.authorize, self.denied, self.raises),
            response_description="The file took the place of another.",
            raises=self.raises,
            security=self.security,
            tags=self.tags,
            include_in_schema=self.include_in_schema,
            operation_id=OperationIds(subject=self.name or subject),
            operation_class=amended(Operation, describe_upload_route),
            summary=f"Replace {subject}",
        )(upload)

    def _open(self, lookup: RowLookup, connection: ASGIConnection[Any, Any, Any, Any]) -> AnySession:
        if self.session:
            return self.session(connection)
        return session_of(connection.app, lookup.model, self.session_key)

    async def _look(self, lookup: RowLookup, connection: ASGIConnection[Any, Any, Any, Any]) -> FoundRow:
        found = await lookup.find(self._open(lookup, connection), connection.path_params, self.authorize, connection)
        if found is None or (not found.allowed and self.denied == 404):
            raise NotFoundException("There is nothing to put a file into.")
        if not found.allowed:
            raise PermissionDeniedException("You may not replace this file.")
        _check(connection.headers, found.content)
        return found


def build_upload_handlers(routes: Iterable[UploadRoute]) -> list[HTTPRouteHandler]:
    """Make the handlers of several routes.

    Args:
        routes: The application's uploads.

    Raises:
        ConfigurationError: A route cannot work, or two have one name.
    """
    handlers: dict[str, HTTPRouteHandler] = {}
    for route in routes:
        handler = route.handler()
        if handler.name in handlers:
            raise ConfigurationError(f"{route.path}: there is a route named {handler.name!r} already: give it a name=")
        handlers[str(handler.name)] = handler
    return list(handlers.values())


def precondition_holds(headers: Mapping[str, str], tag: str | None) -> bool:
    """Tell whether a request may replace what has an entity tag (RFC 9110 sections 13.1.1 and 13.1.2). Pure.

    Args:
        headers: The request's fields, by lower-case name.
        tag: Strong entity tag of what is there; None where nothing is.
    """
    if (wanted := headers.get("if-match")) is not None:
        return tag is not None if wanted.strip() == "*" else ("", tag) in _ENTITY_TAG.findall(wanted)
    if (unwanted := headers.get("if-none-match")) is not None:
        return tag is None if unwanted.strip() == "*" else all(each != tag for _, each in _ENTITY_TAG.findall(unwanted))
    return True


def _check(headers: Mapping[str, str], held: Any) -> None:
    # A file of which no checksum is known still is a file: its tag matches nothing but the star.
    tag = (entity_tag(held) or "") if isinstance(held, StoredObjectRef) else None
    if not precondition_holds(headers, tag):
        raise PreconditionFailedError(detail="The file is not the one you know: get it again, then decide.")
