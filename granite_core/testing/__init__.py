"""For tests of applications and backends: the conformance suite and fault injection. Nothing else imports this."""

from __future__ import annotations

from granite_core.testing.faults import FaultyBackend, Operation

__all__ = ["FaultyBackend", "Operation"]
