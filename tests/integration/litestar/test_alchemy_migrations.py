"""`litestar database`: advanced-alchemy's Alembic environment, as `init` writes it, brings fields, tables and data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

ROOT = Path(__file__).parents[3]

APP = """
import os
from pathlib import Path
from advanced_alchemy.base import BigIntAuditBase
from advanced_alchemy.extensions.litestar import (
    AlembicAsyncConfig, AlembicSyncConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin, SQLAlchemySyncConfig
)
from litestar import Litestar
from sqlalchemy.orm import Mapped
from granite_core import LocalStorageBackend, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar import GraniteConfig, GranitePlugin


class Letter(BigIntAuditBase):
    path: Mapped[str | None]
    if os.environ["STEP"] != "1":
        file: Mapped[StoredObjectRef | None] = file_field("letters")
        pages: Mapped[list[StoredObjectRef]] = files_field("letters", server_default="[]")


url = os.environ["DATABASE_URL"]
if "asyncpg" in url:
    alembic = AlembicAsyncConfig(script_location="migrations")
    config = SQLAlchemyAsyncConfig(connection_string=url, alembic_config=alembic)
else:
    alembic = AlembicSyncConfig(script_location="migrations")
    config = SQLAlchemySyncConfig(connection_string=url, alembic_config=alembic)
manager = StorageManager({"main": LocalStorageBackend("files")}, [StoragePolicy("letters", "main")])
app = Litestar(plugins=[SQLAlchemyPlugin(config), GranitePlugin(GraniteConfig(manager))])
"""
BACKFILL = '''def data_upgrades() -> None:
    """Letters get the file that their path leads to."""
    from app import manager
    from granite_core import unsaved
    from granite_core.integrations.sqlalchemy import backfill_files

    backfill_files(
        op.get_bind(), manager, "letters", table="letter", key="id", old="path", new="file",
        content=lambda path: unsaved(Path(path)),
    )
'''


@pytest.fixture(params=["sqlite", "asyncpg"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One of each: advanced-alchemy has an environment for synchronous engines and one for asynchronous ones."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/db.sqlite3"
    return str(request.getfixturevalue("postgres_async_url"))


def test_fields_tables_index_and_data_are_migrated_by_the_command_line(url: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "letter.txt").write_bytes(b"Dear all")
    versions = tmp_path / "migrations" / "versions"
    step = "1"

    def database(*argv: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "litestar", "--app", "app:app", "database", *argv],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "DATABASE_URL": url, "STEP": step},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def revise() -> Path:
        before = set(versions.glob("*.py"))
        database("make-migrations", "--no-prompt", "-m", f"step {step}")
        [made] = set(versions.glob("*.py")) - before
        return made

    database("init", "--no-prompt", "migrations")
    env = tmp_path / "migrations" / "env.py"
    lines = "from granite_core.integrations.sqlalchemy import migrations\n\nmigrations.compare_lookup_indexes()\n"
    env.write_text(f"{lines}{env.read_text()}")
    revise()
    database("upgrade", "--no-prompt")
    engine = sa.create_engine(url.replace("+asyncpg", "+psycopg"))
    with engine.begin() as connection:
        values = "(1, 'letter.txt', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
        connection.execute(sa.text(f"INSERT INTO letter (id, path, created_at, updated_at) VALUES {values}"))

    step = "2"
    made = revise()
    text = made.read_text()
    assert "granite_core" not in text
    old = 'def data_upgrades() -> None:\n    """Add any optional data upgrade migrations here!"""\n'
    assert old in text
    made.write_text(f"from pathlib import Path\n{text.replace(old, BACKFILL)}")
    database("upgrade", "--no-prompt")
    database("check")

    with engine.begin() as connection:
        file, pages = connection.execute(sa.text("SELECT file, pages FROM letter")).one()
        assert "letter.txt" in str(file)
        assert pages in ("[]", [])
        assert connection.scalar(sa.text("SELECT column_name FROM granite_column")) == "file"
        if engine.dialect.name == "sqlite":
            names = connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'index'")).all()
        else:
            names = connection.scalars(sa.text("SELECT indexname FROM pg_indexes")).all()
        assert "ix_letter_file_location" in names
    engine.dispose()
