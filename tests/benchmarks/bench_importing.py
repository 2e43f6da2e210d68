"""Starting an application: what importing adds to the framework's own, by the processor's time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.worker import Measured, Task, Work

APPLICATION = """
from typing import Any
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar
from sqlalchemy import JSON
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
class Base(DeclarativeBase):
    pass
class Document(Base):
    __tablename__ = "document"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[Any] = {column}
alchemy = SQLAlchemyAsyncConfig(connection_string="sqlite+aiosqlite://", metadata=Base.metadata)
Litestar([], plugins=[SQLAlchemyPlugin(alchemy){plugins}])
"""

PLAIN = APPLICATION.format(column="mapped_column(JSON)", plugins="")
GRANITE = """
from granite_core import MemoryStorageBackend, StorageManager, StoragePolicy
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin
manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("documents", "main")])
""" + APPLICATION.format(
    column='file_field("documents")',
    plugins=', GranitePlugin(GraniteConfig(manager, downloads=[FileRoute("/{id:int}", Document.file, public=True)]))',
)


@contextmanager
def running(_: Task, program: str) -> Iterator[Work]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run() -> Measured:
        before = _of_children()
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        return Measured(1, _of_children() - before)

    yield Work(run, warm_up=run)  # which leaves the bytecode


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cases(*, quick: bool) -> list[Case]:
    rounds = 1 if quick else 25

    def beside_litestar(module: str, **options: Any) -> Contender:
        return Contender(module, partial(running, program=f"import litestar, {module}"), **options)

    return [
        Case(
            "importing",
            "beside Litestar, processor time",
            [
                beside_litestar("litestar", kind="floor"),
                beside_litestar("granite_litestar", kind="ours"),
                beside_litestar("granite_storage", needs=("granite_storage",), note="no routes"),
                beside_litestar("sqlalchemy_file", needs=("sqlalchemy_file",), note="no routes"),
                beside_litestar("advanced_alchemy.types.file_object", needs=("advanced_alchemy",), note="no routes"),
            ],
            baseline="litestar",
            rounds=rounds,
            unit="import",
            goals=[Goal("granite_litestar", 0.060, metric="added")],
        ),
        Case(
            "importing",
            "an application of one model and one route, processor time",
            [
                Contender("without files", partial(running, program=PLAIN), kind="floor"),
                Contender("granite", partial(running, program=GRANITE), kind="ours"),
            ],
            baseline="without files",
            rounds=rounds,
            unit="start",
        ),
    ]


__all__ = ["cases"]
