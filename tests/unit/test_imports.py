"""Who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USERS_CODE = sorted([*(ROOT / "docs" / "examples").glob("*.py"), *(ROOT / "example_app").rglob("*.py")])


def test_the_import_contracts_hold() -> None:
    """The contracts are in pyproject.toml."""
    # In a process of its own: it silences every logger that there is.
    linting = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", linting], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


WITHOUT_FRAMEWORKS = """
import pkgutil, runpy, sys
optional = ("alembic", "boto3", "botocore", "cryptography", "obstore")
for name in ("litestar", "advanced_alchemy", "multipart", "anyio", *optional):
    sys.modules[name] = None  # as if it were not installed
import granite_core
for module in pkgutil.walk_packages(granite_core.__path__, "granite_core."):
    if not module.name.startswith("granite_core.testing"):  # which needs pytest
        __import__(module.name)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_the_core_works_where_only_sqlalchemy_msgspec_and_puremagic_are_installed() -> None:
    example = ROOT / "docs" / "examples" / "without_a_framework.py"
    argv = [sys.executable, "-c", WITHOUT_FRAMEWORKS, str(example)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("report.csv text/csv")


WITHOUT_SQLALCHEMY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sqlalchemy":
            raise ModuleNotFoundError(f"No module named {name!r}", name="sqlalchemy")
sys.meta_path.insert(0, Absent())
import granite_core
assert "StoredContentMixin" in dir(granite_core)
manager = granite_core.StorageManager(
    {"main": granite_core.MemoryStorageBackend()}, [granite_core.StoragePolicy("documents", "main")]
)
assert manager.get(manager.put_bytes("documents", content=b"x")) == b"x"
try:
    from granite_core import StoredContentMixin
except ImportError as error:
    print(error)
"""


def test_without_sqlalchemy_the_core_works_and_the_mixin_says_what_it_needs() -> None:
    argv = [sys.executable, "-c", WITHOUT_SQLALCHEMY]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("granite_core.StoredContentMixin needs SQLAlchemy: pip install")


def test_what_belongs_to_sqlalchemy_is_exported_as_it_is() -> None:
    import granite_core
    from granite_core.integrations import sqlalchemy

    for name in ("StoredContentMixin", "StoredObjectRefType", "portable_storage_ref_type", "ReplaceContentResult"):
        assert getattr(granite_core, name) is getattr(sqlalchemy, name)
    assert not hasattr(granite_core, "StoredContentMixing")
