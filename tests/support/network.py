"""What the tests of a misbehaving network share: how deep they go, what they count, what nobody may be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["DEEP", "Tally", "calm_retries", "shown_to_nobody"]

DEEP = os.environ.get("GRANITE_DEEP", "") not in ("", "0")
"""Whether whole tables are gone through, and not a part of them that is chosen by rotation."""


class Tally:
    """Counts faults and what came of them, in a test's properties, which the run adds up at its end.

    Args:
        title: What was tried.
        record: The test's ``record_property``.
    """

    def __init__(self, title: str, record: Callable[[str, object], None]) -> None:
        self._title = title
        self._record = record

    def count(self, outcome: BaseException | str | None) -> None:
        """Count one fault that befell an operation; an error or its name, or None where it succeeded."""
        name = type(outcome).__name__ if isinstance(outcome, BaseException) else outcome or ""
        self._record("fault", f"{self._title}|{name}")


def calm_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the pauses out of boto3's retries, and its budget of them, which hundreds of faults would use up."""
    from botocore.retries import quota, standard

    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", lambda self, context: 0.01)
    monkeypatch.setattr(quota.RetryQuota, "acquire", lambda self, amount: True)


def shown_to_nobody(error: BaseException, *secrets: Any) -> None:
    """See that an error's texts hold none of these, and no address."""
    for text in (str(error), getattr(error, "public_message", "")):
        assert not re.search(r"127\.0\.0\.1|https?://", text), text
        for secret in secrets:
            assert str(secret) not in text, text
