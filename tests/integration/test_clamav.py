"""ClamAV's daemon as a validator: the real one, with a database of one signature, and a hostile stand-in."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from granite_core import (
    AsyncStorageManager,
    BackendUnavailableError,
    ConfigurationError,
    InspectionUnavailableError,
    MemoryStorageBackend,
    StagedFile,
    StorageManager,
    StoragePolicy,
    ValidationFailedError,
)
from granite_core.testing.faults import FaultyBackend
from granite_core.validators import ClamAV
from tests.support.parts import find_program, need
from tests.support.processes import running

MB = 1024 * 1024
BAD = b"not a virus, but called one here\n" * 20_000
LIMIT = 2 * MB
MAX_FILE = MB

both = pytest.mark.parametrize("colour", ["sync", "async"])


class Clinic:
    def __init__(self, **options: Any) -> None:
        self.backend = FaultyBackend(MemoryStorageBackend())
        policy = StoragePolicy("notes", validators=[ClamAV(**options)])
        self.manager = StorageManager({"main": self.backend}, [policy])

    def put(self, colour: str, content: bytes) -> StagedFile:
        if colour == "sync":
            return self.manager.put("notes", content, field="letter")
        return asyncio.run(AsyncStorageManager(self.manager).put("notes", content, field="letter"))

    @property
    def is_empty(self) -> bool:
        return not [*self.backend.iter_locations()]


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a clamd that listens at ``clamd.sock`` and knows one bad file by its hash."""
    need("clamd")
    folder = tmp_path_factory.mktemp("clamd")
    (folder / "db").mkdir()
    (folder / "db" / "ours.hdb").write_text(f"{hashlib.md5(BAD).hexdigest()}:{len(BAD)}:Ours.Test\n")
    lines = ["Foreground yes", f"LocalSocket {folder}/clamd.sock", f"DatabaseDirectory {folder}/db"]
    lines += [f"MaxFileSize {MAX_FILE}", "AlertExceedsMax yes"]
    lines += [f"StreamMaxLength {LIMIT}", "FixStaleSocket yes", "MaxThreads 4", f"TemporaryDirectory {folder}"]
    (folder / "clamd.conf").write_text("\n".join(lines) + "\n")
    argv = [find_program("clamd"), "--config-file", folder / "clamd.conf"]
    with running(argv, log=folder / "log", ready=lambda: answers_ping(folder / "clamd.sock")):
        yield folder


