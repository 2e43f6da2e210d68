"""Validators and conditional requests (RFC 9110, sections 8.8 and 13) as pure functions."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

__all__ = [
    "Precondition",
    "Validators",
    "evaluate_preconditions",
    "format_http_date",
    "if_range_holds",
    "parse_http_date",
]

_ENTITY_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_CLOCK: Final = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DAY_NAME: Final = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY_NAME: Final = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_IMF_FIXDATE: Final = rf"{_DAY_NAME}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT"
_RFC_850: Final = rf"{_LONG_DAY_NAME}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"
_ASCTIME: Final = rf"{_DAY_NAME} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_CLOCK} (?P<year>[0-9]{{4}})"
_HTTP_DATES: Final = tuple(re.compile(form) for form in (_IMF_FIXDATE, _RFC_850, _ASCTIME))


class Precondition(enum.Enum):
    """What the conditions of a request say."""

    HOLDS = enum.auto()
    NOT_MODIFIED = enum.auto()
    FAILED = enum.auto()


class Validators(msgspec.Struct, frozen=True):
    """What tells one state of a representation from another (RFC 9110, section 8.8).

    Attributes:
        etag: The entity tag with its quotes, weak if it begins with ``W/``.
        last_modified: In UTC, in whole seconds.
    """

    etag: str | None
    last_modified: datetime | None


def evaluate_preconditions(
    fields: Mapping[str, str], validators: Validators, now: datetime, *, safe: bool = True
) -> Precondition:
    """Evaluate the conditions of a request in the order of RFC 9110, section 13.2.2.

    ``If-Range`` is not among them: it only decides whether ``Range`` is heeded (`if_range_holds`).

    Args:
        fields: The request's fields, with lower-case names.
        validators: Of the current representation, which exists.
        now: The time, for two-digit years.
        safe: Whether the method is GET or HEAD. For others, a matching ``If-None-Match`` fails.

    Returns:
        Whether the method is to be performed.
    """
    modified = validators.last_modified
    if (if_match := fields.get("if-match")) is not None:
        unchanged = _matches(if_match, validators.etag, weakly=False)
    else:
        limit = parse_http_date(fields.get("if-unmodified-since"), now)
        unchanged = limit is None or modified is None or modified <= limit
    if not unchanged:
        return Precondition.FAILED

    if (if_none_match := fields.get("if-none-match")) is not None:
        known = _matches(if_none_match, validators.etag, weakly=True)
    else:
        seen = parse_http_date(fields.get("if-modified-since"), now) if safe else None
        known = seen is not None and modified is not None and modified <= seen
    if known:
        return Precondition.NOT_MODIFIED if safe else Precondition.FAILED
    return Precondition.HOLDS


def if_range_holds(fields: Mapping[str, str], validators: Validators, now: datetime) -> bool:
    """Tell whether ``Range`` may be heeded (RFC 9110, section 13.1.5).

    An entity tag must match strongly. A date must be exactly that of the representation, and a strong validator
    (section 8.8.2.2): at least a second old, since in its own second the file may have been replaced again.
    """
    value = fields.get("if-range")
    if value is None:
        return True
    value = value.strip(" \t")
    if _ENTITY_TAG.fullmatch(value):
        return not value.startswith("W/") and value == validators.etag
    modified = validators.last_modified
    if modified is None or now - modified < timedelta(seconds=1):
        return False
    return parse_http_date(value, now) == modified


def _matches(field_value: str, etag: str | None, *, weakly: bool) -> bool:
    """Compare a list of entity tags, or ``*``, with the current one (RFC 9110, section 8.8.3.2)."""
    if field_value == etag and (weakly or not etag.startswith("W/")):
        return True  # as browsers send it
    if field_value.strip(" \t") == "*":
        return True
    if etag is None or (not weakly and etag.startswith("W/")):
        return False
    opaque = etag.removeprefix("W/")
    return any(
        candidate == etag or (weakly and candidate.removeprefix("W/") == opaque)
        for candidate in _ENTITY_TAG.findall(field_value)
    )


def format_http_date(moment: datetime) -> str:
    """Write a time as an IMF-fixdate, for instance ``Sun, 06 Nov 1994 08:49:37 GMT``."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    day, month = _DAYS[utc.weekday()], _MONTHS[utc.month - 1]
    parts = (day, utc.day, month, utc.year, utc.hour, utc.minute, utc.second)
    return "%s, %02d %s %04d %02d:%02d:%02d GMT" % parts  # noqa: UP031 - takes half as long as format specifiers


def parse_http_date(field_value: str | None, now: datetime) -> datetime | None:
    """Read a date in any of the three forms of RFC 9110, section 5.6.7.

    Args:
        field_value: The field's value, if the field was sent.
        now: The time, to place two-digit years: none lies more than 50 years ahead.

    Returns:
        The time in UTC, or ``None`` for anything that is not an HTTP-date, which recipients ignore.
    """
    if field_value is None:
        return None
    match = next(filter(None, (form.fullmatch(field_value.strip(" \t")) for form in _HTTP_DATES)), None)
    if match is None:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        year += now.year // 100 * 100
        if year > now.year + 50:
            year -= 100
    second = min(int(match["second"]), 59)  # a leap second is 60
    try:
        return datetime(
            year,
            _MONTHS.index(match["month"]) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            second,
            tzinfo=UTC,
        )
    except ValueError:
        return None
