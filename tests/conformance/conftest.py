"""What the suite has tried, counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from granite_core.testing import BackendConformance


@pytest.fixture(autouse=True)
def counted(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    suite = request.instance
    if not isinstance(suite, BackendConformance):
        return
    record_property("counted", f"Conformance: {type(suite).__name__}|1|tests")
    if request.function.__name__ == "test_any_program_does_what_a_dictionary_does":
        record_property("counted", f"Conformance: {type(suite).__name__}|{suite.programs}|random programs")
