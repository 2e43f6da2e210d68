"""Objects that are written in several goes, as pieces under reserved keys that are joined at the end.

The way for every backend that keeps the five primitives and no more; and where a store appends in large steps only,
its way of keeping what is less than a step.

A piece that nobody knows of would stay for ever, since reserved keys are in no listing. So its key is kept as a part of
the state before the piece is written: a state names the pieces that hold content, the one that may be written next, and
those that are to be removed. Whoever goes on from a state never writes a key that another go may have written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from granite_core.backends.base import ObjectWriter, StorageBackend
from granite_core.backends.resumable import ResumableWriter
from granite_core.errors import BackendError, ObjectNotFoundError, StorageError
from granite_core.keys import piece_key, unique_part
from granite_core.options import NO_OPTIONS, WriteOptions

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Pieces", "PiecewiseWriter", "discard_pieces", "resume_in_pieces"]

COPY_BYTES: Final = 1024 * 1024


@dataclass(slots=True)
class Pieces:
    """Objects under reserved keys, in order.

    Args:
        backend: Keeps them.
        location: Key of the object that they are for.
        held: Name and length in bytes of each that holds content.
        next: Name of the one that may be written next.
        gone: Names of those that hold nothing any more.
        late: Names that a go which did not end in order may still write; removed again and again.
        told: Those of ``gone`` that the state which is kept says to be gone.
    """

    backend: StorageBackend
    location: str
    held: list[tuple[str, int]] = field(default_factory=list)
    next: str = field(default_factory=unique_part)
    gone: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, backend: StorageBackend, location: str, data: dict[str, Any] | None) -> Pieces:
        """Go on from what ``dump`` returned."""
        data = data or {}
        return cls(
            backend,
            location,
            held=[(str(name), int(size)) for name, size in data.get("held", ())],
            gone=[*data.get("gone", ())],
            told=[*data.get("gone", ())],
            late=[*data.get("late", ()), *([data["next"]] if data.get("next") else ())],
        )

    def dump(self, *, ends: bool = False) -> dict[str, Any]:
        """Return what must be kept before a piece is written, and again when it was.

        Args:
            ends: Whether nothing more is written by this go.
        """
        found = {"held": self.held, "next": "" if ends else self.next, "gone": self.gone, "late": self.late}
        return {name: value for name, value in found.items() if value}

    @property
    def length(self) -> int:
        """How many bytes they hold."""
        return sum(size for _, size in self.held)

    @property
    def next_key(self) -> str:
        """Key of the next one; ``added`` says that it was written."""
        return self._key(self.next)

    def added(self, size: int) -> None:
        """Count the next one among those that hold content.

        Args:
            size: Its length in bytes.
        """
        self.held.append((self.next, size))
        self.next = unique_part()

    def read(self) -> Iterator[bytes]:
        """Yield what they hold.

        Raises:
            ObjectNotFoundError: One is gone.
            BackendError: One cannot be read, or is not what it was.
        """
        for name, size in self.held:
            with self.backend.open_reader(self._key(name)) as reader:
                if reader.size != size:
                    raise BackendError(
                        f"a piece has {reader.size} bytes, {size} were written",
                        operation="resume",
                        location=self.location,
                    )
                while data := reader.read(COPY_BYTES):
                    yield data

    def drop(self) -> None:
        """Let go of what they hold; they are removed once that is known to be kept."""
        self.gone += [name for name, _ in self.held]
        self.held = []

    def remove_gone(self) -> None:
        """Remove those that the kept state says to be gone. What cannot be removed now is tried again next time.

        What was let go since may still be needed: the state that says so is not kept yet.
        """
        removed = set()
        for name in (*self.told, *self.late):
            with suppress(StorageError):
                self.backend.delete(self._key(name))
                removed.add(name)
        self.gone = [name for name in self.gone if name not in removed]

    def remove_all(self) -> None:
        """Remove every one that may be there.

        Raises:
            BackendError: One may still be there.
        """
        for name in (*self.gone, *self.late, *(name for name, _ in self.held), self.next):
            self.backend.delete(self._key(name))

    def _key(self, name: str) -> str:
        return piece_key(self.location, name)


def resume_in_pieces(
    backend: StorageBackend,
    location: str,
    *,
    offset: int = 0,
    state: str | None = None,
    content_type: str | None = None,
    options: WriteOptions = NO_OPTIONS,
) -> ResumableWriter:
    """Do what ``StorageBackend.resume_writer`` does, on any backend."""
    pieces = Pieces.load(backend, location, json.loads(state) if state else None)
    if pieces.length != offset:
        raise BackendError("the state is of another offset", operation="resume", location=location)
    return PiecewiseWriter(pieces, content_type, options)


def discard_pieces(backend: StorageBackend, location: str, state: str | None) -> None:
    """Do what ``StorageBackend.discard_unfinished`` does, on any backend."""
    if state is not None:
        Pieces.load(backend, location, json.loads(state)).remove_all()


class PiecewiseWriter(ResumableWriter):
    """Writes a piece for each checkpoint, and joins them when the object is complete: each byte is stored twice.

    Args:
        pieces: What there is already.
        content_type: Media type of the object, where it is known.
        options: What is asked of the store.
    """

    def __init__(self, pieces: Pieces, content_type: str | None, options: WriteOptions) -> None:
        self.offset = pieces.length
        self._pieces = pieces
        self._content_type = content_type
        self._options = options
        self._writer: ObjectWriter | None = None
        self._checkpoints = 0
        self._closed = False

    @property
    def state(self) -> str | None:
        """The pieces, and the name of the next."""
        return json.dumps(self._pieces.dump())

    def write(self, data: Buffer, /) -> None:
        """Write to the next piece."""
        self._check_open("write")
        view = memoryview(data).cast("B")
        if not view:
            return
        if self._writer is None:
            self._writer = self._pieces.backend.open_writer(self._pieces.next_key)
        self._writer.write(view)
        self.offset += len(view)

    def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
        """Complete the piece."""
        self._check_open("checkpoint")
        if self._checkpoints:
            self._pieces.remove_gone()
        if self._writer is not None:
            self._writer.commit()
            self._writer = None
            self._pieces.added(self.offset - self._pieces.length)
        self._checkpoints += 1
        self._pieces.told = [*self._pieces.gone]
        return json.dumps(self._pieces.dump(ends=ends or last))

    def commit(self) -> None:
        """Join the pieces, where that was not done before, and remove them."""
        self._check_open("commit")
        pieces = self._pieces
        if not self._is_there():
            with pieces.backend.open_writer(
                pieces.location, content_type=self._content_type, size=self.offset, options=self._options
            ) as writer:
                for data in pieces.read():
                    writer.write(data)
                writer.commit()
        self._closed = True
        with suppress(StorageError):  # whoever ends the upload removes them again
            pieces.remove_all()

    def close(self) -> None:
        """Give up what no checkpoint has seen."""
        self._closed = True
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def _is_there(self) -> bool:
        """Whether an earlier go has committed: nobody else writes the key."""
        try:
            return self._pieces.backend.stat(self._pieces.location).size == self.offset
        except ObjectNotFoundError:
            return False

    def _check_open(self, operation: str) -> None:
        if self._closed:
            raise BackendError("the writer is closed", operation=operation, location=self._pieces.location)
