"""Events: what the manager's verbs tell, who hears of it, and what a log line says and keeps to itself."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from granite_core import (
    AsyncStorageManager,
    BackendError,
    BackendUnavailableError,
    Candidate,
    ChecksumMismatchError,
    ContentTooLargeError,
    ContentTypeNotAllowedError,
    InvalidKeyError,
    LocalStorageBackend,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    ValidationFailedError,
)
from granite_core.events import Collected, Deleted, Event, EventHub, Refused, Released, Served, Stored, object_id
from granite_core.logs import LogWriter, describe_error, exc_info_of, extra_of
from granite_core.testing.faults import FaultyBackend


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def manager(heard: list[Event]) -> StorageManager:
    return StorageManager(
        {"main": FaultyBackend(MemoryStorageBackend()), "other": MemoryStorageBackend()},
        [
            StoragePolicy("docs", "main", max_size=10),
            StoragePolicy("texts", "other", content_types=["text/plain"]),
        ],
        listeners=[heard.append],
    )


# -- what the manager tells --------------------------------------------------------------------------------------------


def test_storing_tells_of_the_object_by_its_id(manager: StorageManager, heard: list[Event]) -> None:
    ref = manager.put_bytes("docs", content=b"hello", original_filename="a.txt")
    [event] = heard
    assert isinstance(event, Stored)
    assert (event.object_id, event.storage_key, event.backend_key) == (object_id(ref.location), "docs", "main")
    assert (event.size, event.content_type, event.copied) == (5, "text/plain", False)
    assert 0 < event.seconds < 60


async def test_asynchronous_verbs_tell_the_same(manager: StorageManager, heard: list[Event]) -> None:
    files = AsyncStorageManager(manager)
    ref = await files.put_bytes("docs", content=b"hello")
    async with files.stage("docs") as write:
        await write.write(b"abc")
        staged = await write.commit()
    await files.discard(staged)
    await files.delete(ref)
    assert [type(each) for each in heard] == [Stored, Stored, Deleted, Deleted]


@pytest.mark.parametrize("policy", ["docs", "texts"])
def test_a_copy_is_stored_once_however_it_is_made(manager: StorageManager, heard: list[Event], policy: str) -> None:
    ref = manager.put_bytes("docs", content=b"hello")
    heard.clear()
    copy = manager.copy(ref, policy)
    [event] = heard
    assert isinstance(event, Stored)
    assert event.object_id == object_id(copy.location) != object_id(ref.location)
    assert event.copied is (policy == "docs")  # the other one is in another store: read and written


def test_what_fails_is_not_stored(manager: StorageManager, heard: list[Event]) -> None:
    backend: Any = manager.get_backend("main")
    backend.fail("commit")
    with pytest.raises(BackendUnavailableError):
        manager.put_bytes("docs", content=b"hello")
    assert heard == []


def test_deleting_tells_why(manager: StorageManager, heard: list[Event]) -> None:
    gone = manager.put_bytes("docs", content=b"hello")
    unused = manager.put_bytes("docs", content=b"hi")
    heard.clear()
    manager.delete(gone)
    manager.discard(unused)
    manager.discard(unused)
    assert heard == [
        Deleted(**manager.name_of(gone), reason="deleted", size=5),
        Deleted(**manager.name_of(unused), reason="discarded", size=2),
    ]


def test_a_delete_that_fails_tells_nothing(manager: StorageManager, heard: list[Event]) -> None:
    ref = manager.put_bytes("docs", content=b"hello")
    backend: Any = manager.get_backend("main")
    backend.fail("delete")
    heard.clear()
    with pytest.raises(BackendUnavailableError):
        manager.delete(ref)
    assert heard == []


@pytest.mark.parametrize("way", ["announced", "bytes", "stream"])
def test_too_much_is_refused_once(manager: StorageManager, heard: list[Event], way: str) -> None:
    with pytest.raises(ContentTooLargeError):
        if way == "announced":
            manager.stage("docs", field="file", expected_size=11)
        elif way == "bytes":
            manager.put_bytes("docs", content=b"x" * 11)
        else:
            manager.put_stream("docs", stream=io.BytesIO(b"x" * 11))
    field = "file" if way == "announced" else "docs"
    assert heard == [Refused(storage_key="docs", field=field, code="content_too_large", limit=10, value=11)]


async def test_a_type_is_refused_once_in_either_colour(manager: StorageManager, heard: list[Event]) -> None:
    with pytest.raises(ContentTypeNotAllowedError):
        manager.put_bytes("texts", content=b"%PDF-1.7\n")
    with pytest.raises(ContentTypeNotAllowedError):
        await AsyncStorageManager(manager).put_bytes("texts", content=b"%PDF-1.7\n")
    pdf = manager.put_bytes("docs", content=b"%PDF-1.7\n")
    with pytest.raises(ContentTypeNotAllowedError):
        manager.copy(pdf, "texts")
    refused = [each for each in heard if isinstance(each, Refused)]
    wanted = Refused(
        storage_key="texts",
        field="texts",
        code="content_type_not_allowed",
        limit="text/plain",
        value="application/pdf",
    )
    assert refused == [wanted] * 3


def test_an_announced_checksum_that_differs_is_a_refusal(manager: StorageManager, heard: list[Event]) -> None:
    with (
        pytest.raises(ChecksumMismatchError),
        manager.stage("docs", checksum="sha256:" + "0" * 64) as write,
    ):
        write.write(b"x")
        write.commit()
    [event] = heard
    assert isinstance(event, Refused)
    assert event.code == "checksum_mismatch"


def test_what_a_client_named_cannot_break_a_line(manager: StorageManager, heard: list[Event]) -> None:
    error = ContentTooLargeError("x", field="a\r\nGET / 200\x1b[31m\u202e" + "b" * 1000, value="\n")
    manager.events.refused(error)
    manager.events.refused(error)
    [event] = heard
    assert isinstance(event, Refused)
    assert event.field is not None
    assert event.field.isprintable()
    assert len(event.field) < 320
    assert str(event.value).isprintable()


# -- who hears of it ---------------------------------------------------------------------------------------------------


def test_a_listener_chooses_its_events_and_can_leave(manager: StorageManager) -> None:
    stored: list[Event] = []
    stop = manager.listen(stored.append, Stored)
    ref = manager.put_bytes("docs", content=b"hello")
    manager.delete(ref)
    assert [type(each) for each in stored] == [Stored]
    stop()
    stop()
    manager.put_bytes("docs", content=b"hello")
    assert len(stored) == 1


def test_a_listener_that_fails_harms_nobody(
    manager: StorageManager, heard: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("a bug")

    later: list[Event] = []
    manager.listen(fail)
    manager.listen(later.append)
    ref = manager.put_bytes("docs", content=b"hello")
    assert manager.get(ref) == b"hello"
    assert later == heard
    [record] = [each for each in caplog.records if each.name == "granite.events"]
    assert "'stored'" in record.getMessage()
    assert record.levelno == logging.ERROR


def test_a_listener_may_listen_and_leave_while_it_is_told(manager: StorageManager) -> None:
    seen: list[Event] = []

    def once(event: Event) -> None:
        stop()
        manager.listen(seen.append)

    stop = manager.listen(once)
    for _ in range(2):
        manager.put_bytes("docs", content=b"hello")
    assert len(seen) == 1


def test_nothing_is_made_where_nobody_listens() -> None:
    hub = EventHub(log=LogWriter())
    logger = logging.getLogger("granite")
    before = logger.level
    try:
        logger.setLevel(logging.WARNING)
        assert not hub.wanted(Stored)
        assert not hub.wanted(Deleted)
        assert hub.wanted(Served)  # a missing object is an error
        logger.setLevel(logging.DEBUG)
        assert hub.wanted(Stored)
    finally:
        logger.setLevel(before)
    hub.listen(lambda event: None, Stored)
    assert hub.wanted(Stored)
    assert not EventHub().wanted(Stored)


# -- what is written down ----------------------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "granite"):
        yield caplog


def test_each_kind_has_a_logger_and_its_fields_are_data(lines: pytest.LogCaptureFixture) -> None:
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("docs", "main", max_size=10)])
    ref = manager.put_bytes("docs", content=b"hello")
    manager.delete(ref)
    with pytest.raises(ContentTooLargeError):
        manager.put_bytes("docs", content=b"x" * 11)
    assert [(each.name, each.levelname) for each in lines.records] == [
        ("granite.stored", "DEBUG"),
        ("granite.deleted", "INFO"),
        ("granite.refused", "INFO"),
    ]
    stored: Any = lines.records[0]
    assert (stored.event, stored.object_id, stored.size) == ("stored", object_id(ref.location), 5)
    assert object_id(ref.location) in stored.getMessage()
    json.dumps([{key: value for key, value in vars(each).items() if key != "args"} for each in lines.records])


EVENTS: list[Event] = [
    Served(
        object_id="1",
        storage_key="docs",
        backend_key="main",
        method="GET",
        status=206,
        size=9,
        sent=3,
        seconds=0.1,
        complete=False,
    ),
    Released(object_id="1", storage_key="docs", backend_key="main", size=1, field="document.file"),
    Collected(kind="sweep", dry_run=False, seconds=1.0, deleted=3, failed=1),
    Collected(kind="sweep", dry_run=True, seconds=1.0, skipped="the lease is held by x"),
    Collected(kind="reconcile", dry_run=False, seconds=1.0, listed=10, noted=2),
    Collected(kind="reconcile", dry_run=False, seconds=1.0, error="RuntimeError", cause=RuntimeError("a bug")),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: f"{event.name}-{EVENTS.index(event)}")
def test_every_event_has_a_line(event: Event, lines: pytest.LogCaptureFixture) -> None:
    LogWriter().write(event)
    [record] = lines.records
    assert record.name == f"granite.{event.name}"
    assert (record.levelno == logging.ERROR) == (getattr(event, "cause", None) is not None)


SECRET = "prefix/_/abcdefghijklmnop é.pdf"


def test_an_error_is_told_without_the_key_it_is_about() -> None:
    assert SECRET not in describe_error(BackendError(f"lost {SECRET!r}", location=SECRET))
    assert SECRET not in describe_error(InvalidKeyError(f"no key: {SECRET}", value=SECRET))
    assert SECRET not in describe_error(ValueError(f"at {SECRET}"), SECRET)
    assert "cannot reach it" in describe_error(BackendError("cannot reach it", location=SECRET))
    assert describe_error(OSError(13, "Permission denied", "/srv/files")) == "[Errno 13] Permission denied"
    assert describe_error(ValueError("a\nb")).isprintable()


def test_a_stack_is_told_with_all_causes_and_without_their_data(lines: pytest.LogCaptureFixture) -> None:
    def opening() -> None:
        raise PermissionError(13, "Permission denied", f"/srv/files/{SECRET}")

    def asking() -> None:
        try:
            opening()
        except OSError:
            raise ConnectionResetError(f"no answer from https://bucket/{quote(SECRET)}") from None

    try:
        try:
            opening()
        except OSError as error:
            raise BackendError(f"open: {SECRET}", location=SECRET) from error
    except BackendError as error:
        logging.getLogger("granite.test").error("x", exc_info=exc_info_of(error))
    try:
        try:
            asking()
        except OSError as error:
            raise BackendUnavailableError("open", location=SECRET) from error
    except BackendError as error:
        logging.getLogger("granite.test").error("x", exc_info=exc_info_of(error))
    text = lines.text
    assert "abcdefghijklmnop" not in text
    assert "/srv" not in text.replace('raise PermissionError(13, "Permission denied", f"/srv', "")  # the source itself
    assert "PermissionError: [Errno 13] Permission denied" in text
    assert "granite_core.errors.BackendError: open: …" in text
    assert "in opening" in text
    assert "in asking" in text


def test_a_local_folder_that_is_gone_is_told_without_its_path(tmp_path: Path) -> None:
    root = tmp_path / "files"
    backend = LocalStorageBackend(root)
    manager = StorageManager({"main": backend}, [StoragePolicy("docs")])
    manager.put_bytes("docs", content=b"x")
    root.rename(tmp_path / "away")
    with pytest.raises(BackendError) as caught:
        manager.put_bytes("docs", content=b"x")
    assert str(tmp_path) not in str(caught.value)


def test_extra_names_an_object_by_its_id(manager: StorageManager) -> None:
    ref = manager.put_bytes("docs", content=b"x")
    assert extra_of(ref, event="seen") == {**manager.name_of(ref), "event": "seen"}


# -- from an id to its object ------------------------------------------------------------------------------------------


def test_the_object_of_an_id_is_found_in_any_backend(manager: StorageManager) -> None:
    manager.put_bytes("docs", content=b"hello")
    text = manager.put_bytes("texts", content=b"hello")
    assert manager.find_object(object_id(text.location)) == ("other", text.location)
    manager.delete(text)
    assert manager.find_object(object_id(text.location)) is None


def test_the_clock_of_the_manager_is_no_matter_for_durations(heard: list[Event]) -> None:
    moments = iter(datetime(2030, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(10))
    manager = StorageManager(
        {"main": MemoryStorageBackend()}, [StoragePolicy("docs")], now=lambda: next(moments), listeners=[heard.append]
    )
    manager.put_bytes("docs", content=b"x")
    [event] = heard
    assert isinstance(event, Stored)
    assert event.seconds < 60


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_what_a_validator_refuses_was_stored_and_is_let_go(heard: list[Event], colour: str) -> None:
    def refuse(candidate: Candidate) -> None:
        raise ValueError("not this one")

    manager = StorageManager(
        {"main": MemoryStorageBackend()}, [StoragePolicy("docs", validators=[refuse])], listeners=[heard.append]
    )
    with pytest.raises(ValidationFailedError):
        if colour == "sync":
            manager.put_bytes("docs", content=b"x")
        else:
            await AsyncStorageManager(manager).put_bytes("docs", content=b"x")
    stored, refused, deleted = heard
    assert isinstance(stored, Stored)
    assert refused == Refused(storage_key="docs", field="docs", code="validation_failed")
    assert isinstance(deleted, Deleted)
    assert (deleted.object_id, deleted.reason) == (stored.object_id, "discarded")
