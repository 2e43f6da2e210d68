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
def quota(work: Work, scope: str | None, recount: bool) -> Exit | None:
    """Tell what a scope has stored; without one, what each has."""
    if not work.manager.has_quotas:
        raise CommandError(Exit.NOT_FOUND, "no policy has quotas")

    def look(_: SQLAlchemyLedger) -> Exit | None:
        quotas = work.manager.quotas
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


def _all(work: Work) -> Iterator[QuotaUsage]:
    after: str | None = None
    while page := work.manager.quotas.scopes(after=after):
        yield from page
        after = page[-1].scope
