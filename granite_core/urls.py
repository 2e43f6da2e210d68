"""Links: which address a file is given, and what an address of ours leads to.

What to do is planned here and carried out by the manager. A link of the application is a sealed token that holds all
its answer needs; a presigned address is the store's. Both begin at the start of a time bucket, so that asking twice
within it gives the same address, and a browser finds what it fetched before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, urlsplit

import msgspec

from granite_core.backends.base import Capability, StorageBackend
from granite_core.caching import Address, cache_control
from granite_core.errors import ConfigurationError, TokenInvalidError
from granite_core.media import clean_filename
from granite_core.options import WriteOptions
from granite_core.policies import Delivery, StoragePolicy
from granite_core.refs import StoredObjectRef, timestamp
from granite_core.serving import served_disposition, served_type
from granite_core.signing import Sealer

__all__ = [
    "Disposition",
    "FileLink",
    "KeyValue",
    "Links",
    "RowLink",
    "RowTarget",
    "UrlPlan",
    "UrlSettings",
    "Way",
    "Window",
    "options_for",
    "window",
]

Disposition: TypeAlias = Literal["auto", "attachment"]

KeyValue: TypeAlias = str | int | float | bool | None

_FILE: Final = "file"
_ROW: Final = "row"
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_SHA256: Final = re.compile(r"sha256:([0-9a-f]{64})")
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
                _check_lifetime(name, value)


@dataclass(frozen=True, slots=True)
class Window:
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


@dataclass(frozen=True, slots=True)
class RowTarget:
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


class _FileClaims(msgspec.Struct, array_like=True, frozen=True):
    storage_key: str
    backend: str
    location: str
    size: int
    digest: bytes
    content_type: str | None
    original_filename: str | None
    created_at: int | None
    disposition: Disposition | None = None
    filename: str | None = None


class _RowClaims(msgspec.Struct, array_like=True, frozen=True):
    table: str
    column: str
    key: tuple[KeyValue, ...]
    item: str | None
    disposition: Disposition | None


class Links:
    """Makes addresses and reads links. What it is asked for is settled here, what is stored where in the manager.

    Args:
        settings: How.

    Raises:
        ConfigurationError: A secret is too short.
        MissingExtraError: There are secrets, and ``cryptography`` is not installed.
    """

    def __init__(self, settings: UrlSettings) -> None:
        self.settings: Final = settings
        self._sealer: Final = Sealer(settings.secrets) if settings.secrets else None

    def plan(
        self,
        ref: StoredObjectRef,
        policy: StoragePolicy,
        backend: StorageBackend,
        *,
        now: datetime,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
        filename: str | None = None,
        delivery: Delivery | None = None,
    ) -> UrlPlan:
        """Decide how a file is given an address.

        Raises:
            ConfigurationError: It cannot be, as things are set up; the message says what to add.
        """
        if expires_in is not None:
            _check_lifetime("expires_in", expires_in)
        if policy.verify_reads:
            delivery = "stream"  # what a store sends by itself cannot be verified
        name = clean_filename(filename)
        custom = name is not None or disposition is not None
        until: Window | None = None
        if policy.public and expires_in is None:
            offered = Capability.PUBLIC_ADDRESS in backend.capabilities and delivery != "stream" and not custom
            way = Way.PUBLIC_ADDRESS if offered else Way.PUBLIC_LINK
        else:
            until = window(now, expires_in or self.settings.expires_in, self.settings.bucket)
            offered = (delivery or policy.delivery) != "stream" and _can_presign(backend, until)
            way = Way.PRESIGNED if offered else Way.SIGNED_LINK
        if way in (Way.PUBLIC_LINK, Way.SIGNED_LINK):
            self._seal_with()
        return UrlPlan(way, ref, policy, backend, until, name, disposition)

    def plan_redirect(
        self,
        ref: StoredObjectRef,
        policy: StoragePolicy,
        backend: StorageBackend,
        *,
        now: datetime,
        disposition: Disposition | None = None,
        filename: str | None = None,
    ) -> UrlPlan | None:
        """Decide where a client can be sent that asked the application for a file; None where the store has no way."""
        if policy.verify_reads:
            return None
        until = window(now, self.settings.redirect_expires_in, self.settings.bucket)
        name = clean_filename(filename)
        public = policy.public and Capability.PUBLIC_ADDRESS in backend.capabilities
        if public and name is None and disposition is None:
            return UrlPlan(Way.PUBLIC_ADDRESS, ref, policy, backend, None, name, disposition)
        if _can_presign(backend, until):
            return UrlPlan(Way.PRESIGNED, ref, policy, backend, until, name, disposition)
        return None

    def carry_out(self, plan: UrlPlan, *, method: Literal["GET", "HEAD"] = "GET") -> str:
        """Return the address that was planned. May block where ``plan.blocks``.

        Raises:
            BackendError: The store's credentials cannot be had.
        """
        ref = plan.ref
        if plan.way is Way.PUBLIC_ADDRESS and (address := plan.backend.public_address(ref.location)) is not None:
            return address
        if plan.way is Way.PRESIGNED and plan.window is not None:
            kind = served_type(ref.content_type)
            return plan.backend.presign_get(
                ref.location,
                starts=plan.window.starts,
                expires_in=plan.window.lasts,
                method=method,
                content_type=kind,
                content_disposition=served_disposition(kind, plan.name, plan.disposition or plan.policy.disposition),
                # No age: the store's ``Expires`` says when the address ends, and a copy with it.
                cache_control="private, immutable" if plan.policy.immutable else "private",
            )
        claims = _FileClaims(
            ref.storage_key,
            ref.backend,
            ref.location,
            ref.size,
            _digest(ref.checksum),
            ref.content_type,
            clean_filename(ref.original_filename),
            _second(ref.created_at),
            plan.disposition,
            plan.filename,
        )
        return self._address(_FILE, claims, None if plan.window is None else plan.window.ends, plan.name)

    def row_address(
        self,
        target: RowTarget,
        *,
        now: datetime,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
    ) -> str:
        """Return a link to whatever a row holds when it is used.

        Raises:
            ConfigurationError: There is no secret; a lifetime that is none.
        """
        if expires_in is not None:
            _check_lifetime("expires_in", expires_in)
        until = window(now, expires_in or self.settings.expires_in, self.settings.bucket)
        claims = _RowClaims(target.table, target.column, target.key, target.item, disposition)
        return self._address(_ROW, claims, until.ends, clean_filename(target.filename))

    def read(self, token: str, now: datetime) -> FileLink | RowLink:
        """Read the token of a link.

        Raises:
            TokenInvalidError: It is none of ours.
            TokenExpiredError: It was good, and is no longer.
        """
        if self._sealer is None:
            raise TokenInvalidError("there are no links", operation="open")
        try:
            opened = self._sealer.open(_FILE, token, _FileClaims, now=now)
        except TokenInvalidError:
            row = self._sealer.open(_ROW, token, _RowClaims, now=now)
            at = row.value
            return RowLink(at.table, at.column, at.key, at.item, at.disposition, row.expires)
        claims = opened.value
        ref = StoredObjectRef(
            claims.storage_key,
            claims.backend,
            claims.location,
            claims.size,
            f"sha256:{claims.digest.hex()}" if claims.digest else "",
            claims.content_type,
            claims.original_filename,
            None if claims.created_at is None else timestamp(datetime.fromtimestamp(claims.created_at, UTC)),
        )
        return FileLink(ref, claims.filename, claims.disposition, opened.expires)

    def _address(self, purpose: str, claims: msgspec.Struct, ends: datetime | None, filename: str | None) -> str:
        token = self._seal_with().seal(purpose, claims, expires=ends)
        base = (self.settings.public_url or "").rstrip("/")
        # The name is for people, and for programs that save what they fetch under it; nothing is read from it.
        return f"{base}{self.settings.path}/{token}/{quote(filename or 'file', safe='')}"

    def _seal_with(self) -> Sealer:
        if self._sealer is None:
            raise ConfigurationError(
                "links of the application need a secret: StorageManager(..., urls=UrlSettings(secrets=[...]))",
                operation="url",
            )
        return self._sealer


def options_for(policy: StoragePolicy, content_type: str | None, filename: str | None) -> WriteOptions:
    """Return what to ask of the store for a new object of a policy.

    Where everybody may have it from the store itself, it carries there what our own answers say: how a browser is to
    treat it, and how long a copy is good. What the policy asks for itself stays.
    """
    asked = policy.store
    if not policy.public:
        return asked
    disposition = served_disposition(served_type(content_type), filename, policy.disposition)
    return replace(
        asked,
        content_disposition=disposition if asked.content_disposition is None else asked.content_disposition,
        cache_control=(
            cache_control(Address.LINK, policy, everybody=True) if asked.cache_control is None else asked.cache_control
        ),
    )


def _can_presign(backend: StorageBackend, until: Window) -> bool:
    return Capability.PRESIGNED_GET in backend.capabilities and until.lasts <= backend.presign_limit


def _check_lifetime(name: str, value: timedelta) -> None:
    if not timedelta(0) < value <= _LONGEST:
        raise ConfigurationError(f"{name} is longer than nothing and at most ten years", limit=_LONGEST, value=value)


def _digest(checksum: str) -> bytes:
    """The bytes of a SHA-256, half as long as its digits; none of what is no SHA-256, which no answer tells."""
    match = _SHA256.fullmatch(checksum)
    return bytes.fromhex(match[1]) if match else b""


def _second(created_at: str | None) -> int | None:
    """The second it was stored in: all that an answer tells of it."""
    try:
        moment = datetime.fromisoformat(created_at or "")
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None
