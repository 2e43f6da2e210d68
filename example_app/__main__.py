"""``python -m example_app``."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

import uvicorn

from example_app.app import create_app
from example_app.settings import Settings


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port, or on the next free one."""
    for candidate in range(port, port + 50) if port else (0,):
        found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, candidate))
        except OSError:
            found.close()
            continue
        return found
    sys.exit(f"No free port from {port} on; choose another one with PORT=…")


def main() -> None:
    """Serve until Ctrl-C."""
    settings = Settings.read()
    listening = listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    host = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    app = create_app(settings)
    print(f"\n  Granite's example app:  http://{host}:{port}\n  Ctrl-C ends it.\n", flush=True)  # noqa: T201
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    with suppress(KeyboardInterrupt):  # it has shut down by then, and raises it once more
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
