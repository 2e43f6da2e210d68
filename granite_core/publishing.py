"""What the store is told of files that everybody may have from it. Pure."""

from __future__ import annotations

from dataclasses import replace

from granite_core.caching import Address, cache_control
from granite_core.options import WriteOptions
from granite_core.policies import StoragePolicy
from granite_core.serving import served_disposition

__all__ = ["options_for"]


def options_for(policy: StoragePolicy, content_type: str | None, filename: str | None) -> WriteOptions:
    """Return what to ask of the store for a new object of a policy.

    Where everybody may have it from the store itself, it carries there what our own answers say: how a browser is to
    treat it, and how long a copy is good. What the policy asks for itself stays.
    """
    asked = policy.store
    if not policy.public:
        return asked
    disposition = served_disposition(content_type, filename, policy.disposition)
    return replace(
        asked,
        content_disposition=disposition if asked.content_disposition is None else asked.content_disposition,
        cache_control=(
            cache_control(Address.LINK, policy, everybody=True) if asked.cache_control is None else asked.cache_control
        ),
    )
