"""For tests of applications and backends: stores in memory, samples, the conformance suite, fault injection.

Nothing else imports this. What needs pytest or SQLAlchemy is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from granite_core.testing.faults import FaultyBackend, Operation
from granite_core.testing.samples import Kind, Upload, aput_sample, make_ref, make_upload, put_sample, sample_bytes
from granite_core.testing.storage import (
    MemoryStorage,
    StoredObject,
    assert_nothing_stored,
    assert_only_stored,
    assert_stored,
    memory_manager,
    memory_storage,
    stored_objects,
)

if TYPE_CHECKING:
    from granite_core.testing.collecting import asweep_now, sweep_now
    from granite_core.testing.conformance import BackendConformance

__all__ = [
    "BackendConformance",
    "FaultyBackend",
    "Kind",
    "MemoryStorage",
    "Operation",
    "StoredObject",
    "Upload",
    "aput_sample",
    "assert_nothing_stored",
    "assert_only_stored",
    "assert_stored",
    "asweep_now",
    "make_ref",
    "make_upload",
    "memory_manager",
    "memory_storage",
    "put_sample",
    "sample_bytes",
    "stored_objects",
    "sweep_now",
]


_LATER: Final = {
    "BackendConformance": "granite_core.testing.conformance",
    "asweep_now": "granite_core.testing.collecting",
    "sweep_now": "granite_core.testing.collecting",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "BackendConformance":
        import pytest

        pytest.register_assert_rewrite(_LATER[name])
    return getattr(import_module(_LATER[name]), name)
