"""The example app's form for a large file: paused, resumed after a reload, cancelled, refused and submitted."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.e2e.conftest import Demo, StartDemo, Watch, sha256
from tests.e2e.test_example_app import PATIENCE, assert_fits, card, eventually
from tests.support.parts import TUS_CLIENT, need

SIZE = 30 * 1024 * 1024
SLOW = 4_000_000
"""Bytes a second."""

StartForm = Callable[..., Demo]


@pytest.fixture
def start_form(start_demo: StartDemo) -> StartForm:
    """`start_demo`, with the library that the form uses."""
    need("tus-client")
    library = TUS_CLIENT / "node_modules" / "tus-js-client" / "dist" / "tus.min.js"

    def start(**environment: str) -> Demo:
        return start_demo(**{"GRANITE_EXAMPLE_TUS_CLIENT": str(library), **environment})

    return start


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "Häfen & Kräne.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("GRANITE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Traffic:
    """The requests of a page's uploads."""

    def __init__(self, page: Page) -> None:
        self.requests: list[Request] = []
        page.on("request", lambda request: self.requests.append(request) if "/uploads" in request.url else None)

    def of(self, method: str) -> list[Request]:
        return [each for each in self.requests if each.method == method]


def slow_down(page: Page, rate: int = SLOW) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate}
    session.send("Network.emulateNetworkConditions", limits)


def offset_of(demo: Demo, page: Page, upload: str) -> int:
    head = page.request.head(upload, headers={"Tus-Resumable": "1.0.0"})
    assert head.status == 200
    return int(head.headers["upload-offset"])


def sessions(folder: Path) -> int:
    with sqlite3.connect(folder / "demo.sqlite3") as database:
        (found,) = database.execute("select count(*) from granite_upload").fetchone()
    return int(found)


def test_an_upload_pauses_goes_on_after_a_reload_and_is_submitted_with_its_form(
    start_form: StartForm, browser: Browser, film: Path, samples: dict[str, Path], pictures: Path
) -> None:
    demo = start_form()
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    watch, traffic = Watch(page), Traffic(page)
    page.goto(f"{demo.url}/add")
    slow_down(page)

    # Progress is seen, and heard: bytes, percent, rate.
    page.get_by_label("File", exact=True).set_input_files(film)
    state, bar = page.locator(".transfer .state"), page.get_by_role("progressbar")
    expect(state).to_have_text(re.compile(r"^[\d.]+ MB of 30 MB · \d+ % · [\d.]+ [KM]B/s · \d+ s left$"))
    expect(bar).to_have_attribute("aria-label", f"Upload of {film.name}")
    eventually(lambda: bar.evaluate("bar => bar.position") > 0.1)
    page.screenshot(path=pictures / "form-uploading.png")

    # Paused, nothing more arrives; what has arrived is kept over a reload.
    page.get_by_role("button", name="Pause").click()
    expect(state).to_contain_text("paused")
    expect(page.locator("#say")).to_contain_text("Paused at")
    (begun,) = traffic.of("PATCH")
    eventually(lambda: SIZE / 20 < offset_of(demo, page, begun.url) < SIZE)  # once the server has seen the cut
    offset = offset_of(demo, page, begun.url)
    page.wait_for_timeout(500)
    assert offset_of(demo, page, begun.url) == offset
    page.reload()
    earlier = page.locator(".transfer.earlier")
    expect(earlier).to_contain_text(film.name)
    expect(earlier).to_contain_text("Choose the same file to go on")
    page.screenshot(path=pictures / "form-reloaded.png")

    # The button may be pressed before all is here; then the title is refused, and the file stays.
    page.get_by_label("Title").fill("ab")
    page.get_by_label("Attachments").set_input_files(samples["text"])
    page.get_by_label("File", exact=True).set_input_files(film)
    expect(state).to_contain_text("/s", timeout=PATIENCE)
    page.get_by_role("button", name="Add to the library").click()
    expect(page.get_by_role("button", name="Added as soon as the file is here")).to_be_visible()
    expect(page.get_by_text("A title has 3 to 200 letters")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_label("Title")).to_have_value("ab")
    expect(state).to_have_text("30 MB, is here")
    expect(page.get_by_text(f"{samples['text'].name} ")).to_be_visible()
    page.screenshot(path=pictures / "form-refused.png")
    _, goes_on = traffic.of("PATCH")
    assert int(goes_on.headers["upload-offset"]) == offset, "what the server had was not sent again"
    assert goes_on.all_headers()["content-length"] == str(SIZE - offset)
    stored = demo.objects()
    assert sorted(stored.values()) == sorted([sha256(film), sha256(samples["text"])])

    page.get_by_label("Title").fill("Harbours and cranes")
    page.get_by_role("button", name="Add to the library").click()
    expect(page).to_have_url(f"{demo.url}/", timeout=PATIENCE)
    expect(card(page, Path("Harbours and cranes"))).to_be_visible()
    assert (len(traffic.of("POST")), len(traffic.of("PATCH"))) == (1, 2), "there was no second upload"
    assert demo.objects() == stored
    with page.expect_download() as download:
        card(page, Path("Harbours and cranes")).get_by_label("Download").click()
    assert sha256(Path(download.value.path())) == sha256(film)
    assert download.value.suggested_filename == film.name

    # The browser has forgotten it, too, once the form is opened again.
    page.goto(f"{demo.url}/add")
    eventually(lambda: page.evaluate("Object.keys(localStorage).length") == 0)
    expect(page.locator(".transfer")).to_have_count(0)
    assert not [each for each in watch.complaints if not re.search("status of (404|410|422)", each)]
    page.close()


