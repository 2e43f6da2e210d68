"""``sweep``, ``reconcile``, ``adopt``, ``lower-grace`` and ``status``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from granite_core.gc import ReconcileReport, StatusReport, SweepReport
from granite_litestar.cli._exits import Exit
from granite_litestar.cli._output import Output, as_age, as_bytes, as_time
from granite_litestar.cli._work import DURATION, RATE_LIMIT, TIME_BUDGET, WAIT, YES, Work, command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from granite_core.gc import Problem

__all__ = ["adopt", "lower_grace", "reconcile", "status", "sweep"]

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Change nothing; tell what would be done.")


@command("sweep")
@_DRY_RUN
@WAIT
def sweep(work: Work, dry_run: bool, wait: timedelta | None) -> Exit:
    """Delete the objects that were let go a grace ago and that no row holds."""
    collector = work.collector()
    with work.out.progress("sweeping", found="deleted") as show:
        report = work.run(collector, lambda: collector.asweep(dry_run=dry_run, wait=wait, progress=show))
    return _tell_sweep(work.out, report)


@command("reconcile")
@click.option("--backend", help="Look at this backend only.")
@_DRY_RUN
@click.option("--max-share", type=click.FloatRange(0, 1), help="Note at most this share of a store; 1 allows all.")
@click.option("--not-within", type=DURATION, help="Skip a backend that was reconciled less than so long ago.")
@TIME_BUDGET
@RATE_LIMIT
@WAIT
def reconcile(
    work: Work,
    backend: str | None,
    dry_run: bool,
    max_share: float | None,
    not_within: timedelta | None,
    time_budget: timedelta | None,
    rate_limit: float | None,
    wait: timedelta | None,
) -> Exit:
    """Compare what is stored with what rows hold, and note what nobody holds. Deletes nothing.

    The sweep looks at the notes when the grace has passed. A run that was stopped is gone on with.
    """
    collector = work.collector(time_budget=time_budget, rate_limit=rate_limit)
    with work.out.progress("listing", found="noted") as show:
        report = work.run(
            collector,
            lambda: collector.areconcile(
                backend, dry_run=dry_run, max_share=max_share, not_within=not_within, wait=wait, progress=show
            ),
        )
    return _tell_reconcile(work.out, report)


@command("adopt")
@click.argument("backend")
@YES
def adopt(work: Work, backend: str, yes: bool) -> None:
    """Make a backend's store belong to this database, whoever it belonged to.

    For a database that has taken another one's place for good: a restored backup, a move. While both collect, each
    deletes what the other's rows hold.
    """
    collector = work.collector()
    work.manager.get_backend(backend)
    work.must_confirm(
        f"From now on the collector of this database deletes from {backend!r} what its own rows do not hold. "
        "Is no other database using that store?",
        yes=yes,
    )
    work.run(collector, lambda: collector.aadopt(backend))
    if work.out.as_json:
        work.out.document({"backend": backend, "adopted": True})
    work.out.say(f"The store of {backend!r} belongs to this database now.")


@command("lower-grace")
@YES
def lower_grace(work: Work, yes: bool) -> None:
    """Let sweeps wait no longer than the application's grace, although a process has worked with a longer one.

    Sweeps wait for the longest grace that was ever used: a shorter one may lose a file of a process that relies on
    the longer.
    """
    collector = work.collector()
    ours = work.manager.grace.total_seconds()
    work.must_confirm(
        f"From now on sweeps wait for {as_age(ours)}. Has no process with a longer grace run for a quarter of that?",
        yes=yes,
    )
    forgotten = [each.total_seconds() for each in work.run(collector, collector.alower_grace)]
    if work.out.as_json:
        work.out.document({"grace": ours, "forgotten": forgotten})
    elif forgotten:
        work.out.say(f"Forgotten: {', '.join(map(as_age, forgotten))}. Sweeps wait for {as_age(ours)}.")
    else:
        work.out.say(f"No process has worked with a longer grace than {as_age(ours)}.")


@command("status")
@click.option("--store", is_flag=True, help="List every backend too, and count what is there.")
def status(work: Work, store: bool) -> Exit:
    """Tell what rows hold, what waits to be deleted, who collects, and what the last runs found."""
    collector = work.collector()
    with work.out.progress("listing", found="") as show:
        report = work.run(collector, lambda: collector.astatus(list_stores=store, progress=show))
    if work.out.as_json:
        work.out.document(report.to_dict())
    else:
        _show_status(work.out, report, work)
    problems = [*(each.problem for each in report.databases), *(each.problem for each in report.stores)]
    return Exit.PROBLEMS if report.refusal or any(problems) else Exit.DONE


# -- sweep -------------------------------------------------------------------------------------------------------------


def _tell_sweep(out: Output, report: SweepReport) -> Exit:
    if out.as_json:
        out.document(report.to_dict())
    elif report.skipped is not None:
        out.note(f"Nothing was done: {report.skipped}.")
    else:
        would = "would be deleted" if report.dry_run else "deleted"
        out.say(
            f"{report.deleted} objects {would}, {report.held} are held by rows, {report.younger} wait for a younger "
            f"tombstone, {report.failed} failed, {report.waiting} wait for their time ({report.seconds:g} s)."
        )
        if report.uploads:
            ends = "would be ended" if report.dry_run else "were ended"
            out.say(f"{report.uploads} uploads have expired, and {ends}.")
        _show_examples(out, report.examples, report.deleted)
        _show_problems(out, report.problems)
    return _ended(report.skipped, bool(report.failed or report.problems), report.stopped)


# -- reconcile ---------------------------------------------------------------------------------------------------------


def _tell_reconcile(out: Output, report: ReconcileReport) -> Exit:
    if out.as_json:
        out.document(report.to_dict())
    elif report.skipped is not None:
        out.note(f"Nothing was done: {report.skipped}.")
    else:
        out.table(
            "Reconciled" if not report.dry_run else "Dry run: nothing was written",
            ["backend", "#listed", "#nobody's", "#bytes", "#cleared", "outcome"],
            [
                (
                    each.backend,
                    each.listed,
                    each.noted,
                    as_bytes(each.noted_bytes),
                    each.cleared,
                    each.skipped or _outcome(each.complete, each.released, report.dry_run, each.resumed),
                )
                for each in report.backends
            ],
        )
        for each in report.backends:
            _show_examples(out, each.examples, each.noted)
        _show_problems(out, report.problems)
    return _ended(report.skipped, bool(report.problems), report.stopped)


def _outcome(complete: bool, released: bool, dry_run: bool, resumed: bool) -> str:
    went_on = "went on with an earlier run; " if resumed else ""
    if not complete:
        return f"{went_on}stopped: the next run goes on there"
    if dry_run:
        return f"{went_on}complete"
    return (
        f"{went_on}complete; the sweep looks at them when the grace has passed" if released else f"{went_on}taken over"
    )


def _ended(skipped: str | None, problems: bool, stopped: bool) -> Exit:
    if skipped is not None:
        return Exit.BUSY
    if problems:
        return Exit.PROBLEMS
    return Exit.INCOMPLETE if stopped else Exit.DONE


def _show_examples(out: Output, examples: Sequence[str], total: int) -> None:
    for each in examples:
        out.say(f"  {each}")
    if total > len(examples):
        out.say(f"  … and {total - len(examples)} more")


def _show_problems(out: Output, problems: Sequence[Problem]) -> None:
    for each in problems:
        out.note(f"{each.backend}{f', {each.location}' if each.location else ''}: {each.message}", style="red")


# -- status ------------------------------------------------------------------------------------------------------------


def _show_status(out: Output, report: StatusReport, work: Work) -> None:
    out.table(
        "Rows hold",
        ["policy", "backend", "#objects", "#bytes"],
        [(each.storage_key, each.backend, each.objects, as_bytes(each.bytes)) for each in report.usage],
    )
    out.table(
        "Stores",
        ["backend", "place", "#objects", "#bytes", "last reconciled", "under way", "problem"],
        [
            (
                ", ".join((each.backend, *each.aliases)),
                repr(work.manager.get_backend(each.backend)),
                each.objects,
                as_bytes(each.bytes),
                as_time(each.reconciled_at),
                f"{each.under_way} listed" if each.under_way is not None else "",
                each.problem,
            )
            for each in report.stores
        ],
    )
    out.table(
        "Waiting to be deleted",
        ["database", "#waiting", "#due", "#retained", "#failing", "#unreleased notes", "oldest", "problem"],
        [
            (
                each.database,
                *(
                    (each.waiting, each.due, each.retained, each.failing, each.unreleased)
                    if each.has_tables
                    else (None,) * 5
                ),
                as_age(each.oldest_seconds),
                each.problem,
            )
            for each in report.databases
        ],
    )
    out.table(
        "Uploads",
        ["database", "#receiving", "#received", "#finished", "#bytes", "#ending", "#expired"],
        [
            (
                each.database,
                *(each.uploads.receiving, as_bytes(each.uploads.received_bytes)),
                *(each.uploads.finished, as_bytes(each.uploads.finished_bytes)),
                *(each.uploads.ending, each.uploads.expired),
            )
            for each in report.databases
            if each.uploads.receiving or each.uploads.finished or each.uploads.ending
        ],
    )
    out.table(
        "Leases", ["of", "holder", "runs out in"], [(e.name, e.holder, as_age(e.seconds_left)) for e in report.leases]
    )
    out.table(
        "Last runs",
        ["run", "ended (UTC)", "outcome"],
        [(name, found.get("ended_at"), _summary(found)) for name, found in report.last.items()],
    )
    out.say(f"The grace is {as_age(report.longest_grace)}: what is let go stays as long.")
    if report.longest_grace > report.grace:
        said = f"This application's is {as_age(report.grace)}, but a process has worked with the longer one"
        out.note(f"{said}; see `litestar granite lower-grace --help`.")
    if report.refusal:
        out.note(f"The collector refuses to run: {report.refusal}", style="red")


def _summary(last: Mapping[str, Any]) -> str:
    if "refused" in last:
        return f"refused: {last['refused']}"
    numbers = ("listed", "noted", "examined", "deleted", "held", "younger", "failed", "uploads", "rows", "objects")
    said = [f"{last[name]} {name}" for name in numbers if last.get(name)]
    return ", ".join(said) or "nothing to do"
