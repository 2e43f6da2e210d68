"""The independent look at what the laws are about: plain SQL, plain boto3, plain files; nothing of Granite's.

What a file must hold is what the row says beside it, and that is what the worker made. What the store must hold is
what the rows name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .models import COLUMNS
from .site import Site

__all__ = ["Audit", "Store", "make_store"]

OWN = ".granite/store"
"""The one object that is Granite's own: it says which database the store belongs to."""
CHUNK = 2**20


class Store(Protocol):
    """What is really there."""

    def listing(self) -> set[str]: ...
    def digest(self, location: str) -> str | None: ...
    def unfinished(self) -> list[str]: ...


class PlainBucket:
    """A bucket through boto3."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def listing(self) -> set[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return {each["Key"] for page in pages for each in page.get("Contents", ())} - {OWN}

    def digest(self, location: str) -> str | None:
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=location)["Body"]
        except self._client.exceptions.NoSuchKey:
            return None
        hashed = hashlib.sha256()
        with contextlib.closing(body):
            while chunk := body.read(CHUNK):
                hashed.update(chunk)
        return hashed.hexdigest()

    def unfinished(self) -> list[str]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket)
        return [each["Key"] for page in pages for each in page.get("Uploads", ())]


class PlainFolder:
    """A folder through the operating system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def listing(self) -> set[str]:
        return {each for each in self._walk() if not self._is_temporary(each)}

    def digest(self, location: str) -> str | None:
        try:
            with (self._root / location).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    def unfinished(self) -> list[str]:
        return [each for each in self._walk() if self._is_temporary(each)]

    def _walk(self) -> Iterator[str]:
        for folder, _, names in os.walk(self._root):
            for name in names:
                found = os.path.relpath(os.path.join(folder, name), self._root)
                if found != OWN:
                    yield found

    @staticmethod
    def _is_temporary(path: str) -> bool:
        return os.path.basename(path).startswith(".granite")


def make_store(site: Site) -> Store:
    if site.bucket is None:
        return PlainFolder(site.files)
    return PlainBucket(site.bucket.server.client(), site.bucket.name)


@dataclass(frozen=True)
class Fault:
    """Something that is not as a row says."""

    location: str
    expected: str
    found: str | None
    why: str


class Audit:
    """Holds the rows against the store, again and again."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.store = make_store(site)
        self.lost: dict[str, Fault] = {}
        self.verified = 0
        self.rounds = 0
        self.rows = 0
        self._known: dict[str, str] = {}
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the rounds.

        Raises:
            BaseException: What a round failed with.
        """
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def look(self, *, whole: bool = False) -> set[str]:
        """One round: every file a row names is there, and each new one has the right bytes. Returns what rows name.

        Args:
            whole: Read all, those too that were read in an earlier round.
        """
        at = time.monotonic()
        named = self.references()
        there = self.store.listing()
        for location, expected in named.items():
            if not whole and location in there and self._known.get(location) == expected:
                continue
            found = self.store.digest(location)
            if found == expected:
                self._known[location] = expected
                self.verified += 1
            else:
                self._judge(location, expected, found, at)
        self._known = {location: digest for location, digest in self._known.items() if location in named}
        self.rounds += 1
        self.rows = len(named)
        return set(named)

    def references(self) -> dict[str, str]:
        """What rows name, and what must be in it."""
        found: dict[str, str] = {}
        for table, files, digests in COLUMNS:
            for row in self._read(f"SELECT {files}, {digests} FROM {table} WHERE {files} IS NOT NULL"):
                held, expected = map(_plain, row)
                pairs = zip(held, expected, strict=True) if isinstance(held, list) else [(held, expected)]
                for ref, digest in pairs:
                    if found.setdefault(ref["location"], digest) != digest:
                        self._lose(Fault(ref["location"], digest, found[ref["location"]], "two rows disagree"))
        return found

    def tombstones(self) -> int:
        ((count,),) = self._read("SELECT count(*) FROM granite_tombstone")
        return int(count)

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.5):
                self.look()
        except BaseException as error:
            self._error = error

    def _judge(self, location: str, expected: str, found: str | None, at: float) -> None:
        """It may have been let go and collected since: never within half the grace, and never while a row names it."""
        if found is None and time.monotonic() - at >= self.site.grace / 2:
            named = self.references()
            if location not in named:
                return
        self._lose(Fault(location, expected, found, "missing" if found is None else "other bytes"))

    def _lose(self, fault: Fault) -> None:
        self.lost.setdefault(fault.location, fault)

    def _read(self, query: str) -> list[Any]:
        if self.site.is_sqlite:
            path = self.site.sync_url.removeprefix("sqlite:///")
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
                return connection.execute(query).fetchall()
        import psycopg

        url = self.site.sync_url.replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()


def _plain(value: Any) -> Any:
    """A JSON column as SQLite returns it is text; so is a digest."""
    return json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
