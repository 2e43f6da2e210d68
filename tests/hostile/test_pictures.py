"""Pictures that are small to send and huge to look at."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.hostile.samples import png, png_of_text
from tests.hostile.world import FORM, World, form, part

ROOT = Path(__file__).parents[2]
KB = 1024


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + b"," + bytes(9) + b"\2\2D\1\0;"


def tiff(width: int, height: int, *, tags: int = 0) -> bytes:
    """With as many tags as are asked for, and a directory that follows itself."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 1), (259, 3, 1, 1), (262, 3, 1, 0), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 10)]
    entries += [(40_000 + number % 20_000, 7, 0x7FFFFFFF, 8) for number in range(tags)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *each) for each in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 8)


def webp(width: int, height: int) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (width - 1).to_bytes(3, "little")
    body += (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def real(kind: str, size: tuple[int, int] = (20, 20)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, kind)
    return out.getvalue()


def frames(count: int) -> bytes:
    """An animation of many frames."""
    out = io.BytesIO()
    pictures = [Image.new("P", (2, 2), number % 2) for number in range(count)]
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:])
    return out.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "a PNG of 20,000 by 20,000": lambda: png(20_000, 20_000),
    "a PNG of a hundred million pixels in a row": lambda: png(100_000_000, 1),
    "a PNG of 2**31 by 2**31": lambda: png(1, 1).replace(bytes([0, 0, 0, 1] * 2), bytes([127, 255, 255, 255] * 2), 1),
    "a BMP of 2**31 by 2**31": lambda: bmp(2**31 - 1, 2**31 - 1),
    "a BMP of negative height": lambda: bmp(60_000, -60_000),
    "a GIF of 65,535 by 65,535": lambda: gif(65_535, 65_535),
    "a TIFF of 2**31 by 2**31": lambda: tiff(2**31 - 1, 2**31 - 1),
    "a WebP of 2**24 by 2**24": lambda: webp(2**24, 2**24),
    "a profile that unpacks to 50 MB": lambda: png(1, 1, (b"iCCP", b"x\0\0" + zlib.compress(bytes(50_000_000), 9))),
    "texts that unpack to 200 MB": lambda: png_of_text(200, 1_000_000),
    "a text that unpacks to 50 MB": lambda: png_of_text(1, 50_000_000),
    "no end": lambda: real("PNG")[:40],
    "a head alone": lambda: b"\x89PNG\r\n\x1a\n",
    "a JPEG of markers": lambda: b"\xff\xd8" + b"\xff\xe1\0\2" * 50_000,
    "a PSD of 30,000 by 30,000": lambda: (
        b"8BPS\0\1" + bytes(6) + b"\0\3" + struct.pack(">II", 30_000, 30_000) + bytes(99)
    ),
    "a PostScript program": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
}
HARMLESS: dict[str, Callable[[], bytes]] = {
    "texts that unpack to 1 MB": lambda: png_of_text(10, 100_000),
    "a TIFF of 5,000 tags of 2 GB each, that follows itself": lambda: tiff(10, 10, tags=5000),
    "a picture in a picture": lambda: real("ICO"),
    "an animation of 500 frames": lambda: frames(500),
}


@pytest.fixture(scope="module")
def sent() -> dict[str, bytes]:
    return {name: make() for name, make in {**HARMLESS, **BOMBS}.items()}


@pytest.mark.parametrize("name", BOMBS)
async def test_what_is_too_large_to_look_at_is_refused_unseen(world: World, sent: dict[str, bytes], name: str) -> None:
    answer = await world.ask("POST", "/pictures", [form(part(b"file", sent[name], filename=b"a.png"))], FORM)
    assert answer.status == 422, answer.body
    [error] = json.loads(answer.body)["extra"]
    assert error["code"] in ("image_too_many_pixels", "image_unreadable")


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("name", HARMLESS)
async def test_what_is_large_and_harmless_is_a_picture(world: World, sent: dict[str, bytes], name: str) -> None:
    answer = await world.ask("POST", "/pictures", [form(part(b"file", sent[name], filename=b"a.png"))], FORM)
    assert answer.status == 201, answer.body


MEASURED = """
import pathlib, re, sys
from granite_core import MemoryStorageBackend, StorageError, StorageManager, StoragePolicy
from granite_core.validators import ImageValidator

manager = StorageManager(
    {"main": MemoryStorageBackend()},
    [StoragePolicy("pictures", "main", validators=[ImageValidator(max_pixels=1_000_000, decode=True)])],
)

def look_at(content):
    try:
        manager.put_bytes("pictures", content=content)
    except StorageError:
        pass

def peak():
    return int(re.search("VmHWM:.*?([0-9]+) kB", pathlib.Path("/proc/self/status").read_text())[1]) // 1024

look_at(b"none")
before = peak()
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    look_at(file.read_bytes())
    print(file.name, "sent,", peak() - before, "MiB more than before", flush=True)
"""


def test_looking_at_all_of_them_takes_little_memory(
    tmp_path: Path, sent: dict[str, bytes], record_property: Callable[[str, object], None]
) -> None:
    """Resident memory of a process of its own. Pillow unpacks 64 MiB of texts for a PNG, and no more."""
    for name, content in sent.items():
        (tmp_path / f"{name} in {len(content) // KB} KiB").write_bytes(content)
    run = [sys.executable, "-W", "ignore", "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    more = int(last.split(" MiB more")[0].rpartition(" ")[2])
    record_property("figures", f"Hostile input: {len(sent)} pictures looked at, {more} MiB more than before")
    assert more < 160, done.stdout
