"""Policies on real parts: an object store over the network, and files as programs make them."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, features

from granite_core import (
    AsyncStorageManager,
    Candidate,
    ChecksumMismatchError,
    S3StorageBackend,
    StorageManager,
    StoragePolicy,
    ValidationFailedError,
)
from granite_core.media import judge_content
from granite_core.validators import ImageValidator
from tests.support.s3 import S3Server

CONTENT = bytes(range(256)) * 4000


class Bucket:
    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        self.looked: list[bytes] = []
        backend = S3StorageBackend(name, client=client)
        self.manager = StorageManager(
            {"main": backend},
            [
                StoragePolicy("verified", "main", verify_reads=True),
                StoragePolicy("plain", "main"),
                StoragePolicy("refused", "main", validators=[self.look, self.look_later]),
                StoragePolicy("pictures", "main", validators=[ImageValidator(max_width=10)]),
            ],
        )

    def look(self, candidate: Candidate) -> None:
        with candidate.open() as file:
            file.seek(-3, io.SEEK_END)
            self.looked.append(file.read())

    async def look_later(self, candidate: Candidate) -> None:
        async with await candidate.open_async() as reader:
            self.looked.append(await reader.read(4))
        raise ValidationFailedError("seen enough")

    def keys(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]


@pytest.fixture
def bucket(ministack: S3Server, s3_bucket: Callable[..., tuple[Any, str]]) -> Iterator[Bucket]:
    client, name = s3_bucket(ministack)
    bucket = Bucket(client, name)
    yield bucket
    bucket.manager.get_backend("main").close()


class TestOverTheNetwork:
    async def test_what_a_validator_refuses_leaves_the_bucket(self, bucket: Bucket) -> None:
        files = AsyncStorageManager(bucket.manager)
        with pytest.raises(ValidationFailedError, match=r"^refused: seen enough$"):
            await files.put_bytes("refused", content=CONTENT)
        assert bucket.looked == [CONTENT[-3:], CONTENT[:4]]
        kept = await files.put_bytes("plain", content=CONTENT)
        with pytest.raises(ValidationFailedError):
            await files.copy(kept, "refused")
        assert bucket.keys() == [kept.location]

    def test_without_a_loop_it_is_the_same(self, bucket: Bucket) -> None:
        with pytest.raises(ValidationFailedError):
            bucket.manager.put_stream("refused", stream=io.BytesIO(CONTENT))
        assert bucket.looked == [CONTENT[-3:], CONTENT[:4]]
        assert bucket.keys() == []

    def test_a_picture_is_judged_where_it_is(self, bucket: Bucket) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (11, 5)).save(buffer, "PNG")
        with pytest.raises(ValidationFailedError, match="width is 11"):
            bucket.manager.put_bytes("pictures", content=buffer.getvalue())
        assert bucket.keys() == []

    async def test_an_object_that_somebody_changed_is_never_read_whole(self, bucket: Bucket) -> None:
        files = AsyncStorageManager(bucket.manager)
        ref = await files.put_bytes("verified", content=CONTENT)
        assert await files.get(ref) == CONTENT
        async with await files.open(ref, offset=5, length=9) as reader:
            assert await reader.read() == CONTENT[5:14]
        bucket.client.put_object(Bucket=bucket.name, Key=ref.location, Body=CONTENT[:-1] + b"?")
        got = bytearray()
        with pytest.raises(ChecksumMismatchError):
            async with await files.open(ref) as reader:
                while data := await reader.read(100_000):
                    got += data
        assert 0 < len(got) < len(CONTENT)
        with pytest.raises(ChecksumMismatchError):
            await files.open(ref, offset=5, length=9)
        with pytest.raises(ChecksumMismatchError), bucket.manager.open(ref) as file:
            file.seek(-1, io.SEEK_END)
            file.read()


class TestTypes:
    """What encoders write is what is recognised."""

    def test_films(self, sample_mp4: Path, sample_webm: Path) -> None:
        assert judged(sample_mp4) == ("video/mp4", None)
        assert judged(sample_webm) == ("video/webm", None)

    @pytest.mark.parametrize(
        ("name", "codec", "expected"),
        [
            ("a.m4a", ["-c:a", "aac"], "audio/mp4"),
            ("a.mp4", ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"], "audio/mp4"),
            ("a.webm", ["-c:a", "libopus"], "audio/webm"),
            ("a.mka", ["-c:a", "libopus"], "audio/x-matroska"),
            ("a.ogg", ["-c:a", "libopus"], "audio/ogg"),
            ("a.mp3", ["-c:a", "libmp3lame"], "audio/mpeg"),
            ("a.flac", ["-c:a", "flac"], "audio/flac"),
            ("a.wav", [], "audio/wav"),
            ("a.aac", ["-c:a", "aac"], "audio/aac"),
            ("a.mov", ["-c:a", "aac"], "video/quicktime"),
        ],
    )
    def test_sound(self, ffmpeg_path: str, tmp_path: Path, name: str, codec: list[str], expected: str) -> None:
        made = tmp_path / name
        source = ["-f", "lavfi", "-i", "sine=duration=1"]
        subprocess.run([ffmpeg_path, "-loglevel", "error", *source, *codec, made], check=True)
        assert judged(made) == (expected, None)

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("PNG", "image/png"),
            ("JPEG", "image/jpeg"),
            ("GIF", "image/gif"),
            ("WEBP", "image/webp"),
            ("AVIF", "image/avif"),
            ("TIFF", "image/tiff"),
            ("BMP", "image/bmp"),
            ("ICO", "image/vnd.microsoft.icon"),
            ("JPEG2000", "image/jp2"),
            ("PDF", "application/pdf"),
        ],
    )
    def test_pictures(self, tmp_path: Path, kind: str, expected: str) -> None:
        if kind == "AVIF" and not features.check("avif"):
            pytest.skip("this Pillow writes no AVIF")
        suffix = {"JPEG2000": "jp2"}.get(kind, kind.lower())
        made = tmp_path / f"a.{suffix}"
        Image.new("RGB", (32, 32), "teal").save(made, kind)
        assert judged(made) == (expected, None)


def judged(path: Path) -> tuple[str, str | None]:
    found = judge_content(path.read_bytes()[:4096], path.name)
    return found.content_type, found.contradicted
