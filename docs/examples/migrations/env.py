"""Alembic's environment."""

from alembic import context
from migrating import Base, engine

from granite_core.integrations.sqlalchemy import migrations

migrations.compare_lookup_indexes()

with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_item=migrations.render_item)
    with context.begin_transaction():
        context.run_migrations()
