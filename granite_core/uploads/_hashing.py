"""A SHA-256 that can be put aside and gone on with in another process.

``hashlib`` cannot. The library beneath it can: its context is a plain structure, the same for decades (OpenSSL's
``sha.h``), which is read and filled here. Whether that works is tried once, against ``hashlib``; where it does not,
nothing is put aside, and whoever wanted to go on reads the content once more.
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import hashlib
import sys
from functools import cache
from typing import Final

__all__ = ["ResumableSHA256", "resume_sha256"]

BLOCK: Final = 64
_WORDS: Final = 8
_LIBRARIES: Final = {
    "linux": ("libcrypto.so.3", "libcrypto.so.1.1"),
    "darwin": ("libcrypto.3.dylib",),  # without a version, macOS ends the process
}


class _Context(ctypes.Structure):
    """``SHA256_CTX``."""

    _fields_ = (
        ("h", ctypes.c_uint32 * _WORDS),
        ("low", ctypes.c_uint32),
        ("high", ctypes.c_uint32),
        ("data", ctypes.c_uint8 * BLOCK),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
        ("spare", ctypes.c_uint8 * 64),  # should a library's be longer, it overwrites nothing of ours
    )


class ResumableSHA256:
    """A running SHA-256, as ``hashlib`` has it, that ``save`` puts aside."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._context = _Context()
        library.SHA256_Init(ctypes.byref(self._context))

    def update(self, data: bytes) -> None:
        """Go on with the next bytes; the interpreter does other work meanwhile."""
        self._library.SHA256_Update(ctypes.byref(self._context), data, len(data))

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""
        context = _Context.from_buffer_copy(self._context)
        digest = ctypes.create_string_buffer(32)
        self._library.SHA256_Final(digest, ctypes.byref(context))
        return digest.raw.hex()

    def save(self) -> str:
        """Return a text from which ``resume_sha256`` goes on, on any machine."""
        words = b"".join(word.to_bytes(4, "big") for word in self._context.h)
        return base64.b64encode(words + bytes(self._context.data[: self._context.num])).decode("ascii")

    def load(self, saved: str, size: int) -> bool:
        """Go on from what ``save`` returned; False where that cannot be."""
        try:
            raw = base64.b64decode(saved, validate=True)
        except (binascii.Error, ValueError):
            return False
        rest = raw[4 * _WORDS :]
        if len(rest) != size % BLOCK:
            return False
        for index in range(_WORDS):
            self._context.h[index] = int.from_bytes(raw[4 * index : 4 * index + 4], "big")
        bits = size * 8
        self._context.low, self._context.high = bits & 0xFFFFFFFF, bits >> 32
        ctypes.memmove(self._context.data, rest, len(rest))
        self._context.num = len(rest)
        return True


def resume_sha256(saved: str | None, size: int) -> ResumableSHA256 | None:
    """Return a hash that goes on after ``size`` bytes; None where there is none to go on with.

    Args:
        saved: What ``save`` returned after those bytes; None where nothing was put aside.
        size: How many bytes were hashed already.
    """
    library = _library()
    if library is None or (size and saved is None):
        return None
    found = ResumableSHA256(library)
    if size and saved is not None and not found.load(saved, size):
        return None
    return found


@cache
def _library() -> ctypes.CDLL | None:
    for name in _LIBRARIES.get(sys.platform, ()):
        try:
            library = ctypes.CDLL(name)
            library.SHA256_Init.argtypes = [ctypes.c_void_p]
            library.SHA256_Update.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
            library.SHA256_Final.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        except (OSError, AttributeError):  # not there, or built without these
            continue
        if _is_sound(library):
            return library
    return None


def _is_sound(library: ctypes.CDLL) -> bool:
    """Whether the structure is as we think: what is put aside and gone on with gives what ``hashlib`` gives."""
    content = bytes(range(251)) * 3
    for cut in (0, 1, 63, 64, 65, 128, 500, len(content)):
        first, second = ResumableSHA256(library), ResumableSHA256(library)
        first.update(content[:cut])
        if first.hexdigest() != hashlib.sha256(content[:cut]).hexdigest():
            return False
        if not second.load(first.save(), cut):
            return False
        second.update(content[cut:])
        if second.hexdigest() != hashlib.sha256(content).hexdigest():
            return False
    return True
