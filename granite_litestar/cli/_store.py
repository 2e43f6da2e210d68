"""``put`` and ``cp``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from granite_core import StagedFile
from granite_litestar.cli._exits import CommandError, Exit
from granite_litestar.cli._output import as_age, as_bytes
from granite_litestar.cli._targets import BACKEND, ITEM, OF, Target, find
from granite_litestar.cli._work import YES, Work, command

if TYPE_CHECKING:
    from granite_core.integrations.sqlalchemy import RowFile, SQLAlchemyLedger

__all__ = ["cp", "put"]

_ATTACH: Final = click.option(
    "--attach", nargs=2, metavar="FIELD KEY", help="Put it into this row at once: Document.file 42."
)
_CONTEXT: Final = click.option(
    "--context", multiple=True, metavar="NAME=VALUE", help="A value for the policy's key template; may be repeated."
)


@command("put")
@click.argument("policy")
@click.argument("file", type=click.File("rb"))
@click.option("--filename", help="The name it goes by; the file's own where absent.")
@click.option("--content-type", help="The media type it is said to be of; believed where the bytes do not tell.")
@_CONTEXT
@_ATTACH
@YES
def put(
    work: Work,
    policy: str,
    file: IO[bytes],
    filename: str | None,
    content_type: str | None,
    context: tuple[str, ...],
    attach: tuple[str, str] | None,
    yes: bool,
) -> None:
    """Store a file by the rules of a policy, and print its ref. FILE may be - for stdin.

    The ref has to be written into a row within a quarter of the grace; --attach does so at once. What is not attached
    goes with the next reconcile.
    """
    values = _context(context)
    source = getattr(file, "name", "-")
    if filename is None and source not in ("<stdin>", "-"):
        filename = Path(source).name

    def store() -> StagedFile:
        with work.out.reading(file, "storing") as stream:
            return work.manager.put_stream(
                policy, stream=stream, original_filename=filename, content_type=content_type, context=values
            )

    work.manager.get_policy(policy)
    _store(work, policy, store, attach, yes=yes)


@command("cp")
@click.argument("names", nargs=-1, required=True, metavar="[LOCATION] POLICY")
@BACKEND
@OF
@ITEM
@_CONTEXT
@_ATTACH
@YES
def cp(
    work: Work,
    names: tuple[str, ...],
    backend: str | None,
    of: tuple[str, str] | None,
    item: int,
    context: tuple[str, ...],
    attach: tuple[str, str] | None,
    yes: bool,
) -> None:
    """Store an object again under a policy, and print the copy's ref. LOCATION is its key, or a ref as JSON.

    Size and SHA-256 of what is read are held against what its row says.
    """
    if len(names) > 2:
        raise CommandError(Exit.USAGE, "one location and one policy")
    *location, policy = names
    values = _context(context)
    work.manager.get_policy(policy)
    target = work.with_rows(
        lambda ledger: _known(ledger, find(work.manager, ledger, *location, backend=backend, of=of, item=item))
    )

    def store() -> StagedFile:
        if target.ref is not None:
            return work.manager.copy(target.ref, policy, context=values)
        with work.manager.get_backend(target.backend).open(target.location) as stream:
            name = target.location.rpartition("/")[2]
            return work.manager.put_stream(policy, stream=stream, original_filename=name, context=values)

    _store(work, policy, store, attach, yes=yes)


def _known(ledger: SQLAlchemyLedger, target: Target) -> Target:
    """Look for a row that knows more of an object than its key."""
    if target.ref is None:
        for _, row in ledger.holders(target.location, limit=1):
            return replace(target, ref=next(ref for ref in row.refs if ref.location == target.location))
    return target


def _store(
    work: Work, policy: str, store: Callable[[], StagedFile], attach: tuple[str, str] | None, *, yes: bool
) -> None:
    if attach is not None:
        _check_row(work, policy, work.with_rows(lambda ledger: ledger.row_file(*attach)), yes=yes)
    staged = work.without_rows(store)
    before = datetime.fromisoformat(staged.created_at or "") + work.manager.attach_within
    if attach is not None:
        try:
            work.with_rows(lambda ledger: ledger.attach(*attach, staged))
        except BaseException:
            staged.discard()  # where a flush has seen it, the sweep looks after it
            raise
    if work.out.as_json:
        until = None if attach else before.isoformat(timespec="seconds")
        attached = {"field": attach[0], "row": attach[1]} if attach else None
        work.out.document({"ref": staged.to_dict(), "attached": attached, "attach_before": until})
        return
    work.out.say(staged.to_json().decode())
    if attach:
        work.out.note(f"Row {attach[1]} holds it in {attach[0]}.")
    else:
        within = as_age(work.manager.attach_within.total_seconds())
        work.out.note(f"Write it into a row within {within}, until {before:%Y-%m-%d %H:%M:%S}Z; else it goes.")


def _check_row(work: Work, policy: str, row: RowFile, *, yes: bool) -> None:
    if row.storage_key not in (None, policy):
        raise CommandError(Exit.USAGE, f"{row.field} takes files of policy {row.storage_key!r}, not of {policy!r}")
    if row.refs and not row.many:
        now = row.refs[0]
        work.must_confirm(
            f"{row.field} of row {row.key} holds {now.original_filename or 'a file'} ({as_bytes(now.size)}), and would "
            "let it go. Replace it?",
            yes=yes,
        )


def _context(pairs: Sequence[str]) -> dict[str, str] | None:
    for each in pairs:
        if "=" not in each:
            raise CommandError(Exit.USAGE, f"--context takes NAME=VALUE, not {each!r}")
    return {name: value for name, _, value in (each.partition("=") for each in pairs)} or None
