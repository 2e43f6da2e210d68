"""Many writers on one SQLite file: whoever finds it locked waits, and gets his turn."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from granite_core import ConfigurationError
from granite_core.integrations.sqlalchemy import prepare_sqlite
from tests.support.many import preload, side_by_side
from tests.support.sqlite_writers import (
    SET_UPS,
    Base,
    Paper,
    collect_beside,
    make_manager,
    make_rows,
    write,
    write_async,
)

preload("tests.support.sqlite_writers")

WRITERS = 6
ROUNDS = 5


@pytest.mark.parametrize("set_up", SET_UPS)
def test_no_writer_is_told_that_the_database_is_locked(
    set_up: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    make_rows(tmp_path, set_up, WRITERS)
    colours = [write_async if number % 3 == 2 else write for number in range(WRITERS)]
    writers = [(colour, tmp_path, set_up, number, ROUNDS) for number, colour in enumerate(colours)]
    *done, _ = side_by_side(_call, [*writers, (collect_beside, tmp_path, set_up, ROUNDS)])
    assert done == [ROUNDS] * WRITERS
    record_property("counted", f"Many writers on one SQLite file|{sum(done)}|rounds, none refused")
    engine = create_engine(f"sqlite:///{tmp_path}/db.sqlite3")
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Paper)) == WRITERS
    engine.dispose()


def _call(call: Any, *arguments: Any) -> Any:
    return call(*arguments)


def test_a_flush_that_looks_up_is_a_writer_before_it_reads(tmp_path: Path) -> None:
    """Else what somebody else commits between the two makes SQLite refuse the flush, and at once."""
    make_rows(tmp_path, "real_transactions", 1)
    engine, other = (create_engine(f"sqlite:///{tmp_path}/db.sqlite3", connect_args={"timeout": 0}) for _ in range(2))
    SET_UPS["real_transactions"](engine)
    make_manager(tmp_path)
    refused = []

    @event.listens_for(engine, "before_cursor_execute")
    def someone_else_writes(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith(("INSERT INTO paper", "UPDATE paper SET file=?", "DELETE FROM paper")):
            with other.connect() as connection:
                try:
                    connection.execute(text("UPDATE paper SET writer = writer + 1"))
                    connection.commit()
                except Exception as error:
                    refused.append(str(error))

    with Session(engine, expire_on_commit=False) as session:
        paper = session.scalars(select(Paper)).one()
        session.rollback()
        old = type(paper.file).from_dict(paper.file.to_dict() | {"created_at": None})
        session.add(Paper(writer=2, file=old))
        session.commit()
        session.add(paper)
        paper.file = None
        session.commit()
        session.delete(paper)
        session.commit()
    assert len(refused) == 3
    engine.dispose()
    other.dispose()


class TestPrepareSqlite:
    def test_a_savepoint_that_is_released_is_undone_with_its_transaction(self, tmp_path: Path) -> None:
        engine = prepare_sqlite(create_engine(f"sqlite:///{tmp_path}/db.sqlite3"))
        Base.metadata.create_all(engine)
        make_manager(tmp_path)
        with Session(engine) as session:
            with session.begin_nested():
                session.add(Paper(writer=1))
            session.rollback()
            assert session.scalars(select(Paper)).all() == []
            with session.begin_nested() as savepoint:
                session.add(Paper(writer=2))
                savepoint.rollback()
            session.add(Paper(writer=3))
            session.commit()
            assert session.scalars(select(Paper.writer)).all() == [3]
        engine.dispose()

    async def test_an_asynchronous_engine_is_set_up_alike(self, tmp_path: Path) -> None:
        engine = prepare_sqlite(
            create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db.sqlite3"), patience=timedelta(seconds=7)
        )
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        make_manager(tmp_path)
        async with AsyncSession(engine) as session:
            assert await session.scalar(text("PRAGMA journal_mode")) == "wal"
            assert await session.scalar(text("PRAGMA busy_timeout")) == 7000
            async with session.begin_nested():
                session.add(Paper(writer=1))
            await session.rollback()
            assert (await session.scalars(select(Paper))).all() == []
        await engine.dispose()

    def test_workers_that_start_together_may_all_be_the_first(self, tmp_path: Path) -> None:
        assert side_by_side(_open_first, [(tmp_path,)] * 6) == ["wal"] * 6

    def test_another_database_is_left_alone(self) -> None:
        engine = create_engine("postgresql+psycopg://nowhere/none")
        assert prepare_sqlite(engine) is engine
        assert not engine.dispatch.savepoint

    def test_patience_is_not_less_than_nothing(self) -> None:
        with pytest.raises(ConfigurationError):
            prepare_sqlite(create_engine("sqlite://"), patience=timedelta(seconds=-1))


def _open_first(folder: Path) -> Any:
    engine = prepare_sqlite(create_engine(f"sqlite:///{folder}/db.sqlite3"), patience=timedelta(seconds=100))
    with engine.connect() as connection:
        return connection.scalar(text("PRAGMA journal_mode"))
