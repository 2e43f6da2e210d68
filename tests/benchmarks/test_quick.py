"""Every benchmark still does its work, ours beside what it is compared with first. No figure is looked at."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks.__main__ import SUBJECTS, cases_of
from tests.benchmarks.chart import as_chart
from tests.benchmarks.harness import run_case
from tests.benchmarks.report import as_markdown, as_text, machine, summarize
from tests.support.parts import promised


@pytest.mark.timeout(600)  # a dozen servers have to start, on whatever else the machine does
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_benchmark_runs(subject: str) -> None:
    cases = cases_of(subject, quick=True)
    assert cases
    for case in cases:
        some = [each for each in case.contenders if each.kind == "ours" or each.name == case.baseline]
        result = run_case(replace(case, contenders=some), rounds=1)
        summary = summarize(result)
        print(as_text(summary))
        assert [each.error for each in result.outcomes if each.error] == []
        absent = [each.absent for each in result.outcomes if each.absent]
        assert not absent or not promised(), absent
        table = as_markdown([summary], machine())
        assert all(each.name in table for each in some)
        drawn = [each.text for each in ET.fromstring(as_chart([summary])).iter() if each.text]
        assert all(each.contender.name in drawn for each in result.outcomes if each.samples)
