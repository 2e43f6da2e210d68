"""Uploads a file with tuspy, and goes on over every cut: upload.py ENDPOINT FILE PART_BYTES."""

from __future__ import annotations

import json
import sys
import time

import requests
from tusclient.client import TusClient

HEADERS = {"Authorization": "Bearer ann"}


def main(endpoint: str, path: str, part: str) -> None:
    client = TusClient(endpoint, headers=HEADERS)
    said = {"filename": "träume.bin"}
    uploader = client.uploader(path, metadata=said, chunk_size=int(part), retries=200, retry_delay=0.3)
    uploader.upload()
    for _ in range(100):
        try:
            head = requests.head(uploader.url, headers={**HEADERS, "Tus-Resumable": "1.0.0"}, timeout=60)
            print(json.dumps({"token": head.headers["Granite-Upload-Token"], "url": uploader.url}))
            return
        except (requests.ConnectionError, KeyError):
            time.sleep(0.3)


if __name__ == "__main__":
    main(*sys.argv[1:])
