"""What can befall a round between us and PostgreSQL: the table."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from .listener import Wire
from .postgres import PostgresFault, Round

__all__ = ["POSTGRES_FAULTS", "DatabaseFault"]

STALL = 0.3
"""Seconds."""


@dataclass(frozen=True)
class DatabaseFault:
    """A fault, and what is true after it.

    Args:
        name: Its name.
        befall: What happens to a round.
        done: Whether the server has done what was asked.
        harmless: The client hears of it too.
        silent: Nothing happens until a time-out of the client's own.
    """

    name: str
    befall: PostgresFault
    done: bool = False
    harmless: bool = False
    silent: bool = False


def _refused(asked: Round) -> None:
    asked.proxy.refuse()
    asked.server.close()
    asked.client.reset()


def _before(end: Callable[[Wire], None], *, stall: float = 0) -> PostgresFault:
    """The server never hears of it, and both connections end."""

    def befall(asked: Round) -> None:
        time.sleep(stall)
        asked.server.close()
        end(asked.client)

    return befall


def _in_the_request(asked: Round) -> None:
    asked.forward_some(0.5)
    asked.client.reset()


def _after(end: Callable[[Wire], None], *, share: float = 0, stall: float = 0) -> PostgresFault:
    """The server does it; the client gets some of the answer at most."""

    def befall(asked: Round) -> None:
        answer = asked.forward()
        asked.client.send(answer[: int(len(answer) * share)])
        time.sleep(stall or 0.01)  # a reset overtakes what was not read yet
        end(asked.client)

    return befall


def _half_closed(asked: Round) -> None:
    asked.forward()
    asked.client.end_sending()
    asked.client.wait_for_its_end(5)


def _delivered_late(asked: Round) -> None:
    """The client is told that the connection broke; then the server gets the request."""
    asked.client.reset()
    time.sleep(STALL)
    asked.forward()


def _partition(asked: Round) -> None:
    """The client's connection breaks, and the server does not notice for a while: it keeps transaction and locks."""
    asked.client.reset()
    time.sleep(STALL)
    asked.server.reset()


def _slow(asked: Round) -> None:
    time.sleep(0.02)
    asked.client.trickle(asked.forward(), pieces=5, pause=0.005)


def _shut_down(asked: Round) -> None:
    asked.server.close()
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    asked.client.send(b"E" + struct.pack("!i", len(fields) + 4) + fields)
    asked.client.close()


def _no_protocol(asked: Round) -> None:
    asked.server.close()
    asked.client.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    asked.client.close()


def _black_hole(asked: Round) -> None:
    asked.client.wait_for_its_end()
    asked.server.close()


def _black_hole_for_answers(asked: Round) -> None:
    asked.forward()
    asked.client.wait_for_its_end()


POSTGRES_FAULTS = (
    DatabaseFault("reset before the request", _before(Wire.reset)),
    DatabaseFault("closed before the request", _before(Wire.close)),
    DatabaseFault("stall, then a reset before the request", _before(Wire.reset, stall=STALL)),
    DatabaseFault("reset in the request", _in_the_request),
    DatabaseFault("reset after the request", _after(Wire.reset), done=True),
    DatabaseFault("closed after the request", _after(Wire.close), done=True),
    DatabaseFault("half-closed after the request", _half_closed, done=True),
    DatabaseFault("stall, then a reset after the request", _after(Wire.reset, stall=STALL), done=True),
    DatabaseFault("reset in the answer", _after(Wire.reset, share=0.5), done=True),
    DatabaseFault("truncated answer", _after(Wire.close, share=0.5), done=True),
    DatabaseFault("delivered late", _delivered_late, done=True),
    DatabaseFault("a partition that the server does not notice", _partition),
    DatabaseFault("the server shuts down", _shut_down),
    DatabaseFault("no PostgreSQL at all", _no_protocol),
    DatabaseFault("connections are refused", _refused),
    DatabaseFault("latency and a trickle", _slow, done=True, harmless=True),
    DatabaseFault("black hole for requests", _black_hole, silent=True),
    DatabaseFault("black hole for answers", _black_hole_for_answers, done=True, silent=True),
)
