"""How long uploads may take, and how long they are held."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from granite_core.errors import ConfigurationError

__all__ = ["UploadSettings", "milliseconds"]


def milliseconds(duration: timedelta) -> int:
    """Return a duration as the ledger takes it."""
    return int(duration.total_seconds() * 1000)


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """How long uploads may take, and how long they are held.

    Args:
        expires_in: How long after its last bytes an unfinished upload ends.
        finished_for: How long a finished one waits for a row that takes its file.
        lease: For how long whoever writes to an upload keeps others from it, unless it is renewed: a process that
            died is waited for as long.
        record_every: How often it is recorded, while bytes arrive, how many have: what a process that dies has taken
            since is sent again. Shorter than half the lease.
        patience: How long a connection over which nothing comes keeps the upload; shorter than the lease.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    expires_in: timedelta = timedelta(days=1)
    finished_for: timedelta = timedelta(days=1)
    lease: timedelta = timedelta(seconds=10)
    record_every: timedelta = timedelta(seconds=3)
    patience: timedelta = timedelta(seconds=4)

    def __post_init__(self) -> None:
        for name in ("expires_in", "finished_for", "lease", "record_every", "patience"):
            if getattr(self, name) <= timedelta(0):
                raise ConfigurationError(f"{name} must be longer than nothing", field=name, value=getattr(self, name))
        for name, limit in (("record_every", self.lease / 2), ("patience", self.lease)):
            if getattr(self, name) >= limit:
                raise ConfigurationError(
                    f"{name} must be shorter than {limit}", field=name, limit=limit, value=getattr(self, name)
                )
