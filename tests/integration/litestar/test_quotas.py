"""An application that counts finds its database when it starts, or does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import ConfigurationError, MemoryStorageBackend, Quota, StorageManager, StoragePolicy, StoredObjectRef
from granite_core.integrations.sqlalchemy import SQLAlchemyQuotaLedger, file_field
from granite_litestar import GraniteConfig, GranitePlugin


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    file: Mapped[StoredObjectRef | None] = file_field("items")


def make_app(**config: Any) -> Litestar:
    quota = Quota(scope=lambda announced: "everybody", limit=10)
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("items", quotas=[quota])])
    return Litestar([], plugins=[GranitePlugin(GraniteConfig(manager=manager, models=[Base], gc=None, **config))])


async def start(app: Litestar) -> None:
    try:
        async with app.lifespan():
            pass
    except ExceptionGroup as group:  # Litestar starts in a group of tasks
        raise group.exceptions[0] from None


def database(path: Path) -> Any:
    return create_engine(f"sqlite:///{path}")


async def test_without_the_tables_it_does_not_start(tmp_path: Path) -> None:
    engine = database(tmp_path / "a")
    with pytest.raises(ConfigurationError, match="granite_quota, granite_usage"):
        await start(make_app(engines=[engine]))
    engine.dispose()


async def test_without_a_database_it_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match="database"):
        await start(make_app())


async def test_of_several_databases_one_is_named(tmp_path: Path) -> None:
    first, second = database(tmp_path / "a"), database(tmp_path / "b")
    Base.metadata.create_all(second)
    with pytest.raises(ConfigurationError, match="which of 2"):
        await start(make_app(engines=[first, second]))
    app = make_app(engines=[first, second], quotas=SQLAlchemyQuotaLedger(second, Base.metadata))
    await start(app)
    manager = app.plugins.get(GranitePlugin).config.manager
    manager.put_bytes("items", content=b"x" * 4)
    assert manager.quotas.usage("everybody").bytes == 4
    first.dispose()
    second.dispose()
