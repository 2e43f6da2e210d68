"""The body of a request on its way into an upload session, however slowly it comes, and wherever it is cut."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from granite_core import StorageError, UploadOffsetError
from granite_core.uploads import AsyncReception, AsyncUploads, UploadSession
from granite_litestar._tus import Checksum, parse_number

if TYPE_CHECKING:
    from litestar import Request

__all__ = ["Body", "ClientLeftError", "WrongChecksumError"]

UNCHECKED_PATIENCE: Final = 15
"""For so many times the usual patience a client is waited for whose bytes cannot be kept before the last has come."""


class ClientLeftError(Exception):
    """The connection ended before the body did. What had come is kept."""


class WrongChecksumError(Exception):
    """The bytes are not those that the client meant to send. None is kept."""


class Body:
    """The body of one request.

    Args:
        request: The request; nothing is read yet.
    """

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self._request = request
        self._more = True
        self.length: Final = parse_number(request.headers, "Content-Length")
        """How long it says it is; None where it does not say."""

    @property
    def is_announced(self) -> bool:
        """Whether the request says that it has one."""
        return self.length != 0 and (self.length is not None or "transfer-encoding" in self._request.headers)

    def is_of_type(self, media_type: str) -> bool:
        """Whether it says that it is of a type."""
        return self._request.headers.get("content-type", "").partition(";")[0].strip().lower() == media_type

    async def take(
        self,
        uploads: AsyncUploads,
        session: UploadSession,
        checksum: Checksum | None,
        *,
        offset: int,
        length: int | None,
        kind: str,
        ends: bool = False,
    ) -> UploadSession:
        """Take it into a session, and return how that stands then; finished, where it was the last of it.

        Args:
            uploads: Of the session.
            session: The session.
            checksum: What its bytes must be; then all are kept or none.
            offset: Where they belong.
            length: How long the upload is to be, where that was not said yet.
            kind: Of the session.
            ends: Whether nothing comes after it: then the upload is as long as it is, where nobody said how long.

        Raises:
            ClientLeftError: The connection ended; what came is kept, unless there is a checksum.
            WrongChecksumError: The bytes are others; none is kept.
            StorageError: They cannot be taken.
        """
        going = _Going(uploads, session, checksum, length=length, kind=kind, ends=ends)
        try:
            await going.begin(offset)
            async with self._arriving() as arriving:
                while True:
                    data = await arriving.next(uploads.sync.settings.patience.total_seconds())
                    if data is None:
                        break
                    if data == b"":
                        await going.wait()
                    else:
                        await going.write(data)
            return await going.end()
        except BaseException as error:
            await going.leave(keep=checksum is None, error=error)
            raise

    @asynccontextmanager
    async def _arriving(self) -> AsyncIterator[_Arriving]:
        arriving = _Arriving(self._request)
        try:
            yield arriving
        finally:
            await arriving.close()


class _Arriving:
    """The messages of a body. One is always asked for: a server may lose what it handed to somebody who gave up."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self._receive = request.receive
        self._asked: asyncio.Future[Any] | None = None
        self._more = True

    async def next(self, patience: float) -> bytes | None:
        """Return the next bytes; none where nothing came for so many seconds; None at the end.

        Raises:
            ClientLeftError: The connection ended.
        """
        while self._more:
            if self._asked is None:
                self._asked = asyncio.ensure_future(self._receive())
            done, _ = await asyncio.wait([self._asked], timeout=patience)
            if not done:
                return b""
            message, self._asked = self._asked.result(), None
            if message["type"] != "http.request":
                raise ClientLeftError
            self._more = message.get("more_body", False)
            if data := message.get("body", b""):
                return bytes(data)
        return None

    async def close(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._asked


class _Going:
    """One request's go at a session. Over a silence it is given back, and taken again."""

    def __init__(
        self,
        uploads: AsyncUploads,
        session: UploadSession,
        checksum: Checksum | None,
        *,
        length: int | None,
        kind: str,
        ends: bool,
    ) -> None:
        self._uploads = uploads
        self._session = session
        self._checksum = checksum
        self._digest = None if checksum is None else hashlib.new(checksum.algorithm, usedforsecurity=False)
        self._length = length
        self._kind = kind
        self._ends = ends
        self._offset = 0
        self._silences = 0
        self._reception: AsyncReception | None = None

    async def begin(self, offset: int) -> None:
        self._offset = offset
        self._reception = await self._uploads.receive(
            self._session.id,
            offset=offset,
            kind=self._kind,
            subject=self._session.subject,
            length=self._length,
        )

    async def write(self, data: bytes) -> None:
        if self._reception is None:
            await self.begin(self._offset)
        reception = self._owned()
        self._silences = 0
        if self._digest is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._digest.update, data)
        await reception.write(data, records=self._checksum is None)

    async def wait(self) -> None:
        """Nothing comes: let others have the upload meanwhile, where what has come can be kept."""
        self._silences += 1
        if self._reception is None:
            return
        if self._checksum is None:
            self._offset = self._reception.offset
            reception, self._reception = self._reception, None
            await reception.close()
        elif self._silences >= UNCHECKED_PATIENCE:
            raise ClientLeftError
        else:
            await self._reception.renew()

    async def end(self) -> UploadSession:
        if self._reception is None:
            await self.begin(self._offset)
        checksum, digest = self._checksum, self._digest
        if checksum is not None and digest is not None and not hmac.compare_digest(digest.digest(), checksum.digest):
            raise WrongChecksumError
        reception = self._owned()
        finished = await reception.finish()
        if finished is None and self._ends and reception.session.length is None:
            self._length = reception.offset
            await self.begin(reception.offset)
            reception = self._owned()
            finished = await reception.finish()
        return finished or reception.session

    async def leave(self, *, keep: bool, error: BaseException) -> None:
        if self._reception is not None:
            failed = isinstance(error, StorageError) and not isinstance(error, UploadOffsetError)
            await self._reception.close(keep=keep and not failed)

    def _owned(self) -> AsyncReception:
        if self._reception is None:
            raise ClientLeftError
        return self._reception
