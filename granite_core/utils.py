"""granite-storage's module of this name: what its users import from there, they import from here."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from granite_core.refs import timestamp

__all__ = ["sha256_bytes", "utcnow_iso"]


def sha256_bytes(content: bytes) -> str:
    """Return the checksum of bytes as refs hold it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def utcnow_iso() -> str:
    """Return this moment as refs hold it."""
    return timestamp(datetime.now(UTC))
