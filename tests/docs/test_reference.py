"""Nothing public is undocumented."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import granite_core
from granite_core import Capability, StorageError

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
DOCUMENTED = re.findall(r"^\.\. automodule:: (\S+)$", REFERENCE, re.MULTILINE)

PUBLIC = [
    "granite_core",
    "granite_core.backends.s3",
    "granite_core.doctor",
    "granite_core.events",
    "granite_core.gc",
    "granite_core.integrations.sqlalchemy",
    "granite_core.integrations.sqlalchemy.migrations",
    "granite_core.logs",
    "granite_core.offloading",
    "granite_core.serving",
    "granite_core.signing",
    "granite_core.testing",
    "granite_core.testing.factories",
    "granite_core.testing.plugin",
    "granite_core.uploads",
    "granite_core.validators",
    "granite_litestar",
]


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_package_is_in_the_reference(package: str) -> None:
    assert package in DOCUMENTED


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_says_what_it_does(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        member = getattr(module, name)
        if inspect.isclass(member) or inspect.isroutine(member):
            doc = member.__doc__ or ""
            assert doc.strip(), f"{package}.{name} has no docstring"
            assert not doc.startswith(f"{name}("), f"{package}.{name} has a generated docstring"


def _errors(base: type[StorageError]) -> list[type[StorageError]]:
    return [base, *(found for child in base.__subclasses__() for found in _errors(child))]


def test_every_error_code_is_documented() -> None:
    page = (DOCS / "reference" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE))
    ours = {each for each in _errors(StorageError) if each.__module__.startswith("granite_")}
    assert {each.__name__ for each in ours} <= set(rows.values())
    assert {each.code for each in ours} <= set(rows)


def test_every_capability_is_documented() -> None:
    for capability in Capability:
        assert f"`{capability.value}`" in REFERENCE, capability


def test_the_root_exports_every_error() -> None:
    from granite_core import errors

    assert set(errors.__all__) <= set(granite_core.__all__)
