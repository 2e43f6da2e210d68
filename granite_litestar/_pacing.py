"""How much of a file is read at a time."""

from __future__ import annotations

from typing import Final

__all__ = ["ChunkPacer"]


class ChunkPacer:
    """How many bytes to read at a time: few for a slow peer, more the longer it keeps up.

    A stalled download holds three chunks (one here, two in uvicorn). The kernel takes megabytes at once for a peer
    that reads nothing, so a chunk grows only once more than that was taken without making us wait. It halves when we
    had to.
    """

    SMALLEST: Final = 32 * 1024
    LARGEST: Final = 1024 * 1024
    _PROMPT_SECONDS: Final = 0.02
    _TAKEN_BY_THE_KERNEL: Final = 4 * 1024 * 1024  # Linux, tcp(7): the usual maximum of tcp_wmem

    def __init__(self) -> None:
        self.size = self.SMALLEST
        """Bytes to read next."""
        self._prompt = 0

    def sent(self, size: int, seconds: float) -> None:
        """Note how long the server took to accept so many bytes."""
        if seconds > self._PROMPT_SECONDS:
            self.size = max(self.SMALLEST, self.size // 2)
            self._prompt = 0
            return
        self._prompt += size
        if self._prompt > self._TAKEN_BY_THE_KERNEL:
            self.size = min(self.LARGEST, self.size * 2)
            self._prompt = 0
