"""Column types that keep refs as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, cast

from sqlalchemy import JSON, Dialect
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

from granite_core.errors import ConfigurationError, StaleRefError
from granite_core.refs import StagedFile, StoredObjectRef, loaded_ref, record_of, unread_list, unread_ref
from granite_core.sources import UnsavedFile

if TYPE_CHECKING:
    from sqlalchemy.orm import InstrumentedAttribute
    from sqlalchemy.schema import Column

    from granite_core.urls import RowTarget

__all__ = [
    "StorageJSONType",
    "StoredObjectRefListType",
    "StoredObjectRefType",
    "binding",
    "is_file_column",
    "is_file_type",
    "portable_storage_ref_type",
]

Bind: TypeAlias = "Callable[[StoredObjectRef | UnsavedFile, str | None], StoredObjectRef]"

binding: ContextVar[Bind | None] = ContextVar("granite_binding", default=None)
"""While a session executes a statement that passes no flush: decides whether a value may enter a row, and stores what
is unsaved by the policy of that name."""


def portable_storage_ref_type() -> TypeEngine[Any]:
    """Return the plain type beneath a file column, for migrations: JSON, on PostgreSQL JSONB; None is SQL NULL."""
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


StorageJSONType: Final = portable_storage_ref_type()
"""The plain type beneath a file column, as one object."""


class _RefColumnType(TypeDecorator[Any]):
    """What the two column types share: the JSON beneath, and the policy new content goes to.

    Args:
        storage_key: Policy for content that is assigned unsaved.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def __init__(self, storage_key: str | None = None) -> None:
        super().__init__()
        self.storage_key = storage_key

    def __repr__(self) -> str:
        """Say what is beneath, as a migration writes it after ``sa.``: advanced-alchemy's Alembic environment does so.

        Where Alembic is, ``sa.dialects.postgresql`` is imported, so that the migration needs no import.
        """
        return "JSON(none_as_null=True).with_variant(sa.dialects.postgresql.JSONB(none_as_null=True), 'postgresql')"

    def link_target(self, row: object, field: InstrumentedAttribute[Any], item: StoredObjectRef | None) -> RowTarget:
        """Return how a link names the file of a row; see ``StorageManager.url``.

        Raises:
            ConfigurationError: The field is none of the row's model.
            ValueError: The row has no primary key yet, or ``item`` is missing or too much.
        """
        from granite_core.integrations.sqlalchemy.links import link_target

        return link_target(row, field, item)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use JSONB on PostgreSQL, JSON elsewhere."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(JSON(none_as_null=True))

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        """Compare with any ref; compare JSON paths as the type beneath does."""
        return _ComparedType() if isinstance(value, (StoredObjectRef, list)) else self.impl_instance

    def compare_values(self, x: Any, y: Any) -> bool:
        """Tell a change of a file's name or type too, for which refs are equal."""
        return bool(x == y) and _encode(x) == _encode(y)


class StoredObjectRefType(_RefColumnType):
    """A column that holds one ``StoredObjectRef`` as JSON (JSONB on PostgreSQL); None is SQL NULL.

    Args:
        storage_key: Policy for content that is assigned unsaved.
    """

    cache_ok = True

    @property
    def python_type(self) -> type[StoredObjectRef]:
        """What the column's values are."""
        return StoredObjectRef

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Encode a ref. A staged one is noted as used: from here on only the collector deletes it."""
        return None if value is None else _to_data(value, self.storage_key)

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        """Write a ref as the type beneath would, past ``json`` where the text is the same."""
        beneath = super().bind_processor(dialect)
        encode = self.impl_instance.bind_processor(dialect)
        if beneath is None or encode is None or not _writes_like_json(encode):
            return beneath

        def process(value: Any) -> Any:
            if value is None:
                return None
            ref = _used(value, self.storage_key)
            try:
                return _text_of(ref)
            except TypeError:
                return encode(ref.to_dict())

        return process

    def process_literal_param(self, value: Any, dialect: Dialect) -> Any:
        """Encode as a bound value is."""
        return self.process_bind_param(value, dialect)

    def process_result_value(self, value: Any, dialect: Dialect) -> StoredObjectRef | None:
        """Decode what the type beneath hands over."""
        return None if value is None else StoredObjectRef.from_dict(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Take the driver's value, text or decoded, for a ref that is read when it is looked at."""
        return loaded_ref


