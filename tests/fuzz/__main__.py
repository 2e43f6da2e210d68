"""`python -m tests.fuzz [--seconds N | --runs N] [--corpus FOLDER] [target …]`: coverage-guided fuzzing with atheris.

Each target runs in a process of its own. A fault is printed with its stack and its input in base64, which
`tests.fuzz.targets.TARGETS[name]` takes decoded; with `--corpus` the input is kept beside the others, as `crash-…`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import run

ROOT = Path(__file__).parents[2]
NAMES = ("multipart", "headers", "tokens", "refs", "names", "keys", "contents", "urls", "data_uris", "uploads")
EVERY = "every"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz the parsers of what clients send.")
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="target",
        help=f"of {', '.join(NAMES)}; all by default; {EVERY}: all in one process",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=int, default=60, help="for each target; 60 by default")
    length.add_argument("--runs", type=int, help="inputs for each target, in place of a time")
    parser.add_argument("--corpus", type=Path, help="where interesting inputs are kept between runs")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0 for another each time")
    chosen = parser.parse_args()
    if unknown := set(chosen.targets) - {*NAMES, EVERY}:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen.targets or NAMES:
            corpus = (chosen.corpus or Path(scratch)) / name
            corpus.mkdir(parents=True, exist_ok=True)
            limit = f"-runs={chosen.runs}" if chosen.runs else f"-max_total_time={chosen.seconds}"
            argv = [sys.executable, run.__file__, name, str(corpus), limit, f"-seed={chosen.seed}"]
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, env=run.environment())
            figures = re.findall(r"stat::number_of_executed_units: +([0-9]+)", done.stderr)
            peak = re.findall(r"stat::peak_rss_mb: +([0-9]+)", done.stderr)
            print(f"{name:10} {(figures or ['0'])[0]:>10} inputs, {(peak or ['?'])[0]} MiB", flush=True)
            if done.returncode:
                failed.append(name)
                print(done.stdout[-4000:], done.stderr[-4000:], sep="\n")
    print(f"failed: {', '.join(failed)}" if failed else "no faults found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
