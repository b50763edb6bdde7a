"""what people are still to be told"""

import sqlalchemy as sa
from alembic import op

from thalweg.database import UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("pipeline", sa.String(length=128), nullable=False),
        sa.Column("webhook", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("tried_at", UtcDateTime, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
