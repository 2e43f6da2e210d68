"""Resumable uploads as the IETF drafts them: https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/.

No interim response (104) is sent: ASGI has no way to. A client learns where its upload is from the final answer to its
first request, so one that wants to go on after a cut begins without content.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from litestar import Response
from litestar.exceptions import HTTPException

from granite_core import (
    ChecksumMismatchError,
    ContentRejectedError,
    ContentTooLargeError,
    StorageError,
    UploadBusyError,
    UploadGoneError,
    UploadOffsetError,
)
from granite_core.serving import filename_of
from granite_core.uploads import UploadSession, UploadStatus
from granite_litestar import _draft as draft
from granite_litestar._arriving import Body, ClientLeftError, WrongChecksumError
from granite_litestar._digests import announced_sha256
from granite_litestar._draft import DraftError
from granite_litestar._resumable_desk import Desk, answered, refuse_encoded, repeated
from granite_litestar._tus import Checksum, TusError, parse_metadata
from granite_litestar.exceptions import handle_storage_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar import Request

__all__ = ["DraftProtocol"]

_DIGEST: Final = "repr-digest"
_NO_STORE: Final = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class _Said:
    """What a request that brings content says of the upload.

    Args:
        version: The interop version.
        body: The content.
        complete: Whether nothing comes after it; None where that is not said.
        length: How long the upload is, as far as the request tells.
    """

    version: int
    body: Body
    complete: bool | None
    length: int | None


class DraftProtocol:
    """Answers as the draft has it.

    Args:
        desk: The uploads.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def answer(self, request: Request[Any, Any, Any]) -> Response[Any]:
        """Answer a request, whose method is allowed."""
        version = draft.NEWEST
        try:
            version = draft.parse_version(request.headers)
            response = await self._answer(request, version)
        except DraftError as error:
            response = error.to_response()
        except HTTPException as error:
            told = await self._offset(request, version)
            error.headers = {"Upload-Complete": "?0", **told, **(error.headers or {})}
            raise
        if response.status_code is not None and response.status_code >= HTTPStatus.BAD_REQUEST:
            for name, value in (await self._offset(request, version)).items():
                response.headers.setdefault(name, value)
        return response

    async def _offset(self, request: Request[Any, Any, Any], version: int) -> dict[str, str]:
        """The offset, which up to version 6 each answer tells of an upload that goes on, refusals too."""
        if version > 6 or request.method != "PATCH":
            return {}
        with suppress(StorageError, HTTPException):
            session = await self._desk.find(request, await self._desk.subject(request))
            return {"Upload-Offset": str(session.offset)}
        return {}

    async def _answer(self, request: Request[Any, Any, Any], version: int) -> Response[Any]:
        if (name := repeated(request)) is not None:
            raise DraftError(400, f"{name.title()} is there more than once")
        subject = await self._desk.subject(request)
        try:
            if request.method == "POST":
                return await self.create(request, version, subject)
            session = await self._desk.find(request, subject)
            match request.method:
                case "HEAD" | "GET":
                    _refuse_headers(request, version, "upload-offset", "upload-complete", "upload-length")
                    return await self.tell(version, session)
                case "PATCH":
                    return await self.append(request, version, session)
                case _:
                    _refuse_headers(request, version, "upload-offset", "upload-complete")
                    await self._desk.discard(session)
                    return answered(204)
        except UploadOffsetError as error:
            session = await self._desk.find(request, subject)  # somebody was faster
            raise _mismatch(session, draft.parse_integer(request.headers.get("upload-offset"))) from error
        except StorageError as error:
            return self._refusal(request, version, error)

    # -- creation (section 4.2) ----------------------------------------------------------------------------------------

    async def create(self, request: Request[Any, Any, Any], version: int, subject: str) -> Response[Any]:
        """Make an upload, and take what comes with it."""
        said = _read(request, version, 0)
        if said.complete is None:
            raise DraftError(400, "Upload-Complete is missing, or no Boolean")
        _check_room(said, 0, said.length)
        filename, content_type = _named(request)
        digest = announced_sha256(request.headers, _DIGEST)
        checksum = _checksum(request)
        session = await self._desk.make(
            request,
            subject,
            length=said.length,
            filename=filename,
            content_type=content_type,
            details={_DIGEST: digest.hex()} if digest is not None else {},
        )
        if said.body.is_announced or said.complete:
            try:
                session = await self._take(said, session, checksum, 0)
                await self._check_whole(session)
            except BaseException as error:
                await self._desk.drop([session])  # nobody was told of it
                if isinstance(error, ClientLeftError):
                    return answered(400)  # nobody reads it
                if isinstance(error, UploadOffsetError):
                    raise _too_much() from error
                raise
        if said.complete and session.status is not UploadStatus.FINISHED:
            await self._desk.drop([session])
            raise _inconsistent()
        return self._brought(request, version, session)

    # -- where it stands (section 4.3) ---------------------------------------------------------------------------------

    async def tell(self, version: int, session: UploadSession) -> Response[Any]:
        """Say where an upload stands; not while bytes come, since what is told must hold until the client's next."""
        session = await self._desk.finished(session)
        if session.status is UploadStatus.RECEIVING and session.held:
            raise _busy()
        await self._check_whole(session)
        headers = {**self._standing(version, session), **_NO_STORE}
        if session.length is not None:
            headers["Upload-Length"] = str(session.length)
        return answered(204, headers)

    # -- more of it (section 4.4) --------------------------------------------------------------------------------------

    async def append(self, request: Request[Any, Any, Any], version: int, session: UploadSession) -> Response[Any]:
        """Take what comes, where it belongs."""
        offset, said = _read_append(request, version)
        if session.held and session.status is UploadStatus.RECEIVING:
            raise _busy()
        if session.offset != offset:
            raise _mismatch(session, offset)
        if session.status is UploadStatus.FINISHED:
            await self._check_whole(session)
            return self._again(request, said, session)
        length = session.length
        if said.length is not None and (said.length < offset or length not in (None, said.length)):
            raise _inconsistent(session)
        _check_room(said, offset, said.length if length is None else length)
        try:
            session = await self._take(said, session, _checksum(request), offset)
        except ClientLeftError:
            return answered(400)  # nobody reads it
        except UploadOffsetError as error:
            if error.operation != "put":
                raise
            if version >= 7:  # it is not to be gone on with
                await self._desk.drop([session])
            raise _too_much() from error
        await self._check_whole(session)
        if said.complete and session.status is not UploadStatus.FINISHED:
            raise _inconsistent(session)
        return self._brought(request, version, session)

    def _again(self, request: Request[Any, Any, Any], said: _Said, session: UploadSession) -> Response[Any]:
        """Say once more that an upload is complete, to who lost the answer; it takes no more bytes."""
        if said.body.is_announced:
            there = {"Upload-Offset": str(session.offset)}
            raise DraftError(400, "The upload is already completed", kind="completed-upload", headers=there)
        return self._brought(request, said.version, session)

    # -- what these have in common -------------------------------------------------------------------------------------

    async def _take(self, said: _Said, session: UploadSession, checksum: Checksum | None, offset: int) -> UploadSession:
        desk = self._desk
        length = said.length if session.length is None else None
        try:
            return await said.body.take(
                desk.uploads,
                session,
                checksum,
                offset=offset,
                length=length,
                kind=desk.kind,
                ends=bool(said.complete),
            )
        except WrongChecksumError as error:
            raise DraftError(422, "The content is not what its Content-Digest says; none of it is kept") from error

    async def _check_whole(self, session: UploadSession) -> None:
        """Refuse a finished upload that is not what its Repr-Digest announced; it goes."""
        announced = session.details.get(_DIGEST)
        if session.file is not None and announced is not None and session.file.checksum != f"sha256:{announced}":
            await self._desk.drop([session])
            raise ChecksumMismatchError("the upload has another Repr-Digest", operation="put")

    def _brought(self, request: Request[Any, Any, Any], version: int, session: UploadSession) -> Response[Any]:
        headers = {"Location": self._desk.address(request, session), **self._standing(version, session)}
        if request.method == "PATCH" and session.status is not UploadStatus.FINISHED and version >= 7:
            del headers["Location"]
            return answered(204, headers)
        return answered(201, headers)

    def _standing(self, version: int, session: UploadSession) -> dict[str, str]:
        finished = session.status is UploadStatus.FINISHED
        return {
            "Upload-Offset": str(session.offset),
            "Upload-Complete": draft.write_boolean(finished),
            **self._limits(version, session),
            **self._desk.token(session),
        }

    def _limits(self, version: int, session: UploadSession | None = None) -> dict[str, str]:
        now = self._desk.uploads.sync.manager.now()
        seconds = int((session.expires_at - now).total_seconds()) if session is not None else None
        return draft.told_limits(version, max_size=self._desk.policy.max_size, seconds=seconds)

    def _refusal(self, request: Request[Any, Any, Any], version: int, error: StorageError) -> Response[Any]:
        """The answer of the table, but where the draft has another one."""
        response = handle_storage_error(request, error)
        if isinstance(error, UploadGoneError) and version <= 6:
            response.status_code = 404  # what is not active is not there
        over = isinstance(error, ChecksumMismatchError)
        if isinstance(error, ContentRejectedError):  # since version 8 true says who answers, though not all has come
            over = version >= 8 or bool(draft.parse_boolean(request.headers.get("upload-complete")))
        response.headers["Upload-Complete"] = draft.write_boolean(over)
        response.headers["Cache-Control"] = "no-store"
        if isinstance(error, UploadBusyError):
            response.headers["Retry-After"] = "1"
        if isinstance(error, ContentTooLargeError):
            response.headers.update(self._limits(version))
        return response


