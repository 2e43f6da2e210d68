"""Alembic: what autogenerate writes for file columns, and the index that it does not see on SQLite.

In ``env.py``, for plain Alembic and for advanced-alchemy's environment alike::

    from granite_core.integrations.sqlalchemy import migrations

    migrations.compare_lookup_indexes()
    context.configure(..., render_item=migrations.render_item)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

from granite_core.errors import MissingExtraError
from granite_core.integrations.sqlalchemy._indexes import index_names, lookup_indexes
from granite_core.integrations.sqlalchemy.types import is_file_type

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy import Index, Table

__all__ = ["compare_lookup_indexes", "render_item"]

_COLUMN_TYPE: Final = "{sa}JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), 'postgresql')"


def render_item(type_: str, obj: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Write a file column's type into a migration as the plain JSON beneath, so that it imports nothing of Granite's.

    For ``context.configure(render_item=…)``; from a function of your own, call it first and return what it answers
    unless that is False.

    Args:
        type_: The kind of the item.
        obj: The item.
        autogen_context: Alembic's, which collects the imports.

    Returns:
        The text, or False for what is not Granite's.
    """
    if type_ != "type" or not is_file_type(obj):
        return False
    autogen_context.imports.add("from sqlalchemy.dialects import postgresql")
    return _COLUMN_TYPE.format(sa=(autogen_context.opts or {}).get("sqlalchemy_module_prefix") or "sa.")


@cache
def compare_lookup_indexes() -> None:
    """Let autogenerate create the look-up's indexes on SQLite, where Alembic passes over indexes of expressions.

    On PostgreSQL it sees them by itself. Call it in ``env.py``; once or often is the same.

    Raises:
        MissingExtraError: Alembic is not installed, or is older than 1.18.
    """
    try:
        from alembic.autogenerate import comparators
        from alembic.util import DispatchPriority
    except ImportError as error:
        raise MissingExtraError("alembic", "comparing the look-up's indexes") from error
    # After Alembic's own comparison: the index of a new table follows its table.
    comparators.dispatch_for("schema", priority=DispatchPriority.LAST)(_add_missing)


def _add_missing(autogen_context: AutogenContext, upgrade_ops: UpgradeOps, schemas: Iterable[str | None]) -> None:
    from alembic.operations import ops

    connection = autogen_context.connection
    if connection is None or connection.dialect.name != "sqlite":
        return
    for table in autogen_context.sorted_tables:
        if table.schema not in schemas or not _is_included(autogen_context, table, "table"):
            continue
        there = index_names(connection, table, table.schema)
        missing: list[ops.MigrateOperation] = [
            ops.CreateIndexOp.from_index(index)
            for index in lookup_indexes(table, "sqlite")
            if index.name not in there and _is_included(autogen_context, index, "index")
        ]
        if missing:
            upgrade_ops.ops.append(ops.ModifyTableOps(table.name, missing, schema=table.schema))


def _is_included(autogen_context: AutogenContext, item: Table | Index, kind: Literal["table", "index"]) -> bool:
    """Ask the user's ``include_object``."""
    return autogen_context.run_object_filters(item, item.name, kind, reflected=False, compare_to=None)
