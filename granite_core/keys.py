"""Object keys: how they are built, and which are refused. Pure, but for the random part's source."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from granite_core.errors import ConfigurationError, InvalidKeyError

__all__ = [
    "DIRECT",
    "PIECES",
    "RESERVED_PREFIX",
    "KeyTemplate",
    "build_key",
    "clean_segment",
    "is_granite_storage_key",
    "is_reserved",
    "is_unique_part",
    "owner_of_piece",
    "piece_key",
    "split_key",
    "suffix_of",
    "unique_part",
    "validate_key",
]

RESERVED_PREFIX: Final = ".granite"
"""First characters of the names that Granite keeps for itself (temporary files, the store's marker)."""

PIECES: Final = f"{RESERVED_PREFIX}-pieces/"
"""Where pieces of objects lie that are written in several goes."""

DIRECT: Final = f"{RESERVED_PREFIX}-direct/"
"""Where clients write that send their bytes to the store: a key here is no object's, whatever is written there."""

MAX_KEY_BYTES: Final = 900  # S3 ends at 1,024 (API "Creating object key names"); the rest is for a prefix
MAX_SEGMENT_BYTES: Final = 200  # file systems end at 255; a backend may add to a name

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.~-]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_PLAIN_SEGMENT: Final = r"[A-Za-z0-9_~%-][A-Za-z0-9_.~%-]{0,199}"
_PLAIN_KEY: Final = re.compile(rf"(?:{_PLAIN_SEGMENT}/)*{_PLAIN_SEGMENT}\Z")
"""What nearly all keys are like: no question about such a one but its length."""
_BASE32: Final = bytes(b"abcdefghijklmnopqrstuvwxyz234567"[byte % 32] for byte in range(256))
_UNIQUE: Final = re.compile(r"[a-z2-7]{26}")
_SUFFIX: Final = re.compile(r"\.[a-z0-9]{1,12}\Z")
_GRANITE_STORAGE: Final = re.compile(r"-[0-9a-f]{8}(\.[^/]*)?\Z")


def unique_part() -> str:
    """Return 26 characters of 130 random bits, alike on file systems that fold case."""
    return os.urandom(26).translate(_BASE32).decode("ascii")


def is_unique_part(text: str) -> bool:
    """Whether a text is such as ``unique_part`` returns."""
    return _UNIQUE.fullmatch(text) is not None


def suffix_of(filename: str | None) -> str:
    """Return the cleaned, lower-case suffix of a file name with its dot, or ``""``.

    Only ASCII letters and digits, at most twelve: anything else in a client's name stays out of keys.
    """
    match = _SUFFIX.search((filename or "").lower())
    return match.group() if match else ""


def clean_segment(value: object) -> str:
    """Return ``value`` as one safe key segment: other characters are percent-encoded as UTF-8.

    Raises:
        InvalidKeyError: Nothing is left, or more than 200 bytes.
    """

    def quote(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))

    text = _UNSAFE.sub(quote, str(value))
    if text.startswith("."):
        text = "%2E" + text[1:]
    _check_segment(text, text)
    return text


def build_key(
    unique: str,
    *,
    prefix: str | None = None,
    model_name: str | None = None,
    entity_id: str | None = None,
    field_name: str | None = None,
    suffix: str = "",
    folders: str | None = None,
) -> str:
    """Build an object key.

    ``{prefix}/{model_name}/{entity_id}/{field_name}/{unique}{suffix}`` where the entity is known,
    ``{prefix}/_/{unique}{suffix}`` where it is not; ``{prefix}/{folders}/{unique}{suffix}`` where there are folders.

    Args:
        unique: The random part; see ``unique_part``.
        prefix: The policy's ``key_prefix``; may hold slashes.
        model_name: Name of the model, where known.
        entity_id: Primary key of the row as text, where known.
        field_name: Name of the field, where known.
        suffix: A suffix as ``suffix_of`` returns it.
        folders: What a ``KeyTemplate`` makes, in place of the entity.

    Raises:
        InvalidKeyError: A piece would leave its place (traversal), is reserved, or the key is too long.
    """
    entity = [piece for piece in (model_name, entity_id, field_name) if piece is not None]
    for piece in entity:
        if "/" in piece:
            raise InvalidKeyError(f"a key segment must not hold a slash: {piece!r}", value=piece)
    pieces = [folders] if folders else entity or ["_"]
    if prefix and (prefix := prefix.strip("/")):
        pieces.insert(0, prefix)
    pieces.append(f"{unique}{suffix}")
    key = "/".join(pieces)
    validate_key(key)
    return key


