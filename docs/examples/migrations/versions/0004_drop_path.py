"""Letters have no path any more. For when nothing reads it, and a backup is made."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_column("letter", "path")


def downgrade() -> None:
    op.add_column("letter", sa.Column("path", sa.String(), nullable=True))
