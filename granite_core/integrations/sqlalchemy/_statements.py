"""Statements that a session executes past the flush: what they write passes its rule, and is stored first."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import MetaData, Result, inspect
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import ORMExecuteState, Session

from granite_core.errors import StorageError
from granite_core.integrations.sqlalchemy._admitting import admit
from granite_core.integrations.sqlalchemy._looking import look_up
from granite_core.integrations.sqlalchemy._rows import register_columns, write_first
from granite_core.integrations.sqlalchemy._storing import store
from granite_core.integrations.sqlalchemy._transaction import Field, field_of, fields_by_class, transaction_of
from granite_core.integrations.sqlalchemy.types import binding, is_file_column
from granite_core.refs import StoredObjectRef
from granite_core.sources import UnsavedFile

__all__ = ["execute_by_the_rule"]


def execute_by_the_rule(execution: ORMExecuteState) -> Result[Any] | None:
    """Execute an ``insert()`` or ``update()`` that may write refs; None for what is not our business.

    Raises:
        StaleRefError: A ref may not enter a row.
        StorageError: Unsaved content cannot be stored.
    """
    if not (execution.is_insert or execution.is_update):
        return None
    fields = _fields_of(execution)
    if not fields:
        return None
    session = execution.session
    connection = session.connection(bind_arguments=execution.bind_arguments)
    state = transaction_of(session)
    options = {k: v for k, v in execution.execution_options.items() if k == "schema_translate_map"}
    mapper = execution.bind_mapper
    model_name = mapper.class_.__name__.lower() if mapper is not None else fields[0].column.table.name
    stored: list[UnsavedFile] = []

    def find(metadata: MetaData, locations: set[str], within: timedelta) -> set[str]:
        write_first(state, connection, fields[0].column, options)
        return look_up(session, None, [], metadata, locations, within, options)

    def bind(value: StoredObjectRef | UnsavedFile, storage_key: str | None) -> StoredObjectRef:
        each = next((field for field in fields if field.declared_key == storage_key), fields[0])
        if isinstance(value, UnsavedFile):
            stored.append(value)
            value = store(state, each, value, model_name=model_name)
        admit(session, state, {each: [value]}, find, options)
        candidates = sum(field.storage_key == storage_key for field in fields)
        state.tell_attached(each, value, named=candidates == 1)
        return value

    told = len(state.events)
    token = binding.set(bind)
    try:
        result = execution.invoke_statement()
    except StatementError as error:
        del state.events[told:]
        if isinstance(error.orig, StorageError):
            raise error.orig from None
        raise
    finally:
        binding.reset(token)
    register_columns(state, connection, [each.column for each in fields], options)
    if stored and execution.is_update and mapper is not None:
        _settle(session, mapper.class_, fields)
    return result


def _fields_of(execution: ORMExecuteState) -> tuple[Field, ...]:
    """The file columns that the statement may write: of the mapped class, or of a plain table."""
    statement: Any = execution.statement
    table = (statement.element if execution.is_from_statement else statement).table
    mapper = execution.bind_mapper
    fields = fields_by_class.get(mapper.class_, ()) if mapper is not None else ()
    return fields or tuple(field_of(column) for column in table.columns if is_file_column(column))


def _settle(session: Session, class_: type, fields: Iterable[Field]) -> None:
    """Put refs where SQLAlchemy has copied a statement's unsaved values into objects that the session holds."""
    for target in session.identity_map.values():
        if not isinstance(target, class_):
            continue
        values = inspect(target).dict
        for each in fields:
            value = values.get(each.key)
            if isinstance(value, UnsavedFile):
                values[each.key] = _stored(each, value)
            elif isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, UnsavedFile):
                        list.__setitem__(value, index, _stored(each, item))  # it is in the row already: no change


def _stored(each: Field, content: UnsavedFile) -> StoredObjectRef | UnsavedFile:
    """What content became; itself where it was not this statement's."""
    return content.stored.get((each.manager, each.storage_key or ""), content)
