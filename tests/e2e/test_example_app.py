"""A person, a browser, the example app: files go in, are looked at, replaced and deleted, and the bytes follow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.conftest import Demo, StartDemo, Watch, sha256

PATIENCE = 30_000
SWEEP = 2


def test_files_are_kept_shown_replaced_deleted_and_collected(
    place: str, start_demo: StartDemo, browser: Browser, samples: dict[str, Path]
) -> None:
    demo = start_demo(place, grace=12)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    watch = Watch(page)
    page.goto(demo.url)
    expect(page.locator("#live")).to_have_class("live on")
    expect(page.locator("#empty")).to_be_visible()

    # Added: each file is a card, and an object with the same bytes.
    chosen = [samples["picture"], samples["text"], samples["pdf"], samples["video"]]
    page.set_input_files("#picker", chosen)
    for path in chosen:
        expect(card(page, path)).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".card")).to_have_count(4)
    expect(page.locator("#sum-rows")).to_contain_text("4 ·")
    expect(page.locator("#sum-rest")).to_have_text("none")
    assert sorted(demo.objects().values()) == sorted(map(sha256, chosen))

    # Looked at: the picture in its card, the start of the text, the PDF in its viewer.
    expect_picture(card(page, samples["picture"]).locator("img"))
    expect(card(page, samples["text"]).locator("pre")).to_contain_text("いろはにほへと")
    open_viewer(page, samples["pdf"])
    expect(page.locator("#stage iframe")).to_be_visible()
    page.wait_for_timeout(500)
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).not_to_be_visible()

    # Played from the middle: the browser asks for that part of the file, and only from there on.
    seek_to_the_middle(page, watch, samples["video"])

    # Downloaded: the bytes and the name that went in.
    with page.expect_download() as download:
        card(page, samples["text"]).get_by_label("Download").click()
    assert download.value.suggested_filename == samples["text"].name
    assert sha256(Path(download.value.path())) == sha256(samples["text"])

    # Replaced and deleted: the row changes at once, the old bytes stay for the grace.
    kept = demo.objects()
    let_go_after = time.monotonic()
    with page.expect_file_chooser() as chooser:
        card(page, samples["picture"]).get_by_label("Replace").click()
    chooser.value.set_files(samples["other picture"])
    expect(card(page, samples["other picture"])).to_be_visible(timeout=PATIENCE)
    expect(card(page, samples["picture"])).to_have_count(0)
    expect_picture(card(page, samples["other picture"]).locator("img"))
    card(page, samples["text"]).get_by_label("Delete").click()
    page.locator("#confirm-yes").click()
    expect(card(page, samples["text"])).to_have_count(0)
    let_go_before = time.monotonic()

    both = {sha256(samples["picture"]), sha256(samples["text"])}
    now = demo.objects()
    assert kept.items() <= now.items()
    assert set(now.values()) - set(kept.values()) == {sha256(samples["other picture"])}
    expect(page.locator("#waiting li")).to_have_count(2)
    expect(page.locator("#waiting")).to_contain_text(samples["text"].name)
    expect(page.locator("#sum-wait")).to_contain_text("2 ·")

    # Collected: not before the grace has passed, and with the next sweep.
    last_seen, gone_at = wait_until_gone(demo, both)
    assert last_seen - let_go_after > demo.grace - 2
    assert gone_at - let_go_after >= demo.grace
    assert gone_at - let_go_before <= demo.grace + SWEEP + 10
    expect(page.locator("#waiting li")).to_have_count(0)
    expect(page.locator("#collected")).to_contain_text(samples["picture"].name)
    expect(page.locator("#collected")).to_contain_text(samples["text"].name)
    expect(page.locator("#collected-total")).to_contain_text("2 ·")

    # Nothing else went.
    left = [samples["other picture"], samples["pdf"], samples["video"]]
    assert sorted(demo.objects().values()) == sorted(map(sha256, left))
    page.reload()
    for path in left:
        expect(card(page, path)).to_be_visible()
        link = card(page, path).get_by_label("Download").get_attribute("href")
        with urlopen(demo.url + str(link)) as answer:
            assert answer.read() == path.read_bytes()
    assert watch.complaints == []
    page.close()


def test_what_is_refused_says_why_and_leaves_nothing(
    start_demo: StartDemo, browser: Browser, samples: dict[str, Path], tmp_path: Path
) -> None:
    demo = start_demo(MAX_SIZE="2000000", grace=12)
    page = browser.new_page()
    watch = Watch(page)
    page.goto(demo.url)
    expect(page.locator("#limit")).to_contain_text("1.9 MB")

    small_video = tmp_path / "Übergröße.bin"
    small_video.write_bytes(os.urandom(3_000_000))
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(50_000_000))
    page.set_input_files("#picker", [small_video, large, samples["pdf"]])
    expect(card(page, samples["pdf"])).to_be_visible(timeout=PATIENCE)
    for name, size in ((small_video.name, "2.9 MB"), (large.name, "48 MB")):
        refused = page.locator(".upload.failed", has_text=name)
        expect(refused).to_contain_text(f"Too large: it has {size}, and 1.9 MB are allowed", timeout=PATIENCE)
        refused.get_by_label("Dismiss").click()
    expect(page.locator(".upload")).to_have_count(0)

    # A kind of file that the policy of attachments does not take, chosen in the viewer, is refused there.
    open_viewer(page, samples["pdf"])
    archive = tmp_path / "archive.zip"
    archive.write_bytes(b"PK\x05\x06" + bytes(18))
    with page.expect_file_chooser() as chooser:
        page.locator("#attach").click()
    chooser.value.set_files([archive, samples["text"]])
    expect(page.locator("#attaching .failed")).to_contain_text("Not accepted here: application/zip")
    expect(page.locator("#attached li")).to_have_count(1)
    expect(page.locator("#attached a")).to_have_text(samples["text"].name)
    assert sorted(demo.objects().values()) == sorted([sha256(samples["pdf"]), sha256(samples["text"])])

    # An attachment that is removed goes the way of all files.
    page.locator("#attached").get_by_label("Remove").click()
    expect(page.locator("#attached li")).to_have_count(0)
    wait_until_gone(demo, {sha256(samples["text"])})
    assert list(demo.objects().values()) == [sha256(samples["pdf"])]
    assert not [each for each in watch.complaints if not re.search(r"status of 4(13|15)|ERR_(CONNECTION|HTTP)", each)]
    page.close()


def test_an_upload_that_is_cancelled_leaves_nothing(start_demo: StartDemo, browser: Browser, tmp_path: Path) -> None:
    demo = start_demo()
    page = browser.new_page()
    page.goto(demo.url)
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 500_000}
    session.send("Network.emulateNetworkConditions", slow)
    path = tmp_path / "long.bin"
    path.write_bytes(os.urandom(20_000_000))
    page.set_input_files("#picker", path)
    expect(page.locator(".upload .state")).to_contain_text("/s", timeout=PATIENCE)
    page.locator(".upload").get_by_label("Cancel").click()
    expect(page.locator(".upload")).to_have_count(0)
    folder = tmp_path / "files"
    eventually(lambda: not [found for found in folder.rglob("*") if found.is_file() and found.name != "store"])
    assert demo.objects() == {}
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("shape", "width", "height"), [("wide", 1280, 900), ("narrow", 390, 844)])
def test_the_page_fits(
    scheme: Any,
    shape: str,
    width: int,
    height: int,
    start_demo: StartDemo,
    browser: Browser,
    samples: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Takes the screenshots too: into $GRANITE_SCREENSHOTS, or the test's folder."""
    pictures = Path(os.environ.get("GRANITE_SCREENSHOTS") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    demo = start_demo()
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(demo.url)
    page.set_input_files("#picker", list(samples.values()))
    expect(page.locator(".card")).to_have_count(len(samples), timeout=PATIENCE)
    card(page, samples["other picture"]).get_by_label("Delete").click()
    page.locator("#confirm-yes").click()
    expect(page.locator("#waiting li")).to_have_count(1)
    expect(page.locator(".upload")).to_have_count(0)
    page.mouse.move(0, 0)
    expect_picture(card(page, samples["picture"]).locator("img"))
    assert_fits(page)
    page.screenshot(path=pictures / f"page-{shape}-{scheme}.png", full_page=True)

    # By keyboard alone: to a file, into the viewer, and out again, back to where one was.
    card(page, samples["video"]).get_by_label("Open").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator("#stage video")).to_have_js_property("readyState", 4, timeout=PATIENCE)
    page.wait_for_timeout(500)  # a frame that is there is not painted yet
    assert_fits(page)
    page.screenshot(path=pictures / f"viewer-{shape}-{scheme}.png")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).not_to_be_visible()
    expect(card(page, samples["video"]).get_by_label("Open")).to_be_focused()
    page.close()


