"""A worker process: one seeded transaction after another, until it is killed."""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import ObjectDeletedError, StaleDataError

from granite_core import AsyncStorageManager, StaleRefError, unsaved
from tests.support.many import begin_child

from .hands import Known, carry_out
from .journal import Journal, described
from .models import Document
from .plans import Content, Plan, Step, plans
from .site import Site

__all__ = ["work"]

DEADLOCK = "40P01"


def work(name: str, life: int, site: Site, is_async: bool) -> None:
    """Carry out transactions until the end of the process."""
    begin_child(site.folder, name)
    journal = Journal(site.folder, name)
    journal.write("begins", life=life, colour="async" if is_async else "sync")
    todo = plans(f"{site.seed}:{name}:{life}", large=site.large, pause=site.pause)
    if is_async:
        asyncio.run(_AsyncWorker(site, journal).run(todo))
    else:
        _Worker(site, journal).run(todo)


class _Work:
    """What both colours share: the memory, and what is written down of a transaction."""

    def __init__(self, site: Site, journal: Journal) -> None:
        self.site = site
        self.journal = journal
        self.manager = site.manager(journal.hear)
        self.memory: deque[Known] = deque(maxlen=12)

    @contextmanager
    def told(self, plan: Plan) -> Iterator[dict[str, Any]]:
        """Write down how a transaction ends; everything but the expected ends is an error."""
        facts: dict[str, Any] = {"number": plan.number, "session": plan.session}
        self.journal.write("transaction", verbs=[each.verb for each in plan.steps], ending=plan.ending, **facts)
        try:
            yield facts
        except StaleRefError as error:
            facts |= {"end": "no longer held" if plan.borrows else "too slow", "error": str(error)}
        except (StaleDataError, ObjectDeletedError) as error:
            facts |= {"end": "conflict", "error": type(error).__name__}
        except Exception as error:
            codes = (getattr(each, "sqlstate", None) for each in (getattr(error, "orig", None), error.__cause__))
            is_deadlock = isinstance(error, DBAPIError) and DEADLOCK in codes
            facts |= {"end": "deadlock" if is_deadlock else "error", **described(error)}
        self.journal.write("ended", **facts)

    def joined(self, connection: Connection, plan: Plan, files: list[list[Known]], facts: dict[str, Any]) -> None:
        """A session in a transaction that is the connection's."""
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            self.drive(session, plan, files, facts)
        (outer.rollback if plan.ending == "rollback" else outer.commit)()

    def drive(self, session: Session, plan: Plan, files: list[list[Known]], facts: dict[str, Any]) -> None:
        """Carry out a transaction, and end it."""
        added, seen = carry_out(session, plan, files, self.memory)
        if plan.number % 3 == 0:
            self.memory.extend(seen)
        facts["end"] = "undone"
        if plan.ending == "close":
            return session.close()
        if plan.ending == "rollback" and plan.session != "joined":
            return session.rollback()
        if plan.ending == "again":
            files_of_old = [(each.file, each.sha256) for each in added]
            session.rollback()
            session.add_all(Document(file=file, sha256=digest) for file, digest in files_of_old)
            session.flush()
        began = time.monotonic()
        session.commit()
        if plan.flushes or plan.ending == "again":  # else it flushes first
            facts["commit"] = round(time.monotonic() - began, 4)
        facts["end"] = "undone" if plan.ending == "rollback" else "committed"
        return None

    def break_off(self, content: bytes) -> None:
        """Begin an upload that nobody ends: its parts stay in the store."""
        self.left = self.manager.stage("documents")
        self.left.write(content)


def _late(step: Step) -> list[Known]:
    """Contents that the flush stores."""
    made = [each.make() for each in step.contents]
    return [(unsaved(content, filename="late.bin"), Content.digest(content)) for content in made]


class _Worker(_Work):
    """Through synchronous sessions."""

    def run(self, todo: Iterator[Plan]) -> None:
        engine, committing = self.site.engine(), self.site.engine(isolation_level="AUTOCOMMIT")
        for plan in todo:
            with self.told(plan) as facts:
                files = [self.stage(step) if step.staged else _late(step) for step in plan.steps]
                if plan.session == "joined":
                    with engine.connect() as connection:
                        self.joined(connection, plan, files, facts)
                else:
                    with Session(committing if plan.session == "autocommit" else engine) as session:
                        self.drive(session, plan, files, facts)
            time.sleep(plan.rest)

    def stage(self, step: Step) -> list[Known]:
        found: list[Known] = []
        for each in step.contents:
            content = each.make()
            if step.verb == "break off":
                self.break_off(content)
            elif each.seed % 2:
                found.append((self.manager.put_bytes("documents", content=content), Content.digest(content)))
            else:
                stored = self.manager.put_stream("pages", stream=io.BytesIO(content))
                found.append((stored, Content.digest(content)))
        return found


class _AsyncWorker(_Work):
    """Through asynchronous sessions: the same steps, in SQLAlchemy's greenlet."""

    async def run(self, todo: Iterator[Plan]) -> None:
        engine, committing = self.site.async_engine(), self.site.async_engine(isolation_level="AUTOCOMMIT")
        for plan in todo:
            with self.told(plan) as facts:
                files = [await self.stage(step) if step.staged else _late(step) for step in plan.steps]
                if plan.session == "joined":
                    async with engine.connect() as connection:
                        await connection.run_sync(self.joined, plan, files, facts)
                else:
                    async with AsyncSession(committing if plan.session == "autocommit" else engine) as session:
                        await session.run_sync(self.drive, plan, files, facts)
            await asyncio.sleep(plan.rest)

    async def stage(self, step: Step) -> list[Known]:
        files, found = AsyncStorageManager(self.manager), []
        for each in step.contents:
            content = each.make()
            if step.verb == "break off":
                await asyncio.to_thread(self.break_off, content)
            elif each.seed % 2:
                found.append((await files.put_bytes("documents", content=content), Content.digest(content)))
            else:
                found.append((await files.put_stream("pages", stream=_pieces(content)), Content.digest(content)))
        return found


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """Content as a client sends it."""
    for start in range(0, len(content), 64 * 1024):
        yield content[start : start + 64 * 1024]
        await asyncio.sleep(0)
