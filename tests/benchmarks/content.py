"""What is stored in benchmarks, and how one sees that it was."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["GIB", "KIB", "MIB", "check_stored", "clean", "digest_of", "make_file", "with_source"]

KIB, MIB, GIB = 1024, 1024**2, 1024**3
BLOCK = MIB
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"


def make_file(path: Path, size: int, *, known: bool = True) -> str:
    """Write a content of that size, the same each time, to a file, and return its SHA-256.

    It begins as a JPEG does, unless it is to be of no `known` kind: what a file is seen to be is looked for there.
    """
    digest = hashlib.sha256()
    block = random.Random(size).randbytes(min(size, BLOCK))
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            # No two blocks alike, so that parts in the wrong order are noticed.
            head = JPEG if known and not start else start.to_bytes(len(JPEG), "big")
            data = (head + block[len(head) :])[: size - start]
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def with_source(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Set a case up that stores a file of `size` bytes."""
    source = folder / "source.bin"
    return {"source": str(source), "sha256": make_file(source, values["size"], known=values.get("known", True))}


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clean(store: Path) -> None:
    """Remove the files below a folder, and the folders that were made for single files."""
    for path, folders, names in os.walk(store, topdown=False):
        for name in names:
            os.unlink(os.path.join(path, name))
        if os.path.relpath(path, store).count(os.sep):
            for name in folders:
                os.rmdir(os.path.join(path, name))


def check_stored(store: Path, sha256: str, count: int) -> None:
    """See that so many files of that content are there, and nothing else.

    Raises:
        AssertionError: That is not so.
    """
    # sqlalchemy-file keeps name and type of a local file in a second one.
    found = [each for each in store.rglob("*") if each.is_file() and not each.name.endswith(".metadata.json")]
    wrong = [each.name for each in found if digest_of(each) != sha256]
    assert len(found) == count, f"{len(found)} files where {count} were stored"
    assert not wrong, f"{len(wrong)} files hold something else, {wrong[0]} for one"
