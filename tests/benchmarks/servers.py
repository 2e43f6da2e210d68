"""Servers that contenders run: ASGI applications on uvicorn and granian, and nginx; one worker process by default."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.support.parts import find_program
from tests.support.processes import answers, free_port, running

__all__ = ["VALUES", "Address", "nginx", "nginx_missing", "serve", "values"]

VALUES = "GRANITE_BENCHMARK"
ROOT = Path(__file__).parents[2]

_UVICORN = ["--http", "httptools", "--loop", "uvloop", "--log-level", "warning", "--no-access-log"]
_GRANIAN = ["--interface", "asgi", "--loop", "uvloop", "--log-level", "warning"]


@dataclass(frozen=True)
class Address:
    """A running server."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serve(
    app: str,
    folder: Path,
    values: Mapping[str, Any],
    *,
    on: Literal["uvicorn", "granian"] = "uvicorn",
    workers: int = 1,
) -> Iterator[Address]:
    """Run an application, made by the factory `app` of `tests.benchmarks.apps`, in processes of its own."""
    port = free_port()
    name = f"tests.benchmarks.apps.{app}"
    options = [*(_UVICORN if on == "uvicorn" else _GRANIAN), "--workers", str(workers)]
    argv = [sys.executable, "-m", on, *options, "--factory", "--host", "127.0.0.1", "--port", str(port), name]
    env = {"PYTHONPATH": str(ROOT), VALUES: json.dumps({**values, "folder": str(folder)})}
    address = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    started = running(argv, log=log, ready=lambda: answers(address), patience=120, env=env, cwd=folder)
    with started as process:
        yield Address(process.pid, port)


def values() -> dict[str, Any]:
    """What the contender gave its application."""
    found: dict[str, Any] = json.loads(os.environ[VALUES])
    return found


_NGINX = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ }}
    default_type application/octet-stream;
    {upstream}
    server {{
        listen 127.0.0.1:{port}{listen};
        {server}
    }}
}}
"""


def nginx_missing() -> str | None:
    return None if find_program("nginx") else "not installed: nginx"


@contextmanager
def nginx(
    folder: Path, server: str, *, tls: tuple[Path, Path] | None = None, before: int | None = None
) -> Iterator[Address]:
    """Run nginx with the lines of a `server` block; with TLS where a certificate and its key are given.

    `before` is the port of what it stands before, as `http://behind`.
    """
    port = free_port()
    if tls:
        server = f"ssl_certificate {tls[0]};\n        ssl_certificate_key {tls[1]};\n        {server}"
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            folder=folder,
            port=port,
            listen=" ssl" if tls else "",
            server=server,
            upstream=f"upstream behind {{ server 127.0.0.1:{before}; keepalive 32; }}" if before else "",
            user="user root;" if os.geteuid() == 0 else "",  # what it serves is in folders of ours
        )
    )
    argv = [find_program("nginx") or "nginx", "-e", folder / "error.log", "-c", config, "-p", folder]
    with running(argv, log=folder / "nginx.log", ready=lambda: _listens(port)) as process:
        yield Address(process.pid, port)


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
