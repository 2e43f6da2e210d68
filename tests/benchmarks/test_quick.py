"""Every benchmark still does its work, ours and those of the peers that are installed here. No figure is looked at."""

from __future__ import annotations

import pytest

from tests.benchmarks.__main__ import SUBJECTS, cases_of
from tests.benchmarks.harness import run_case
from tests.benchmarks.report import as_json, as_text


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_benchmark_runs(subject: str) -> None:
    cases = cases_of(subject, quick=True)
    assert cases
    for case in cases:
        result = run_case(case, rounds=1)
        print(as_text(result))
        assert [each.error for each in result.outcomes if each.error] == []
        assert [each.contender.name for each in result.outcomes if each.contender.kind == "ours" and each.samples]
        assert as_json(result)["contenders"]
