"""Results as bars, for a page: python -m tests.benchmarks.chart INTO FILE.json … writes INTO/<subject>.svg of each.

The drawings take their colours from the page they stand in, so that they fit a dark one too; beside each bar is its
figure, so that nothing is told by length or colour alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.benchmarks.report import Summary, as_ratio, as_seconds

__all__ = ["as_chart", "write_charts"]

WIDTH, NAMES, FIGURES = 760, 250, 150
BAR, GAP, TITLE = 14, 6, 40
STYLE = {
    "ours": 'fill="var(--sy-c-text-link, #6e56cf)"',
    "peer": 'fill="currentColor" opacity=".35"',
    "floor": 'fill="none" stroke="currentColor" opacity=".6"',
}


def as_chart(summaries: Sequence[Summary]) -> str:
    """Draw the CPU of each contender beside the measure's, a group of bars for each case (SVG 2, to stand in HTML).

    Where too little was done for the kernel to count it, time is drawn.
    """
    parts, y = [], 0
    for summary in summaries:
        group = list(_bars(summary, y + TITLE))
        title = f"{summary['case'][:1].upper()}{summary['case'][1:]}"
        parts += [f'<text x="0" y="{y + TITLE - 14}" font-weight="600">{escape(title)}</text>', *group]
        y += TITLE + len(_drawn(summary)) * (BAR + GAP)
    label = escape(
        f"CPU seconds beside the measure's, {summaries[0]['subject'].replace('_', ' ')}; the tables say the same"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + GAP}" role="img" aria-label="{label}"'
    look = 'style="max-width: 100%; height: auto" font-family="inherit" font-size="13" fill="currentColor"'
    return "\n".join([f"{head} {look}>", *parts, "</svg>", ""])


def _drawn(summary: Summary) -> list[tuple[Mapping[str, Any], float, float]]:
    """Each contender with its ratio and its seconds."""
    took_part = [each for each in summary["contenders"] if not each["error"] and each.get("ratio") is not None]
    if all(each["cpu_ratio"] for each in took_part):
        return [(each, each["cpu_ratio"], each["cpu"]) for each in took_part]
    return [(each, each["ratio"], each["median"]) for each in took_part]


def _bars(summary: Summary, top: int) -> Iterator[str]:
    drawn = _drawn(summary)
    room = WIDTH - NAMES - FIGURES
    longest = max((ratio for _, ratio, _ in drawn), default=1.0)
    for row, (each, ratio, seconds) in enumerate(drawn):
        y = top + row * (BAR + GAP)
        width = max(1.0, room * ratio / longest)
        weight = ' font-weight="600"' if each["kind"] == "ours" else ""
        figure = f"{as_ratio(ratio)} · {as_seconds(seconds)}"
        yield f'<text x="{NAMES - 10}" y="{y + 11}" text-anchor="end"{weight}>{escape(each["name"])}</text>'
        yield f'<rect x="{NAMES}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" {STYLE[each["kind"]]}/>'
        yield f'<text x="{NAMES + width + 8:.1f}" y="{y + 11}"{weight}>{escape(figure)}</text>'
    if drawn:
        x, bottom = NAMES + room / longest, top + len(drawn) * (BAR + GAP) - GAP
        line = f'x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{bottom + 4}"'
        yield f'<line {line} stroke="currentColor" stroke-dasharray="2 3" opacity=".6"/>'


def write_charts(into: Path, summaries: Iterable[Summary]) -> list[Path]:
    """Write a drawing for each subject; what was measured again in a later summary replaces what was before it."""
    into.mkdir(parents=True, exist_ok=True)
    latest = {(each["subject"], each["case"]): each for each in summaries}
    written = []
    for subject, cases in groupby(
        sorted(latest.values(), key=lambda each: str(each["subject"])), lambda each: each["subject"]
    ):
        path = into / f"{subject.replace(' ', '_')}.svg"
        path.write_text(as_chart(list(cases)))
        written.append(path)
    return written


def _subject(summary: Summary) -> str:
    return str(summary["subject"])


if __name__ == "__main__":
    folder, *files = sys.argv[1:]
    found = [summary for each in files for summary in json.loads(Path(each).read_text())["results"]]
    print("\n".join(str(each) for each in write_charts(Path(folder), found)))
