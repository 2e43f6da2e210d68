"""A client of direct uploads, written once: it knows nothing of where the bytes go."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import httpx

__all__ = ["DirectClient"]


class DirectClient:
    """Does what a page's script does with the answers of the application, and no more.

    Args:
        base: Address of the application.
        user: As whom.
        path: Where uploads are begun.
    """

    def __init__(self, base: str, user: str = "ann", path: str = "/direct") -> None:
        self.base = base
        self.path = path
        known = {"Authorization": f"Bearer {user}"} if user else {}
        self.app = httpx.Client(base_url=base, headers=known, timeout=60, trust_env=False)
        self.anybody = httpx.Client(timeout=60, trust_env=False)

    def begin(self, **said: Any) -> httpx.Response:
        return self.app.post(self.path, json=said)

    def send(self, request: dict[str, Any], data: bytes, name: str = "a.bin") -> httpx.Response:
        url = urljoin(self.base, request["url"])
        if request["method"] == "PUT":
            return self.anybody.put(url, content=data, headers=request["headers"])
        return self.anybody.post(url, data=request["fields"], files={"file": (name, data, "application/octet-stream")})

    def send_all(self, told: dict[str, Any], data: bytes) -> None:
        """Send every byte: parts from the last to the first, page by page."""
        if told["request"] is not None:
            answer = self.send(told["request"], data)
            assert answer.is_success, answer.text
            return
        numbered: dict[int, dict[str, Any]] = {}
        while True:
            parts = told["parts"]
            numbered.update(enumerate(parts["requests"], parts["first"]))
            if len(numbered) == parts["count"]:
                break
            answer = self.app.get(f"{self.path}/{told['id']}", params={"first": len(numbered) + 1})
            assert answer.status_code == 200, answer.text
            told = answer.json()
        size = told["parts"]["size"]
        for number, request in sorted(numbered.items(), reverse=True):
            answer = self.send(request, data[(number - 1) * size : number * size])
            assert answer.is_success, answer.text

    def complete(self, upload: str) -> httpx.Response:
        return self.app.post(f"{self.path}/{upload}/complete")

    def discard(self, upload: str) -> httpx.Response:
        return self.app.delete(f"{self.path}/{upload}")

    def attach(self, token: str) -> httpx.Response:
        return self.app.post("/videos", json={"token": token})

    def upload(self, data: bytes, **said: Any) -> httpx.Response:
        """Begin, send, complete; the last answer."""
        answer = self.begin(**{"size": len(data), **said})
        assert answer.status_code == 201, answer.text
        told = answer.json()
        self.send_all(told, data)
        return self.complete(told["id"])

    def close(self) -> None:
        self.app.close()
        self.anybody.close()
