"""Addresses under which the store itself gives objects: signed for a while, or for everybody."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from granite_core.backends.base import Capability, StorageBackend
from granite_core.errors import ConfigurationError
from granite_core.testing.conformance.support import BackendTests

__all__ = ["LinkingTests"]

HOUR = timedelta(hours=1)
KEY = "documents/_/a b+c~ü&x=%41.txt"


def starts() -> datetime:
    """The beginning of this minute, and a minute before that, so that clocks may differ a little."""
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=1)


def fetch(address: str, method: str = "GET") -> tuple[int, bytes, Mapping[str, str]]:
    """Ask for an address without proxies; an error's status is an answer too."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(address, method=method), timeout=30) as answer:
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), {}


class LinkingTests(BackendTests):
    """``presign_get`` and ``public_address``."""

    def presigned(self, backend: StorageBackend, **request: Any) -> str:
        self.needs(backend, Capability.PRESIGNED_GET)
        if not backend.exists(KEY):
            backend.put_bytes(KEY, b"0123456789", content_type="text/html")
        return backend.presign_get(KEY, **{"starts": starts(), "expires_in": HOUR, **request})

    def test_a_presigned_address_gives_the_object(self, backend: StorageBackend) -> None:
        status, body, _ = fetch(self.presigned(backend))
        assert (status, body) == (200, b"0123456789")

    def test_a_presigned_address_gives_the_headers_that_were_asked_for(self, backend: StorageBackend) -> None:
        disposition = "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"
        began = starts()
        address = self.presigned(
            backend,
            starts=began,
            content_type="text/plain; charset=utf-8",
            content_disposition=disposition,
            cache_control="private, immutable",
        )
        _, _, headers = fetch(address)
        assert headers.get("content-type") == "text/plain; charset=utf-8"
        assert headers.get("content-disposition") == disposition
        assert headers.get("cache-control") == "private, immutable"
        assert headers.get("expires") == (began + HOUR).strftime("%a, %d %b %Y %H:%M:%S GMT")

    def test_a_presigned_address_for_head_tells_the_length(self, backend: StorageBackend) -> None:
        status, body, headers = fetch(self.presigned(backend, method="HEAD"), "HEAD")
        assert (status, body, headers.get("content-length")) == (200, b"", "10")

    def test_a_presigned_address_is_good_for_its_method_only(self, backend: StorageBackend) -> None:
        assert fetch(self.presigned(backend, method="HEAD"))[0] == 403

    def test_the_same_presigned_address_comes_out_twice(self, backend: StorageBackend) -> None:
        began = starts()
        addresses = {self.presigned(backend, starts=began, content_type="text/plain") for _ in range(2)}
        assert len(addresses) == 1

    def test_nothing_of_a_presigned_address_can_be_changed(self, backend: StorageBackend) -> None:
        backend.put_bytes("documents/_/other.txt", b"other")
        address = self.presigned(backend, content_disposition="attachment")
        assert fetch(address)[0] == 200
        for before, after in (
            (quote(KEY), "documents/_/other.txt"),
            ("attachment", "inline"),
            ("3600", "36000"),
            (address[-1], "0" if address[-1] != "0" else "1"),
        ):
            head, found, tail = address.rpartition(before)
            assert found
            assert fetch(head + after + tail)[0] == 403, (before, after)

    def test_a_presigned_address_ends(self, backend: StorageBackend) -> None:
        began = starts() - timedelta(minutes=5)
        address = self.presigned(backend, starts=began, expires_in=timedelta(minutes=5))
        assert fetch(address)[0] == 403
        left = timedelta(seconds=int((datetime.now(UTC) - began).total_seconds()) + 3)
        address = self.presigned(backend, starts=began, expires_in=left)
        assert fetch(address)[0] == 200
        time.sleep(4)
        assert fetch(address)[0] == 403

    def test_a_presigned_address_says_when_its_object_is_gone(self, backend: StorageBackend) -> None:
        address = self.presigned(backend)
        backend.delete(KEY)
        assert fetch(address)[0] == 404

    def test_presigned_addresses_may_be_good_for_some_time(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.PRESIGNED_GET)
        assert backend.presign_limit >= HOUR

    def test_without_the_capability_nothing_is_presigned(self, backend: StorageBackend) -> None:
        if Capability.PRESIGNED_GET in backend.capabilities:
            pytest.skip("the backend claims presigned-get")
        with pytest.raises(ConfigurationError):
            backend.presign_get(KEY, starts=starts(), expires_in=HOUR)

    def test_a_public_address_is_there_where_it_is_claimed(self, backend: StorageBackend) -> None:
        address = backend.public_address(KEY)
        if Capability.PUBLIC_ADDRESS in backend.capabilities:
            assert address is not None
            assert address.startswith(("http://", "https://"))
            assert address == backend.public_address(KEY)
        else:
            assert address is None
