"""A file at a URL, named: it is fetched when it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from granite_core.remote.rules import FetchRules

if TYPE_CHECKING:
    from granite_core.remote.fetch import Fetch

__all__ = ["RemoteFile", "from_url"]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Content that is fetched by its URL when it is stored. Made by ``from_url``.

    Args:
        url: Where it is.
        rules: What may be fetched; the manager's where absent.
    """

    url: str
    rules: FetchRules | None = None

    def begin(self, rules: FetchRules) -> Fetch:
        """Prepare a fetch. Asks nobody, but blocks the first time, when it imports what fetches.

        Args:
            rules: The manager's.

        Raises:
            RemoteRefusedError: The URL is none that may be fetched.
        """
        from granite_core.remote.fetch import Fetch  # HTTP and TLS, where something is fetched

        return Fetch(self.url, self.rules or rules)


def from_url(url: str, *, rules: FetchRules | None = None) -> RemoteFile:
    """Name content by its URL: for ``put``, and as ``unsaved(from_url(…))`` for a flush.

    It is fetched when it is stored, and again where it is stored again.

    Args:
        url: ``https://…`` or ``http://…``; may come from a stranger.
        rules: What may be fetched; those of the manager (``StorageManager(fetch=…)``) where absent.
    """
    return RemoteFile(url, rules)
