"""Letters may have a file: as autogenerate writes it, but for the path, which stays until the files are there."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "granite_column",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("schema_name", sa.String(length=255), nullable=False),
        sa.Column("table_name", sa.String(length=255), nullable=False),
        sa.Column("column_name", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "granite_quota",
        sa.Column("scope", sa.String(length=255), nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("files", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("scope"),
    )
    op.create_table(
        "granite_state",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("data", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "granite_tombstone",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("location", sa.String(length=1024), nullable=False),
        sa.Column("backend", sa.String(length=255), nullable=False),
        sa.Column("storage_key", sa.String(length=255), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.Column("retention", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retry_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("run", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_granite_tombstone_location"), "granite_tombstone", ["location"], unique=False)
    op.create_index(op.f("ix_granite_tombstone_written_at"), "granite_tombstone", ["written_at"], unique=False)
    op.create_table(
        "granite_upload",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("storage_key", sa.String(length=255), nullable=False),
        sa.Column("backend", sa.String(length=255), nullable=False),
        sa.Column("location", sa.String(length=1024), nullable=False),
        sa.Column(
            "file",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=True,
        ),
        sa.Column("received", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=True),
        sa.Column("details", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=True),
        sa.Column("progress", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=True),
        sa.Column("holder", sa.String(length=64), nullable=True),
        sa.Column("held_until", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_granite_upload_expires_at"), "granite_upload", ["expires_at"], unique=False)
    op.create_index(
        "ix_granite_upload_file_location",
        "granite_upload",
        [sa.literal_column("(file ->> 'location')")],
        unique=False,
        postgresql_ops={"(file ->> 'location')": "text_pattern_ops"},
    )
    op.create_table(
        "granite_usage",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("location", sa.String(length=1024), nullable=False),
        sa.Column("backend", sa.String(length=255), nullable=False),
        sa.Column("storage_key", sa.String(length=255), nullable=False),
        sa.Column("scope", sa.String(length=255), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("touched_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_granite_usage_location"), "granite_usage", ["location"], unique=False)
    op.create_index(op.f("ix_granite_usage_scope"), "granite_usage", ["scope"], unique=False)
    op.create_index(op.f("ix_granite_usage_touched_at"), "granite_usage", ["touched_at"], unique=False)
    op.add_column(
        "letter",
        sa.Column(
            "file",
            sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql"),
            nullable=True,
        ),
    )
    op.create_index(
        "ix_letter_file_location",
        "letter",
        [sa.literal_column("(file ->> 'location')")],
        unique=False,
        postgresql_ops={"(file ->> 'location')": "text_pattern_ops"},
    )


def downgrade() -> None:
    op.drop_index("ix_letter_file_location", table_name="letter")
    op.drop_column("letter", "file")
    op.drop_index(op.f("ix_granite_tombstone_written_at"), table_name="granite_tombstone")
    op.drop_index(op.f("ix_granite_tombstone_location"), table_name="granite_tombstone")
    op.drop_index("ix_granite_upload_file_location", table_name="granite_upload")
    op.drop_index(op.f("ix_granite_upload_expires_at"), table_name="granite_upload")
    op.drop_index(op.f("ix_granite_usage_touched_at"), table_name="granite_usage")
    op.drop_index(op.f("ix_granite_usage_scope"), table_name="granite_usage")
    op.drop_index(op.f("ix_granite_usage_location"), table_name="granite_usage")
    op.drop_table("granite_usage")
    op.drop_table("granite_quota")
    op.drop_table("granite_upload")
    op.drop_table("granite_tombstone")
    op.drop_table("granite_state")
    op.drop_table("granite_column")
