"""Objects in memory behind a server that takes them by signed requests; and servers and stores that are too kind."""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from uuid import uuid4

from granite_core.backends.base import NO_OPTIONS, Capability, SignedRequest, WriteOptions
from granite_core.errors import ObjectNotFoundError
from granite_core.keys import DIRECT
from tests.conformance.broken import Broken
from tests.conformance.signing_memory import Presigning

CHECKSUM = "x-checksum-sha256"
Headers = dict[str, str]


class Receiving(Presigning):
    """A sound one."""

    capabilities = Presigning.capabilities | {
        Capability.PRESIGNED_PARTS,
        Capability.PRESIGNED_POST,
        Capability.PRESIGNED_PUT,
    }
    signed = (*Presigning.signed, "upload", "partNumber", "size", "type", "checksum", "policy")

    def __init__(self) -> None:
        super().__init__()
        self.described: dict[str, Headers] = {}
        self.parts: dict[str, tuple[str, dict[int, bytes], Headers]] = {}
        store, handler = self, self.server.RequestHandlerClass

        def take(request: BaseHTTPRequestHandler) -> None:
            status = store.take(request, request.rfile.read(int(request.headers["content-length"])))
            place = getattr(request, "place", None)
            store.send(request, status, b"", {"location": place} if place else {})

        handler.do_PUT = handler.do_POST = take  # type: ignore[attr-defined]  # its class is made for each

    # -- signing

    def presign_put(self, location: str, *, size: int, **asked: Any) -> SignedRequest:
        return self._request(location, {"size": str(size)}, **asked)

    def presign_part(self, location: str, upload: str, number: int, *, size: int, **asked: Any) -> SignedRequest:
        return self._request(location, {"upload": upload, "partNumber": str(number), "size": str(size)}, **asked)

    def _request(
        self,
        location: str,
        fields: Headers,
        *,
        starts: datetime,
        expires_in: timedelta,
        content_type: str | None = None,
        checksum: str | None = None,
    ) -> SignedRequest:
        headers = {} if content_type is None else {"Content-Type": content_type}
        if checksum is not None:
            headers[CHECKSUM] = b64encode(bytes.fromhex(checksum.removeprefix("sha256:"))).decode()
        times = {"starts": str(int(starts.timestamp())), "lasts": str(int(expires_in.total_seconds()))}
        said = {"type": content_type, "checksum": headers.get(CHECKSUM)}
        fields = {**fields, **times, **{name: text for name, text in said.items() if text}}
        signature = self.sign({**fields, "method": "PUT", "path": location})
        return SignedRequest("PUT", f"{self.base}/{quote(location)}?{urlencode(fields)}&signature={signature}", headers)

    def presign_post(
        self,
        location: str,
        *,
        starts: datetime,
        expires_in: timedelta,
        max_size: int,
        min_size: int = 0,
        content_type: str | None = None,
        checksum: str | None = None,
        redirect: str | None = None,
    ) -> SignedRequest:
        texts = {"key": location, "Content-Type": content_type, "redirect": redirect}
        fields = {name: text for name, text in texts.items() if text is not None}
        ends = (starts + expires_in).timestamp()
        policy = json.dumps({"fields": fields, "min": min_size, "max": max_size, "ends": ends})
        fields["policy"] = b64encode(policy.encode()).decode()
        return SignedRequest("POST", self.base, {}, {**fields, "signature": self.sign({"policy": fields["policy"]})})

    @property
    def base(self) -> str:
        host, port = self.server.server_address[:2]
        return f"http://{host!s}:{port}"

    # -- taking

    def take(self, request: BaseHTTPRequestHandler, body: bytes) -> int:
        return self.take_form(request, body) if request.command == "POST" else self.take_body(request, body)

    def take_body(self, request: BaseHTTPRequestHandler, body: bytes) -> int:
        address = urlsplit(request.path)
        fields = {**dict(parse_qsl(address.query)), "method": request.command, "path": unquote(address.path[1:])}
        starts = int(fields["starts"])
        if fields["signature"] != self.sign(fields) or not starts <= time.time() < starts + int(fields["lasts"]):
            return 403
        said = {name.lower(): text for name, text in request.headers.items()}
        if not self.is_as_said(fields, said, body):
            return 403
        if (upload := fields.get("upload")) is None:
            self.keep(fields["path"], body, said)
            return 200
        if upload not in self.parts:
            return 404
        self.parts[upload][1][int(fields["partNumber"])] = body
        return 200

    def is_as_said(self, fields: Headers, said: Headers, body: bytes) -> bool:
        checksum = fields.get("checksum", "")
        if checksum and {checksum, said.get(CHECKSUM)} != {b64encode(sha256(body).digest()).decode()}:
            return False
        return len(body) == int(fields["size"]) and fields.get("type", "") in ("", said.get("content-type"))

    def take_form(self, request: BaseHTTPRequestHandler, body: bytes) -> int:
        boundary = request.headers["content-type"].partition("boundary=")[2]
        pieces = [each[2:-2].partition(b"\r\n\r\n") for each in body.split(f"--{boundary}".encode())[1:-1]]
        named = [(_name(head), content) for head, _, content in pieces]
        fields = {name: content.decode() for name, content in named[:-1]}
        policy = json.loads(b64decode(fields["policy"]))
        if self.sign({"policy": fields["policy"]}) != fields["signature"] or not self.is_due(policy):
            return 403
        if not self.is_form_as_said(fields, policy) or named[-1][0] != "file":
            return 403
        if not policy["min"] <= len(named[-1][1]) <= policy["max"]:
            return 400
        self.keep(fields["key"], named[-1][1], {"content-type": fields.get("Content-Type", "")})
        request.place = fields.get("redirect")  # type: ignore[attr-defined]  # told in the head
        return 303 if "redirect" in fields else 204

    def is_due(self, policy: Mapping[str, Any]) -> bool:
        return time.time() < float(policy["ends"])

    def is_form_as_said(self, fields: Headers, policy: Mapping[str, Any]) -> bool:
        return {name: text for name, text in fields.items() if name not in ("policy", "signature")} == policy["fields"]

    def keep(self, location: str, content: bytes, headers: Headers) -> None:
        wanted = ("content-type", "content-language", "content-disposition")
        self.described[location] = {name: headers[name] for name in wanted if headers.get(name)}
        self.overwrite(location, content)

    def send(self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: Headers) -> None:
        described = self.described.get(unquote(urlsplit(request.path).path[1:]), {}) if request.command == "GET" else {}
        super().send(request, status, content, {**described, **headers})

    # -- parts

    def begin_parts(self, location: str, *, content_type: str | None = None) -> str:
        upload = uuid4().hex
        self.parts[upload] = location, {}, {} if content_type is None else {"content-type": content_type}
        return upload

    def list_parts(self, location: str, upload: str) -> Mapping[int, int]:
        return {number: len(data) for number, data in sorted(self.parts_of(location, upload).items())}

    def join_parts(self, location: str, upload: str) -> None:
        parts = self.parts_of(location, upload)
        self.keep(location, b"".join(parts[number] for number in sorted(parts)), self.parts[upload][2])
        del self.parts[upload]

    def discard_parts(self, location: str, upload: str | None = None) -> None:
        self.parts = {name: each for name, each in self.parts.items() if each[0] != location}

    def parts_of(self, location: str, upload: str) -> dict[int, bytes]:
        if upload not in self.parts:
            raise ObjectNotFoundError("no such upload", backend="memory", location=location)
        return self.parts[upload][1]

    # -- copying and clearing

    def copy(self, source: str, target: str, *, options: WriteOptions = NO_OPTIONS) -> None:
        super().copy(source, target, options=options)
        kind = options.content_type
        self.described[target] = self.described.get(source, {}) if kind is None else {"content-type": kind}

    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        before, cleared = datetime.now(UTC) - older_than, 0
        for key in [each.decode() for each in self._keys if each.startswith(DIRECT.encode())]:
            if key not in keep and self.stat(key).modified < before:
                self.delete(key)
                cleared += 1
        if older_than <= timedelta(0):
            gone = [name for name, each in self.parts.items() if each[0] not in keep]
            for name in gone:
                del self.parts[name]
            cleared += len(gone)
        return cleared + super().clear_unfinished(older_than, keep=keep)


