"""Files made in the background, and the workers' signs of life."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    _exports()
    op.create_table(
        "shard_beat",
        sa.Column("shard", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard"),
    )


def _exports() -> None:
    op.create_table(
        "export_job",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("with_bom", sa.Boolean(), nullable=False),
        sa.Column("filters", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requested_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("rows_done", sa.BigInteger(), nullable=False),
        sa.Column("rows_total", sa.BigInteger(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("failure", sa.String(), nullable=True),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'expired')", name="export_state_known"
        ),
        sa.CheckConstraint("format IN ('csv', 'jsonl')", name="export_format"),
        sa.CheckConstraint(
            "state <> 'done' OR (sha256 IS NOT NULL AND expires_at_ms IS NOT NULL)", name="export_whole"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    unfinished = sa.text("state IN ('queued', 'running')")
    op.create_index("export_unfinished", "export_job", ["id"], sqlite_where=unfinished, postgresql_where=unfinished)
