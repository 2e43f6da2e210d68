"""What the API's description says of uploads: forms with files in them, raw bodies, the answers to both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    Encoding,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.schema import SchemaDataContainer
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition
from msgspec import Meta

from granite_core import AsyncStorageManager, StoragePolicy, StoredObjectRef
from granite_core.signing import MAX_TOKEN_CHARACTERS
from granite_litestar._form_plan import FileField, FormPlan, TextField
from granite_litestar._openapi_parts import (
    EXAMPLE_TAG,
    add_headers,
    add_parameters,
    amended,
    binary_schema,
    header,
    header_parameter,
    query_parameter,
)
from granite_litestar._openapi_problems import ANSWERED_AS_JSON, PROBLEM_HEADERS, problem, raised, upload_problems
from granite_litestar._raw_body import RawBodyPlan
from granite_litestar._views import FileView

if TYPE_CHECKING:
    from litestar._openapi.schema_generation import SchemaCreator

__all__ = [
    "FileSchemaPlugin",
    "body_schema",
    "describe_upload",
    "describe_upload_route",
    "json_schema",
    "upload_route_answers",
]

BINARY: Final = "application/octet-stream"
FORM: Final = "multipart/form-data"
JSON: Final = "application/json"


# ------------------------------------------------------------------------------------------------------------ answers
class FileSchemaPlugin(OpenAPISchemaPlugin):
    """Describes refs in answers as the view that is encoded for them."""

    @staticmethod
    def is_plugin_supported_type(value: Any) -> bool:
        """Tell whether a type is a ref."""
        return isinstance(value, type) and issubclass(value, StoredObjectRef)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: SchemaCreator) -> Schema:
        """Return the schema of the view."""
        return SchemaDataContainer(data_container=FileView)


def upload_route_answers() -> dict[int, ResponseSpec]:
    """Return the answers of an ``UploadRoute`` beside those that every upload has."""
    return {
        201: ResponseSpec(FileView, description="The row had no file, now it has.", generate_examples=False),
        404: problem("There is nothing to put a file into."),
        412: problem("The row's file is not the one that the client's conditions name."),
    }


def describe_upload_route(operation: Operation) -> None:
    """Tell of the conditions that an ``UploadRoute`` heeds, and of the tag it answers with."""
    add_parameters(operation, _CONDITIONS)
    for status in ("200", "201"):
        if operation.responses and status in operation.responses:
            add_headers(operation.responses[status], {"ETag": _NEW_ETAG})


_CONDITIONS: Final = (
    header_parameter("If-Match", "Replace only a file that has one of these ETags; `*` for any file.", EXAMPLE_TAG),
    header_parameter("If-None-Match", "`*`: put the file only where there is none.", "*"),
)
_NEW_ETAG: Final = header("Tag of the file that is there now.", always=True, pattern='^"[0-9a-f]{64}"$')

_OF_RAW_BODIES: Final = (
    header_parameter("Content-Disposition", "Tells the file's name.", 'attachment; filename="invoice.pdf"'),
    header_parameter(
        "Repr-Digest",
        "SHA-256 of the file (RFC 9530), which is verified: 422 where it does not match.",
        "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
    ),
    header_parameter("Content-Digest", "The same as `Repr-Digest`."),
    query_parameter("filename", "The file's name, where no header tells it.", Schema(type=OpenAPIType.STRING)),
)


# --------------------------------------------------------------------------------------------------------- operations
def describe_upload(
    handler: HTTPRouteHandler,
    plan: FormPlan | RawBodyPlan,
    manager: AsyncStorageManager,
    *,
    form_part: str | None = None,
) -> None:
    """Have the API's description tell of a handler's upload: types, limits, refusals.

    What the handler itself says of its statuses stays.

    Args:
        handler: As it was registered.
        plan: What it takes in.
        manager: Knows the policies.
        form_part: Where it takes the file of a raw body in a form too: the name of its part.
    """
    problems = upload_problems(form=isinstance(plan, FormPlan) or form_part is not None)
    if any(manager.get_policy(key).before_upload for key in _storage_keys(plan)):
        problems[403] = problem("You may not do this, or the application denies the upload (`upload_denied`).")
    handler.responses = raised(handler.raises or ()) | problems | dict(handler.responses or {})
    media_type = str(getattr(handler.media_type, "value", handler.media_type)) or JSON
    amend = partial(_amend, plan=plan, manager=manager, media_type=media_type, form_part=form_part)
    handler.operation_class = amended(handler.operation_class, amend)


def _storage_keys(plan: FormPlan | RawBodyPlan) -> list[str]:
    return [plan.storage_key] if isinstance(plan, RawBodyPlan) else [each.storage_key for each in plan.files()]


def _amend(
    operation: Operation,
    *,
    plan: FormPlan | RawBodyPlan,
    manager: AsyncStorageManager,
    media_type: str,
    form_part: str | None,
) -> None:
    if isinstance(operation.request_body, RequestBody):
        content = operation.request_body.content
        if isinstance(plan, FormPlan):
            for name, each in content.items():
                each.encoding = _encodings(plan, manager) if name != JSON else None
        else:
            policy = manager.get_policy(plan.storage_key)
            _offer_types(content, policy)
            add_parameters(operation, _OF_RAW_BODIES)
            if form_part is not None:
                properties: dict[str, Schema | Reference] = {form_part: _file_schema(policy, plan.description, BINARY)}
                form = Schema(type=OpenAPIType.OBJECT, required=[form_part], properties=properties)
                content[FORM] = OpenAPIMediaType(schema=form)
    operation.responses = dict(sorted((operation.responses or {}).items()))
    for status, response in operation.responses.items():
        add_headers(response, PROBLEM_HEADERS.get(status, {}))
        answered_alike = status >= "400" and status not in ANSWERED_AS_JSON
        if media_type != JSON and answered_alike and isinstance(response, OpenAPIResponse) and response.content:
            response.content.setdefault(media_type, next(iter(response.content.values())))


def _offer_types(content: dict[str, OpenAPIMediaType], policy: StoragePolicy) -> None:
    """Tell of every type in which the policy lets the file come, unless the handler names one itself."""
    if list(content) == [BINARY]:
        for media_type in policy.content_types or ("*/*",):
            content.setdefault(media_type, content[BINARY])


def _encodings(form: FormPlan, manager: AsyncStorageManager) -> dict[str, Encoding]:
    """Tell of the types in which the parts of a form may come."""
    # Text is text/plain and an object JSON without being told; bytes would be text/plain too. `explode` and
    # `allowReserved`, which Litestar would always write, must not be there: they make contentType void.
    return {
        spec.name: Encoding(
            content_type=", ".join(_types_of(spec, manager)),
            explode=None,  # type: ignore[arg-type]  # see above
            allow_reserved=None,  # type: ignore[arg-type]  # see above
        )
        for spec in form.files()
    }


def _types_of(spec: FileField, manager: AsyncStorageManager) -> Sequence[str]:
    types = list(manager.get_policy(spec.storage_key).content_types or ("*/*",))
    return [*types, "text/plain"] if spec.tokens is not None and "*/*" not in types else types


# ------------------------------------------------------------------------------------------------------------- bodies
def body_schema(
    plan: FormPlan | RawBodyPlan, manager: AsyncStorageManager, schema_creator: SchemaCreator
) -> Schema | Reference:
    """Return the schema of an upload.

    Args:
        plan: What is taken in.
        manager: Knows the policies.
        schema_creator: Litestar's, for the types of text fields and the form's place among the components.
    """
    if isinstance(plan, RawBodyPlan):
        return _file_schema(manager.get_policy(plan.storage_key), plan.description)
    registry, definition = schema_creator.schema_registry, FieldDefinition.from_annotation(plan.dto)
    if (known := registry.get_reference_for_field_definition(definition)) is not None:
        return known
    schema = registry.get_schema_for_field_definition(definition)
    schema.type = OpenAPIType.OBJECT
    schema.title = plan.dto.__name__
    schema.description = _form_description(plan)
    schema.required = [name for name, spec in plan.fields.items() if spec.required] or None
    schema.additional_properties = False if plan.forbid_unknown else None
    defaults = {each.encode_name: each.default for each in msgspec.structs.fields(plan.dto)}
    schema.properties = {
        name: _files_schema(spec, manager)
        if isinstance(spec, FileField)
        else _text_schema(spec, defaults[name], schema_creator)
        for name, spec in plan.fields.items()
    }
    return registry.get_reference_for_field_definition(definition) or schema


def json_schema(plan: FormPlan, schema_creator: SchemaCreator) -> Schema:
    """Return the schema of a form as JSON, with tokens in the place of its files.

    Args:
        plan: What is taken in.
        schema_creator: Litestar's, for the types of texts.
    """
    defaults = {each.encode_name: each.default for each in msgspec.structs.fields(plan.dto)}
    properties: dict[str, Schema | Reference] = {}
    for name, spec in plan.fields.items():
        if isinstance(spec, TextField):
            properties[name] = _text_schema(spec, defaults[name], schema_creator)
        elif spec.tokens is not None:
            properties[name] = _listed(spec, _token_schema(spec.description))
    return Schema(
        type=OpenAPIType.OBJECT,
        title=f"{plan.dto.__name__} as JSON",
        description=_form_description(plan, as_json=True),
        required=[name for name in properties if plan.fields[name].required] or None,
        additional_properties=False if plan.forbid_unknown else None,
        properties=properties,
    )


def _token_schema(description: str | None = None) -> Schema:
    told = "Token of a file that was uploaded before"
    return Schema(
        type=OpenAPIType.STRING,
        pattern="^[A-Za-z0-9_-]*$",
        max_length=MAX_TOKEN_CHARACTERS,
        description=f"{description.rstrip('.')}. {told}" if description else told,
    )


def _file_schema(policy: StoragePolicy, description: str | None, media_type: str | None = None) -> Schema:
    rules = []
    if policy.max_size is not None:
        rules.append(f"at most {policy.max_size} bytes")
    if policy.content_types is not None:
        rules.append(f"of type {', '.join(policy.content_types)}")
    limits = "; ".join(rules).capitalize()
    if description and limits:
        limits = f"{description.rstrip('.')}. {limits}"
    return binary_schema(
        description=limits or description,
        media_type=media_type,
        max_size=policy.max_size,
    )


def _files_schema(spec: FileField, manager: AsyncStorageManager) -> Schema:
    policy = manager.get_policy(spec.storage_key)
    types = tuple(policy.content_types or ())
    exact = len(types) == 1 and "*" not in types[0]
    schema = _file_schema(policy, spec.description, types[0] if exact else BINARY)
    if spec.tokens is not None:
        schema = Schema(any_of=[schema, _token_schema()], description=spec.description)
    return _listed(spec, schema)


def _listed(spec: FileField, schema: Schema) -> Schema:
    if not spec.many:
        return schema
    listed = Schema(type=OpenAPIType.ARRAY, items=schema, max_items=spec.max_count)
    listed.min_items = 1 if spec.required else None
    for meta in _metas(spec.type):
        listed.max_items = min(listed.max_items or spec.max_count, meta.max_length or spec.max_count)
        listed.min_items = max(listed.min_items or 0, meta.min_length or 0) or None
    return listed


def _text_schema(spec: TextField, default: Any, schema_creator: SchemaCreator) -> Schema | Reference:
    schema = _schema_of(spec.type, schema_creator)
    if spec.many and spec.required and isinstance(schema, Schema):
        schema.min_items = schema.min_items or 1
    if default in (None, msgspec.NODEFAULT) or not isinstance(default, str | int | float | bool):
        return schema
    if isinstance(schema, Reference):
        schema = Schema(all_of=[schema])
    schema.default = default
    return schema


def _schema_of(hint: Any, schema_creator: SchemaCreator) -> Schema | Reference:
    """The schema of a text field: as msgspec checks it, and never null, which no form can say."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        schema = _schema_of(arguments[0], schema_creator)
        for meta in arguments[1:]:
            if isinstance(meta, Meta):
                schema = _constrained(schema, meta)
        return schema
    if origin in (Union, UnionType):
        options = [_schema_of(each, schema_creator) for each in arguments if each is not type(None)]
        return options[0] if len(options) == 1 else Schema(any_of=options)
    if origin in (list, set, tuple, frozenset) and arguments:
        return Schema(type=OpenAPIType.ARRAY, items=_schema_of(arguments[0], schema_creator))
    return schema_creator.for_field_definition(FieldDefinition.from_annotation(hint))


