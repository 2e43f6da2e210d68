"""Bodies that are broken, endless, or many where one would do: refused at a size that is known beforehand."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from granite_litestar.multipart import MAX_SILENT_BYTES, MultipartDecoder
from tests.hostile.world import FORM, LIMITS, MAX_SIZE, Answer, World, form, part
from tests.support.effort import cpu_seconds
from tests.support.upload_apps import Conversation

FILE = part(b"file", b"content", filename=b"a.txt")
HEAD = b'--b\r\nContent-Disposition: form-data; name="title"\r\n'
CHUNK = 16 * 1024


def typed(value: str) -> list[tuple[str, str]]:
    return [("Content-Type", value)]


BROKEN: dict[str, tuple[bytes, list[tuple[str, str]], set[int]]] = {
    "no boundary": (form(FILE), typed("multipart/form-data"), {400}),
    "an empty boundary": (form(FILE), typed("multipart/form-data; boundary="), {400}),
    "a huge boundary": (form(FILE), typed("multipart/form-data; boundary=" + "b" * 60_000), {400}),
    "another boundary": (form(FILE), typed("multipart/form-data; boundary=c"), {400}),
    "two boundaries": (form(FILE), typed("multipart/form-data; boundary=c; boundary=d"), {400}),
    "a boundary of line breaks": (form(FILE), typed('multipart/form-data; boundary="\r\n"'), {400}),
    "a boundary beyond ASCII": (form(FILE), typed("multipart/form-data; boundary=b\xe9\xff"), {201, 400}),
    "a boundary of quotes": (form(FILE), typed('multipart/form-data; boundary="""""'), {400}),
    "a boundary of formats": (form(FILE), typed("multipart/form-data; boundary=%s%n%(a)s{0}"), {400}),
    "no type": (form(FILE), [], {415}),
    "an empty type": (form(FILE), typed(""), {415}),
    "two types": (form(FILE), typed("application/json") + FORM, {400, 415}),
    "parameters without end": (form(FILE), typed("multipart/form-data" + "; a=" * 20_000), {400, 415}),
    "quotes without end": (form(FILE), typed("multipart/form-data; boundary=" + '"\\' * 20_000), {400}),
    "another kind of multipart": (form(FILE), typed("multipart/mixed; boundary=b"), {415}),
    "nothing": (b"", FORM, {400, 422}),
    "an empty form": (b"--b--\r\n", FORM, {400, 422}),
    "bytes": (bytes(range(256)) * 10, FORM, {400}),
    "line feeds alone": (form(FILE).replace(b"\r\n", b"\n"), FORM, {400}),
    "no disposition": (b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n", FORM, {400}),
    "no head": (b"--b\r\n\r\nx\r\n--b--\r\n", FORM, {400}),
    "an attachment": (b'--b\r\nContent-Disposition: attachment; name="file"\r\n\r\nx\r\n--b--\r\n', FORM, {400}),
    "a head that is none": (b"--b\r\nfile\r\n\r\nx\r\n--b--\r\n", FORM, {400}),
    "a head of bytes": (HEAD + b"\xff\xfe\x00: x\r\n\r\nx\r\n--b--\r\n", FORM, {400}),
    "a head of 5 KB": (HEAD + b"X: " + b"x" * 5000 + b"\r\n\r\nx\r\n--b--\r\n", FORM, {413}),
    "nine heads": (HEAD + b"X: x\r\n" * 8 + b"\r\nx\r\n--b--\r\n", FORM, {413}),
    "a head of folds": (HEAD + b" x\r\n" * 5000 + b"\r\nx\r\n--b--\r\n", FORM, {413}),
    "a length that lies": (HEAD + b"Content-Length: 9\r\n\r\nx\r\n--b--\r\n", FORM, {400}),
    "a length of digits": (HEAD + b"Content-Length: " + b"9" * 4200 + b"\r\n\r\nx\r\n--b--\r\n", FORM, {400, 413}),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\nx\r\n--b--\r\n", FORM, {400}),
    "a transfer encoding": (HEAD + b"Content-Transfer-Encoding: base64\r\n\r\neA==\r\n" + form(FILE), FORM, {201}),
    "a form in a form": (
        HEAD + b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n" + form(FILE),
        FORM,
        {201, 400, 415, 422},
    ),
    "a part of no name": (part(b"") + form(FILE), FORM, {201}),
    "a name of 4,000 letters": (part(b"n" * 4000) + form(FILE), FORM, {201}),
    "names that end headers": (part(b"a\\") + part(b'a";b="') + part(b"\\\\\\") + form(FILE), FORM, {201}),
    "a name with NUL": (part(b"a\0b") + form(FILE), FORM, {201}),
    "names of Python's": (part(b"__class__") + part(b"__init__") + part(b"self") + form(FILE), FORM, {201}),
    "a text that is none": (part(b"title", b"\xff\xfe\x80") + form(FILE), FORM, {422}),
    "a text in a strange charset": (
        part(b"title", b"+AG4-", more=b"Content-Type: text/plain; charset=utf-7\r\n") + form(FILE),
        FORM,
        {201},
    ),
    "a charset that is none": (
        part(b"title", b"x", more=b"Content-Type: text/plain; charset=rot13\r\n") + form(FILE),
        FORM,
        {201},
    ),
    "a text with NUL": (part(b"title", b"a\0b") + form(FILE), FORM, {201}),
    "a field over its limit": (part(b"title", b"x" * (LIMITS.max_field_size + 1)) + form(FILE), FORM, {413}),
    "texts over their limit": (part(b"other", b"x" * 30_000) * 3 + form(FILE), FORM, {413}),
    "ignored bytes over their limit": (part(b"other", b"x" * 70_000, filename=b"a") + form(FILE), FORM, {413}),
    "a file over its limit": (form(part(b"file", b"x" * (MAX_SIZE + 1), filename=b"a")), FORM, {413}),
    "more files than are taken": (form(FILE, *[part(b"pages", b"x", filename=b"p")] * 4), FORM, {422}),
    "thousands of parts": (part(b"a") * 5000 + form(FILE), FORM, {413}),
    "thousands of empty files": (part(b"pages", b"", filename=b"") * 5000 + form(FILE), FORM, {413}),
    "thousands of boundaries": (b"--b\r\n" * 5000, FORM, {400}),
    "a number of 4,000 digits": (part(b"number", b"9" * 4000) + form(FILE), FORM, {201, 422}),
    "a number of 30,000 digits": (part(b"number", b"9" * 30_000) + form(FILE), FORM, {422}),
    "a price without end": (part(b"price", b"1e99999999999") + form(FILE), FORM, {201, 422}),
    "a moment before time": (part(b"moment", b"0001-01-01T00:00:00+23:59") + form(FILE), FORM, {201, 422}),
    "a span without end": (part(b"lasts", b"P99999999999999D") + form(FILE), FORM, {422}),
}


