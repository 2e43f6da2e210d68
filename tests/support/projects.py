"""A user's project that is tested by its own pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["run_pytest"]

ROOT = Path(__file__).parents[2]


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with nothing of this project's configuration."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{folder}"}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=170, check=False)
