"""A proxy before PostgreSQL that sees its protocol (PostgreSQL documentation, "Message Formats") in rounds.

A round is what a client sends before it waits: a simple query, or messages up to Sync or Flush; and what comes back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from .listener import Listener, Wire

__all__ = ["PostgresFault", "PostgresProxy", "Round"]

_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
_QUERY, _SYNC, _FLUSH, _TERMINATE = b"Q", b"S", b"H", b"X"
_READY, _ERROR = b"Z", b"E"
_ASKING: Final = b"PBDEC"
_ANSWERED: Final = b"12TnCsI3"
"""Parse, Bind, Describe, Execute and Close, and what ends the answer to each: Flush brings no ReadyForQuery."""


@dataclass
class Round:
    """What a client asks, and what becomes of it."""

    proxy: PostgresProxy
    client: Wire
    server: Wire
    request: bytes
    sql: str
    flushes: int | None
    """So many messages are answered where it ends with Flush."""

    @property
    def is_commit(self) -> bool:
        return self.sql.strip(" ;").upper() == "COMMIT"

    def forward(self) -> bytes:
        """Have the server do it, and return what it says."""
        self.server.send(self.request)
        answer, left = bytearray(), self.flushes
        while left != 0:
            kind, raw = _message(self.server)
            answer += raw
            if kind == _READY or (kind == _ERROR and left is not None):
                break
            if left is not None and kind in _ANSWERED:
                left -= 1
        return bytes(answer)

    def forward_some(self, share: float) -> None:
        """Let the server have the beginning of it only, and leave."""
        self.server.send(self.request[: int(len(self.request) * share)])
        self.server.close()

    def reply(self, answer: bytes) -> None:
        """Let the client have an answer."""
        self.client.send(answer)


PostgresFault: TypeAlias = Callable[[Round], None]


@dataclass
class _Rule:
    matches: Callable[[Round], bool]
    fault: PostgresFault
    first: int
    times: float
    seen: int = 0
    hits: list[Round] = field(default_factory=list)


class PostgresProxy(Listener):
    """Stands before a PostgreSQL server that asks for no password.

    Attributes:
        rounds: The SQL of every round that came through.
    """

    def __init__(self, host: str, port: int) -> None:
        self.rounds: list[str] = []
        self._rules: list[_Rule] = []
        super().__init__((host, port))

    def inject(
        self,
        fault: PostgresFault,
        *,
        at: int = 1,
        times: int | None = 1,
        matching: Callable[[Round], bool] = lambda _: True,
    ) -> list[Round]:
        """Have a fault befall rounds; as ``HttpProxy.inject``."""
        rule = _Rule(matching, fault, at, float("inf") if times is None else times)
        with self._lock:
            self._rules.append(rule)
        return rule.hits

    def heal(self) -> None:
        """Forget every fault, wait for what is under way, and accept connections."""
        with self._lock:
            self._rules.clear()
        self.listen_again()
        self.settle()

    # -- how it is done ------------------------------------------------------------------------------------------------

    def serve(self, client: Wire) -> None:
        """Greet, then take round after round."""
        server = self.connect()
        try:
            if not self._greet(client, server):
                return
            statements: dict[bytes, str] = {}
            while (asked := self._ask(client, server, statements)) is not None:
                fault = self._find(asked)
                with self.working():
                    if fault is None:
                        asked.reply(asked.forward())
                    else:
                        fault(asked)
            server.send(_TERMINATE + struct.pack("!i", 4))
        finally:
            self.drop(server)

    def _greet(self, client: Wire, server: Wire) -> bool:
        """Pass on what begins a connection."""
        while True:
            (length,) = struct.unpack("!i", size := client.read(4))
            rest = client.read(length - 4)
            (code,) = struct.unpack("!i", rest[:4])
            if code in (_SSL, _GSS):
                client.send(b"N")
                continue
            server.send(size + rest)
            if code == _CANCEL:
                return False
            while True:
                kind, raw = _message(server)
                client.send(raw)
                if kind in (_READY, _ERROR):
                    return kind == _READY

    def _ask(self, client: Wire, server: Wire, statements: dict[bytes, str]) -> Round | None:
        """Read the next round; None when the client says goodbye."""
        request, sql, asking = bytearray(), "", 0
        while True:
            kind, raw = _message(client)
            if kind == _TERMINATE:
                return None
            request += raw
            if kind == _QUERY:
                sql = raw[5:-1].decode()
            elif kind == b"P":
                name, sql = raw[5:].split(b"\0")[0], raw[5:].split(b"\0")[1].decode()
                statements[name] = sql
            elif kind == b"B":
                sql = statements.get(raw[5:].split(b"\0")[1], sql)
            if kind in (_QUERY, _SYNC):
                return Round(self, client, server, bytes(request), sql, None)
            if kind == _FLUSH:
                return Round(self, client, server, bytes(request), sql, asking)
            asking += kind in _ASKING

    def _find(self, asked: Round) -> PostgresFault | None:
        found = None
        with self._lock:
            self.rounds.append(asked.sql)
            for rule in self._rules:
                if not rule.matches(asked):
                    continue
                rule.seen += 1
                if found is None and rule.first <= rule.seen < rule.first + rule.times:
                    rule.hits.append(asked)
                    found = rule.fault
        return found


def _message(wire: Wire) -> tuple[bytes, bytes]:
    """The type of the next message, and all of it."""
    head = wire.read(5)
    (length,) = struct.unpack("!i", head[1:])
    return head[:1], head + wire.read(length - 4)
