"""The portal, from which the guide on policies quotes, does what it says."""

from __future__ import annotations

import io
import socketserver
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
PDF = b"%PDF-1.7\n" + b"x" * 70_000
CSV = b"date,account,amount\n2026-01-01,rent,1\n"
ACME = {"Host": "acme.example"}


class Scanner(socketserver.StreamRequestHandler):
    """A clamd that finds one word."""

    def handle(self) -> None:
        assert self.rfile.read(10) == b"zINSTREAM\0"
        content = b""
        while size := int.from_bytes(self.rfile.read(4), "big"):
            content += self.rfile.read(size)
        self.wfile.write(b"stream: Eicar FOUND\0" if b"malware" in content else b"stream: OK\0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("portal")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    examples = ROOT / "docs" / "examples"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", examples, "--port", str(port), "policies:app"]
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Scanner) as scanner:
        threading.Thread(target=scanner.serve_forever, daemon=True).start()
        env = {"PYTHONPATH": str(ROOT), "CLAMD": f"127.0.0.1:{scanner.server_address[1]}"}
        program = running(argv, log=folder / "log", ready=lambda: answers(url), cwd=folder, env=env)
        with program, httpx.Client(base_url=url, trust_env=False) as client:
            yield client
        scanner.shutdown()


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def send(client: httpx.Client, *, headers: dict[str, str] = ACME, name: str = "Moss", **files: Any) -> httpx.Response:
    return client.post("/clients", data={"name": name}, files={"contract": ("c.pdf", PDF), **files}, headers=headers)


def stored(folder: Path) -> set[str]:
    root = folder / "var" / "files"
    kept = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    return {str(path.parent) for path in kept if not path.name.startswith(".granite")}


def test_each_tenant_s_files_have_a_folder_of_their_own(client: httpx.Client, folder: Path) -> None:
    sent = send(client, portrait=("p.png", picture(200, 200)), ledger=("l.csv", CSV))
    assert sent.status_code == 201, sent.text
    assert send(client, headers={"Host": "globex.example"}).status_code == 201
    assert stored(folder) == {"acme/contracts", "acme/portraits", "acme/ledgers", "globex/contracts"}
    stranger = send(client, headers={"Host": "other.example"})
    assert (stranger.status_code, stranger.json()["detail"]) == (403, "Nobody lives here")


def test_types_are_judged_on_the_bytes_and_lies_are_refused(client: httpx.Client) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "no document")
    for contract, code in (
        (("c.docx", archive.getvalue()), "content_type_not_allowed"),
        (("c.docx", PDF), "content_type_mismatch"),
        (("c.pdf", PDF, "image/png"), "content_type_mismatch"),
    ):
        refused = send(client, contract=contract)
        assert (refused.status_code, refused.json()["extra"]["code"]) == (415, code)
        assert refused.json()["extra"]["field"] == "contract"


def test_guests_are_refused_before_their_files_are_read(client: httpx.Client) -> None:
    refused = send(client, headers={**ACME, "X-Role": "guest"})
    assert refused.status_code == 403, refused.text
    assert refused.json()["extra"] == {"code": "upload_denied", "field": "contract"}


@pytest.mark.parametrize(
    ("files", "field", "code"),
    [
        ({"contract": ("c.pdf", PDF + b"malware")}, "contract", "infected"),
        ({"portrait": ("p.png", picture(199, 300))}, "portrait", "image_width"),
        ({"portrait": ("p.png", picture(500, 200))}, "portrait", "image_aspect_ratio"),
        ({"ledger": ("l.csv", b"date;amount\n")}, "ledger", "wrong_columns"),
        ({"ledger": ("l.csv", "Größe\n".encode("cp1252"))}, "ledger", "validation_failed"),
    ],
)
def test_what_a_validator_refuses_is_told_by_field(
    client: httpx.Client, files: dict[str, Any], field: str, code: str
) -> None:
    refused = send(client, **files)
    assert refused.status_code == 422, refused.text
    assert [(each["field"], each["code"]) for each in refused.json()["extra"]] == [(field, code)]
