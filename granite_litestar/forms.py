"""Multipart forms whose files are stored while they arrive.

A handler takes ``data: MultipartBody[NewDocument]``, where ``NewDocument`` is an ``UploadDTO``: its text fields are
validated, its files are in their backend before the handler runs, and what the handler does not attach to a row is
let go when the request ends. Nothing is spooled to memory or to a temporary file on the way.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from litestar import Litestar
from litestar.dto import AbstractDTO
from litestar.enums import RequestEncodingType
from litestar.handlers import HTTPRouteHandler
from litestar.params import BodyKwarg, MultipartBody
from litestar.plugins import ReceiveRoutePlugin, SerializationPlugin
from litestar.routes import HTTPRoute
from litestar.types import Empty

from granite_core import AsyncStorageManager, ConfigurationError, StagedFile
from granite_litestar._either_body import EitherBodyPlan, EitherUpload
from granite_litestar._form_body import FormBodyPlan
from granite_litestar._form_draft import FormDraft
from granite_litestar._form_plan import FormPlan, TokenRules, Upload, UploadDTO, plan_form
from granite_litestar._form_refusals import refusal_handlers
from granite_litestar._openapi_uploads import body_schema, describe_upload, json_schema
from granite_litestar._raw_body import RawBodyPlan, RawUpload, plan_raw_body
from granite_litestar._streaming import PLAN_KEY, UploadContext, UploadMiddleware, upload_of
from granite_litestar.exceptions import FormValidationError
from granite_litestar.multipart import MAX_HEADER_BYTES, FormLimits

if TYPE_CHECKING:
    from collections.abc import Generator

    from litestar._openapi.schema_generation import SchemaCreator
    from litestar.config.app import AppConfig
    from litestar.dto.data_structures import DTOFieldDefinition
    from litestar.openapi.spec import Reference, Schema
    from litestar.routes import BaseRoute
    from litestar.typing import FieldDefinition

    from granite_litestar._token_desk import TokenDesk

__all__ = ["FormLimits", "MultipartBody", "StreamingUploads", "TokenRules", "Upload", "UploadDTO"]

AnyBodyPlan: TypeAlias = FormBodyPlan | RawBodyPlan | EitherBodyPlan

_LITESTARS_OWN_LIMIT: Final = inspect.signature(Litestar.__init__).parameters["request_max_body_size"].default


class StreamingUploads(ReceiveRoutePlugin, SerializationPlugin):
    """The Litestar plugin behind ``UploadDTO`` and ``RawUpload``; ``GranitePlugin`` installs it.

    Args:
        manager: Stores the files.
        limits: What forms may cost beside their files, where a form does not say.
        context: Gives values for the names in policies' ``key_template``; see ``GraniteConfig``.
        desk: The application's tokens; None where forms take none.
    """

    def __init__(
        self,
        manager: AsyncStorageManager,
        limits: FormLimits | None = None,
        context: UploadContext | None = None,
        desk: TokenDesk | None = None,
    ) -> None:
        self._manager = manager
        self._context = context
        self._desk = desk
        self._limits = limits or FormLimits()
        self._plans: dict[str, AnyBodyPlan] = {}

    def install(self, app_config: AppConfig) -> None:
        """Add this plugin and its middleware, outermost, to an application that is being made."""
        app_config.plugins.append(self)
        app_config.middleware.insert(0, UploadMiddleware(self._manager, self._context))
        for error, handler in refusal_handlers().items():
            app_config.exception_handlers.setdefault(error, handler)

    def receive_route(self, route: BaseRoute) -> None:
        """Plan the bodies of every handler of a route that takes uploads.

        Raises:
            ConfigurationError: A handler is declared in a way that cannot work.
        """
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                self._prepare(handler)

    def _prepare(self, handler: HTTPRouteHandler) -> None:
        definition = handler.parsed_data_field
        if definition is None or not self.supports_type(definition):
            _refuse_strays(handler, definition)
            return
        if PLAN_KEY in handler.opt:
            return
        dto = handler.resolve_data_dto()
        if dto is None or not issubclass(dto, _StreamedDTO):
            raise ConfigurationError(
                f"{handler}: a dto= on the handler, or on a layer above it, hides its upload; set it on the handlers "
                "that want it, not on this one"
            )
        plan = self._plan(handler, definition)
        handler.opt[PLAN_KEY] = self._plans[handler.handler_id] = plan
        # The body is counted where it is read, with an answer that names the limit; what Litestar sees is a stand-in.
        handler.request_max_body_size = None
        form_part = plan.raw.field if isinstance(plan, EitherBodyPlan) else None
        describe_upload(handler, plan.described, self._manager, form_part=form_part)

    def _plan(self, handler: HTTPRouteHandler, definition: FieldDefinition) -> AnyBodyPlan:
        limit = _limit_of_layers(handler)
        kwarg = definition.kwarg_definition
        if isinstance(kwarg, RawUpload):
            if definition.annotation is not StagedFile:
                raise ConfigurationError(f"{handler}: RawUpload(…) goes with StagedFile: Annotated[StagedFile, …]")
            raw = plan_raw_body(kwarg, self._manager, where=str(handler), max_body=limit)
            if not isinstance(kwarg, EitherUpload):
                return raw
            form = self._plan_form(handler, kwarg.form(), handler.app.multipart_form_part_limit, limit)
            return EitherBodyPlan(raw, form)
        forms = RequestEncodingType.MULTI_PART, RequestEncodingType.JSON
        if not isinstance(kwarg, BodyKwarg) or kwarg.media_type not in forms:
            raise ConfigurationError(f"{handler}: declare data as MultipartBody[{definition.annotation.__name__}]")
        of_litestar = kwarg.multipart_form_part_limit or handler.app.multipart_form_part_limit
        return self._plan_form(
            handler, definition.annotation, of_litestar, limit, json=kwarg.media_type == RequestEncodingType.JSON
        )

    def _plan_form(
        self, handler: HTTPRouteHandler, dto: type[UploadDTO], of_litestar: int, limit: Any, *, json: bool = False
    ) -> FormBodyPlan:
        form = plan_form(dto, limits=self._limits, namespace=handler.resolve_signature_namespace())
        if form.takes_tokens and self._desk is None:
            raise ConfigurationError(
                f"{handler}: {dto.__name__} takes tokens, and nothing says whom they belong to: "
                "GraniteConfig(tokens=TokenConfig(subject=…))"
            )
        if json and not form.takes_json:
            raise ConfigurationError(
                f"{handler}: declare data as MultipartBody[{dto.__name__}]: as JSON only tokens stand for its files, "
                "and one that must be there takes none"
            )
        for spec in form.files():
            if spec.tokens is not None and self._desk is not None:
                self._desk.expect(spec.target, f"{handler}: {dto.__name__}.{spec.attribute}")
        parts = of_litestar if form.limits.max_parts is None else form.limits.max_parts
        computed = _largest_body(form, self._manager, parts, where=str(handler))
        return FormBodyPlan(
            form,
            max_parts=parts,
            max_body=computed if limit is Empty else limit,
            shown_parts=min(of_litestar, handler.app.multipart_form_part_limit),
            desk=self._desk if form.takes_tokens else None,
            declared="json" if json else "form",
        )

    def supports_type(self, field_definition: FieldDefinition) -> bool:
        """Tell whether a handler's data is an upload."""
        return isinstance(field_definition.kwarg_definition, RawUpload) or _is_upload_dto(field_definition.annotation)

    def create_dto_for_type(self, field_definition: FieldDefinition) -> type[AbstractDTO[Any]]:
        """Return what hands the staged upload to the handler, and describes it in the API documentation."""
        if field_definition.name == "data" and field_definition.kwarg_definition is None:
            # The bare spelling, data: NewDocument. Only the marker tells Litestar and its documentation that it is
            # a form, and Litestar offers no place to add one.
            marker = BodyKwarg(media_type=RequestEncodingType.MULTI_PART)
            object.__setattr__(field_definition, "kwarg_definition", marker)
        return type("StreamedUpload", (_StreamedDTO,), {"plans": self._plans, "manager": self._manager})


