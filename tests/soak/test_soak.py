"""The laws under kills: PostgreSQL and a real S3, several processes, all of them killed again and again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.parts import need, promised

ROOT = Path(__file__).parents[2]
SECONDS = int(os.environ.get("SOAK_SECONDS") or (120 if promised() else 25))
SETTLING = 300
"""Seconds for the servers to start and the account to be settled, on a busy machine."""


@pytest.mark.timeout(2 * (SECONDS + SETTLING) + 30)
def test_nothing_is_lost_and_nothing_lingers_whoever_is_killed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    need("postgres")
    need("ceph")
    said, figures = soak(tmp_path / "first.json")
    if not figures["conclusive"]:
        said, figures = soak(tmp_path / "second.json")
    record_property("figures", f"The soak:\n{said}")
    if not figures["conclusive"]:
        pytest.fail(f"inconclusive, twice: a COMMIT took longer than a quarter of the grace on this machine\n{said}")
    assert figures["sound"], said
    assert figures["lost"] == figures["lingering"] == []
    assert figures["kills"] >= 2
    assert figures["killed_workers"] > 0
    assert figures["transactions"] > 20
    assert figures["collected"] > 0
    assert figures["verified"] > figures["rows"] > 0


def soak(report: Path) -> tuple[str, dict[str, Any]]:
    """What a soak prints, and its figures."""
    argv = [sys.executable, "-m", "tests.soak", "--seconds", str(SECONDS), "--json", str(report)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + SETTLING, check=False)
    assert report.exists(), f"{done.stdout}\n{done.stderr[-5000:]}"
    return done.stdout, json.loads(report.read_text())