def as_json(body: bytes) -> bytes:
    return part(b"meta", body, more=b"Content-Type: application/json\r\n") + form(FILE)


BROKEN |= {
    f"JSON: {name}": (as_json(body), FORM, {201, 422})
    for name, body in {
        "deep lists": b"[" * 30_000,
        "deep objects": b'{"a":' * 6000,
        "deep, and whole": b'{"a":' * 3000 + b"1" + b"}" * 3000,
        "just deep enough": b'{"a":' * 400 + b"1" + b"}" * 400,
        "a huge number": b'{"a":' + b"9" * 30_000 + b"}",
        "an infinite number": b'{"a":1e999999}',
        "a surrogate": b'{"a":"\\ud800"}',
        "one key often": b"{" + b'"a":1,' * 5000 + b'"a":2}',
        "not what is asked for": b"[1]",
        "nothing": b"null",
        "bytes": b"\xff\xfe",
    }.items()
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("size", [17, 1 << 20])
async def test_what_is_broken_is_refused_and_leaves_nothing(world: World, name: str, size: int) -> None:
    body, headers, statuses = BROKEN[name]
    pieces = [body[at : at + size] for at in range(0, len(body), size)] if size * 1000 > len(body) else [body]
    answer = await world.ask("POST", "/letters", pieces, headers)
    assert answer.status in statuses, answer.body[:500]


async def test_wherever_a_form_is_cut_it_is_refused_and_leaves_nothing(world: World) -> None:
    whole = form(part(b"title", b"x"), FILE, part(b"pages", b"page", filename=b"p.txt"))
    for end in range(0, len(whole) - 4, 5):
        answer = await world.ask("POST", "/letters", [whole[:end]], FORM)
        assert answer.status in (400, 422), end


async def test_unknown_fields_are_told_and_not_without_end(world: World) -> None:
    fields = [part(b"%d" % number + b"n" * 3900) for number in range(40)]
    body = form(*fields)
    answer = await world.ask("POST", "/strict", [body], FORM)
    assert answer.status == 422
    assert len(answer.body) < 3 * len(body)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [b"--b\r\n", b"\r\n--b\r\n", b"\r\n--b--\r\n", b"\r\n\r\n", HEAD, FILE, b"--", b"\r", b"\n"]
            ),
        ),
        max_size=12,
    ),
    content_type=st.one_of(st.just(FORM[0][1]), st.text(st.characters(max_codepoint=255), max_size=60)),
)
async def test_no_mixture_of_bytes_is_a_server_error(world: World, pieces: list[bytes], content_type: str) -> None:
    """The judge of every answer has the say."""
    for path in ("/letters", "/strict"):
        await world.ask("POST", path, [each for each in pieces if each], [("Content-Type", content_type)])


HEADERS = [
    "accept",
    "accept-encoding",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "range",
    "repr-digest",
    "transfer-encoding",
    "x-forwarded-for",
    "x-tenant",
]
VALUES = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=40),
    st.sampled_from(
        ["*", '"', '"x', 'W/"', "bytes=", "bytes=0-", "sha-256=:", "sha-256=:=:", "9" * 5000, ";" * 500, "gzip"]
    ),
)


