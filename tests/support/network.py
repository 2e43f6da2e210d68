"""What the tests of a misbehaving network share: how deep they go, what they count, what nobody may be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["DEEP", "Tally", "calm_retries", "shown_to_nobody"]

DEEP = os.environ.get("GRANITE_DEEP", "") not in ("", "0")
"""Whether whole tables are gone through, and not a part of them that is chosen by rotation."""


class Tally:
    """Counts faults and what came of them.

    Args:
        title: What was tried.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.faults = 0
        self.errors: dict[str, int] = {}

    def count(self, outcome: BaseException | str | None) -> None:
        """Count one fault that befell an operation; an error or its name, or None where it succeeded."""
        self.faults += 1
        if outcome is not None:
            name = outcome if isinstance(outcome, str) else type(outcome).__name__
            self.errors[name] = self.errors.get(name, 0) + 1

    @contextmanager
    def printed(self) -> Iterator[Tally]:
        """Print the figures at the end, past pytest's capturing."""
        yield self
        failed = sum(self.errors.values())
        named = ", ".join(f"{number} {name}" for name, number in sorted(self.errors.items()))
        line = f"{self.title}: {self.faults} faults, {self.faults - failed} successes, {failed} typed errors ({named})"
        path = os.environ.get("GRANITE_FIGURES")
        if path:
            with open(path, "a") as file:
                file.write(f"{line}\n")
        print(line)


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
