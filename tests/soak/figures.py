"""What a soak has shown, added up from the journals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .audit import Audit
from .journal import read_journals
from .site import MIB, Site

if TYPE_CHECKING:
    from .chief import Blows

__all__ = ["Figures", "count"]


@dataclass(frozen=True)
class Figures:
    """What came of it. ``sound`` says whether the laws held and nothing went wrong that should not."""

    seed: int
    grace: float
    seconds: float
    kills: int
    killed_workers: int
    killed_collectors: int
    killed_while_collecting: int
    pauses: int
    takeovers: int
    transactions: int
    undone: int
    objects_written: int
    in_parts: int
    bytes: int
    collected: int
    runs: dict[str, int]
    refused: int
    no_longer_held: int
    conflicts: int
    slowest_commit: float
    audits: int
    verified: int
    rows: int
    lost: tuple[str, ...]
    lingering: tuple[str, ...]
    deadlocks: int
    errors: tuple[str, ...]
    not_idle: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not (self.lost or self.lingering or self.deadlocks or self.errors or self.not_idle)

    @property
    def conclusive(self) -> bool:
        """Whether what is assumed of COMMIT held: else a loss says nothing."""
        return self.slowest_commit <= self.grace / 4

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sound": self.sound, "conclusive": self.conclusive}

    def __str__(self) -> str:
        share = 100 * self.refused / max(1, self.transactions + self.refused)
        runs = ", ".join(f"{number} {kind}s" for kind, number in sorted(self.runs.items()))
        lines = {
            "": f"seed {self.seed}, {self.seconds:.0f} seconds, a grace of {self.grace:g} seconds",
            "kills survived": f"{self.kills}: {self.killed_workers} of workers, {self.killed_collectors} of "
            f"collectors ({self.killed_while_collecting} held a lease); {self.pauses} pauses",
            "transactions": f"{self.transactions} committed, {self.undone} undone, {self.conflicts} came too late",
            "objects written": f"{self.objects_written} ({self.bytes / MIB:.0f} MiB), {self.in_parts} in parts",
            "refused": f"{self.refused} that took longer than a quarter of the grace ({share:.1f} %), "
            f"{self.no_longer_held} of files that no row held any more",
            "collected": f"{self.collected} in {runs}",
            "takeovers": f"{self.takeovers} of a dead collector's lease",
            "verified": f"{self.verified} by SHA-256 in {self.audits} rounds; {self.rows} held at the end",
            "slowest commit": f"{self.slowest_commit:.2f} s, assumed to be under {self.grace / 4:g} s",
            "went wrong": f"{self.deadlocks} deadlocks, {len(self.errors)} errors, {len(self.not_idle)} not idle",
            "lost": f"{len(self.lost)}",
            "lingering": f"{len(self.lingering)}",
        }
        return "\n".join(f"{name:16}{text}".strip() for name, text in lines.items())


def count(
    site: Site,
    *,
    seconds: float,
    audit: Audit,
    blows: Blows,
    lingering: Sequence[str],
    not_idle: Sequence[str],
    unasked: Sequence[str],
) -> Figures:
    """Add up."""
    what: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    written = in_parts = swept = 0
    slowest = 0.0
    errors = [*unasked]
    for line in read_journals(site.folder):
        what[line["what"]] += 1
        match line:
            case {"what": "stored", "size": size}:
                written += size
                in_parts += size > site.large
            case {"what": "deleted", "reason": "swept"}:
                swept += 1
            case {"what": "ended", "end": end}:
                ends[end] += 1
                slowest = max(slowest, line.get("commit", 0))
                if end in ("error", "deadlock"):
                    errors.append(line["error"])
    return Figures(
        seed=site.seed,
        grace=site.grace,
        seconds=round(seconds, 1),
        kills=blows.workers + blows.collectors,
        killed_workers=blows.workers,
        killed_collectors=blows.collectors,
        killed_while_collecting=blows.while_collecting,
        pauses=blows.pauses,
        takeovers=blows.takeovers,
        transactions=ends["committed"],
        undone=ends["undone"],
        objects_written=what["stored"],
        in_parts=in_parts if site.bucket is not None else 0,
        bytes=written,
        collected=swept,
        runs={kind: what[kind] for kind in ("sweep", "reconcile")},
        refused=ends["too slow"],
        no_longer_held=ends["no longer held"],
        conflicts=ends["conflict"],
        slowest_commit=slowest,
        audits=audit.rounds,
        verified=audit.verified,
        rows=audit.rows,
        lost=tuple(map(str, audit.lost.values())),
        lingering=tuple(lingering),
        deadlocks=ends["deadlock"],
        errors=tuple(errors),
        not_idle=tuple(not_idle),
    )
