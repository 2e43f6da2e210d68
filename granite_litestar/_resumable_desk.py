"""What the protocols of resumable uploads have in common: whose uploads, of which policy, and where they are."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

from litestar import Response

from granite_core import AsyncStorageManager, StorageError, StoragePolicy, UploadGoneError, UploadNotFoundError
from granite_core.uploads import PARTIAL, AsyncUploads, UploadSession, UploadStatus, UploadTokens
from granite_litestar._subjects import subject_of
from granite_litestar.exceptions import UnsupportedBodyError

if TYPE_CHECKING:
    from litestar import Request

    from granite_litestar.resumable import ResumableUploads

__all__ = ["TOKEN_HEADER", "Desk", "UploadsProvider", "answered", "refuse_encoded", "repeated"]

UploadsProvider: TypeAlias = "Callable[[str], AsyncUploads]"
"""Gives the uploads of the database that keeps those of a policy."""

TOKEN_HEADER: Final = "Granite-Upload-Token"  # noqa: S105 - a header's name
"""Header of an answer that carries what a form or a request hands in to attach the finished upload."""

_ROUTE: Final = "route"
_PARAMETERS: Final = "parameters"
_IN_PATHS: Final = "/:@!$&'()*+,;="
"""What a path may have as it is (RFC 3986 section 3.3), beside letters and digits."""
_ONCE: Final = (
    *("tus-resumable", "upload-offset", "upload-length", "upload-defer-length", "upload-concat", "upload-checksum"),
    *("upload-complete", "upload-draft-interop-version", "x-http-method-override"),
)
"""Headers of which a second one would contradict the first."""


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

    async def find(self, request: Request[Any, Any, Any], subject: str, upload_id: str | None = None) -> UploadSession:
        """Return an upload that was made here: at this route, and with the same parameters in its path.

        Args:
            request: The request.
            subject: To whom it belongs.
            upload_id: Which one; that of the request's path, where none is given.

        Raises:
            UploadNotFoundError: There is none.
            UploadGoneError: It has ended.
        """
        wanted = request.path_params["upload_id"] if upload_id is None else upload_id
        session = await self.uploads.find(wanted, kind=self.kind, subject=subject)
        said, given = session.details, _parameters(request)
        of_route = session.storage_key == self.route.storage_key and said.get(_ROUTE) == self.route.path
        if not of_route or said.get(_PARAMETERS, given) != given:
            raise UploadNotFoundError("the upload was made elsewhere", operation="find")
        return session

    async def knows(self, request: Request[Any, Any, Any]) -> bool:
        """Whether a request is about an upload that was made here, ended or not."""
        try:
            await self.find(request, await self.subject(request))
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
            details={_ROUTE: self.route.path, _PARAMETERS: _parameters(request), **details},
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
        return quote(f"{scope.get('root_path', '').rstrip('/')}{path}/{session.id}", safe=_IN_PATHS)

    def token(self, session: UploadSession) -> dict[str, str]:
        """Return the header that attaches an upload; nothing before it is finished."""
        if session.status is not UploadStatus.FINISHED or session.details.get(PARTIAL):
            return {}
        tokens = UploadTokens.of(self.uploads.sync.manager)
        return {TOKEN_HEADER: tokens.issue(session), "Cache-Control": "no-store"}


def _parameters(request: Request[Any, Any, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in request.path_params.items() if name != "upload_id"}


def answered(status: int, headers: dict[str, str] | None = None) -> Response[Any]:
    """Return an answer that says all in its head."""
    return Response(b"" if status != HTTPStatus.NO_CONTENT else None, status_code=status, headers=headers)


def repeated(request: Request[Any, Any, Any]) -> str | None:
    """Return the name of a header that is there twice and may be there once; None where none is."""
    names = [name.lower() for name, _ in request.scope["headers"]]
    return next((each for each in _ONCE if names.count(each.encode()) > 1), None)


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
