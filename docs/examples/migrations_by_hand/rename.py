"""A file column gets another name."""

import sqlalchemy as sa
from alembic import op

revision = "rename"
down_revision = None


def upgrade() -> None:
    op.drop_index("ix_book_scan_location", table_name="book")
    op.alter_column("book", "scan", new_column_name="image")
    op.create_index(
        "ix_book_image_location",
        "book",
        [sa.literal_column("(image ->> 'location')")],
        postgresql_ops={"(image ->> 'location')": "text_pattern_ops"},
    )
    op.execute("UPDATE granite_column SET column_name = 'image' WHERE table_name = 'book' AND column_name = 'scan'")
