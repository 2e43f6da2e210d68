"""Whatever a client sends, the plan is sound: bytes equal plain slicing, headers survive the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import BytesParser
from urllib.parse import unquote

from hypothesis import assume, example, given
from hypothesis import strategies as st

from granite_core.media import clean_filename
from granite_core.serving import ServePlan, ServeSettings, content_disposition, plan_download

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Ref:
    size: int
    location: str = "k"
    checksum: str = "sha256:" + "0" * 64
    content_type: str | None = "video/mp4"
    original_filename: str | None = None
    created_at: str | None = None


def content_of(size: int) -> bytes:
    return bytes((7 * index + index // 256) % 251 for index in range(size))


def body_of(plan: ServePlan, content: bytes) -> bytes:
    pieces = [part.prelude + content[part.offset : part.offset + part.length] for part in plan.parts]
    return b"".join(pieces) + plan.closing


def assert_wire_safe(plan: ServePlan) -> None:
    for name, value in plan.headers:
        assert re.fullmatch(r"[A-Za-z-]+", name)
        assert re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", value), (name, value)


def parts_of(plan: ServePlan, body: bytes) -> list[tuple[int, int, bytes]]:
    """First position, last position and bytes of every part, read as a client would."""
    pattern = re.compile(rb"bytes ([0-9]+)-([0-9]+)/([0-9]+)")
    content_range = plan.header("Content-Range")
    if content_range is not None:
        match = pattern.fullmatch(content_range.encode())
        assert match
        return [(int(match[1]), int(match[2]), body)]
    head = f"Content-Type: {plan.header('Content-Type')}\r\n\r\n".encode()
    boundary = re.search(rb"boundary=(\S+)", head)
    assert boundary
    delimiter = b"\r\n--" + boundary[1]
    *pieces, end = (b"\r\n" + body).split(delimiter)
    assert end == b"--\r\n"
    found = []
    for piece in pieces[1:]:
        fields, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        message = BytesParser().parsebytes(fields + b"\r\n\r\n")
        assert message["Content-Type"] == "video/mp4"
        match = pattern.fullmatch(message["Content-Range"].encode())
        assert match
        found.append((int(match[1]), int(match[2]), data))
    return found


numbers = st.one_of(st.integers(0, 60), st.integers(0, 6000)).map(str)
specs = st.one_of(
    st.builds("{}-{}".format, numbers, numbers),
    st.builds("{}-".format, numbers),
    st.builds("-{}".format, numbers),
)
well_formed = st.lists(specs, min_size=1, max_size=8).map(lambda each: "bytes=" + ",".join(each))
nearly = st.text(alphabet="bytes=0123456789-, \t;", max_size=40).map("bytes={}".format)


@given(size=st.integers(0, 5000), value=st.one_of(well_formed, nearly, st.text(max_size=60)))
@example(size=1, value="bytes=" + "0" * 10000 + "-")
@example(size=0, value="bytes=-1")
@example(size=4000, value="bytes=0-0,-1")
def test_any_range_is_answered_with_the_bytes_of_plain_slicing(size: int, value: str) -> None:
    content = content_of(size)
    plan = plan_download("GET", {"Range": value}, Ref(size), now=NOW)
    body = body_of(plan, content)
    assert_wire_safe(plan)
    assert plan.header("Content-Length") == str(len(body)) == str(plan.content_length)
    if plan.status == 200:
        assert body == content
    elif plan.status == 416:
        assert (body, plan.header("Content-Range")) == (b"", f"bytes */{size}")
    else:
        assert plan.status == 206
        assert len(body) <= max(size, 1)
        for first, last, data in parts_of(plan, body):
            assert data == content[first : last + 1]
            assert len(data) == last - first + 1 > 0


@given(size=st.integers(1, 5000), value=well_formed)
def test_every_byte_that_was_asked_for_is_sent(size: int, value: str) -> None:
    content = content_of(size)
    wanted: set[int] = set()
    for spec in value.removeprefix("bytes=").split(","):
        first, _, last = spec.partition("-")
        assume(not (first and last and int(first) > int(last)))
        if first:
            wanted.update(range(size)[int(first) : int(last) + 1 if last else None])
        elif int(last):
            wanted.update(range(size)[-int(last) :])
    plan = plan_download("GET", {"Range": value}, Ref(size), now=NOW)
    assert plan.status == 416 if not wanted else plan.status in (200, 206)
    if plan.status == 206:
        parts = parts_of(plan, body_of(plan, content))
        sent = [position for first, last, _ in parts for position in range(first, last + 1)]
        assert wanted <= set(sent)
        assert len(sent) == len(set(sent))


anything = st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=300)


@given(name=anything)
@example(name="\ud800\udfff\r\n\0\"\\'%41;é\u202e")
@example(name="x" * 10_000 + ".tar.gz")
@example(name="😀" * 1000)
def test_any_filename_makes_a_valid_header_that_gives_the_cleaned_name_back(name: str) -> None:
    for kind in ("inline", "attachment"):
        value = content_disposition(kind, name)
        assert re.fullmatch(r"[\x20-\x7e]+", value)
        match = re.fullmatch(
            r"(inline|attachment)"
            r'(?:; filename="(?P<plain>[^"\\%/]+)"(?:; filename\*=UTF-8\'\'(?P<real>[A-Za-z0-9!#$&+.^_`|~%-]+))?)?',
            value,
        )
        assert match
        assert match[1] == kind
        plain, real = match["plain"], match["real"]
        assert (unquote(real, errors="strict") if real else plain) == clean_filename(name)
        assert len(value) < 1200


@given(
    content_type=st.none() | anything,
    filename=anything,
    created_at=st.none() | anything,
    checksum=anything,
    fields=st.dictionaries(
        st.sampled_from(
            ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range", "X"]
        ),
        anything,
    ),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
)
def test_nothing_in_a_request_or_a_row_breaks_the_answer(
    content_type: str | None,
    filename: str,
    created_at: str | None,
    checksum: str,
    fields: dict[str, str],
    method: str,
) -> None:
    ref = Ref(1000, filename, checksum, content_type, filename, created_at)
    plan = plan_download(method, fields, ref, now=NOW, settings=ServeSettings(filename=filename))
    assert plan.status in (200, 206, 304, 405, 412, 416)
    assert_wire_safe(plan)
    assert method == "GET" or plan.parts == ()
