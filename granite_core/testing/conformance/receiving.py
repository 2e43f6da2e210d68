"""Requests by which others store objects: signed for a while, of one body, of a form, or of parts."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import pytest

from granite_core.backends.base import Capability, SignedRequest, StorageBackend
from granite_core.errors import ConfigurationError, ObjectNotFoundError
from granite_core.keys import DIRECT
from granite_core.options import WriteOptions
from granite_core.testing.conformance.linking import HOUR, fetch, starts
from granite_core.testing.conformance.support import MIB, BackendTests, assert_same, noise

__all__ = ["ReceivingTests", "send"]

KEY: Final = "documents/_/a b+c~ü&x=%41.txt"
PART: Final = 5 * MIB  # what S3 asks of all parts but the last
PDF: Final = "application/pdf"
_SOON: Final = timedelta(seconds=3)
_LATER: Final = timedelta(seconds=-60)
_REFUSED: Final = range(400, 500)


Answer: TypeAlias = tuple[int, Mapping[str, str]]
"""Status and headers."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def send(
    request: SignedRequest, body: bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, Mapping[str, str]]:
    """Send bytes by a request, as a browser would.

    Args:
        request: The request.
        body: The bytes.
        headers: What is sent beside what the request says.
    """
    sent = {"Content-Type": "", **request.headers, **(headers or {})}
    if request.method == "POST":
        body, sent["Content-Type"] = _form(request.fields, body)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    asked = urllib.request.Request(request.url, data=body, headers=sent, method=request.method)
    try:
        with opener.open(asked, timeout=30) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
        return 400, {}  # who refuses a body may hang up on it


def _form(fields: Mapping[str, str], body: bytes) -> tuple[bytes, str]:
    boundary = sha256(body).hexdigest()
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}' for name, text in fields.items()]
    parts.append('Content-Disposition: form-data; name="file"; filename="a.bin"\r\nContent-Type: text/plain\r\n\r\n')
    head = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts)[:-2]
    return head.encode() + body + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


