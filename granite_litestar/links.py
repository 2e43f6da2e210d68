"""The route that answers the application's links."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from litestar import Request
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from sqlalchemy import inspect

from granite_core import ConfigurationError, FileLink
from granite_core.integrations.sqlalchemy import link_column, link_content, link_query
from granite_core.serving import Address, cache_control, may_redirect
from granite_litestar._openapi_problems import problem
from granite_litestar._rows import read_one, session_of
from granite_litestar.exceptions import UNLOGGED_PATH_OPT_KEY
from granite_litestar.openapi import describe_download
from granite_litestar.responses import FileDownload

if TYPE_CHECKING:
    from sqlalchemy import Column, MetaData

    from granite_core import RowLink, StorageManager
    from granite_litestar.downloads import FileRoute

__all__ = ["LINK_ROUTE_NAME", "LinkRoute"]

LINK_ROUTE_NAME: Final = "granite.link"
"""Name of the handler."""

_NO_AUTHENTICATION: Final = "exclude_from_auth"
"""Litestar's authentication, unless told otherwise, lets handlers with this in their ``opt`` alone."""

_GONE: Final = "The file does not exist."


class LinkRoute:
    """Answers what ``StorageManager.url`` gives out: links to objects, and links to what a row holds.

    Who has a link may have its file, on whatever page: there is no other permission that a page could misuse.

    Args:
        manager: Whose links are answered.
        metadatas: Tells where the rows are that links may name.
        routes: The application's downloads: a link to a row opens its session as the field's route does.
    """

    def __init__(
        self, manager: StorageManager, metadatas: Callable[[], Sequence[MetaData]], routes: Sequence[FileRoute] = ()
    ) -> None:
        self._manager = manager
        self._metadatas = metadatas
        self._routes = routes

    def handler(self, app_path: str, compression_opt_key: str) -> HTTPRouteHandler | None:
        """Make the handler of ``UrlSettings.path``; None where no secret is set, and so no link can be.

        Args:
            app_path: The path under which the application answers everything (``Litestar(path=…)``).
            compression_opt_key: Key in a handler's ``opt`` that the application's compression heeds.

        Raises:
            ConfigurationError: Links do not begin with ``app_path``.
        """
        settings = self._manager.links.settings
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
            link = self._manager.resolve_link(request.path_params["token"])
            return self._to_object(link) if isinstance(link, FileLink) else await self._to_row(link, request)

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
        redirects = any(may_redirect(policy.delivery) for policy in self._manager.policies.values())
        describe_download(handler, subject="file link", redirects=redirects)
        return handler

    def _to_object(self, link: FileLink) -> FileDownload:
        manager = self._manager
        policy, everybody = manager.policy_of(link.ref), link.expires is None
        remaining = None if link.expires is None else link.expires - manager.now()
        # Whoever follows a way that was remembered must find its end still good, and have time.
        way = manager.links.settings.redirect_expires_in / 2
        return FileDownload(
            link.ref,
            disposition=link.disposition,
            filename=link.filename,
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

    async def _to_row(self, link: RowLink, request: Request[Any, Any, Any]) -> FileDownload:
        column = link_column(self._metadatas(), link)
        if column is None:
            raise NotFoundException(_GONE)
        try:
            query = link_query(column, link)
        except ValueError as error:  # the table has another key since
            raise NotFoundException(_GONE) from error
        route = self._route_of(column)
        opened = session_of(request.app, column.table, None) if route is None else route.open_session(request)
        ref = link_content(link, await read_one(opened, query))
        if ref is None:
            raise NotFoundException(_GONE)
        return FileDownload(
            ref,
            disposition=link.disposition or (None if route is None else route.disposition),
            cache_control=cache_control(Address.ROW),
            delivery=None if route is None else route.delivery,
            cross_origin_resource_policy="cross-origin",
            headers={"Referrer-Policy": "no-referrer"},
        )

    def _route_of(self, column: Column[Any]) -> FileRoute | None:
        return next(
            (each for each in self._routes if inspect(each.field.class_).columns[each.field.key] is column), None
        )
