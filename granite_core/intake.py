"""What happens to every byte that comes in, with no I/O: limit, coalesce, sniff, hash. Shared by sync and async."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from granite_core._digest import Digest
from granite_core.errors import ChecksumMismatchError
from granite_core.media import SNIFF_BYTES, judge_content

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from granite_core.policies import StoragePolicy

__all__ = ["INTAKE_BYTES", "Intake"]

INTAKE_BYTES: Final = 256 * 1024
"""How many bytes are gathered before they are hashed and written in one go: the memory one stream costs here."""


class Intake:
    """Admits bytes one piece at a time and hands them on in buffers.

    ``admit`` is cheap and may run on an event loop; ``take`` hashes, and belongs where blocking is allowed.

    Args:
        policy: Whose limits apply.
        field: Name for errors; the policy's ``storage_key`` where absent.
        filename: Cleaned name the content came with.
        claimed_type: Media type the sender claims.
    """

    __slots__ = ("_chunks", "_claimed", "_digest", "_field", "_filename", "_pending", "_policy", "content_type", "size")

    def __init__(
        self, policy: StoragePolicy, *, field: str | None, filename: str | None, claimed_type: str | None
    ) -> None:
        self._policy = policy
        self._field = field
        self._filename = filename
        self._claimed = claimed_type
        self._chunks: list[bytes] = []
        self._pending = 0
        self._digest = Digest()
        self.size = 0
        """Bytes admitted so far."""
        self.content_type: str | None = None
        """Media type, known once the first buffer was taken."""

    def admit(self, data: Buffer) -> bool:
        """Take the next bytes. True when a buffer is full and wants to be taken.

        Raises:
            ContentTooLargeError: The content is now over the policy's ``max_size``; the bytes are not kept.
        """
        chunk = data if isinstance(data, bytes) else bytes(data)
        size = self.size + len(chunk)
        self._policy.check_size(size, field=self._field)
        self.size = size
        if chunk:
            self._chunks.append(chunk)
            self._pending += len(chunk)
        return self._pending >= INTAKE_BYTES

    def hand_over(self) -> list[bytes]:
        """Begin a new buffer, and return the pieces of this one, for a thread to ``take`` beside the next pieces."""
        pieces, self._chunks, self._pending = self._chunks, [], 0
        return pieces

    def take_back(self, pieces: list[bytes]) -> None:
        """Put what ``hand_over`` gave before what was admitted since: nobody could take it."""
        self._chunks[:0] = pieces
        self._pending += sum(map(len, pieces))

    def take(self, pieces: list[bytes] | None = None) -> bytes:
        """Return the bytes gathered since, hashed.

        Args:
            pieces: What ``hand_over`` gave, where that was called; none are added to them.

        Raises:
            ContentTypeNotAllowedError: The first bytes show a type that the policy does not accept, or, where the
                policy minds, another one than the name or the claim says.
        """
        pieces = self.hand_over() if pieces is None else pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self.content_type is None:
            judged = judge_content(data[:SNIFF_BYTES], self._filename, self._claimed)
            self._policy.check_content(judged, field=self._field)
            self.content_type = judged.content_type
        self._digest.update(data)
        return data

    def abandon(self) -> None:
        """Have nobody work on it any more."""
        self._digest.wait()

    def checksum(self, *, expected_size: int | None, expected: str | None) -> str:
        """Return ``"sha256:…"`` of all bytes taken, after holding it against what was announced.

        Raises:
            ChecksumMismatchError: Size (bytes) or checksum differ.
        """
        name = self._field or self._policy.storage_key
        if expected_size is not None and expected_size != self.size:
            raise ChecksumMismatchError(
                f"{name}: {self.size} bytes came, {expected_size} were announced",
                operation="put",
                field=name,
                limit=expected_size,
                value=self.size,
            )
        found = f"sha256:{self._digest.hexdigest()}"
        if expected is not None and expected.lower() != found:
            raise ChecksumMismatchError(
                f"{name}: the SHA-256 of what came differs from the announced one",
                operation="put",
                field=name,
                limit=expected,
                value=found,
            )
        return found
