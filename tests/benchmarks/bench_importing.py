"""Starting an application: what importing adds to the framework's own, by the processor's time.

Programs tell by themselves how long what counts took, from where ``began`` is set: the whole of a process differs more
from one run to the next than our modules take.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.worker import Make, Measured, Task, Work

BEGIN = """
from time import process_time
began = process_time()
"""
END = """
print(process_time() - began, flush=True)
import os
os._exit(0)  # to take all modules apart is no part of starting
"""

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
def running(_: Task, program: str, *, warm: bool) -> Iterator[Work]:
    """Run a program; once before it is measured where ``warm``, which leaves the bytecode."""
    argv = [sys.executable, "-c", program + END]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run() -> Measured:
        done = subprocess.run(argv, env=environment, check=True, stdout=subprocess.PIPE)
        return Measured(1, float(done.stdout))

    yield Work(run, warm_up=run if warm else None)


def cases(*, quick: bool) -> list[Case]:
    rounds = 1 if quick else 25

    def program(text: str) -> Make:
        return partial(running, program=text, warm=not quick)

    def after_litestar(module: str, **options: Any) -> Contender:
        return Contender(module, program(f"import litestar{BEGIN}import {module}"), **options)

    return [
        Case(
            "importing",
            "after Litestar, processor time",
            [
                Contender("litestar", program(f"{BEGIN}import litestar"), kind="floor"),
                after_litestar("granite_litestar", kind="ours"),
                after_litestar("granite_storage", needs=("granite_storage",), note="no routes"),
                after_litestar("sqlalchemy_file", needs=("sqlalchemy_file",), note="no routes"),
                after_litestar("advanced_alchemy.types.file_object", needs=("advanced_alchemy",), note="no routes"),
            ],
            baseline="litestar",
            rounds=rounds,
            unit="import",
            goals=[Goal("granite_litestar", 0.060, metric="least")],
        ),
        Case(
            "importing",
            "an application of one model and one route, processor time",
            [
                Contender("without files", program(BEGIN + PLAIN), kind="floor"),
                Contender("granite", program(BEGIN + GRANITE), kind="ours"),
            ],
            baseline="without files",
            rounds=rounds,
            unit="start",
        ),
    ]


__all__ = ["cases"]
