"""Print figures, ours beside others'; nothing is asserted: python -m tests.benchmarks [subject …] [--quick]."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Case, run_case
from tests.benchmarks.report import Summary, as_text, machine, summarize
from tests.support.broker import VARIABLE, Broker

__all__ = ["SUBJECTS", "cases_of", "main"]

SUBJECTS = (
    "importing",
    "local_put",
    "listing",
    "row_loading",
    "row_writing",
    "download",
    "slow_clients",
    "upload",
    "collection",
    "s3",
)
MORE = ("huge_collection",)
RESULTS = Path(__file__).parent / "results"


def cases_of(subject: str, *, quick: bool) -> list[Case]:
    """The cases of a subject."""
    found: list[Case] = import_module(f"tests.benchmarks.bench_{subject}").cases(quick=quick)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    say = _progress()
    where = machine()
    print(f"{where['date']}, Python {where['python']}, {where['processors']} processors, load {where['load']}")
    print(", ".join(f"{name} {version}" for name, version in where["packages"].items()), flush=True)
    summaries: list[Summary] = []
    with _servers():
        for subject in options.subjects or SUBJECTS:
            for case in cases_of(subject, quick=options.quick):
                if options.case and options.case not in case.name:
                    continue
                chosen = _chosen(case, options.only)
                result = run_case(chosen, rounds=options.rounds or (1 if options.quick else None), say=say)
                say("")
                summaries.append(summarize(result))
                print(f"\n{as_text(summaries[-1])}", flush=True)
    path = options.json or RESULTS / f"{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    where["load_after"] = [round(each, 2) for each in os.getloadavg()]
    path.write_text(json.dumps({"machine": where, "quick": options.quick, "results": summaries}, indent=1))
    print(f"\nload {where['load_after']} afterwards; written to {path}")
    return 1 if any(each["error"] for summary in summaries for each in summary["contenders"]) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "subjects", nargs="*", metavar="subject", help=f"of {', '.join(SUBJECTS)}; all by default; or {', '.join(MORE)}"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: does it still work?")
    parser.add_argument("--rounds", type=int, help="how many rounds, whatever a case says")
    parser.add_argument("--only", metavar="WORD", action="append", help="contenders with this in their name")
    parser.add_argument("--case", metavar="WORDS", help="cases with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go; a new file in results/")
    return parser


def _chosen(case: Case, words: Sequence[str] | None) -> Case:
    if not words:
        return case
    keep = [each for each in case.contenders if each.name == case.baseline or any(word in each.name for word in words)]
    return replace(case, contenders=keep)


@contextmanager
def _servers() -> Iterator[None]:
    """Databases and object stores are started when a case asks for one, and end with us."""
    if VARIABLE in os.environ:
        yield
        return
    broker = Broker()
    os.environ[VARIABLE] = broker.address
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        broker.close()


def _progress() -> Any:
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
