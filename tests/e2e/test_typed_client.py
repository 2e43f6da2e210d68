"""A client that npm's generator makes of the API's description: it type-checks, and moves files unchanged."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from granite_core import backend_from_url
from tests.support.processes import answers, free_port, run, running
from tests.support.typed_client import TypedClientTools

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "typed_client"
MISUSE = ROOT / "tests" / "e2e" / "typed_client" / "misuse.ts"
TOKEN = "a-token"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, typed_client: TypedClientTools) -> Path:
    """The documentation's example, its client generated as the page says, and one of the example app beside it."""
    folder = tmp_path_factory.mktemp("typed_client")
    for source in (*EXAMPLE.iterdir(), MISUSE):
        if source.is_file():  # whoever followed the page in place has folders there too
            shutil.copy(source, folder)
    typed_client.install(folder)
    own = (folder / "openapi-ts.config.js").read_text()
    (folder / "example.config.js").write_text(own.replace("openapi.json", "example.json").replace("client", "example"))
    for app, document, config in [
        ("documents_api:app", "openapi.json", "openapi-ts.config.js"),
        ("example_app.app:create_app", "example.json", "example.config.js"),
    ]:
        export = [sys.executable, "-m", "litestar", "--app", app, "schema", "openapi", "--output", document]
        run(export, cwd=folder, env=_environment(folder))
        typed_client.generate(folder, config)
    typed_client.compile(folder)
    return folder


@pytest.fixture(scope="module")
def api(project: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--port", str(port), "documents_api:app"]
    log = project / "log"
    with running(argv, log=log, ready=lambda: answers(url), cwd=project, env=_environment(project)):
        yield url


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": f"{ROOT}:{EXAMPLE.parent}",
        "API_TOKEN": TOKEN,
        "GRANITE_DEMO_DIR": str(folder),
    }


def test_a_generated_client_type_checks_and_moves_files_unchanged(
    project: Path, typed_client: TypedClientTools, api: str
) -> None:
    pdf, other, png = (
        head + random.Random(size).randbytes(size)
        for head, size in ((b"%PDF-1.7\n", 4_000_000), (b"%PDF-1.4\n", 70_000), (b"\x89PNG\r\n\x1a\n", 5_000))
    )
    for name, content in (("document.pdf", pdf), ("other.pdf", other), ("page.png", png)):
        (project / name).write_bytes(content)

    report = json.loads(typed_client.node(project, "build/program.js", env={"API_URL": api, "API_TOKEN": TOKEN}))

    assert _sha256((project / "downloaded.pdf").read_bytes()) == _sha256(pdf)
    assert report["created"]["file"] == _view("document.pdf", pdf)
    assert report["part"] == {"status": 206, "range": f"bytes 100-199/{len(pdf)}"}
    assert report["part_sha256"] == _sha256(pdf[100:200])
    assert report["again"] == 304
    assert report["replaced"] == {"status": 200, **_view("other.pdf", other)}
    assert report["late"]["status"] == 412
    assert report["from_token"] == "first.pdf"
    assert report["twice"] == "file: token_refused"
    assert report["head"] == {"status": 200, "length": str(len(other))}
    assert report["page_sha256"] == _sha256(png)
    assert report["page_disposition"] == 'attachment; filename="page.png"'
    assert report["too_large"] == {"status": 413, "explained": f"file: content_too_large, allowed is {5 * 1024 * 1024}"}
    assert report["wrong_type"] == {"status": 415, "explained": "pages: content_type_not_allowed, allowed is image/*"}
    assert report["wrong_form"] == {"status": 422, "explained": "title: invalid, pages: too_many"}
    assert report["altered"] == "checksum_mismatch"
    assert report["unknown"] == 401

    # What the server keeps: the replaced file until it is collected, and nothing of what it refused.
    storage = backend_from_url(f"file:{project / 'var' / 'files'}")
    kept = sorted(_sha256(storage.get(each.location)) for each in storage.list_objects(prefix="_/"))
    assert kept == sorted(map(_sha256, (pdf, pdf, other, png, png)))


def _view(name: str, content: bytes) -> dict[str, Any]:
    checksum = f"sha256:{_sha256(content)}"
    told = {"filename": name, "size": len(content), "content_type": "application/pdf", "checksum": checksum}
    return {**told, "id": ANY}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
