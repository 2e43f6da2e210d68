"""Links in a browser: what it fetched it keeps, redirects lead it to the store, and a page is never run."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from typing import Any

import pytest
from litestar import Litestar, MediaType, get
from litestar.di import NamedDependency
from playwright.sync_api import Browser

from granite_core import (
    AsyncStorageManager,
    S3StorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
)
from granite_litestar import GraniteConfig, GranitePlugin
from tests.integration.litestar.downloads_support import CountingBackend, serving
from tests.support.s3 import S3Server

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="7" height="5"><rect width="7" height="5"/></svg>'
GIF = b64decode("R0lGODlhAwACAIAAAAAAAP///yH5BAAAAAAALAAAAAADAAIAAAIDRAIFADs=")  # three pixels wide
WIDTHS = "[...document.images].map(each => each.naturalWidth)"


def gallery(backend: Any, **policy: Any) -> Litestar:
    settings, moment = UrlSettings(secrets=["s" * 32]), datetime.now(UTC)
    policies = [StoragePolicy("pictures", **policy)]
    manager = StorageManager({"main": backend}, policies, urls=settings, now=lambda: moment)
    refs: list[StoredObjectRef] = [
        manager.put_bytes("pictures", content=GIF, original_filename="a.gif"),
        manager.put_bytes("pictures", content=SVG, original_filename="b.svg"),
    ]

    @get("/", media_type=MediaType.HTML)
    async def page(files: NamedDependency[AsyncStorageManager]) -> str:
        urls = [await files.url(ref) for ref in refs]
        return "".join(f'<img src="{escape(url)}">' for url in urls)

    return Litestar([page], plugins=[GranitePlugin(GraniteConfig(manager, gc=None))], logging_config=None)


@pytest.fixture
def store(rgw: S3Server) -> Iterator[S3StorageBackend]:
    bucket = rgw.create_bucket()
    client = rgw.client()
    yield S3StorageBackend(bucket, client=client, atomic_create=False)
    client.close()
    rgw.drop_bucket(bucket)


def test_a_browser_fetches_a_linked_picture_once_in_a_bucket_of_time(browser: Browser) -> None:
    backend = CountingBackend()
    app = gallery(backend)
    with serving(app) as address:
        page = browser.new_context().new_page()
        for _ in range(3):
            page.goto(f"{address}/")
            assert page.evaluate(WIDTHS) == [3, 7]
    assert len(backend.opened) == 2


def test_a_browser_shows_pictures_that_the_store_gives(browser: Browser, store: S3StorageBackend) -> None:
    app = gallery(store, delivery="redirect")
    with serving(app) as address:
        page = browser.new_context().new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/")
        assert page.evaluate(WIDTHS) == [3, 7]
        assert sum("X-Amz-Signature=" in each for each in asked) == 2
