"""What a client is told of an upload: requests that are signed for the store, or sealed for the application."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from granite_core.errors import ConfigurationError, UploadGoneError, UploadOffsetError
from granite_core.uploads.direct.plan import DirectPlan, DirectSettings, DirectWay
from granite_core.uploads.sessions import UploadSession, UploadStatus

if TYPE_CHECKING:
    from granite_core.backends.base import SignedRequest
    from granite_core.manager import StorageManager
    from granite_core.signing import Sealer

__all__ = ["CHECKSUM", "Address", "Claims", "DirectInstructions", "DirectParts", "DirectRequest", "Teller", "named"]

PURPOSE: Final = "direct"
CHECKSUM: Final = "sha256"
"""In the details of a session: what the client says of the bytes."""

Address: TypeAlias = Callable[[str], str]
"""Gives the address at which the application takes the bytes that a token is for."""


class DirectRequest(msgspec.Struct, frozen=True):
    """A request by which a client sends bytes.

    Args:
        method: ``PUT``: the body is the bytes. ``POST``: a form, whose last part is the file.
        url: Where to; relative to the application where it has no host.
        headers: What must be sent with it, each as it is here.
        fields: Texts of the form; all come before the file, which is called ``file``.
    """

    method: Annotated[Literal["PUT", "POST"], Meta(description="`PUT`: the body is the bytes. `POST`: a form.")]
    url: Annotated[str, Meta(description="Where to; relative to this API where it has no host.")]
    headers: Annotated[dict[str, str], Meta(description="What to send with it, each as it is here.")]
    fields: Annotated[dict[str, str], Meta(description="Texts of the form, all before the file, called `file`.")]


class DirectParts(msgspec.Struct, frozen=True):
    """The requests for some of an upload's parts.

    Args:
        size: Length in bytes of each part but the last.
        count: How many parts there are.
        first: Number of the part that the first of the requests is for, from 1.
        requests: One for each part, in order; ask for those that follow.
    """

    size: Annotated[int, Meta(description="Length in bytes of each part but the last.")]
    count: Annotated[int, Meta(description="How many parts there are.")]
    first: Annotated[int, Meta(description="Number of the part that the first request is for, from 1.")]
    requests: Annotated[list[DirectRequest], Meta(description="One for each part, in order.")]


class DirectInstructions(msgspec.Struct, frozen=True):
    """What a client is told of an upload.

    Args:
        id: Its id.
        way: How the bytes are sent.
        expires: When the upload ends unless it is completed.
        requests_expire: When the requests stop being good; newer ones may be asked for.
        request: What to send, where it is one request.
        parts: What to send, where it is several.
    """

    id: Annotated[str, Meta(description="Names the upload.")]
    way: Annotated[Literal["put", "post", "parts"], Meta(description="How the bytes are sent.")]
    expires: Annotated[datetime, Meta(description="When the upload ends unless it is completed.")]
    requests_expire: Annotated[datetime, Meta(description="When the requests stop being good; ask for newer ones.")]
    request: Annotated[DirectRequest | None, Meta(description="What to send, where it is one request.")] = None
    parts: Annotated[DirectParts | None, Meta(description="What to send, where it is several.")] = None


class Claims(msgspec.Struct, array_like=True, frozen=True):
    """What an address of the application's own is good for."""

    upload: str
    subject: str
    key: str
    min_size: int
    max_size: int
    checksum: str | None
    redirect: str | None


