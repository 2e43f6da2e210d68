"""The few lines that the documentation shows for pages, bundled as a user would, upload in Chromium."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from granite_core import backend_from_url
from tests.support.parts import TUS_CLIENT, need
from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
ADA = {"x-user": "ada"}
ENTRY = """
import * as example from "./{script}";
Object.assign(globalThis, example);
"""


@dataclass(frozen=True)
class Films:
    """The application of the how-to, running."""

    url: str
    folder: Path

    def stored(self) -> set[str]:
        storage = backend_from_url(f"file:{self.folder / 'var' / 'files'}")
        return {hashlib.sha256(storage.get(each.location)).hexdigest() for each in storage.list_objects()}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Films]:
    folder, url = tmp_path_factory.mktemp("films"), f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), "resumable_uploads:app"]
    env = {"PYTHONPATH": str(ROOT)}
    with running(argv, log=folder / "log", ready=lambda: answers(f"{url}/schema"), cwd=folder, env=env):
        yield Films(url, folder)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "harbour.mp4"
    path.write_bytes(b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + os.urandom(3_000_000))
    return path


def open_page(browser: Browser, url: str, script: str, folder: Path) -> Page:
    """A page of the application's origin that has a script of the documentation, bundled."""
    need("tus-client")
    shutil.copy(EXAMPLES / script, folder)
    (folder / "entry.js").write_text(ENTRY.format(script=script))
    (folder / "node_modules").symlink_to(TUS_CLIENT / "node_modules")
    bundler = TUS_CLIENT / "node_modules" / "@esbuild"
    (program,) = bundler.glob("*/bin/esbuild")
    subprocess.run(
        [program, "entry.js", "--bundle", "--outfile=bundle.js"], cwd=folder, check=True, capture_output=True
    )
    page = browser.new_page()
    page.route("**/bundle.*", lambda route: route.fulfill(path=folder / Path(route.request.url).name))
    html = '<!doctype html><script src="/bundle.js"></script><main></main>'
    page.route("**/studio", lambda route: route.fulfill(content_type="text/html", body=html))
    page.goto(f"{url}/studio")
    return page


def test_tus_js_client_uploads_a_film_as_shown(browser: Browser, films: Films, film: Path, tmp_path: Path) -> None:
    page = open_page(browser, films.url, "resumable_upload.js", tmp_path)
    page.evaluate("document.querySelector('main').innerHTML = '<input type=file>'")
    page.set_input_files("input", film)
    made = page.evaluate(
        """async (headers) => {
            const steps = [];
            const onProgress = (sent, total) => steps.push([sent, total]);
            const endpoint = `${location.origin}/uploads`;
            const [file] = document.querySelector("input").files;
            const film = await uploadFilm(file, "Harbour", { endpoint, headers, onProgress });
            return { ...film, steps, remembered: Object.keys(localStorage).length };
        }""",
        ADA,
    )
    assert made["id"]
    assert made["steps"][-1] == [film.stat().st_size, film.stat().st_size]
    assert made["remembered"] == 0
    assert hashlib.sha256(film.read_bytes()).hexdigest() in films.stored()
    page.close()


def test_uppy_uploads_a_film_as_shown(browser: Browser, films: Films, film: Path, tmp_path: Path) -> None:
    page = open_page(browser, films.url, "resumable_uppy.js", tmp_path)
    page.evaluate(
        """(headers) => {
            globalThis.uploaded = [];
            const endpoint = `${location.origin}/uploads`;
            filmUploader("main", { endpoint, headers, onUploaded: (...each) => uploaded.push(each) });
        }""",
        ADA,
    )
    page.locator("input[type=file]").first.set_input_files(film)
    page.get_by_role("button", name="Upload 1 file").click()
    expect(page.get_by_text("Upload complete")).to_be_visible()
    ((name, token),) = page.evaluate("uploaded")
    assert name == film.name
    made = page.request.post(f"{films.url}/films", data={"title": "Harbour", "upload": token}, headers=ADA)
    assert made.status == 201, made.text()
    assert hashlib.sha256(film.read_bytes()).hexdigest() in films.stored()
    page.close()
