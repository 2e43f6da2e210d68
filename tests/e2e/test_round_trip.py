"""Two hundred files go in through the app and come out with equal SHA-256; the server's memory stays where it was."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlsplit

import pytest

from tests.e2e.conftest import StartDemo

KIB, MIB, GIB = 1024, 1024**2, 1024**3
COUNT = 200
AT_ONCE = 4
MEMORY = 64 * MIB
CHUNK = 256 * KIB

NAMES = [
    "Überweisung & Straße.pdf",
    "Договор о поставке.docx",
    "Ελληνικά αρχεία.txt",
    "日本語のファイル名.png",
    "简体中文文件.mp4",
    "繁體中文檔案.jpg",
    "한국어 파일.zip",
    "קובץ בעברית.txt",
    "ملف بالعربية.pdf",
    "فایل فارسی.csv",
    "हिन्दी फ़ाइल.txt",
    "ไฟล์ภาษาไทย.doc",
    "ქართული ფაილი.md",
    "Հայերեն ֆայլ.xml",
    "தமிழ் கோப்பு.json",
    "বাংলা ফাইল.odt",
    "አማርኛ ፋይል.txt",
    "Tiếng Việt có dấu.txt",
    "ᏣᎳᎩ ᎪᏪᎵ.txt",
    "emoji 🪨🌋 流れ.gif",
    "combining e\u0301 a\u0308.txt",
    "quotes \"double\" and 'single'.txt",
    "percent %41 plus + semicolon ; hash #.txt",
    "no suffix at all",
    ".hidden",
    "many.dots.in.a.name.tar.gz",
    "𝔣𝔯𝔞𝔨𝔱𝔲𝔯 𐎠𐎡 beyond the first plane.bin",
]

# Around everything that is a boundary to somebody: nothing, one, buffers, parts of S3 uploads, steps of readers.
EDGES = [0, 0, 1, 2, 63, 64, 65, 511, 512, 513, 4 * KIB - 1, 4 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1]
EDGES += [size + off for size in (MIB, 5 * MIB, 8 * MIB, 16 * MIB) for off in (-1, 0, 1)]
LARGE = [48 * MIB + 7, 100 * MIB]
HUGE = [GIB]


@dataclass(frozen=True)
class Sample:
    """A file that is made up while it is sent, always the same way."""

    number: int
    name: str
    size: int

    def chunks(self) -> Iterator[bytes]:
        block = hashlib.shake_256(str(self.number).encode()).digest(CHUNK)
        for start in range(0, self.size, CHUNK):
            # No two blocks alike, so that parts in the wrong order would be noticed.
            head = start.to_bytes(8, "big")
            yield (head + block[8:])[: self.size - start]

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for each in self.chunks():
            digest.update(each)
        return digest.hexdigest()


def samples() -> list[Sample]:
    sizes = [*HUGE, *LARGE, *EDGES]
    middling = [int(10 ** (1 + 5 * number / COUNT)) for number in range(COUNT - len(sizes))]  # 10 B to 1 MB
    sizes += middling
    names = [NAMES[number % len(NAMES)] for number in range(COUNT)]
    return [Sample(*each) for each in zip(range(COUNT), names, sizes, strict=True)]


@pytest.mark.timeout(900)
def test_two_hundred_files_come_out_as_they_went_in(place: str, start_demo: StartDemo) -> None:
    demo = start_demo(place)
    files = samples()
    assert len(files) == COUNT
    get_json(demo.url, "/api/overview")
    time.sleep(3)  # the collector has run once: this is idle
    with Memory(demo.pid) as memory, ThreadPoolExecutor(AT_ONCE) as pool:
        began = time.monotonic()
        sent = dict(zip(files, pool.map(lambda each: send(demo.url, each), files), strict=True))
        stored = time.monotonic()
        received = dict(zip(files, pool.map(lambda each: receive(demo.url, sent[each]["url"]), files), strict=True))
        ended = time.monotonic()
    total = sum(each.size for each in files)
    print(
        f"\n{place}: {COUNT} files, {total / MIB:.0f} MiB, largest {max(each.size for each in files) / MIB:.0f} MiB; "
        f"in {stored - began:.1f} s ({total / MIB / (stored - began):.0f} MiB/s), "
        f"out {ended - stored:.1f} s ({total / MIB / (ended - stored):.0f} MiB/s); "
        f"server idle {memory.idle / MIB:.1f} MiB, most {memory.most / MIB:.1f} MiB (+{memory.growth / MIB:.1f})"
    )

    wrong = [each for each in files if received[each][0] != each.sha256]
    assert wrong == []
    for each in files:
        told = sent[each]
        assert (told["size"], told["checksum"]) == (each.size, f"sha256:{each.sha256}")
        name = unicodedata.normalize("NFC", each.name)
        assert (told["name"], received[each][1]) == (name, name)
    assert memory.growth < MEMORY
    overview = get_json(demo.url, "/api/overview")["storage"]
    assert overview["on_backend"] == overview["in_rows"] == {"objects": COUNT, "bytes": total}
    assert overview["problem"] is None


class Memory:
    """The resident memory of a process: what it had, and the most it had since (the kernel's own mark)."""

    def __init__(self, pid: int) -> None:
        self._process = Path("/proc", str(pid))
        self.idle = self.most = 0

    @property
    def growth(self) -> int:
        return self.most - self.idle

    def __enter__(self) -> Self:
        (self._process / "clear_refs").write_text("5")  # VmHWM begins anew, see proc(5)
        self.idle = self._read("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.most = self._read("VmHWM")

    def _read(self, name: str) -> int:
        status = (self._process / "status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:"))) * KIB


def connect(url: str) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=300))


def send(url: str, sample: Sample) -> dict:
    """As a browser sends a form: names in UTF-8, with three characters escaped (HTML, section 4.10.21.8)."""
    boundary = f"----{os.urandom(12).hex()}"
    name = sample.name.replace("\n", "%0A").replace("\r", "%0D").replace('"', "%22")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield head
        yield from sample.chunks()
        yield tail

    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(head) + sample.size + len(tail)),
    }
    with connect(url) as line:
        line.request("POST", "/api/items", body(), headers)
        answer = line.getresponse()
        told = answer.read()
    assert answer.status == 201, (sample, answer.status, told)
    return json.loads(told)["file"]


def receive(url: str, path: str) -> tuple[str, str]:
    """Digest and name of what comes out."""
    digest = hashlib.sha256()
    with connect(url) as line:
        line.request("GET", quote(path))
        answer = line.getresponse()
        assert answer.status == 200, (path, answer.status)
        while data := answer.read(MIB):
            digest.update(data)
    return digest.hexdigest(), name_in(answer.headers["Content-Disposition"])


def name_in(disposition: str) -> str:
    """As browsers read it (RFC 6266): `filename*` first, else `filename`."""
    if extended := re.search(r"filename\*=UTF-8''([^;\s]+)", disposition):
        return unquote(extended[1])
    plain = re.search(r'filename="((?:[^"\\]|\\.)*)"', disposition)
    return re.sub(r"\\(.)", r"\1", plain[1]) if plain else ""


def get_json(url: str, path: str) -> dict:
    with connect(url) as line:
        line.request("GET", path)
        return json.loads(line.getresponse().read())
