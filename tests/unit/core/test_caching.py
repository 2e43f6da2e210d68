"""Who may keep a copy, and for how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from granite_core import ConfigurationError, StoragePolicy
from granite_core.caching import Address, cache_control

MINUTE = timedelta(minutes=1)
PLAIN = StoragePolicy("p")
SHORT = StoragePolicy("p", cache_max_age=MINUTE)
KEPT = StoragePolicy("p", immutable=True)
NEVER = StoragePolicy("p", cache_max_age=timedelta(0), immutable=True)


@pytest.mark.parametrize(
    ("address", "policy", "options", "expected"),
    [
        (Address.ROW, None, {}, "private, no-cache"),
        (Address.ROW, KEPT, {}, "private, no-cache"),
        (Address.ROW, KEPT, {"everybody": True}, "public, no-cache"),
        (Address.ROW_REDIRECT, KEPT, {"everybody": True, "remaining": MINUTE}, "no-store"),
        (Address.LINK, PLAIN, {"remaining": MINUTE}, "private, max-age=60"),
        (Address.LINK, PLAIN, {"remaining": timedelta(seconds=59.9)}, "private, max-age=59"),
        (Address.LINK, SHORT, {"remaining": 2 * MINUTE}, "private, max-age=60"),
        (Address.LINK, SHORT, {"remaining": MINUTE / 2}, "private, max-age=30"),
        (Address.LINK, KEPT, {"remaining": MINUTE}, "private, max-age=60, immutable"),
        (Address.LINK, NEVER, {"remaining": MINUTE}, "private, no-cache"),
        (Address.LINK, PLAIN, {"remaining": timedelta(0)}, "private, no-cache"),
        (Address.LINK, PLAIN, {"everybody": True}, "public, max-age=3600"),
        (Address.LINK, SHORT, {"everybody": True}, "public, max-age=60"),
        (Address.LINK, KEPT, {"everybody": True}, "public, max-age=31536000, immutable"),
        (Address.LINK_REDIRECT, KEPT, {"remaining": MINUTE}, "private, max-age=60"),
        (Address.LINK_REDIRECT, KEPT, {"everybody": True, "remaining": MINUTE}, "public, max-age=60"),
    ],
)
def test_cache_control(address: Address, policy: StoragePolicy | None, options: dict[str, Any], expected: str) -> None:
    assert cache_control(address, policy, **options) == expected


@pytest.mark.parametrize("wrong", [{"delivery": "pigeon"}, {"cache_max_age": timedelta(seconds=-1)}])
def test_a_policy_refuses_what_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        StoragePolicy("p", **wrong)
