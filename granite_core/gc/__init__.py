"""Collection: mark, wait, look, delete."""

from granite_core.gc.collector import Collector
from granite_core.gc.config import GCConfig
from granite_core.gc.plan import jittered
from granite_core.gc.ports import Ledger, ReferenceSource
from granite_core.gc.reports import BackendReconcile, Problem, ReconcileReport, SweepReport

__all__ = [
    "BackendReconcile",
    "Collector",
    "GCConfig",
    "Ledger",
    "Problem",
    "ReconcileReport",
    "ReferenceSource",
    "SweepReport",
    "jittered",
]
