"""The targets of the fuzzer find nothing: on their seeds, on Hypothesis' inputs, and with atheris for a moment.

`make fuzz` runs them for as long as you like.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import NAMES
from tests.fuzz.targets import SEEDS, TARGETS

ROOT = Path(__file__).parents[2]


def mixtures(name: str) -> st.SearchStrategy[bytes]:
    """Pieces of the seeds among other bytes."""
    pieces = [seed[at : at + 12] for seed in SEEDS[name] for at in range(0, len(seed), 6)]
    return st.lists(st.one_of(st.sampled_from(pieces), st.binary(max_size=8)), max_size=20).map(b"".join)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_finds_nothing_in_its_seeds_nor_in_mixtures_of_them(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
    inputs = len(SEEDS[name])

    @settings(max_examples=100)
    @given(mixtures(name))
    def run(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        TARGETS[name](data)

    run()
    record_property("counted", f"Fuzzing|{inputs}|by Hypothesis")


def test_the_fuzzer_runs_every_target(record_property: Callable[[str, object], None]) -> None:
    if sys.version_info >= (3, 14):
        pytest.skip("no wheel of atheris for this Python")
    assert set(NAMES) == set(TARGETS)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--runs", "7000", "--seed", "1", "every"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "7000 inputs" in done.stdout
    record_property("counted", "Fuzzing|7000|by atheris")
