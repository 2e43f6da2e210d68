"""A shop: invoices go out as links, on pages and in mails; everybody sees the logos of its brands."""

from __future__ import annotations

import os
from datetime import timedelta
from secrets import token_urlsafe
from typing import Annotated
from uuid import UUID

from advanced_alchemy.base import UUIDAuditBase
from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped

from granite_core import (
    AsyncStorageManager,
    StagedFile,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    UrlSettings,
    backend_from_url,
)
from granite_core.integrations.sqlalchemy import file_field
from granite_litestar import FileRoute, GraniteConfig, GranitePlugin, MultipartBody, Upload, UploadDTO


class Invoice(UUIDAuditBase):
    customer: Mapped[str]
    file: Mapped[StoredObjectRef | None] = file_field("invoices")


class Brand(UUIDAuditBase):
    name: Mapped[str]
    logo: Mapped[StoredObjectRef | None] = file_field("logos")


# the part "settings" begins
manager = StorageManager(
    backends={"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))},
    policies=[
        StoragePolicy("invoices", delivery="auto"),
        StoragePolicy("logos", public=True, cache_max_age=timedelta(days=365), immutable=True),
    ],
    urls=UrlSettings(
        secrets=os.environ.get("LINK_SECRETS", token_urlsafe(32)).split(","),  # newest first
        public_url=os.environ.get("PUBLIC_URL"),  # https://shop.example
    ),
)
# the part "settings" ends


class NewInvoice(UploadDTO):
    customer: str
    file: Annotated[StagedFile, Upload(Invoice.file)]


class NewBrand(UploadDTO):
    name: str
    logo: Annotated[StagedFile, Upload(Brand.logo)]


@post("/invoices")
async def create_invoice(data: MultipartBody[NewInvoice], db_session: NamedDependency[AsyncSession]) -> dict[str, UUID]:
    invoice = Invoice(customer=data.customer, file=data.file)
    db_session.add(invoice)
    await db_session.commit()
    return {"id": invoice.id}


@post("/brands")
async def create_brand(data: MultipartBody[NewBrand], db_session: NamedDependency[AsyncSession]) -> dict[str, UUID]:
    brand = Brand(name=data.name, logo=data.logo)
    db_session.add(brand)
    await db_session.commit()
    return {"id": brand.id}


# the part "page" begins
@get("/invoices/{invoice_id:uuid}")
async def show(
    invoice_id: FromPath[UUID], db_session: NamedDependency[AsyncSession], files: NamedDependency[AsyncStorageManager]
) -> dict[str, str]:
    invoice = await db_session.get_one(Invoice, invoice_id)
    if invoice.file is None:
        return {"customer": invoice.customer}
    return {
        "customer": invoice.customer,
        "view": await files.url(invoice.file, expires_in=timedelta(minutes=10)),
        "save": await files.url(invoice.file, disposition="attachment", filename=f"{invoice.customer}.pdf"),
    }
    # the part "page" ends


# the part "mail" begins
@post("/invoices/{invoice_id:uuid}/mail")
async def mail(
    invoice_id: FromPath[UUID], db_session: NamedDependency[AsyncSession], files: NamedDependency[AsyncStorageManager]
) -> str:
    invoice = await db_session.get_one(Invoice, invoice_id)
    link = await files.url(invoice, Invoice.file, expires_in=timedelta(days=30))
    return f"Dear {invoice.customer},\n\nyour invoice: {link}\n"
    # the part "mail" ends


# the part "public" begins
@get("/brands/{brand_id:uuid}")
async def brand_page(
    brand_id: FromPath[UUID], db_session: NamedDependency[AsyncSession], files: NamedDependency[AsyncStorageManager]
) -> dict[str, str]:
    brand = await db_session.get_one(Brand, brand_id)
    return {"name": brand.name, "logo": await files.url(brand.logo) if brand.logo else "/no-logo.svg"}
    # the part "public" ends


# the part "redirect" begins
downloads = [
    FileRoute("/invoices/{id:uuid}/file", Invoice.file, authorize=lambda invoice, _: invoice.customer != "Nobody"),
]
# the part "redirect" ends

app = Litestar(
    [create_invoice, create_brand, show, mail, brand_page],
    plugins=[
        SQLAlchemyPlugin(
            SQLAlchemyAsyncConfig(
                connection_string="sqlite+aiosqlite:///shop.sqlite3",
                session_config=AsyncSessionConfig(expire_on_commit=False),
                create_all=True,
            )
        ),
        GranitePlugin(GraniteConfig(manager, downloads=downloads)),
    ],
)
