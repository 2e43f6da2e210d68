"""One target under libFuzzer: `run.py TARGET CORPUS [libFuzzer's options]`. See `python -m tests.fuzz`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

__all__ = ["environment"]

PARSERS = [
    "multipart",
    "granite_litestar.multipart",
    "granite_core.keys",
    "granite_core.links",
    "granite_core.media",
    "granite_core.refs",
    "granite_core.serving",
    "granite_core.signing",
    "granite_core._containers",
    "granite_core._disposition",
    "granite_core._kinds",
    "granite_core._magic_table",
    "granite_core._media_types",
    "granite_core._preconditions",
    "granite_core._ranges",
    "granite_core._signatures",
]
"""What coverage guides through; to instrument all that is imported takes longer than to fuzz."""


def environment() -> dict[str, str]:
    """Of the process: this checkout's packages."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def main() -> None:
    import atheris

    name, corpus, *options = sys.argv[1:]
    with atheris.instrument_imports(include=PARSERS):
        from tests.fuzz.targets import SEEDS, TARGETS, every
    for index, each in enumerate(SEEDS[name]):
        Path(corpus, f"seed-{index}").write_bytes(each)
    libfuzzer = ["-max_len=6000", "-timeout=5", "-rss_limit_mb=2000", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup(
        [sys.argv[0], *libfuzzer, f"-artifact_prefix={corpus}/", *options, corpus], {**TARGETS, "every": every}[name]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
