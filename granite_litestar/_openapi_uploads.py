"""What the API documentation says of uploads: forms with binary fields, raw bodies, the answers that refuse them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import KwargDefinition
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition

from granite_core import AsyncStorageManager, StoredObjectRef
from granite_litestar._form_plan import FileField, FormPlan

if TYPE_CHECKING:
    from litestar._openapi.schema_generation import SchemaCreator

__all__ = ["FileSchemaPlugin", "FileView", "file_view", "form_schema", "raw_schema", "upload_responses"]


class FileView(msgspec.Struct, frozen=True):
    """What clients are shown of a file: nothing that tells where or under which key it is stored.

    Args:
        filename: Name it came with.
        size: Its length in bytes.
        content_type: Its media type.
        checksum: ``"sha256:"`` and the hexadecimal digest.
    """

    filename: str | None
    size: int
    content_type: str | None
    checksum: str | None


def file_view(ref: StoredObjectRef) -> FileView:
    """Return what clients are shown of a stored file."""
    return FileView(
        filename=ref.original_filename,
        size=ref.size,
        content_type=ref.content_type,
        checksum=ref.checksum or None,
    )


class FileSchemaPlugin(OpenAPISchemaPlugin):
    """Describes refs in answers as the view that is encoded for them."""

    @staticmethod
    def is_plugin_supported_type(value: Any) -> bool:
        """Tell whether a type is a ref."""
        return isinstance(value, type) and issubclass(value, StoredObjectRef)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: SchemaCreator) -> Schema:
        """Return the schema of the view."""
        text = OpenAPIType.STRING
        return Schema(
            type=OpenAPIType.OBJECT,
            title="File",
            required=["filename", "size", "content_type", "checksum"],
            properties={
                "filename": Schema(type=[text, OpenAPIType.NULL]),
                "size": Schema(type=OpenAPIType.INTEGER, description="Length in bytes", minimum=0),
                "content_type": Schema(type=[text, OpenAPIType.NULL]),
                "checksum": Schema(type=[text, OpenAPIType.NULL], description="sha256: and the hexadecimal digest"),
            },
        )


@dataclass
class UploadProblem:
    """Why an upload was refused."""

    status_code: int
    """The status of the answer."""
    detail: str
    """What a person can be told."""
    extra: dict[str, Any] | list[dict[str, Any]] | None = None
    """Names code, field, limit and value; a list with an entry for each wrong field of a form."""


def upload_responses() -> dict[int, ResponseSpec]:
    """Return the answers that every upload route may give."""
    descriptions = {
        413: "A file, a text or the whole body is larger than allowed",
        415: "A file is of a type that is not accepted, or the body is no upload at all",
        422: "The form does not validate, or a checksum does not match",
    }
    return {
        status: ResponseSpec(data_container=UploadProblem, description=description, generate_examples=False)
        for status, description in descriptions.items()
    }


def raw_schema(storage_key: str, manager: AsyncStorageManager, description: str | None) -> Schema:
    """Return the schema of one file's bytes, with what its policy says of them."""
    policy = manager.get_policy(storage_key)
    rules = []
    if policy.max_size is not None:
        rules.append(f"at most {policy.max_size} bytes")
    if policy.content_types is not None:
        rules.append(f"of type {', '.join(policy.content_types)}")
    texts = [description or "", "; ".join(rules).capitalize()]
    return Schema(
        type=OpenAPIType.STRING,
        format=OpenAPIFormat.BINARY,
        content_media_type="application/octet-stream",
        description=". ".join(text for text in texts if text) or None,
    )


def form_schema(plan: FormPlan, manager: AsyncStorageManager, schema_creator: SchemaCreator) -> Schema:
    """Return the schema of a form, its files as binary strings."""
    properties: dict[str, Any] = {}
    for name, spec in plan.fields.items():
        if isinstance(spec, FileField):
            schema = raw_schema(spec.storage_key, manager, spec.description)
            if spec.many:
                schema = Schema(type=OpenAPIType.ARRAY, items=schema, max_items=spec.max_count)
            properties[name] = schema
        else:
            definition = FieldDefinition.from_annotation(spec.type, kwarg_definition=_constraints(spec.type))
            properties[name] = schema_creator.for_field_definition(definition)
    return Schema(
        type=OpenAPIType.OBJECT,
        title=plan.dto.__name__,
        description=_summary(plan.dto),
        properties=properties,
        required=[name for name, spec in plan.fields.items() if spec.required] or None,
    )


def _constraints(hint: Any) -> KwargDefinition | None:
    """What ``msgspec.Meta`` says of a text field, as Litestar's documentation wants it."""
    metas = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, msgspec.Meta)]
    names = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "title", "description")
    given = {name: value for meta in metas for name in names if (value := getattr(meta, name)) is not None}
    return KwargDefinition(**given) if given else None


def _summary(dto: type) -> str | None:
    own = dto.__dict__.get("__doc__")
    return str(own).strip().partition("\n")[0] if own else None
