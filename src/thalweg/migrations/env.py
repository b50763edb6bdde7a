"""Run by Alembic: migrate over the connection that `thalweg.database.migrate` hands in."""

from alembic import context

from thalweg.database import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
