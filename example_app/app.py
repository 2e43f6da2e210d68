"""The application: a page, the routes it calls, and how they are wired."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, delete, get, post, put
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.params import MultipartBody
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from example_app.adding import add, adding_files, adding_template, large_uploads, show_form
from example_app.collection import Keeper, StorageView
from example_app.models import Item, make_engine
from example_app.pages import PAGE, page_file
from example_app.settings import MB, Settings
from granite_core import StagedFile, StorageManager, StoragePolicy, StoredObjectRef, UrlSettings, backend_from_url
from granite_core.gc import GCConfig
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, RawUpload, TokenConfig, Upload, UploadDTO, item_id

__all__ = ["create_app"]

REFUSALS = [NotFoundException, PermissionDeniedException]  # for the API's description
NOTES = ["application/pdf", "image/*", "text/*", "audio/*"]


class NewItem(UploadDTO):
    """What the page sends for each file that is dropped."""

    file: Annotated[StagedFile, Upload(Item.file)]
    title: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class NewAttachments(UploadDTO):
    """Files that go with an item."""

    files: Annotated[list[StagedFile], Upload(Item.attachments, max_count=20)]


class FileCard(msgspec.Struct):
    """A file as the page shows it: no key, only where it can be had."""

    name: str
    size: int
    content_type: str
    checksum: str
    url: str


class AttachmentCard(FileCard):
    """One file of a list, with the id by which it is addressed."""

    id: str


class ItemCard(msgspec.Struct):
    """An item as the page shows it."""

    id: UUID
    title: str
    created_at: datetime
    updated_at: datetime
    file: FileCard
    attachments: list[AttachmentCard]


class Overview(msgspec.Struct):
    """All that the page shows."""

    max_size: int
    items: list[ItemCard]
    storage: StorageView


@get("/api/overview")
async def overview(
    db_session: NamedDependency[AsyncSession],
    keeper: NamedDependency[Keeper],
    settings: NamedDependency[Settings],
) -> Overview:
    items = (await db_session.scalars(select(Item).order_by(Item.created_at.desc(), Item.id))).all()
    refs = [ref for item in items for ref in (item.file, *item.attachments)]
    storage = await keeper.view(db_session, refs)
    return Overview(settings.max_size, [card(item) for item in items], storage)


@post("/api/items", raises=[PermissionDeniedException])
async def create(data: MultipartBody[NewItem], db_session: NamedDependency[AsyncSession]) -> ItemCard:
    item = Item(title=data.title or data.file.original_filename or "unnamed", file=data.file, attachments=[])
    db_session.add(item)
    await db_session.commit()  # keeps the file; without it the file goes
    return card(item)


@put("/api/items/{id:uuid}/file", raises=REFUSALS)
async def replace(
    id: UUID,  # noqa: A002 - the path's name for it
    data: Annotated[StagedFile, RawUpload(Item.file)],
    db_session: NamedDependency[AsyncSession],
    keeper: NamedDependency[Keeper],
) -> ItemCard:
    item = await find(db_session, id)
    before, item.file, item.title = item.file, data, data.original_filename or item.title
    await db_session.commit()  # from here on the new file is the item's, and the old one waits for the collector
    keeper.remember([before])
    return card(item)


@delete("/api/items/{id:uuid}", raises=REFUSALS)
async def remove(
    id: UUID,  # noqa: A002
    db_session: NamedDependency[AsyncSession],
    keeper: NamedDependency[Keeper],
) -> None:
    item = await find(db_session, id)
    await db_session.delete(item)
    await db_session.commit()
    keeper.remember([item.file, *item.attachments])


@post("/api/items/{id:uuid}/attachments", raises=REFUSALS)
async def attach(
    id: UUID,  # noqa: A002
    data: MultipartBody[NewAttachments],
    db_session: NamedDependency[AsyncSession],
) -> ItemCard:
    item = await find(db_session, id)
    item.attachments.extend(data.files)
    await db_session.commit()
    return card(item)


@delete("/api/items/{id:uuid}/attachments/{attachment:str}", raises=REFUSALS)
async def detach(
    id: UUID,  # noqa: A002
    attachment: str,
    db_session: NamedDependency[AsyncSession],
    keeper: NamedDependency[Keeper],
) -> None:
    item = await find(db_session, id)
    gone = [ref for ref in item.attachments if item_id(ref) == attachment]
    if not gone:
        raise NotFoundException("There is no such attachment")
    item.attachments.remove(gone[0])
    await db_session.commit()
    keeper.remember(gone)


async def find(session: AsyncSession, id: UUID) -> Item:  # noqa: A002
    """Load an item, or answer 404."""
    item = await session.get(Item, id)
    if item is None:
        raise NotFoundException("This item does not exist any more")
    return item


def card(item: Item) -> ItemCard:
    """Show an item."""
    base = f"/items/{item.id}"
    return ItemCard(
        id=item.id,
        title=item.title,
        created_at=item.created_at,
        updated_at=item.updated_at,
        file=FileCard(**shown(item.file), url=f"{base}/file"),
        attachments=[
            AttachmentCard(**shown(ref), id=item_id(ref), url=f"{base}/attachments/{item_id(ref)}")
            for ref in item.attachments
        ],
    )


def shown(ref: StoredObjectRef) -> dict[str, Any]:
    """What of a ref a client may see."""
    return {
        "name": ref.original_filename or "unnamed",
        "size": ref.size,
        "content_type": ref.content_type or "application/octet-stream",
        "checksum": ref.checksum,
    }


def same_site(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Let no other site make a visitor's browser write here. A guard runs before the first byte of a body."""
    cross = connection.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    if cross and connection.scope.get("method") not in ("GET", "HEAD"):
        raise PermissionDeniedException("This page is used from its own address only")


