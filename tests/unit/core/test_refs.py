"""StoredObjectRef is an immutable receipt; StagedFile is let go or used, never both."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from granite_core import MemoryStorageBackend, StagedFile, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.refs import unread_list, unread_ref

REF = StoredObjectRef(
    "documents", "main", "docs/_/abc.pdf", 5, "sha256:00", "application/pdf", "a.pdf", "2026-01-01T00:00:00Z"
)
TEXT = st.text(st.characters(codec="utf-8"))


def test_it_is_immutable() -> None:
    with pytest.raises(AttributeError):
        REF.size = 6
    with pytest.raises(AttributeError):
        del REF.size
    assert copy.deepcopy(REF) is REF


def test_it_equals_and_hashes_by_backend_and_location() -> None:
    same = StoredObjectRef("other", "main", "docs/_/abc.pdf", 9)
    assert same == REF
    assert len({same, REF}) == 1
    assert StoredObjectRef("documents", "cold", REF.location, 5) != REF
    assert REF != "docs/_/abc.pdf"


def test_its_repr_shows_no_key() -> None:
    assert "docs/_/abc" not in repr(REF)


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.to_builtins])
def test_no_serialiser_takes_it_apart_by_itself(encode: Any) -> None:
    with pytest.raises(TypeError):
        encode(REF)


@given(
    st.builds(
        StoredObjectRef,
        TEXT,
        TEXT,
        TEXT,
        st.integers(0, 2**60),
        TEXT,
        st.none() | TEXT,
        st.none() | TEXT,
        st.none() | TEXT,
        st.none() | st.dictionaries(TEXT, st.integers(-(2**50), 2**50) | TEXT),
    )
)
def test_what_is_written_is_read_again(ref: StoredObjectRef) -> None:
    for read in (
        StoredObjectRef.from_dict(ref.to_dict()),
        StoredObjectRef.from_json(ref.to_json()),
        pickle.loads(pickle.dumps(ref)),
    ):
        assert read.to_dict() == ref.to_dict()


def test_unknown_keys_and_absent_optional_ones_are_tolerated() -> None:
    ref = StoredObjectRef.from_dict(
        {"storage_key": "a", "backend": "b", "location": "c", "size": 1, "checksum": None, "bucket": "x", "v": 2}
    )
    assert (ref.checksum, ref.content_type, ref.extra) == ("", None, None)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"storage_key": "a", "backend": "b", "location": 3, "size": 1},
        [],
        "x",
        "legacy_inline_text",
        None,
    ],
)
def test_what_is_no_ref_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        StoredObjectRef.from_dict(data)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a":' * 100_000, '{"extra":{"a":' + "[" * 100_000, "\ud800", b"\xff", "1e999"]
)
def test_text_that_is_no_ref_is_refused(text: str | bytes) -> None:
    for read in (StoredObjectRef.from_json, StoredObjectRef.list_from_json):
        with pytest.raises(ValueError):
            read(text)


def test_a_text_that_a_migration_left_in_a_row_is_a_ref_to_no_object() -> None:
    data = {"legacy_inline_text": "# Grüße"}
    one, other = StoredObjectRef.from_json(msgspec.json.encode(data)), StoredObjectRef.from_dict(data)
    assert one == other != StoredObjectRef.from_dict({"legacy_inline_text": "else"})
    assert (one.location, one.size, one.inline_text) == ("", 9, "# Grüße")
    assert StoredObjectRef.from_dict(one.to_dict()).inline_text == "# Grüße"
    assert REF.inline_text is None
    assert StoredObjectRef.from_dict({**REF.to_dict(), **data}).inline_text is None


@pytest.fixture
def manager() -> StorageManager:
    return StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents", "main")])


def test_a_staged_file_is_let_go_once(manager: StorageManager) -> None:
    staged = manager.put_bytes("documents", content=b"x")
    assert manager.discard(staged)
    assert not manager.discard(staged)
    assert staged.discarded
    assert not manager.exists(staged)
    with pytest.raises(ValueError, match="let go"):
        staged.keep()


async def test_a_kept_file_is_not_let_go_and_keep_may_be_awaited_or_not(manager: StorageManager) -> None:
    first, second = manager.put_bytes("documents", content=b"x"), manager.put_bytes("documents", content=b"y")
    first.keep()
    await second.keep()
    assert not manager.discard(first)
    assert not manager.discard(second)
    assert manager.exists(first)


def test_only_one_of_many_threads_gets_a_staged_file(manager: StorageManager) -> None:
    for _ in range(50):
        staged: StagedFile = manager.put_bytes("documents", content=b"x")
        won: list[str] = []
        barrier = threading.Barrier(2)

        def use(staged: StagedFile = staged, barrier: threading.Barrier = barrier, won: list[str] = won) -> None:
            barrier.wait()
            if staged.mark_used():
                won.append("used")

        def discard(staged: StagedFile = staged, barrier: threading.Barrier = barrier, won: list[str] = won) -> None:
            barrier.wait()
            if staged.discard():
                won.append("discarded")

        threads = [threading.Thread(target=use), threading.Thread(target=discard)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert manager.exists(staged) == (won == ["used"])


def test_a_copy_that_leaves_the_process_is_a_plain_ref(manager: StorageManager) -> None:
    staged = manager.put_bytes("documents", content=b"x")
    other = pickle.loads(pickle.dumps(staged))
    assert type(other) is StoredObjectRef
    assert other == staged


@pytest.mark.parametrize("data", [REF.to_json(), REF.to_json().decode(), REF.to_dict()])
def test_what_was_loaded_is_read_when_it_is_asked_for(data: Any) -> None:
    for use in (
        lambda ref: ref.size == 5,
        lambda ref: ref == REF and hash(ref) == hash(REF),
        lambda ref: ref.to_dict() == REF.to_dict(),
        lambda ref: repr(ref) == repr(REF),
        lambda ref: pickle.loads(pickle.dumps(ref)).to_dict() == REF.to_dict(),
        lambda ref: not hasattr(ref, "path"),
    ):
        assert use(unread_ref(data))
    assert [each.location for each in unread_list(msgspec.json.encode([REF.to_dict()] * 2))] == [REF.location] * 2


@pytest.mark.parametrize("data", ["", "{}", {}, 5, [], '{"extra":' + "[" * 100_000])
def test_what_was_loaded_and_is_no_ref_says_so_each_time_but_not_in_logs(data: Any) -> None:
    ref = unread_ref(data)
    assert repr(ref) == "<StoredObjectRef that cannot be read>"
    for _ in range(2):
        with pytest.raises(ValueError):
            _ = ref.location


def test_a_loaded_ref_is_read_by_many_threads_at_once() -> None:
    for _ in range(300):
        ref = unread_ref(REF.to_json())
        barrier = threading.Barrier(4)
        found: list[object] = []

        def read(ref: StoredObjectRef = ref, barrier: threading.Barrier = barrier, found: list[object] = found) -> None:
            barrier.wait()
            found.append((ref.extra, ref.storage_key, ref.created_at))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [(None, "documents", REF.created_at)] * 4
