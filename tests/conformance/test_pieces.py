"""The way of writing in several goes on a backend that has the five primitives and no more."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

import pytest

from granite_core.backends.base import Capability, ResumableWriter, StorageBackend
from granite_core.backends.memory import MemoryStorageBackend
from granite_core.backends.pieces import discard_pieces, resume_in_pieces
from granite_core.keys import PIECES, owner_of_piece
from granite_core.testing.conformance.resuming import ResumingTests


class Piecewise(MemoryStorageBackend):
    capabilities = frozenset({Capability.ATOMIC_CREATE, Capability.RESUMABLE_WRITES})

    def resume_writer(self, location: str, **said: Any) -> ResumableWriter:
        return resume_in_pieces(self, location, **said)

    def discard_unfinished(self, location: str, state: str | None) -> None:
        discard_pieces(self, location, state)

    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        """As a store could that lists its reserved keys."""
        pieces = [key.decode() for key in self._keys if key.startswith(PIECES.encode())]
        if older_than > timedelta(hours=1):
            return 0
        old = [key for key in pieces if owner_of_piece(key) not in keep]
        for key in old:
            self.delete(key)
        return len(old)


class TestPieces(ResumingTests):
    @pytest.fixture
    def backend(self) -> StorageBackend:
        return Piecewise()
