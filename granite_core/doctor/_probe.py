"""Whether a backend lets us write, read, list and delete, and how its clock goes. Leaves nothing behind."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from granite_core.backends.base import Capability, ObjectStat, StorageBackend
from granite_core.errors import AccessDeniedError, BackendUnavailableError, ObjectNotFoundError, StorageError
from granite_core.findings import Finding, Severity
from granite_core.keys import RESERVED_PREFIX

__all__ = ["Probed", "probe"]

CONTENT: Final = b"granite doctor\n"


@dataclass(slots=True)
class Probed:
    """What a probe found.

    Args:
        findings: What went wrong, or that nothing did.
        skew: Seconds by which the store's clock is ahead of ours; None where it could not be told.
        margin: By how many seconds that may be off.
    """

    findings: list[Finding] = field(default_factory=list)
    skew: float | None = None
    margin: float = 0.0


def probe(backend: StorageBackend) -> Probed:
    """Try every verb on a key of our own. Blocks; never raises for what the store does."""
    probed = Probed()
    key = f"{RESERVED_PREFIX}-doctor-{secrets.token_hex(8)}"
    began = time.monotonic()
    before = datetime.now(UTC)
    wrote = _try(probed, "write", lambda: backend.put_bytes(key, CONTENT))
    after = datetime.now(UTC)
    try:
        if wrote:
            _try(probed, "read", lambda: _read_back(probed, backend, key))
            stats: list[ObjectStat] = []
            if _try(probed, "stat", lambda: stats.append(backend.stat(key))):
                probed.skew, probed.margin = _skew(stats[0].modified, before, after)
            if Capability.SERVER_SIDE_COPY in backend.capabilities:
                _try(probed, "copy", lambda: backend.copy(key, f"{key}-copy"))
        else:
            # What is not there must be told apart from what may not be seen: a collector trusts it.
            _try(probed, "read", lambda: _absent(backend, key))
        _try(probed, "list", lambda: next(_listing(backend), None))
    finally:
        _clean(probed, backend, key, wrote=wrote)
    if not probed.findings:
        took = (time.monotonic() - began) * 1000
        probed.findings.append(
            Finding("verbs", Severity.OK, f"writing, reading, listing and deleting work ({took:.0f} ms for all)")
        )
    return probed


def _clean(probed: Probed, backend: StorageBackend, key: str, *, wrote: bool) -> None:
    with suppress(StorageError):
        backend.delete(f"{key}-copy")
    if not wrote:
        with suppress(StorageError):  # it may be there all the same
            backend.delete(key)
        return
    if _try(probed, "delete", lambda: backend.delete(key)):
        with suppress(StorageError):
            if backend.exists(key):
                probed.findings.append(
                    Finding("delete", Severity.ERROR, "a deleted object is still there", "the store must forget it")
                )


def _try(probed: Probed, verb: str, call: Callable[[], Any]) -> bool:
    try:
        call()
    except StorageError as error:
        probed.findings.append(Finding(verb, Severity.ERROR, f"cannot {verb}: {error}", _advice(error, verb)))
        return False
    return True


def _advice(error: StorageError, verb: str) -> str:
    if isinstance(error, AccessDeniedError):
        return f"let these credentials, or this user, {verb}"
    if isinstance(error, BackendUnavailableError):
        return "see that the store is up, and that it can be reached from here under the address configured"
    return ""


def _read_back(probed: Probed, backend: StorageBackend, key: str) -> None:
    if backend.get(key) != CONTENT:
        probed.findings.append(
            Finding("read", Severity.ERROR, "what was read is not what was written", "do not use this store")
        )


def _absent(backend: StorageBackend, key: str) -> None:
    with suppress(ObjectNotFoundError):
        backend.get(key)


def _listing(backend: StorageBackend) -> Iterator[ObjectStat]:
    return backend.list_objects()


def _skew(modified: datetime, before: datetime, after: datetime) -> tuple[float, float]:
    """By how much a store's clock is ahead, given when it says that something happened between two moments of ours."""
    grain = 1.0 if modified.microsecond == 0 else 0.0  # S3 tells whole seconds, cut off
    early = (modified - before).total_seconds() + grain
    late = (modified - after).total_seconds()
    if late <= 0 <= early:
        return 0.0, max(early, -late)
    return (late, early - late) if late > 0 else (early, early - late)
