"""What is judged from configuration and clocks alone. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, Final

from granite_core.backends.base import Capability, StorageBackend
from granite_core.errors import CollectionRefusedError
from granite_core.findings import Finding, Severity
from granite_core.gc import GCConfig
from granite_core.gc.plan import check_overlaps, distinct_backends
from granite_core.options import WriteOptions
from granite_core.policies import StoragePolicy

__all__ = [
    "judge_backends",
    "judge_clock",
    "judge_grace",
    "judge_policies",
    "judge_recorded_grace",
    "judge_requests",
    "judge_runs",
]

SHORT_GRACE: Final = timedelta(minutes=1)
TOLERATED: Final = 2.0
"""Seconds by which clocks may differ without a word."""
REFUSED_AHEAD: Final = 5.0
"""Seconds by which the clock of the host that stored a file may be ahead of the one whose row takes it."""


def judge_clock(skew: float, margin: float, grace: timedelta) -> Finding:
    """Judge by how much a clock differs from ours.

    Args:
        skew: Seconds it is ahead of ours.
        margin: By how many seconds that may be off.
        grace: The manager's.
    """
    off = max(0.0, abs(skew) - margin)
    quarter = grace.total_seconds() / 4
    if off <= min(TOLERATED, quarter / 4):
        return Finding("clock", Severity.OK, "its clock agrees with ours")
    said = f"its clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} ours"
    advice = "let both follow NTP (timedatectl status); which of the two is wrong, a third clock tells"
    if off >= quarter / 2:
        return Finding("clock", Severity.ERROR, f"{said}, where a file has {quarter:g} s to be attached in", advice)
    why = ", so files stored by another host may be refused" if off > REFUSED_AHEAD else ""
    return Finding("clock", Severity.WARNING, f"{said}{why}", advice)


def judge_grace(grace: timedelta) -> Iterator[Finding]:
    """Judge the grace."""
    if grace < SHORT_GRACE:
        yield Finding(
            "grace-short",
            Severity.WARNING,
            f"the grace is {grace.total_seconds():g} s: a file that is not committed within "
            f"{grace.total_seconds() / 4:g} s of being stored is refused",
            "make it hours: StorageManager(grace=timedelta(hours=2))",
        )


def judge_requests(lasting: Mapping[str, timedelta], grace: timedelta) -> Iterator[Finding]:
    """Judge for how long requests are good by which clients send bytes to a store.

    Args:
        lasting: That, by policy.
        grace: The manager's.
    """
    for key, lasts in lasting.items():
        if lasts > grace:
            yield Finding(
                "requests-long",
                Severity.WARNING,
                f"requests for direct uploads are good for {lasts.total_seconds():g} s, longer than the grace of "
                f"{grace.total_seconds():g} s: what one sends after its upload has ended may wait for the reconcile",
                "make it shorter: DirectSettings(requests_expire_in=…)",
                f"policy {key!r}",
            )


def judge_recorded_grace(grace: timedelta, longest: timedelta) -> Iterator[Finding]:
    """Judge the longest grace that any process has worked with.

    Args:
        grace: The manager's.
        longest: The longest one; nothing where none is known.
    """
    ours, theirs = (f"{each.total_seconds():g} s" for each in (grace, longest))
    if longest > grace:
        yield Finding(
            "grace-longer",
            Severity.WARNING,
            f"a process has worked with a grace of {theirs}, this one's is {ours}: every sweep waits for the longer",
            "give all processes the same; when the last with a longer one has ended: litestar granite lower-grace",
        )
    elif timedelta(0) < longest < grace:
        yield Finding(
            "grace-new",
            Severity.NOTE,
            f"no process has worked with a grace as long as this one's, {ours}, before ({theirs}): it counts when it "
            f"has been known for {ours}; until then files are attached within {longest.total_seconds() / 4:g} s",
        )


def judge_backends(backends: Mapping[str, StorageBackend]) -> Iterator[Finding]:
    """Judge where the backends are, seen from each other."""
    identities = {key: backend.identity for key, backend in backends.items()}
    try:
        check_overlaps(identities)
    except CollectionRefusedError as error:
        yield Finding("backends-overlap", Severity.ERROR, str(error), "the collector refuses to run until then")
    for aliases in distinct_backends(identities).values():
        if len(aliases) > 1:
            names = " and ".join(map(repr, aliases))
            yield Finding("backends-alias", Severity.NOTE, f"backends {names} are one and the same place")
    for key, identity in identities.items():
        if identity[0] == "memory":
            yield Finding(
                "backend-memory",
                Severity.WARNING,
                "it keeps files in the memory of each process, and loses them with it",
                "use a folder or a bucket: backend_from_url('file:/srv/files') or ('s3://bucket')",
                f"backend {key!r}",
            )


def judge_policies(
    policies: Mapping[str, StoragePolicy], backends: Mapping[str, StorageBackend], used: Collection[str]
) -> Iterator[Finding]:
    """Judge what policies ask of their backends.

    Args:
        policies: The manager's.
        backends: The manager's.
        used: Policies that a file field names.
    """
    for key, policy in policies.items():
        subject = f"policy {key!r}"
        backend = backends[policy.backend_key]
        if policy.delivery == "redirect" and not backend.capabilities & {
            Capability.PRESIGNED_GET,
            Capability.PUBLIC_ADDRESS,
        }:
            yield Finding(
                "policy-delivery",
                Severity.ERROR,
                f"it sends clients to backend {policy.backend_key!r}, which gives out no addresses",
                'say delivery="auto" or "stream"',
                subject,
            )
        if policy.delivery == "offload" and Capability.LOCAL_PATH not in backend.capabilities:
            yield Finding(
                "policy-delivery",
                Severity.ERROR,
                f"a web server is to send its files, and backend {policy.backend_key!r} keeps none on disk",
                'say delivery="auto" or "stream"',
                subject,
            )
        if ignored := [name for name in _asked(policy.store) if backend.identity[0] in ("file", "memory")]:
            yield Finding(
                "policy-store",
                Severity.NOTE,
                f"backend {policy.backend_key!r} passes over {', '.join(ignored)}",
                "",
                subject,
            )
        if policy.max_size is None:
            yield Finding(
                "policy-size",
                Severity.NOTE,
                "it takes files of any size",
                "give it a max_size where clients may upload",
                subject,
            )
        if used and key not in used:
            yield Finding("policy-unused", Severity.NOTE, "no file field names it", "", subject)


def _asked(options: WriteOptions) -> Iterator[str]:
    return (each.name for each in fields(options) if each.name != "durable" and getattr(options, each.name))


def judge_runs(
    last: Mapping[str, Mapping[str, Any]], config: GCConfig | None, now: datetime, *, anything: bool
) -> Iterator[Finding]:
    """Judge when the collector ran last, and how that ended.

    Args:
        last: The last reports, as ``StatusReport.last`` has them.
        config: How often it is to run; None where another process collects.
        now: The time.
        anything: Whether the rows hold anything yet.
    """
    rules = config or GCConfig()
    for name, every, least in (
        ("sweep", rules.sweep_every, timedelta(hours=2)),
        ("reconcile", rules.reconcile_every, timedelta(days=3)),
    ):
        report = last.get(name)
        how = f"let the application collect (GraniteConfig(gc=GCConfig())), or run `litestar granite {name}` from cron"
        if report is None:
            if anything:
                yield Finding(f"{name}-never", Severity.WARNING, f"no {name} has ever ended here", how)
            continue
        if "refused" in report:
            yield Finding(f"{name}-refused", Severity.ERROR, f"the last {name} was refused: {report['refused']}")
            continue
        age = now - datetime.fromisoformat(str(report["ended_at"]))
        if age > max(every * 3, least):
            yield Finding(f"{name}-late", Severity.WARNING, f"the last {name} ended {_long(age)} ago", how)
    verified = last.get("verify")
    if verified is not None and verified.get("sound") is False:
        found = json.dumps(verified.get("found", {}))
        advice = "run `litestar granite verify` and restore what it names from a backup"
        yield Finding("verify-unsound", Severity.ERROR, f"the last verification found damage: {found}", advice)


def _long(age: timedelta) -> str:
    return f"{age.days} days" if age.days >= 2 else f"{age.total_seconds() / 3600:.1f} hours"
