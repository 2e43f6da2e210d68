"""``ls`` and ``cat``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from granite_core import ObjectStat, StorageManager
from granite_litestar.cli._exits import CommandError, Exit
from granite_litestar.cli._targets import BACKEND, ITEM, OF, find, needs_rows
from granite_litestar.cli._work import Work, command

if TYPE_CHECKING:
    from granite_core.gc import Ledger
    from granite_core.integrations.sqlalchemy import SQLAlchemyLedger

__all__ = ["cat", "ls"]

_CHUNK: Final = 1024 * 1024
_PAGE: Final = 500


@command("ls")
@click.argument("policy")
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(1), help="So many objects at most.")
@click.option("--start-after", help="Only keys after this one.")
@click.option("--nobodys", is_flag=True, help="Only what neither a row nor a tombstone names.")
@click.option("--no-rows", is_flag=True, help="Do not ask the database who holds what.")
def ls(
    work: Work, policy: str, prefix: str, limit: int | None, start_after: str | None, nobodys: bool, no_rows: bool
) -> None:
    """List the objects of a policy: those below its key prefix, in its backend.

    Each with its size in bytes, when it was stored, and who holds it: a row, a tombstone (it waits to be deleted), or
    nobody (an upload that is under way, or work for the reconcile). With --json a line of JSON for each.
    """
    if nobodys and no_rows:
        raise CommandError(Exit.USAGE, "--nobodys needs the rows")
    rules = work.manager.get_policy(policy)
    backend = work.manager.get_backend_for_policy(policy)
    folder = (rules.key_prefix or "").strip("/")
    below = f"{folder}/" if folder else ""
    wanted = prefix if prefix.startswith(below) else below + prefix

    def list_all(ledger: Ledger | None) -> None:
        listing = backend.list_objects(prefix=wanted, start_after=start_after)
        left = limit
        while page := _next(ledger, listing):
            shown = _with_holders(work.manager, ledger, page)
            if nobodys:
                shown = [(each, who) for each, who in shown if who == "nobody"]
            for each, who in shown[:left]:
                _show_object(work, each, who)
            if left is not None and (left := left - len(shown)) <= 0:
                return

    if no_rows:
        work.without_rows(lambda: list_all(None))
    else:
        work.with_rows(list_all)


def _next(ledger: Ledger | None, listing: Iterator[ObjectStat]) -> list[ObjectStat]:
    some = islice(listing, _PAGE)
    return list(some) if ledger is None else ledger.call(None, lambda: list(some))


def _with_holders(
    manager: StorageManager, ledger: Ledger | None, page: Sequence[ObjectStat]
) -> list[tuple[ObjectStat, str | None]]:
    if ledger is None:
        return [(each, None) for each in page]
    look = ledger.look([each.location for each in page], grace=int(manager.grace.total_seconds() * 1000))
    waiting = {each.location for each in look.tombstones}

    def who(location: str) -> str:
        return "row" if location in look.held else "tombstone" if location in waiting else "nobody"

    return [(each, who(each.location)) for each in page]


def _show_object(work: Work, each: ObjectStat, who: str | None) -> None:
    if work.out.as_json:
        known: dict[str, Any] = {"location": each.location, "size": each.size, "modified": each.modified.isoformat()}
        work.out.line(known if who is None else {**known, "held_by": who})
    else:
        modified = f"{each.modified.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
        click.echo(f"{each.size:>14}  {modified}  {who or '':9}  {each.location}")


@command("cat", json=False)
@click.argument("location", required=False)
@BACKEND
@OF
@ITEM
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True, help="First byte.")
@click.option("--length", type=click.IntRange(0), help="So many bytes; all that follow where absent.")
def cat(
    work: Work,
    location: str | None,
    backend: str | None,
    of: tuple[str, str] | None,
    item: int,
    offset: int,
    length: int | None,
) -> None:
    """Write an object's content to stdout. LOCATION is its key, or a ref as JSON."""
    out = sys.stdout.buffer

    def copy_out(ledger: SQLAlchemyLedger | None) -> None:
        target = find(work.manager, ledger, location, backend=backend, of=of, item=item)

        def copy() -> None:
            opened = work.manager.get_backend(target.backend).open_reader(target.location, offset=offset, length=length)
            with opened as reader:
                while data := reader.read(_CHUNK):
                    out.write(data)
            out.flush()

        if ledger is None:
            copy()
        else:
            ledger.call(None, copy)

    if needs_rows(work.manager, location, backend, of):
        work.with_rows(copy_out)
    else:
        work.without_rows(lambda: copy_out(None))
