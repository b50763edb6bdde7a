"""Alembic migrations of the metadata database, forward only."""
