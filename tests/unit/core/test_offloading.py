"""What the web server in front is told, and when it may be asked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from granite_core import ConfigurationError, Offload, StoredObjectRef
from granite_core.offloading import offloaded_headers
from granite_core.serving import plan_download

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def ref_of(content_type: str = "video/mp4", size: int = 1000) -> StoredObjectRef:
    return StoredObjectRef("files", "main", "a/b", size, "sha256:" + "0" * 64, content_type, "a", NOW.isoformat())


def headers_of(
    fields: dict[str, str] | None = None, *, method: str = "GET", content_type: str = "video/mp4"
) -> dict[str, str] | None:
    fields, ref = fields or {}, ref_of(content_type)
    plan = plan_download(method, fields, ref, now=NOW)
    kept = offloaded_headers(method, fields, plan, plan.headers, content_type)
    return None if kept is None else dict(kept)


def test_names_are_percent_encoded_beneath_the_innermost_folder() -> None:
    offload = Offload({"/srv": "/all", "/srv/files": "/_files/", "/": "/"})
    for path, name in {
        "/srv/files/a/b.bin": "/_files/a/b.bin",
        "/srv/filesystem/a": "/all/filesystem/a",
        "/srv/files/Zoë 50%?#/ä": "/_files/Zo%C3%AB%2050%25%3F%23/%C3%A4",
        "/srv/files/\udcff": "/_files/%FF",
        "/srv/files/a\r\nSet-Cookie: b": "/_files/a%0D%0ASet-Cookie%3A%20b",
        "/etc/passwd": "/etc/passwd",
    }.items():
        assert offload.name_of(Path(path)) == name
    assert Offload({"/srv/files": "/_files"}).name_of(Path("/etc/passwd")) is None
    assert Offload({"files": "/_files"}).name_of(Path("files/a").absolute()) == "/_files/a"


@pytest.mark.parametrize(
    "wrong",
    [
        {"roots": {}},
        {"roots": {"/srv": "files"}},
        {"roots": {"/srv": "/f"}, "header": "X-Other"},
        {"roots": {"/srv": "/f"}, "token": "short"},
        {"roots": {"/srv": "/f"}, "token": "sixteen letters\n"},
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Offload(**wrong)


def test_the_token_is_in_no_repr() -> None:
    offload = Offload({"/srv": "/f"}, token="sixteen letters!")
    assert "sixteen" not in repr(offload)
    assert offload.trusts("sixteen letters!")
    assert not any(offload.trusts(each) for each in (None, "", "sixteen letters", "ä"))
    assert Offload({"/srv": "/f"}).trusts(None)


def test_what_depends_on_the_range_is_left_to_whoever_sends_it() -> None:
    whole, part = headers_of() or {}, headers_of({"range": "bytes=0-9"}) or {}
    assert whole.keys() - part.keys() == {"Content-Digest"}
    assert not part.keys() & {"Content-Length", "Content-Range", "Accept-Ranges"}
    assert part["Content-Type"] == "video/mp4"
    assert part["ETag"] == f'"{"0" * 64}"'


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ({"if-match": "*"}, "GET"),
        ({"if-unmodified-since": "Fri, 01 Jan 2094 00:00:00 GMT"}, "GET"),
        ({"if-none-match": "*"}, "GET"),
        ({"range": "bytes=5000-"}, "GET"),
        ({}, "HEAD"),
        ({}, "POST"),
    ],
)
def test_what_the_front_would_judge_again_or_has_no_body_is_ours(fields: dict[str, str], method: str) -> None:
    assert headers_of(fields, method=method) is None


@pytest.mark.parametrize(
    ("content_type", "left"),
    [
        ("image/png", True),
        ("application/pdf", True),
        ("text/html", True),
        ("text/javascript", True),
        ("text/plain", False),
    ],
)
def test_what_is_shown_under_a_sandbox_is_ours(content_type: str, left: bool) -> None:
    assert (headers_of(content_type=content_type) is not None) == left
