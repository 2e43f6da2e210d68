"""Files that the server sends by their path (ASGI's extension ``http.response.pathsend``).

Middleware that stands between a response and the server knows nothing of that message, mostly. So what reaches the
server is watched from outside of all of it: where the message is swallowed on the way, the response sends the body as
ever; where it passes, those on the way are shown an end of the body, which they may wait for and the server must not
hear of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from litestar.types import ASGIApp, Receive, Scope, Send

__all__ = ["PathSendMiddleware", "send_path", "sends_paths"]

_MESSAGE: Final = "http.response.pathsend"
_STATE_KEY: Final = "_granite_path_send"


class PathSendMiddleware:
    """Lets responses have the server send files, where it offers that. It must be the outermost middleware."""

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application."""

        async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
            if _MESSAGE in (scope.get("extensions") or ()):
                watched = _WatchedSend(send)
                scope["state"][_STATE_KEY] = watched
                send = watched
            await app(scope, receive, send)

        return middleware


class _WatchedSend:
    """The server's ``send``, and whether it was given a path."""

    __slots__ = ("_send", "passed")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.passed = False

    async def __call__(self, message: Any) -> None:
        if self.passed:
            return
        self.passed = message["type"] == _MESSAGE
        await self._send(message)


def sends_paths(scope: Scope) -> bool:
    """Tell whether ``send_path`` can be tried."""
    return _STATE_KEY in scope["state"]


async def send_path(scope: Scope, send: Send, path: Path) -> bool:
    """Have the server send a whole file as the body of a response that was started.

    Args:
        scope: The connection.
        send: The response's ``send``.
        path: The file, of the announced length. Where it is another one by the time the server reads it, the server
            cuts the connection; where it is gone, the server answers 404.

    Returns:
        Whether it does; False where a middleware swallowed the message, and the body is still to be sent.
    """
    await send({"type": _MESSAGE, "path": str(path)})  # type: ignore[arg-type]  # Litestar does not list extensions
    if not scope["state"][_STATE_KEY].passed:
        return False
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return True
