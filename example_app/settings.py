"""What the environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

__all__ = ["Settings"]

GB = 1024**3
MB = 1024**2


@dataclass(frozen=True, slots=True)
class Settings:
    """Every variable is optional; without any the demo needs no service.

    Args:
        database_url: ``DATABASE_URL``; SQLite in the demo's folder by default. ``postgresql://…`` is enough.
        storage_url: ``STORAGE_URL``; the demo's folder by default. For ``s3://…`` boto3 reads its ``AWS_*`` variables.
        grace: ``GRACE_SECONDS``: how long what is let go stays. Hours in a real application; here you watch.
        max_size: ``MAX_SIZE``: the largest file in bytes.
        host: ``HOST`` to listen on.
        port: ``PORT`` to listen on; the next free one where it is taken.
    """

    database_url: str
    storage_url: str
    grace: timedelta
    max_size: int
    host: str
    port: int

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment, and make the demo's folder (``GRANITE_DEMO_DIR``) where it is needed."""
        folder = Path(environ.get("GRANITE_DEMO_DIR") or "var").resolve()
        if not (environ.get("DATABASE_URL") and environ.get("STORAGE_URL")):
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
            host=environ.get("HOST") or "127.0.0.1",
            port=int(environ.get("PORT") or 8000),
        )
