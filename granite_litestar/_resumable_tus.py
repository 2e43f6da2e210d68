"""Resumable uploads as tus 1.0.0 has them: https://tus.io/protocols/resumable-upload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from litestar import Response

from granite_core import ContentRejectedError, StorageError, UploadGoneError, UploadNotFoundError, UploadOffsetError
from granite_core.uploads import PARTIAL, UploadSession, UploadStatus
from granite_litestar import _tus as tus
from granite_litestar._arriving import Body, ClientLeftError, WrongChecksumError
from granite_litestar._resumable_desk import Desk, answered, refuse_encoded, repeated
from granite_litestar.exceptions import handle_storage_error

if TYPE_CHECKING:
    from litestar import Request

__all__ = ["TusProtocol"]

_METADATA: Final = "metadata"
_CONCAT: Final = "concat"
_NO_STORE: Final = {"Cache-Control": "no-store"}


class TusProtocol:
    """Answers in tus 1.0.0.

    Args:
        desk: The uploads.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def answer(self, request: Request[Any, Any, Any]) -> Response[Any]:
        """Answer a request, whose method is allowed, and whose version is ours."""
        if (name := repeated(request)) is not None:
            raise tus.TusError(400, f"{name.title()} is there more than once")
        subject = await self._desk.subject(request)
        try:
            if request.method == "POST":
                return await self.create(request, subject)
            session = await self._desk.find(request, subject)
            match request.method:
                case "HEAD":
                    return await self.tell(session)
                case "PATCH":
                    return await self.receive(request, session)
                case _:
                    await self._desk.discard(session)
                    return answered(204)
        except StorageError as error:
            return await self._refusal(request, subject, error)

    async def create(self, request: Request[Any, Any, Any], subject: str) -> Response[Any]:
        """Answer ``POST``: make an upload, and take what comes with it."""
        wanted = tus.parse_creation(request.headers)
        body = Body(request)
        has_body = body.is_announced
        checksum = self._check(request, body) if has_body else None
        if wanted.parts is not None:
            session = await self._join(request, wanted, subject)
            return self._created(request, session)
        _check_room(body, 0, wanted.length)
        session = await self._make(request, wanted, subject, wanted.length)
        if has_body or session.is_complete:
            try:
                session = await self._take(body, session, checksum)
            except BaseException as error:
                await self._desk.drop([session])  # nobody was told of it
                if isinstance(error, ClientLeftError):
                    return answered(400)  # nobody reads it
                raise
        return self._created(request, session, offset=has_body)

    async def tell(self, session: UploadSession) -> Response[Any]:
        """Answer ``HEAD``: where an upload stands."""
        session = await self._desk.finished(session)
        if session.is_complete and session.status is UploadStatus.RECEIVING:
            # With its offset, a client would take it for finished; and without its token, never ask again.
            raise tus.TusError(423, "All has come, and is looked at", headers={"Retry-After": "1", **_NO_STORE})
        headers = {"Upload-Offset": str(session.offset), **_NO_STORE, **self._standing(session)}
        if session.length is None:
            headers["Upload-Defer-Length"] = "1"
        else:
            headers["Upload-Length"] = str(session.length)
        if metadata := session.details.get(_METADATA):
            headers["Upload-Metadata"] = metadata
        if concat := session.details.get(_CONCAT):
            headers["Upload-Concat"] = concat
        return answered(200, headers)

    async def receive(self, request: Request[Any, Any, Any], session: UploadSession) -> Response[Any]:
        """Answer ``PATCH``: take bytes."""
        body = Body(request)
        if (session.details.get(_CONCAT) or "partial") != "partial":
            raise tus.TusError(403, "An upload that is made of others takes no bytes")
        checksum = self._check(request, body)
        offset = tus.parse_number(request.headers, "Upload-Offset")
        if offset is None:
            raise tus.TusError(400, "Upload-Offset is missing")
        length = tus.parse_number(request.headers, "Upload-Length")
        if length is not None and (length < session.offset or session.length not in (None, length)):
            there = {"Upload-Offset": str(session.offset)}
            raise tus.TusError(400, "Upload-Length is another one than was told, or less than has come", headers=there)
        finished = session.status is UploadStatus.FINISHED
        if not (finished and offset == session.offset and body.length == 0):
            if session.offset == offset:
                _check_room(body, offset, length if session.length is None else session.length)
            try:
                session = await self._take(body, session, checksum, offset=offset, length=length)
            except ClientLeftError:
                session = await self._desk.find(request, session.subject)
        headers = {"Upload-Offset": str(session.offset), **self._standing(session)}
        return answered(204, headers)

    # -- what these have in common -------------------------------------------------------------------------------------

    @staticmethod
    def _check(request: Request[Any, Any, Any], body: Body) -> tus.Checksum | None:
        """Refuse a body that is no bytes of a file; return what they must be."""
        if not body.is_of_type(tus.OFFSET_TYPE):
            raise tus.TusError(415, f"Bytes come as {tus.OFFSET_TYPE}")
        refuse_encoded(request.headers)
        return tus.parse_checksum(request.headers.get("upload-checksum"))

    async def _make(
        self,
        request: Request[Any, Any, Any],
        wanted: tus.Creation,
        subject: str,
        length: int | None,
        parts: Sequence[UploadSession] = (),
    ) -> UploadSession:
        said = tus.parse_metadata(wanted.metadata)
        details: dict[str, Any] = {}
        if wanted.metadata:
            details[_METADATA] = wanted.metadata.strip()
        if wanted.concat is not None:
            details[_CONCAT] = wanted.concat
        if wanted.partial:
            details[PARTIAL] = True
        return await self._desk.make(
            request,
            subject,
            length=length,
            filename=said.get("filename") or said.get("name"),
            content_type=said.get("filetype") or said.get("type"),
            details=details,
            parts=parts,
        )

    async def _take(
        self,
        body: Body,
        session: UploadSession,
        checksum: tus.Checksum | None,
        *,
        offset: int = 0,
        length: int | None = None,
    ) -> UploadSession:
        """Take a request's bytes; the session as it stands then."""
        desk = self._desk
        try:
            return await body.take(desk.uploads, session, checksum, offset=offset, length=length, kind=desk.kind)
        except WrongChecksumError as error:
            raise tus.TusError(460, "Checksum Mismatch") from error

    async def _join(self, request: Request[Any, Any, Any], wanted: tus.Creation, subject: str) -> UploadSession:
        """Make an upload of others, which go when it is finished."""
        desk = self._desk
        parts = [await desk.find(request, subject, each) for each in wanted.parts or ()]
        for each in parts:
            if not each.details.get(PARTIAL):
                raise tus.TusError(400, "Only partial uploads can be joined")
            if each.status is not UploadStatus.FINISHED:
                raise tus.TusError(409, "A part is not complete yet")
        session = await self._make(request, wanted, subject, sum(each.offset for each in parts), parts)
        manager = desk.uploads.sync.manager
        reception = await desk.uploads.receive(session.id, offset=0, kind=desk.kind, subject=subject)
        try:
            for each in parts:
                if each.file is not None:
                    await reception.copy(manager.get_backend(each.backend), each.file)
            finished = await reception.finish()
        except BaseException:
            await reception.close(keep=False)
            await desk.drop([session])
            raise
        await desk.drop_parts(parts)
        return finished or session

    def _created(
        self, request: Request[Any, Any, Any], session: UploadSession, *, offset: bool = False
    ) -> Response[Any]:
        headers = {"Location": self._desk.address(request, session), **self._standing(session)}
        if offset or session.status is UploadStatus.FINISHED:
            headers["Upload-Offset"] = str(session.offset)
        return answered(201, headers)

    def _standing(self, session: UploadSession) -> dict[str, str]:
        """The headers of every answer about an upload: until when it lives, and what attaches it."""
        return {"Upload-Expires": tus.http_date(session.expires_at), **self._desk.token(session)}

    async def _refusal(self, request: Request[Any, Any, Any], subject: str, error: StorageError) -> Response[Any]:
        """The answer of the table, but where the protocol has another one."""
        if isinstance(error, UploadOffsetError) and error.operation == "put":
            raise tus.TusError(413, "More bytes came than the upload has") from error
        response = handle_storage_error(request, error)
        if isinstance(error, UploadOffsetError) and "upload_id" in request.path_params:
            session = await self._desk.find(request, subject)
            response.headers["Upload-Offset"] = str(session.offset)
        if isinstance(error, (UploadNotFoundError, UploadGoneError, ContentRejectedError)):
            response.headers["Cache-Control"] = "no-store"
        return response


def _check_room(body: Body, offset: int, total: int | None) -> None:
    """Refuse what is too long before a byte of it is asked for."""
    if total is not None and body.length is not None and offset <= total < offset + body.length:
        raise tus.TusError(413, f"The upload has {total} bytes, and these are more")