class StoredObjectRefListType(_RefColumnType):
    """A column that holds a list of refs as a JSON array; changes of a list in place are tracked.

    Args:
        storage_key: Policy for content that is put into the list unsaved.
    """

    cache_ok = True

    @property
    def python_type(self) -> type[list[StoredObjectRef]]:
        """What the column's values are."""
        return list

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Encode the refs; see ``StoredObjectRefType``."""
        return None if value is None else [_to_data(each, self.storage_key) for each in value]

    def process_literal_param(self, value: Any, dialect: Dialect) -> Any:
        """Encode as a bound value is."""
        return self.process_bind_param(value, dialect)

    def process_result_value(self, value: Any, dialect: Dialect) -> list[StoredObjectRef] | None:
        """Decode what the type beneath hands over."""
        return None if value is None else [StoredObjectRef.from_dict(each) for each in value]

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Take the driver's value, text or decoded, for refs that are read when they are looked at."""
        return _loaded_list


def _loaded_list(value: Any) -> list[StoredObjectRef] | None:
    if value is None or value == "null":
        return None
    return unread_list(value) if isinstance(value, (str, bytes)) else [unread_ref(each) for each in value]


class _ComparedType(_RefColumnType):
    """Refs that a statement compares a column with, and does not write: neither used by that, nor held to the rule."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return _encode(value)

    def process_literal_param(self, value: Any, dialect: Dialect) -> Any:
        return _encode(value)


def _encode(value: Any) -> Any:
    if isinstance(value, list):
        return [_encode(each) for each in value]
    return value.to_dict() if isinstance(value, StoredObjectRef) else value


def _to_data(value: object, storage_key: str | None) -> dict[str, Any]:
    return _used(value, storage_key).to_dict()


def _used(value: object, storage_key: str | None) -> StoredObjectRef:
    """The ref that is written for a value; a staged one is noted as used."""
    bind = binding.get()
    if isinstance(value, UnsavedFile) and bind is None:
        raise ConfigurationError(
            "unsaved content is stored when a session flushes an object or executes a statement on a mapped class; "
            "elsewhere a statement takes a staged ref: store it with the manager first"
        )
    if not isinstance(value, (StoredObjectRef, UnsavedFile)):
        raise TypeError(f"a file column takes a StoredObjectRef, not {type(value).__name__}")
    ref = cast("StoredObjectRef", value) if bind is None else bind(value, storage_key)
    if isinstance(ref, StagedFile) and not ref.mark_used():
        raise StaleRefError("the staged file was let go already: stage the content again", operation="bind")
    return ref


def _text_of(ref: StoredObjectRef) -> str:
    """A ref as ``json.dumps`` writes it, in a quarter of its time: rows are written by the thousand.

    Raises:
        TypeError: It holds something else than texts and a number; ``json`` is to be asked.
    """
    says = record_of(ref)
    if type(says.size) is not int or says.extra is not None:
        raise TypeError
    content_type, filename, created_at = says.content_type, says.original_filename, says.created_at
    return (
        f'{{"storage_key": {_quoted(says.storage_key)}, "backend": {_quoted(says.backend)}, '
        f'"location": {_quoted(says.location)}, "size": {says.size}, "checksum": {_quoted(says.checksum or "")}, '
        f'"content_type": {"null" if content_type is None else _quoted(content_type)}, '
        f'"original_filename": {"null" if filename is None else _quoted(filename)}, '
        f'"created_at": {"null" if created_at is None else _quoted(created_at)}, "extra": null}}'
    )


_quoted: Final = json.encoder.encode_basestring_ascii
_PROBE: Final = StoredObjectRef("\u00e9", "\U0001f4c4", 'a"\\/\n', 1, content_type="\x7f")


def _writes_like_json(encode: Callable[[Any], Any]) -> bool:
    """Whether an engine's JSON is that of ``json.dumps``: not what the driver writes, nor a serialiser of its own."""
    try:
        return bool(encode(_PROBE.to_dict()) == _text_of(_PROBE))
    except Exception:  # noqa: BLE001 - a serialiser of the user's own may mind anything
        return False


def is_file_column(column: Column[Any]) -> TypeGuard[Column[Any]]:
    """Tell whether a column holds refs."""
    return is_file_type(column.type)


def is_file_type(type_: object) -> bool:
    """Tell whether a column's type is one of ours."""
    return isinstance(type_, _RefColumnType)
