"""Files that a merchant's own people ask for, and reports as PDF."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"

_THEIRS = sa.text("organisation_id IS NOT NULL")


def upgrade() -> None:
    with op.batch_alter_table("export_job") as export:
        export.add_column(sa.Column("organisation_id", sa.String(), nullable=True))
        export.create_foreign_key("export_job_organisation_id_fkey", "organisation", ["organisation_id"], ["id"])
        export.drop_constraint("export_format", type_="check")
        export.create_check_constraint("export_format", "format IN ('csv', 'jsonl', 'pdf')")
    op.create_index(
        "export_of_organisation",
        "export_job",
        ["organisation_id", "id"],
        sqlite_where=_THEIRS,
        postgresql_where=_THEIRS,
    )
