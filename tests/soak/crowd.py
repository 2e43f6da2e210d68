"""What several processes do to one database in the tests of many hands; functions of a module, for they are forked."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from granite_core import StaleRefError, unsaved
from granite_core.gc import Collector, SweepReport
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger, db_now, tables_of
from tests.support.many import until

from .models import Base, Document
from .plans import Content
from .site import Site

__all__ = ["bury", "keep", "sweep_without_a_lease", "transfer"]


def keep(site: Site, count: int) -> dict[str, str]:
    """Rows with files: where these are, and what is in them."""
    engine, manager = site.engine(), site.manager()
    contents = [f"kept {number}".encode() for number in range(count)]
    with Session(engine) as session:
        documents = [
            Document(file=manager.put_bytes("documents", content=each), sha256=Content.digest(each))
            for each in contents
        ]
        session.add_all(documents)
        session.commit()
        kept = {each.file.location: each.sha256 for each in documents}  # type: ignore[union-attr]
    engine.dispose()
    return kept  # type: ignore[return-value]


def bury(site: Site, count: int) -> set[str]:
    """Objects that nobody holds, with tombstones that are due."""
    engine, manager = site.engine(), site.manager()
    found = [manager.put_bytes("documents", content=b"garbage") for _ in range(count)]
    _add_old_tombstones(site, engine, [ref.location for ref in found])
    engine.dispose()
    return {ref.location for ref in found}


def sweep_without_a_lease(site: Site, hands: int) -> SweepReport:
    """Sweep as if every lease were ours, as soon as so many are ready to."""

    class NoLease(SQLAlchemyLedger):
        def take_lease(self, name: str, holder: str, duration: int) -> str | None:
            return None

    engine, manager = site.engine(), site.manager()
    collector = site.collector(manager, engine)
    sweeping = Collector(manager, NoLease([engine], Base.metadata), collector.config)
    (site.folder / f"{os.getpid()}.ready").touch()
    until(lambda: len([*site.folder.glob("*.ready")]) == hands)
    report = sweeping.sweep()
    engine.dispose()
    return report


def transfer(site: Site, number: int, seconds: float) -> dict[str, int]:
    """Swap, move, share and replace files of two rows, changed in the order of their keys; count how that ends."""
    engine, manager = site.engine(), site.manager()
    dice = random.Random(f"{site.seed}:{number}")
    ends: dict[str, int] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with Session(engine) as session:
                _transfer_once(session, dice)
                session.commit()
            end = "committed"
        except StaleRefError:
            end = "refused"
        except StaleDataError:
            end = "conflict"
        except OperationalError as error:
            end = type(error.orig).__name__
        ends[end] = ends.get(end, 0) + 1
        if dice.random() < 0.2:
            with engine.connect() as connection:
                held = connection.scalars(select(Document.file).order_by(func.random()).limit(2)).all()
            _add_old_tombstones(site, engine, [ref.location for ref in held if ref is not None])
    for backend in manager.backends.values():
        backend.close()
    engine.dispose()
    return ends


def _transfer_once(session: Session, dice: random.Random) -> None:
    ids = [*session.scalars(select(Document.id).order_by(Document.id))]
    chosen = select(Document).where(Document.id.in_(dice.sample(ids, 2))).order_by(Document.id)
    found = session.scalars(chosen).all()
    if len(found) < 2:
        return  # somebody was faster
    one, two = found
    match dice.randrange(4):
        case 0:
            one.file, one.sha256, two.file, two.sha256 = two.file, two.sha256, one.file, one.sha256
        case 1:
            two.file, two.sha256 = one.file, one.sha256
        case 2:
            session.add(Document(file=one.file, sha256=one.sha256))
            session.delete(two)
        case _:
            for each in (one, two):
                content = dice.randbytes(20)
                each.file, each.sha256 = unsaved(content), Content.digest(content)


def _add_old_tombstones(site: Site, engine: Any, locations: list[str]) -> None:
    tables = tables_of(Base.metadata)
    assert tables is not None
    old = db_now() - int(site.grace * 1000) - 1000
    rows = [{"location": each, "backend": "main", "storage_key": "documents"} for each in locations]
    with engine.begin() as connection:
        if rows:
            connection.execute(insert(tables.tombstone).values(written_at=old), rows)
