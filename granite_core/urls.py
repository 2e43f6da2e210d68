"""Addresses as values: how they are made, when they are good, what they lead to. Pure.

What ends begins at the start of a time bucket, so that asking twice within it gives the same address, and a browser
finds what it fetched before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from granite_core.backends.base import StorageBackend
from granite_core.errors import ConfigurationError
from granite_core.media import clean_filename
from granite_core.policies import StoragePolicy
from granite_core.refs import StoredObjectRef

__all__ = [
    "Disposition",
    "FileLink",
    "KeyValue",
    "RowLink",
    "RowTarget",
    "UrlPlan",
    "UrlSettings",
    "Way",
    "Window",
    "check_lifetime",
    "window",
]

Disposition: TypeAlias = Literal["auto", "attachment"]

KeyValue: TypeAlias = str | int | float | bool | None

_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_LONGEST: Final = timedelta(days=3660)


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlSettings:
    """How links are made.

    Args:
        secrets: What the application's links are sealed with, the newest first; see ``granite_core.signing.Sealer``.
            All processes need the same. Without one, only the store's own addresses can be given.
        path: Where the application answers its links. Under Litestar the plugin puts a route there.
        public_url: The application's address as clients see it (``https://app.example``), for links that must work
            outside of its pages, in e-mails for instance. Without it links begin with ``path``.
        expires_in: How long a link lasts at least, unless it is told.
        redirect_expires_in: The same for the addresses that ``delivery="redirect"`` sends clients to.
        bucket: Length of the time buckets: a link lasts up to so much longer, and is the same for so long. By default
            a tenth of its lifetime.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    secrets: Sequence[str | bytes] = field(default=(), repr=False)
    path: str = "/files"
    public_url: str | None = None
    expires_in: timedelta = timedelta(hours=1)
    redirect_expires_in: timedelta = timedelta(minutes=15)
    bucket: timedelta | None = None

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path):
            raise ConfigurationError("path of UrlSettings is a path such as /files", value=self.path)
        if self.public_url is not None:
            parts = urlsplit(self.public_url)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
                raise ConfigurationError(
                    "public_url of UrlSettings is an address such as https://app.example", value=self.public_url
                )
        for name in ("expires_in", "redirect_expires_in", "bucket"):
            value = getattr(self, name)
            if value is not None:
                check_lifetime(name, value)


class Window(msgspec.Struct, frozen=True):
    """When an address is good, in whole seconds.

    Attributes:
        starts: Start of the time bucket.
        lasts: From there on.
    """

    starts: datetime
    lasts: timedelta

    @property
    def ends(self) -> datetime:
        """The first moment at which it is good no longer."""
        return self.starts + self.lasts


def window(now: datetime, lifetime: timedelta, bucket: timedelta | None = None) -> Window:
    """Return when an address is good that is to last ``lifetime`` from now on, at least.

    It is the same for every ``now`` within a bucket, and ends one bucket later at most.
    """
    seconds = math.ceil(lifetime.total_seconds())
    step = max(1, seconds // 10 if bucket is None else math.ceil(bucket.total_seconds()))
    starts = int(now.timestamp()) // step * step
    return Window(datetime.fromtimestamp(starts, UTC), timedelta(seconds=seconds + step))


@dataclass(frozen=True, slots=True)
class FileLink:
    """What a link of ours leads to: one object.

    Attributes:
        ref: The object.
        filename: Name the link gives it, instead of the one it came with.
        disposition: What the link says of showing or saving; None leaves it to the policy.
        expires: When the link ends; None for a public one.
    """

    ref: StoredObjectRef
    filename: str | None
    disposition: Disposition | None
    expires: datetime | None


class RowTarget(msgspec.Struct, frozen=True):
    """How a link names a row's file.

    Attributes:
        table: The table's full name.
        column: Name of the column.
        key: The row's primary key, in the order of the table's, in types that JSON has.
        item: For a column of many files, the location of one.
        filename: Name of the file that is there now, for people to read.
    """

    table: str
    column: str
    key: tuple[KeyValue, ...]
    item: str | None = None
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class RowLink:
    """What a link of ours leads to: whatever a row holds at the time.

    Attributes:
        table: The table's full name.
        column: Name of the column.
        key: The row's primary key, in the order of the table's, in types that JSON has.
        item: For a column of many files, the location of one.
        disposition: What the link says of showing or saving; None leaves it to the policy.
        expires: When the link ends.
    """

    table: str
    column: str
    key: tuple[KeyValue, ...]
    item: str | None
    disposition: Disposition | None
    expires: datetime | None


class Way(Enum):
    """How a file is given an address."""

    PUBLIC_ADDRESS = "public-address"
    """The store's own, for everybody."""
    PRESIGNED = "presigned"
    """The store's own, signed for a while."""
    PUBLIC_LINK = "public-link"
    """The application's, for everybody."""
    SIGNED_LINK = "signed-link"
    """The application's, for a while."""


@dataclass(frozen=True, slots=True)
class UrlPlan:
    """How one file is given an address.

    Attributes:
        way: How.
        ref: The file.
        policy: Its rules.
        backend: What holds it.
        window: When the address is good; None for ever.
        filename: Name it is given, instead of the one it came with.
        disposition: What was asked for; None leaves it to the policy.
    """

    way: Way
    ref: StoredObjectRef
    policy: StoragePolicy
    backend: StorageBackend
    window: Window | None
    filename: str | None
    disposition: Disposition | None

    @property
    def name(self) -> str | None:
        """The name it is saved under."""
        return self.filename or clean_filename(self.ref.original_filename)

    @property
    def blocks(self) -> bool:
        """Whether carrying it out may have to renew credentials."""
        return self.way is Way.PRESIGNED


def check_lifetime(name: str, value: timedelta) -> None:
    """Refuse a length of time that no address can have.

    Raises:
        ConfigurationError: It is nothing, or over ten years.
    """
    if not timedelta(0) < value <= _LONGEST:
        raise ConfigurationError(f"{name} is longer than nothing and at most ten years", limit=_LONGEST, value=value)
