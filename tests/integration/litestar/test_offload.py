"""Files that the web server in front sends: nginx and lighttpd, with the configurations of the guide."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from litestar import Litestar, route
from litestar.config.cors import CORSConfig
from litestar.params import FromPath

from granite_core import (
    LocalStorageBackend,
    MemoryStorageBackend,
    ObjectReader,
    Offload,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
)
from granite_core.errors import ConfigurationError
from granite_core.events import Served
from granite_core.testing.conformance.support import assert_same
from granite_litestar import FileDownload, GraniteConfig, GranitePlugin
from tests.support.parts import find_program, need
from tests.support.processes import answers, free_port, running

from .downloads_support import content_of, serving, wait_until

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
TOKEN = "a secret that both know"
BIG = content_of(3_000_000)
HTML = b"<!doctype html><script>alert(1)</script>"
FOREVER = "Fri, 01 Jan 2094 00:00:00 GMT"


class CountedDisk(LocalStorageBackend):
    """Counts how often it is read."""

    opened = 0

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        self.opened += 1
        return super().open_reader(location, offset=offset, length=length)


@dataclass
class World:
    folder: Path
    served: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = self.folder / "srv files"
        self.disk = CountedDisk(self.root, file_mode=0o644, folder_mode=0o755)
        elsewhere = LocalStorageBackend(self.folder / "elsewhere")
        policies = [
            StoragePolicy("files", "main", delivery="offload", key_prefix="über uns", key_template="{tenant}"),
            StoragePolicy("auto", "main", delivery="auto"),
            StoragePolicy("streamed", "main"),
            StoragePolicy("checked", "main", verify_reads=True),
            StoragePolicy("elsewhere", "elsewhere", delivery="auto"),
        ]
        self.manager = StorageManager({"main": self.disk, "elsewhere": elsewhere}, policies)
        self.files = {
            "big": self.put(BIG, "größe 50%.bin", tenant="acme"),
            "odd": self.put(BIG[:5000], "a.bin", tenant="Zoë & söhne/../50% #1?.d"),
            "image": self.put(b"\x89PNG\r\n\x1a\n" + BIG[:3000], "a.png", tenant="t"),
            "pdf": self.put(b"%PDF-1.7\n" + BIG[:3000], "a.pdf", tenant="t"),
            "page": self.put(HTML, "a.html", tenant="t"),
            "text": self.put(b"plain words\n" * 500, "a.txt", tenant="t"),
            "empty": self.put(b"", "a.bin", tenant="t"),
            "missing": self.put(b"gone", "a.bin", tenant="t"),
            "cut": self.put(b"shorter", "a.bin", tenant="t"),
            "auto": self.manager.put_bytes("auto", content=BIG[:9000]),
            "streamed": self.manager.put_bytes("streamed", content=BIG[:9000]),
            "checked": self.manager.put_bytes("checked", content=BIG[:9000]),
            "elsewhere": self.manager.put_bytes("elsewhere", content=BIG[:9000]),
        }
        self.manager.delete(self.files["missing"])
        os.truncate(self.root / self.files["cut"].location, 3)

    def put(self, content: bytes, name: str, *, tenant: str) -> StoredObjectRef:
        return self.manager.put_bytes("files", content=content, original_filename=name, context={"tenant": tenant})

    def app(self, offload: Offload | None, **options: Any) -> Litestar:
        @route("/files/{name:str}", http_method=["GET", "HEAD"])
        async def download(name: FromPath[str]) -> FileDownload:
            delivery = "offload" if name == "checked" else None
            return FileDownload(self.files[name], delivery=delivery, cookies={"seen": "yes"}, headers={"X-Own": "1"})

        plugin = GranitePlugin(GraniteConfig(self.manager, gc=None, offload=offload))
        return Litestar([download], plugins=[plugin], openapi_config=None, logging_config=None, **options)

    def offload(self, header: Any, name: str, token: str | None = TOKEN) -> Offload:
        return Offload({str(self.root): name}, header=header, token=token)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


# ----------------------------------------------------------------------------------------------------------- servers
@contextmanager
def nginx(world: World, app: int, front: int) -> Iterator[list[Any]]:
    need("nginx")
    folder = world.folder
    server = (EXAMPLES / "nginx.conf").read_text().replace(":8000;", f":{app};").replace("8080", str(front))
    server = server.replace("/srv/files/;", f'"{world.root}/";').replace("from=/srv/files", f'"from={world.root}"')
    spools = "".join(
        f"{each}_temp_path {folder}/{each};\n" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""  # the folders of tests are private
    (folder / "nginx.conf").write_text(
        f"daemon off;\n{user}pid {folder}/pid;\nerror_log {folder}/error;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{spools}{server}}}\n"
    )
    yield [find_program("nginx"), "-e", f"{folder}/error", "-c", f"{folder}/nginx.conf"]


@contextmanager
def lighttpd(world: World, app: int, front: int) -> Iterator[list[Any]]:
    need("lighttpd")
    config = (EXAMPLES / "lighttpd.conf").read_text().replace("8000", str(app)).replace("8080", str(front))
    (world.folder / "lighttpd.conf").write_text(config.replace("/srv/files", str(world.root)))
    yield [find_program("lighttpd"), "-D", "-f", world.folder / "lighttpd.conf"]


FRONTS = {"nginx": (nginx, "X-Accel-Redirect"), "lighttpd": (lighttpd, "X-Sendfile")}


@pytest.fixture(scope="module", params=FRONTS)
def client(request: pytest.FixtureRequest, world: World) -> Iterator[httpx.Client]:
    configured, header = FRONTS[request.param]
    front = free_port()
    offload = world.offload(header, "/_files" if header == "X-Accel-Redirect" else str(world.root))
    cors = CORSConfig(allow_origins=["https://app.example"])
    with (
        serving(world.app(offload, cors_config=cors)) as address,
        configured(world, int(address.rpartition(":")[2]), front) as argv,
    ):
        url = f"http://127.0.0.1:{front}"
        with (
            running(argv, log=world.folder / f"{request.param}.out", ready=lambda: answers(url), cwd=world.folder),
            httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
        ):
            client.headers["X-Front"] = request.param
            yield client


def etag_of(ref: StoredObjectRef) -> str:
    return f'"{ref.checksum.removeprefix("sha256:")}"'


def from_the_front(client: httpx.Client, world: World, name: str, **headers: str) -> httpx.Response:
    before = world.disk.opened
    answer = client.get(f"/files/{name}", headers=headers)
    assert world.disk.opened == before, "the application read the file"
    return answer


def test_a_whole_file_comes_from_the_front_with_our_headers(client: httpx.Client, world: World) -> None:
    ref = world.files["big"]
    answer = from_the_front(client, world, "big")
    assert answer.status_code == 200
    assert_same(answer.content, BIG)
    own = client.head("/files/big").headers
    told = (
        *("etag", "last-modified", "content-type", "content-disposition", "cache-control", "x-content-type-options"),
        *("content-security-policy", "cross-origin-resource-policy", "repr-digest", "content-length", "accept-ranges"),
    )
    assert {name: answer.headers.get_list(name) for name in told} == {name: own.get_list(name) for name in told}
    assert answer.headers["etag"] == etag_of(ref)
    assert answer.headers["content-digest"] == answer.headers["repr-digest"]
    assert answer.cookies["seen"] == "yes"
    for header in ("x-accel-redirect", "x-sendfile", "x-granite-offload"):
        assert header not in answer.headers


@pytest.mark.parametrize("name", ["odd", "image", "pdf", "page", "empty", "auto"])
def test_every_kind_of_name_and_content_comes_from_the_front(client: httpx.Client, world: World, name: str) -> None:
    answer = from_the_front(client, world, name)
    assert answer.status_code == 200
    assert hashlib.sha256(answer.content).hexdigest() == world.files[name].checksum.removeprefix("sha256:")
    kind = "inline" if name in ("image", "pdf") else "attachment"
    assert answer.headers["content-disposition"].startswith(kind)
    assert ("content-security-policy" in answer.headers) == (name != "pdf")


def test_ranges_come_from_the_front(client: httpx.Client, world: World) -> None:
    tag = etag_of(world.files["big"])
    for asked, wanted in (
        ("0-9", BIG[:10]),
        ("2999990-", BIG[-10:]),
        ("-7", BIG[-7:]),
        ("1000000-1999999", BIG[10**6 : 2 * 10**6]),
    ):
        for headers in ({}, {"If-Range": tag}, {"If-None-Match": '"other"'}):
            answer = from_the_front(client, world, "big", Range=f"bytes={asked}", **headers)
            assert (answer.status_code, answer.content) == (206, wanted), asked
            assert (answer.headers["etag"], answer.headers.get_list("content-length")) == (tag, [str(len(wanted))])
            assert "content-digest" not in answer.headers
    several = from_the_front(client, world, "big", Range="bytes=0-9,1000000-1000009")
    assert several.status_code == 206
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert several.content.lower().count(b"content-type: application/octet-stream") == 2
    assert BIG[:10] in several.content
    assert BIG[1000000:1000010] in several.content
    stale = from_the_front(client, world, "big", Range="bytes=0-9", **{"If-Range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, len(BIG))
    assert "content-digest" not in stale.headers  # it would be wrong, should the front see it otherwise


def test_conditions_are_judged_by_the_application(client: httpx.Client, world: World) -> None:
    tag = etag_of(world.files["big"])
    modified = client.head("/files/big").headers["last-modified"]
    asked: list[tuple[dict[str, str], int]] = [
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": f"W/{tag}"}, 304),
        ({"If-Modified-Since": modified}, 304),
        ({"If-None-Match": '"other"', "If-Modified-Since": FOREVER}, 200),
        ({"If-Modified-Since": "Thu, 01 Jan 2015 00:00:00 GMT"}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Unmodified-Since": "Thu, 01 Jan 2015 00:00:00 GMT"}, 412),
        ({"Range": "bytes=9999999-"}, 416),
    ]
    for headers, status in asked:
        answer = from_the_front(client, world, "big", **headers)
        assert answer.status_code == status, headers
        assert answer.headers.get("etag") == tag
    # The front would hold these against validators of its own.
    for headers in ({"If-Match": tag}, {"If-Unmodified-Since": modified}, {"If-Match": "*", "Range": "bytes=0-9"}):
        before = world.disk.opened
        answer = client.get("/files/big", headers=headers)
        assert answer.status_code == (206 if "Range" in headers else 200), headers
        assert world.disk.opened == before + 1


@pytest.mark.parametrize("name", ["text", "streamed", "checked", "elsewhere"])
def test_what_is_not_left_to_the_front_is_streamed_through_it(client: httpx.Client, world: World, name: str) -> None:
    answer = client.get(f"/files/{name}")
    assert hashlib.sha256(answer.content).hexdigest() == world.files[name].checksum.removeprefix("sha256:")
    assert answer.headers["x-own"] == "1"  # an answer of the application's own


def test_what_is_wrong_with_a_file_is_noticed_before_the_front_is_asked(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    gone = client.get("/files/missing")
    assert (gone.status_code, gone.json()["detail"]) == (404, "The file does not exist.")
    assert client.get("/files/cut").status_code == 500
    assert "is missing" in caplog.text
    assert "has 3 bytes" in caplog.text


def test_the_files_of_the_front_are_not_for_clients(client: httpx.Client, world: World) -> None:
    location = quote(world.files["big"].location)
    for path in (f"/_files/{location}", f"/%5Ffiles/{location}", "/_files/"):
        assert client.get(path).status_code == 404


def test_scripts_of_other_origins_may_read_what_cors_allows(client: httpx.Client, world: World) -> None:
    answer = from_the_front(client, world, "big", Origin="https://app.example", Range="bytes=0-9")
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "content-range" in answer.headers["access-control-expose-headers"].lower()
    assert "origin" in answer.headers["vary"].lower()


def test_a_client_cannot_pass_for_the_front(world: World) -> None:
    offload = world.offload("X-Accel-Redirect", "/_files")
    with serving(world.app(offload)) as address, httpx.Client(base_url=address, trust_env=False) as client:
        for shown in (None, "", "a guess that is not it", "ä"):
            headers = {} if shown is None else {"X-Granite-Offload": shown.encode()}
            answer = client.get("/files/big", headers=headers)
            assert len(answer.content) == len(BIG), shown
            assert "x-accel-redirect" not in answer.headers
        told = client.get("/files/big", headers={"X-Granite-Offload": TOKEN})
        assert told.content == b""
        assert told.headers["x-accel-redirect"].startswith("/_files/%C3%BCber%20uns/acme/")


def test_it_is_told_as_served(world: World) -> None:
    told: list[Served] = []
    stop = world.manager.listen(told.append, Served)  # type: ignore[arg-type] # it hears of this kind alone
    with serving(world.app(world.offload("X-Accel-Redirect", "/_files", None))) as address:
        httpx.get(f"{address}/files/big", headers={"Range": "bytes=0-9"}, trust_env=False)
        assert wait_until(lambda: bool(told))
    stop()
    assert [(each.status, each.sent, each.complete, each.error) for each in told] == [(206, 0, True, None)]


# ------------------------------------------------------------------------------------------------------- at the start
@pytest.mark.parametrize(
    ("backend", "offload", "message"),
    [
        (lambda _: MemoryStorageBackend(), lambda root: Offload({str(root): "/_f"}), "keeps files on disk"),
        (LocalStorageBackend, lambda _: None, "GraniteConfig"),
        (LocalStorageBackend, lambda root: Offload({f"{root}-other": "/_f"}), "no name for the folder"),
    ],
)
def test_offloading_what_cannot_be_is_refused_at_the_start(
    tmp_path: Path, backend: Any, offload: Any, message: str
) -> None:
    manager = StorageManager({"main": backend(tmp_path / "a")}, [StoragePolicy("files", delivery="offload")])
    with pytest.raises(ConfigurationError, match=message):
        Litestar([], plugins=[GranitePlugin(GraniteConfig(manager, gc=None, offload=offload(tmp_path / "a")))])


def test_a_root_that_is_a_link_is_the_folder_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    manager = StorageManager({"main": LocalStorageBackend(tmp_path / "link")}, [StoragePolicy("files")])
    ref = manager.put_bytes("files", content=b"x")
    path = manager.local_path(ref)
    assert path is not None
    for root in ("real", "link"):
        assert Offload({str(tmp_path / root): "/_files/"}).name_of(path) == f"/_files/{ref.location}"


def test_auto_streams_where_there_is_no_front(world: World) -> None:
    @route("/auto", http_method=["GET", "HEAD"])
    async def auto() -> FileDownload:
        return FileDownload(world.files["auto"])

    manager = StorageManager({"main": world.disk}, [StoragePolicy("auto", delivery="auto")])
    with serving(Litestar([auto], plugins=[GranitePlugin(GraniteConfig(manager, gc=None))])) as address:
        assert httpx.get(f"{address}/auto", trust_env=False).content == BIG[:9000]
