"""What routes of uploads have in common when they are mounted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from granite_core import ConfigurationError

if TYPE_CHECKING:
    from granite_litestar.config import GraniteConfig
    from granite_litestar.direct import DirectUploads
    from granite_litestar.resumable import ResumableUploads

__all__ = ["prepared"]

Route = TypeVar("Route", "DirectUploads", "ResumableUploads")


def prepared(routes: Iterable[Route], config: GraniteConfig, what: str) -> list[Route]:
    """Return the routes with what the plugin's settings say where they say nothing.

    Args:
        routes: As they were declared.
        config: What the plugin sets up.
        what: What they are, for an error.

    Raises:
        ConfigurationError: A policy is not there, or nothing seals tokens.
    """
    subject = config.tokens.subject if config.tokens is not None else None
    found = [replace(each, subject=each.subject or subject, context=each.context or config.context) for each in routes]
    for each in found:
        config.manager.get_policy(each.storage_key)
    if found and config.manager.links.sealer is None:
        raise ConfigurationError(f"{what} hand out sealed tokens: StorageManager(..., urls=UrlSettings(secrets=[...]))")
    return found
