"""What each till took on each day in Jakarta: kept in the transaction that moves the money, and rebuildable from it.

Rows are added to after the payments' and the boxes' locks, in the order of their keys.
"""

from collections.abc import Sequence

import msgspec

from soundbox_server.clock import JAKARTA_AHEAD_MS, jakarta_day
from soundbox_server.db import Row, Statements

CASH = "cash"  # what stands for a provider where there is none
WALLET = "wallet"  # and where it went from wallet to wallet
NOBODYS = frozenset({CASH, WALLET})

SUMS = (
    "payments", "gross_amount", "fee_amount", "refunds", "refunded_amount", "reversals", "reversed_amount",
    "fee_returned", "wallet_amount",
)  # fmt: skip


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one event adds to a till's day, in whole rupiah."""

    at_ms: int
    terminal_id: str
    provider: str
    merchant_id: str
    payments: int = 0
    gross_amount: int = 0
    fee_amount: int = 0
    refunds: int = 0
    refunded_amount: int = 0
    reversals: int = 0
    reversed_amount: int = 0
    fee_returned: int = 0
    wallet_amount: int = 0


_COLUMNS = f"(day, terminal_id, provider, merchant_id, {', '.join(SUMS)})"
_ADD = "ON CONFLICT (day, terminal_id, provider) DO UPDATE SET " + ", ".join(
    f"{name} = daily_revenue.{name} + excluded.{name}" for name in SUMS
)
_UPSERT = f"""
INSERT INTO daily_revenue {_COLUMNS} VALUES ({", ".join(f"${n}" for n in range(1, 5 + len(SUMS)))}) {_ADD}
"""
_UPSERT_MANY = f"""
INSERT INTO daily_revenue {_COLUMNS} SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],
{", ".join(f"${n}::bigint[]" for n in range(5, 5 + len(SUMS)))}) {_ADD}
"""


async def add(tx: Statements, entries: Sequence[Entry]) -> None:
    """Add the events to their days; each row is written once, in the order of the keys."""
    days: dict[tuple[str, str, str, str], list[int]] = {}
    for entry in entries:
        key = (jakarta_day(entry.at_ms), entry.terminal_id, entry.provider, entry.merchant_id)
        sums = days.setdefault(key, [0] * len(SUMS))
        for n, name in enumerate(SUMS):
            sums[n] += getattr(entry, name)
    rows = [[*key, *sums] for key, sums in sorted(days.items())]
    if len(rows) > 1 and tx.dialect == "postgresql":  # one statement, that can travel with others
        await tx.many(_UPSERT_MANY, [[list(column) for column in zip(*rows, strict=True)]])
        return
    await tx.many(_UPSERT, rows)


def _day_sql(tx: Statements, column: str) -> str:
    seconds = f"(({column} + {JAKARTA_AHEAD_MS}) / 1000)"
    if tx.dialect == "sqlite":
        return f"strftime('%Y-%m-%d', {seconds}, 'unixepoch')"
    return f"to_char(to_timestamp({seconds}) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"


def without_provider(method: str) -> str:
    """What stands for the provider of a payment by this method."""
    return WALLET if method == WALLET else CASH


_WITHOUT_PROVIDER = f"CASE WHEN p.method = '{WALLET}' THEN '{WALLET}' ELSE '{CASH}' END"


def _events(tx: Statements) -> str:
    """One row for each event that moved money, from the payments, refunds and reversals themselves."""
    provider = (
        "coalesce((SELECT a.provider FROM payment_attempt a WHERE a.payment_id = p.id AND a.state = 'succeeded'), "
        f"{_WITHOUT_PROVIDER})"
    )
    return f"""
SELECT {_day_sql(tx, "p.paid_at_ms")} AS day, p.terminal_id, {provider} AS provider, p.merchant_id, 1 AS payments,
       p.paid_amount AS gross_amount, p.fee_amount, 0 AS refunds, 0 AS refunded_amount, 0 AS reversals,
       0 AS reversed_amount, 0 AS fee_returned,
       CASE WHEN p.credit_account IS NULL THEN 0 ELSE p.paid_amount END AS wallet_amount
FROM payment p WHERE p.paid_at_ms IS NOT NULL
UNION ALL
SELECT {_day_sql(tx, "r.finished_at_ms")}, p.terminal_id, coalesce(r.provider, {_WITHOUT_PROVIDER}), p.merchant_id,
       0, 0, 0, 1, r.amount, 0, 0, r.fee_returned, 0
FROM refund r JOIN payment p ON p.id = r.payment_id WHERE r.state = 'done' AND NOT r.from_suspense
UNION ALL
SELECT {_day_sql(tx, "p.reversed_at_ms")}, p.terminal_id, {provider}, p.merchant_id, 0, 0, 0, 0, 0,
       CASE WHEN o.source LIKE 'fees:%' THEN 0 ELSE 1 END, CASE WHEN o.source LIKE 'fees:%' THEN 0 ELSE o.amount END,
       CASE WHEN o.source LIKE 'fees:%' THEN o.amount ELSE 0 END, 0
FROM payment p JOIN journal j ON j.payment_id = p.id AND j.kind = 'reversal' JOIN posting o ON o.journal_id = j.id
WHERE p.reversed_at_ms IS NOT NULL
"""


def _summed(tx: Statements) -> str:
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in SUMS)
    return f"SELECT day, terminal_id, provider, merchant_id, {sums} FROM ({_events(tx)}) e GROUP BY 1, 2, 3, 4"


async def differences(tx: Statements, *, limit: int = 100) -> Sequence[Row]:
    """Days on which what is kept is not what the payments say, each with kept less said; empty when all is well.

    One statement: what is committed meanwhile is in both of its halves or in none.
    """
    less = ", ".join(f"-{name}" for name in SUMS)
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in SUMS)
    differs = " OR ".join(f"sum({name}) <> 0" for name in SUMS)
    return await tx.fetch(
        f"SELECT day, terminal_id, provider, merchant_id, {sums} FROM ("
        f"SELECT day, terminal_id, provider, merchant_id, {', '.join(SUMS)} FROM daily_revenue "
        f"UNION ALL SELECT day, terminal_id, provider, merchant_id, {less} FROM ({_summed(tx)}) s"
        f") b GROUP BY 1, 2, 3, 4 HAVING {differs} ORDER BY 1, 2, 3 LIMIT $1",
        limit,
    )


async def rebuild(tx: Statements) -> int:
    """Forget what is kept and sum it up again from the payments; returns how many rows there are now."""
    if tx.dialect == "postgresql":
        # Whoever adds now waits, and whoever has added is waited for: nothing is counted twice or lost.
        await tx.execute("LOCK TABLE daily_revenue IN SHARE ROW EXCLUSIVE MODE")
    await tx.execute("DELETE FROM daily_revenue")
    await tx.execute(f"INSERT INTO daily_revenue {_COLUMNS} {_summed(tx)}")
    rows = await tx.fetch("SELECT count(*) AS n FROM daily_revenue")
    return int(rows[0]["n"])
