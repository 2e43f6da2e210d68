"""What no single call shows: random programs of many calls, beside an oracle."""

from __future__ import annotations

from typing import ClassVar

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.testing.conformance.support import BackendTests

__all__ = ["ProgramTests"]


class ProgramTests(BackendTests):
    """Everything at once. Skipped without Hypothesis (``granite-litestar[testing]``)."""

    programs: ClassVar[int] = 50
    steps: ClassVar[int] = 30

    def test_any_program_does_what_a_dictionary_does(self, backend: StorageBackend) -> None:
        pytest.importorskip("hypothesis", reason="random programs need the extra 'testing'")
        from granite_core.testing.conformance._program import run_programs

        run_programs(backend, self.programs, self.steps)
