"""What payments cost from which day on, and what each merchant gets for each window of a business day."""

import json

import sqlalchemy as sa
from alembic import op

from soundbox_server import clock
from soundbox_server.fees.mdr import PROFILE, standard_versions
from soundbox_server.ids import new_id

revision = "0012"
down_revision = "0010"

_KEEPS_ROWID_AWAY = {"sqlite_with_rowid": False}
_WINDOWS = json.dumps([{"name": "daily", "cutoff": "23:59", "settle_after_days": 1}])


def upgrade() -> None:
    _fees()
    _journals()
    _settlements()
    with op.batch_alter_table("merchant") as merchant:
        merchant.add_column(sa.Column("fee_category", sa.String(), nullable=True))
        merchant.create_check_constraint(
            "merchant_fee_category",
            "fee_category IN ('education', 'SPBU', 'BLU', 'PSO', 'G2P', 'P2G', 'nonprofit_donation')",
        )
    op.add_column("payment", sa.Column("fee_rounding", sa.String(), nullable=True))
    op.execute("UPDATE payment SET fee_rounding = 'half_up' WHERE fee_bps IS NOT NULL")


def _fees() -> None:
    op.create_table(
        "fee_version",
        sa.Column("fee_profile_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("effective_from", sa.String(), nullable=False),
        sa.Column("rules", sa.String(), nullable=False),
        sa.Column("windows", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("added_by", sa.String(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("version >= 1", name="fee_version_counts_from_one"),
        sa.CheckConstraint("length(effective_from) = 10", name="fee_version_from_a_day"),
        sa.PrimaryKeyConstraint("fee_profile_id", "version"),
        sa.ForeignKeyConstraint(["fee_profile_id"], ["fee_profile.id"]),
        sa.UniqueConstraint("id", name="fee_version_id"),
    )
    with op.batch_alter_table("fee_profile") as profile:
        profile.add_column(sa.Column("name", sa.String(), nullable=True))
        profile.add_column(sa.Column("version_id", sa.String(), nullable=True))
    _keep_flat_rates()
    _standard_rates()
    with op.batch_alter_table("fee_profile") as profile:
        profile.drop_constraint("fee_profile_bps", type_="check")
        profile.drop_column("bps")
        profile.create_check_constraint("fee_profile_counts_from_one", "version >= 1")
        profile.alter_column("name", existing_type=sa.String(), nullable=False)
        profile.alter_column("version_id", existing_type=sa.String(), nullable=False)
    _refuse_changes()


def _keep_flat_rates() -> None:
    """What was agreed stays: one rate for everybody, whatever the day. Nobody agreed on the first profile yet where no
    merchant has it."""
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "DELETE FROM fee_profile WHERE id = :id AND created_at_ms = 0 "
            "AND NOT EXISTS (SELECT 1 FROM merchant m WHERE m.fee_profile_id = fee_profile.id)"
        ),
        {"id": PROFILE},
    )
    found = connection.execute(sa.text("SELECT id, version, bps, created_at_ms FROM fee_profile")).all()
    for profile, version, bps, at_ms in found:
        _add_version(profile, version, new_id("fev"), "1970-01-01", [{"bps": bps}], at_ms)


def _standard_rates() -> None:
    """The rates of the rule book: from their own days on, or from tomorrow where merchants have had others."""
    connection, versions = op.get_bind(), standard_versions()
    kept = connection.execute(sa.text("SELECT version FROM fee_profile WHERE id = :id"), {"id": PROFILE}).scalar()
    if kept is not None:
        at_ms = clock.now_ms()
        tomorrow = clock.jakarta_day(at_ms + clock.DAY_MS)
        _add_version(PROFILE, kept + 1, new_id("fev"), tomorrow, versions[-1][1], at_ms)
        op.execute(sa.text("UPDATE fee_profile SET version = version + 1 WHERE id = :id").bindparams(id=PROFILE))
        return
    connection.execute(
        sa.text("INSERT INTO fee_profile (id, version, bps, created_at_ms) VALUES (:id, :version, 0, 0)"),
        {"id": PROFILE, "version": len(versions)},
    )
    for number, (day, rules) in enumerate(versions, 1):
        _add_version(PROFILE, number, f"fev_standard_{number}", day, rules, 0)


def _add_version(
    profile: str, version: int, version_id: str, day: str, rules: list[dict[str, object]], at_ms: int
) -> None:
    values = {
        "profile": profile, "version": version, "id": version_id, "day": day, "rules": json.dumps(rules),
        "windows": _WINDOWS, "at_ms": at_ms,
    }  # fmt: skip
    op.get_bind().execute(
        sa.text(
            "INSERT INTO fee_version (fee_profile_id, version, id, effective_from, rules, windows, created_at_ms) "
            "VALUES (:profile, :version, :id, :day, :rules, :windows, :at_ms)"
        ),
        values,
    )
    op.get_bind().execute(
        sa.text("UPDATE fee_profile SET version_id = :id, name = CAST(:profile AS VARCHAR) WHERE id = :profile_id"),
        {"id": version_id, "profile": profile, "profile_id": profile},
    )


def _refuse_changes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER fee_version_{deed.lower()}_refused BEFORE {deed} ON fee_version "
                f"BEGIN SELECT RAISE(ABORT, 'what was agreed is not changed: add a version'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_new_terms() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'what was agreed is not changed: add a version'; END $$"
    )
    op.execute(
        "CREATE TRIGGER fee_version_refused BEFORE UPDATE OR DELETE OR TRUNCATE ON fee_version "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_new_terms()"
    )


def _journals() -> None:
    """SQLite makes the table anew, which takes the triggers that protect it away."""
    with op.batch_alter_table("journal", table_kwargs=_KEEPS_ROWID_AWAY) as journal:
        journal.drop_constraint("journal_kind", type_="check")
        journal.create_check_constraint(
            "journal_kind",
            "kind IN ('capture', 'suspense', 'refund', 'release', 'reversal', 'settlement', 'payout', "
            "'payout_reversal')",
        )
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER journal_{deed.lower()}_refused BEFORE {deed} ON journal "
                f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )


