"""What the pages show is what the tests run: no code is written in a page itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_a_page_takes_its_code_from_files_that_run(page: Path) -> None:
    written = re.findall(r"^[ \t]*(?:```|:::)\s*(?:\{code-block\}\s*)?(?:python|py)\b", page.read_text(), re.MULTILINE)
    assert not written, "move the code to docs/examples and show it with literalinclude"
    for included in re.findall(r"^```\{literalinclude\} (\S+)", page.read_text(), re.MULTILINE):
        source = (page.parent / included).resolve()
        assert source.is_relative_to(ROOT / "docs" / "examples") or source.is_relative_to(ROOT / "tests"), source
