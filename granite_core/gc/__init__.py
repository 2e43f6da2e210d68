"""Collection: mark, wait, look, delete."""

from typing import TYPE_CHECKING, Final

from granite_core._exports import exports_when_asked_for
from granite_core.gc.config import GCConfig

if TYPE_CHECKING:
    from granite_core.gc._verify import VerifyOptions
    from granite_core.gc.collector import Collector
    from granite_core.gc.garbage import StorageGarbageCollector
    from granite_core.gc.plan import jittered
    from granite_core.gc.ports import Ledger, ReferenceSource, Usage
    from granite_core.gc.reports import (
        BackendReconcile,
        Discrepancy,
        DiscrepancyKind,
        GarbageCollectionReport,
        Problem,
        Progress,
        ReconcileReport,
        StoreCount,
        SweepReport,
        VerifyReport,
    )
    from granite_core.gc.status import DatabaseStatus, LeaseStatus, StatusReport, StoreStatus

__all__ = [
    "BackendReconcile",
    "Collector",
    "DatabaseStatus",
    "Discrepancy",
    "DiscrepancyKind",
    "GCConfig",
    "GarbageCollectionReport",
    "LeaseStatus",
    "Ledger",
    "Problem",
    "Progress",
    "ReconcileReport",
    "ReferenceSource",
    "StatusReport",
    "StorageGarbageCollector",
    "StoreCount",
    "StoreStatus",
    "SweepReport",
    "Usage",
    "VerifyOptions",
    "VerifyReport",
    "jittered",
]

_WHEN_ASKED_FOR: Final = {
    "BackendReconcile": "granite_core.gc.reports",
    "Collector": "granite_core.gc.collector",
    "DatabaseStatus": "granite_core.gc.status",
    "Discrepancy": "granite_core.gc.reports",
    "DiscrepancyKind": "granite_core.gc.reports",
    "GarbageCollectionReport": "granite_core.gc.reports",
    "LeaseStatus": "granite_core.gc.status",
    "Ledger": "granite_core.gc.ports",
    "Problem": "granite_core.gc.reports",
    "Progress": "granite_core.gc.reports",
    "ReconcileReport": "granite_core.gc.reports",
    "ReferenceSource": "granite_core.gc.ports",
    "StatusReport": "granite_core.gc.status",
    "StorageGarbageCollector": "granite_core.gc.garbage",
    "StoreCount": "granite_core.gc.reports",
    "StoreStatus": "granite_core.gc.status",
    "SweepReport": "granite_core.gc.reports",
    "Usage": "granite_core.gc.ports",
    "VerifyOptions": "granite_core.gc._verify",
    "VerifyReport": "granite_core.gc.reports",
    "jittered": "granite_core.gc.plan",
}

__getattr__, __dir__ = exports_when_asked_for(__name__, _WHEN_ASKED_FOR)
