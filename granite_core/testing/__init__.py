"""For tests of applications and backends: the conformance suite and fault injection. Nothing else imports this."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("granite_core.testing.conformance")

from granite_core.testing.conformance import BackendConformance  # noqa: E402 - after the rewriting was asked for
from granite_core.testing.faults import FaultyBackend, Operation  # noqa: E402

__all__ = ["BackendConformance", "FaultyBackend", "Operation"]