def _read(request: Request[Any, Any, Any], version: int, offset: int) -> _Said:
    """Return what a request says of the upload whose next bytes it brings.

    Raises:
        DraftError: It says two lengths.
        UnsupportedBodyError: The content is encoded.
    """
    refuse_encoded(request.headers)
    body = Body(request)
    complete = draft.parse_boolean(request.headers.get("upload-complete"))
    length = draft.parse_integer(request.headers.get("upload-length"))
    if complete and body.length is not None:
        if length is not None and length != offset + body.length:
            raise _inconsistent()
        length = offset + body.length
    return _Said(version, body, complete, length)


def _read_append(request: Request[Any, Any, Any], version: int) -> tuple[int, _Said]:
    """Return where the content of a request belongs, and what it says of the upload."""
    offset = draft.parse_integer(request.headers.get("upload-offset"))
    if offset is None:
        raise DraftError(400, "Upload-Offset is missing, or no Integer")
    said = _read(request, version, offset)
    if version >= 6 and not said.body.is_of_type(draft.PARTIAL_TYPE):
        raise DraftError(415, f"Bytes come as {draft.PARTIAL_TYPE}", headers={"Accept-Patch": draft.PARTIAL_TYPE})
    if version >= 7 and said.complete is None:
        raise DraftError(400, "Upload-Complete is missing, or no Boolean")
    return offset, said


