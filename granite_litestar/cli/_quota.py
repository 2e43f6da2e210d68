"""``quota``: what users and tenants have stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from granite_core import QuotaUsage
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from granite_litestar.cli._exits import CommandError, Exit
from granite_litestar.cli._work import Work, command

__all__ = ["quota"]


@command("quota")
@click.argument("scope", required=False)
@click.option("--recount", is_flag=True, help="Add up again what is counted, and correct the sums.")
@click.option("--count", "field", metavar="MODEL.FIELD", help="Count the files that the rows hold there already.")
@click.option("--for", "template", metavar="TEXT", help="Whom --count counts them for, as in 'user:{owner}'.")
def quota(work: Work, scope: str | None, recount: bool, field: str | None, template: str | None) -> Exit | None:
    """Tell what a scope has stored; without one, what each has."""
    if (field is None) != (template is None):
        raise CommandError(Exit.USAGE, "--count and --for go together")
    if not work.manager.has_quotas:
        raise CommandError(Exit.NOT_FOUND, "no policy has quotas")

    def look(ledger: SQLAlchemyLedger) -> Exit | None:
        quotas = work.manager.quotas
        if field is not None and template is not None:
            _count(work, ledger, field, template)
        found = [quotas.usage(scope)] if scope is not None else list(_all(work))
        if recount:
            found = [quotas.recount(each.scope) for each in found]
        if work.out.as_json:
            work.out.document({"scopes": [asdict(each) for each in found]})
        else:
            rows = [(each.scope, each.bytes, each.files) for each in found]
            work.out.table("quotas", ("scope", "#bytes", "#files"), rows)
        return None

    return work.with_rows(look)


def _count(work: Work, ledger: SQLAlchemyLedger, field: str, template: str) -> None:
    for values, refs in ledger.file_rows(field):
        try:
            scope = template.format_map(values)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            known = ", ".join(values)
            raise CommandError(Exit.USAGE, f"--for {template!r} names no column; there are {known}") from error
        for ref in refs:
            work.manager.quotas.count(ref, scope)


def _all(work: Work) -> Iterator[QuotaUsage]:
    after: str | None = None
    while page := work.manager.quotas.scopes(after=after):
        yield from page
        after = page[-1].scope
