"""Upload a film from Python, and go on where a former run stopped."""

from __future__ import annotations

from typing import Any

import httpx
from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage


def upload(server: str, path: str, title: str, headers: dict[str, str]) -> Any:
    uploader = TusClient(f"{server}/uploads", headers=headers).uploader(
        path,
        metadata={"filename": path.rpartition("/")[2], "filetype": "video/mp4"},
        chunk_size=64 * 1024 * 1024,
        retries=10,
        retry_delay=2,
        store_url=True,
        url_storage=FileStorage("uploads.json"),  # where it stands, for the next run
    )
    uploader.upload()
    head = httpx.head(str(uploader.url), headers={**headers, "Tus-Resumable": "1.0.0"})
    film = {"title": title, "upload": head.headers["Granite-Upload-Token"]}
    return httpx.post(f"{server}/films", json=film, headers=headers).raise_for_status().json()
