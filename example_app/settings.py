"""What the environment says."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

__all__ = ["Settings"]

GB = 1024**3
MB = 1024**2
TUS_CLIENT = Path(__file__).parents[1] / ".tools" / "page" / "node_modules" / "tus-js-client" / "dist" / "tus.min.js"
"""Where ``make demo`` installs the library that the form for large files uses."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every variable is optional; without any the demo needs no service.

    Args:
        database_url: ``DATABASE_URL``; SQLite in the demo's folder by default. ``postgresql://…`` is enough.
        storage_url: ``STORAGE_URL``; the demo's folder by default. For ``s3://…`` boto3 reads its ``AWS_*`` variables.
        grace: ``GRACE_SECONDS``: how long what is let go stays. Hours in a real application; here you watch.
        max_size: ``MAX_SIZE``: the largest file in bytes.
        secret: ``SECRET`` seals the tokens of uploads; without it, one that is made up and kept in the demo's folder.
        tus_client: ``GRANITE_EXAMPLE_TUS_CLIENT``: the file ``tus.min.js`` of tus-js-client; that of ``make demo``.
        host: ``HOST`` to listen on.
        port: ``PORT`` to listen on; the next free one where it is taken.
    """

    database_url: str
    storage_url: str
    grace: timedelta
    max_size: int
    secret: str
    tus_client: Path
    host: str
    port: int

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment, and make the demo's folder (``GRANITE_DEMO_DIR``) where it is needed."""
        folder = Path(environ.get("GRANITE_DEMO_DIR") or "var").resolve()
        if not all(environ.get(name) for name in ("DATABASE_URL", "STORAGE_URL", "SECRET")):
            folder.mkdir(parents=True, exist_ok=True)
        database = environ.get("DATABASE_URL") or f"sqlite+aiosqlite:///{folder / 'demo.sqlite3'}"
        for short in ("postgresql://", "postgres://"):
            if database.startswith(short):
                database = f"postgresql+asyncpg://{database.removeprefix(short)}"
        return cls(
            database_url=database,
            storage_url=environ.get("STORAGE_URL") or f"file:{quote(str(folder / 'files'))}",
            grace=timedelta(seconds=float(environ.get("GRACE_SECONDS") or 20)),
            max_size=int(environ.get("MAX_SIZE") or 4 * GB),
            secret=environ.get("SECRET") or kept_secret(folder / "secret"),
            tus_client=Path(environ.get("GRANITE_EXAMPLE_TUS_CLIENT") or TUS_CLIENT),
            host=environ.get("HOST") or "127.0.0.1",
            port=int(environ.get("PORT") or 8000),
        )


def kept_secret(path: Path) -> str:
    """Read the secret, or make one up and keep it: an upload that waits for its form outlives a restart."""
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    return path.read_text()