class _StreamedDTO(AbstractDTO[Any]):
    """Hands the handler what the middleware has staged."""

    plans: ClassVar[Mapping[str, AnyBodyPlan]]
    manager: ClassVar[AsyncStorageManager]

    def decode_builtins(self, value: dict[str, Any]) -> Any:
        return self._decode()

    def decode_bytes(self, value: bytes) -> Any:
        return self._decode()

    def _decode(self) -> Any:
        result = upload_of(self.asgi_connection.scope).result
        if not isinstance(result, FormDraft):
            return result
        built = result.build()
        if built is None:
            raise FormValidationError(result.errors, staged=result.kept, texts=result.texts)
        return built

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """Nothing to prepare: the plan does the work."""

    @classmethod
    def is_supported_model_type_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003
        """An upload is nothing to answer with."""
        return False

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,  # noqa: ARG003
        handler_id: str,
        schema_creator: SchemaCreator,
    ) -> Reference | Schema:
        """Describe the body in the API documentation."""
        plan = cls.plans[handler_id]
        if isinstance(plan, FormBodyPlan) and plan.declared == "json":
            return json_schema(plan.form, schema_creator)
        return body_schema(plan.described, cls.manager, schema_creator)

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Generator[DTOFieldDefinition]:  # noqa: ARG003
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003
        return False


def _is_upload_dto(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, UploadDTO)


def _limit_of_layers(handler: HTTPRouteHandler) -> Any:
    """The ``request_max_body_size`` that the user set on some layer, or Empty."""
    for layer in reversed(handler.ownership_layers):
        limit = layer.request_max_body_size
        if isinstance(layer, Litestar) and limit == _LITESTARS_OWN_LIMIT:
            break
        if limit is not Empty:
            return limit
    return Empty


def _largest_body(form: FormPlan, manager: AsyncStorageManager, parts: int, *, where: str) -> int | None:
    """The size in bytes that no acceptable form passes, or None where a policy sets no limit."""
    total = form.limits.max_text_size + form.limits.max_ignored_size + parts * MAX_HEADER_BYTES
    for spec in form.files():
        try:
            max_size = manager.get_policy(spec.storage_key).max_size
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {form.dto.__name__}.{spec.attribute}: {error}") from error
        if max_size is None:
            return None
        total += max_size * min(spec.max_count, parts)
    return total


def _refuse_strays(handler: HTTPRouteHandler, definition: FieldDefinition | None) -> None:
    """Refuse uploads where nothing streams them: inside other types, or in a dependency alone."""
    if definition is not None and _mentions_upload(definition):
        raise ConfigurationError(
            f"{handler}: data must be the {UploadDTO.__name__} itself, not a union or a list of it"
        )
    for name, provider in handler.resolve_dependencies().items():
        field = provider.parsed_fn_signature.parameters.get("data")
        if field is not None and _mentions_upload(field) and name in handler.parsed_fn_signature.parameters:
            raise ConfigurationError(
                f"{handler}: the dependency {name!r} takes an upload as its data; the handler must take it too"
            )


def _mentions_upload(definition: FieldDefinition) -> bool:
    return (
        isinstance(definition.kwarg_definition, RawUpload)
        or _is_upload_dto(definition.annotation)
        or any(_mentions_upload(inner) for inner in definition.inner_types)
    )
