"""``verify``."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import click

from granite_core.gc import VerifyOptions, VerifyReport
from granite_litestar.cli._exits import Exit
from granite_litestar.cli._output import Output, as_bytes
from granite_litestar.cli._work import RATE_LIMIT, SIZE, TIME_BUDGET, WAIT, Work, command

__all__ = ["verify"]

_SHOWN: Final = {
    "missing": "there is no object",
    "size": "another size",
    "checksum": "another SHA-256",
    "unreadable": "could not be read",
    "no-backend": "the backend is not known",
    "undecodable": "what the row holds is no ref",
}


@command("verify")
@click.option("--checksums", is_flag=True, help="Read every object and compare its SHA-256, not only its size.")
@click.option("--policy", help="Look at files of this policy only.")
@click.option("--backend", help="Look at files in this backend only.")
@click.option("--no-stores", is_flag=True, help="Do not list the backends for what no row holds.")
@click.option("--workers", type=click.IntRange(1, 256), default=8, show_default=True, help="Objects at a time.")
@click.option("--byte-rate", type=SIZE, help="Read at most so many bytes a second (50MB, 2GiB).")
@RATE_LIMIT
@TIME_BUDGET
@click.option("--restart", is_flag=True, help="Begin anew, whatever was left unfinished.")
@WAIT
def verify(
    work: Work,
    checksums: bool,
    policy: str | None,
    backend: str | None,
    no_stores: bool,
    workers: int,
    byte_rate: int | None,
    rate_limit: float | None,
    time_budget: timedelta | None,
    restart: bool,
    wait: timedelta | None,
) -> Exit:
    """Hold every row against its object, and every object against the rows. Changes nothing.

    A run that was stopped is gone on with by the next one with the same options.
    """
    collector = work.collector(rate_limit=rate_limit, time_budget=time_budget)
    options = VerifyOptions(
        checksums=checksums,
        storage_key=policy,
        backend_key=backend,
        stores=not no_stores,
        workers=workers,
        byte_rate=byte_rate,
        restart=restart,
    )
    with work.out.progress("verifying", found="wrong") as show:
        report = work.run(collector, lambda: collector.averify(options, wait=wait, progress=show))
    if work.out.as_json:
        work.out.document(report.to_dict())
    elif report.skipped is not None:
        work.out.note(f"Nothing was done: {report.skipped}.")
    else:
        _show(work.out, report)
    if report.skipped is not None:
        return Exit.BUSY
    if not report.sound:
        return Exit.PROBLEMS
    return Exit.INCOMPLETE if report.stopped else Exit.DONE


def _show(out: Output, report: VerifyReport) -> None:
    how = f"read and hashed {as_bytes(report.read)}" if report.checksums else "looked at presence and size"
    went_on = ", going on with an earlier run" if report.resumed else ""
    out.say(
        f"{report.refs} files of {report.rows} rows, {as_bytes(report.bytes)}: {how}{went_on} ({report.seconds:g} s)."
    )
    if report.without_checksum:
        out.say(f"{report.without_checksum} rows hold no SHA-256 to compare with.")
    out.table(
        "What rows say and what is stored differ",
        ["what", "#files"],
        [(_SHOWN[kind], count) for kind, count in report.found.items()],
    )
    out.table(
        f"The first {len(report.discrepancies)}",
        ["what", "column", "row", "backend", "location", "found"],
        [
            (each.kind.value, each.column, each.row, each.backend, each.location, each.message)
            for each in report.discrepancies
        ],
    )
    out.table(
        "Stores, seen from the rows",
        ["backend", "#objects", "#bytes", "#held by rows", "#waiting to go", "#nobody's", "#bytes"],
        [
            (
                each.backend,
                each.objects,
                as_bytes(each.bytes),
                each.held,
                each.waiting,
                each.nobodys,
                as_bytes(each.nobodys_bytes),
            )
            for each in report.stores
        ],
    )
    for problem in report.problems:
        out.note(problem.message, style="red")
    if report.stopped:
        out.note("Stopped before the end: the same command goes on there.")
    elif report.sound:
        out.say("All is as the rows say.")
