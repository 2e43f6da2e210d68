"""The quickstart does what the tutorial says, served as the tutorial serves it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + b"x" * 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", ROOT / "docs" / "examples", "--port", str(port)]
    program = running(
        [*argv, "quickstart:app"],
        log=folder / "log",
        ready=lambda: answers(url),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
    )
    with program, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def test_a_file_that_was_sent_comes_back(client: httpx.Client) -> None:
    sent = client.post("/documents", data={"title": "Invoice"}, files={"file": ("invoice.pdf", PDF)})
    assert sent.status_code == 201, sent.text
    url = f"/documents/{sent.json()['id']}/file"

    whole = client.get(url)
    assert (whole.status_code, whole.content) == (200, PDF)
    assert whole.headers["content-type"] == "application/pdf"
    assert "invoice.pdf" in whole.headers["content-disposition"]

    part = client.get(url, headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, PDF[:8])


def test_what_the_policy_refuses_leaves_nothing(client: httpx.Client, folder: Path) -> None:
    before = _files(folder)
    sent = client.post("/documents", data={"title": "Page"}, files={"file": ("invoice.pdf", b"<!doctype html><p>")})
    assert sent.status_code == 415, sent.text
    assert _files(folder) == before


def _files(folder: Path) -> list[Path]:
    """But the mark of the store, which is made while the application already answers."""
    found = (each for each in (folder / "var").rglob("*") if each.is_file())
    return sorted(each for each in found if each.parent.name != ".granite")
