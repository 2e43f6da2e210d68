"""What rounds come to: medians, ratios, goals; as data, as text, and as tables for the documentation.

python -m tests.benchmarks.report FILE.json … prints the tables of results that were written down earlier.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from tests.benchmarks.harness import Goal, Outcome, Result

__all__ = ["Summary", "as_markdown", "as_ratio", "as_seconds", "as_text", "machine", "summarize"]

Summary: TypeAlias = dict[str, Any]

OURS = "granite-litestar"
PACKAGES = (
    *(OURS, "granite-storage", "sqlalchemy-file", "advanced-alchemy", "obstore", "fsspec", "s3fs", "boto3"),
    *("SQLAlchemy", "litestar", "starlette", "uvicorn", "uvloop", "httptools", "granian", "multipart"),
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
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load": [round(each, 2) for each in os.getloadavg()],
        "packages": versions,
    }


# ----------------------------------------------------------------------------------------------------------- figures
def summarize(result: Result) -> Summary:
    """A case's figures as JSON has them: seconds for one operation, bytes."""
    case = result.case
    return {
        "subject": case.subject,
        "case": case.name,
        "unit": case.unit,
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
        "goals": [
            {**asdict(goal), "to": goal.to or case.baseline, "found": _found(result, goal)} for goal in case.goals
        ],
    }


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
        "served": samples[0].server_cpu is not None,
        "memory": max(each.memory for each in samples),
    }


def _found(result: Result, goal: Goal) -> float | None:
    """The figure a goal speaks of; None where somebody it needs took no part."""
    of = _find(result, goal.of)
    if of is None:
        return None
    if goal.metric == "memory":
        return float(_figures(result, of)["memory"])
    if goal.metric == "least":
        return float(_figures(result, of)["min"])
    to = _find(result, goal.to or result.case.baseline)
    return None if to is None else _compare(of, to, goal.metric)


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


# -------------------------------------------------------------------------------------------------------------- text
def as_text(summary: Summary) -> str:
    """A case as a table."""
    served = any(each.get("served") for each in summary["contenders"])
    head = ["", "median", "min", "ratio", "rate", "cpu", "cpu ratio", *(["client cpu"] if served else []), "memory", ""]
    rows = [head]
    for each in summary["contenders"]:
        name = f"{each['name']} *" if each["kind"] == "ours" else each["name"]
        if "median" not in each or each["error"]:
            rows.append([name, *[""] * (len(head) - 2), "FAILED" if each["error"] else f"({each['absent']})"])
            continue
        rows.append(
            [
                name,
                as_seconds(each["median"]),
                as_seconds(each["min"]),
                as_ratio(each["ratio"]),
                _rate(each["median"], summary["size"]),
                as_seconds(each["cpu"]),
                as_ratio(each["cpu_ratio"]),
                *([as_seconds(each["client_cpu"])] if served else []),
                _memory(each["memory"]),
                each["note"],
            ]
        )
    title = f"{_work(summary)}  (for one {summary['unit']}; ratios to {summary['baseline']})"
    goals = [f"  goal: {of}: {meant}: {found}" for of, meant, found in map(_goal, summary["goals"])]
    failures = [f"\n{each['name']}: {each['error']}" for each in summary["contenders"] if each["error"]]
    return "\n".join([title, *_table(rows), *goals, *failures])


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        first, *middle, last = row
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(middle, widths[1:], strict=False))]
        yield f"  {'  '.join(cells)}  {last}".rstrip()


# ---------------------------------------------------------------------------------------------------------- markdown
def as_markdown(summaries: Sequence[Summary], where: Mapping[str, Any]) -> str:
    """Cases as a part of a page: goals first, then a table for each case, ours in bold."""
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items() if name != OURS)
    here = f"{where['processors']} processors, {where['system']}, Python {where['python']}"
    lines = [f"Measured on {where['date'][:10]} with {here}; {versions}."]
    lines += ["", "| work | who | goal | found |", "|---|---|---|---|"]
    lines += [f"| {_work(each)} | {' | '.join(_goal(goal))} |" for each in summaries for goal in each["goals"]]
    subject = ""
    for summary in summaries:
        if summary["subject"] != subject:
            subject = summary["subject"]
            lines += ["", f"### {subject.capitalize()}"]
        name = f"{summary['case'][:1].upper()}{summary['case'][1:]}"
        lines += ["", f"{name}; for one {summary['unit']}, ratios to {summary['baseline']}:", ""]
        lines += ["| | time | cpu | median | cpu | memory | |", "|---|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(_cells(each))} |" for each in summary["contenders"]]
    return "\n".join([*lines, ""])


def _cells(each: Mapping[str, Any]) -> list[str]:
    name = f"**{each['name']}**" if each["kind"] == "ours" else each["name"]
    if "median" not in each or each["error"]:
        return [name, *[""] * 5, "failed" if each["error"] else each["absent"] or ""]
    times = [as_ratio(each["ratio"]), as_ratio(each["cpu_ratio"]), as_seconds(each["median"]), as_seconds(each["cpu"])]
    return [name, *times, _memory(each["memory"]), each["note"]]


# ------------------------------------------------------------------------------------------------------------- words
def _work(summary: Summary) -> str:
    return f"{summary['subject']}: {summary['case']}"


def _goal(goal: Mapping[str, Any]) -> tuple[str, str, str]:
    """Who, what is meant, and what was found."""
    found, at_most = goal["found"], goal["at_most"]
    if goal["metric"] == "memory":
        meant = f"at most {_memory(at_most)}"
        figure = "" if found is None else _memory(found)
    elif goal["metric"] == "least":
        meant = f"at most {as_seconds(at_most)}, by the least of all rounds"
        figure = "" if found is None else as_seconds(found)
    else:
        what = "time" if goal["metric"] == "wall" else "cpu"
        meant, figure = f"at most {at_most:.2f} of the {what} of {goal['to']}", as_ratio(found)
    if found is None:
        return goal["of"], meant, "not known here"
    return goal["of"], meant, figure if found <= at_most else f"{figure}, not reached"


def as_seconds(value: float) -> str:
    """A time in the unit that fits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value * 1e6:.3g} µs"


def as_ratio(value: float | None) -> str:
    """A ratio; nothing where it is not known."""
    return "" if value is None else f"{value:.2f}"


def _memory(value: float) -> str:
    return f"+{value / 1024**2:.1f} MiB"


def _rate(seconds: float, size: int | None) -> str:
    if size is not None and size >= 1024**2:
        return f"{size / 1024**2 / seconds:.0f} MiB/s"
    return f"{1 / seconds:.0f}/s" if seconds < 0.1 else ""


if __name__ == "__main__":
    runs = [json.loads(Path(each).read_text()) for each in sys.argv[1:]]
    print(as_markdown([summary for run in runs for summary in run["results"]], runs[0]["machine"]), end="")
