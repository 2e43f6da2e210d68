"""``find``: from the id in a log line to the object and its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from granite_core.events import object_id as name_object
from granite_litestar.cli._exits import CommandError, Exit
from granite_litestar.cli._work import Work, command

if TYPE_CHECKING:
    from granite_core.integrations.sqlalchemy import SQLAlchemyLedger

__all__ = ["find"]


@command("find")
@click.argument("object_id")
@click.option("--no-bytes", is_flag=True, help="Ask the rows only: no store is listed.")
def find(work: Work, object_id: str, no_bytes: bool) -> Exit | None:
    """Find the object that a log line or an event names, and the rows that hold it.

    Reads every row with files, and lists the stores until it is there. Rows tell of objects that are gone, too.
    """

    def look(ledger: SQLAlchemyLedger) -> Exit | None:
        rows = list(ledger.holders_by_id(object_id))
        place = None if no_bytes else ledger.call(None, work.manager.find_object, object_id)
        if not rows and place is None:
            raise CommandError(Exit.NOT_FOUND, f"no row and no store has an object {object_id}")
        held = [
            (str(column), row.key, ref)
            for column, row in rows
            for ref in row.refs
            if name_object(ref.location) == object_id
        ]
        backend, location = place or (None, held[0][2].location if held else None)
        if work.out.as_json:
            work.out.document(
                {
                    "object_id": object_id,
                    "location": location,
                    "stored_in": backend,
                    "rows": [{"column": column, "key": key, "ref": ref.to_dict()} for column, key, ref in held],
                }
            )
            return None
        where = "" if no_bytes else f", in backend {backend}" if backend else ", its bytes are in no backend"
        work.out.say(f"{location}{where}")
        named = [(column, key, ref.original_filename, ref.size) for column, key, ref in held]
        work.out.table("held by", ("column", "row", "file name", "#bytes"), named)
        return None

    return work.with_rows(look)
