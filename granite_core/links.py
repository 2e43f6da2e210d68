"""The application's links, and the store's: planned, made, and read.

A link of the application is a sealed token that holds all its answer needs. A presigned address is the store's.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from granite_core.backends.base import Capability, StorageBackend
from granite_core.caching import Address, cache_control
from granite_core.errors import ConfigurationError, TokenInvalidError
from granite_core.media import clean_filename
from granite_core.policies import Delivery, StoragePolicy, may_redirect
from granite_core.refs import StoredObjectRef, timestamp
from granite_core.serving import served_disposition, served_type
from granite_core.signing import Sealer
from granite_core.urls import (
    Disposition,
    FileLink,
    KeyValue,
    RowLink,
    RowTarget,
    UrlPlan,
    UrlSettings,
    Way,
    Window,
    check_lifetime,
    window,
)

__all__ = ["Links"]

_FILE: Final = "file"
_ROW: Final = "row"
_ADDRESSES: Final = frozenset({Capability.PRESIGNED_GET, Capability.PUBLIC_ADDRESS})
_SHA256: Final = re.compile(r"sha256:([0-9a-f]{64})")


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
            check_lifetime("expires_in", expires_in)
        if policy.verify_reads:
            delivery = "stream"  # what a store sends by itself cannot be verified
        name = clean_filename(filename)
        custom = name is not None or disposition is not None
        until: Window | None = None
        if policy.public and expires_in is None:
            ours = delivery is not None and not may_redirect(delivery)
            offered = Capability.PUBLIC_ADDRESS in backend.capabilities and not ours and not custom
            way = Way.PUBLIC_ADDRESS if offered else Way.PUBLIC_LINK
        else:
            until = window(now, expires_in or self.settings.expires_in, self.settings.bucket)
            offered = may_redirect(delivery or policy.delivery) and _can_presign(backend, until)
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
        if policy.verify_reads or not backend.capabilities & _ADDRESSES:
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
                content_disposition=served_disposition(
                    ref.content_type, plan.name, plan.disposition or plan.policy.disposition
                ),
                cache_control=_of_the_store(plan.policy, plan.window.lasts),
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
            check_lifetime("expires_in", expires_in)
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

    @property
    def sealer(self) -> Sealer | None:
        """What seals links, and whatever else the application hands out; None without secrets."""
        return self._sealer

    def _seal_with(self) -> Sealer:
        if self._sealer is None:
            raise ConfigurationError(
                "links of the application need a secret: StorageManager(..., urls=UrlSettings(secrets=[...]))",
                operation="url",
            )
        return self._sealer


def _can_presign(backend: StorageBackend, until: Window) -> bool:
    return Capability.PRESIGNED_GET in backend.capabilities and until.lasts <= backend.presign_limit


def _of_the_store(policy: StoragePolicy, lasts: timedelta) -> str:
    """``Cache-Control`` of what the store answers. Without an age, copies end when the address does (``Expires``)."""
    if policy.cache_max_age is not None and policy.cache_max_age < lasts:
        return cache_control(Address.LINK, policy, remaining=policy.cache_max_age)
    return "private, immutable" if policy.immutable else "private"


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