def answers_ping(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(b"zPING\0")
            return connection.recv(10).startswith(b"PONG")
        except OSError:
            return False


@both
def test_a_clean_file_passes_and_an_infected_one_leaves_nothing(clamd: Path, colour: str) -> None:
    clinic = Clinic(address=f"unix:{clamd}/clamd.sock")
    with pytest.raises(ValidationFailedError) as caught:
        clinic.put(colour, BAD)
    error = caught.value
    assert (error.code, error.field, error.value) == ("infected", "letter", "Ours.Test.UNOFFICIAL")
    assert clinic.is_empty
    for clean in (b"", b"hello", BAD[:-1]):
        assert clinic.put(colour, clean).size == len(clean)


@both
def test_a_file_that_is_too_large_for_the_scanner_is_refused_unless_told_otherwise(clamd: Path, colour: str) -> None:
    for when_unavailable in ("refuse", "accept"):
        clinic = Clinic(address=f"unix:{clamd}/clamd.sock", when_unavailable=when_unavailable)
        with pytest.raises(ValidationFailedError) as caught:
            clinic.put(colour, b"x" * (8 * MB))
        assert caught.value.code == "not_scanned"
        assert clinic.is_empty
    lenient = Clinic(address=f"unix:{clamd}/clamd.sock", when_too_large="accept")
    assert lenient.put(colour, b"x" * (8 * MB)).size == 8 * MB


@contextmanager
def pretending(talk: Callable[[socket.socket], object]) -> Iterator[str]:
    """A clamd that behaves as told; for what the real one never does."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                try:
                    talk(connection)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(20)


def drained(answer: bytes) -> Callable[[socket.socket], object]:
    def talk(connection: socket.socket) -> None:
        while (data := connection.recv(65536)) and not data.endswith(bytes(4)):
            pass
        connection.sendall(answer)

    return talk


@both
@pytest.mark.parametrize(
    "talk",
    [
        drained(b""),
        drained(b"stream: something ERROR\0"),
        drained(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        drained(b"x" * 10_000),
        lambda connection: None,
        lambda connection: connection.recv(10**6) and connection.recv(10**6) and threading.Event().wait(1.5),
    ],
    ids=["nothing", "error", "http", "endless", "hangs-up", "silent"],
)
def test_a_scanner_that_is_away_refuses_unless_told_otherwise(colour: str, talk: Any) -> None:
    with pretending(talk) as address:
        clinic = Clinic(address=address, timeout=timedelta(seconds=1))
        with pytest.raises(InspectionUnavailableError) as caught:
            clinic.put(colour, b"hello")
        assert caught.value.retryable
        assert address not in caught.value.public_message
        assert clinic.is_empty
        assert Clinic(address=address, timeout=timedelta(seconds=1), when_unavailable="accept").put(colour, b"hello")


def answering_pings(talk: Callable[[socket.socket], object]) -> Callable[[socket.socket], object]:
    def answer(connection: socket.socket) -> None:
        if connection.recv(10, socket.MSG_PEEK).startswith(b"zPING"):
            connection.sendall(b"PONG\0")
        else:
            talk(connection)

    return answer


@both
@pytest.mark.parametrize(
    "talk",
    [
        lambda connection: connection.recv(100),
        drained(b"stream: something ERROR\0"),
        lambda connection: connection.recv(10**6) and connection.recv(10**6) and threading.Event().wait(1.5),
    ],
    ids=["hangs-up", "error", "silent"],
)
def test_a_scanner_that_is_there_and_has_no_answer_for_a_file_is_not_away(colour: str, talk: Any) -> None:
    with pretending(answering_pings(talk)) as address:
        clinic = Clinic(address=address, timeout=timedelta(seconds=1), when_unavailable="accept")
        with pytest.raises(InspectionUnavailableError):
            clinic.put(colour, b"x" * MB)
        assert clinic.is_empty


@both
def test_what_is_taken_unscanned_is_told(colour: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Clinic(address=f"unix:{tmp_path}/nobody", when_unavailable="accept").put(colour, b"hello")
    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "not_scanned"]
    assert (record.levelname, record.storage_key) == ("WARNING", "notes")  # type: ignore[attr-defined]


@both
def test_what_the_scanner_does_not_look_into_is_too_large_for_it(clamd: Path, colour: str) -> None:
    """Over ``MaxFileSize`` clamd says OK unless told otherwise, and with ``AlertExceedsMax`` that it found a limit."""
    large = b"MZ" + b"x" * (MAX_FILE + 1)
    with pytest.raises(ValidationFailedError) as caught:
        Clinic(address=f"unix:{clamd}/clamd.sock").put(colour, large)
    assert caught.value.code == "not_scanned"
    lenient = Clinic(address=f"unix:{clamd}/clamd.sock", when_too_large="accept")
    assert lenient.put(colour, large).size == len(large)


@both
def test_nobody_listening_is_away_too(colour: str, tmp_path: Path) -> None:
    for address in ("127.0.0.1:1", f"unix:{tmp_path}/nobody"):
        clinic = Clinic(address=address)
        with pytest.raises(InspectionUnavailableError):
            clinic.put(colour, b"hello")
        assert clinic.is_empty


@both
def test_a_store_that_fails_is_not_taken_for_a_scanner_that_is_away(colour: str) -> None:
    with pretending(drained(b"stream: OK\0")) as address:
        clinic = Clinic(address=address, when_unavailable="accept")
        clinic.backend.fail("open_reader", BackendUnavailableError("away"))
        with pytest.raises(BackendUnavailableError):
            clinic.put(colour, b"hello")


@pytest.mark.parametrize("wrong", [{"address": "clamd"}, {"when_unavailable": "maybe"}, {"when_too_large": "no"}])
def test_what_cannot_work_is_refused_where_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ClamAV(**wrong)
