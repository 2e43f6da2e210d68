"""What rounds come to: medians, ratios, goals; as text, as JSON, and as tables for the documentation."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import median
from typing import Any

from tests.benchmarks.harness import Goal, Outcome, Result

__all__ = ["as_json", "as_markdown", "as_text", "machine"]

OURS = "granite-litestar"
PACKAGES = (
    *(OURS, "granite-storage", "sqlalchemy-file", "advanced-alchemy", "obstore", "fsspec", "s3fs"),
    *("boto3", "SQLAlchemy", "litestar", "starlette", "uvicorn", "uvloop", "httptools", "granian", "multipart"),
)


def machine() -> dict[str, Any]:
    """Where and with what it runs."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load": [round(each, 2) for each in os.getloadavg()],
        "packages": versions,
    }


def as_json(result: Result) -> dict[str, Any]:
    """A case's figures: seconds for one operation, bytes."""
    case = result.case
    return {
        "subject": case.subject,
        "case": case.name,
        "baseline": case.baseline,
        "size": case.size,
        "contenders": [
            {
                "name": each.contender.name,
                "kind": each.contender.kind,
                "note": each.contender.note,
                "absent": each.absent,
                "error": each.error,
                **_figures(result, each),
                "samples": [asdict(sample) for sample in each.samples],
            }
            for each in result.outcomes
        ],
        "goals": [{**asdict(goal), "found": reached(result, goal)} for goal in case.goals],
    }


def as_text(result: Result) -> str:
    """A case as a table."""
    case = result.case
    served = any(each.samples and each.samples[0].server_cpu is not None for each in result.outcomes)
    head = ["", "median", "min", "ratio", "rate", "cpu", "cpu ratio", *(["client cpu"] if served else []), "memory", ""]
    rows = [head]
    for each in result.outcomes:
        name = f"{each.contender.name} *" if each.contender.kind == "ours" else each.contender.name
        if not each.samples or each.error:
            rows.append([name, *[""] * (len(head) - 2), "FAILED" if each.error else f"({each.absent})"])
            continue
        figures = _figures(result, each)
        rows.append(
            [
                name,
                _seconds(figures["median"]),
                _seconds(figures["min"]),
                _ratio(figures["ratio"]),
                _rate(figures["median"], case.size),
                _seconds(figures["cpu"]),
                _ratio(figures["cpu_ratio"]),
                *([_seconds(figures["client_cpu"])] if served else []),
                f"+{figures['memory'] / 1024**2:.1f} MiB",
                each.contender.note,
            ]
        )
    title = f"{case.subject}: {case.name}  (for one {case.unit}; ratios to {case.baseline})"
    failures = [f"\n{each.contender.name}: {each.error}" for each in result.outcomes if each.error]
    return "\n".join([title, *_table(rows), *(_goal(result, goal) for goal in case.goals), *failures])


def as_markdown(results: Sequence[Result], where: Mapping[str, Any]) -> str:
    """All cases as a part of a page: goals first, then a table for each case, ours in bold."""
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items() if name != OURS)
    here = f"{where['processors']} processors, {platform.system()} {platform.machine()}, Python {where['python']}"
    lines = [
        f"Measured on {where['date'][:10]}: {here}; {versions}.",
        "",
        "| work | who | goal | found |",
        "|---|---|---|---|",
    ]
    for result in results:
        work = f"{result.case.subject}: {result.case.name}"
        lines += [f"| {' | '.join([work, *_goal_cells(result, goal)])} |" for goal in result.case.goals]
    subject = ""
    for result in results:
        case = result.case
        if case.subject != subject:
            subject = case.subject
            lines += ["", f"### {subject.capitalize()}"]
        lines += ["", f"{case.name[:1].upper()}{case.name[1:]}; for one {case.unit}, ratios to {case.baseline}:", ""]
        lines += ["| | time | cpu | median | cpu | memory | |", "|---|---|---|---|---|---|---|"]
        for each in result.outcomes:
            name = f"**{each.contender.name}**" if each.contender.kind == "ours" else each.contender.name
            if not each.samples or each.error:
                lines.append(f"| {name} | | | | | | {'failed' if each.error else each.absent} |")
                continue
            figures = _figures(result, each)
            cells = [
                name,
                _ratio(figures["ratio"]),
                _ratio(figures["cpu_ratio"]),
                _seconds(figures["median"]),
                _seconds(figures["cpu"]),
                f"+{figures['memory'] / 1024**2:.1f} MiB",
                each.contender.note,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def reached(result: Result, goal: Goal) -> float | None:
    """The figure a goal speaks of; None where somebody it needs took no part."""
    of = _find(result, goal.of)
    if of is None:
        return None
    if goal.metric == "memory":
        return float(_figures(result, of)["memory"])
    to = _find(result, goal.to or result.case.baseline)
    return None if to is None else _compare(of, to, goal.metric)


def _figures(result: Result, outcome: Outcome) -> dict[str, Any]:
    if not outcome.samples:
        return {}
    base = _find(result, result.case.baseline)
    samples = outcome.samples
    return {
        "median": median(each.wall for each in samples),
        "min": min(each.wall for each in samples),
        "ratio": None if base is None else _compare(outcome, base, "wall"),
        "cpu": median(_cpu(samples)),
        "cpu_ratio": None if base is None else _compare(outcome, base, "cpu"),
        "client_cpu": median(each.cpu for each in samples),
        "memory": max(each.memory for each in samples),
    }


def _find(result: Result, name: str) -> Outcome | None:
    return next((each for each in result.outcomes if each.contender.name == name and each.samples), None)


def _compare(of: Outcome, to: Outcome, metric: str) -> float | None:
    """The median of the ratios of rounds that were next to each other: what slows both down does not count."""
    if metric == "cpu":
        ours, theirs = _cpu(of.samples), _cpu(to.samples)
    else:
        ours, theirs = [each.wall for each in of.samples], [each.wall for each in to.samples]
    ratios = [one / other for one, other in zip(ours, theirs, strict=False) if other > 0]
    return median(ratios) if ratios else None


def _cpu(samples: Sequence[Any]) -> list[float]:
    """Of the server where there is one, else of the contender."""
    return [each.cpu if each.server_cpu is None else each.server_cpu for each in samples]


def _goal(result: Result, goal: Goal) -> str:
    of, meant, found = _goal_cells(result, goal)
    return f"  goal: {of}: {meant}: {found}"


def _goal_cells(result: Result, goal: Goal) -> tuple[str, str, str]:
    """Who, what is meant, and what was found."""
    found = reached(result, goal)
    if goal.metric == "memory":
        meant = f"at most +{goal.at_most / 1024**2:g} MiB"
        figure = "" if found is None else f"+{found / 1024**2:.1f} MiB"
    else:
        what = "time" if goal.metric == "wall" else "cpu"
        meant = f"at most {goal.at_most:.2f} of the {what} of {goal.to or result.case.baseline}"
        figure = "" if found is None else f"{found:.2f}"
    if found is None:
        return goal.of, meant, "not known here"
    return goal.of, meant, figure if found <= goal.at_most else f"{figure}, not reached"


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        first, *middle, last = row
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(middle, widths[1:], strict=False))]
        yield f"  {'  '.join(cells)}  {last}".rstrip()


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value * 1e6:.3g} µs"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _rate(seconds: float, size: int | None) -> str:
    if size is not None and size >= 1024**2:
        return f"{size / 1024**2 / seconds:.0f} MiB/s"
    return f"{1 / seconds:.0f}/s" if seconds < 0.1 else ""