class Teller:
    """Says how the bytes of uploads are sent. Safe to share.

    Args:
        manager: Whose backends sign, and whose secrets seal.
        settings: For how long requests are good, and how many are told at a time.
        address: Gives the address at which the application takes what the store cannot.

    Raises:
        ConfigurationError: The manager has no secrets.
    """

    def __init__(self, manager: StorageManager, settings: DirectSettings, address: Address) -> None:
        sealer = manager.links.sealer
        if sealer is None:
            raise ConfigurationError(
                "direct uploads need a secret: StorageManager(..., urls=UrlSettings(secrets=[...]))", field="secrets"
            )
        self._sealer: Final[Sealer] = sealer
        self._manager = manager
        self._settings = settings
        self._address = address

    def tell(self, session: UploadSession, *, first: int, redirect: str | None) -> DirectInstructions:
        """Return the instructions; see ``Direct.instructions``."""
        if session.status is not UploadStatus.RECEIVING or session.planned is None:
            raise UploadOffsetError("the upload is finished", operation="direct", limit=session.length)
        plan = DirectPlan.from_details(session.details)
        starts = self._manager.now().replace(microsecond=0)
        backend = self._manager.get_backend(session.backend)
        lasts = min(self._settings.requests_expire_in, session.expires_at - starts)
        if plan.native:
            lasts = min(lasts, backend.presign_limit)
        lasts = timedelta(seconds=max(1, int(lasts.total_seconds())))
        signed = partial(self._by_store if plan.native else self._by_application, session, plan, starts, lasts)
        told = DirectInstructions(session.id, plan.way.value, session.expires_at, starts + lasts)
        if plan.way is not DirectWay.PARTS:
            return msgspec.structs.replace(told, request=signed(None, redirect))
        if not 1 <= first <= plan.count:
            raise UploadOffsetError(
                f"there are parts 1 to {plan.count}",
                operation="direct",
                field="first",
                limit=plan.count,
                value=first,
            )
        numbers = range(first, min(first + self._settings.page, plan.count + 1))
        requests = [signed(number, None) for number in numbers]
        return msgspec.structs.replace(told, parts=DirectParts(plan.part_size, plan.count, first, requests))

    def _by_store(
        self,
        session: UploadSession,
        plan: DirectPlan,
        starts: datetime,
        lasts: timedelta,
        number: int | None,
        redirect: str | None,
    ) -> DirectRequest:
        backend = self._manager.get_backend(session.backend)
        if number is not None:
            upload, size = named(session), plan.length_of(number)
            return _told(backend.presign_part(plan.key, upload, number, starts=starts, expires_in=lasts, size=size))
        kind, checksum = _type_of(session), session.details.get(CHECKSUM)
        if plan.way is DirectWay.PUT:
            return _told(
                backend.presign_put(
                    plan.key,
                    starts=starts,
                    expires_in=lasts,
                    size=plan.limit,
                    content_type=kind,
                    checksum=checksum,
                )
            )
        return _told(
            backend.presign_post(
                plan.key,
                starts=starts,
                expires_in=lasts,
                min_size=plan.size or 0,
                max_size=plan.limit,
                content_type=kind,
                checksum=checksum,
                redirect=redirect,
            )
        )

    def _by_application(
        self,
        session: UploadSession,
        plan: DirectPlan,
        starts: datetime,
        lasts: timedelta,
        number: int | None,
        redirect: str | None,
    ) -> DirectRequest:
        whose = session.id, session.subject
        if number is not None:
            size = plan.length_of(number)
            claims = Claims(*whose, plan.part_key(number), size, size, None, None)
            return DirectRequest("PUT", self._sealed(claims, starts + lasts), {}, {})
        is_form, kind = plan.way is DirectWay.POST, _type_of(session)
        described = {} if kind is None else {"Content-Type": kind}
        page = redirect if is_form else None
        checksum = session.details.get(CHECKSUM)
        url = self._sealed(Claims(*whose, plan.key, plan.size or 0, plan.limit, checksum, page), starts + lasts)
        return DirectRequest("POST", url, {}, described) if is_form else DirectRequest("PUT", url, described, {})

    def _sealed(self, claims: Claims, expires: datetime) -> str:
        return self._address(self._sealer.seal(PURPOSE, claims, expires=expires))

    def open(self, token: str) -> Claims:
        """Return what the token of one of the application's own addresses is for; see ``Direct.opened``."""
        return self._sealer.open(PURPOSE, token, Claims, now=self._manager.now()).value


def named(session: UploadSession) -> str:
    """Return the store's name of an object that a client writes in parts."""
    if session.progress.upload is None:
        raise UploadGoneError("the upload has ended", operation="direct", location=session.location)
    return session.progress.upload


def _type_of(session: UploadSession) -> str | None:
    return None if session.planned is None else session.planned.content_type


def _told(signed: SignedRequest) -> DirectRequest:
    return DirectRequest(signed.method, signed.url, dict(signed.headers), dict(signed.fields))
