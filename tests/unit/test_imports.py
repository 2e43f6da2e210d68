"""Who may import whom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
USERS_CODE = sorted([*(ROOT / "docs" / "examples").glob("*.py"), *(ROOT / "example_app").rglob("*.py")])


def test_the_import_contracts_hold() -> None:
    """The contracts are in pyproject.toml."""
    assert lint_imports(no_cache=True) == 0


@pytest.mark.parametrize("module", USERS_CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_users_code_imports_only_what_the_reference_documents(module: Path) -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. automodule:: (\S+)$", pages, re.MULTILINE))
    for node in ast.walk(ast.parse(module.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            if name.startswith("granite_"):
                assert name in documented, f"line {node.lineno} imports {name}"
