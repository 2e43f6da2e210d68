from __future__ import annotations

import fcntl
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from granite_core.backends.base import ResumableWriter, StorageBackend
from granite_core.backends.local import LocalStorageBackend
from granite_core.testing import BackendConformance, FaultyBackend


class TestLocal(BackendConformance):
    memory_limit = 4 * 1024 * 1024

    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        return LocalStorageBackend(tmp_path / "root")


class TestLocalWithoutDurability(BackendConformance):
    memory_limit = 4 * 1024 * 1024

    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        return LocalStorageBackend(tmp_path / "root", durable=False)


class TestLocalThroughFaultInjection(BackendConformance):
    memory_limit = 4 * 1024 * 1024

    @pytest.fixture
    def backend(self, tmp_path: Path) -> StorageBackend:
        return FaultyBackend(LocalStorageBackend(tmp_path / "root"))


def test_a_file_that_a_go_withdraws_is_written_by_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, others = LocalStorageBackend(tmp_path), LocalStorageBackend(tmp_path)
    late = backend.resume_writer("a/b")
    state = late.state
    late.write(b"late")
    found: list[tuple[ResumableWriter, str | None]] = []
    unlink, close = os.unlink, os.close

    def goes_on() -> None:
        if not found:
            found.append((writer := others.resume_writer("a/b", state=state), writer.state))

    def watched_unlink(*arguments: Any, **named: Any) -> None:
        monkeypatch.undo()
        goes_on()
        unlink(*arguments, **named)

    def watched_close(descriptor: int) -> None:
        monkeypatch.undo()
        close(descriptor)
        goes_on()

    monkeypatch.setattr(os, "unlink", watched_unlink)
    monkeypatch.setattr(os, "close", watched_close)
    late.withdraw(refused=True)
    with found[0][0] as writer:
        writer.write(b"hello")
        state = writer.checkpoint(ends=True)
    with backend.resume_writer("a/b", offset=5, state=state) as writer:
        writer.checkpoint(last=True)
        writer.commit()
    assert backend.get("a/b") == b"hello"
    assert backend.clear_unfinished(timedelta(seconds=-60)) == 0


def test_a_file_that_lost_its_name_before_it_was_locked_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LocalStorageBackend(tmp_path)
    late = backend.resume_writer("a/b")
    state = late.state
    late.write(b"late")
    flock = fcntl.flock

    def locked(*arguments: Any) -> None:
        monkeypatch.undo()
        late.withdraw(refused=True)
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", locked)
    with backend.resume_writer("a/b", state=state) as writer:
        state = writer.state
        assert state is not None
        writer.write(b"hello")
        state = writer.checkpoint(ends=True)
    with backend.resume_writer("a/b", offset=5, state=state) as writer:
        writer.checkpoint(last=True)
        writer.commit()
    assert backend.get("a/b") == b"hello"
