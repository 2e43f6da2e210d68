"""Runs of the collector as events: how each went, with its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from granite_core.errors import StorageError
from granite_core.events import Collected
from granite_core.gc.reports import ReconcileReport, SweepReport, VerifyReport

if TYPE_CHECKING:
    from granite_core.gc._reconcile import Reconcile
    from granite_core.gc._sweep import Sweep
    from granite_core.gc._verify import Verify

__all__ = ["told"]


def told(run: Sweep | Reconcile | Verify) -> SweepReport | ReconcileReport | VerifyReport:
    """Make a run, and tell those who listen how it went."""
    events = run.manager.events
    try:
        report = run.run()
    except Exception as error:
        if events.wanted(Collected):
            code = error.code if isinstance(error, StorageError) else type(error).__name__
            events.emit(Collected(kind=run.kind, dry_run=run.dry_run, seconds=run.seconds, error=code, cause=error))
        raise
    if events.wanted(Collected):
        events.emit(
            Collected(
                kind=run.kind,
                dry_run=run.dry_run,
                seconds=report.seconds,
                skipped=_why_skipped(report),
                stopped=report.stopped,
                problems=len(report.problems),
                report=report,
                **_numbers(report),
            )
        )
    return report


def _numbers(report: SweepReport | ReconcileReport | VerifyReport) -> dict[str, Any]:
    if isinstance(report, SweepReport):
        names = ("examined", "deleted", "held", "younger", "failed", "notes")
        return {name: getattr(report, name) for name in names}
    if isinstance(report, ReconcileReport):
        return {
            "listed": report.listed,
            "noted": report.noted,
            "noted_bytes": sum(each.noted_bytes for each in report.backends),
            "cleared": sum(each.cleared for each in report.backends),
        }
    return {"verified": report.refs, "discrepancies": sum(report.found.values())}


def _why_skipped(report: SweepReport | ReconcileReport | VerifyReport) -> str | None:
    if report.skipped is not None or not isinstance(report, ReconcileReport):
        return report.skipped
    reasons = [each.skipped and f"{each.backend}: {each.skipped}" for each in report.backends]
    return "; ".join(map(str, reasons)) if reasons and all(reasons) else None