def _constrained(schema: Schema | Reference, meta: Meta) -> Schema:
    if isinstance(schema, Reference):
        schema = Schema(all_of=[schema])
    listed = schema.type == OpenAPIType.ARRAY
    given = {
        "exclusive_minimum": meta.gt,
        "minimum": meta.ge,
        "exclusive_maximum": meta.lt,
        "maximum": meta.le,
        "multiple_of": meta.multiple_of,
        "pattern": meta.pattern,
        "min_items" if listed else "min_length": meta.min_length,
        "max_items" if listed else "max_length": meta.max_length,
        "title": meta.title,
        "description": meta.description,
        "examples": meta.examples,
    }
    narrowed = dataclasses.replace(schema)
    for name, value in given.items():
        if value is not None:
            setattr(narrowed, name, value)
    return narrowed


def _metas(hint: Any) -> list[Meta]:
    """The constraints on a list as a whole."""
    if get_origin(hint) in (Union, UnionType):
        return [meta for each in get_args(hint) for meta in _metas(each)]
    return [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Meta)]


def _form_description(plan: FormPlan, *, as_json: bool = False) -> str:
    own = plan.dto.__dict__.get("__doc__")
    summary = str(own).strip().partition("\n")[0] if own else ""
    limits = plan.limits
    texts = f"Texts take at most {limits.max_field_size} bytes each, {limits.max_text_size} bytes together."
    if plan.takes_json and not as_json:
        # Described as a second type of the body it would be the only one that generators of clients make: no files.
        texts += " It may come as JSON too, with tokens in the place of files."
    return f"{summary}\n\n{texts}" if summary else texts
