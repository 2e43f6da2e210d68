"""What can befall a request to an object store: the table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from .http import Answer, Exchange, HttpFault, Request

__all__ = ["HTTP_FAULTS", "NamedFault", "Needs", "befall_if_it_applies"]

Needs: TypeAlias = Literal["a body to send", "a body to receive"] | None

LATENCY = 0.05
"""Seconds; well below every time-out."""


@dataclass(frozen=True)
class NamedFault:
    """A fault, and what may be expected of it.

    Args:
        name: Its name.
        befall: What happens to an exchange.
        harmless: The operation succeeds all the same.
        mended: By trying again, where it does not last: by boto3, or by ourselves.
        silent: The client must wait for its time-out.
        needs: What a request must have for this to befall it.
    """

    name: str
    befall: HttpFault
    harmless: bool = False
    mended: bool = True
    silent: bool = False
    needs: Needs = None

    def applies(self, request: Request) -> bool:
        """Whether the fault can befall a request."""
        if self.needs == "a body to send":
            return bool(request.body)
        if self.needs == "a body to receive":
            return request.method == b"GET" or request.method == b"POST" or b"x-amz-copy-source" in request.head.lower()
        return True


def befall_if_it_applies(fault: NamedFault) -> HttpFault:
    """The fault; other requests pass."""

    def befall(exchange: Exchange) -> None:
        if fault.applies(exchange.request):
            fault.befall(exchange)
        else:
            exchange.reply(exchange.forward())

    return befall


def _saying(answer: Answer, *, done: bool = False) -> HttpFault:
    """An answer that is not the store's own; whether the store has done the work all the same."""

    def befall(exchange: Exchange) -> None:
        if done:
            exchange.forward()
        without_body = exchange.request.method == b"HEAD"
        exchange.reply(replace(answer, body=b"", length=len(answer.body)) if without_body else answer)

    return befall


def _refused(exchange: Exchange) -> None:
    exchange.proxy.refuse()
    exchange.reset()


def _after(share: float) -> HttpFault:
    """The server gets some of the request, and the client a reset."""

    def befall(exchange: Exchange) -> None:
        if share:
            exchange.forward_some(share)
        exchange.reset()

    return befall


def _done_then(end: Callable[[Exchange], None]) -> HttpFault:
    """The server has done its work, and the client hears nothing of it."""

    def befall(exchange: Exchange) -> None:
        exchange.forward()
        end(exchange)

    return befall


def _half_closed(exchange: Exchange) -> None:
    exchange.forward()
    exchange.client.end_sending()
    exchange.client.wait_for_its_end()


def _cut(share: float, end: Callable[[Exchange], None], *, of_head: bool = False) -> HttpFault:
    """The client gets some of the answer's head, or the head and some of the body."""

    def befall(exchange: Exchange) -> None:
        answer = exchange.forward()
        size = int(len(answer.head) * share) if of_head else len(answer.head) + int(len(answer.body) * share)
        exchange.client.send(answer.raw[:size])
        if not of_head:
            time.sleep(0.01)  # a reset overtakes what was not read yet
        end(exchange)

    return befall


def _silence(exchange: Exchange) -> None:
    exchange.client.wait_for_its_end()


def _black_hole_for_answers(exchange: Exchange) -> None:
    exchange.forward()
    _silence(exchange)


def _delivered_late(exchange: Exchange) -> None:
    """The client gave up long ago, and has perhaps tried again, when the server gets the request."""
    _silence(exchange)
    time.sleep(LATENCY)
    exchange.forward()


def _slow(exchange: Exchange) -> None:
    time.sleep(LATENCY)
    exchange.client.trickle(exchange.forward().raw, pieces=10, pause=LATENCY / 10)


def _twice(exchange: Exchange) -> None:
    answer = exchange.forward()
    exchange.forward()
    exchange.reply(answer)


