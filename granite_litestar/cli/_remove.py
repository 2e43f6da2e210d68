"""``rm``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from granite_core import ObjectNotFoundError, ObjectStat, StorageError, StorageManager, StoredObjectRef
from granite_litestar.cli._exits import CommandError, Exit
from granite_litestar.cli._output import as_age, as_bytes
from granite_litestar.cli._work import YES, Work, command

if TYPE_CHECKING:
    from granite_core.integrations.sqlalchemy import SQLAlchemyLedger

__all__ = ["rm"]


@dataclass(frozen=True, slots=True)
class _Doomed:
    """An object that is to go, and why it should perhaps not."""

    location: str
    size: int
    objection: str | None


@command("rm")
@click.argument("policy")
@click.argument("locations", nargs=-1, required=True, metavar="LOCATION...")
@click.option("--later", is_flag=True, help="Leave it to the sweep, which looks again and deletes after the grace.")
@click.option("--force", is_flag=True, help="Delete even what a row holds, or an upload may come to attach.")
@YES
def rm(work: Work, policy: str, locations: tuple[str, ...], later: bool, force: bool, yes: bool) -> Exit | None:
    """Delete objects of a policy now, if no row holds them.

    Nothing is deleted when there is an objection to one of them: a row holds it; or it was stored less than a grace
    ago, so that an upload which is under way may still come to be attached. With --later the sweep decides, and no
    harm can be done.
    """
    backend_key = work.manager.get_policy(policy).backend_key
    found, missing = work.with_rows(lambda ledger: _look_at(work.manager, ledger, policy, locations))
    objections = [each for each in found if each.objection]
    if objections and not force and not later:
        if work.out.as_json:
            refused = [{"location": each.location, "reason": each.objection} for each in objections]
            work.out.document({"deleted": [], "noted": [], "missing": missing, "refused": refused})
        for each in objections:
            work.out.note(f"{each.location}: {each.objection}", style="red")
        work.out.note("refused: nothing was deleted. --later leaves it to the sweep; --force deletes all the same.")
        return Exit.REFUSED
    deleted: list[str] = []
    noted: list[str] = []
    refs = [StoredObjectRef(policy, backend_key, each.location, each.size) for each in found]
    if found and later:
        work.with_rows(lambda _: work.manager.note(refs))
        noted = [each.location for each in found]
    elif found:
        _ask(work, found, objections, yes=yes)
        try:
            work.without_rows(lambda: _delete(work.manager, refs, deleted))
        except StorageError:
            work.out.note(f"{len(deleted)} of {len(found)} objects were deleted before this:")
            raise
    if work.out.as_json:
        work.out.document({"deleted": deleted, "noted": noted, "missing": missing, "refused": []})
    for location in (*deleted, *noted):
        work.out.say(f"{'deleted' if deleted else 'left to the sweep'}: {location}")
    for location in missing:
        work.out.note(f"no such object: {location}", style="red")
    return Exit.NOT_FOUND if missing else None


def _look_at(
    manager: StorageManager, ledger: SQLAlchemyLedger, policy: str, locations: Sequence[str]
) -> tuple[list[_Doomed], list[str]]:
    backend, prefix = manager.get_backend_for_policy(policy), (manager.get_policy(policy).key_prefix or "").strip("/")
    found: list[_Doomed] = []
    missing: list[str] = []
    for location in dict.fromkeys(locations):
        if prefix and not location.startswith(f"{prefix}/"):
            raise CommandError(
                Exit.USAGE, f"{location!r} is none of policy {policy!r}, whose keys begin with {prefix}/"
            )
        try:
            stat = ledger.call(backend, backend.stat, location)
        except ObjectNotFoundError:
            missing.append(location)
            continue
        found.append(_Doomed(location, stat.size, _objection(manager, ledger, location, stat)))
    return found, missing


def _objection(manager: StorageManager, ledger: SQLAlchemyLedger, location: str, stat: ObjectStat) -> str | None:
    holders = ledger.holders(location, limit=3)
    if holders:
        return "held by " + ", ".join(f"{column} of row {row.key}" for column, row in holders)
    age = manager.now() - stat.modified
    if age < max(manager.grace, timedelta(milliseconds=ledger.longest_grace())):
        return f"stored {as_age(max(0.0, age.total_seconds()))} ago: an upload under way may come to be attached"
    return None


def _ask(work: Work, found: Sequence[_Doomed], objections: Sequence[_Doomed], *, yes: bool) -> None:
    for each in objections:
        work.out.note(f"{each.location}: {each.objection}", style="red")
    size = as_bytes(sum(each.size for each in found))
    work.must_confirm(f"Delete {len(found)} objects ({size}) for good?", yes=yes)


def _delete(manager: StorageManager, refs: Sequence[StoredObjectRef], deleted: list[str]) -> None:
    for ref in refs:
        manager.delete(ref)
        deleted.append(ref.location)