def _name(head: bytes) -> str:
    found = re.search(rb'name="([^"]*)"', head)
    assert found is not None
    return found[1].decode()


class KeepsTheBeginning(Receiving):
    def keep(self, location: str, content: bytes, headers: Headers) -> None:
        super().keep(location, content[:-1], headers)


class TakesAnyLength(Receiving):
    def is_as_said(self, fields: Headers, said: Headers, body: bytes) -> bool:
        return super().is_as_said({**fields, "size": str(len(body))}, said, body)


class TakesAnyType(Receiving):
    def is_as_said(self, fields: Headers, said: Headers, body: bytes) -> bool:
        return super().is_as_said({**fields, "type": ""}, said, body)


class MistakesChecksums(Receiving):
    def is_as_said(self, fields: Headers, said: Headers, body: bytes) -> bool:
        return super().is_as_said(fields, said, body) and "checksum" not in fields


class TakesItOnce(Receiving):
    def keep(self, location: str, content: bytes, headers: Headers) -> None:
        if not self.exists(location):
            super().keep(location, content, headers)


class SignsNoKey(Receiving):
    signed = tuple(name for name in Receiving.signed if name != "path")


class TakesForEver(Receiving):
    signed = tuple(name for name in Receiving.signed if name != "lasts")

    def take_body(self, request: BaseHTTPRequestHandler, body: bytes) -> int:
        request.path = re.sub("lasts=[0-9]+", "lasts=99999", request.path)
        return super().take_body(request, body)


