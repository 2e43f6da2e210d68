"""Stored files as responses of handlers: what is asked for is read off the request, and planned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from litestar.exceptions import ImproperlyConfiguredException
from litestar.response import Response

from granite_core.offloading import OFFLOAD_TOKEN_HEADER, offloaded_headers
from granite_core.serving import (
    NO_STORE,
    PRIVATE_NO_CACHE,
    ServePlan,
    ServeSettings,
    may_offload,
    may_redirect,
    plan_download,
)
from granite_litestar._redirects import ASGIFileRedirect
from granite_litestar._sending import ASGIFileDownload, Handover
from granite_litestar._state import async_manager_of, offload_of

if TYPE_CHECKING:
    from litestar import Litestar, Request
    from litestar.background_tasks import BackgroundTask, BackgroundTasks
    from litestar.datastructures import Cookie
    from litestar.enums import MediaType
    from litestar.types import ResponseCookies, ResponseHeaders, TypeEncodersMap

    from granite_core import AsyncStorageManager, Delivery, StoragePolicy, StoredObjectRef, UrlPlan

__all__ = ["FileDownload"]

Disposition: TypeAlias = Literal["auto", "attachment"]
ResourcePolicy: TypeAlias = Literal["same-origin", "same-site", "cross-origin"]

_HEEDED: Final = {
    name.lower().encode(): name.lower()
    for name in (
        *("If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range"),
        OFFLOAD_TOKEN_HEADER,
    )
}
"""Fields of a request that a plan depends on."""

_DECIDED_BY_THE_PLAN: Final = frozenset(
    {
        "accept-ranges", "allow", "content-digest", "content-encoding", "content-length", "content-range",
        "content-type", "etag", "last-modified", "repr-digest", "transfer-encoding", "x-content-type-options",
    }
)  # fmt: skip
"""Headers that the bytes depend on: nobody else may set them on a file's response."""


