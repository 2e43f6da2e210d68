"""One set of servers for a whole test run: started at first use, by the one process that outlives all workers.

Under xdist every worker is a process of its own. The controlling process listens on a Unix socket; whoever needs a part
asks for it by name and gets its address. A single thread answers, so nothing is started twice, and the servers are that
thread's children, so they end with it (see tether.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any, Protocol

from . import ceph, media, ministack, postgres

__all__ = ["VARIABLE", "Broker", "ask"]

VARIABLE = "GRANITE_TEST_SERVERS"
"""Names the socket of the broker in charge. Set beforehand, its servers are used and left running."""


class Server(Protocol):
    @property
    def info(self) -> Any: ...
    def stop(self) -> None: ...


_STARTS: dict[str, Callable[[Path], Server]] = {
    "ceph": ceph.Ceph,
    "ministack": ministack.MiniStack,
    "postgres": postgres.Postgres,
    "video": media.Videos,
}


class Broker:
    """Starts parts on demand and stops them all in `close`."""

    def __init__(self) -> None:
        _remove_leftovers()
        # Short (a Unix socket's path has at most 107 bytes), and passable for the user PostgreSQL runs as.
        self.folder = Path(tempfile.mkdtemp(prefix=f"granite-{os.getpid()}-"))
        self.folder.chmod(0o711)
        self.address = str(self.folder / "broker")
        self._servers: dict[str, Server] = {}
        self._errors: dict[str, str] = {}
        self._listener = Listener(self.address, family="AF_UNIX")
        self._thread = threading.Thread(target=self._serve, name="granite test servers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop everything that was started. May be called twice."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(OSError), Client(self.address, family="AF_UNIX") as connection:
            connection.send(None)
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _serve(self) -> None:
        try:
            while True:
                with contextlib.suppress(EOFError, OSError), self._listener.accept() as connection:
                    part = connection.recv()
                    if part is None:
                        break
                    connection.send(self._answer(part))
        finally:
            # Here and not in close(): the servers get their death signal when this thread ends.
            for server in self._servers.values():
                with contextlib.suppress(Exception):
                    server.stop()
            self._listener.close()

    def _answer(self, part: str) -> tuple[Any, str | None]:
        if part not in self._servers and part not in self._errors:
            folder = self.folder / part
            folder.mkdir()
            try:
                self._servers[part] = _STARTS[part](folder)
            except Exception as error:
                self._errors[part] = f"{type(error).__name__}: {error}"
        if part in self._errors:
            return None, self._errors[part]
        return self._servers[part].info, None


def ask(part: str) -> Any:
    """What the broker knows of a part, which it starts first where it must."""
    with Client(os.environ[VARIABLE], family="AF_UNIX") as connection:
        connection.send(part)
        info, error = connection.recv()
    if error is not None:
        raise RuntimeError(f"{part} did not start: {error}")
    return info


def _remove_leftovers() -> None:
    """Remove the folders of runs that were killed: their processes are gone, their folders are not."""
    for folder in Path(tempfile.gettempdir()).glob("granite-[0-9]*-*"):
        pid = folder.name.split("-")[1]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
