"""What is fuzzed: functions of bytes that raise whatever is a fault, and nothing for what is refused properly."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from granite_core import (
    ContentTooLargeError,
    FetchRules,
    InvalidKeyError,
    InvalidSourceError,
    RemoteRefusedError,
    StoredObjectRef,
    TokenExpiredError,
    TokenInvalidError,
    UrlSettings,
    from_data_uri,
)
from granite_core.keys import KeyTemplate, build_key, clean_segment, suffix_of, validate_key
from granite_core.links import Links
from granite_core.media import clean_content_type, clean_filename, judge_content
from granite_core.remote.targets import parse_target, redirected
from granite_core.serving import content_disposition, extended_filename, filename_of, plan_download, served_type
from granite_core.signing import Sealer
from granite_litestar._digests import announced_sha256
from granite_litestar._draft import (
    VERSIONS,
    DraftError,
    is_spoken,
    parse_boolean,
    parse_integer,
    parse_version,
    write_boolean,
)
from granite_litestar._tus import TusError, parse_checksum, parse_creation, parse_metadata
from granite_litestar.exceptions import MalformedBodyError
from granite_litestar.multipart import (
    MAX_HEADER_BYTES,
    MultipartDecoder,
    PartHead,
    encode_text_parts,
)
from granite_litestar.upload_routes import precondition_holds

__all__ = ["SEEDS", "TARGETS", "every"]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = StoredObjectRef(
    "a", "main", "k", 1000, f"sha256:{'ab' * 32}", "text/plain", "a.txt", "2026-01-01T00:00:00.000000Z"
)
FETCH = FetchRules(ports=None)
SECURE = parse_target("https://example.org/a/b?c", FETCH)
SECRET = "s" * 32
SEALER = Sealer([SECRET])
LINKS = Links(UrlSettings(secrets=[SECRET]))
TEMPLATE = KeyTemplate("{tenant}/x/{tenant}")
FIELDS = ("range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")


def multipart(data: bytes) -> None:
    """The first byte cuts the rest into pieces, the second makes the boundary: parts must not depend on the cuts."""
    if len(data) < 3:
        return
    boundary = b"b" * (data[1] % 3 + 1)
    whole, cut = _decoded(boundary, [data[2:]]), _decoded(boundary, _cut(data[2:], data[0] % 60 + 1))
    assert whole == cut or None in (whole, cut), (whole, cut)
    if whole is not None:
        texts = [(head.name, body.decode("utf-8", "replace")) for head, body in whole]
        encode_text_parts(b"boundary-of-ours", texts)


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _decoded(boundary: bytes, pieces: Sequence[bytes]) -> list[tuple[PartHead, bytes]] | None:
    decoder = MultipartDecoder(boundary, max_parts=20)
    parts: list[tuple[PartHead, bytearray]] = []
    try:
        for piece in pieces:
            for event in decoder.feed(piece):
                if isinstance(event, PartHead):
                    parts.append((event, bytearray()))
                    assert len(event.name) <= MAX_HEADER_BYTES
                elif event is not None:
                    parts[-1][1].extend(event)
        decoder.close()
    except (MalformedBodyError, ContentTooLargeError):
        return None
    return [(head, bytes(body)) for head, body in parts]


def headers(data: bytes) -> None:
    """Lines are the fields of a request for a file, in turn; the answer must add up."""
    values = data.decode("latin-1").split("\n")
    fields = [(FIELDS[index % len(FIELDS)], value) for index, value in enumerate(values[:12])]
    plan = plan_download("GET", fields, REF, now=NOW)
    assert plan.status in (200, 206, 304, 412, 416)
    length = sum(len(part.prelude) + part.length for part in plan.parts) + len(plan.closing)
    assert length == plan.content_length
    assert length <= REF.size + 200
    assert all(0 <= part.offset <= part.offset + part.length <= REF.size for part in plan.parts)
    assert all(re.fullmatch(r"[\x20-\x7e]*", value) for _, value in plan.headers)
    precondition_holds(dict(fields), '"x"')


def tokens(data: bytes) -> None:
    """As a token, nothing opens; as a value, what is sealed comes back, and a changed letter is noticed."""
    text = data.decode("latin-1")
    for open_ in (lambda: LINKS.read(text, NOW), lambda: SEALER.open("upload", text, object, now=NOW)):
        try:
            open_()
        except (TokenInvalidError, TokenExpiredError):
            continue
        raise AssertionError("a token that was never sealed was opened")
    token = SEALER.seal("upload", data, subject=text)
    assert SEALER.open("upload", token, bytes, now=NOW, subject=text).value == data
    at = sum(data) % len(token)
    changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
    try:
        SEALER.open("upload", changed, bytes, now=NOW, subject=text)
    except TokenInvalidError:
        return
    raise AssertionError("a changed token was opened")


def refs(data: bytes) -> None:
    """JSON is a ref that reads again as it was written, or a ValueError."""
    for read in (StoredObjectRef.from_json, StoredObjectRef.list_from_json):
        try:
            found = read(data)
        except ValueError:
            continue
        for ref in found if isinstance(found, list) else [found]:
            again = StoredObjectRef.from_json(ref.to_json())
            assert again.to_dict() == ref.to_dict()
    try:
        value = msgspec.json.decode(data)
        StoredObjectRef.from_dict(value)
    except (ValueError, RecursionError):
        return


def names(data: bytes) -> None:
    """A file's name is harmless or none, and the header that tells it is to the letter."""
    for text in (data.decode("utf-8", "surrogateescape"), data.decode("latin-1"), data.decode("utf-16", "replace")):
        name = clean_filename(text)
        if name is not None:
            assert len(name.encode()) <= 255
            assert not set(name) & set("/\\\r\n\0\u202e\u2028")
            assert clean_filename(name) == name
        value = content_disposition("attachment", text)
        assert re.fullmatch(r"attachment(; filename=\"[ -!#-$&-.0-\[\]-~]+\")?(; filename\*=UTF-8''[!-~]+)?", value), (
            value
        )
        extended_filename(text)
        filename_of(text)
        assert served_type(text).isascii()
        assert re.fullmatch(r"\.[a-z0-9]{1,12}|", suffix_of(text))
        clean_content_type(text)


