"""Who may import whom."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
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


MINIMAL = """
import sys
from litestar import Litestar
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from granite_core import LocalStorageBackend, StoragePolicy, StorageManager, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin
class Base(DeclarativeBase):
    pass
class Document(Base):
    __tablename__ = "document"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("documents")
manager = StorageManager({"main": LocalStorageBackend(sys.argv[1])}, [StoragePolicy("documents", "main")])
download = FileRoute("/documents/{id:int}", Document.file, public=True)
alchemy = SQLAlchemyAsyncConfig(connection_string="sqlite+aiosqlite://", metadata=Base.metadata)
Litestar([], plugins=[SQLAlchemyPlugin(alchemy), GranitePlugin(GraniteConfig(manager, downloads=[download]))])
print(*sys.modules)
"""


def test_what_an_application_does_not_use_is_not_imported(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", MINIMAL, str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert "granite_core.gc.collector" in imported, "the collector of a database is there when the application is"
    for unused in (
        "boto3",
        "botocore",
        "cryptography",
        "obstore",
        "puremagic",
        "granite_core.backends.obstore",
        "granite_core.backends.s3",
        "granite_core.clamav",
        "granite_core.doctor",
        "granite_core.gc.garbage",
        "granite_core.integrations.sqlalchemy.backfill",
        "granite_core.integrations.sqlalchemy.mixin",
        "granite_core.integrations.sqlalchemy.quotas",
        "granite_core.integrations.sqlalchemy.uploads",
        "granite_core.remote.fetch",
        "granite_core.testing",
        "granite_core.uploads._hashing",
        "granite_core.uploads.aio",
        "granite_core.uploads.direct",
        "granite_litestar._request_tokens",
        "granite_litestar.cli",
        "granite_litestar.direct",
        "granite_litestar.resumable",
        "granite_litestar.staged_uploads",
        "granite_litestar.upload_routes",
    ):
        assert unused not in imported


FIRST_REQUESTS = """
import sys
sys.path.insert(0, "docs/examples")
from litestar.testing import TestClient
from {example} import app
with TestClient(app) as client:
    before = set(sys.modules)
    document = "letter.pdf", b"%PDF-1.7", "application/pdf"
    {requests}
    print(*(name for name in sys.modules if name not in before and name.startswith("granite_")))
"""
READ_BACK = """
    made = client.post("/documents", data={"title": "a"}, files={"file": document})
    assert client.get(f"/documents/{made.json()['id']}/file").content == document[1], made.text
"""
SHOWN_AGAIN = """
    refused = client.post("/candidates", data={"name": "a"}, files={"letter": document})
    token = refused.json()["staged"]["letter"][0]["token"]
    made = client.post("/candidates", files={"name": (None, "abc"), "letter": (None, token)})
    assert made.status_code == 201, made.text
"""


@pytest.mark.parametrize(("example", "requests"), [("quickstart", READ_BACK), ("staged_tokens", SHOWN_AGAIN)])
def test_no_request_waits_for_an_import(example: str, requests: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", FIRST_REQUESTS.format(example=example, requests=requests.strip())]
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'rows.sqlite3'}",
            "STORAGE_URL": tmp_path.joinpath("files").as_uri(),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


FETCHING = """
import asyncio, sys, threading
from granite_core import (
    AsyncStorageManager, MemoryStorageBackend, RemoteRefusedError, StorageManager, StoragePolicy, from_url
)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "granite_core.remote.fetch":
            print(threading.current_thread() is threading.main_thread())
sys.meta_path.insert(0, Watch())
manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents", "main")])
try:
    asyncio.run(AsyncStorageManager(manager).put("documents", from_url("ftp://example.org/")))
except RemoteRefusedError:
    print("refused")
"""


def test_what_fetches_is_not_imported_on_the_event_loop() -> None:
    argv = [sys.executable, "-c", FETCHING]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "refused"]


PACKAGES = [
    "granite_core",
    "granite_core.gc",
    "granite_core.integrations.sqlalchemy",
    "granite_core.uploads",
    "granite_litestar",
]


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_imported_when_asked_for_is_exported_as_it_is(package: str) -> None:
    module = import_module(package)
    homes: dict[str, str] = module._WHEN_ASKED_FOR
    assert homes.keys() <= set(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name, home in homes.items():
        assert getattr(module, name) is getattr(import_module(home), name)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'StoredContentMixing'"):
        _ = module.StoredContentMixing
