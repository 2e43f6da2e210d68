"""What the protocols of resumable uploads have in common: whose uploads, of which policy, and where they are."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from litestar import Response

from granite_core import AsyncStorageManager, StorageError, StoragePolicy, UploadGoneError, UploadNotFoundError
from granite_core.uploads import PARTIAL, AsyncUploads, UploadSession, UploadStatus, UploadTokens
from granite_litestar._subjects import subject_of
from granite_litestar.exceptions import UnsupportedBodyError

if TYPE_CHECKING:
    from litestar import Request

    from granite_litestar.resumable import ResumableUploads

__all__ = ["TOKEN_HEADER", "Desk", "UploadsProvider", "answered", "refuse_encoded"]

UploadsProvider: TypeAlias = "Callable[[str], AsyncUploads]"
"""Gives the uploads of the database that keeps those of a policy."""

TOKEN_HEADER: Final = "Granite-Upload-Token"  # noqa: S105 - a header's name
"""Header of an answer that carries what a form or a request hands in to attach the finished upload."""

_ROUTE: Final = "route"


class Desk:
    """The uploads of one route and one protocol.

    Args:
        route: The route.
        provider: Gives the uploads of its policy's database, once the application runs.
        kind: The protocol: what one has made, another does not find.
    """

    def __init__(self, route: ResumableUploads, provider: UploadsProvider, kind: str) -> None:
        self.route: Final = route
        self.kind: Final = kind
        self._provider = provider

    @property
    def uploads(self) -> AsyncUploads:
        """The uploads."""
        return self._provider(self.route.storage_key)

    @property
    def policy(self) -> StoragePolicy:
        """The policy."""
        return self.uploads.sync.manager.get_policy(self.route.storage_key)

    async def subject(self, request: Request[Any, Any, Any]) -> str:
        """Return whom the uploads of a request belong to."""
        return await subject_of(request, self.route.subject)

    async def find(self, upload_id: str, subject: str) -> UploadSession:
        """Return an upload that was made here.

        Raises:
            UploadNotFoundError: There is none.
            UploadGoneError: It has ended.
        """
        session = await self.uploads.find(upload_id, kind=self.kind, subject=subject)
        if session.storage_key != self.route.storage_key or session.details.get(_ROUTE) != self.route.path:
            raise UploadNotFoundError("the upload was made elsewhere", operation="find")
        return session

    async def knows(self, request: Request[Any, Any, Any]) -> bool:
        """Whether a request is about an upload that was made here, ended or not."""
        try:
            await self.find(request.path_params["upload_id"], await self.subject(request))
        except UploadNotFoundError:
            return False
        except UploadGoneError:
            return True
        return True

    async def make(
        self,
        request: Request[Any, Any, Any],
        subject: str,
        *,
        length: int | None,
        filename: str | None,
        content_type: str | None,
        details: Mapping[str, Any],
        parts: Sequence[UploadSession] = (),
    ) -> UploadSession:
        """Make an upload; see ``Uploads.create``."""
        return await self.uploads.create(
            self.route.storage_key,
            kind=self.kind,
            subject=subject,
            length=length,
            filename=filename,
            content_type=content_type,
            context=await self._context(request),
            details={_ROUTE: self.route.path, **details},
            parts=parts,
        )

    async def _context(self, request: Request[Any, Any, Any]) -> Mapping[str, str] | None:
        if self.route.context is None:
            return None
        found = self.route.context(request)
        return await found if inspect.isawaitable(found) else found

    async def finished(self, session: UploadSession) -> UploadSession:
        """Return how an upload stands; where all has come and whoever took it in has died, finish it first."""
        if session.is_complete and session.status is UploadStatus.RECEIVING and not session.held:
            return await self.uploads.complete(session.id, kind=self.kind, subject=session.subject)
        return session

    async def discard(self, session: UploadSession) -> None:
        """End an upload; see ``Uploads.discard``."""
        await self.uploads.discard(session.id, kind=self.kind, subject=session.subject)

    async def drop(self, sessions: Sequence[UploadSession]) -> None:
        """End uploads that nobody will go on with, also while the request is cancelled; each may have ended already."""
        await asyncio.shield(asyncio.ensure_future(self._drop(sessions)))

    async def drop_parts(self, parts: Sequence[UploadSession]) -> None:
        """End what another upload was put together from: it counts no more as soon as that one does."""
        if self.policy.quotas:
            files = AsyncStorageManager(self.uploads.sync.manager)
            with suppress(StorageError):  # then it counts until it is swept
                await files.quotas.release(*(each.location for each in parts))
        await self.drop(parts)

    async def _drop(self, sessions: Sequence[UploadSession]) -> None:
        for each in {each.id: each for each in sessions}.values():
            with suppress(StorageError):  # it has ended, or else its time will come
                await self.discard(each)

    def address(self, request: Request[Any, Any, Any], session: UploadSession) -> str:
        """Return the path of an upload that the request is about, or has made."""
        scope = request.scope
        path = scope["path"].rstrip("/").removesuffix(f"/{session.id}")
        return f"{scope.get('root_path', '').rstrip('/')}{path}/{session.id}"

    def token(self, session: UploadSession) -> dict[str, str]:
        """Return the header that attaches an upload; nothing before it is finished."""
        if session.status is not UploadStatus.FINISHED or session.details.get(PARTIAL):
            return {}
        tokens = UploadTokens.of(self.uploads.sync.manager)
        return {TOKEN_HEADER: tokens.issue(session), "Cache-Control": "no-store"}


def answered(status: int, headers: dict[str, str] | None = None) -> Response[Any]:
    """Return an answer that says all in its head."""
    return Response(b"" if status != HTTPStatus.NO_CONTENT else None, status_code=status, headers=headers)


def refuse_encoded(headers: Mapping[str, str]) -> None:
    """Refuse a body that is encoded: its bytes are not the file's.

    Raises:
        UnsupportedBodyError: It is.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedBodyError(
            detail=f"The body of an upload must not have a Content-Encoding, this one has {coding[:40]!r}",
            headers={"Accept-Encoding": "identity"},
            extra={"code": "content_encoding", "value": coding[:40]},
        )
