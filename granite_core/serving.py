"""How a stored object is served over HTTP: RFC 9110 as pure functions that return a plan.

`plan_download` decides everything about an answer from the request's method and fields, the ref and the settings: the
status, every header, and which bytes of the object follow. Whoever sends it opens readers for the parts of the plan
and adds nothing. No clock, no randomness, no I/O.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal, Protocol

import msgspec

from granite_core._disposition import content_disposition, extended_filename, filename_of
from granite_core._preconditions import (
    Precondition,
    Validators,
    evaluate_preconditions,
    format_http_date,
    if_range_holds,
)
from granite_core._ranges import DEFAULT_MAX_RANGES, ByteRange, select_ranges
from granite_core.caching import Address, cache_control
from granite_core.media import clean_content_type
from granite_core.policies import may_offload, may_redirect

__all__ = [
    "EXPOSED_HEADERS",
    "NO_STORE",
    "PRIVATE_NO_CACHE",
    "Address",
    "BodyPart",
    "Servable",
    "ServePlan",
    "ServeSettings",
    "cache_control",
    "content_disposition",
    "content_security_policy",
    "entity_tag",
    "extended_filename",
    "filename_of",
    "is_safe_inline",
    "may_offload",
    "may_redirect",
    "plan_download",
    "served_disposition",
    "served_type",
]

PRIVATE_NO_CACHE: Final = cache_control(Address.ROW)
"""What guarded downloads say: one user's browser may keep a copy and asks each time whether it is still good."""

NO_STORE: Final = cache_control(Address.ROW_REDIRECT)
"""What the way from a row's address to the store's says: ask each time."""

EXPOSED_HEADERS: Final = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Digest",
    "Content-Length",
    "Content-Range",
    "ETag",
    "Repr-Digest",
)
"""Response headers that scripts of other origins may need to read (``Access-Control-Expose-Headers``)."""

HOT: Final = 512
"""Files whose headers are kept at hand, about 3 KB each."""

_RASTER_IMAGES: Final = frozenset(
    f"image/{subtype}"
    for subtype in (
        "apng", "avif", "bmp", "gif", "heic", "heif", "jpeg", "jxl", "png", "tiff", "vnd.microsoft.icon", "webp",
        "x-icon",
    )
)  # fmt: skip
_DECLARE_THEIR_ENCODING: Final = frozenset(("text/html", "text/xml"))

