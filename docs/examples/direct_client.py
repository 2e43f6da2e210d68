"""Sends a film to wherever the application says, and makes a row of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx


def upload(server: str, path: str, title: str, headers: dict[str, str]) -> Any:
    film = Path(path)
    patience = httpx.Timeout(10, read=1800)  # to complete an upload, the application reads it once from the store
    with (
        httpx.Client(base_url=server, headers=headers, timeout=patience) as api,
        httpx.Client(timeout=patience) as store,
        film.open("rb") as file,
    ):
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        told = _json(api.post("/direct", json={"name": film.name, "size": film.stat().st_size, "sha256": digest}))
        number, count = 1, told["parts"]["count"] if told["parts"] else 1
        while number <= count:
            if told["parts"] and number >= told["parts"]["first"] + len(told["parts"]["requests"]):
                told = _json(api.get(f"/direct/{told['id']}", params={"first": number}))
            request, start, size = told["request"], 0, film.stat().st_size
            if told["parts"]:
                size, request = told["parts"]["size"], told["parts"]["requests"][number - told["parts"]["first"]]
                start = (number - 1) * size
            file.seek(start)
            store.put(
                urljoin(server, request["url"]), content=file.read(size), headers=request["headers"]
            ).raise_for_status()
            number += 1
        token = _json(api.post(f"/direct/{told['id']}/complete"))["token"]
        return _json(api.post("/films", json={"title": title, "upload": token}))


def _json(answer: httpx.Response) -> Any:
    return answer.raise_for_status().json()
