"""Collection: mark, wait, look, delete."""

from granite_core.gc._verify import VerifyOptions
from granite_core.gc.collector import Collector
from granite_core.gc.config import GCConfig
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
