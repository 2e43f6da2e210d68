"""The page on direct uploads: its application takes what its client sends."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import answers, free_port, running

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    example = getattr(request, "param", "direct_uploads")
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), f"{example}:app"]
    program = running(
        argv,
        log=tmp_path / "log",
        ready=lambda: answers(url),
        cwd=tmp_path,
        env={"PYTHONPATH": str(EXAMPLES.parents[1]), "SITE": url},
    )
    with program:
        yield url


def _client() -> Any:
    spec = importlib.util.spec_from_file_location("direct_client", EXAMPLES / "direct_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_python_client_uploads_a_film(server: str, sample_mp4: Path, tmp_path: Path) -> None:
    film = _client().upload(server, str(sample_mp4), "Sample", {"X-User": "ann"})
    assert film["id"]
    (stored,) = [each for each in (tmp_path / "var/files").rglob("*.mp4") if each.is_file()]
    assert stored.read_bytes() == Path(sample_mp4).read_bytes()


class _Form(HTMLParser):
    """Reads a page with one form, as a browser does."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.form: dict[str, str | None] = {}
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "form":
            self.form = said
        if tag == "input" and said["type"] == "hidden":
            self.fields[said["name"] or ""] = said["value"] or ""
        if tag == "input" and said["type"] == "file":
            assert said["name"] == "file"


@pytest.mark.parametrize("server", ["direct_form"], indirect=True)
def test_a_plain_form_sends_a_film(server: str, sample_mp4: Path, tmp_path: Path) -> None:
    ann = {"X-User": "ann"}
    with httpx.Client(base_url=server, timeout=120, trust_env=False) as browser:
        page = _Form(browser.get("/clips/new", headers=ann).raise_for_status().text)
        assert (page.form["method"], page.form["enctype"]) == ("post", "multipart/form-data")
        with sample_mp4.open("rb") as film:
            sent = browser.post(str(page.form["action"]), data=page.fields, files={"file": ("film.mp4", film)})
        assert sent.status_code == 303
        assert browser.get(sent.headers["location"], headers={"X-User": "bob"}).status_code == 404
        thanks = browser.get(sent.headers["location"], headers=ann).raise_for_status()
    assert f"{sample_mp4.stat().st_size} bytes came" in thanks.text
    stored = [each for each in (tmp_path / "var/files").rglob("*.mp4") if each.is_file()]
    assert [each.read_bytes() for each in stored] == [sample_mp4.read_bytes()]
