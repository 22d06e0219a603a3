"""Which message was the last that cannot be a box's own, so that the broker's copy of it is not a second one."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    for name in ("stray_epoch", "stray_said_at_ms"):
        op.add_column("device_presence", sa.Column(name, sa.BigInteger(), nullable=True))
