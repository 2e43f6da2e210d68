"""Content that is not stored yet, on its way into a row: stored by the policy of the field that it is for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState, Mapper

from granite_core.errors import ConfigurationError
from granite_core.integrations.sqlalchemy._admitting import is_fresh
from granite_core.integrations.sqlalchemy._greenlet import run_put_source
from granite_core.integrations.sqlalchemy._joining import joining
from granite_core.integrations.sqlalchemy._transaction import Field, Transaction
from granite_core.keys import clean_segment
from granite_core.manager import PutOptions, StorageManager
from granite_core.refs import StagedFile
from granite_core.sources import UnsavedFile

__all__ = ["identity_text", "put", "store", "store_unsaved"]


def store_unsaved(state: Transaction, row: InstanceState[Any], each: Field) -> None:
    """Put refs in the place of what is unsaved in a field of an object."""
    value = row.dict.get(each.key)
    if isinstance(value, UnsavedFile):
        target = row.obj()
        setattr(target, each.key, _store_for(state, target, each, value))
    elif isinstance(value, list):
        target = row.obj()
        for index, item in enumerate(value):
            if isinstance(item, UnsavedFile):
                # Past the tracking of changes: the attribute is known as changed, and telling each object that ever
                # had this list fails where one of them is gone.
                list.__setitem__(value, index, _store_for(state, target, each, item))


def _store_for(state: Transaction, target: object, each: Field, content: UnsavedFile) -> StagedFile:
    counts = each.manager.has_quotas
    with joining(inspect(target).session if counts else None, each.column.table):
        return store(state, each, content, model_name=type(target).__name__.lower(), entity_id=identity_text(target))


def store(
    state: Transaction, each: Field, content: UnsavedFile, *, model_name: str, entity_id: str | None = None
) -> StagedFile:
    """Store content once: a flush that is tried again after a rollback finds what the first one stored.

    Args:
        state: The transaction, which remembers it.
        each: The field it is for.
        content: What to store.
        model_name: The model's name, for the key.
        entity_id: The row's primary key as one key segment, where it is known.

    Raises:
        ConfigurationError: The field names no policy, or has no manager.
        StorageError: It cannot be stored.
    """
    manager = each.manager
    storage_key = each.storage_key
    if storage_key is None:
        raise ConfigurationError(
            f"{each.column.table.name}.{each.column.name} names no policy: declare it with file_field(storage_key) or "
            "StoredObjectRefType(storage_key), or assign a staged ref",
            field=each.key,
        )

    known = content.stored.get((manager, storage_key))
    if known is not None and is_fresh(known, manager):
        return known
    stored = put(manager, storage_key, content, model_name=model_name, entity_id=entity_id, field_name=each.key)
    content.stored[manager, storage_key] = stored
    stored.mark_used()
    state.flushed[manager].append(stored)
    return stored


def put(
    manager: StorageManager,
    storage_key: str,
    content: UnsavedFile,
    *,
    model_name: str,
    entity_id: str | None,
    field_name: str,
) -> StagedFile:
    """Store content; from within SQLAlchemy's greenlet in the backend's threads.

    Args:
        manager: Stores it.
        storage_key: The policy whose rules apply.
        content: What to store.
        model_name: The model's name, for the key.
        entity_id: The row's primary key as one key segment, where it is known.
        field_name: The field's name, for the key and for errors.
    """
    options = PutOptions(
        original_filename=content.original_filename,
        content_type=content.content_type,
        field=field_name,
        model_name=clean_segment(model_name) if entity_id else None,
        entity_id=entity_id,
        field_name=clean_segment(field_name) if entity_id else None,
        context={**content.context, "model_name": model_name, "field_name": field_name},
    )
    return run_put_source(manager, storage_key, content.source, options)


def identity_text(target: object) -> str | None:
    """The primary key as one key segment, where it is known before the row is written."""
    mapper: Mapper[Any] = inspect(type(target))
    values = inspect(target).identity or mapper.primary_key_from_instance(target)
    return clean_segment(",".join(map(str, values))) if all(value is not None for value in values) else None