@pytest.fixture(scope="module")
def letter(world: World) -> str:
    """The address of a file."""
    return f"/letters/{world.put(b'content')}/file"


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.lists(st.tuples(st.sampled_from(HEADERS), VALUES), max_size=5),
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "TENANT"]),
)
async def test_no_header_is_a_server_error(
    world: World, letter: str, headers: list[tuple[str, str]], method: str
) -> None:
    """Values as no server lets them through, and repeated."""
    path = {"POST": "/bodies", "TENANT": "/tenants"}.get(method, letter)
    sends = method not in ("GET", "HEAD")
    await world.ask("POST" if method == "TENANT" else method, path, [b"content"] if sends else [], headers)


# ----------------------------------------------------------------------------------------------------------- endless
def endless(head: bytes, more: bytes) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        yield head
        piece = more * (CHUNK // len(more))
        while True:
            yield piece

    return pieces


ENDLESS: dict[str, tuple[Callable[[], Iterator[bytes]], int]] = {
    "before the first part": (endless(b"", b"preamble\r\n"), MAX_SILENT_BYTES),
    "after the last part": (endless(form(FILE), b"epilogue\r\n"), MAX_SILENT_BYTES),
    "a head": (endless(HEAD, b"X: x"), CHUNK),
    "a name": (endless(b'--b\r\nContent-Disposition: form-data; name="', b"n"), CHUNK),
    "a text": (endless(HEAD + b"\r\n", b"text"), LIMITS.max_field_size),
    "texts": (endless(b"", part(b"a", b"x" * 1000)), LIMITS.max_text_size),
    "a file": (endless(b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n', b"x"), MAX_SIZE),
    "a file of no field": (
        endless(b'--b\r\nContent-Disposition: form-data; name="other"; filename="f"\r\n\r\n', b"x"),
        LIMITS.max_ignored_size,
    ),
    "files": (endless(b"", part(b"pages", b"x" * 1000, filename=b"p")), LIMITS.max_ignored_size + MAX_SIZE),
    "parts": (endless(b"", part(b"a", b"")), CHUNK),
    "nearly the boundary": (endless(HEAD + b"\r\n", b"\r\n--"), LIMITS.max_field_size),
}


async def fed(world: World, path: str, pieces: Iterator[bytes], headers: list[tuple[str, str]]) -> tuple[Answer, int]:
    """The answer, and how many bytes were taken before it."""
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        for piece in pieces:
            taken += len(piece)
            yield piece

    talk = await Conversation(world.app, "POST", path, chunks=chunks, headers=headers).run()
    answer = Answer(talk.status, talk.headers, talk.body)
    world.judge.check(answer)
    return answer, taken


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_never_ends_is_cut_off(world: World, name: str) -> None:
    pieces, limit = ENDLESS[name]
    answer, taken = await fed(world, "/letters", pieces(), FORM)
    assert answer.status in (400, 413, 422), answer.body
    assert taken <= limit + 3 * CHUNK


async def test_a_body_that_never_ends_is_cut_off(world: World) -> None:
    answer, taken = await fed(world, "/bodies", endless(b"", b"x")(), [])
    assert (answer.status, json.loads(answer.body)["extra"]["limit"]) == (413, MAX_SIZE)
    assert taken <= MAX_SIZE + 2 * CHUNK


@pytest.mark.parametrize(
    "name", ["thousands of parts", "texts over their limit", "JSON: deep lists", "JSON: one key often"]
)
async def test_a_refused_form_takes_little_memory(world: World, name: str) -> None:
    body, headers, _ = BROKEN[name]
    await world.ask("POST", "/letters", [body], headers)
    tracemalloc.start()
    try:
        await world.ask("POST", "/letters", [body], headers)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(body) + (1 << 20)


COSTLY = {
    "folds": (HEAD + b" a\r\n" * 1900 + b"\r\nx\r\n") * 30,
    "quotes": (b'--b\r\nContent-Disposition: form-data; name="' + b'\\"' * 2000 + b'"\r\n\r\nx\r\n') * 50,
    "parameters": (b"--b\r\nContent-Disposition: form-data" + b";a=" * 1000 + b"\r\n\r\nx\r\n") * 60,
    "extended names": (b"--b\r\nContent-Disposition: form-data" + b";filename*=utf-8'" * 240 + b"\r\n\r\nx\r\n") * 50,
    "line breaks": HEAD + b"\r\n" + b"\r\n" * 100_000,
    "near misses": HEAD + b"\r\n" + b"\r\n--" * 50_000,
}


@pytest.mark.parametrize("name", COSTLY)
def test_two_hundred_kilobytes_of_any_form_take_little_time(name: str) -> None:
    body = COSTLY[name]

    def decode() -> Any:
        return [*MultipartDecoder(b"b", max_parts=1000).feed(body)]

    assert cpu_seconds(decode) < 1