def _answered_for_the_second_time(exchange: Exchange) -> None:
    exchange.forward()
    exchange.reply(exchange.forward())


def _flip(data: bytes) -> bytes:
    """The same with one bit turned, in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if data else data


def _flipped_request(exchange: Exchange) -> None:
    request = exchange.request
    exchange.reply(exchange.forward(replace(request, body=_flip(request.body))))


def _flipped_answer(exchange: Exchange) -> None:
    answer = exchange.forward()
    exchange.reply(replace(answer, body=_flip(answer.body)))


def _no_http(exchange: Exchange) -> None:
    exchange.client.send(b"\x16\x03\x01\x00\xee\x01\x00\x00\xea\x03\x03 220 mail.example ESMTP\r\n\r\n")
    exchange.hang_up()


def _xml(code: str, status: int, reason: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return Answer(status, reason, (("Content-Type", "application/xml"),), body.encode())


def _page(status: int, reason: str, **headers: str) -> Answer:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, reason, (("Content-Type", "text/html"), *named), b"<html><body>welcome</body></html>")


_RESET, _HANG_UP = Exchange.reset, Exchange.hang_up

HTTP_FAULTS = (
    NamedFault("connections are refused", _refused, mended=False),
    NamedFault("reset before the request", _after(0)),
    NamedFault("reset in the request's head", _after(0.2)),
    NamedFault("reset in the request's body", _after(0.95), needs="a body to send"),
    NamedFault("reset after the request", _done_then(_RESET)),
    NamedFault("closed after the request", _done_then(_HANG_UP)),
    NamedFault("half-closed after the request", _half_closed),
    NamedFault("reset in the answer's head", _cut(0.5, _RESET, of_head=True)),
    NamedFault("closed in the answer's head", _cut(0.5, _HANG_UP, of_head=True), mended=False),
    NamedFault("reset in the answer's body", _cut(0.5, _RESET), needs="a body to receive"),
    NamedFault("truncated body", _cut(0.5, _HANG_UP), needs="a body to receive"),
    NamedFault("silence in the answer's body", _cut(0.5, _silence), silent=True, needs="a body to receive"),
    NamedFault("black hole for requests", _silence, silent=True),
    NamedFault("black hole for answers", _black_hole_for_answers, silent=True),
    NamedFault("delivered late", _delivered_late, silent=True),
    NamedFault("latency and a trickle", _slow, harmless=True),
    NamedFault("delivered twice", _twice, harmless=True),
    NamedFault("delivered twice, the second answer comes", _answered_for_the_second_time),
    NamedFault("500 InternalError", _saying(_xml("InternalError", 500, "Internal Server Error"))),
    NamedFault("500 after the work", _saying(_xml("InternalError", 500, "Internal Server Error"), done=True)),
    NamedFault("503 SlowDown", _saying(_xml("SlowDown", 503, "Slow Down"))),
    NamedFault("429 of a proxy", _saying(_page(429, "Too Many Requests")), mended=False),
    NamedFault("502 of a proxy", _saying(_page(502, "Bad Gateway"))),
    NamedFault("504 of a proxy after the work", _saying(_page(504, "Gateway Timeout"), done=True)),
    NamedFault("a redirect to a login page", _saying(_page(302, "Found", Location="http://x.invalid/")), mended=False),
    NamedFault("200 of something else", _saying(_page(200, "OK")), mended=False),
    NamedFault("200 of something else after the work", _saying(_page(200, "OK"), done=True), mended=False),
    NamedFault("200 of nothing", _saying(Answer(200, "OK")), mended=False),
    NamedFault("404 of something else", _saying(_page(404, "Not Found")), mended=False),
    NamedFault("no HTTP at all", _no_http),
    NamedFault("a bit flipped in the request", _flipped_request, mended=False, needs="a body to send"),
    NamedFault("a bit flipped in the answer", _flipped_answer, mended=False, needs="a body to receive"),
)
