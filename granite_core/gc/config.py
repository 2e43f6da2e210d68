"""How often and how carefully the collector works."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from granite_core.errors import ConfigurationError

__all__ = ["GCConfig"]


@dataclass(frozen=True, slots=True)
class GCConfig:
    """How often and how carefully the collector works.

    Args:
        sweep_every: How long the runner waits between two sweeps.
        reconcile_every: How long after a backend was reconciled it is due again, whichever worker does it. The runner
            asks once a minute at most.
        max_share: A reconcile that would note more than this share of a backend's objects refuses.
        always_allowed: So many objects may be noted whatever their share: a small store is no sign of a mistake.
        batch_size: Objects that a sweep takes at a time.
        page_size: Objects that a reconcile lists, looks up and notes at a time.
        rate_limit: Objects per second that a reconcile lists at most; None for no limit.
        time_budget: A reconcile that has taken so long stops after its page; the next one goes on there.
        lease_for: How long a worker that died keeps the others from collecting.
        unfinished_after: A reconcile clears uploads into which nothing has come for so long, and temporary files of
            that age. No upload that is under way may pause as long.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    sweep_every: timedelta = timedelta(minutes=5)
    reconcile_every: timedelta = timedelta(days=1)
    max_share: float = 0.5
    always_allowed: int = 100
    batch_size: int = 2000
    page_size: int = 10_000
    rate_limit: float | None = None
    time_budget: timedelta | None = None
    lease_for: timedelta = timedelta(minutes=5)
    unfinished_after: timedelta = timedelta(days=1)

    def __post_init__(self) -> None:
        for name in ("sweep_every", "reconcile_every", "lease_for", "unfinished_after"):
            if getattr(self, name) <= timedelta(0):
                raise ConfigurationError(f"{name} must be longer than nothing", value=getattr(self, name))
        for name in ("batch_size", "page_size"):
            if not 1 <= getattr(self, name) <= 10_000:
                raise ConfigurationError(f"{name} must be between 1 and 10,000", value=getattr(self, name))
        if not 0 <= self.max_share <= 1:
            raise ConfigurationError("max_share must be between 0 and 1", value=self.max_share)
        if self.rate_limit is not None and self.rate_limit <= 0:
            raise ConfigurationError("rate_limit must be more than nothing", value=self.rate_limit)
        if self.time_budget is not None and self.time_budget <= timedelta(0):
            raise ConfigurationError("time_budget must be longer than nothing", value=self.time_budget)
