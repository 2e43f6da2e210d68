"""A limited stream gives what it may, in every way of reading, and not a byte more."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from granite_core import ContentTooLargeError, SizeLimitedStream

LINES = b"first\nsecond\nthird\n"


class Pipe:
    """Has ``read`` and nothing else, and gives less than asked for."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int, /) -> bytes:
        return self._content.read(min(size, 4))


def by_readinto(stream: SizeLimitedStream) -> bytes:
    buffer, found = bytearray(7), b""
    while size := stream.readinto(buffer):
        found += buffer[:size]
    return found


def by_readinto1(stream: SizeLimitedStream) -> bytes:
    buffer, found = bytearray(7), b""
    while size := stream.readinto1(buffer):
        found += buffer[:size]
    return found


def by_seeking(stream: SizeLimitedStream) -> bytes:
    """Read the end first, then the beginning."""
    if not stream.seekable():
        return stream.read()
    stream.seek(9)
    end = stream.read()
    stream.seek(0)
    return stream.read(9) + end


WAYS: dict[str, Callable[[SizeLimitedStream], bytes]] = {
    "read": lambda stream: stream.read(),
    "read-minus-one": lambda stream: stream.read(-1),
    "read-none": lambda stream: stream.read(None),
    "read-pieces": lambda stream: b"".join(iter(lambda: stream.read(5), b"")),
    "read1": lambda stream: b"".join(iter(lambda: stream.read1(5), b"")),
    "read1-all": lambda stream: b"".join(iter(stream.read1, b"")),
    "readline": lambda stream: b"".join(iter(stream.readline, b"")),
    "readline-size": lambda stream: b"".join(iter(lambda: stream.readline(3), b"")),
    "readlines": lambda stream: b"".join(stream.readlines()),
    "readinto": by_readinto,
    "readinto1": by_readinto1,
    "iteration": b"".join,
    "seeking": by_seeking,
    "buffered": lambda stream: io.BufferedReader(stream, 8).read(),  # type: ignore[type-var]
    "text": lambda stream: io.TextIOWrapper(stream, "ascii", newline="").read().encode(),
}


@pytest.fixture(params=["bytes", "file", "pipe"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[object]:
    (tmp_path / "lines").write_bytes(LINES)
    with (tmp_path / "lines").open("rb") as file:
        yield {"bytes": io.BytesIO(LINES), "pipe": Pipe(LINES), "file": file}[request.param]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [len(LINES), len(LINES) + 1, 10_000, None])
def test_what_is_within_the_limit_comes_whole(source: object, way: str, limit: int | None) -> None:
    stream = SizeLimitedStream(source, limit)  # type: ignore[arg-type]
    assert WAYS[way](stream) == LINES
    assert stream.total_read == len(LINES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [len(LINES) - 1, 6, 1, 0])
def test_no_way_of_reading_passes_the_limit(source: object, way: str, limit: int) -> None:
    stream = SizeLimitedStream(source, limit)  # type: ignore[arg-type]
    with pytest.raises(ContentTooLargeError) as error:
        WAYS[way](stream)
    assert error.value.limit == limit
    assert stream.total_read <= limit


def test_an_iteration_gives_chunks() -> None:
    assert list(SizeLimitedStream(io.BytesIO(b"abcdefgh\nij"), 100, chunk_size=4)) == [b"abcd", b"efgh", b"\nij"]


def test_lines_end_where_they_do() -> None:
    stream = SizeLimitedStream(io.BytesIO(LINES), 100)
    assert (stream.readline(), stream.readline(3)) == (b"first\n", b"sec")
    assert SizeLimitedStream(io.BytesIO(LINES), 100).readlines(7) == [b"first\n", b"second\n"]
    assert SizeLimitedStream(Pipe(LINES), 100).readlines() == [b"first\n", b"second\n", b"third\n"]


def test_who_goes_on_after_the_error_gets_the_error_again() -> None:
    stream = SizeLimitedStream(io.BytesIO(LINES), 3)
    for _ in range(3):
        with pytest.raises(ContentTooLargeError):
            stream.read(10)


def test_reading_again_does_not_count_twice() -> None:
    stream = SizeLimitedStream(io.BytesIO(LINES), len(LINES))
    for _ in range(3):
        stream.seek(0)
        assert stream.read() == LINES
    assert stream.total_read == len(LINES)


def test_the_content_begins_where_the_stream_stands() -> None:
    inner = io.BytesIO(LINES)
    inner.seek(6)
    stream = SizeLimitedStream(inner, 13)
    assert (stream.tell(), stream.seek(0, io.SEEK_END)) == (0, 13)
    stream.seek(0)
    assert stream.read() == LINES[6:]
    with pytest.raises(ValueError, match="beginning"):
        stream.seek(-14, io.SEEK_END)


def test_the_callers_stream_is_never_closed() -> None:
    inner = io.BytesIO(LINES)
    with SizeLimitedStream(inner, 100) as stream:
        stream.read(1)
    SizeLimitedStream(inner, 100).close()
    del stream
    assert not inner.closed


def test_nothing_but_reading_is_offered(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as inner:
        stream = SizeLimitedStream(inner, 100)
        assert (stream.readable(), stream.writable()) == (True, False)
        for verb in (stream.fileno, stream.detach, stream.truncate, lambda: stream.write(b"x")):
            with pytest.raises(io.UnsupportedOperation):
                verb()
    pipe = SizeLimitedStream(Pipe(LINES), 100)
    assert not pipe.seekable()
    with pytest.raises(io.UnsupportedOperation):
        pipe.seek(0)


def test_a_closed_one_reads_nothing() -> None:
    stream = SizeLimitedStream(io.BytesIO(LINES), 100)
    stream.close()
    for verb in (stream.read, stream.readline, stream.tell, lambda: stream.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            verb()


def test_a_text_stream_is_refused() -> None:
    with pytest.raises(TypeError, match="binary"):
        SizeLimitedStream(io.StringIO("text"), 100).read()  # type: ignore[arg-type]