def keys(data: bytes) -> None:
    """Whatever a key is made of, it stays in its place."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        segment = clean_segment(text)
        assert re.fullmatch(r"[A-Za-z0-9_.~%-]{1,200}", segment)
        assert not segment.startswith(".")
        key = build_key("u" * 26, prefix="p", folders=TEMPLATE.fill({"tenant": text}), suffix=suffix_of(text))
        validate_key(key)
        assert key.count("/") == 4
    except InvalidKeyError:
        pass
    try:
        validate_key(text)
    except InvalidKeyError:
        return
    assert not set(text.split("/")) & {"", ".", ".."}
    assert "\0" not in text


def contents(data: bytes) -> None:
    """The first byte tells how much of the rest is name and claim; any content has a type, or none that is known."""
    at = data[0] % 32 if data else 0
    name, head = data[1 : 1 + at].decode("latin-1"), data[1 + at :]
    judged = judge_content(head[:4096], name, name)
    assert clean_content_type(judged.content_type) == judged.content_type


def urls(data: bytes) -> None:
    """What is understood of a URL, or of a redirect, is understood in one way, and is safe to send."""
    text = data.decode("utf-8", "replace")
    try:
        target = parse_target(text, FETCH)
    except RemoteRefusedError:
        pass
    else:
        assert parse_target(target.url, FETCH) == target
        line = f"{target.authority} {target.path}"
        assert line.isascii() and line.isprintable() and line.count(" ") == 1, line  # noqa: PT018 - one thing
    with suppress(RemoteRefusedError):
        assert redirected(SECURE, data.decode("latin-1"), FETCH).scheme == "https"


def data_uris(data: bytes) -> None:
    """The size that is told before anything is decoded is the size."""
    try:
        found = from_data_uri(f"data:{data.decode('latin-1')}")
        stream = found.open().stream
        size = sum(len(piece) for piece in iter(lambda: stream.read(7), b""))
    except InvalidSourceError:
        return
    assert size == found.size


def uploads(data: bytes) -> None:
    """What tus and the draft say in headers is understood, or refused; what is understood, is told again alike."""
    text = data.decode("latin-1")
    lines = {name: value for name, _, value in (line.partition(":") for line in text.split("\n"))}
    with suppress(TusError):
        parse_creation(lines)
    with suppress(TusError):
        for key, value in parse_metadata(text).items():
            again = f"{key} {base64.b64encode(value.encode()).decode()}"
            assert parse_metadata(again) == {key: value}
    with suppress(TusError):
        parse_checksum(text)
    with suppress(DraftError):
        assert parse_version(lines) in VERSIONS
    for name in ("repr-digest", "content-digest"):
        with suppress(MalformedBodyError):
            assert len(announced_sha256({name: text}, name) or bytes(32)) == 32
    if (number := parse_integer(text)) is not None:
        assert parse_integer(str(number)) == number
    if (truth := parse_boolean(text)) is not None:
        assert parse_boolean(write_boolean(truth)) is truth
    is_spoken(lines)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (multipart, headers, tokens, refs, names, keys, contents, urls, data_uris, uploads)
}


def every(data: bytes) -> None:
    """The first byte chooses among all of them."""
    if data:
        [*TARGETS.values()][data[0] % len(TARGETS)](data[1:])


SEEDS: dict[str, list[bytes]] = {
    "multipart": [
        b'\x05\x00--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
        b"\x07\x01--bb\r\nContent-Disposition: form-data; name=f; filename*=UTF-8''%e2\r\nContent-Length: 1\r\n\r\nx",
        b"\x01\x00--b\r\nContent-Disposition: form-data\r\nContent-Type: a/b; charset=x\r\n x\r\n\r\nx\r\n--b--\r\n",
    ],
    "headers": [
        b'bytes=0-1,5-,-7\n"x", W/"y"\n*\nSun, 06 Nov 1994 08:49:37 GMT\nSunday, 06-Nov-94 08:49:37 GMT',
        b"bytes=1-2\n\n\nSun Nov  6 08:49:37 1994\n\n" + b'"' + b"ab" * 32 + b'"',
    ],
    "tokens": [b"AAAA", LINKS.plan.__name__.encode(), SEALER.seal("file", 1).encode()],
    "refs": [REF.to_json(), b"[" + REF.to_json() + b"]", b'{"legacy_inline_text": "x"}'],
    "names": [
        "naïve \u202egpj.exe".encode(),
        b"attachment; filename*=UTF-8''%41",
        b"text/html; charset=utf-8",
        b"con.txt",
    ],
    "urls": [b"http://[::1]:80/a?b#c", b"https://0x7f.1/", "http://127。0。0。1/".encode(), b"//b.example/x"],
    "data_uris": [b";base64,aGk=", b"text/plain,a%20b", b";base64,aGk%3D"],
    "uploads": [
        b"upload-length:5\nupload-metadata:filename YQ==,private\nupload-concat:final;/a /b",
        b"filename YQ==,private",
        b"sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00=",
        b"sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:, sha-512=:AA==:",
        b"upload-draft-interop-version: 6\nupload-complete: ?1",
        b"?1;a=b",
        b" 15 ;x",
    ],
    "keys": [b"a/b.pdf", b"..", b".granite-x", "ü".encode()],
    "contents": [
        b"\x05a.pdf%PDF-1.4",
        b"\x00<!DOCTYPE html [<!ENTITY x 'y'>]><!-- x --><svg>",
        b"\x00PK\x03\x04" + bytes(26) + b"[Content_Types].xml",
        b"\x00\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
        b"\x00\x1aE\xdf\xa3\x42\x82\x84webm\x86\x85A_OPUS",
        b"\x00OggS" + bytes(23) + b"OpusHead",
    ],
}
SEEDS["every"] = [bytes([index]) + seed for index, name in enumerate(TARGETS) for seed in SEEDS[name]]
