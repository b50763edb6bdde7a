"""the units in which what waits in quarantine is wanted"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("quarantine", sa.Column("units", sa.JSON(none_as_null=True), nullable=True))
