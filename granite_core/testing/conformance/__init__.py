"""The conformance suite: what every storage backend must do, as tests that its author runs.

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def backend(self):
            backend = MyBackend(...)      # empty
            yield backend
            backend.close()

A test that needs a capability is skipped where the backend does not claim it. Nobody overrides a test: a deviation is
named in ``deviations`` with its reason, and then the test must fail.
"""

from __future__ import annotations

from granite_core.testing.conformance.derived import DerivedTests
from granite_core.testing.conformance.linking import LinkingTests
from granite_core.testing.conformance.listing import ListingTests
from granite_core.testing.conformance.programs import ProgramTests
from granite_core.testing.conformance.reading import ReadingTests
from granite_core.testing.conformance.receiving import ReceivingTests
from granite_core.testing.conformance.resuming import ResumingTests
from granite_core.testing.conformance.writing import WritingTests

__all__ = ["BackendConformance"]


class BackendConformance(
    WritingTests,
    ResumingTests,
    ReadingTests,
    ListingTests,
    LinkingTests,
    ReceivingTests,
    DerivedTests,
    ProgramTests,
):
    """Subclass it under a name that begins with ``Test``, and give it a fixture ``backend``: a new, empty one.

    Attributes:
        deviations: Names of tests that the backend cannot pass, each with the reason; they run as strict xfail.
        large: Size in bytes of an object that takes several parts, chunks or whatever the backend cuts objects into.
        many: How many objects a listing takes more than one page for.
        memory_limit: How many bytes of Python memory one stream may take.
        programs: How many random programs are run beside an oracle.
        steps: How many calls each of them makes at most.
    """
