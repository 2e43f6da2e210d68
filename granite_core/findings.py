"""What an examination finds, and what to do about it. A pure value that backends, ledgers and rules hand over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

__all__ = ["Finding", "Severity", "sorted_findings"]


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """Files are lost, cannot be kept or cannot be had, now or before long."""
    WARNING = "warning"
    """It works, but something that is promised depends on luck, or will fail one day."""
    NOTE = "note"
    """Good to know; nothing has to be done."""
    OK = "ok"
    """It was looked at, and is as it should be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an examination found.

    Args:
        code: A stable name of what was found.
        severity: How much it matters.
        found: What was found, in a sentence. No credential.
        advice: What to do: a sentence, and on lines of their own the commands to run.
        subject: What it is about (``"backend 'main'"``); whoever examines fills it in.
    """

    code: str
    severity: Severity
    found: str
    advice: str = ""
    subject: str = ""

    def about(self, subject: str) -> Finding:
        """Return the same finding about something, where it does not say yet."""
        return self if self.subject else replace(self, subject=subject)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-compatible form."""
        return asdict(self)


_ORDER: Final = list(Severity)


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with what matters most first, else in the order they came."""
    return sorted(findings, key=lambda each: _ORDER.index(each.severity))
