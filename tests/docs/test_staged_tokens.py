"""The form of the guide on staged tokens, by hand, over a real server."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PDF = b"%PDF-1.7\n" + b"x" * 5000
ADA = {"x-user": "ada"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("candidates")
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), "staged_tokens:app"]
    program = running(argv, log=folder / "log", ready=lambda: answers(url), cwd=folder, env={"PYTHONPATH": str(ROOT)})
    with program, httpx.Client(base_url=url, trust_env=False, headers=ADA, timeout=30) as client:
        yield client


def test_a_form_without_a_script_is_shown_again_with_its_files(client: httpx.Client) -> None:
    assert "is here already" not in client.get("/").text
    files = [("letter", ("letter.pdf", PDF)), ("works", ("one.txt", b"one")), ("works", ("two.txt", b"two"))]
    again = client.post("/page", data={"name": "A<"}, files=files)
    assert again.status_code == 422
    assert "letter.pdf is here already" in again.text
    assert 'value="A&lt;"' in again.text
    letter = re.findall(r'name="letter" value="([^"]+)"', again.text)
    works = re.findall(r'name="works" value="([^"]+)"', again.text)
    assert (len(letter), len(works)) == (1, 2)

    # A browser sends the tokens, and its file inputs empty.
    empty = [("letter", ("", b"")), ("works", ("", b""))]
    sent = client.post("/page", data={"name": "Ada", "letter": letter, "works": works[1:]}, files=empty)
    assert (sent.status_code, sent.text) == (201, "Thank you, Ada")


def test_a_program_uploads_first_and_submits_later(client: httpx.Client) -> None:
    letter = client.post("/staged/letters?filename=letter.pdf", content=PDF)
    assert letter.status_code == 201
    work = client.post("/staged/works", files={"file": ("one.txt", b"one")})
    body = {"name": "Bob", "letter": letter.json()["token"], "works": [work.json()["token"]]}
    swapped = client.post("/candidates", json={**body, "letter": body["works"][0]})
    assert [each["field"] for each in swapped.json()["extra"]] == ["letter"]
    assert client.post("/candidates", json=body, headers={"x-user": "eve"}).status_code == 422
    assert client.post("/candidates", json=body).status_code == 201
    assert client.post("/candidates", json={**body, "name": "Carol"}).status_code == 422


def test_what_the_handler_refuses_is_not_uploaded_again(client: httpx.Client) -> None:
    assert client.post("/candidates", data={"name": "Dan"}, files={"letter": ("l.pdf", PDF)}).status_code == 201
    refused = client.post("/candidates", data={"name": "Dan"}, files={"letter": ("l.pdf", PDF)})
    assert refused.json()["extra"] == [
        {"field": "name", "code": "taken", "message": "there is one of this name already"}
    ]
    token = refused.json()["staged"]["letter"][0]["token"]
    assert client.post("/candidates", data={"name": "Dana"}, files={"letter": (None, token)}).status_code == 201


def test_staging_is_guarded(client: httpx.Client) -> None:
    assert httpx.post(f"{client.base_url}/staged/letters", content=PDF).status_code == 401