def create_app(settings: Settings | None = None) -> Litestar:
    """Make the application."""
    settings = settings or Settings.read()
    engine = make_engine(settings.database_url)
    manager = StorageManager(
        backends={"main": backend_from_url(settings.storage_url)},
        policies=[
            StoragePolicy("library", "main", max_size=settings.max_size, key_prefix="library"),
            StoragePolicy("attachments", "main", max_size=20 * MB, key_prefix="attachments", content_types=NOTES),
        ],
        grace=settings.grace,
        urls=UrlSettings(secrets=[settings.secret]),
    )
    granite = GranitePlugin(
        GraniteConfig(
            manager=manager,
            downloads=[  # public: a demo has no users. Give guards or authorize= where yours has
                FileRoute("/items/{id:uuid}/file", Item.file, public=True),
                FileRoute("/items/{id:uuid}/attachments/{item:str}", Item.attachments, public=True),
            ],
            uploads=[large_uploads],
            tokens=TokenConfig(subject=None),  # whoever has a token may use it; say whose it is where yours has users
            gc=GCConfig(sweep_every=timedelta(seconds=2), reconcile_every=timedelta(minutes=1)),
        )
    )
    keeper = Keeper(granite, engine)
    return Litestar(
        [
            page_file(PAGE / "page.html", "text/html", "/"),
            page_file(PAGE / "page.css", "text/css"),
            page_file(PAGE / "page.js", "text/javascript"),
            page_file(PAGE / "elements.js", "text/javascript"),
            page_file(PAGE / "icon.svg", "image/svg+xml"),
            *(overview, create, replace, remove, attach, detach),
            *(show_form, add, *adding_files(settings)),
        ],
        guards=[same_site],
        template_config=adding_template(settings),
        dependencies={
            "keeper": Provide(lambda: keeper, sync_to_thread=False),
            "settings": Provide(lambda: settings, sync_to_thread=False),
        },
        lifespan=[keeper.lifespan],
        plugins=[
            SQLAlchemyPlugin(
                SQLAlchemyAsyncConfig(
                    engine_instance=engine,
                    session_config=AsyncSessionConfig(expire_on_commit=False),
                    create_all=True,
                )
            ),
            granite,
        ],
    )
