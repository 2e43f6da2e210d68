"""A portal for several tenants: what each kind of file must be, where it goes, and how it is kept."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from litestar import Litestar, post
from litestar.connection import ASGIConnection
from litestar.exceptions import PermissionDeniedException

from granite_core import (
    Announcement,
    Candidate,
    StagedFile,
    StorageManager,
    StoragePolicy,
    UploadDeniedError,
    ValidationFailedError,
    WriteOptions,
    backend_from_url,
)
from granite_core.validators import ClamAV, ImageValidator
from granite_litestar import GraniteConfig, GranitePlugin, MultipartBody, Upload, UploadDTO

MB = 1024 * 1024


# the part "validator" begins
COLUMNS = ["date", "account", "amount"]


def has_our_columns(candidate: Candidate) -> None:
    with candidate.open() as file:
        found = next(csv.reader(io.TextIOWrapper(file, "utf-8", newline="")), [])  # what is no UTF-8 is a ValueError
    if found != COLUMNS:
        raise ValidationFailedError("the first line must name date, account and amount", code="wrong_columns")


# the part "validator" ends


# the part "before" begins
async def no_guests(announced: Announcement) -> None:
    visitor = announced.connection.headers.get("x-role", "member")  # your guards know better who it is
    if visitor == "guest":
        raise UploadDeniedError("guests may not upload")


# the part "before" ends

# the part "scanner" begins
scanner = ClamAV(address=os.environ.get("CLAMD", "127.0.0.1:3310"))
# the part "scanner" ends

policies = [
    # the part "types" begins
    StoragePolicy(
        "contracts",
        max_size=20 * MB,
        content_types=["application/pdf", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"],
        mismatch="refuse",
        before_upload=[no_guests],
        validators=[scanner],
        key_template="{tenant}/contracts",
        retention=timedelta(days=30),
    ),
    # the part "types" ends
    # the part "images" begins
    StoragePolicy(
        "portraits",
        max_size=5 * MB,
        content_types=["image/jpeg", "image/png", "image/webp"],
        validators=[
            ImageValidator(min_width=200, min_height=200, max_aspect_ratio=2, formats=["JPEG", "PNG", "WEBP"]),
        ],
        key_template="{tenant}/portraits",
    ),
    # the part "images" ends
    # the part "ledgers" begins
    StoragePolicy(
        "ledgers",
        content_types=["text/csv"],
        validators=[has_our_columns],
        key_template="{tenant}/ledgers",
        disposition="attachment",
        retention=timedelta(days=365),
        verify_reads=True,
        store=WriteOptions(durable=True, storage_class="STANDARD_IA", tags={"kind": "ledger"}),
    ),
    # the part "ledgers" ends
]
manager = StorageManager(
    backends={"main": backend_from_url(os.environ.get("STORAGE_URL", "file:var/files"))}, policies=policies
)


class NewClient(UploadDTO):
    name: str
    contract: Annotated[StagedFile, Upload("contracts")]
    portrait: Annotated[StagedFile | None, Upload("portraits")] = None
    ledger: Annotated[StagedFile | None, Upload("ledgers")] = None


@post("/clients")
async def create(data: MultipartBody[NewClient]) -> dict[str, Any]:
    # An application attaches them to rows; see "Attach files to rows".
    for file in filter(None, (data.contract, data.portrait, data.ledger)):
        await file.keep()
    return {"name": data.name, "contract": data.contract, "portrait": data.portrait, "ledger": data.ledger}


# the part "tenants" begins
TENANTS = {"acme.example": "acme", "globex.example": "globex"}


def tenant_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Mapping[str, str]:
    tenant = TENANTS.get(connection.headers.get("host", "").partition(":")[0])
    if tenant is None:
        raise PermissionDeniedException("Nobody lives here")
    return {"tenant": tenant}


app = Litestar([create], plugins=[GranitePlugin(GraniteConfig(manager=manager, context=tenant_of))])
# the part "tenants" ends