class FileDownload(Response[None]):
    """A stored file as the response of a handler.

    Answers ranges and conditional requests, streams in constant memory, and lets go of the file when the client
    leaves. The handler is a route for GET and HEAD, since files are asked for by both::

        @route("/reports/{year:int}", http_method=["GET", "HEAD"], guards=[staff])
        async def report(year: int, db_session: NamedDependency[AsyncSession]) -> FileDownload:
            ...
            return FileDownload(report.file)

    HEAD, 304, 412 and 416 touch no storage. A missing object is a 404, and an error in the log of ``granite.served``.
    To other methods, for instance a POST that makes an export, the whole file is the answer.

    Headers and cookies that the application sets are kept. What describes the bytes (their type, length, range,
    validators and digests) is not the application's to set; a ``Content-Security-Policy`` is sent beside ours.

    Args:
        ref: The file to send, which the client may have: whoever returns it has checked that.
        disposition: ``"auto"`` shows safe types in the browser and offers the rest for download; ``"attachment"``
            offers everything for download. By default what the policy of the ref says.
        filename: Name to offer instead of the one the file came with.
        cache_control: Value of ``Cache-Control``.
        delivery: ``"stream"``, ``"redirect"``, ``"offload"`` or ``"auto"``: whether clients are sent to the store, or
            the web server in front sends the file. By default what the policy of the ref says. Where the store has no
            address, and the web server no name for the file, it is streamed.
        redirect_cache_control: Value of ``Cache-Control`` of the way there. By default it is asked each time.
        cross_origin_resource_policy: Which sites may embed the file.
        background: Task to run after the response.
        cookies: Cookies to set.
        headers: Further headers.

    Raises:
        ValueError: A value that cannot stand in a header.
    """

    __slots__ = ("_chosen", "_delivery", "_disposition", "_redirect_cache_control", "ref")

    def __init__(
        self,
        ref: StoredObjectRef,
        *,
        disposition: Disposition | None = None,
        filename: str | None = None,
        cache_control: str = PRIVATE_NO_CACHE,
        delivery: Delivery | None = None,
        redirect_cache_control: str = NO_STORE,
        cross_origin_resource_policy: ResourcePolicy = "same-origin",
        background: BackgroundTask | BackgroundTasks | None = None,
        cookies: ResponseCookies | None = None,
        headers: ResponseHeaders | None = None,
    ) -> None:
        super().__init__(content=None, background=background, cookies=cookies, headers=headers)
        self.ref = ref
        self._delivery = delivery
        self._disposition = disposition
        self._redirect_cache_control = redirect_cache_control
        self._chosen = (filename, cache_control, cross_origin_resource_policy)
        _settings(disposition or "attachment", *self._chosen)  # refuses what cannot be, here and not in the answer

    def to_asgi_response(
        self,
        app: Litestar | None,
        request: Request[Any, Any, Any],
        *,
        background: BackgroundTask | BackgroundTasks | None = None,
        cookies: Iterable[Cookie] | None = None,
        encoded_headers: Iterable[tuple[bytes, bytes]] | None = None,
        headers: dict[str, str] | None = None,
        is_head_response: bool = False,
        media_type: MediaType | str | None = None,
        status_code: int | None = None,
        type_encoders: TypeEncodersMap | None = None,
    ) -> ASGIFileDownload | ASGIFileRedirect:
        """Plan the answer to a request. No I/O.

        Args:
            app: Not used.
            request: What the plan answers.
            background: Task of the handler, unless the response has its own.
            cookies: Cookies of the handler's layers.
            encoded_headers: Not used.
            headers: Headers of the handler's layers.
            is_head_response: Not used: the request says so.
            media_type: Not used: the file has its own.
            status_code: Not used: the plan has its own.
            type_encoders: Not used.

        Raises:
            ImproperlyConfiguredException: No manager, or the handler's response is to be cached by Litestar.
        """
        if getattr(request.route_handler, "cache", False):
            raise ImproperlyConfiguredException(
                "Litestar's response cache would hold whole files in memory, and give one range for another: "
                "remove `cache` from this handler and say `cache_control=` on FileDownload"
            )
        manager = async_manager_of(request.app)
        policy = manager.sync.policy_of(self.ref)
        settings = _settings(self._disposition or policy.disposition, *self._chosen)
        cookies = [*self.cookies, *(cookies or ())]
        background = self.background or background
        if (target := self._target(manager, policy)) is not None:
            resources = ("Cross-Origin-Resource-Policy", settings.cross_origin_resource_policy)
            planned = (("Cache-Control", self._redirect_cache_control), resources)
            # How long the file may be kept says nothing about the way to it.
            own = {name: value for name, value in self.headers.items() if name.lower() != "cache-control"}
            merged = _merged(planned, layered=headers or {}, own=own)
            return ASGIFileRedirect(
                manager, self.ref, target, request.method, headers=merged, cookies=cookies, background=background
            )
        conditional = request.method in ("GET", "HEAD")
        fields = _fields(request) if conditional else {}
        method = request.method if conditional else "GET"
        plan = plan_download(method, fields, self.ref, now=manager.sync.now(), settings=settings)
        merged = _merged(plan.headers, layered=headers or {}, own=self.headers)
        return ASGIFileDownload(
            manager,
            self.ref,
            plan,
            headers=merged,
            cookies=cookies,
            background=background,
            handover=self._handover(request, manager, policy, fields, plan, merged),
        )

    def _target(self, manager: AsyncStorageManager, policy: StoragePolicy) -> UrlPlan | None:
        """Where to send the client, or None to send the file."""
        if not may_redirect(self._delivery or policy.delivery):
            return None
        return manager.sync.plan_redirect(self.ref, disposition=self._disposition, filename=self._chosen[0])

    def _handover(
        self,
        request: Request[Any, Any, Any],
        manager: AsyncStorageManager,
        policy: StoragePolicy,
        fields: dict[str, str],
        plan: ServePlan,
        headers: Sequence[tuple[str, str]],
    ) -> Handover | None:
        """How the web server in front is to send the file; None where it must not, or there is none."""
        if not may_offload(self._delivery or policy.delivery) or policy.verify_reads:
            return None
        offload = offload_of(request.app)
        if offload is None or not offload.trusts(fields.get(OFFLOAD_TOKEN_HEADER.lower())):
            return None
        kept = offloaded_headers(request.method, fields, plan, headers, self.ref.content_type)
        return None if kept is None else Handover(offload, kept)


@lru_cache(maxsize=1024)
def _settings(
    disposition: Disposition, filename: str | None, cache_control: str, cross_origin_resource_policy: ResourcePolicy
) -> ServeSettings:
    return ServeSettings(disposition, filename, cache_control, cross_origin_resource_policy)


def _fields(request: Request[Any, Any, Any]) -> dict[str, str]:
    """What a plan depends on of a request's fields, repeated ones joined as RFC 9110, section 5.2, allows."""
    fields: dict[str, str] = {}
    for name, value in request.scope["headers"]:
        if (key := _HEEDED.get(name)) is not None:
            text = value.decode("latin-1")
            fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields


def _merged(
    planned: Sequence[tuple[str, str]], *, layered: dict[str, str], own: dict[str, Any]
) -> Sequence[tuple[str, str]]:
    """Put the plan's headers and the application's together.

    Headers of the response itself override the plan's, those of its layers (``response_headers``, ``cache_control``)
    do not: an application that lets its pages be cached in public has not meant its private files.
    """
    if not layered and not own:
        return planned
    decided = {name.lower() for name, _ in planned} | _DECIDED_BY_THE_PLAN
    override = {name.lower() for name in own} - _DECIDED_BY_THE_PLAN - {"content-security-policy"}
    headers = [(name, value) for name, value in planned if name.lower() not in override]
    for name, value in {**layered, **own}.items():
        key = name.lower()
        if key == "content-security-policy" or key in override or key not in decided:
            headers.append((name, str(value)))
    return headers