class ReceivingTests(BackendTests):
    """``presign_put``, ``presign_post``, and the parts of ``presign_part``."""

    def put(self, backend: StorageBackend, size: int, **asked: Any) -> SignedRequest:
        self.needs(backend, Capability.PRESIGNED_PUT)
        return backend.presign_put(KEY, **{"starts": starts(), "expires_in": HOUR, "size": size, **asked})

    def form(self, backend: StorageBackend, **asked: Any) -> SignedRequest:
        self.needs(backend, Capability.PRESIGNED_POST)
        return backend.presign_post(
            KEY, **{"starts": starts(), "expires_in": HOUR, "min_size": 4, "max_size": 10, **asked}
        )

    def part(self, backend: StorageBackend, upload: str, number: int, size: int, **asked: Any) -> SignedRequest:
        return backend.presign_part(
            KEY, upload, number, **{"starts": starts(), "expires_in": HOUR, "size": size, **asked}
        )

    def headers_of(self, backend: StorageBackend, key: str) -> Mapping[str, str]:
        """Return the headers with which the store gives an object."""
        self.needs(backend, Capability.PRESIGNED_GET)
        status, _, headers = fetch(backend.presign_get(key, starts=starts(), expires_in=HOUR))
        assert status == 200
        return headers

    # -- one body

    def test_a_signed_put_stores_the_object(self, backend: StorageBackend) -> None:
        for content in (b"0123456789", b""):
            request = self.put(backend, len(content), content_type=PDF)
            assert request.method == "PUT"
            assert send(request, content)[0] in range(200, 300)
            assert backend.get(KEY) == content
        assert self.keys(backend) == [KEY]
        assert self.headers_of(backend, KEY).get("content-type") == PDF

    def test_a_signed_put_takes_no_other_length(self, backend: StorageBackend) -> None:
        request = self.put(backend, 10)
        for content in (b"012345678", b"0123456789a", b""):
            assert send(request, content)[0] in _REFUSED
            assert not backend.exists(KEY)

    def test_a_signed_put_takes_no_other_type(self, backend: StorageBackend) -> None:
        request = self.put(backend, 10, content_type=PDF)
        assert send(request, b"0123456789", {"Content-Type": "text/html"})[0] in _REFUSED
        assert not backend.exists(KEY)

    def test_a_signed_put_with_a_checksum_takes_what_has_it(self, backend: StorageBackend) -> None:
        checksum = sha256(b"0123456789").hexdigest()
        request = self.put(backend, 10, checksum=f"sha256:{checksum}")
        assert send(request, b"0123456789")[0] in range(200, 300)
        said = {name.lower(): text for name, text in request.headers.items()}
        other = b64encode(sha256(b"other").digest()).decode()
        for name in [each for each in said if "sha256" in each]:  # how a store is told is its own affair
            assert send(request, b"0123456789", {name: other})[0] in _REFUSED

    def test_a_signed_put_may_be_sent_again(self, backend: StorageBackend) -> None:
        request = self.put(backend, 10)
        for content in (b"0123456789", b"abcdefghij"):
            assert send(request, content)[0] in range(200, 300)
        assert backend.get(KEY) == b"abcdefghij"

    def test_nothing_of_a_signed_put_can_be_changed(self, backend: StorageBackend) -> None:
        request = self.put(backend, 10)
        last = request.url[-1]
        for before, after in ((quote(KEY), "documents/_/other.txt"), ("3600", "36000"), (last, "01"[last == "0"])):
            head, found, tail = request.url.rpartition(before)
            assert found
            assert send(replace(request, url=head + after + tail), b"0123456789")[0] in _REFUSED, (before, after)
        assert self.keys(backend) == []
        assert fetch(request.url)[0] in _REFUSED

    def test_a_signed_put_ends(self, backend: StorageBackend) -> None:
        began = starts()
        lasts = timedelta(seconds=int(time.time() - began.timestamp())) + _SOON
        request = self.put(backend, 10, starts=began, expires_in=lasts)
        assert send(request, b"0123456789")[0] in range(200, 300)
        time.sleep(_SOON.total_seconds() + 1)
        assert send(request, b"abcdefghij")[0] in _REFUSED
        assert backend.get(KEY) == b"0123456789"

    def test_signed_requests_may_be_good_for_some_time(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.PRESIGNED_PUT)
        assert backend.presign_limit >= HOUR
        assert backend.put_limit >= 5 * MIB

    # -- a form

    def test_a_signed_form_stores_the_object(self, backend: StorageBackend) -> None:
        request = self.form(backend, content_type=PDF)
        assert request.method == "POST"
        assert send(request, b"0123456789")[0] == 204
        assert backend.get(KEY) == b"0123456789"
        assert self.keys(backend) == [KEY]
        assert self.headers_of(backend, KEY).get("content-type") == PDF

    def test_a_signed_form_takes_no_less_and_no_more(self, backend: StorageBackend) -> None:
        request = self.form(backend)
        for content in (b"012", b"0123456789a"):
            assert send(request, content)[0] in _REFUSED
            assert not backend.exists(KEY)
        for content in (b"0123", b"0123456789"):
            assert send(request, content)[0] == 204
            assert backend.get(KEY) == content

    def test_a_signed_form_leads_on(self, backend: StorageBackend) -> None:
        status, headers = send(self.form(backend, redirect="http://pages.example/done?a=b"), b"0123456789")
        assert status == 303
        assert headers["location"].startswith("http://pages.example/done?a=b")
        assert backend.get(KEY) == b"0123456789"

    def test_nothing_of_a_signed_form_can_be_changed(self, backend: StorageBackend) -> None:
        request = self.form(backend, content_type=PDF)
        changed = [name for name, text in request.fields.items() if text in (KEY, PDF) or text.endswith(f"/{KEY}")]
        assert len(changed) == 2
        for name in changed:
            fields = {**request.fields, name: request.fields[name][:-1] + "x"}
            assert send(replace(request, fields=fields), b"0123456789")[0] in _REFUSED, name
        more = {**request.fields, "Content-Encoding": "gzip"}
        assert send(replace(request, fields=more), b"0123456789")[0] in _REFUSED
        assert self.keys(backend) == []

    def test_a_signed_form_ends(self, backend: StorageBackend) -> None:
        began = starts() - timedelta(minutes=5)
        assert send(self.form(backend, starts=began, expires_in=timedelta(minutes=5)), b"0123456789")[0] in _REFUSED
        assert not backend.exists(KEY)

    # -- parts

    def test_parts_are_joined_in_the_order_of_their_numbers(self, backend: StorageBackend) -> None:
        content = noise(PART + 10)
        upload = self.begin(backend)
        assert dict(backend.list_parts(KEY, upload)) == {}
        for number, data in ((2, content[PART:]), (1, bytes(PART)), (1, content[:PART])):  # one of them twice
            assert send(self.part(backend, upload, number, len(data)), data)[0] in range(200, 300)
        assert list(backend.list_parts(KEY, upload).items()) == [(1, PART), (2, 10)]
        assert not backend.exists(KEY)
        backend.join_parts(KEY, upload)
        assert_same(backend.get(KEY), content)
        assert self.keys(backend) == [KEY]
        assert self.headers_of(backend, KEY).get("content-type") == PDF

    def test_a_signed_part_takes_nothing_else(self, backend: StorageBackend) -> None:
        upload = self.begin(backend)
        request = self.part(backend, upload, 1, 10)
        assert send(request, b"0123456789a")[0] in _REFUSED
        other = replace(request, url=request.url.replace("partNumber=1", "partNumber=2"))
        if other != request:
            assert send(other, b"0123456789")[0] in _REFUSED
        late = self.part(backend, upload, 1, 10, starts=starts() - HOUR, expires_in=timedelta(minutes=5))
        assert send(late, b"0123456789")[0] in _REFUSED
        assert dict(backend.list_parts(KEY, upload)) == {}
        backend.discard_parts(KEY)

    def test_joined_parts_are_no_parts_any_more(self, backend: StorageBackend) -> None:
        upload = self.begin(backend)
        assert send(self.part(backend, upload, 1, 10), b"0123456789")[0] in range(200, 300)
        backend.join_parts(KEY, upload)
        with pytest.raises(ObjectNotFoundError):
            backend.list_parts(KEY, upload)
        backend.discard_parts(KEY)
        assert backend.get(KEY) == b"0123456789"

    def test_nothing_remains_of_parts_that_are_discarded(self, backend: StorageBackend) -> None:
        upload, kept = self.begin(backend), backend.begin_parts(f"{KEY}.2")
        request = self.part(backend, upload, 1, 10)
        assert send(request, b"0123456789")[0] in range(200, 300)
        for _ in range(2):
            backend.discard_parts(KEY)
        assert dict(backend.list_parts(f"{KEY}.2", kept)) == {}, "of another key's parts nothing goes"
        backend.discard_parts(f"{KEY}.2")
        for call in (backend.list_parts, backend.join_parts):
            with pytest.raises(ObjectNotFoundError):
                call(KEY, upload)
        assert send(request, b"0123456789")[0] in _REFUSED
        assert self.keys(backend) == []

    # -- what all have in common

    def test_clearing_keeps_what_clients_may_still_send(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.PRESIGNED_PUT)
        for name in ("kept", "old"):
            backend.put_bytes(DIRECT + name, b"0123456789")
        backend.put_bytes("a/b", b"abc")
        assert backend.clear_unfinished(timedelta(days=1)) == 0
        assert backend.clear_unfinished(_LATER, keep={f"{DIRECT}kept"}) == 1
        assert backend.clear_unfinished(_LATER, keep={f"{DIRECT}kept"}) == 0
        assert backend.get(f"{DIRECT}kept") == b"0123456789"
        assert not backend.exists(f"{DIRECT}old")
        assert self.keys(backend) == ["a/b"]

    def test_clearing_keeps_parts_that_may_still_come(self, backend: StorageBackend) -> None:
        old, kept = self.begin(backend), backend.begin_parts(f"{DIRECT}kept")
        assert backend.clear_unfinished(timedelta(days=1)) == 0
        backend.clear_unfinished(_LATER, keep={f"{DIRECT}kept"})
        assert dict(backend.list_parts(f"{DIRECT}kept", kept)) == {}
        with pytest.raises(ObjectNotFoundError):
            backend.list_parts(KEY, old)
        backend.discard_parts(f"{DIRECT}kept")

    def test_a_copy_that_is_described_anew_takes_over_the_bytes_alone(self, backend: StorageBackend) -> None:
        others = {"Content-Language": "tlh", "Content-Disposition": "inline"}
        for number, kind in enumerate(("text/html", PDF)):
            request = self.put(backend, 10, content_type=kind)
            assert send(request, b"0123456789", others)[0] in range(200, 300)
            target = f"a/copy-{number}"
            backend.copy(KEY, target, options=WriteOptions(content_type=PDF))
            assert backend.get(target) == b"0123456789"
            found = self.headers_of(backend, target)
            assert found.get("content-type") == PDF
            assert not {"content-language", "content-disposition"} & set(found)

    def test_without_the_capability_others_store_nothing(self, backend: StorageBackend) -> None:
        asked: dict[str, Any] = {"starts": starts(), "expires_in": HOUR}
        calls: dict[Capability, Callable[[], object]] = {
            Capability.PRESIGNED_PUT: lambda: backend.presign_put(KEY, size=1, **asked),
            Capability.PRESIGNED_POST: lambda: backend.presign_post(KEY, max_size=1, **asked),
            Capability.PRESIGNED_PARTS: lambda: backend.begin_parts(KEY),
        }
        missing = [call for capability, call in calls.items() if capability not in backend.capabilities]
        if not missing:
            pytest.skip("the backend claims them all")
        for call in missing:
            with pytest.raises(ConfigurationError):
                call()

    def begin(self, backend: StorageBackend) -> str:
        """Begin an object of parts."""
        self.needs(backend, Capability.PRESIGNED_PARTS)
        return backend.begin_parts(KEY, content_type=PDF)