# ------------------------------------------------------------------------------------------------------------- helpers
def card(page: Page, path: Path) -> Locator:
    return page.locator(".card").filter(has=page.locator(f".label strong:text-is('{path.name}')"))


def open_viewer(page: Page, path: Path) -> None:
    card(page, path).get_by_label("Open").click()
    expect(page.locator("#viewer-title")).to_have_text(path.name)


def expect_picture(image: Locator) -> None:
    image.scroll_into_view_if_needed()
    expect(image).to_have_js_property("complete", value=True)
    assert image.evaluate("image => image.naturalWidth") > 0


def seek_to_the_middle(page: Page, watch: Watch, path: Path) -> None:
    open_viewer(page, path)
    video = page.locator("#stage video")
    expect(video).to_have_js_property("readyState", 4, timeout=PATIENCE)
    watch.partial.clear()
    middle = video.evaluate(
        """video => new Promise((resolve, reject) => {
             video.onseeked = () => resolve(video.duration / 2);
             video.onerror = () => reject(video.error.message);
             video.currentTime = video.duration / 2;
           })"""
    )
    assert abs(video.evaluate("video => video.currentTime") - middle) < 0.1
    expect(video).to_have_js_property("readyState", 4, timeout=PATIENCE)
    page.wait_for_timeout(200)
    size = path.stat().st_size
    starts = [int(match[1]) for _, head in watch.partial if (match := re.match(r"bytes (\d+)-", head))]
    assert any(size / 4 < start < size * 3 / 4 for start in starts), watch.partial
    # It plays from there.
    video.evaluate("video => { video.muted = true; return video.play(); }")
    eventually(lambda: video.evaluate("video => video.currentTime") > middle + 0.3)
    page.keyboard.press("Escape")


def wait_until_gone(demo: Demo, digests: set[str]) -> tuple[float, float]:
    """When the last of them was seen, and when it was gone."""
    deadline = time.monotonic() + demo.grace + SWEEP + 30
    last_seen = time.monotonic()
    while time.monotonic() < deadline:
        asked = time.monotonic()
        if not digests & set(demo.objects().values()):
            return last_seen, time.monotonic()
        last_seen = asked
        time.sleep(0.2)
    raise AssertionError("the bytes were not collected")


def eventually(true: Callable[[], Any], patience: float = 15) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_fits(page: Page) -> None:
    wider = page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(each => {
             const box = each.getBoundingClientRect();
             return box.width > 2 && box.right > document.documentElement.clientWidth + 1
               && !each.closest('.unseen, .kinds, .waiting, .thumb');
           }).map(each => each.outerHTML.slice(0, 120))"""
    )
    assert wider == []
