"""`plan_download` against RFC 9110, 9530 and 6266, case by case."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from granite_core.serving import (
    ServePlan,
    ServeSettings,
    content_disposition,
    content_security_policy,
    entity_tag,
    is_safe_inline,
    plan_download,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
STORED = "Sat, 28 Feb 2026 10:20:30 GMT"
BEFORE = "Sat, 28 Feb 2026 10:20:29 GMT"
AFTER = "Sat, 28 Feb 2026 10:20:31 GMT"
CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"{DIGEST}"'


@dataclass(frozen=True)
class Ref:
    location: str = "documents/doc/1/file/abc.bin"
    size: int = len(CONTENT)
    checksum: str = f"sha256:{DIGEST}"
    content_type: str | None = "application/octet-stream"
    original_filename: str | None = "data.bin"
    created_at: str | None = "2026-02-28T10:20:30.900000+00:00"


def plan(headers: dict[str, str] | None = None, ref: Ref = Ref(), method: str = "GET", **settings: object) -> ServePlan:
    return plan_download(method, headers or {}, ref, now=NOW, settings=ServeSettings(**settings))  # type: ignore[arg-type]


# -- whole answers -----------------------------------------------------------------------------------------------------


def test_a_plain_get_sends_the_whole_object_with_every_header() -> None:
    answer = plan()
    digest = f"sha-256=:{base64.b64encode(bytes.fromhex(DIGEST)).decode()}:"
    assert answer.status == 200
    assert dict(answer.headers) == {
        "ETag": ETAG,
        "Last-Modified": STORED,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": 'attachment; filename="data.bin"',
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(CONTENT)),
        "Repr-Digest": digest,
        "Content-Digest": digest,
    }
    assert [(part.prelude, part.offset, part.length) for part in answer.parts] == [(b"", 0, len(CONTENT))]
    assert not answer.head_only


def test_head_has_the_headers_of_get_and_touches_no_bytes() -> None:
    get, head = plan(), plan(method="HEAD")
    # RFC 9530: Content-Digest is of the content sent, and HEAD sends none.
    assert dict(head.headers) == {name: value for name, value in get.headers if name != "Content-Digest"}
    assert head.status == 200
    assert head.parts == ()
    assert head.head_only
    assert head.content_length == len(CONTENT)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "TRACE", ""])
def test_other_methods_are_answered_with_what_is_allowed(method: str) -> None:
    answer = plan(method=method)
    assert (answer.status, answer.header("allow"), answer.parts) == (405, "GET, HEAD", ())


def test_an_empty_object_is_a_200_of_no_bytes_that_still_looks_for_the_object() -> None:
    for headers in ({}, {"Range": "bytes=0-"}, {"Range": "bytes=-5"}, {"Range": "bytes=7-9"}):
        answer = plan(headers, Ref(size=0))
        assert (answer.status, answer.header("Content-Length")) == (200, "0")
        assert [(part.offset, part.length) for part in answer.parts] == [(0, 0)]


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        plan(ref=Ref(size=-1))


def test_a_ref_without_checksum_has_no_digest_and_takes_the_tag_of_the_backend() -> None:
    old = Ref(checksum="")
    assert plan(ref=old).header("ETag") is None
    assert plan(ref=old).header("Repr-Digest") is None
    assert plan_download("GET", {}, old, now=NOW, backend_etag='"abc"').header("ETag") == '"abc"'
    assert plan_download("GET", {}, old, now=NOW, backend_etag='"a\r\nb"').header("ETag") is None
    assert plan_download("GET", {}, Ref(), now=NOW, backend_etag='"abc"').header("ETag") == ETAG


@pytest.mark.parametrize("checksum", ["", "md5:" + "a" * 32, "sha256:xyz", "sha256:" + "A" * 64, DIGEST])
def test_only_our_own_checksums_become_entity_tags(checksum: str) -> None:
    assert entity_tag(Ref(checksum=checksum)) is None


@pytest.mark.parametrize(
    ("created_at", "expected"),
    [
        ("2026-02-28T10:20:30.900000+00:00", STORED),
        ("2026-02-28T10:20:30Z", STORED),
        ("2026-02-28T10:20:30", STORED),
        ("2026-02-28T12:20:30+02:00", STORED),
        ("2199-01-01T00:00:00Z", "Sun, 01 Mar 2026 12:00:00 GMT"),
        ("0001-01-01T00:00:00+14:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_last_modified_comes_from_created_at_and_is_never_in_the_future(
    created_at: str | None, expected: str | None
) -> None:
    assert plan(ref=Ref(created_at=created_at)).header("Last-Modified") == expected


# -- preconditions -----------------------------------------------------------------------------------------------------

CONDITIONS = [
    # If-Match: strong comparison
    ({"If-Match": ETAG}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": '"other"'}, 412),
    ({"If-Match": f'"other", {ETAG}'}, 200),
    ({"If-Match": f"W/{ETAG}"}, 412),
    ({"If-Match": "unquoted"}, 412),
    ({"If-Match": ""}, 412),
    # If-Unmodified-Since
    ({"If-Unmodified-Since": STORED}, 200),
    ({"If-Unmodified-Since": AFTER}, 200),
    ({"If-Unmodified-Since": BEFORE}, 412),
    ({"If-Unmodified-Since": "last week"}, 200),
    ({"If-Match": ETAG, "If-Unmodified-Since": BEFORE}, 200),
    ({"If-Match": '"other"', "If-Unmodified-Since": AFTER}, 412),
    # If-None-Match: weak comparison
    ({"If-None-Match": ETAG}, 304),
    ({"If-None-Match": f"W/{ETAG}"}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"other"'}, 200),
    ({"If-None-Match": f'"a,b", , {ETAG}'}, 304),
    ({"If-None-Match": f'"x{DIGEST}"'}, 200),
    ({"If-None-Match": DIGEST}, 200),
    ({"If-None-Match": ""}, 200),
    # If-Modified-Since
    ({"If-Modified-Since": STORED}, 304),
    ({"If-Modified-Since": AFTER}, 304),
    ({"If-Modified-Since": BEFORE}, 200),
    ({"If-Modified-Since": "Saturday, 28-Feb-26 10:20:30 GMT"}, 304),
    ({"If-Modified-Since": "Sat Feb 28 10:20:30 2026"}, 304),
    ({"If-Modified-Since": "Sun Feb  1 10:20:30 2026"}, 200),
    ({"If-Modified-Since": "Sat, 31 Feb 2026 10:20:30 GMT"}, 200),
    ({"If-Modified-Since": "Sat, 28 Feb 2026 10:20:30 +0000"}, 200),
    ({"If-Modified-Since": "2026-02-28T10:20:30Z"}, 200),
    ({"If-Modified-Since": f"{STORED}, {STORED}"}, 200),
    ({"If-None-Match": '"other"', "If-Modified-Since": AFTER}, 200),
    ({"If-None-Match": ETAG, "If-Modified-Since": BEFORE}, 304),
    # both steps
    ({"If-Match": '"other"', "If-None-Match": ETAG}, 412),
    ({"If-Match": ETAG, "If-None-Match": ETAG}, 304),
    ({"If-Unmodified-Since": BEFORE, "If-Modified-Since": AFTER}, 412),
    ({"If-Unmodified-Since": AFTER, "If-Modified-Since": AFTER}, 304),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("headers", "status"), CONDITIONS)
def test_preconditions_follow_rfc_9110_section_13(headers: dict[str, str], status: int, method: str) -> None:
    answer = plan(headers, method=method)
    assert answer.status == status
    if status != 200:
        assert answer.parts == ()


@pytest.mark.parametrize(("headers", "status"), [case for case in CONDITIONS if case[1] != 200])
def test_preconditions_come_before_the_range(headers: dict[str, str], status: int) -> None:
    assert plan({**headers, "Range": "bytes=0-1"}).status == status
    assert plan({**headers, "Range": "bytes=999999-"}).status == status


def test_without_validators_only_the_star_matches() -> None:
    bare = Ref(checksum="", created_at=None)
    assert plan({"If-Match": "*"}, bare).status == 200
    assert plan({"If-Match": ETAG}, bare).status == 412
    assert plan({"If-None-Match": ETAG}, bare).status == 200
    assert plan({"If-None-Match": "*"}, bare).status == 304
    assert plan({"If-Modified-Since": AFTER}, bare).status == 200
    assert plan({"If-Unmodified-Since": BEFORE}, bare).status == 200


def test_a_weak_tag_of_the_backend_matches_weakly_only() -> None:
    old = Ref(checksum="")

    def status(**headers: str) -> int:
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return plan_download("GET", fields, old, now=NOW, backend_etag='W/"v1"').status

    assert status(If_None_Match='W/"v1"') == status(If_None_Match='"v1"') == 304
    assert status(If_Match='W/"v1"') == status(If_Match='"v1"') == 412
    assert status(Range="bytes=0-1", If_Range='W/"v1"') == 200


def test_a_304_carries_what_updates_the_stored_response_and_no_more() -> None:
    assert dict(plan({"If-None-Match": ETAG}).headers) == {"ETag": ETAG, "Cache-Control": "private, no-cache"}
    untagged = plan({"If-Modified-Since": STORED}, Ref(checksum=""))
    assert dict(untagged.headers) == {"Last-Modified": STORED, "Cache-Control": "private, no-cache"}


def test_repeated_fields_are_joined() -> None:
    pairs = [("If-None-Match", '"a"'), ("if-none-match", ETAG)]
    assert plan_download("GET", pairs, Ref(), now=NOW).status == 304


@pytest.mark.parametrize(("year", "seen"), [("76", 304), ("77", 200)])
def test_two_digit_years_lie_at_most_fifty_years_ahead(year: str, seen: int) -> None:
    assert plan({"If-Modified-Since": f"Sunday, 01-Mar-{year} 00:00:00 GMT"}).status == seen


# -- ranges ------------------------------------------------------------------------------------------------------------

N = len(CONTENT)


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-499", [(0, 500)]),
        ("bytes=500-", [(500, N - 500)]),
        ("bytes=0-", [(0, N)]),
        ("bytes=-1", [(N - 1, 1)]),
        ("bytes=-999999", [(0, N)]),
        (f"bytes={N - 1}-", [(N - 1, 1)]),
        ("bytes=9000-999999999999999999999999", [(9000, N - 9000)]),
        ("BYTES=0-1", [(0, 2)]),
        ("bytes= 0-1 , ,\t", [(0, 2)]),
        ("bytes=0-1,999999-", [(0, 2)]),
        ("bytes=0-1,-0", [(0, 2)]),
        # joined: overlapping, touching, near
        ("bytes=0-99,50-149", [(0, 150)]),
        ("bytes=0-99,100-199", [(0, 200)]),
        ("bytes=0-99,180-199", [(0, 200)]),
        ("bytes=100-199,0-99", [(0, 200)]),
        ("bytes=0-499,100-199", [(0, 500)]),
        # apart: in the order asked for
        ("bytes=0-99,181-199", [(0, 100), (181, 19)]),
        ("bytes=5000-5099,0-99", [(5000, 100), (0, 100)]),
        ("bytes=5000-5099,0-99,5100-5199", [(5000, 200), (0, 100)]),
        ("bytes=0-0,-1", [(0, 1), (N - 1, 1)]),
    ],
)
def test_satisfiable_ranges(value: str, spans: list[tuple[int, int]]) -> None:
    answer = plan({"Range": value})
    assert answer.status == 206
    assert [(part.offset, part.length) for part in answer.parts] == spans
    if len(spans) == 1:
        (offset, length), *_ = spans
        assert answer.header("Content-Range") == f"bytes {offset}-{offset + length - 1}/{N}"
        assert answer.header("Content-Length") == str(length)
        assert answer.header("Content-Type") == "application/octet-stream"
    assert answer.header("Content-Digest") is None
    assert answer.header("Repr-Digest") == plan().header("Repr-Digest")
    assert answer.header("ETag") == ETAG


@pytest.mark.parametrize("value", [f"bytes={N}-", "bytes=999999-1000000", "bytes=-0", f"bytes={N}-,-0"])
def test_unsatisfiable_ranges(value: str) -> None:
    answer = plan({"Range": value})
    assert (answer.status, answer.header("Content-Range"), answer.parts) == (416, f"bytes */{N}", ())
    assert answer.header("Content-Length") == "0"


@pytest.mark.parametrize(
    "value",
    [
        "items=0-1", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1-0", "bytes=0-1,5-2", "0-1", "",
        "bytes=0-1;2-3", "bytes 0-1", "bytes=0 - 1", "bytes=+0-1", "bytes=0x0-1", "bytes=--1", "bytes=0-1-2",
        "bytes=١-٢",
        "bytes=" + "9" * 5000 + "-",
    ],
)  # fmt: skip
def test_ranges_that_make_no_sense_are_ignored(value: str) -> None:
    assert plan({"Range": value}).status == 200


def test_range_is_for_get_only() -> None:
    assert plan({"Range": "bytes=0-1"}, method="HEAD").status == 200
    assert plan({"Range": f"bytes={N}-"}, method="HEAD").status == 200


def test_too_many_ranges_get_the_whole_object() -> None:
    many = "bytes=" + ",".join(f"{start}-{start}" for start in range(0, N, N // 40))
    assert plan({"Range": many}).status == 200
    assert plan({"Range": many}, max_ranges=100).status == 206


def test_ranges_that_ask_for_more_than_there_is_get_the_whole_object() -> None:
    assert plan({"Range": "bytes=0-,0-,0-"}).status == 200
    assert plan({"Range": f"bytes=0-{N - 1},-1"}).status == 200


def test_a_multipart_body_longer_than_the_object_is_the_object() -> None:
    small = Ref(size=300)
    assert plan({"Range": "bytes=0-0,100-100,200-200,299-299"}, small).status == 200


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        (ETAG, 206),
        (f"W/{ETAG}", 200),
        ('"other"', 200),
        (STORED, 206),
        (AFTER, 200),
        (BEFORE, 200),
        ("Saturday, 28-Feb-26 10:20:30 GMT", 206),
        ("garbage", 200),
        ("*", 200),
        ("", 200),
        (f'"other", {ETAG}', 200),
    ],
)
def test_if_range(if_range: str, status: int) -> None:
    assert plan({"Range": "bytes=0-1", "If-Range": if_range}).status == status


def test_if_range_is_nothing_without_range() -> None:
    assert plan({"If-Range": '"other"'}).status == 200


def test_an_unsatisfiable_range_of_another_state_is_the_whole_object() -> None:
    assert plan({"Range": f"bytes={N}-", "If-Range": '"other"'}).status == 200


def test_a_date_of_this_very_second_is_no_strong_validator() -> None:
    headers = {"Range": "bytes=0-1", "If-Range": STORED}
    stored = datetime(2026, 2, 28, 10, 20, 30, tzinfo=UTC)
    assert plan_download("GET", headers, Ref(), now=stored + timedelta(seconds=0.95)).status == 200
    assert plan_download("GET", headers, Ref(), now=stored + timedelta(seconds=1)).status == 206


# -- what is sent, and how safe it is ----------------------------------------------------------------------------------

SANDBOX = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
MEDIA = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"


@pytest.mark.parametrize(
    ("stored", "sent", "inline", "policy"),
    [
        ("image/png", "image/png", True, MEDIA),
        ("IMAGE/JPEG", "image/jpeg", True, MEDIA),
        ("image/svg+xml", "image/svg+xml", False, SANDBOX),
        ("image/x-unheard-of", "image/x-unheard-of", False, SANDBOX),
        ("audio/mpeg", "audio/mpeg", True, MEDIA),
        ("video/mp4", "video/mp4", True, MEDIA),
        ("application/pdf", "application/pdf", True, None),
        ("text/plain", "text/plain; charset=utf-8", True, SANDBOX),
        ("text/plain; charset=ISO-8859-1", "text/plain; charset=iso-8859-1", True, SANDBOX),
        ("text/csv", "text/csv; charset=utf-8", False, SANDBOX),
        ("text/html", "text/html", False, SANDBOX),
        ("text/html;charset=utf-8", "text/html; charset=utf-8", False, SANDBOX),
        ("application/xhtml+xml", "application/xhtml+xml", False, SANDBOX),
        ("text/javascript", "text/plain; charset=utf-8", False, SANDBOX),
        ("Application/X-JavaScript; charset=latin1", "text/plain; charset=latin1", False, SANDBOX),
        ("text/css", "text/plain; charset=utf-8", False, SANDBOX),
        ("application/wasm", "application/octet-stream", False, SANDBOX),
        ("application/json", "application/json", False, SANDBOX),
        ("multipart/x-mixed-replace; boundary=x", "application/octet-stream", False, SANDBOX),
        (None, "application/octet-stream", False, SANDBOX),
        ("", "application/octet-stream", False, SANDBOX),
        ("nonsense", "application/octet-stream", False, SANDBOX),
        ("text/html\r\nX-Evil: 1", "application/octet-stream", False, SANDBOX),
        ("text/pläin", "application/octet-stream", False, SANDBOX),
        ('text/plain; charset="utf-8\r\nX-Evil: 1"', "text/plain; charset=utf-8", True, SANDBOX),
    ],
)
def test_types_are_sent_safely(stored: str | None, sent: str, inline: bool, policy: str | None) -> None:
    answer = plan(ref=Ref(content_type=stored))
    assert answer.header("Content-Type") == sent
    assert answer.header("Content-Disposition") == f'{"inline" if inline else "attachment"}; filename="data.bin"'
    assert answer.header("Content-Security-Policy") == policy
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert is_safe_inline(stored) is inline
    assert content_security_policy(stored) == policy


def test_everything_is_an_attachment_on_demand() -> None:
    image = Ref(content_type="image/png")
    assert plan(ref=image).header("Content-Disposition") == 'inline; filename="data.bin"'
    assert plan(ref=image, disposition="attachment").header("Content-Disposition") == 'attachment; filename="data.bin"'


def test_settings_decide_name_caching_and_embedding() -> None:
    answer = plan(
        filename="report.bin", cache_control="public, max-age=60", cross_origin_resource_policy="cross-origin"
    )
    assert answer.header("Content-Disposition") == 'attachment; filename="report.bin"'
    assert answer.header("Cache-Control") == "public, max-age=60"
    assert answer.header("Cross-Origin-Resource-Policy") == "cross-origin"


@pytest.mark.parametrize(
    "wrong",
    [
        {"disposition": "inline"},
        {"cache_control": "private\r\nX: 1"},
        {"cache_control": ""},
        {"cross_origin_resource_policy": "any"},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"disposition|cache_control|cross_origin"):
        ServeSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("report.pdf", 'attachment; filename="report.pdf"'),
        ("a b;c=d.txt", 'attachment; filename="a b;c=d.txt"'),
        ("résumé.pdf", "attachment; filename=\"resume.pdf\"; filename*=UTF-8''r%C3%A9sum%C3%A9.pdf"),
        ("日本.txt", "attachment; filename=\"__.txt\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.txt"),
        ('say "hi".txt', "attachment; filename=\"say _hi_.txt\"; filename*=UTF-8''say%20%22hi%22.txt"),
        ("100%41.txt", "attachment; filename=\"100_41.txt\"; filename*=UTF-8''100%2541.txt"),
        ("it's (1).txt", 'attachment; filename="it\'s (1).txt"'),
        ("naïve's (1).txt", "attachment; filename=\"naive's (1).txt\"; filename*=UTF-8''na%C3%AFve%27s%20%281%29.txt"),
        ("＂／.txt", "attachment; filename=\"__.txt\"; filename*=UTF-8''%EF%BC%82%EF%BC%8F.txt"),
        ("../../etc/passwd", 'attachment; filename="passwd"'),
        ("\u0300", "attachment; filename=\"_\"; filename*=UTF-8''%CC%80"),
        ("a\r\nSet-Cookie: x=1", 'attachment; filename="aSet-Cookie: x=1"'),
        ("\u202egpj.exe", 'attachment; filename="gpj.exe"'),
        ("\ud800", "attachment"),
        ("...", "attachment"),
        ("", "attachment"),
        (None, "attachment"),
    ],
)
def test_content_disposition(name: str | None, value: str) -> None:
    assert content_disposition("attachment", name) == value
