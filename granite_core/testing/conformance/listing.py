"""Listing, and the keys that a backend must take."""

from __future__ import annotations

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.keys import validate_key
from granite_core.testing.conformance.support import BackendTests, all_at_once

__all__ = ["ListingTests"]

# In byte order of their UTF-8, which is neither that of folders, nor of UTF-16, nor of any language.
_CANDIDATES = [
    "A/z",
    "a-b",
    "a-b/c",
    "a.txt",
    "a/B",
    "a/b",
    "a/b.txt",
    "a/b/c",
    "a/b0",
    "a0",
    "aa",
    "b/a/x/y/z",
    "doc",
    "doc.txt",
    "doc/1",
    "docs/1",
    "e\u0301",
    "z",
    "~",
    "\u00e9",
    "\ufb00",
    "\U0001d11e",
]
# No file system holds an object and a folder of one name.
SORTED_KEYS = [key for key in _CANDIDATES if not any(other.startswith(f"{key}/") for other in _CANDIDATES)]

ODD_KEYS = [
    "with space",
    " lead and trail ",
    "plus+percent%2Famp&equals=question?hash#semi;colon:comma,at@",
    "quotes'\"`<>|*",
    "brackets[]{}()^$!",
    "...",
    "..a",
    "a..",
    "-rf",
    "%2e%2e/x",
    "con/nul.txt",
    "Case/Same",
    "case/same",
    "e\u0301/decomposed",
    "\u00e9/composed",
    "日本語/ファイル.pdf",
    "עברית",
    "🙂/👩‍👩‍👧.png",
    "\u202ertl",
    "\ufeffbom",
]
LONG_KEYS = [
    "x" * 200,
    "/".join(["y" * 179] * 5),
    "/".join(["z" * 100] * 9)[:900],
    "é" * 100 + "/" + "d/" * 340 + "e",
]


class ListingTests(BackendTests):
    """``list_objects``, and what a key may hold."""

    def test_an_empty_store_lists_nothing(self, backend: StorageBackend) -> None:
        assert self.keys(backend) == []
        assert self.keys(backend, "a/") == []
        assert self.keys(backend, start_after="a") == []

    def test_objects_come_in_byte_order_of_their_keys(self, backend: StorageBackend) -> None:
        for key in sorted(SORTED_KEYS, key=hash):
            backend.put_bytes(key, b"")
        assert sorted(SORTED_KEYS, key=str.encode) == SORTED_KEYS
        assert self.keys(backend) == SORTED_KEYS

    def test_a_prefix_is_a_string_and_no_folder(self, backend: StorageBackend) -> None:
        for key in SORTED_KEYS:
            backend.put_bytes(key, b"")
        prefixes = ["", "a", "a-", "a/", "a/b", "a/b.", "a/b/", "b/a/x", "b/a/x/y/z", "b/a/x/y/z/", "d", "doc", "doc/"]
        for prefix in [*prefixes, "docs/1", "e", "é", "A", "no", "no/", "/", "a//", "../", "."]:
            assert self.keys(backend, prefix) == [key for key in SORTED_KEYS if key.startswith(prefix)], prefix

    def test_a_listing_can_be_resumed_after_any_key(self, backend: StorageBackend) -> None:
        for key in SORTED_KEYS:
            backend.put_bytes(key, b"")
        for start in [*SORTED_KEYS, "a", "a/", "a/b/", "a/b/\U0010ffff", "b/a/x/y", "doc.", "doc/", "\U0010ffff", "0"]:
            expected = [key for key in SORTED_KEYS if key.encode() > start.encode()]
            assert self.keys(backend, start_after=start) == expected, start

    def test_prefix_and_start_work_together(self, backend: StorageBackend) -> None:
        for key in SORTED_KEYS:
            backend.put_bytes(key, b"")
        for prefix in ("a", "a/", "a/b", "doc", "b/a/"):
            for start in [*SORTED_KEYS, "a/", "a/b/", "docs"]:
                expected = [key for key in SORTED_KEYS if key.startswith(prefix) and key.encode() > start.encode()]
                assert self.keys(backend, prefix, start) == expected, (prefix, start)

    def test_a_listing_tells_what_stat_tells(self, backend: StorageBackend) -> None:
        for size in (0, 1, 1000):
            backend.put_bytes(f"a/{size}", bytes(size))
        for each in backend.list_objects():
            stat = backend.stat(each.location)
            assert each.size == stat.size == int(each.location[2:])
            assert each.modified.tzinfo is not None
            assert abs((each.modified - stat.modified).total_seconds()) <= 1
            assert each.etag == stat.etag

    def test_more_objects_than_a_page_holds_are_each_listed_once(self, backend: StorageBackend) -> None:
        keys = [f"{number % 7}/{number:06}" for number in range(self.many)]
        all_at_once(lambda number: backend.put_bytes(keys[number], b"x"), self.many)
        assert self.keys(backend) == sorted(keys)
        assert self.keys(backend, "3/") == sorted(key for key in keys if key.startswith("3/"))
        middle = sorted(keys)[self.many // 2]
        assert self.keys(backend, start_after=middle) == sorted(keys)[self.many // 2 + 1 :]
        # Deleting what was listed makes the listing neither skip nor repeat.
        seen = []
        for each in backend.list_objects():
            seen.append(each.location)
            if len(seen) % 50 == 0:
                backend.delete(each.location)
        assert seen == sorted(keys)

    def test_a_listing_may_be_left_half_way(self, backend: StorageBackend) -> None:
        for number in range(10):
            backend.put_bytes(f"a/{number}", b"")
        listing = backend.list_objects()
        assert next(listing).location == "a/0"
        getattr(listing, "close", lambda: None)()
        assert len(self.keys(backend)) == 10

    def test_reserved_keys_can_be_used_and_are_not_listed(self, backend: StorageBackend) -> None:
        backend.put_bytes(".granite-marker", b"mine")
        backend.put_bytes("a/.granite/x", b"mine")
        backend.put_bytes("a/granite", b"x")
        backend.put_bytes("a.granite", b"x")
        assert backend.get(".granite-marker") == backend.get("a/.granite/x") == b"mine"
        assert self.keys(backend) == ["a.granite", "a/granite"]
        assert self.keys(backend, ".granite") == self.keys(backend, "a/.granite/") == []
        backend.delete(".granite-marker")
        assert not backend.exists(".granite-marker")

    @pytest.mark.parametrize("key", [*ODD_KEYS, *LONG_KEYS])
    def test_any_valid_key_is_taken(self, backend: StorageBackend, key: str) -> None:
        validate_key(key)
        content = key.encode()
        backend.put_bytes(key, content)
        assert backend.get(key) == content
        assert backend.stat(key).location == key
        assert self.keys(backend) == self.keys(backend, key) == self.keys(backend, key[:1]) == [key]
        assert self.keys(backend, start_after=key) == []
        backend.copy(key, "copy")
        assert backend.get("copy") == content
        backend.delete(key)
        assert self.keys(backend) == ["copy"]

    def test_keys_that_look_alike_are_different_objects(self, backend: StorageBackend) -> None:
        keys = sorted({*ODD_KEYS, *(key.upper() for key in ODD_KEYS)})
        for key in keys:
            backend.put_bytes(key, key.encode())
        assert {key: backend.get(key) for key in keys} == {key: key.encode() for key in keys}
        assert self.keys(backend) == sorted(keys, key=str.encode)