def _settlements() -> None:
    op.create_table(
        "settlement_run",
        sa.Column("fee_profile_id", sa.String(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("window_name", sa.String(), nullable=False),
        sa.Column("closes_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("cursor", sa.String(), nullable=False),
        sa.Column("settled_to", sa.String(), nullable=True),
        sa.Column("started_by", sa.String(), nullable=True),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('collecting', 'calculating', 'done')", name="settlement_run_state_known"),
        sa.CheckConstraint("(state = 'done') = (finished_at_ms IS NOT NULL)", name="settlement_run_ended_has_a_time"),
        sa.PrimaryKeyConstraint("fee_profile_id", "day", "window_name"),
        sa.ForeignKeyConstraint(["fee_profile_id"], ["fee_profile.id"]),
    )
    op.create_table(
        "settlement_progress",
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("settled_to", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("merchant_id"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
    )
    _batches()
    op.create_table(
        "settlement_item",
        sa.Column("settlement_id", sa.String(), nullable=False),
        sa.Column("journal_id", sa.String(), nullable=False),
        sa.Column("payment_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("gross_amount", sa.BigInteger(), nullable=False),
        sa.Column("fee_amount", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('payment', 'refund', 'reversal')", name="settlement_item_kind"),
        sa.CheckConstraint("(kind = 'payment') = (gross_amount > 0)", name="settlement_item_sign"),
        sa.PrimaryKeyConstraint("settlement_id", "journal_id"),
        sa.ForeignKeyConstraint(["settlement_id"], ["settlement.id"]),
        sa.UniqueConstraint("journal_id", name="settlement_item_once"),
        sqlite_with_rowid=False,
    )


def _batches() -> None:
    sums = ("gross_amount", "fee_amount", "adjustment_amount", "carried_in", "carried_out", "net_amount")
    op.create_table(
        "settlement",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        sa.Column("fee_profile_id", sa.String(), nullable=False),
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("window_name", sa.String(), nullable=False),
        sa.Column("opens_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("closes_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("settles_on", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("payout_mode", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
            for name in ("payments", "adjustments", *sums)
        ),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("calculated_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('open', 'calculated', 'carried', 'paying', 'paid', 'failed')", name="settlement_state_known"
        ),
        sa.CheckConstraint(
            "gross_amount - fee_amount + adjustment_amount + carried_in = net_amount + carried_out",
            name="settlement_adds_up",
        ),
        sa.CheckConstraint(
            "net_amount >= 0 AND carried_out <= 0 AND carried_in <= 0", name="settlement_pays_or_carries"
        ),
        sa.CheckConstraint("net_amount = 0 OR carried_out = 0", name="settlement_pays_first"),
        sa.CheckConstraint("(state IN ('open', 'carried')) = (net_amount = 0)", name="settlement_paid_has_a_net"),
        sa.CheckConstraint("opens_at_ms < closes_at_ms", name="settlement_window_has_a_length"),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["merchant_id"], ["merchant.id"]),
        sa.ForeignKeyConstraint(["fee_profile_id"], ["fee_profile.id"]),
        sa.UniqueConstraint("merchant_id", "day", "window_name", name="settlement_one_per_window"),
    )
    op.create_index("settlement_by_merchant", "settlement", ["merchant_id", "id"])
    op.create_index("settlement_by_window", "settlement", ["day", "window_name", "id"])
    for name, columns, where in (
        ("settlement_open", ["fee_profile_id", "day", "window_name"], sa.text("state = 'open'")),
        ("settlement_unpaid", ["id"], sa.text("state IN ('calculated', 'paying', 'failed')")),
    ):
        op.create_index(name, "settlement", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "settlement_share",
        sa.Column("settlement_id", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("merchant_id", sa.String(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("payments", "adjustments", *sums)),
        sa.Column("carried_to", sa.String(), nullable=True),
        sa.CheckConstraint(
            "gross_amount - fee_amount + adjustment_amount + carried_in = net_amount + carried_out",
            name="settlement_share_adds_up",
        ),
        sa.CheckConstraint("net_amount >= 0", name="settlement_share_net"),
        sa.PrimaryKeyConstraint("settlement_id", "provider"),
        sa.ForeignKeyConstraint(["settlement_id"], ["settlement.id"]),
        sa.ForeignKeyConstraint(["carried_to"], ["settlement.id"]),
        sqlite_with_rowid=False,
    )
    carries = sa.text("carried_out <> 0 AND carried_to IS NULL")
    op.create_index(
        "settlement_share_carries", "settlement_share", ["merchant_id"], sqlite_where=carries, postgresql_where=carries
    )
