"""The examination: every backend, every database, and what is configured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from granite_core.backends.base import Capability, StorageBackend
from granite_core.doctor._probe import probe
from granite_core.doctor._rules import (
    judge_backends,
    judge_clock,
    judge_grace,
    judge_policies,
    judge_recorded_grace,
    judge_requests,
    judge_runs,
)
from granite_core.errors import CollectionRefusedError, StorageError
from granite_core.findings import Finding, Severity, sorted_findings
from granite_core.gc.marker import mark_name, read_marker
from granite_core.gc.plan import check_marker, distinct_backends

if TYPE_CHECKING:
    from granite_core.gc import Collector

__all__ = ["examine"]


def examine(
    collector: Collector,
    *,
    origins: Collection[str] = (),
    receiving: Mapping[str, timedelta] | None = None,
    told: Callable[[str], object] | None = None,
) -> Sequence[Finding]:
    """Look at everything the collector has to do with, and say what to do. Blocks; what matters most comes first.

    It writes and deletes small objects of its own in every backend, and nothing in a database. On an asynchronous
    engine run it inside the ledger: ``await collector.ledger.arun(partial(examine, collector), threading.Event())``.

    Args:
        collector: Whose manager, ledger and configuration are examined.
        origins: Where pages come from whose scripts talk to the stores directly (``https://app.example``): whether
            the stores allow that is looked at for these.
        receiving: Policies whose files clients send to the stores themselves, with how long a request for that is good:
            it must be allowed, too.
        told: Called with what is examined next, for a display of progress.
    """
    told, receiving = told or (lambda _: None), receiving or {}
    manager, ledger = collector.manager, collector.ledger
    told("the configuration")
    findings: list[Finding] = [*judge_grace(manager.grace), *judge_backends(manager.backends)]
    findings += judge_policies(manager.policies, manager.backends, ledger.policies_named())
    findings += judge_requests(receiving, manager.grace)
    findings += ledger.strangers(manager)
    for number, label in enumerate(ledger.labels()):
        told(f"database {label}")
        findings += [each.about(f"database {label}") for each in _database(collector, number)]
    asked, identity = False, None
    try:
        ledger.check()
        asked, identity = True, ledger.peek_identity()
        findings += _runs(collector)
    except CollectionRefusedError as error:
        findings.append(Finding("collector-refuses", Severity.ERROR, str(error), "", "the collector"))
    except Exception:  # noqa: BLE001 - a database that is away is told of above
        asked = False
    for key, aliases in distinct_backends({key: each.identity for key, each in manager.backends.items()}).items():
        subject = "backend " + ", ".join(map(repr, aliases))
        told(subject)
        backend = manager.get_backend(key)
        receives = any(manager.get_policy(each).backend_key in aliases for each in receiving)
        found = ledger.call(backend, _backend, collector, backend, origins, receives)
        if asked:
            marked = mark_name(backend) in ledger.states()
            found += ledger.call(backend, _owner, key, backend, identity, marked)
        findings += [each.about(subject) for each in found]
    return sorted_findings(findings)


def _database(collector: Collector, number: int) -> list[Finding]:
    ledger = collector.ledger
    try:
        found = list(ledger.diagnose(number))
        before = datetime.now(UTC).timestamp()
        theirs = ledger.now(number) / 1000
        after = datetime.now(UTC).timestamp()
    except Exception as error:  # noqa: BLE001 - whatever a database says, the others are examined
        said = (str(getattr(error, "orig", error)) or type(error).__name__).strip().splitlines()[0]
        return [Finding("database", Severity.ERROR, f"it cannot be asked: {said}", "see that it is up and reachable")]
    skew = theirs - (before + after) / 2
    found.append(judge_clock(skew, (after - before) / 2, collector.manager.grace))
    return found


def _runs(collector: Collector) -> list[Finding]:
    status = collector.status()
    config = collector.config
    longest = timedelta(milliseconds=collector.ledger.longest_grace())
    found = list(judge_recorded_grace(collector.manager.grace, longest))
    found += list(
        judge_runs(status.last, config, datetime.now(UTC), anything=any(each.objects for each in status.usage))
    )
    for database in status.databases:
        if database.failing:
            said = f"{database.failing} objects could not be deleted so far"
            advice = "run `litestar granite sweep`: it names them, and why"
            found.append(Finding("deletes-failing", Severity.WARNING, said, advice, f"database {database.database}"))
    return [each.about("the collector") for each in found]


def _backend(collector: Collector, backend: StorageBackend, origins: Collection[str], receives: bool) -> list[Finding]:
    probed = probe(backend)
    found = list(probed.findings)
    if probed.skew is not None:
        found.append(judge_clock(probed.skew, probed.margin, collector.manager.grace))
    try:
        asked = {"receives": True} if receives and Capability.PRESIGNED_PUT in backend.capabilities else {}
        found += backend.diagnose(origins=origins, **asked)
    except StorageError as error:
        found.append(Finding("diagnosis", Severity.ERROR, f"it cannot be examined: {error}"))
    return found


def _owner(key: str, backend: StorageBackend, identity: str | None, marked: bool) -> list[Finding]:
    """Whose store it is."""
    try:
        check_marker(key, read_marker(backend), identity, marked=marked)
    except CollectionRefusedError as error:
        advice = f"if this database has taken the other one's place for good: litestar granite adopt {key}"
        return [Finding("store-foreign", Severity.ERROR, str(error), advice)]
    except StorageError:
        return []  # told of by the probe
    return []
