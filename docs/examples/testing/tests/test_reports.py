from __future__ import annotations

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient
from reports import Report, manager
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from granite_core import StoredObjectRef, unsaved
from granite_core.testing import MemoryStorage, make_ref, make_upload, sample_bytes
from granite_core.testing.factories import FileModelFactory, StoredObjectRefProvider

pytestmark = pytest.mark.anyio


# the part "row" begins
async def test_a_replaced_file_is_collected(session: AsyncSession, granite_storage: MemoryStorage) -> None:
    report = Report(title="Draft", file=await granite_storage.aput("reports", "pdf"))
    session.add(report)
    await session.commit()
    old = report.file

    report.file = new = await granite_storage.aput("reports", "pdf", size=5000)
    await session.commit()
    granite_storage.assert_only_stored([old, new])  # the old one waits for the grace

    await granite_storage.asweep_now(session)
    granite_storage.assert_only_stored([new])
    # the part "row" ends


# the part "undone" begins
async def test_what_is_rolled_back_leaves_nothing(session: AsyncSession, granite_storage: MemoryStorage) -> None:
    session.add(Report(title="Draft", file=unsaved(sample_bytes("pdf"), filename="draft.pdf")))
    await session.flush()
    await session.rollback()
    await granite_storage.asweep_now(session)
    granite_storage.assert_nothing_stored()
    # the part "undone" ends


# the part "upload" begins
async def test_an_upload_is_stored_and_served(
    client: AsyncTestClient[Litestar], session: AsyncSession, granite_storage: MemoryStorage
) -> None:
    upload = make_upload("pdf", size=20_000, filename="Année.pdf")
    answer = await client.post("/reports", data={"title": "Year"}, files={"file": upload})
    assert answer.status_code == 201

    report = await session.get_one(Report, answer.json())
    granite_storage.assert_stored(report.file, upload.content)
    assert report.file.original_filename == "Année.pdf"
    assert (await client.get(f"/reports/{report.id}/file")).content == upload.content

    await client.delete(f"/reports/{report.id}")
    await granite_storage.asweep_now(session)
    granite_storage.assert_nothing_stored()
    # the part "upload" ends


# the part "refused" begins
@pytest.mark.parametrize(
    ("upload", "status"),
    [
        (make_upload("png"), 415),
        (make_upload("png", filename="report.pdf", content_type="application/pdf"), 415),
        (make_upload("pdf", size=1_000_001), 413),
    ],
    ids=["picture", "picture in disguise", "too large"],
)
async def test_what_is_refused_leaves_nothing(
    client: AsyncTestClient[Litestar], granite_storage: MemoryStorage, upload: tuple[str, bytes, str], status: int
) -> None:
    answer = await client.post("/reports", data={"title": "Year"}, files={"file": upload})
    assert answer.status_code == status
    granite_storage.assert_nothing_stored()
    # the part "refused" ends


# the part "factory" begins
class ReportFactory(FileModelFactory[Report]):
    __files__ = StoredObjectRefProvider(manager, kind="pdf")


async def test_many_reports(session: AsyncSession, granite_storage: MemoryStorage) -> None:
    session.add_all(ReportFactory.batch(5))
    await session.commit()
    reports = (await session.scalars(select(Report))).all()
    granite_storage.assert_only_stored([each.file for each in reports])
    # the part "factory" ends


# the part "ref" begins
def label(file: StoredObjectRef) -> str:
    return f"{file.original_filename} ({file.size // 1000} kB)"


async def test_a_label_needs_no_store() -> None:
    assert label(make_ref("reports", "pdf", size=12_000)) == "report.pdf (12 kB)"
    # the part "ref" ends
