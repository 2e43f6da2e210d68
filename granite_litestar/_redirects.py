"""Sending clients to where the store itself gives a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from litestar.response.base import ASGIResponse

from granite_core import StorageError
from granite_litestar._outcome import Outcome
from granite_litestar.exceptions import status_of

if TYPE_CHECKING:
    from litestar.background_tasks import BackgroundTask, BackgroundTasks
    from litestar.datastructures import Cookie
    from litestar.types import Receive, Scope, Send

    from granite_core import AsyncStorageManager, StoredObjectRef, UrlPlan

__all__ = ["ASGIFileRedirect"]


class ASGIFileRedirect(ASGIResponse):
    """Answers with the store's address of a file, which is made when it is sent.

    302 for GET and HEAD, each with an address that is good for itself; 303 for other methods, which leads to a GET.
    """

    __slots__ = ("_manager", "_method", "_plan", "_ref")

    def __init__(
        self,
        manager: AsyncStorageManager,
        ref: StoredObjectRef,
        plan: UrlPlan,
        method: str,
        *,
        headers: Iterable[tuple[str, str]],
        cookies: Iterable[Cookie],
        background: BackgroundTask | BackgroundTasks | None = None,
    ) -> None:
        # As a response to HEAD: Litestar would add a type and a length of its own otherwise.
        super().__init__(
            background=background,
            cookies=cookies,
            headers=[*headers, ("Content-Length", "0")],
            is_head_response=True,
            status_code=302 if method in ("GET", "HEAD") else 303,
        )
        self._manager = manager
        self._ref = ref
        self._plan = plan
        self._method: Literal["GET", "HEAD"] = "HEAD" if method == "HEAD" else "GET"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response.

        Raises:
            StorageError: The store's credentials cannot be had; nothing was sent.
        """
        outcome = Outcome(self.status_code)
        try:
            self.headers["Location"] = await self._manager.carry_out(self._plan, method=self._method)
            await self.start_response(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            outcome.complete = True
        except StorageError as error:
            outcome.status, outcome.error = status_of(error), error.code
            raise
        finally:
            outcome.tell(self._manager, self._ref, scope)
        await self.after_response()