class LastsForMinutesOnly(Receiving):
    presign_limit = timedelta(minutes=15)


class CutsForms(Receiving):
    def take_form(self, request: BaseHTTPRequestHandler, body: bytes) -> int:
        return super().take_form(request, body.replace(b"9\r\n--", b"\r\n--"))


class TakesFormsOfAnyLength(Receiving):
    def presign_post(self, location: str, *, max_size: int, min_size: int = 0, **asked: Any) -> SignedRequest:
        return super().presign_post(location, max_size=2 * max_size, min_size=0, **asked)


class LeadsNowhere(Receiving):
    def presign_post(self, location: str, *, redirect: str | None = None, **asked: Any) -> SignedRequest:
        return super().presign_post(location, **asked)


class TakesAnyForm(Receiving):
    def is_form_as_said(self, fields: Headers, policy: Mapping[str, Any]) -> bool:
        return True


class TakesFormsForEver(Receiving):
    def is_due(self, policy: Mapping[str, Any]) -> bool:
        return True


class JoinsPartsAsTheyCame(Receiving):
    def join_parts(self, location: str, upload: str) -> None:
        parts = self.parts_of(location, upload)
        self.keep(location, b"".join(parts.values()), self.parts.pop(upload)[2])


class ShowsPartsBeforeTheyAreJoined(Receiving):
    def take_body(self, request: BaseHTTPRequestHandler, body: bytes) -> int:
        status = super().take_body(request, body)
        for location, parts, _ in self.parts.values():
            self.overwrite(location, b"".join(parts.values()))
        return status


class RemembersJoinedParts(Receiving):
    def join_parts(self, location: str, upload: str) -> None:
        kept = self.parts[upload]
        super().join_parts(location, upload)
        self.parts[upload] = kept


class DiscardsJoinedParts(Receiving):
    def discard_parts(self, location: str, upload: str | None = None) -> None:
        super().discard_parts(location)
        self.delete(location)


class KeepsDiscardedParts(Receiving):
    def discard_parts(self, location: str, upload: str | None = None) -> None: ...


class DiscardsEveryonesParts(Receiving):
    def discard_parts(self, location: str, upload: str | None = None) -> None:
        self.parts = {}


class ClearsWhatIsStillSent(Receiving):
    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        return super().clear_unfinished(older_than)


class ClearsNothingOfOthers(Receiving):
    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        return 0


class CopiesWhatOthersSaid(Receiving):
    def copy(self, source: str, target: str, *, options: WriteOptions = NO_OPTIONS) -> None:
        super().copy(source, target, options=options)
        self.described[target] = {**self.described[source], **self.described[target]}


class HasOthersStoreUnasked(Broken):
    def presign_put(self, location: str, **asked: Any) -> SignedRequest:
        return SignedRequest("PUT", "https://store.example")
