"""``doctor``."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final

import click

from granite_core import Finding, Severity
from granite_core.doctor import examine
from granite_litestar.cli._exits import Exit
from granite_litestar.cli._output import Output
from granite_litestar.cli._work import Work, command
from granite_litestar.direct import DirectUploads

__all__ = ["doctor"]

_STYLES: Final = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "yellow",
    Severity.NOTE: "cyan",
    Severity.OK: "green",
}


@command("doctor")
@click.option(
    "--origin",
    multiple=True,
    help="Where pages come from whose scripts talk to the store directly (https://app.example); may be repeated.",
)
@click.option("--strict", is_flag=True, help="Count warnings as problems.")
def doctor(work: Work, origin: tuple[str, ...], strict: bool) -> Exit:
    """Examine configuration, databases, stores, permissions and clocks, and say what to do.

    It writes and deletes small objects of its own in every backend, and nothing in a database.
    """
    collector = work.collector()
    with work.out.status("examining") as told:
        receiving: dict[str, timedelta] = {}
        for each in work.plugin.config.uploads:
            if isinstance(each, DirectUploads):
                lasts = each.direct.requests_expire_in
                receiving[each.storage_key] = max(lasts, receiving.get(each.storage_key, lasts))
        look = partial(examine, collector, origins=origin, receiving=receiving, told=told)
        findings = work.run(collector, lambda: collector.ledger.arun(look, threading.Event()))
    counts = Counter(each.severity for each in findings)
    if work.out.as_json:
        numbers = {each.value: counts[each] for each in Severity}
        work.out.document({"counts": numbers, "findings": [each.to_dict() for each in findings]})
    else:
        _show(work.out, findings)
        work.out.say(", ".join(f"{counts[each]} {each.value}" for each in Severity))
    bad = counts[Severity.ERROR] + (counts[Severity.WARNING] if strict else 0)
    return Exit.PROBLEMS if bad else Exit.DONE


def _show(out: Output, findings: Sequence[Finding]) -> None:
    for each in findings:
        about = f"{each.subject}: " if each.subject else ""
        out.marked(each.severity.value.upper(), f"{about}{each.found}  [{each.code}]", style=_STYLES[each.severity])
        for line in each.advice.splitlines():
            out.say(f"         {line}")