def test_a_cancelled_upload_leaves_nothing_on_the_server(
    start_form: StartForm, browser: Browser, film: Path, tmp_path: Path, pictures: Path
) -> None:
    demo = start_form(grace=12)
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    traffic = Traffic(page)
    page.goto(f"{demo.url}/add")
    state = page.locator(".transfer .state")

    # One that is there, whole, and waits for its form.
    page.get_by_label("File", exact=True).set_input_files(film)
    expect(state).to_have_text("30 MB, is here", timeout=PATIENCE)
    page.reload()
    page.get_by_role("button", name="Use it").click()
    expect(state).to_have_text("30 MB, is here")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#say")).to_contain_text("was cancelled")

    slow_down(page)

    def begin() -> None:
        page.get_by_label("File", exact=True).set_input_files(film)
        expect(state).to_contain_text("/s", timeout=PATIENCE)

    # One in the middle, by keyboard alone.
    begin()
    assert_fits(page)
    page.screenshot(path=pictures / "form-narrow-dark.png")
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Enter")
    expect(state).to_contain_text("paused")
    page.keyboard.press("Enter")
    expect(state).to_contain_text("/s", timeout=PATIENCE)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".transfer")).to_have_count(0)
    expect(page.get_by_label("File", exact=True)).to_be_focused()
    expect(page.locator("#say")).to_contain_text("was cancelled")
    assert page.get_by_label("File", exact=True).evaluate("input => input.files.length") == 0

    # One that was left by a reload.
    begin()
    page.reload()
    page.get_by_label(f"Discard {film.name}").click()
    expect(page.locator("#say")).to_contain_text("was discarded")
    expect(page.locator(".transfer")).to_have_count(0)

    assert [each.response().status for each in traffic.of("DELETE")] == [204, 204, 204]  # type: ignore[union-attr]
    assert page.evaluate("Object.keys(localStorage).length") == 0
    assert sessions(tmp_path) == 0
    files = tmp_path / "files"
    eventually(
        lambda: not [each for each in files.rglob("*") if each.is_file() and each.name != "store"], demo.grace + 30
    )
    page.close()


def test_without_its_library_or_any_script_the_form_sends_the_file_and_keeps_it_when_it_is_refused(
    start_demo: StartDemo, browser: Browser, samples: dict[str, Path], tmp_path: Path
) -> None:
    demo = start_demo(GRANITE_EXAMPLE_TUS_CLIENT=str(tmp_path / "missing"))
    for script in (True, False):
        context = browser.new_context(java_script_enabled=script)
        page = context.new_page()
        page.goto(f"{demo.url}/add")
        page.get_by_label("Title").fill("ab")
        page.get_by_label("File", exact=True).set_input_files(samples["picture"])
        page.get_by_label("Attachments").set_input_files([samples["text"], samples["pdf"]])
        page.get_by_role("button", name="Add to the library").click()
        expect(page.get_by_text("A title has 3 to 200 letters")).to_be_visible()
        expect(page.locator("#kept")).to_contain_text(f"{samples['picture'].name} ")
        stored = demo.objects()
        page.get_by_label("Title").fill(f"Script: {script}")
        page.get_by_label(samples["pdf"].name).uncheck()
        page.get_by_role("button", name="Add to the library").click()
        expect(page).to_have_url(f"{demo.url}/")
        item = page.request.get(f"{demo.url}/api/overview").json()["items"][0]
        assert (item["title"], item["file"]["checksum"]) == (
            f"Script: {script}",
            f"sha256:{sha256(samples['picture'])}",
        )
        assert [each["name"] for each in item["attachments"]] == [samples["text"].name]
        assert demo.objects() == stored, "nothing was uploaded again"
        context.close()
