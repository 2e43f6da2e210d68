"""The route that answers the application's links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from litestar import Request
from litestar.handlers import HTTPRouteHandler

from granite_core import ConfigurationError
from granite_core.serving import Address, cache_control
from granite_litestar._openapi_problems import problem
from granite_litestar._state import async_manager_of
from granite_litestar.exceptions import UNLOGGED_PATH_OPT_KEY
from granite_litestar.openapi import describe_download
from granite_litestar.responses import FileDownload

if TYPE_CHECKING:
    from granite_core import FileLink, StorageManager

__all__ = ["LINK_ROUTE_NAME", "build_link_handler"]

LINK_ROUTE_NAME: Final = "granite.link"
"""Name of the handler."""

_NO_AUTHENTICATION: Final = "exclude_from_auth"
"""Litestar's authentication, unless told otherwise, lets handlers with this in their ``opt`` alone."""


def build_link_handler(manager: StorageManager, app_path: str, compression_opt_key: str) -> HTTPRouteHandler | None:
    """Make the handler of ``UrlSettings.path``; None where no secret is set, and so no link can be.

    Args:
        manager: Whose links are answered.
        app_path: The path under which the application answers everything (``Litestar(path=…)``).
        compression_opt_key: Key in a handler's ``opt`` that the application's compression heeds.

    Raises:
        ConfigurationError: Links do not begin with ``app_path``.
    """
    settings = manager.links.settings
    if not settings.secrets:
        return None
    base = app_path.rstrip("/")
    if not settings.path.startswith(f"{base}/"):
        raise ConfigurationError(
            f"the application answers under {app_path!r} only: say UrlSettings(path={base + settings.path!r})",
            value=settings.path,
        )

    async def follow(request: Request[Any, Any, Any]) -> FileDownload:
        # The name at the end of the path is for people: nothing is read from it.
        link = manager_of(request).resolve_link(request.path_params["token"])
        return answer(manager_of(request), link)

    follow.__doc__ = "Download the file that a link leads to."
    handler = HTTPRouteHandler(
        f"{settings.path[len(base) :]}/{{token:str}}/{{filename:str}}",
        http_method=["GET", "HEAD"],
        name=LINK_ROUTE_NAME,
        opt={compression_opt_key: True, _NO_AUTHENTICATION: True, UNLOGGED_PATH_OPT_KEY: True},
        responses={
            404: problem("There is no such link, or its file is gone."),
            410: problem("The link has ended."),
        },
        security=[],
        summary="Download by a link",
    )(follow)
    redirects = any(policy.delivery != "stream" for policy in manager.policies.values())
    describe_download(handler, subject="file link", redirects=redirects)
    return handler


def manager_of(request: Request[Any, Any, Any]) -> StorageManager:
    """The manager of the application that is asked."""
    return async_manager_of(request.app).sync


def answer(manager: StorageManager, link: FileLink) -> FileDownload:
    """Answer with the file of a link.

    Who has the link may have the file, on whatever page: there is no other permission that a page could misuse.
    """
    policy, everybody = manager.policy_of(link.ref), link.expires is None
    remaining = None if link.expires is None else link.expires - manager.now()
    # Whoever follows a way that was remembered must find its end still good, and have time.
    way = manager.links.settings.redirect_expires_in / 2
    return FileDownload(
        link.ref,
        disposition=link.disposition,
        cache_control=cache_control(Address.LINK, policy, everybody=everybody, remaining=remaining),
        redirect_cache_control=cache_control(
            Address.LINK_REDIRECT,
            policy,
            everybody=everybody,
            remaining=way if remaining is None else min(way, remaining),
        ),
        cross_origin_resource_policy="cross-origin",
        headers={"Referrer-Policy": "no-referrer"},
    )
