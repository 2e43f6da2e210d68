"""The look-up's index on a large table, created while others go on writing."""

import sqlalchemy as sa
from alembic import op

revision = "index"
down_revision = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index(
            "ix_book_scan_location",
            "book",
            [sa.literal_column("(scan ->> 'location')")],
            postgresql_ops={"(scan ->> 'location')": "text_pattern_ops"},
            postgresql_concurrently=True,
            if_not_exists=True,
        )