# WHATWG MIME Sniffing, section 4.6, "JavaScript MIME type"; and style sheets.
_TAKEN_BY_PAGES: Final = frozenset(
    (
        "application/ecmascript", "application/javascript", "application/x-ecmascript", "application/x-javascript",
        "text/css", "text/ecmascript", "text/javascript", "text/javascript1.0", "text/javascript1.1",
        "text/javascript1.2", "text/javascript1.3", "text/javascript1.4", "text/javascript1.5", "text/jscript",
        "text/livescript", "text/x-ecmascript", "text/x-javascript",
    )
)  # fmt: skip
"""Types that a page of the same origin takes in as its own, whatever the answer's disposition and policy say."""
_CHARSET: Final = re.compile(r'(?i);[ \t]*charset="?([a-z0-9][a-z0-9._:+-]{0,39})"?[ \t]*(?:;|\Z)')
_SHA256: Final = re.compile(r"sha256:([0-9a-f]{64})")
_BACKEND_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{1,256}"')
_FIELD_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class Servable(Protocol):
    """What is asked of a ref in order to serve it; ``StoredObjectRef`` has it."""

    @property
    def location(self) -> str:
        """Key of the object; only hashed, never sent."""
        ...

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    @property
    def checksum(self) -> str:
        """``"sha256:"`` and hexadecimal digits, or empty."""
        ...

    @property
    def content_type(self) -> str | None:
        """Stored media type, as untrusted as it came."""
        ...

    @property
    def original_filename(self) -> str | None:
        """Name the file came with."""
        ...

    @property
    def created_at(self) -> str | None:
        """When it was stored, ISO 8601."""
        ...


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How one route, or one response, serves files.

    Args:
        disposition: ``"auto"`` shows safe types in the browser and offers everything else for download;
            ``"attachment"`` offers everything for download. Nothing makes an unsafe type ``inline``.
        filename: Name to offer instead of the one the file came with.
        cache_control: Value of ``Cache-Control``.
        cross_origin_resource_policy: Value of ``Cross-Origin-Resource-Policy``: which sites may embed the file.
        max_ranges: How many ranges one request may ask for before it is sent the whole object.

    Raises:
        ValueError: A value that cannot stand in a header.
    """

    disposition: Literal["auto", "attachment"] = "auto"
    filename: str | None = None
    cache_control: str = PRIVATE_NO_CACHE
    cross_origin_resource_policy: Literal["same-origin", "same-site", "cross-origin"] = "same-origin"
    max_ranges: int = DEFAULT_MAX_RANGES

    def __post_init__(self) -> None:
        if self.disposition not in ("auto", "attachment"):
            raise ValueError(f'disposition must be "auto" or "attachment", not {self.disposition!r}')
        if self.cross_origin_resource_policy not in ("same-origin", "same-site", "cross-origin"):
            raise ValueError(
                'cross_origin_resource_policy must be "same-origin", "same-site" or "cross-origin", '
                f"not {self.cross_origin_resource_policy!r}"
            )
        if not _FIELD_VALUE.fullmatch(self.cache_control):
            raise ValueError(f"cache_control cannot stand in a header: {self.cache_control!r}")


class BodyPart(msgspec.Struct, frozen=True):
    """Bytes to send: first ``prelude`` as it is, then ``length`` bytes of the object from ``offset`` on."""

    prelude: bytes
    offset: int
    length: int


class ServePlan(msgspec.Struct, frozen=True):
    """The whole answer to a request for a file.

    Attributes:
        status: 200, 206, 304, 405, 412 or 416.
        headers: Names and values, the values in visible ASCII. ``Date`` is the server's.
        parts: What the body is made of, in order; none where the storage need not be touched. An empty object has
            one part of no bytes, so that its absence is noticed.
        closing: Bytes after the last part: the end of a multipart body.
        content_length: Exact number of bytes of the body that the headers announce.
        head_only: The request was HEAD: the headers are those of a GET, and no body follows.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    parts: tuple[BodyPart, ...] = ()
    closing: bytes = b""
    content_length: int = 0
    head_only: bool = False

    def header(self, name: str) -> str | None:
        """The value of a header, whatever the case of its name, or ``None``."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)


def plan_download(
    method: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    ref: Servable,
    *,
    now: datetime,
    settings: ServeSettings = ServeSettings(),
    backend_etag: str | None = None,
) -> ServePlan:
    """Decide how to answer a request for a stored object that exists and that the client may have.

    Follows RFC 9110: methods (section 9), preconditions in the order of section 13.2.2, ``If-Range`` and ``Range``
    (13.1.5, 14), 206 and ``multipart/byteranges`` (15.3.7, 14.6); RFC 9530 for digests. ``Range`` is heeded for GET
    only. A multipart body that would be no shorter than the object is replaced by the object.

    Args:
        method: The request's method, in upper case.
        headers: The request's fields, with names in any case; repeated ones may come as repeated pairs.
        ref: What is asked for.
        now: The time, with time zone.
        settings: How this route serves files.
        backend_etag: An entity tag of the backend, quotes included, used where the ref has no SHA-256.

    Returns:
        The plan. It never depends on anything but these arguments.

    Raises:
        ValueError: The size of the ref is negative.
    """
    if ref.size < 0:
        raise ValueError(f"the size of a stored object must not be negative: {ref.size}")
    if method not in ("GET", "HEAD"):
        return ServePlan(405, (("Allow", "GET, HEAD"), ("Content-Length", "0")))
    head = method == "HEAD"
    fields = _fold(headers)
    told = _told_of(
        *(ref.checksum, _last_modified(ref.created_at, now), ref.content_type, ref.original_filename, ref.size),
        *(settings, backend_etag),
    )

    if fields:
        outcome = evaluate_preconditions(fields, told.validators, now)
        if outcome is Precondition.FAILED:
            return ServePlan(412, (*told.state, ("Content-Length", "0")), head_only=head)
        if outcome is Precondition.NOT_MODIFIED:
            return ServePlan(304, told.unchanged, head_only=head)

    ranges = None
    if not head and "range" in fields and if_range_holds(fields, told.validators, now):
        ranges = select_ranges(fields["range"], ref.size, max_ranges=settings.max_ranges)
    if ranges == ():
        unsatisfied = (
            *told.state,
            ("Accept-Ranges", "bytes"),
            ("Content-Range", f"bytes */{ref.size}"),
            ("Content-Length", "0"),
        )
        return ServePlan(416, unsatisfied)
    if ranges and len(ranges) == 1:
        return _single(ranges[0], ref.size, told.content_type, told.common)
    if ranges:
        multipart = _multipart(ranges, ref, told.content_type, told.common)
        if multipart.content_length < ref.size:
            return multipart
    if head:
        return ServePlan(200, told.head, content_length=ref.size, head_only=True)
    return ServePlan(200, told.whole, (BodyPart(b"", 0, ref.size),), content_length=ref.size)


def entity_tag(ref: Servable) -> str | None:
    """The strong entity tag of a stored object, made of its SHA-256; ``None`` where the ref has none."""
    sha256 = _sha256(ref.checksum)
    return None if sha256 is None else f'"{sha256}"'


def served_type(stored: str | None) -> str:
    """The media type to send: never one that cannot stand in a header, nor one that would be taken apart or run.

    Scripts and style sheets are sent as plain text, and WebAssembly as bytes: ``nosniff`` then keeps every page from
    taking them in, also one whose ``Content-Security-Policy`` trusts its own origin. Text is stored with no word on its
    encoding; it is called UTF-8 unless the row says otherwise, or the format has a way of its own to say so that a
    header would override.
    """
    bare = clean_content_type(stored)
    if bare is None or bare.startswith("multipart/") or bare == "application/wasm":
        return "application/octet-stream"
    if bare in _TAKEN_BY_PAGES:
        bare = "text/plain"
    if (charset := _CHARSET.search(stored or "")) is not None:
        return f"{bare}; charset={charset[1].lower()}"
    return f"{bare}; charset=utf-8" if bare.startswith("text/") and bare not in _DECLARE_THEIR_ENCODING else bare


def served_disposition(
    content_type: str | None, filename: str | None, disposition: Literal["auto", "attachment"] = "auto"
) -> str:
    """The ``Content-Disposition`` to send for a stored object: ``inline`` for safe types only, whoever asks.

    Args:
        content_type: Its media type.
        filename: Its name, as untrusted as it came.
        disposition: ``"attachment"`` offers safe types for download too.
    """
    inline = disposition == "auto" and is_safe_inline(content_type)
    return content_disposition("inline" if inline else "attachment", filename)


def is_safe_inline(content_type: str | None) -> bool:
    """Tell whether a browser may show this media type from the application's own origin.

    Raster images, audio, video, PDF and plain text: nothing in them runs as a script of the page. SVG does.
    """
    bare = clean_content_type(content_type) or ""
    return _is_media(bare) or bare in ("application/pdf", "text/plain")


def content_security_policy(content_type: str | None) -> str | None:
    """The ``Content-Security-Policy`` for a media type, or ``None`` where none must be sent.

    A sandbox leaves browsers with a dead media player, and any policy keeps Safari from showing a PDF.
    """
    bare = clean_content_type(content_type) or ""
    if bare == "application/pdf":
        return None
    if _is_media(bare):
        return "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
    return "default-src 'none'; style-src 'unsafe-inline'; sandbox"


def _is_media(bare: str) -> bool:
    return bare in _RASTER_IMAGES or bare.startswith(("audio/", "video/"))


def _fold(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields by lower-case name, repeated ones joined as RFC 9110, section 5.2, allows."""
    fields: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return fields


