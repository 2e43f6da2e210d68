"""The laws under kills: PostgreSQL and a real S3, several processes, all of them killed again and again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.parts import need, promised

ROOT = Path(__file__).parents[2]
SECONDS = int(os.environ.get("SOAK_SECONDS") or (120 if promised() else 25))
SETTLING = 300
"""Seconds for the servers to start and the account to be settled, on a busy machine."""


@pytest.mark.timeout(SECONDS + SETTLING + 30)
def test_nothing_is_lost_and_nothing_lingers_whoever_is_killed(tmp_path: Path) -> None:
    need("postgres")
    need("ceph")
    report = tmp_path / "figures.json"
    argv = [sys.executable, "-m", "tests.soak", "--seconds", str(SECONDS), "--json", str(report)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + SETTLING, check=False)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-5000:]}"
    figures = json.loads(report.read_text())
    assert figures["lost"] == figures["lingering"] == []
    assert figures["kills"] >= 2
    assert figures["killed_workers"] > 0
    assert figures["transactions"] > 20
    assert figures["collected"] > 0
    assert figures["verified"] > figures["rows"] > 0
    # Honest refusals are a minority: else nothing was tried.
    assert figures["refused"] < figures["transactions"] / 4
