"""Objects that are written in several goes."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from granite_core.backends.base import Capability, ResumableWriter, StorageBackend
from granite_core.errors import BackendError, ConfigurationError, StorageError, UnfinishableError
from granite_core.testing.conformance.support import MIB, BackendTests, assert_same, noise

__all__ = ["ResumingTests"]

_LATER = timedelta(seconds=-60)
"""Whatever was touched before a minute from now is old."""


class ResumingTests(BackendTests):
    """``resume_writer``, ``discard_unfinished``, and what ``clear_unfinished`` leaves of them."""

    def test_an_object_is_written_in_several_goes(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        content = noise(self.large)
        cuts = [0, 1, 4096, 5 * MIB + 7, 5 * MIB + 8, 13 * MIB, self.large]
        state: str | None = None
        for start, end in pairwise(cuts):
            with backend.resume_writer("a/b", offset=start, state=state) as writer:
                assert writer.offset == start
                for position in range(start, end, MIB):
                    writer.write(memoryview(content)[position : min(end, position + MIB)])
                assert writer.offset == end
                state = writer.checkpoint(ends=True)
            assert not backend.exists("a/b")
            assert self.keys(backend) == []
        self.finish(backend, "a/b", state, self.large)
        assert_same(backend.get("a/b"), content)
        assert self.keys(backend) == ["a/b"]
        assert backend.clear_unfinished(_LATER) == 0

    def test_a_go_may_have_many_checkpoints(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        content = noise(3 * MIB)
        with backend.resume_writer("a/b") as writer:
            for position in range(0, len(content), 300_000):
                writer.write(content[position : position + 300_000])
                writer.checkpoint()
            writer.checkpoint(last=True)
            writer.commit()
        assert_same(backend.get("a/b"), content)
        assert backend.clear_unfinished(_LATER) == 0

    @pytest.mark.parametrize(
        ("goes", "last"),
        [
            pytest.param([3 * MIB], [MIB, 6 * MIB, MIB], id="to a part"),
            pytest.param([700] * 15, [1000] * 3, id="by many small pieces"),
        ],
    )
    def test_a_go_writes_on_after_its_checkpoints_where_others_have_begun(
        self, backend: StorageBackend, goes: list[int], last: list[int]
    ) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        content, done = noise(sum(goes) + sum(last)), 0
        state: str | None = None
        for steps in (*([each] for each in goes), last):
            with backend.resume_writer("a/b", offset=done, state=state) as writer:
                for step in steps:
                    writer.write(memoryview(content)[done : done + step])
                    state = writer.checkpoint()
                    done += step
        self.finish(backend, "a/b", state, len(content))
        assert_same(backend.get("a/b"), content)
        assert backend.clear_unfinished(_LATER) == 0

    def test_an_object_of_one_go_may_be_empty(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        with backend.resume_writer("a/b") as writer:
            state = writer.checkpoint(last=True)
            writer.commit()
        assert backend.get("a/b") == b""
        self.finish(backend, "a/b", state, 0)
        assert self.keys(backend) == ["a/b"]

    def test_a_go_that_dies_is_forgotten_from_its_last_checkpoint_on(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        dead = backend.resume_writer("a/b")
        state = dead.state
        dead.write(b"kept ")
        state = dead.checkpoint()
        dead.write(noise(self.large, 1))
        dead.close()
        with backend.resume_writer("a/b", offset=5, state=state) as writer:
            writer.write(b"and this")
            writer.checkpoint(last=True)
            writer.commit()
        assert backend.get("a/b") == b"kept and this"
        assert self.keys(backend) == ["a/b"]

    def test_a_checkpoint_whose_state_is_not_kept_is_as_if_it_had_not_been(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        content, step = noise(7 * 3 * MIB), 3 * MIB
        state: str | None = None
        for start in range(0, len(content), step):
            with backend.resume_writer("a/b", offset=start, state=state) as writer:
                state = writer.state or state
                writer.write(content[start : start + step])
                writer.checkpoint()
            with backend.resume_writer("a/b", offset=start, state=state) as writer:
                writer.write(content[start : start + MIB])
                kept = writer.checkpoint()
                writer.write(content[start + MIB : start + step])
                writer.checkpoint()
            with backend.resume_writer("a/b", offset=start + MIB, state=kept) as writer:
                writer.write(content[start + MIB : start + step])
                state = writer.checkpoint()
        self.finish(backend, "a/b", state, len(content))
        assert_same(backend.get("a/b"), content)

    def test_a_go_that_died_before_any_checkpoint_begins_anew(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        dead = backend.resume_writer("a/b")
        state = dead.state
        dead.write(noise(self.large, 1))
        dead.close()
        with backend.resume_writer("a/b", state=state) as writer:
            writer.write(b"anew")
            state = writer.checkpoint(last=True)
        self.finish(backend, "a/b", state, 4)
        assert backend.get("a/b") == b"anew"

    @pytest.mark.parametrize("many_parts", [False, True])
    def test_a_go_that_wakes_up_late_changes_nothing(self, backend: StorageBackend, many_parts: bool) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        late = backend.resume_writer("a/b")
        late.write(b"kept ")
        state = late.checkpoint()
        content = noise(self.large if many_parts else 1000, 2)
        with backend.resume_writer("a/b", offset=5, state=state) as writer:
            writer.write(content[:500])
            self.disturb(late, many_parts=many_parts)
            writer.write(content[500:])
            state = writer.checkpoint(last=True)
        self.disturb(late, many_parts=False)
        late.close()
        self.finish(backend, "a/b", state, len(content) + 5)
        assert_same(backend.get("a/b"), b"kept " + content)
        assert self.keys(backend) == ["a/b"]

    def test_a_go_that_withdraws_leaves_what_was_kept_and_nothing_else(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        late = backend.resume_writer("a/b")
        late.write(b"kept ")
        state = late.checkpoint()
        late.write(noise(7 * MIB, 3))
        late.checkpoint()
        late.withdraw(refused=True)
        late.withdraw(refused=True)
        with backend.resume_writer("a/b", offset=5, state=state) as writer:
            writer.write(b"and this")
            state = writer.checkpoint()
            writer.withdraw()
        self.finish(backend, "a/b", state, 13)
        assert backend.get("a/b") == b"kept and this"
        assert self.keys(backend) == ["a/b"]
        assert backend.clear_unfinished(_LATER) == 0

    @pytest.mark.parametrize("writes", [False, True])
    def test_a_go_that_withdraws_before_any_checkpoint_removes_nothing_of_those_before(
        self, backend: StorageBackend, writes: bool
    ) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        content = noise(10 * MIB)
        with backend.resume_writer("a/b") as writer:
            writer.write(memoryview(content)[: 9 * MIB])
            state = writer.checkpoint(ends=True)
        late = backend.resume_writer("a/b", offset=9 * MIB, state=state)
        with backend.resume_writer("a/b", offset=9 * MIB, state=state) as writer:
            state = writer.state or state
            writer.write(memoryview(content)[9 * MIB :])
            state = writer.checkpoint()
            if writes:
                self.disturb(late, many_parts=False)
            late.withdraw(refused=True)
        self.finish(backend, "a/b", state, len(content))
        assert_same(backend.get("a/b"), content)
        assert backend.clear_unfinished(_LATER) == 0

    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_a_go_that_goes_on_after_the_object_was_discarded_removes_what_it_wrote(
        self, backend: StorageBackend, checkpoint: bool
    ) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        late = backend.resume_writer("a/b")
        state = late.state
        if checkpoint:
            late.write(b"kept ")
            state = late.checkpoint()
        backend.discard_unfinished("a/b", state)
        try:
            late.write(noise(7 * MIB, 3))
            late.checkpoint()
        except StorageError:
            pass  # what it wrote to is gone
        late.withdraw(refused=True)
        assert self.keys(backend) == []
        assert backend.clear_unfinished(_LATER) == 0

    def test_an_object_may_be_written_in_very_many_goes(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        content, state = noise(100 * 37), None
        for start in range(0, len(content), 37):
            with backend.resume_writer("a/b", offset=start, state=state) as writer:
                writer.write(content[start : start + 37])
                state = writer.checkpoint(ends=True)
        assert len(state or "") < 5000
        self.finish(backend, "a/b", state, len(content))
        assert_same(backend.get("a/b"), content)
        assert backend.clear_unfinished(_LATER) == 0

    def test_committing_again_is_no_error(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        content = noise(self.large)
        with backend.resume_writer("a/b") as writer:
            writer.write(content)
            state = writer.checkpoint(last=True)
            writer.commit()
        for _ in range(2):
            self.finish(backend, "a/b", state, len(content))
            assert_same(backend.get("a/b"), content)
        assert self.keys(backend) == ["a/b"]

    def test_what_is_complete_waits_for_its_commit(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        content = noise(self.large)
        with backend.resume_writer("a/b") as writer:
            writer.write(content)
            state = writer.checkpoint(last=True)
        assert not backend.exists("a/b")
        self.finish(backend, "a/b", state, len(content))
        assert_same(backend.get("a/b"), content)

    def test_a_closed_go_takes_nothing_more(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        writer = backend.resume_writer("a/b")
        writer.write(b"abc")
        writer.close()
        writer.close()
        for call in (lambda: writer.write(b"def"), writer.checkpoint, writer.commit):
            with pytest.raises(BackendError):
                call()
        assert self.keys(backend) == []

    @pytest.mark.parametrize("checkpoint", [False, True])
    def test_nothing_remains_of_what_is_discarded(self, backend: StorageBackend, checkpoint: bool) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        backend.put_bytes("a/c", b"abc")
        with backend.resume_writer("a/b") as writer:
            state = writer.state
            writer.write(noise(self.large))
            if checkpoint:
                state = writer.checkpoint(ends=True)
        backend.discard_unfinished("a/b", state)
        backend.discard_unfinished("a/b", state)
        backend.discard_unfinished("a/d", None)
        assert backend.clear_unfinished(_LATER) == 0
        assert self.keys(backend) == ["a/c"]
        if checkpoint:
            with pytest.raises(StorageError):
                self.finish(backend, "a/b", state, self.large)
            assert not backend.exists("a/b")

    def test_discarding_does_not_touch_what_was_committed(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        with backend.resume_writer("a/b") as writer:
            writer.write(b"abc")
            state = writer.checkpoint(last=True)
            writer.commit()
        backend.discard_unfinished("a/b", state)
        assert backend.get("a/b") == b"abc"

    def test_what_is_gone_is_told(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        with backend.resume_writer("a/b") as writer:
            writer.write(noise(self.large))
            state = writer.checkpoint(ends=True)
        backend.discard_unfinished("a/b", state)
        with pytest.raises(UnfinishableError):
            self.finish(backend, "a/b", state, self.large)
        assert not backend.exists("a/b")

    def test_clearing_keeps_what_is_still_written(self, backend: StorageBackend) -> None:
        self.needs(backend, Capability.RESUMABLE_WRITES)
        states: dict[str, str] = {}
        for key in ("a/kept", "a/old"):
            with backend.resume_writer(key) as writer:
                writer.write(noise(self.large))
                states[key] = writer.checkpoint(ends=True)
        assert backend.clear_unfinished(timedelta(days=1)) == 0
        backend.clear_unfinished(_LATER, keep={"a/kept"})
        assert backend.clear_unfinished(_LATER, keep={"a/kept"}) == 0
        self.finish(backend, "a/kept", states["a/kept"], self.large)
        assert_same(backend.get("a/kept"), noise(self.large))
        with pytest.raises(StorageError):
            self.finish(backend, "a/old", states["a/old"], self.large)
        assert self.keys(backend) == ["a/kept"]

    def test_without_the_capability_nothing_is_resumed(self, backend: StorageBackend) -> None:
        if Capability.RESUMABLE_WRITES in backend.capabilities:
            pytest.skip("the backend claims resumable-writes")
        with pytest.raises(ConfigurationError):
            backend.resume_writer("a/b")
        with pytest.raises(ConfigurationError):
            backend.discard_unfinished("a/b", None)

    @staticmethod
    def finish(backend: StorageBackend, key: str, state: str | None, size: int) -> None:
        """Complete an object in a go of its own."""
        with backend.resume_writer(key, offset=size, state=state) as writer:
            writer.checkpoint(last=True)
            writer.commit()

    @staticmethod
    def disturb(late: ResumableWriter, *, many_parts: bool) -> None:
        """Let a go do what it can do without its state being kept."""
        try:
            late.write(noise(7 * MIB if many_parts else 600, 3))
            late.checkpoint()
        except StorageError:
            late.close()