def _sha256(checksum: str) -> str | None:
    match = _SHA256.fullmatch(checksum)
    return match[1] if match else None


def _etag(sha256: str | None, backend_etag: str | None) -> str | None:
    if sha256 is not None:
        return f'"{sha256}"'
    return backend_etag if backend_etag and _BACKEND_TAG.fullmatch(backend_etag) else None


def _last_modified(created_at: str | None, now: datetime) -> datetime | None:
    """When the object was stored, in whole seconds, and never in the future (RFC 9110, section 8.8.2.1)."""
    moment = _moment_of(created_at)
    return moment if moment is None or moment <= now else now.astimezone(UTC).replace(microsecond=0)


@lru_cache(maxsize=HOT)
def _moment_of(created_at: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(created_at or "")
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        return None


def _validator_headers(validators: Validators) -> tuple[tuple[str, str], ...]:
    headers = []
    if validators.etag is not None:
        headers.append(("ETag", validators.etag))
    if validators.last_modified is not None:
        headers.append(("Last-Modified", format_http_date(validators.last_modified)))
    return tuple(headers)


class _Told(msgspec.Struct, frozen=True):
    """What is told of an object in its present state, whatever part of it is asked for."""

    validators: Validators
    state: tuple[tuple[str, str], ...]
    content_type: str
    common: tuple[tuple[str, str], ...]
    head: tuple[tuple[str, str], ...]
    whole: tuple[tuple[str, str], ...]
    unchanged: tuple[tuple[str, str], ...]


@lru_cache(maxsize=HOT)
def _told_of(
    checksum: str,
    modified: datetime | None,
    stored_type: str | None,
    filename: str | None,
    size: int,
    settings: ServeSettings,
    backend_etag: str | None,
) -> _Told:
    """Write the headers; those of files that are asked for again and again are at hand. Nothing else decides them."""
    sha256 = _sha256(checksum)
    validators = Validators(_etag(sha256, backend_etag), modified)
    state = _validator_headers(validators)
    facts = _facts_of(stored_type)
    digest = () if sha256 is None else (f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",)
    common = (
        *state,
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", settings.cache_control),
        *_safety_headers(facts, filename, settings),
        *(("Repr-Digest", each) for each in digest),
    )
    head = (*common, ("Content-Type", facts.served), ("Content-Length", str(size)))
    return _Told(
        validators,
        state,
        facts.served,
        common,
        head,
        whole=(*head, *(("Content-Digest", each) for each in digest)),
        # Section 15.4.5: what would update the stored response, and Last-Modified only for want of an ETag.
        unchanged=(*state[:1], ("Cache-Control", settings.cache_control)),
    )


class _TypeFacts(msgspec.Struct, frozen=True):
    """What follows from a stored media type: the one it is sent as, under which policy, and whether it may be shown."""

    served: str
    policy: str | None
    inline: bool


@lru_cache(maxsize=1024)
def _facts_of(stored: str | None) -> _TypeFacts:
    served = served_type(stored)
    # Shown by the type it has, not the one it is sent as: a script is not shown, though it is sent as text.
    return _TypeFacts(served, content_security_policy(served), is_safe_inline(stored))


def _safety_headers(facts: _TypeFacts, filename: str | None, settings: ServeSettings) -> tuple[tuple[str, str], ...]:
    kind: Literal["inline", "attachment"] = (
        "inline" if facts.inline and settings.disposition == "auto" else "attachment"
    )
    headers = (
        ("Content-Disposition", content_disposition(kind, settings.filename or filename)),
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Resource-Policy", settings.cross_origin_resource_policy),
    )
    return headers if facts.policy is None else (*headers, ("Content-Security-Policy", facts.policy))


def _single(wanted: ByteRange, size: int, content_type: str, common: tuple[tuple[str, str], ...]) -> ServePlan:
    headers = (
        *common,
        ("Content-Type", content_type),
        ("Content-Range", wanted.content_range(size)),
        ("Content-Length", str(wanted.length)),
    )
    return ServePlan(206, headers, (BodyPart(b"", wanted.offset, wanted.length),), content_length=wanted.length)


def _multipart(
    ranges: tuple[ByteRange, ...], ref: Servable, content_type: str, common: tuple[tuple[str, str], ...]
) -> ServePlan:
    boundary = _boundary(ranges, ref)
    delimiter = ""
    parts = []
    for wanted in ranges:
        prelude = (
            f"{delimiter}--{boundary}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Content-Range: {wanted.content_range(ref.size)}\r\n\r\n"
        )
        delimiter = "\r\n"
        parts.append(BodyPart(prelude.encode("ascii"), wanted.offset, wanted.length))
    closing = f"\r\n--{boundary}--\r\n".encode("ascii")
    length = sum(len(part.prelude) + part.length for part in parts) + len(closing)
    headers = (
        *common,
        ("Content-Type", f"multipart/byteranges; boundary={boundary}"),
        ("Content-Length", str(length)),
    )
    return ServePlan(206, headers, tuple(parts), closing, length)


def _boundary(ranges: tuple[ByteRange, ...], ref: Servable) -> str:
    """Make a boundary that no content can hold: it hashes the content's own hash, and a key that is told to nobody."""
    seed = f"{ref.checksum}\n{ref.location}\n{ranges}"
    return hashlib.sha256(seed.encode(errors="backslashreplace")).hexdigest()[:40]
