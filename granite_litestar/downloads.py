"""Routes that serve the files of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from litestar import Request
from litestar.exceptions import NotFoundException, PermissionDeniedException
from litestar.handlers import HTTPRouteHandler

from granite_core import ConfigurationError, StoredObjectRef
from granite_core.serving import Address, ServeSettings, cache_control, may_redirect
from granite_litestar._middleware import DEFAULT_COMPRESSION_OPT_KEY
from granite_litestar._openapi_problems import denials, problem
from granite_litestar._rows import AnySession, Authorize, RowLookup, check_access, path_parameters, session_of
from granite_litestar._views import item_id
from granite_litestar.openapi import describe_download
from granite_litestar.responses import FileDownload

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.exceptions import HTTPException
    from litestar.openapi.spec import SecurityRequirement
    from litestar.types import Guard
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.sql.base import ExecutableOption

    from granite_core import Delivery, StoragePolicy

__all__ = ["FileRoute", "build_handlers"]

_ITEM: Final = "item"


@dataclass(frozen=True)
class FileRoute:
    """A route, for GET and HEAD, that serves a file of a row.

    Parameters of the path name columns of the model, and must name one row: by the primary key, or by a unique
    column. For a ``files_field`` there is one more, ``{item:str}``: what `item_id` answers for a ref. With
    ``?download`` the file is offered for saving even where a browser could show it.

    The row is read in a session of its own, which is closed before the first byte is sent. No row, no file in it, or
    no such item is a 404.

    Args:
        path: For instance ``/documents/{id:uuid}/file``.
        field: The model's attribute, for instance ``Document.file``.
        guards: Litestar's guards; they run before anything is read.
        authorize: Called with the loaded row and the connection, after the guards, while the row's session is open;
            sync or async; what is false denies. A synchronous one may follow lazy attributes; with an asynchronous
            session it runs on the event loop.
        public: Says that everybody may have every file of this field. Without it, guards or ``authorize`` are needed.
        denied: What those whom ``authorize`` denies are told: 403, or 404 to hide that there is a file.
        name: The handler's name, for ``route_reverse``; by default model and field, ``Document.file``.
        disposition: ``"auto"`` or ``"attachment"``; by default what the policy of each file says.
        cache_control: Value of ``Cache-Control``; by default ``private, no-cache``, and ``public, no-cache`` for
            public files.
        delivery: ``"stream"``, ``"redirect"``, ``"offload"`` or ``"auto"``: whether clients are sent to the store, or
            the web server in front sends the files, guards and ``authorize`` permitting; by default what the policy of
            each file says. The way to the store is asked each time.
        cross_origin_resource_policy: Which sites may embed the files.
        options: SQLAlchemy's loader options for what an asynchronous ``authorize`` looks at.
        session: Opens a session for a connection, where it is not to come from ``SQLAlchemyPlugin``.
        session_key: ``session_dependency_key`` of the plugin's configuration to use, where several could be meant.
        security: What the API's description says of how to authenticate: nothing can be read from guards.
        raises: What the guards raise, and ``authorize`` beside 403, for the API's description; 403 by default.
        tags: Tags of the API's description.
        include_in_schema: Whether the API's description tells of this route.

    Raises:
        ConfigurationError: A set-up that cannot work, or that says nothing about who may have the files.
    """

    path: str
    field: InstrumentedAttribute[Any]
    _: KW_ONLY
    guards: Sequence[Guard] = ()
    authorize: Authorize | None = None
    public: bool = False
    denied: Literal[403, 404] = 403
    name: str | None = None
    disposition: Literal["auto", "attachment"] | None = None
    cache_control: str | None = None
    delivery: Delivery | None = None
    cross_origin_resource_policy: Literal["same-origin", "same-site", "cross-origin"] = "same-origin"
    options: Sequence[ExecutableOption] = ()
    session: Callable[[ASGIConnection[Any, Any, Any, Any]], AnySession] | None = None
    session_key: str | None = None
    security: Sequence[SecurityRequirement] | None = None
    raises: Sequence[type[HTTPException]] = ()
    tags: Sequence[str] | None = None
    include_in_schema: bool = True

    def __post_init__(self) -> None:
        check_access(self.path, self.guards, self.authorize, public=self.public, denied=self.denied, deed="have")
        try:
            ServeSettings(cache_control=self.resolved_cache_control)
        except ValueError as error:
            raise ConfigurationError(f"{self.path}: {error}") from error

    @property
    def resolved_cache_control(self) -> str:
        """The value of ``Cache-Control`` on this route."""
        return self.cache_control or cache_control(Address.ROW, everybody=self.public)

    def parameters(self) -> dict[str, type]:
        """Names of the path's parameters, and the types Litestar makes of them."""
        return path_parameters(self.path)

    def handler(
        self,
        compression_opt_key: str = DEFAULT_COMPRESSION_OPT_KEY,
        policies: Mapping[str, StoragePolicy] = MappingProxyType({}),
    ) -> HTTPRouteHandler:
        """Make the route's handler.

        Args:
            compression_opt_key: Key in a handler's ``opt`` that the application's compression heeds.
            policies: The application's, by which the API's description knows how files are delivered.

        Raises:
            ConfigurationError: The field holds no files, or the path does not name one row, or one of its files.
        """
        parameters = self.parameters()
        by_item = parameters.pop(_ITEM, None)
        try:
            lookup = RowLookup(self.field, parameters, self.options)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.path}: {error}") from error
        if lookup.holds_many != (by_item is str):
            needs = "needs" if lookup.holds_many else "has no use for"
            raise ConfigurationError(f"{self.path}: {self.field} {needs} a parameter {{item:str}} in its path")

        async def download(request: Request[Any, Any, Any]) -> FileDownload:
            ref = await self._find(lookup, request)
            return FileDownload(
                ref,
                disposition="attachment" if _wants_download(request) else self.disposition,
                cache_control=self.resolved_cache_control,
                delivery=self.delivery,
                cross_origin_resource_policy=self.cross_origin_resource_policy,
            )

        subject = f"{lookup.model.__name__}.{self.field.key}"
        download.__doc__ = f"Download {self.field.key} of {lookup.model.__name__}."
        handler = HTTPRouteHandler(
            self.path,
            http_method=["GET", "HEAD"],
            name=self.name or subject,
            guards=list(self.guards),
            opt={compression_opt_key: True},
            responses={404: problem("There is no such row, or no file in it.")}
            | denials(self.guards, self.authorize, self.denied, self.raises),
            raises=self.raises,
            security=self.security,
            tags=self.tags,
            include_in_schema=self.include_in_schema,
            summary=f"Download {subject}",
        )(download)
        policy = policies.get(getattr(self.field.type, "storage_key", None) or "")
        delivery = self.delivery or (policy.delivery if policy else "stream")
        describe_download(handler, subject=self.name or subject, redirects=may_redirect(delivery))
        return handler

    def open_session(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AnySession:
        """Open a session for the rows of this route.

        Raises:
            ConfigurationError: There is none to be had.
        """
        if self.session is not None:
            return self.session(connection)
        return session_of(connection.app, self.field.class_, self.session_key)

    async def _find(self, lookup: RowLookup, request: Request[Any, Any, Any]) -> StoredObjectRef:
        values = dict(request.path_params)
        item = values.pop(_ITEM, None)
        found = await lookup.find(self.open_session(request), values, self.authorize, request)
        if found is None:
            raise NotFoundException("The file does not exist.")
        if not found.allowed:
            if self.denied == 404:
                raise NotFoundException("The file does not exist.")
            raise PermissionDeniedException("You may not have this file.")
        content = found.content
        if content is not None and not isinstance(content, StoredObjectRef):
            content = next((ref for ref in content if item_id(ref) == item), None)
        if content is None:
            raise NotFoundException("The file does not exist.")
        return content


def build_handlers(
    routes: Iterable[FileRoute],
    compression_opt_key: str = DEFAULT_COMPRESSION_OPT_KEY,
    policies: Mapping[str, StoragePolicy] = MappingProxyType({}),
) -> list[HTTPRouteHandler]:
    """Make the handlers of several routes.

    Args:
        routes: The application's downloads.
        compression_opt_key: Key in a handler's ``opt`` that the application's compression heeds.
        policies: As for ``FileRoute.handler``.

    Raises:
        ConfigurationError: A route cannot work, or two have one name.
    """
    handlers: dict[str, HTTPRouteHandler] = {}
    for route in routes:
        handler = route.handler(compression_opt_key, policies)
        if handler.name in handlers:
            raise ConfigurationError(f"{route.path}: there is a route named {handler.name!r} already: give it a name=")
        handlers[str(handler.name)] = handler
    return list(handlers.values())


def _wants_download(request: Request[Any, Any, Any]) -> bool:
    return request.query_params.get("download", "no").lower() not in ("0", "false", "no", "off")
