"""Files that want to run, in a real browser that is logged in where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from litestar import Request, Response, get, route
from playwright.sync_api import Browser, BrowserContext, Error, Page, Route

from tests.hostile.samples import ACTIVE, BEACON, LIES, POLYGLOTS
from tests.hostile.world import World
from tests.support.upload_apps import serve

FILES = {
    **ACTIVE,
    **{f"{number}-{name}": content for number, ((name, _), content) in enumerate(LIES.items())},
    **POLYGLOTS,
}

SOME = (
    *ACTIVE,
    "gif-js.gif",
    "gif-html.gif",
    "pdf-html.pdf",
    "zip-html.zip",
    "text-html.txt",
    "utf16.txt",
    "bmp-js.bmp",
)
"""Those that differ in what a browser makes of them."""

# A page that trusts its own origin, as most do, and takes every file in by every way there is.
EMBEDDING = """
<!DOCTYPE html><title>host</title><body><script>
self.tried = self.settled = 0;
const done = () => { settled += 1 };
const made = (tag, more) => {
    tried += 1;
    document.body.append(Object.assign(document.createElement(tag), {onload: done, onerror: done, ...more}));
};
const later = promise => { tried += 1; promise.then(() => { document.title = 'ran' }, done); };
for (const url of %s) {
    made('script', {src: url});
    made('script', {src: url, type: 'module'});
    made('link', {rel: 'stylesheet', href: url});
    made('img', {src: url});
    later(import(url));
    later(navigator.serviceWorker.register(url));
    later(WebAssembly.compileStreaming(fetch(url)));
}
const all = tried;
for (const url of %s) {  // nothing says when a frame ends in a download
    for (const tag of ['iframe', 'embed']) made(tag, {src: url});
    made('object', {data: url});
    new Worker(url);
}
</script>
"""
TRUSTING = "default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'"


@dataclass
class Site:
    """A served application full of such files, and who called home."""

    url: str
    files: dict[str, str]
    ran: list[str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    ran: list[str] = []
    files: dict[str, str] = {}

    @route(BEACON, http_method=["GET", "POST"], include_in_schema=False)
    async def beacon(request: Request[Any, Any, Any]) -> None:
        ran.append(f"{request.headers.get('referer')} {request.url.query}")

    @get("/host", include_in_schema=False)
    async def host() -> Response[str]:
        urls = [url for name, url in files.items() if name in SOME]
        return Response(EMBEDDING % (urls, urls), media_type="text/html", headers={"Content-Security-Policy": TRUSTING})

    with (
        World.made(tmp_path_factory.mktemp("site"), beacon, host) as world,
        serve(world.app, "uvicorn-httptools") as url,
        httpx.Client(base_url=url) as client,
    ):
        for name, content in FILES.items():
            made = client.post("/bodies", content=content, params={"filename": name.partition("-")[2] or name})
            assert made.status_code == 201
            files[name] = f"/letters/{made.json()['id']}/file"
        yield Site(url, files, ran)


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """Logged in."""
    with browser.new_context() as context:
        context.add_cookies([{"name": "session", "value": "precious", "url": site.url}])
        yield context


def shown(page: Page, url: str) -> dict[str, Any] | None:
    """Where the browser shows a file: what scripts of ours see of the document it made; None for a download."""
    with suppress(Error):  # "Download is starting"
        page.goto(url, wait_until="load")
    if page.url != url:
        return None
    page.wait_for_timeout(50)
    seen: dict[str, Any] = page.evaluate(
        "() => ({origin: self.origin, title: document.title, type: document.contentType, ran: self.ran === true})"
    )
    return seen


def test_opened_in_the_browser_no_file_runs(
    site: Site, context: BrowserContext, record_property: Callable[[str, object], None]
) -> None:
    page = context.new_page()
    kinds = set()
    for name, path in site.files.items():
        seen = shown(page, site.url + path)
        if seen is not None:
            assert (seen["title"], seen["ran"]) != ("ran", True), name
            kinds.add(seen["type"])
            assert not {"html", "xml"} & {*seen["type"].replace("+", "/").split("/")}, name
            if seen["type"].startswith("text/"):
                assert seen["origin"] == "null", name
    assert kinds >= {"image/gif", "text/plain"}
    assert site.ran == []
    record_property("figures", f"Hostile input: {len(site.files)} files opened in Chromium, none ran")


def test_a_browser_that_shows_what_it_should_download_runs_nothing_either(site: Site, context: BrowserContext) -> None:
    """Each defence stands for itself: here the disposition is gone, and pages are shown as pages."""

    def without_disposition(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(
            response=answer, headers={k: v for k, v in answer.headers.items() if k.lower() != "content-disposition"}
        )

    page = context.new_page()
    page.route("**/letters/**", without_disposition)
    kinds = set()
    for name in SOME:
        seen = shown(page, site.url + site.files[name])
        if seen is not None:
            kinds.add(seen["type"])
            assert seen["title"] != "ran", name
            assert not seen["ran"], name
            if not seen["type"].startswith(("image/", "audio/", "video/", "application/pdf")) or "svg" in seen["type"]:
                assert seen["origin"] == "null", name
    assert kinds >= {"text/html", "image/svg+xml", "application/xhtml+xml", "application/xml"}
    assert site.ran == []


def test_a_page_of_the_same_origin_takes_no_file_in_as_its_own(site: Site, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{site.url}/host", wait_until="commit")
    page.wait_for_function("() => self.tried > 0 && self.settled >= all", timeout=60_000)
    page.wait_for_timeout(500)
    assert page.evaluate("() => self.tried") == 10 * len(SOME)
    assert (page.title(), site.ran) == ("host", [])
    assert page.evaluate("() => self.ran") is None


def test_another_site_can_neither_show_nor_run_a_file(site: Site, context: BrowserContext) -> None:
    page = context.new_page()
    picture = site.url + site.files["gif-html.gif"]
    loads = (
        "url => new Promise(end => Object.assign(new Image(), {onload: () => end(1), onerror: () => end(0), src: url}))"
    )
    for origin, loaded in ((site.url, 1), (site.url.replace("127.0.0.1", "localhost"), 0)):
        page.goto(f"{origin}/nowhere")
        assert page.evaluate(loads, picture) == loaded
