"""A page of another origin uploads in Chromium, beside a CORSConfig that allows it nothing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.config.cors import CORSConfig
from playwright.sync_api import Browser

from tests.support.parts import TUS_CLIENT, need
from tests.support.resumable_server import serving

UPLOAD = """
import { Upload } from "tus-js-client";
globalThis.upload = (endpoint, protocol) => new Promise((resolve) => {
  let token = null;
  new Upload(new Blob([new Uint8Array(300_000).fill(7)]), {
    endpoint,
    protocol,
    chunkSize: 200_000,
    headers: { Authorization: "Bearer ann", "X-Requested-With": "page" },
    metadata: { filename: "sevens.bin" },
    retryDelays: null,
    onAfterResponse: (_, response) => { token = response.getHeader("Granite-Upload-Token") ?? token; },
    onError: (error) => resolve({ error: String(error) }),
    onSuccess: () => resolve({ token }),
  }).start();
});
"""


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[int]:
    """The port of a server of pages; Chromium finds every name beneath ``localhost`` there, so each is an origin."""
    need("tus-client")
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><script src=/bundle.js></script>")
    (folder / "page.js").write_text(UPLOAD)
    (folder / "node_modules").symlink_to(TUS_CLIENT / "node_modules")
    (program,) = (TUS_CLIENT / "node_modules" / "@esbuild").glob("*/bin/esbuild")
    argv = [program, "page.js", "--bundle", "--outfile=bundle.js"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(20)


@pytest.mark.skipif(
    os.environ.get("GRANITE_DEEP") != "1", reason="the same by its headers is in every run: GRANITE_DEEP=1"
)
def test_pages_of_named_origins_upload_and_no_others(browser: Browser, pages: int, tmp_path: Path) -> None:
    studio, stranger = f"http://studio.localhost:{pages}", f"http://stranger.localhost:{pages}"
    elsewhere = CORSConfig(allow_origins=["https://partner.example"], allow_methods=["GET"], allow_headers=["Accept"])

    def ask(url: str, origin: str, protocol: str) -> Any:
        page = browser.new_page()
        page.goto(f"{origin}/")
        try:
            return page.evaluate("([...args]) => upload(...args)", [f"{url}/uploads", protocol])
        finally:
            page.close()

    with serving(tmp_path, origin=studio, cors=elsewhere) as (url, _):
        for protocol in ("tus-v1", "ietf-draft-05"):
            said = ask(url, studio, protocol)
            assert "token" in said, said
            token = said["token"]
            headers = {"Authorization": "Bearer ann"}
            made = httpx.post(f"{url}/videos", json={"token": token}, headers=headers).json()
            assert made["checksum"] == f"sha256:{hashlib.sha256(bytes([7]) * 300_000).hexdigest()}"
            assert "error" in ask(url, stranger, protocol)
