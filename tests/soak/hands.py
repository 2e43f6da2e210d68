"""How a worker carries out a step: ordinary code of an application, on a session of either colour."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from granite_core import StoredObjectRef

from .models import Album, Document
from .plans import GROWING, Plan, Step, Verb

__all__ = ["DOCUMENTS", "Known", "carry_out"]

DOCUMENTS = 80
"""From so many rows on, what would add one deletes one."""
ALBUMS = 25

Known = tuple[StoredObjectRef, str]
"""A file, and the SHA-256 of its content."""


@dataclass
class Hands:
    """What the steps of one transaction work with.

    Args:
        session: Theirs.
        memory: Files that the worker remembers from earlier transactions, however stale.
        documents: Rows that were chosen, by their id.
        albums: As many of the other kind.
        added: New rows.
    """

    session: Session
    memory: deque[Known]
    documents: dict[int, Document] = field(default_factory=dict)
    albums: dict[int, Album] = field(default_factory=dict)
    added: list[Document] = field(default_factory=list)

    def add(self, file: StoredObjectRef | None, digest: str | None) -> None:
        document = Document(file=file, sha256=digest)
        self.session.add(document)
        self.added.append(document)


def carry_out(
    session: Session, plan: Plan, files: Sequence[Sequence[Known]], memory: deque[Known]
) -> tuple[list[Document], list[Known]]:
    """Do everything a transaction does but end it.

    Returns:
        The rows it added, and what the rows it looked at held.
    """
    hands = Hands(session, memory)
    chosen, seen = _choose(hands, plan)
    for step, its, (verb, ids) in zip(plan.steps, files, chosen, strict=True):
        if step.savepoint == "none":
            _VERBS[verb](hands, ids, its)
            continue
        savepoint = session.begin_nested()
        _VERBS[verb](hands, ids, its)
        session.flush()
        if step.savepoint == "released":
            savepoint.commit()
        else:
            savepoint.rollback()
    if plan.flushes or plan.ending == "again":
        session.flush()
    return hands.added, seen


def _choose(hands: Hands, plan: Plan) -> tuple[list[tuple[Verb, list[int]]], list[Known]]:
    """Find the rows of all steps at once, in the order of their keys: two transactions never wait for each other."""
    session = hands.session
    documents = [*session.scalars(select(Document.id).order_by(Document.id))]
    albums = [*session.scalars(select(Album.id).order_by(Album.id))]
    chosen: list[tuple[Verb, list[int]]] = []
    for step in plan.steps:
        verb = _instead(step, len(documents), len(albums))
        there = albums if verb in _OF_ALBUMS else documents
        # Each row is for one step. A statement that commits by itself cannot lock several rows in their order.
        rows = step.rows[:1] if plan.session == "autocommit" else step.rows
        chosen.append((verb, [there.pop(int(each * len(there))) for each in rows if there]))
    for model, found, of_albums in ((Document, hands.documents, False), (Album, hands.albums, True)):
        wanted = {each for verb, ids in chosen if (verb in _OF_ALBUMS) is of_albums for each in ids}
        query: Any = select(model).where(model.id.in_(wanted)).order_by(model.id)
        if plan.locks:
            query = query.with_for_update()
        for row in session.scalars(query) if wanted else ():
            found[row.id] = row
    seen = [(each.file, each.sha256) for each in hands.documents.values() if each.file is not None and each.sha256]
    return chosen, seen


def _instead(step: Step, documents: int, albums: int) -> Verb:
    if step.verb == "album" and albums > ALBUMS:
        return "drop album"
    return "delete" if step.verb in GROWING and documents > DOCUMENTS else step.verb


# -- the verbs ---------------------------------------------------------------------------------------------------------


def add(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for file, digest in files:
        hands.add(file, digest)


def insert_rows(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    hands.session.execute(insert(Document), [{"file": file, "sha256": digest} for file, digest in files])


def replace(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for document in _those(hands.documents, ids):
        (document.file, document.sha256) = files[0]


def clear(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for document in _those(hands.documents, ids):
        document.file = document.sha256 = None


def remove(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for document in _those(hands.documents, ids):
        hands.session.delete(document)


def share(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for document in _those(hands.documents, ids):
        hands.add(document.file, document.sha256)


def move(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    documents = _those(hands.documents, ids)
    if len(documents) == 2:
        source, target = documents
        target.file, target.sha256 = source.file, source.sha256
        source.file = source.sha256 = None


def remember(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    if hands.memory:
        hands.add(*hands.memory.popleft())


def make_album(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    hands.session.add(Album(pages=[file for file, _ in files], sha256s=[digest for _, digest in files]))


def append(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for album in _those(hands.albums, ids):
        for file, digest in files:
            album.pages.append(file)
            album.sha256s = [*album.sha256s, digest]


def shorten(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for album in _those(hands.albums, ids):
        if album.pages:
            album.pages.pop(0)
            album.sha256s = album.sha256s[1:]


def reorder(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for album in _those(hands.albums, ids):
        album.pages = [*reversed(album.pages)]
        album.sha256s = [*reversed(album.sha256s)]


def exchange(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for album in _those(hands.albums, ids):
        if album.pages:
            album.pages[-1], digest = files[0]
            album.sha256s = [*album.sha256s[:-1], digest]


def drop_album(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    for album in _those(hands.albums, ids):
        hands.session.delete(album)


def update_statement(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    file, digest = files[0]
    hands.session.execute(update(Document).where(Document.id.in_(ids)).values(file=file, sha256=digest))


def delete_statement(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    hands.session.execute(delete(Document).where(Document.id.in_(ids)))


def delete_beneath(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    """Past the session: the rows' objects are left to the reconcile."""
    table: Any = Document.__table__
    _detach(hands, ids)
    hands.session.connection().execute(delete(table).where(table.c.id.in_(ids)))


def clear_beneath(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    table: Any = Document.__table__
    _detach(hands, ids)
    hands.session.connection().execute(update(table).where(table.c.id.in_(ids)).values(file=None, sha256=None))


def nothing(hands: Hands, ids: Sequence[int], files: Sequence[Known]) -> None:
    """What was stored for it is left alone."""


def _those(rows: dict[int, Any], ids: Sequence[int]) -> list[Any]:
    return [rows[each] for each in ids if each in rows]


def _detach(hands: Hands, ids: Sequence[int]) -> None:
    """What the transaction did to these rows before is written; what it knows of them is forgotten."""
    hands.session.flush()
    for document in _those(hands.documents, ids):
        hands.session.expire(document)


_VERBS: dict[Verb, Callable[[Hands, Sequence[int], Sequence[Known]], None]] = {
    "add": add,
    "add large": add,
    "insert": insert_rows,
    "replace": replace,
    "clear": clear,
    "delete": remove,
    "share": share,
    "move": move,
    "remember": remember,
    "album": make_album,
    "append": append,
    "shorten": shorten,
    "reorder": reorder,
    "exchange": exchange,
    "drop album": drop_album,
    "update statement": update_statement,
    "delete statement": delete_statement,
    "delete beneath": delete_beneath,
    "clear beneath": clear_beneath,
    "abandon": nothing,
    "break off": nothing,
}
_OF_ALBUMS: frozenset[Verb] = frozenset({"append", "shorten", "reorder", "exchange", "drop album"})
