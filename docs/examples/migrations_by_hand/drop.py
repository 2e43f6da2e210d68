"""A file column goes."""

from alembic import op

revision = "drop"
down_revision = "rename"


def upgrade() -> None:
    op.drop_column("book", "plain")
    op.execute("DELETE FROM granite_column WHERE table_name = 'book' AND column_name = 'plain'")
