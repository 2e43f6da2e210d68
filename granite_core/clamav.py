"""ClamAV's daemon as a validator: the file is streamed to it (``INSTREAM`` of clamd(8)) before anyone has its ref."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from granite_core.errors import ConfigurationError, InspectionUnavailableError, ValidationFailedError
from granite_core.logs import extra_of

if TYPE_CHECKING:
    from granite_core.validation import Candidate

__all__ = ["ClamAV"]

T = TypeVar("T")

logger = logging.getLogger("granite.uploads")

COMMAND: Final = b"zINSTREAM\0"
END: Final = bytes(4)
PING: Final = b"zPING\0"
PONG: Final = b"PONG\0"
LIMITS_EXCEEDED: Final = "Heuristics.Limits.Exceeded"
PIECE_BYTES: Final = 64 * 1024
ANSWER_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ClamAV:
    """Refuses files in which ClamAV's daemon finds something. It holds one piece of a file, whatever its size.

    Synchronous code waits for the daemon in its thread, asynchronous code without one. A file that cannot be scanned
    is not taken, unless told otherwise; of each that is taken unscanned, ``granite.uploads`` warns.

    Args:
        address: Where ``clamd`` listens: ``"host:port"``, or ``"unix:/run/clamav/clamd.ctl"``. It asks nobody for a
            password, so keep it away from others.
        timeout: How long the daemon may be silent.
        when_unavailable: What becomes of files while the daemon is away: ``"refuse"`` answers 503, ``"accept"`` takes
            them unscanned. A daemon that answers ``PING`` is not away: where it has no answer for one file, that is
            503 in any case, or else a file could be made that it breaks off at.
        when_too_large: What becomes of a file that is over the daemon's own ``StreamMaxLength``, or over the limits to
            what it looks into (``MaxFileSize``, …) if its ``AlertExceedsMax`` is on: ``"refuse"`` answers 422,
            ``"accept"`` takes it unscanned.

    Raises:
        ConfigurationError: The address cannot be one.
    """

    address: str = "127.0.0.1:3310"
    timeout: timedelta = timedelta(seconds=60)
    when_unavailable: Literal["refuse", "accept"] = "refuse"
    when_too_large: Literal["refuse", "accept"] = "refuse"

    def __post_init__(self) -> None:
        if not self.address.startswith("unix:") and not self.address.rpartition(":")[2].isdigit():
            raise ConfigurationError("ClamAV: address must be host:port or unix:/path", value=self.address)
        for name in ("when_unavailable", "when_too_large"):
            if getattr(self, name) not in ("refuse", "accept"):
                raise ConfigurationError(f'ClamAV: {name} must be "refuse" or "accept"', value=getattr(self, name))

    def __call__(self, candidate: Candidate) -> None:
        """Have a file scanned. Blocks.

        Raises:
            ValidationFailedError: Something was found, or the file is over the daemon's limit.
            InspectionUnavailableError: The daemon cannot be asked.
            BackendError: The stored bytes cannot be read.
        """
        answer: bytes | OSError
        try:
            with candidate.open() as file, self._connected() as connection:
                with suppress(ConnectionError):
                    connection.sendall(COMMAND)
                    while (data := file.read(PIECE_BYTES)) and not _has_answered(connection):
                        connection.sendall(_framed(data))
                    connection.sendall(END)
                answer = _heard(connection)
        except OSError as error:
            answer = error
        if (away := self._judge(answer, candidate)) is None:
            return
        if self.when_unavailable == "refuse" or self._is_there():
            raise away
        _warn(candidate, away)

    async def call_async(self, candidate: Candidate) -> None:
        """Have a file scanned; raises what calling it does. Nothing blocks."""
        loop = asyncio.get_running_loop()
        answer: bytes | OSError
        try:
            async with await candidate.open_async() as file, self._connected_async() as connection:
                with suppress(ConnectionError):
                    await self._soon(loop.sock_sendall(connection, COMMAND))
                    while (data := await file.read(PIECE_BYTES)) and not _has_answered(connection):
                        await self._soon(loop.sock_sendall(connection, _framed(data)))
                    await self._soon(loop.sock_sendall(connection, END))
                answer = await self._heard_async(connection)
        except OSError as error:
            answer = error
        if (away := self._judge(answer, candidate)) is None:
            return
        if self.when_unavailable == "refuse" or await self._is_there_async():
            raise away
        _warn(candidate, away)

    def _is_there(self) -> bool:
        try:
            with self._connected() as connection:
                connection.sendall(PING)
                return _heard(connection).startswith(PONG)
        except OSError:
            return False

    async def _is_there_async(self) -> bool:
        try:
            async with self._connected_async() as connection:
                await self._soon(asyncio.get_running_loop().sock_sendall(connection, PING))
                return (await self._heard_async(connection)).startswith(PONG)
        except OSError:
            return False

    async def _heard_async(self, connection: socket.socket) -> bytes:
        loop, answer = asyncio.get_running_loop(), b""
        with suppress(ConnectionError):
            while b"\0" not in answer and len(answer) < ANSWER_BYTES:
                if not (data := await self._soon(loop.sock_recv(connection, ANSWER_BYTES))):
                    break
                answer += data
        return answer

    async def _soon(self, work: Awaitable[T]) -> T:
        async with asyncio.timeout(self.timeout.total_seconds()):
            return await work

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        timeout = self.timeout.total_seconds()
        if self.address.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout)
        else:
            host, _, port = self.address.rpartition(":")
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout)
        with connection:
            if self.address.startswith("unix:"):
                connection.connect(self.address.removeprefix("unix:"))
            yield connection

    @asynccontextmanager
    async def _connected_async(self) -> AsyncIterator[socket.socket]:
        # A plain socket: a stream of asyncio forgets an answer that came before its writing failed.
        loop = asyncio.get_running_loop()
        if self.address.startswith("unix:"):
            where: Any
            family, where = socket.AF_UNIX, self.address.removeprefix("unix:")
        else:
            host, _, port = self.address.rpartition(":")
            found = await self._soon(loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM))
            family, _, _, _, where = found[0]
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(0)
            await self._soon(loop.sock_connect(connection, where))
            yield connection

    def _judge(self, answer: bytes | OSError, candidate: Candidate) -> InspectionUnavailableError | None:
        """Refuse what was found; None where the file may pass, an error where nothing was said of it."""
        if isinstance(answer, OSError):
            away = InspectionUnavailableError(
                f"clamd at {self.address} cannot be asked: {type(answer).__name__} {answer}", operation="put"
            )
            away.__cause__ = answer
            return away
        said = answer.partition(b"\0")[0].decode("utf-8", "replace").strip().removeprefix("stream: ")
        if said == "OK":
            return None
        if "size limit exceeded" in said or said.startswith(LIMITS_EXCEEDED):
            if self.when_too_large == "refuse":
                raise ValidationFailedError("the file is too large to be scanned for viruses", code="not_scanned")
            _warn(candidate, said[:200])
            return None
        if said.endswith(" FOUND"):
            name = said.removesuffix(" FOUND")
            raise ValidationFailedError("the virus scanner found something in the file", code="infected", value=name)
        return InspectionUnavailableError(f"clamd at {self.address} said {said[:200]!r}", operation="put")


def _warn(candidate: Candidate, why: object) -> None:
    extra = extra_of(candidate.ref, event="not_scanned")
    logger.warning("object %s is taken unscanned: %s", extra["object_id"], why, extra=extra)


def _heard(connection: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while b"\0" not in answer and len(answer) < ANSWER_BYTES and (data := connection.recv(ANSWER_BYTES)):
            answer += data
    return answer


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _has_answered(connection: socket.socket) -> bool:
    """Whether the daemon has said something, or gone: it wants no more then."""
    timeout = connection.gettimeout()
    connection.settimeout(0)  # a socket with a timeout waits, whatever the flags say
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(timeout)
    return True