def is_granite_storage_key(key: str) -> bool:
    """Tell whether granite-storage 0.1 made the key: ``…/{entity}-{8 hex digits}{suffix}``, which no key of ours is."""
    return _GRANITE_STORAGE.search(key) is not None


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """The folders of a policy's keys, with names to be filled in: ``{tenant}/{model_name}``.

    Args:
        text: Folders, separated by slashes; in braces the names of values.

    Raises:
        ConfigurationError: It is no template, or its own text is no safe key.
    """

    text: str
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        try:
            pieces = [*string.Formatter().parse(self.text)]
        except ValueError as error:
            raise ConfigurationError(f"key_template {self.text!r}: {error}", value=self.text) from None
        names = [name for _, name, _, _ in pieces if name is not None]
        if any(spec or conversion for _, _, spec, conversion in pieces) or not all(map(str.isidentifier, names)):
            raise ConfigurationError(f"key_template {self.text!r}: only plain names may be in braces", value=self.text)
        object.__setattr__(self, "names", tuple(dict.fromkeys(names)))
        try:
            validate_key(self.text.format(**dict.fromkeys(names, "x")))
        except InvalidKeyError as error:
            raise ConfigurationError(f"key_template {self.text!r}: {error}", value=self.text) from None

    def fill(self, values: Mapping[str, object]) -> str:
        """Return the folders. Each value becomes a part of one segment, whatever is in it.

        Args:
            values: A value for each name; None is no value.

        Raises:
            ConfigurationError: A name has no value.
            InvalidKeyError: A value is empty or too long.
        """
        cleaned = {}
        for name in self.names:
            if (value := values.get(name)) is None:
                raise ConfigurationError(
                    f"key_template {self.text!r} needs a value for {name!r}: give it with context={{{name!r}: …}}",
                    operation="put",
                    field=name,
                    value=self.text,
                )
            try:
                cleaned[name] = clean_segment(value)
            except InvalidKeyError as error:
                raise InvalidKeyError(
                    f"key_template {self.text!r}: {name!r} is {value!r}, which is no part of a key: {error}",
                    operation="put",
                    field=name,
                    value=value,
                ) from error
        return self.text.format(**cleaned)


def piece_key(location: str, unique: str) -> str:
    """Return the reserved key of a piece of an object that is written in several goes.

    Args:
        location: The object's key.
        unique: What tells the piece from others; no dots.
    """
    return f"{PIECES}{location}.{unique}"


def owner_of_piece(key: str) -> str:
    """Return the key of the object that a piece belongs to."""
    return key.removeprefix(PIECES).rpartition(".")[0]


def is_reserved(key: str) -> bool:
    """Tell whether a segment of the key begins with ``RESERVED_PREFIX``: such keys are in no listing."""
    return RESERVED_PREFIX in key and f"/{RESERVED_PREFIX}" in f"/{key}"


def split_key(key: str) -> list[str]:
    """Return the segments of a key, which may be a reserved one.

    Raises:
        InvalidKeyError: A segment is empty, ``.`` or ``..``, or holds a NUL: the key could lead elsewhere.
    """
    segments = key.split("/")
    if "" in segments or "." in segments or ".." in segments or "\0" in key:
        raise InvalidKeyError(f"not a relative key: {key!r}", value=key)
    return segments


def validate_key(key: str) -> None:
    """Refuse whatever is no plain relative object key.

    Raises:
        InvalidKeyError: Empty, absolute, with empty, dot or reserved segments, control characters, backslashes, lone
            surrogates, or too long (900 bytes; 200 bytes a segment).
    """
    if len(key) <= MAX_KEY_BYTES and _PLAIN_KEY.match(key):
        return
    if not key:
        raise InvalidKeyError("a key must not be empty", value=key)
    for segment in key.split("/"):
        _check_segment(segment, key)
    if len(key.encode("utf-8")) > MAX_KEY_BYTES:
        raise InvalidKeyError(f"the key is longer than {MAX_KEY_BYTES} bytes", limit=MAX_KEY_BYTES, value=key)


def _check_segment(segment: str, key: str) -> None:
    if segment in ("", ".", ".."):
        raise InvalidKeyError(f"a key must not hold an empty or dot segment: {key!r}", value=key)
    if segment.startswith(RESERVED_PREFIX):
        raise InvalidKeyError(f"names that begin with {RESERVED_PREFIX!r} are reserved: {key!r}", value=key)
    if _CONTROL.search(segment):
        raise InvalidKeyError(f"a key must not hold control characters or backslashes: {key!r}", value=key)
    try:
        length = len(segment.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidKeyError(f"a key must be valid Unicode: {key!r}", value=key) from None
    if length > MAX_SEGMENT_BYTES:
        raise InvalidKeyError(
            f"a key segment is longer than {MAX_SEGMENT_BYTES} bytes", limit=MAX_SEGMENT_BYTES, value=key
        )
