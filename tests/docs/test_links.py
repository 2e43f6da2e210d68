"""The shop of the guide to links does what the guide says, on a disk and on a store that signs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.support.processes import answers, free_port, running
from tests.support.s3 import S3Server

ROOT = Path(__file__).parents[2]
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + b"x" * 5000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture(scope="module", params=["disk", "store"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("shop")
    url = f"http://127.0.0.1:{(port := free_port())}"
    env = {"PYTHONPATH": str(ROOT), "LINK_SECRETS": "n" * 32 + "," + "o" * 32, "PUBLIC_URL": url}
    bucket, server = None, None
    if request.param == "store":
        server = request.getfixturevalue("rgw")
        assert isinstance(server, S3Server)
        bucket = server.create_bucket()
        options = f"endpoint_url={quote(server.endpoint)}&region={server.region}&atomic_create=false"
        env |= {"STORAGE_URL": f"s3://{bucket}/shop?{options}"}
        env |= {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key, "NO_PROXY": "*"}
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", ROOT / "docs" / "examples", "--port", str(port), "links:app"]
    program = running(argv, log=folder / "log", ready=lambda: answers(url), cwd=folder, env=env)
    with program, httpx.Client(base_url=url, trust_env=False) as client:
        client.headers["x-kind"] = request.param
        yield client
    if server is not None and bucket is not None:
        server.drop_bucket(bucket)


@pytest.fixture(scope="module")
def invoice(client: httpx.Client) -> str:
    sent = client.post("/invoices", data={"customer": "Ada"}, files={"file": ("1.pdf", PDF)})
    assert sent.status_code == 201, sent.text
    return f"/invoices/{sent.json()['id']}"


def test_a_page_shows_links_that_end(client: httpx.Client, invoice: str) -> None:
    before, shown, after = (client.get(invoice).json() for _ in range(3))
    assert shown in (before, after)  # a bucket of time may end between two
    viewed, saved = client.get(shown["view"]), client.get(shown["save"])
    assert viewed.content == saved.content == PDF
    assert viewed.headers["content-disposition"] == 'inline; filename="1.pdf"'
    assert saved.headers["content-disposition"] == 'attachment; filename="Ada.pdf"'
    of_the_store = urlsplit(shown["view"]).port != client.base_url.port
    assert of_the_store == (client.headers["x-kind"] == "store")


def test_a_link_of_a_mail_is_the_shops_and_gives_what_the_row_holds(client: httpx.Client, invoice: str) -> None:
    mail = client.post(f"{invoice}/mail").text
    link = mail.split("your invoice: ")[1].strip()
    assert link.startswith(f"{client.base_url}/files/".replace("//files", "/files"))
    assert client.get(link, follow_redirects=True).content == PDF


def test_everybody_has_the_logo_for_a_year(client: httpx.Client) -> None:
    sent = client.post("/brands", data={"name": "Moss"}, files={"logo": ("l.png", PNG)})
    assert sent.status_code == 201, sent.text
    logo = client.get(client.get(f"/brands/{sent.json()['id']}").json()["logo"])
    assert logo.content == PNG
    assert logo.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_the_route_of_the_invoice_redirects_where_it_can(client: httpx.Client, invoice: str) -> None:
    answer = client.get(f"{invoice}/file")
    assert answer.status_code == {"disk": 200, "store": 302}[client.headers["x-kind"]]
    assert client.get(f"{invoice}/file", follow_redirects=True).content == PDF
