"""Names that attack: paths, headers, logs and readers, in every place that a request has for a name."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from granite_core.media import clean_filename
from tests.hostile.world import FORM, Answer, World, form, part

NAMES = [
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "/etc/cron.d/evil",
    "C:\\boot.ini",
    "\\\\server\\share\\x",
    "file:///etc/passwd",
    "....//....//x",
    "%2e%2e%2fpasswd",
    "a\x00.png",
    "a.txt\r\nSet-Cookie: session=evil",
    "a\r\n\r\n<script>alert(1)</script>",
    'a"; filename="b.html',
    "a'; DROP TABLE hostile_letter; --",
    'a";x="\\',
    "\u202egnp.exe",
    "\u2066a\u2069.txt",
    "\u2028\u2029.txt",
    "CON",
    "nul.txt",
    "COM1.pdf",
    "aux .txt",
    ".htaccess",
    "...",
    " ",
    "-rf",
    "a" * 5000 + ".pdf",
    "ü" * 5000,
    "a" + "\u0300" * 4000,
    "\U0001f600" * 1000,
    "${jndi:ldap://x}",
    "{{7*7}}",
    "a.php\x00.jpg",
    "a.txt::$DATA",
    "<img src=x onerror=alert(1)>.txt",
    "=cmd|' /C calc'!A0",
    "%s%n%d",
]


def by_quoted_name(name: str) -> dict[str, Any]:
    escaped = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    body = form(part(b"file", filename=escaped.encode()[:4000].decode("utf-8", "ignore").encode()))
    return {"path": "/letters", "chunks": [body], "headers": FORM}


def by_extended_name(name: str) -> dict[str, Any]:
    head = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''%s\r\n\r\nx\r\n--b--\r\n"
    return {"path": "/letters", "chunks": [head % quote(name[:300], safe="").encode()], "headers": FORM}


def by_header(name: str) -> dict[str, Any]:
    value = "attachment; filename=\"x\"; filename*=UTF-8''" + quote(name, safe="")
    return {"path": "/bodies", "chunks": [b"x"], "headers": [("Content-Disposition", value)]}


def by_raw_header(name: str) -> dict[str, Any]:
    """As servers never let through: whatever stands in the field's value."""
    value = f'attachment; filename="{name}"'.encode().decode("latin-1")
    return {"path": "/bodies", "chunks": [b"x"], "headers": [("Content-Disposition", value)]}


def by_query(name: str) -> dict[str, Any]:
    return {"path": f"/bodies?filename={quote(name, safe='')}", "chunks": [b"x"]}


DISPOSITION = re.compile(
    r"(?:inline|attachment)"
    r"(?:; filename=\"(?P<plain>[^\"\\%/\x00-\x1f\x7f-\uffff]*)\")?"
    r"(?:; filename\*=UTF-8''(?P<extended>(?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})+))?"
)

WAYS = [by_quoted_name, by_extended_name, by_header, by_raw_header, by_query]


async def kept_and_offered(world: World, request: dict[str, Any]) -> tuple[str | None, str | None]:
    """The name that the application says it has, and the one that a browser saves the file under."""
    made = await world.ask("POST", **request)
    if made.status == 400 and request["path"] == "/letters":
        return None, None  # the form is refused as a whole
    assert made.status == 201, made.body
    body = json.loads(made.body)
    file = await world.ask("GET", f"/letters/{body['id']}/file")
    link = await world.ask("GET", json.loads((await world.ask("GET", f"/letters/{body['id']}/link")).body)["url"])
    assert (file.status, file.body, link.status, link.body) == (200, b"x", 200, b"x")
    assert saved_as(file) == saved_as(link)
    return body["file"]["filename"], saved_as(file)


def saved_as(answer: Answer) -> str | None:
    """The name that a `Content-Disposition` of RFC 6266 gives, which it must be to the letter."""
    match = DISPOSITION.fullmatch(answer.headers["content-disposition"])
    assert match is not None, answer.headers
    return match["plain"] if match["extended"] is None else unquote(match["extended"], errors="strict")


@pytest.mark.parametrize("way", WAYS)
async def test_a_name_that_attacks_is_a_harmless_name_or_none(world: World, way: Any) -> None:
    for name in NAMES:
        kept, offered = await kept_and_offered(world, way(name))
        assert kept == offered == clean_filename(kept), name
        assert kept is None or not set(kept) & set("/\\\r\n\0\u202e\u2028")
        assert kept is None or len(kept.encode()) <= 255


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(), max_size=300), way=st.sampled_from([by_extended_name, by_header, by_query]))
async def test_any_name_at_all_is_kept_clean(world: World, name: str, way: Any) -> None:
    scalar = name.encode("utf-8", "replace").decode()
    kept, offered = await kept_and_offered(world, way(scalar))
    assert kept == offered == clean_filename(scalar)


async def test_a_lone_surrogate_in_a_name_is_no_name(world: World) -> None:
    """CESU-8, as some clients write it: no UTF-8."""
    for name in ("%ED%A0%80.txt", "%FF%FE.txt", "a%C0%AFb.txt"):
        for path, value in (("/bodies", f"attachment; filename*=UTF-8''{name}"), (f"/bodies?filename={name}", "")):
            answer = await world.ask("POST", path, [b"x"], [("Content-Disposition", value)] if value else [])
            assert answer.status == 201


@pytest.mark.parametrize("value", ["../../../etc", "a" * 5000, "", "\x00", "a/b", "..", ".granite", "ü" * 80])
async def test_what_fills_a_key_stays_in_its_place(world: World, value: str) -> None:
    """A tenant out of a header, as an application would take it that trusts its clients."""
    header = value.encode().decode("latin-1")
    answer = await world.ask("POST", "/tenants", [b"x"], [("X-Tenant", header)])
    assert answer.status in (201, 400, 422), answer.body
