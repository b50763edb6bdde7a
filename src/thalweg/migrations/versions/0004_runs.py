"""attempts, signs of life, memory and comparisons of runs"""

import sqlalchemy as sa
from alembic import op

from thalweg.database import UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("attempt", sa.BigInteger(), nullable=False, server_default="1")
        )
        batch_op.add_column(
            sa.Column("is_last", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(sa.Column("repeats", sa.String(length=36), nullable=True))
        batch_op.add_column(sa.Column("claim", sa.String(length=258), nullable=True))
        batch_op.add_column(sa.Column("seen_at", UtcDateTime, nullable=True))
        batch_op.add_column(sa.Column("cancelled_by", sa.String(length=128), nullable=True))
        batch_op.add_column(sa.Column("peak_memory", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("html_uri", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("differences", sa.JSON(none_as_null=True), nullable=True))
        batch_op.create_index("ix_runs_repeats", ["repeats"], unique=False)
    running = sa.text("state = 'running'")
    op.create_index(
        "ix_runs_claim",
        "runs",
        ["claim"],
        unique=True,
        sqlite_where=running,
        postgresql_where=running,
    )
