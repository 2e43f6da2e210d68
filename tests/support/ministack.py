"""MiniStack: a stand-in S3 that checks checksums and conditional requests, and no signature."""

from __future__ import annotations

from pathlib import Path

from .parts import MINISTACK
from .processes import answers, free_port, start, stop, wait_until
from .s3 import S3Server

__all__ = ["MiniStack"]


class MiniStack:
    """A running MiniStack, everything in its memory."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        log = folder / "ministack.log"
        env = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "s3"}
        self.info = S3Server("ministack", f"http://127.0.0.1:{port}", "test", "test")
        self._process = start([MINISTACK], log=log, env=env, cwd=folder)
        try:
            wait_until(lambda: answers(self.info.endpoint), process=self._process, log=log)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        stop(self._process)
