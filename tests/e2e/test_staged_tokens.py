"""A form that is shown again keeps its file, without a script; and a script uploads first: in Chromium."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import httpx
from playwright.sync_api import Browser, expect

from granite_core import backend_from_url
from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def test_a_form_keeps_its_file_and_a_script_uploads_first(browser: Browser, tmp_path: Path) -> None:
    letter = tmp_path / "letter.pdf"
    letter.write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 400)
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), "staged_tokens:app"]
    program = running(
        argv, log=tmp_path / "log", ready=lambda: answers(url), cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    with program:
        context = browser.new_context(java_script_enabled=False, extra_http_headers={"x-user": "ada"})
        page = context.new_page()
        page.goto(url)
        page.get_by_label("Name").fill("A")
        page.get_by_label("Letter").set_input_files(letter)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_text("letter.pdf is here already")).to_be_visible()
        stored = _stored(tmp_path)
        assert list(stored.values()) == [hashlib.sha256(letter.read_bytes()).hexdigest()]
        page.get_by_label("Name").fill("Ada")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_text("Thank you, Ada")).to_be_visible()
        assert _stored(tmp_path) == stored, "nothing was uploaded again"
        context.close()

        context = browser.new_context(extra_http_headers={"x-user": "bob"})
        page = context.new_page()
        page.goto(url)
        page.add_script_tag(path=EXAMPLES / "staged_upload.js")
        page.get_by_label("Letter").set_input_files(letter)
        sent = page.evaluate(
            """async () => {
                const file = document.querySelector('[name=letter]').files[0];
                return submit('Bob', await stage(file, '/staged/letters'), []);
            }"""
        )
        assert sent["status"] == 201, sent
        context.close()
        assert httpx.post(f"{url}/candidates", json={"name": "Eve", "letter": "x" * 40}).status_code == 422


def _stored(folder: Path) -> dict[str, str]:
    storage = backend_from_url(f"file:{folder / 'var' / 'files'}")
    return {each.location: hashlib.sha256(storage.get(each.location)).hexdigest() for each in storage.list_objects()}
