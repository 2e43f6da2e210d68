"""Its author's tests: the whole contract, plain and with every call passed through a wrapper."""

import pytest
from small_backend import SmallBackend

from granite_core.testing import BackendConformance, FaultyBackend


class TestSmallBackend(BackendConformance):
    deviations = {"test_memory_does_not_grow_with_what_is_written": "memory is where it keeps objects"}
    programs = 200  # they cost nothing here

    @pytest.fixture(params=[SmallBackend, lambda: FaultyBackend(SmallBackend())], ids=["plain", "wrapped"])
    def backend(self, request):
        return request.param()
