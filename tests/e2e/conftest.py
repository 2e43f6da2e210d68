"""The example app as a person meets it: a process of its own, on local disk and SQLite or on Ceph and PostgreSQL."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from granite_core import ObjectNotFoundError, StorageBackend, backend_from_url
from tests.support.processes import answers, free_port, running
from tests.support.s3 import S3Server

ROOT = Path(__file__).parents[2]

expect.set_options(timeout=15_000)  # patience for busy machines; what is there is found at once

CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Demo:
    """A running example app, and its storage seen from behind."""

    url: str
    pid: int
    grace: float
    storage: StorageBackend

    def objects(self) -> dict[str, str]:
        """SHA-256 of every object on the backend, by location."""
        found = {}
        for each in self.storage.list_objects():
            digest = hashlib.sha256()
            with suppress(ObjectNotFoundError), self.storage.open_reader(each.location) as reader:  # just collected
                while data := reader.read(1 << 20):
                    digest.update(data)
                found[each.location] = digest.hexdigest()
        return found


StartDemo = Callable[..., Demo]


@pytest.fixture
def start_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[StartDemo]:
    """`start_demo("local" | "ceph", grace=…, **environment)` starts the app; it ends with the test."""
    with ExitStack() as ends:

        def start(place: str = "local", *, grace: float = 20, **environment: str) -> Demo:
            storage_url = f"file:{tmp_path / 'files'}"
            if place == "ceph":
                storage_url, credentials = _bucket(request)
                for name, value in credentials.items():
                    monkeypatch.setenv(name, value)
                environment["DATABASE_URL"] = request.getfixturevalue("postgres_database").sync_url.replace(
                    "+psycopg", ""
                )
                environment["STORAGE_URL"] = storage_url
            url = f"http://127.0.0.1:{(port := free_port())}"
            program = running(
                [sys.executable, "-m", "example_app"],
                log=tmp_path / "log",
                ready=lambda: answers(url),
                cwd=ROOT,
                env={
                    "GRANITE_DEMO_DIR": str(tmp_path),
                    "GRACE_SECONDS": str(grace),
                    "PORT": str(port),
                    "NO_PROXY": "127.0.0.1,localhost",
                    **environment,
                },
            )
            process = ends.enter_context(program)
            return Demo(url, process.pid, grace, backend_from_url(storage_url))

        yield start


def _bucket(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    server: S3Server = request.getfixturevalue("rgw")
    _, bucket = request.getfixturevalue("s3_bucket")(server)
    credentials = {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_DEFAULT_REGION": server.region,
    }
    # This release of Ceph ignores If-None-Match on a PUT; the app refuses to start where nobody said so.
    options = urlencode({"endpoint_url": server.endpoint, "atomic_create": "false"})
    return f"s3://{bucket}/demo?{options}", credentials


@pytest.fixture(params=["local", "ceph"])
def place(request: pytest.FixtureRequest) -> str:
    """Local disk and SQLite, then Ceph and PostgreSQL."""
    return request.param


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM)
        yield started
        started.close()


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory, ffmpeg_path: str) -> dict[str, Path]:
    """Real files: two pictures, a text with a non-Latin name, a PDF, and a video too long to be loaded at once."""
    folder = tmp_path_factory.mktemp("samples")
    return make_samples(folder, ffmpeg_path)


def make_samples(folder: Path, ffmpeg: str) -> dict[str, Path]:
    from tests.support.processes import run

    def encode(name: str, source: str, *options: str) -> Path:
        target = folder / name
        quiet = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
        run([ffmpeg, *quiet, "-f", "lavfi", "-i", source, *options, target])
        return target

    text = folder / "Ελληνικά 日本語 עברית.txt"
    text.write_text("Η ταχεία καφέ αλεπού\nいろはにほへと ちりぬるを\nדג סקרן שט בים\n" * 20, encoding="utf-8")
    pdf = folder / "Договор № 5.pdf"
    pdf.write_bytes(one_page_pdf("Granite"))
    noisy = "testsrc2=size=640x360:rate=15,noise=alls=70:allf=t"
    h264 = [
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
        "-g",
        "15",
        "-crf",
        "34",
        "-movflags",
        "+faststart",
    ]
    return {
        "picture": encode("Küste.png", "gradients=size=800x600:seed=4", "-frames:v", "1"),
        "other picture": encode("Mandelbrot.jpg", "mandelbrot=size=640x480", "-frames:v", "1"),
        "text": text,
        "pdf": pdf,
        "video": encode("Harbour.mp4", noisy, "-t", "40", *h264),
    }


def one_page_pdf(text: str) -> bytes:
    drawing = f"BT /F1 36 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources 6 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Font << /F1 5 0 R >> >>",
    ]
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, each in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % each for each in offsets)
    return bytes(out + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Watch:
    """What a page complained of, and what it was answered."""

    def __init__(self, page: Any) -> None:
        self.complaints: list[str] = []
        self.partial: list[tuple[str, str]] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", self._saw)

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _saw(self, response: Any) -> None:
        if response.status == 206:
            self.partial.append((response.url, response.headers.get("content-range", "")))