def _named(request: Request[Any, Any, Any]) -> tuple[str | None, str | None]:
    """Return the name and the type that a creation tells, as the draft has them or as tus has."""
    told: Mapping[str, str] = {}
    with suppress(TusError):
        told = parse_metadata(request.headers.get("upload-metadata", ""))
    content_type = request.headers.get("content-type")
    if content_type is None or content_type.partition(";")[0].strip().lower() == draft.PARTIAL_TYPE:
        content_type = told.get("filetype") or told.get("type")
    return filename_of(request.headers.get("content-disposition", "")) or told.get("filename"), content_type


def _checksum(request: Request[Any, Any, Any]) -> Checksum | None:
    digest = announced_sha256(request.headers, "content-digest")
    return None if digest is None else Checksum("sha256", digest)


def _refuse_headers(request: Request[Any, Any, Any], version: int, *names: str) -> None:
    """Refuse what earlier versions let a request not say."""
    if version <= 6 and any(name in request.headers for name in names):
        raise DraftError(400, f"A {request.method} has none of {', '.join(name.title() for name in names)}")


def _check_room(said: _Said, offset: int, length: int | None) -> None:
    if length is not None and said.body.length is not None and offset + said.body.length > length:
        raise _too_much()


def _too_much() -> DraftError:
    return DraftError(400, "More comes than the upload's length", kind="inconsistent-upload-length")


def _inconsistent(session: UploadSession | None = None) -> DraftError:
    there = {} if session is None else {"Upload-Offset": str(session.offset)}
    return DraftError(400, "Inconsistent length values", kind="inconsistent-upload-length", headers=there)


def _mismatch(session: UploadSession, offset: int | None) -> DraftError:
    return DraftError(
        409,
        "The offset of the request is not that of the upload",
        kind="mismatching-upload-offset",
        headers={"Upload-Offset": str(session.offset)},
        members={"expected-offset": session.offset, "provided-offset": offset},
    )


def _busy() -> DraftError:
    return DraftError(423, "Another request is writing to the upload", headers={"Retry-After": "1"})
