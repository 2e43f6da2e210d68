"""Letters get the file that their path leads to."""

from alembic import op
from migrating import MEDIA, manager

from granite_core import StoredObjectRef, unsaved
from granite_core.integrations.sqlalchemy import backfill_files

revision = "0003"
down_revision = "0002"


def read(path: str) -> StoredObjectRef:
    found = (MEDIA / path).resolve()
    if not found.is_relative_to(MEDIA.resolve()):
        raise ValueError(f"{path} leads out of {MEDIA}")
    return unsaved(found)


def upgrade() -> None:
    with op.get_context().autocommit_block():  # each batch is committed, so that nothing is done twice
        report = backfill_files(
            op.get_bind(),
            manager,
            "letters",
            table="letter",
            key="id",
            old="path",
            new="file",
            content=read,
            on_error=lambda key, error: print(f"letter {key}: {error}"),
        )
    if report.failed or report.left:
        raise RuntimeError(f"run the migration again: {report}")


def downgrade() -> None:
    pass  # the paths are still there
