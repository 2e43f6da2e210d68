"""Objects in memory behind a server that gives them to whoever has a signed address; and servers that are too kind."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from granite_core.backends.base import Capability
from granite_core.errors import ObjectNotFoundError
from tests.conformance.broken import Broken

SECRET = b"secret"
_HEADERS = ("content-type", "content-disposition", "cache-control")


class Presigning(Broken):
    """A sound one."""

    capabilities = Broken.capabilities | {Capability.PRESIGNED_GET}
    presign_limit = timedelta(days=7)
    signed = ("method", "path", "starts", "lasts", *_HEADERS)

    def __init__(self) -> None:
        super().__init__()
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        super().close()

    def presign_get(
        self, location: str, *, starts: datetime, expires_in: timedelta, method: str = "GET", **headers: str | None
    ) -> str:
        fields = {
            "method": method,
            "path": location,
            "starts": str(int(starts.timestamp())),
            "lasts": str(int(expires_in.total_seconds())),
            **{name.replace("_", "-"): value for name, value in headers.items() if value is not None},
        }
        query = urlencode({name: value for name, value in fields.items() if name not in ("method", "path")})
        host, port = self.server.server_address[:2]
        return f"http://{host!s}:{port}/{quote(location)}?{query}&signature={self.sign(fields)}"

    def sign(self, fields: dict[str, str]) -> str:
        signed = repr([fields.get(name) for name in self.signed])
        return hmac.new(SECRET, signed.encode(), hashlib.sha256).hexdigest()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        fields = {**dict(parse_qsl(address.query)), "method": request.command, "path": unquote(address.path[1:])}
        starts, ends = int(fields["starts"]), int(fields["starts"]) + int(fields["lasts"])
        if fields["signature"] != self.sign(fields) or not starts <= time.time() < ends:
            self.send(request, 403, b"", {})
            return
        try:
            content = self.get(fields["path"])
        except ObjectNotFoundError:
            self.send(request, 404, b"", {})
            return
        headers = {name: fields[name] for name in _HEADERS if name in fields}
        self.send(request, 200, content, {**headers, "expires": request.date_time_string(ends)})

    def send(self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


class SignsAnotherObject(Presigning):
    def get(self, ref: Any) -> bytes:
        return super().get(ref)[1:]


class HasHeadersOfItsOwn(Presigning):
    def send(self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
        super().send(request, status, content, {**headers, "content-type": "application/octet-stream"})


class SignsForGetOnly(Presigning):
    def presign_get(self, location: str, *, method: str = "GET", **request: Any) -> str:
        return super().presign_get(location, **request)


class DoesNotSignTheMethod(Presigning):
    signed = tuple(name for name in Presigning.signed if name != "method")


class DoesNotSignTheHeaders(Presigning):
    signed = Presigning.signed[:4]


class NeverSignsTwiceAlike(Presigning):
    number = 0

    def presign_get(self, location: str, **request: Any) -> str:
        self.number += 1
        return f"{super().presign_get(location, **request)}&request={self.number}"


class GivesForEver(Presigning):
    def answer(self, request: BaseHTTPRequestHandler) -> None:
        request.path = request.path.replace("lasts=300", "lasts=9999")
        super().answer(request)

    def sign(self, fields: dict[str, str]) -> str:
        return super().sign({**fields, "lasts": ""})


class GivesAnEmptyOneForWhatIsGone(Presigning):
    def send(self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
        super().send(request, 200 if status == 404 else status, content, headers)


class GivesForMinutesOnly(Presigning):
    presign_limit = timedelta(minutes=15)
