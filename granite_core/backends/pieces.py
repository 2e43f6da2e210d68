"""Objects that are written in several goes, as pieces under reserved keys that are joined at the end.

The way for every backend that keeps the five primitives and no more; and where a store appends in large steps only,
its way of keeping what is less than a step.

A piece that nobody knows of would stay for ever, since reserved keys are in no listing. So its key is kept as a part of
the state before the piece is written: a state names the pieces that hold content, the one that may be written next, and
those that are to be removed. Whoever goes on from a state never writes a key that another go may have written.

Many small goes make many small pieces. The last few of a rank become one of the next rank, together with what comes
next: of each rank there are at most ``FOLD``, and a byte is written once for each rank.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from granite_core.backends.base import ObjectReader, ObjectStat, ObjectWriter, StorageBackend
from granite_core.backends.resumable import ResumableWriter
from granite_core.errors import BackendError, ObjectNotFoundError, StorageError, UnfinishableError
from granite_core.keys import owner_of_piece, piece_key, unique_part
from granite_core.options import NO_OPTIONS, WriteOptions

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Piece",
    "Pieces",
    "PiecewiseWriter",
    "clear_pieces",
    "discard_pieces",
    "piece_keys_of_goes",
    "resume_in_pieces",
]

COPY_BYTES: Final = 1024 * 1024
FOLD: Final = 16
"""So many pieces of a rank become one of the next."""
FOLD_BYTES: Final = 8 * 1024 * 1024
"""A piece of at least so many stays as it is: what is folded at once is read and written while a client waits."""
LATE: Final = 16
"""So many names are kept of those that a go which did not end in order may still write."""
DELETE_AT_ONCE: Final = 1000


class Piece(NamedTuple):
    """A piece that holds content.

    Args:
        name: What tells it from others.
        size: Its length in bytes.
        rank: How often its content was folded into it.
    """

    name: str
    size: int
    rank: int = 0


@dataclass(slots=True)
class Pieces:
    """Objects under reserved keys, in order.

    Args:
        backend: Keeps them.
        location: Key of the object that they are for.
        held: Those that hold content.
        next: Name of the one that may be written next.
        gone: Names of those that hold nothing any more.
        late: Names that a go which did not end in order may still write; each go begins by removing them once more.
        told: Those of ``gone`` that the state which is kept says to be gone.
        unkept: Names that only the state of the last checkpoint says to hold content.
    """

    backend: StorageBackend
    location: str
    held: list[Piece] = field(default_factory=list)
    next: str = field(default_factory=unique_part)
    gone: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, backend: StorageBackend, location: str, data: dict[str, Any] | None) -> Pieces:
        """Go on from what ``dump`` returned."""
        data = data or {}
        return cls(
            backend,
            location,
            held=[Piece(*each) for each in data.get("held", ())],
            gone=[*data.get("gone", ())],
            told=[*data.get("gone", ())],
            late=_names_of_goes(data),
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
        return sum(each.size for each in self.held)

    @property
    def next_key(self) -> str:
        """Key of the next one; ``added`` says that it was written."""
        return self._key(self.next)

    @property
    def due(self) -> int:
        """How many of the last ones the next shall begin with; 0 while there are few."""
        last = self.held[-FOLD:]
        alike = {each.rank for each in last if each.size < FOLD_BYTES}
        few = len(last) < FOLD or len(alike) > 1 or any(each.size >= FOLD_BYTES for each in last)
        return 0 if few else FOLD

    def added(self, size: int, *, folded: int = 0) -> None:
        """Count the next one among those that hold content.

        Args:
            size: Its length in bytes.
            folded: How many of the last ones it begins with; they are let go of.
        """
        rank = 0
        if folded:
            rank = self.held[-1].rank + 1
            self.gone += [each.name for each in self.held[-folded:]]
            del self.held[-folded:]
        self.held.append(Piece(self.next, size, rank))
        self.unkept = [self.next]
        self.next = unique_part()

    def read(self, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        """Yield what they hold.

        Args:
            first: Index of the first one.
            last: Index of the first one that is left out.

        Raises:
            UnfinishableError: One is gone, or is not what it was.
            BackendError: One cannot be read.
        """
        for each in self.held[first:last]:
            with self._open(each) as reader:
                if reader.size != each.size:
                    raise UnfinishableError(
                        f"a piece has {reader.size} bytes, {each.size} were written",
                        operation="resume",
                        location=self.location,
                    )
                while data := reader.read(COPY_BYTES):
                    yield data

    def _open(self, piece: Piece) -> ObjectReader:
        try:
            return self.backend.open_reader(self._key(piece.name))
        except ObjectNotFoundError as error:
            raise UnfinishableError("a piece is gone", operation="resume", location=self.location) from error

    def drop(self) -> None:
        """Let go of what they hold; they are removed once that is known to be kept."""
        self.gone += [each.name for each in self.held]
        self.held = []

    def begin_checkpoint(self, *, again: bool) -> None:
        """Begin a checkpoint: only its state names what is added from now on.

        Args:
            again: Whether this go had one before; its state is kept then.
        """
        if again:
            self.remove_gone()
        self.unkept = []

    def end_checkpoint(self) -> None:
        """End a checkpoint: once its state is kept, what it says to be gone may be removed."""
        self.told = [*self.gone]

    def tidy(self) -> None:
        """Begin a go: remove what the kept state says to be gone, and what late goes have written.

        Of those, the last few are kept in mind. Should an older one wake up, it finds that the object is another's, and
        removes its piece itself (``withdraw``).
        """
        left = self._remove(self.late) if self.late else {}
        kept = set(self.late[-LATE:]).union(left)
        self.late = [name for name in self.late if name in kept]
        self.remove_gone()

    def remove_gone(self) -> None:
        """Remove those that the kept state says to be gone. What cannot be removed now is tried again next time.

        What was let go since may still be needed: the state that says so is not kept yet.
        """
        if self.told:
            left = self._remove(self.told)
            removed = {name for name in self.told if name not in left}
            self.gone = [name for name in self.gone if name not in removed]
            self.told = [*left]

    def remove_all(self) -> tuple[str, ...]:
        """Remove every one that may be there; where one cannot be, the others go all the same.

        Returns:
            Keys under which one may still be, or may be written by a go that wakes up late.
        """
        names = [*self.gone, *self.late, *(each.name for each in self.held), self.next]
        left = self._remove(names)
        return tuple(self._key(name) for name in names if name in left or name in self.late)

    def withdraw(self, *, refused: bool) -> None:
        """Remove what only this go has written, as far as that can be done.

        Args:
            refused: Whether it is known that the state of the last checkpoint was not kept.
        """
        self._remove([self.next, *(self.unkept if refused else ())])

    def _remove(self, names: Collection[str]) -> dict[str, Exception]:
        """Remove some; return those that may still be there, and why."""
        keys = {self._key(name): name for name in names}
        try:
            failed = self.backend.delete_many(tuple(keys))
        except StorageError as error:
            failed = dict.fromkeys(keys, error)
        return {keys[key]: error for key, error in failed.items()}

    def discard(self) -> None:
        """Remove every one that may be there.

        Raises:
            BackendError: One may still be there.
        """
        names = [*self.gone, *self.late, *(each.name for each in self.held), self.next]
        for error in self._remove(names).values():
            raise error

    def _key(self, name: str) -> str:
        return piece_key(self.location, name)


def _names_of_goes(data: dict[str, Any]) -> list[str]:
    """The names that a go may still write whose state this was."""
    return [*data.get("late", ()), *([data["next"]] if data.get("next") else ())]


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
    pieces.tidy()
    return PiecewiseWriter(pieces, content_type, options)


def discard_pieces(backend: StorageBackend, location: str, state: str | None) -> None:
    """Do what ``StorageBackend.discard_unfinished`` does, on any backend."""
    if state is not None:
        Pieces.load(backend, location, json.loads(state)).discard()


def piece_keys_of_goes(location: str, state: str | None) -> Sequence[str]:
    """Return the keys under which a go that did not end in order may still write, should it wake up."""
    return [piece_key(location, name) for name in _names_of_goes(json.loads(state))] if state else []


def clear_pieces(
    backend: StorageBackend, entries: Iterable[ObjectStat], older_than: timedelta, *, keep: Collection[str]
) -> int:
    """Remove old pieces of objects that nobody writes; see ``StorageBackend.clear_unfinished``.

    Args:
        backend: Where they are.
        entries: What lies under ``keys.PIECES``.
        older_than: How long ago they were written at least.
        keep: Keys of the objects that are being written.

    Returns:
        How many were removed.

    Raises:
        BackendError: One could not be removed.
    """
    before, cleared = datetime.now(UTC) - older_than, 0
    old = (each.location for each in entries if each.modified < before and owner_of_piece(each.location) not in keep)
    while some := tuple(islice(old, DELETE_AT_ONCE)):
        for error in backend.delete_many(some).values():
            raise error
        cleared += len(some)
    return cleared


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
        self._folded = 0
        self._leftovers: tuple[str, ...] = ()
        self._checkpoints = 0
        self._closed = self._withdrawn = False

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
        self._next_piece().write(view)
        self.offset += len(view)

    def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
        """Complete the piece."""
        self._check_open("checkpoint")
        pieces = self._pieces
        pieces.begin_checkpoint(again=bool(self._checkpoints))
        if self._writer is not None:
            self._writer.commit()
            self._writer = None
            kept = sum(each.size for each in pieces.held[: len(pieces.held) - self._folded])
            pieces.added(self.offset - kept, folded=self._folded)
        self._checkpoints += 1
        pieces.end_checkpoint()
        return json.dumps(pieces.dump(ends=ends or last))

    def commit(self) -> None:
        """Join the pieces, where that was not done before, and remove them."""
        self._check_open("commit")
        pieces, self.stored_size = self._pieces, self.offset
        if not self._is_there():
            with pieces.backend.open_writer(
                pieces.location, content_type=self._content_type, size=self.offset, options=self._options
            ) as writer:
                done = 0
                for data in pieces.read():
                    writer.write(data)
                    done += len(data)
                    if self.on_joined is not None:
                        self.on_joined(done)
                writer.commit()
            self.stored_size = done
        self._closed = True
        self._leftovers = pieces.remove_all()

    @property
    def leftovers(self) -> Sequence[str]:
        """The pieces that could not be removed, and those that a go which sleeps may still write."""
        return self._leftovers

    def withdraw(self, *, refused: bool = False) -> None:
        """Remove the pieces of this go that nobody goes on from."""
        if not self._withdrawn:
            self._withdrawn = True
            self.close()
            self._pieces.withdraw(refused=refused)

    def close(self) -> None:
        """Give up what no checkpoint has seen."""
        self._closed = True
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def _next_piece(self) -> ObjectWriter:
        """The piece that is being written; begun with those that it is to hold besides."""
        if self._writer is None:
            pieces = self._pieces
            self._writer = pieces.backend.open_writer(pieces.next_key)
            self._folded = pieces.due
            for data in pieces.read(len(pieces.held) - self._folded):
                self._writer.write(data)
        return self._writer

    def _is_there(self) -> bool:
        """Whether an earlier go has committed: nobody else writes the key."""
        try:
            return self._pieces.backend.stat(self._pieces.location).size == self.offset
        except ObjectNotFoundError:
            return False

    def _check_open(self, operation: str) -> None:
        if self._closed:
            raise BackendError("the writer is closed", operation=operation, location=self._pieces.location)
