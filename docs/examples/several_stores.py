"""Several stores in one application: a default one, fields that go elsewhere, and a move from a disk to S3."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from granite_core import StorageBackend, StorageManager, StoragePolicy, StoredObjectRef, backend_from_url
from granite_core.integrations.sqlalchemy import file_field


# the part "model" begins
class Base(DeclarativeBase):
    pass


class Attachment(Base):
    __tablename__ = "attachment"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    content: Mapped[StoredObjectRef | None] = file_field()  # the policy named "default"
    preview: Mapped[StoredObjectRef | None] = file_field("previews")


# the part "model" ends


# the part "stores" begins
def make_manager(settings: Mapping[str, str]) -> StorageManager:
    backends: dict[str, StorageBackend] = {
        "disk": backend_from_url(settings["DISK"]),
        "scratch": backend_from_url(settings["SCRATCH"]),
    }
    if "BUCKET" in settings:
        backends["bucket"] = backend_from_url(settings["BUCKET"])
    manager = StorageManager(
        backends,
        policies=[
            StoragePolicy("default"),  # in whatever backend is the default one
            StoragePolicy("previews", "scratch", content_types=["image/*"]),
        ],
        default_backend=settings.get("DEFAULT_STORE", "disk"),
    )
    manager.register(Base)
    return manager


# the part "stores" ends


# the part "move" begins
def move_all(engine: Engine, manager: StorageManager) -> int:
    """Move what lies elsewhere to where the policy sends new files; how many rows were changed.

    It may be stopped and started again at any time, beside a working application.
    """
    target = manager.get_policy("default").backend_key
    moved, last = 0, 0
    while True:
        with Session(engine) as session:
            query = select(Attachment.id, Attachment.content).where(Attachment.id > last)
            rows = session.execute(query.order_by(Attachment.id).limit(100)).all()
        if not rows:
            return moved
        for last, ref in rows:
            if ref is not None and ref.backend != target:
                moved += move_one(engine, manager, last, ref)


def move_one(engine: Engine, manager: StorageManager, number: int, ref: StoredObjectRef) -> bool:
    copy = manager.copy(ref)  # no row is locked, and no transaction open, while the bytes travel
    with Session(engine) as session:
        row = session.get(Attachment, number, with_for_update=True)
        if row is not None and row.content == ref:
            row.content = copy
            session.commit()  # what it held until now is let go: the sweep deletes it
            return True
    copy.discard()  # somebody gave the row another file meanwhile, or deleted it
    return False


# the part "move" ends
