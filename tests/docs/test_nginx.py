"""The nginx configuration of the guide works: large uploads stream through, ranges and early refusals come back."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 32 * 1024  # 8 MiB
ADA = {"Authorization": "Bearer ada"}


@contextmanager
def behind_nginx(folder: Path, program: str, app: str, **env: str) -> Iterator[httpx.Client]:
    """An application of the examples, with the guide's nginx in front."""
    port, front = free_port(), free_port()
    server = (EXAMPLES / "nginx.conf").read_text().replace(":8000;", f":{port};").replace("8080", str(front))
    server = server.replace("/srv/files", f"{folder}/files")
    folders = "".join(
        f"{each}_temp_path {folder}/{each};\n" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""  # the folders of tests are private
    (folder / "nginx.conf").write_text(
        f"daemon off;\n{user}pid {folder}/pid;\nerror_log {folder}/error;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}{server}}}\n"
    )
    application = running(
        [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), app],
        log=folder / "log",
        ready=lambda: answers(f"http://127.0.0.1:{port}"),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), **env},
    )
    url = f"http://127.0.0.1:{front}"
    nginx = running(
        [program, "-e", f"{folder}/error", "-c", f"{folder}/nginx.conf"],
        log=folder / "nginx",
        ready=lambda: answers(url),
    )
    with application, nginx, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        client.headers["x-application"] = str(port)
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, nginx_path: str) -> Iterator[httpx.Client]:
    with behind_nginx(tmp_path_factory.mktemp("nginx"), nginx_path, "archive:app") as client:
        yield client


def test_a_file_goes_through_whole_and_in_parts(client: httpx.Client) -> None:
    sent = client.post("/cases", data={"title": "Moss"}, files={"contract": ("c.pdf", PDF)}, headers=ADA)
    assert sent.status_code == 201, sent.text
    url = f"/cases/{sent.json()['id']}/contract"
    whole = client.get(url, headers={**ADA, "Accept-Encoding": "gzip"})
    assert hashlib.sha256(whole.content).digest() == hashlib.sha256(PDF).digest()
    assert whole.headers["etag"] == f'"{hashlib.sha256(PDF).hexdigest()}"'
    assert "content-encoding" not in whole.headers
    part = client.get(url, headers={**ADA, "Range": "bytes=5000000-5000099"})
    assert (part.status_code, part.content) == (206, PDF[5000000:5000100])


def test_a_guard_answers_before_the_upload_has_arrived(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as stranger:
        head = f"PUT /cases/{uuid4()}/contract HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000000\r\n\r\n"
        stranger.sendall(head.encode() + b"%PDF-1.7")
        assert stranger.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_nginx_sends_what_the_application_leaves_to_it(tmp_path: Path, nginx_path: str) -> None:
    env = {"OFFLOAD_TOKEN": "a secret that both know", "FILES": f"{tmp_path}/files"}
    with behind_nginx(tmp_path, nginx_path, "offloading:app", **env) as client:
        assert client.post("/films/moss", content=PDF).status_code == 201
        whole = client.get("/films/moss")
        assert hashlib.sha256(whole.content).digest() == hashlib.sha256(PDF).digest()
        assert whole.headers["etag"] == f'"{hashlib.sha256(PDF).hexdigest()}"'
        part = client.get("/films/moss", headers={"Range": "bytes=5000000-5000099"})
        assert (part.status_code, part.content) == (206, PDF[5000000:5000100])
        assert client.get("/films/moss", headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        # Past nginx nothing is left to it.
        past = client.get(f"http://127.0.0.1:{client.headers['x-application']}/films/moss")
        assert "x-accel-redirect" not in past.headers
        assert len(past.content) == len(PDF)
        told = {"X-Granite-Offload": env["OFFLOAD_TOKEN"]}
        past = client.get(f"http://127.0.0.1:{client.headers['x-application']}/films/moss", headers=told)
        assert past.headers["x-accel-redirect"].startswith("/_files/")
