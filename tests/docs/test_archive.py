"""The archive, from which the guides on uploads, private files and several fields quote, does what they say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + b"x" * 5000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
ADA = {"Authorization": "Bearer ada"}
BOB = {"Authorization": "Bearer bob"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("archive")
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        ROOT / "docs" / "examples",
        "--port",
        str(port),
        "archive:app",
    ]
    program = running(argv, log=folder / "log", ready=lambda: answers(url), cwd=folder, env={"PYTHONPATH": str(ROOT)})
    with program, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def case(client: httpx.Client) -> str:
    files = [
        ("contract", ("c.pdf", PDF)),
        ("portrait", ("p.png", PNG)),
        ("pages", ("1.txt", b"one")),
        ("pages", ("2.txt", b"two")),
    ]
    sent = client.post("/cases", data={"title": "Moss"}, files=files, headers=ADA)
    assert sent.status_code == 201, sent.text
    return f"/cases/{sent.json()['id']}"


def test_only_the_owner_has_a_private_file(client: httpx.Client, case: str) -> None:
    assert client.get(f"{case}/contract", headers=ADA).content == PDF
    assert client.get(f"{case}/contract", headers=BOB).status_code == 404
    assert client.get(f"{case}/contract").status_code == 401
    assert client.get(f"{case}/portrait").content == PNG


def test_each_page_has_an_address_and_can_be_removed(client: httpx.Client, case: str) -> None:
    first, second = client.get(f"{case}/pages", headers=ADA).json()
    assert [first["page"]["filename"], second["page"]["filename"]] == ["1.txt", "2.txt"]
    page = client.get(second["url"], headers=ADA)
    assert (page.content, page.headers["content-disposition"]) == (b"two", 'attachment; filename="2.txt"')
    assert client.get(second["url"], headers=BOB).status_code == 403

    added = client.put(f"{case}/pages?filename=3.txt", content=b"three", headers=ADA)
    assert client.get(f"{case}/pages/{added.json()['item']}", headers=ADA).content == b"three"
    assert client.delete(first["url"], headers=ADA).status_code == 204
    assert [each["page"]["filename"] for each in client.get(f"{case}/pages", headers=ADA).json()] == ["2.txt", "3.txt"]


def test_a_raw_upload_replaces_the_contract_of_its_owner_only(client: httpx.Client, case: str) -> None:
    tag = client.head(f"{case}/contract", headers=ADA).headers["etag"]
    assert client.put(f"{case}/contract", content=PDF + b"2", headers=BOB).status_code == 403
    assert client.put(f"{case}/contract", content=PDF + b"2", headers={**ADA, "If-Match": tag}).status_code == 200
    assert client.put(f"{case}/contract", content=PDF + b"3", headers={**ADA, "If-Match": tag}).status_code == 412
    latest = client.get("/cases/latest/contract", headers=ADA)
    assert latest.content == PDF + b"2"
    assert latest.headers["content-disposition"] == 'attachment; filename="Moss.pdf"'


def test_each_field_keeps_to_its_own_policy(client: httpx.Client) -> None:
    files = {"contract": ("c.pdf", PDF), "portrait": ("p.pdf", PDF)}
    refused = client.post("/cases", data={"title": "x"}, files=files, headers=ADA)
    assert (refused.status_code, refused.json()["extra"]["field"]) == (415, "portrait")
