"""How much of a file is read at a time."""

from __future__ import annotations

from typing import Final

__all__ = ["ChunkPacer"]


class ChunkPacer:
    """How many bytes to read at a time: few for a slow peer, more the longer it keeps up.

    A stalled download holds two chunks (one here, one in the server), so a chunk grows only once the peer has taken
    several of its size without making us wait, and halves when it does not.
    """

    SMALLEST: Final = 64 * 1024
    LARGEST: Final = 1024 * 1024
    _PROMPT_SECONDS: Final = 0.02
    _STREAK: Final = 8

    def __init__(self) -> None:
        self.size = self.SMALLEST
        """Bytes to read next."""
        self._streak = 0

    def sent(self, seconds: float) -> None:
        """Note how long the server took to accept a chunk."""
        if seconds > self._PROMPT_SECONDS:
            self.size = max(self.SMALLEST, self.size // 2)
            self._streak = 0
            return
        self._streak += 1
        if self._streak >= self._STREAK:
            self.size = min(self.LARGEST, self.size * 2)
            self._streak = 0
