"""Fetching a file: redirects followed, each address judged, and what comes read as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from typing import Any, Final, cast

from granite_core._disposition import filename_of
from granite_core._open_source import OpenSource
from granite_core.errors import ContentTooLargeError, RemoteRefusedError, RemoteUnavailableError, StorageError
from granite_core.remote.rules import FetchRules
from granite_core.remote.targets import Target, parse_target, redirected
from granite_core.remote.wire import Deadline, Wire

__all__ = ["Fetch"]

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_ENCODED: Final = "the other server sent the file encoded, as it was asked not to"

MAX_INTERIM: Final = 32
"""How many answers may come before the answer."""

GATHERED_BYTES: Final = 256 * 1024
GATHERED_SECONDS: Final = 0.25
"""How much is gathered, and for how long, before it is handed on: a step costs a hop between threads."""


class Fetch:
    """One fetch. Blocks; used by one thread at a time, but for ``interrupt``.

    Args:
        url: Where the file is.
        rules: What may be fetched, and at what cost.

    Raises:
        RemoteRefusedError: The URL is none that may be fetched.
    """

    def __init__(self, url: str, rules: FetchRules) -> None:
        self._rules = rules
        self._target = parse_target(url, rules)
        self._wire: Wire | None = None
        self._interrupted = False

    def open(self) -> OpenSource:
        """Connect, follow redirects, and return the file at its first byte.

        Raises:
            RemoteRefusedError: The address, or one that it led to, may not be fetched.
            RemoteUnavailableError: The other server does not give the file.
            ContentTooLargeError: The announced length is over the rules' limit.
        """
        deadline = Deadline(self._rules.total_timeout)
        try:
            for _ in range(self._rules.max_redirects + 1):
                response = self._ask(deadline)
                location = response.headers.get("location")
                if response.status not in _REDIRECTS or location is None:
                    return self._opened(response)
                self.close()
                self._target = redirected(self._target, location, self._rules)
            raise RemoteRefusedError(
                f"the URL led on more than {self._rules.max_redirects} times", limit=self._rules.max_redirects
            )
        except BaseException:
            self.close()
            raise

    def _ask(self, deadline: Deadline) -> HTTPResponse:
        self._wire = wire = Wire(self._target, self._rules, deadline)
        if self._interrupted:
            raise RemoteUnavailableError("the fetch was given up")
        wire.connect()
        with _saying_what_failed(self._rules):
            wire.sendall(_request(self._target, self._rules))
            return _answer_on(wire)

    def _opened(self, response: HTTPResponse) -> OpenSource:
        if response.status != HTTPStatus.OK:
            raise RemoteUnavailableError(
                f"the other server answered {response.status}", limit=200, value=response.status
            )
        headers = response.headers
        coding = ", ".join(headers.get_all("content-encoding", [])).strip().lower()
        if coding not in ("", "identity"):
            raise RemoteUnavailableError(_ENCODED, limit="identity", value=coding[:40])
        length = _length(response)
        limit = self._rules.max_size
        if limit is not None and length is not None and length > limit:
            raise _too_large(limit, length)
        return OpenSource(
            stream=_Body(response, self._rules, length),
            filename=filename_of(headers.get("content-disposition", "")) or self._target.filename,
            content_type=headers.get("content-type"),
            size=length,
            announced=length,
            close=self.close,
        )

    def interrupt(self) -> None:
        """End it early; from any thread. Whoever opens or reads is told that it was given up."""
        self._interrupted = True
        if (wire := self._wire) is not None:
            wire.interrupt()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._wire is not None:
            self._wire.close()


class _Body:
    """The bytes as they come, counted."""

    def __init__(self, response: HTTPResponse, rules: FetchRules, length: int | None) -> None:
        self._response = response
        self._rules = rules
        self._length = length
        self._taken = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return some of the bytes, ``size`` at most; ``b""`` only at the end.

        Raises:
            RemoteUnavailableError: They do not come, or end before the announced length.
            ContentTooLargeError: They are more than the rules allow.
        """
        wanted = GATHERED_BYTES if size < 0 else min(size, GATHERED_BYTES)
        pieces: list[bytes] = []
        began = time.monotonic()
        with _saying_what_failed(self._rules):
            while wanted > 0 and (piece := self._response.read1(wanted)):
                pieces.append(piece)
                wanted -= len(piece)
                if time.monotonic() - began > GATHERED_SECONDS:
                    break
        data = b"".join(pieces)
        self._taken += len(data)
        limit = self._rules.max_size
        if limit is not None and self._taken > limit:
            raise _too_large(limit, self._taken)
        if not data and size != 0 and self._length is not None and self._taken != self._length:
            raise RemoteUnavailableError(
                "the other server sent less than it announced", limit=self._length, value=self._taken
            )
        return data


def _answer_on(wire: Wire) -> HTTPResponse:
    """Read the head of the answer, past those that only announce it: 103 Early Hints (RFC 9110 section 15.2)."""
    response: Any = HTTPResponse(cast("Any", wire), method="GET")
    for _ in range(MAX_INTERIM):
        response.begin()
        if response.status >= HTTPStatus.OK or response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            return cast("HTTPResponse", response)
        response.headers = None  # begins again: http.client passes over 100 alone
    raise RemoteUnavailableError("the other server comes to no answer", limit=MAX_INTERIM)


def _request(target: Target, rules: FetchRules) -> bytes:
    fields = {
        "Host": target.authority,
        "User-Agent": rules.user_agent,
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    lines = [f"GET {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


def _length(response: HTTPResponse) -> int | None:
    """The announced length; None where the end is marked in another way (RFC 9112 section 6.3)."""
    codings = ", ".join(response.headers.get_all("transfer-encoding", [])).strip().lower()
    if codings not in ("", "chunked"):
        raise RemoteUnavailableError(
            "the other server sent the file encoded, as it was asked not to", value=codings[:40]
        )
    lengths = set(response.headers.get_all("content-length", []))
    if codings or not lengths:
        return None
    length = lengths.pop().strip()
    if lengths or not (length.isascii() and length.isdigit()) or len(length) > 19:
        raise RemoteUnavailableError("the other server announced no length that can be one", value=length[:40])
    return int(length)


def _too_large(limit: int, value: int) -> ContentTooLargeError:
    return ContentTooLargeError(
        f"more than the {limit} bytes that may be fetched", operation="put", limit=limit, value=value
    )


@contextmanager
def _saying_what_failed(rules: FetchRules) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except TimeoutError as error:
        limit = rules.read_timeout.total_seconds()
        raise RemoteUnavailableError("the other server took too long", limit=limit) from error
    except (OSError, HTTPException, ValueError) as error:
        raise RemoteUnavailableError(
            "the other server broke off, or does not speak HTTP", detail=f"{type(error).__name__}: {error}"
        ) from error
