"""Routes that store a file and answer with its token: the first half of a form that is sent in two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Operation
from litestar.status_codes import HTTP_201_CREATED

from granite_core import ConfigurationError, StagedFile
from granite_core.uploads import StagedToken, UploadSettings
from granite_litestar._either_body import EitherUpload
from granite_litestar._form_plan import purpose_of, storage_key_of
from granite_litestar._openapi_parts import OperationIds, add_headers, amended, header
from granite_litestar._openapi_problems import denials
from granite_litestar._request_tokens import tokens_of
from granite_litestar._rows import check_access

if TYPE_CHECKING:
    from litestar.openapi.spec import SecurityRequirement
    from litestar.types import Guard

    from granite_litestar._token_desk import TokenDesk

__all__ = ["StagedUploads", "build_staged_handlers"]

_NO_STORE = header("The token is a permission: no cache keeps it.", always=True, const="no-store")


@dataclass(frozen=True)
class StagedUploads:
    """A route, for POST, that stores a file and answers with a token, which a form takes in place of the file.

    The file is the body itself, or the part ``field`` of a form. The answer is 201 with a ``StagedToken``. The file
    waits until a row takes it, or the token expires.

    Args:
        path: For instance ``/staged``.
        target: The ``storage_key`` of a policy, or the mapped attribute of a file field, whose policy is used.
        purpose: What its tokens are good for beside the policy: a name, or a mapped attribute; the field that takes
            them says the same in its ``TokenRules``.
        field: Name of the form's part, and what errors call the file.
        expires_in: How long a file waits, where not as ``TokenConfig`` says.
        guards: Litestar's guards; they run before anything is read.
        public: Says that everybody may upload. Without it, guards are needed.
        name: The handler's name, for ``route_reverse``; by default ``staged:documents``, with the policy's name.
        security: What the API's description says of how to authenticate: nothing can be read from guards.
        raises: What the guards raise, for the API's description; 403 by default.
        tags: Tags of the API's description.
        include_in_schema: Whether the API's description tells of this route.

    Raises:
        ConfigurationError: Nothing says who may upload, or something says it twice; the target is none.
    """

    path: str
    target: object
    _: KW_ONLY
    purpose: object = None
    field: str = "file"
    expires_in: timedelta | None = None
    guards: Sequence[Guard] = ()
    public: bool = False
    name: str | None = None
    security: Sequence[SecurityRequirement] | None = None
    raises: Sequence[type[HTTPException]] = ()
    tags: Sequence[str] | None = None
    include_in_schema: bool = True

    def __post_init__(self) -> None:
        check_access(self.path, self.guards, None, public=self.public, denied=403, deed="stage")
        storage_key_of(self.target, where=self.path)
        purpose_of(self.purpose)
        if self.expires_in is not None:
            UploadSettings(finished_for=self.expires_in)

    def handler(self, desk: TokenDesk) -> HTTPRouteHandler:
        """Make the route's handler.

        Args:
            desk: The application's tokens.
        """
        key = storage_key_of(self.target, where=self.path)
        desk.expect(self.target, self.path)

        async def stage(data: Any, request: Any) -> Any:
            tokens = await tokens_of(desk, request)
            token = await tokens.issue(data, self.target, purpose=self.purpose, expires_in=self.expires_in)
            return Response(token, status_code=HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

        stage.__annotations__ = {
            "data": Annotated[StagedFile, EitherUpload(self.target, field=self.field)],
            "request": Request[Any, Any, Any],
            "return": Response[StagedToken],
        }
        stage.__doc__ = f"Upload a file of {key} first, and get its token; hand that in with a form later."
        return HTTPRouteHandler(
            self.path,
            http_method="POST",
            name=self.name or f"staged:{key}",
            guards=list(self.guards),
            responses=denials(self.guards, None, 403, self.raises),
            response_description="The file waits; its token stands for it.",
            raises=self.raises,
            security=self.security,
            tags=self.tags,
            include_in_schema=self.include_in_schema,
            operation_id=OperationIds(subject=self.name or f"staged {key}"),
            operation_class=amended(Operation, _describe),
            summary=f"Stage a file of {key}",
        )(stage)


def build_staged_handlers(routes: Iterable[StagedUploads], desk: TokenDesk | None) -> list[HTTPRouteHandler]:
    """Make the handlers of several routes.

    Args:
        routes: The application's.
        desk: The application's tokens.

    Raises:
        ConfigurationError: The application has no tokens, or two routes have one name.
    """
    handlers: dict[str, HTTPRouteHandler] = {}
    for route in routes:
        if desk is None:
            raise ConfigurationError(
                f"{route.path}: nothing says whom tokens belong to: GraniteConfig(tokens=TokenConfig(subject=…))"
            )
        handler = route.handler(desk)
        if handler.name in handlers:
            raise ConfigurationError(f"{route.path}: there is a route named {handler.name!r} already: give it a name=")
        handlers[str(handler.name)] = handler
    return list(handlers.values())


def _describe(operation: Operation) -> None:
    if operation.responses and "201" in operation.responses:
        add_headers(operation.responses["201"], {"Cache-Control": _NO_STORE})
