"""Wallets' money apart in the sums of a day; how each charge is paid, and which pages let the payer choose;
mails by their age."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

_METHODS = (
    "'qris_dynamic', 'qris_static', 'gopay', 'ovo', 'dana', 'shopeepay', 'linkaja', 'va_bca', 'va_bni', 'va_bri', "
    "'va_mandiri', 'card_hosted', 'cash', 'wallet'"
)


def upgrade() -> None:
    op.add_column(
        "daily_revenue", sa.Column("wallet_amount", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    _sum_up_wallets()  # it takes longest: before the tables of the payments under way are locked
    with op.batch_alter_table("payment_attempt", table_kwargs={"sqlite_with_rowid": False}) as attempt:
        attempt.add_column(sa.Column("method", sa.String(), nullable=True))
        attempt.create_check_constraint("payment_attempt_method_known", f"method IN ({_METHODS})")
    op.add_column(
        "payment_session", sa.Column("payer_chooses", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    mail = sa.text("transport = 'mail'")
    op.create_index("outbox_mail", "outbox_message", ["id"], sqlite_where=mail, postgresql_where=mail)


def _sum_up_wallets() -> None:
    """What went to wallets on the days that are kept, by day in Jakarta, seven hours ahead."""
    seconds = "((p.paid_at_ms + 25200000) / 1000)"
    day = f"to_char(to_timestamp({seconds}) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
    if op.get_bind().dialect.name == "sqlite":
        day = f"strftime('%Y-%m-%d', {seconds}, 'unixepoch')"
    provider = (
        "coalesce((SELECT a.provider FROM payment_attempt a WHERE a.payment_id = p.id AND a.state = 'succeeded'), "
        "CASE WHEN p.method = 'wallet' THEN 'wallet' ELSE 'cash' END)"
    )
    op.execute(
        "UPDATE daily_revenue SET wallet_amount = s.amount FROM ("
        f"SELECT {day} AS day, p.terminal_id, {provider} AS provider, CAST(sum(p.paid_amount) AS BIGINT) AS amount "
        "FROM payment p WHERE p.credit_account IS NOT NULL AND p.paid_at_ms IS NOT NULL GROUP BY 1, 2, 3) AS s "
        "WHERE s.day = daily_revenue.day AND s.terminal_id = daily_revenue.terminal_id "
        "AND s.provider = daily_revenue.provider"
    )
