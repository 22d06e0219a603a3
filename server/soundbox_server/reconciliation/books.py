"""The ledger against sums of another origin: payments, refunds and what providers told us.

Every journal sums to zero by its form, so that alone proves nothing. Each check is one statement, which sees one moment
of the database; what is committed meanwhile is in both of its halves or in none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from soundbox_server.db import Row, Statements

MOST = 100  # findings of one check: whoever has more has one reason for them


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the books hold of something, and what they should: `booked` less `expected` is what is wrong."""

    check: str
    subject: str  # an account, or a payment
    unit: str
    booked: int
    expected: int


async def check(tx: Statements) -> list[Finding]:
    """Everything that is wrong with the books; empty when all is well."""
    return [
        *await _balances(tx),
        *await _captures(tx),
        *await _settlements(tx),
        *await _never_negative(tx),
        *await _empty(tx),
    ]


_BALANCES = """
SELECT source AS account, unit, -sum(amount) AS booked, 0 AS expected FROM posting GROUP BY source, unit
UNION ALL
SELECT destination, unit, sum(amount), 0 FROM posting GROUP BY destination, unit
"""

# What is left of each payment's money and fee, and who took it. Of a reversed one nothing is, or less, where it was
# refunded besides after the bank had taken all of it.
_LEFT = """
SELECT p.merchant_id, p.method, p.id AS payment_id, p.credit_account, p.paid_amount, a.provider,
       CASE WHEN p.state = 'reversed' THEN -coalesce(r.returned_twice, 0)
            ELSE p.paid_amount - coalesce(r.returned, 0) END AS gross,
       CASE WHEN p.state = 'reversed' THEN 0 ELSE p.fee_amount - coalesce(r.fee_returned, 0) END AS fee
FROM payment p
LEFT JOIN payment_attempt a ON a.payment_id = p.id AND a.state = 'succeeded'
LEFT JOIN (SELECT f.payment_id, sum(f.amount) AS returned, sum(f.fee_returned) AS fee_returned,
                  sum(CASE WHEN f.finished_at_ms > q.reversed_at_ms THEN f.amount ELSE 0 END) AS returned_twice
           FROM refund f JOIN payment q ON q.id = f.payment_id
           WHERE f.state = 'done' AND NOT f.from_suspense GROUP BY f.payment_id) r ON r.payment_id = p.id
WHERE p.paid_at_ms IS NOT NULL
"""
# By merchant and provider first: there are few of these, however many payments there are.
_SUMS = f"""
SELECT merchant_id, provider, method, sum(gross) AS gross, sum(fee) AS fee,
       sum(CASE WHEN credit_account IS NULL THEN 0 ELSE paid_amount END) AS credited
FROM ({_LEFT}) l GROUP BY 1, 2, 3
"""
_OF_PAYMENTS = """
SELECT 'provider_receivable:' || provider AS account, -gross AS expected FROM sums WHERE provider IS NOT NULL
UNION ALL
SELECT 'fees:' || provider, fee FROM sums WHERE provider IS NOT NULL
UNION ALL
SELECT 'merchant_payable:' || merchant_id, gross - fee - credited FROM sums WHERE provider IS NOT NULL
UNION ALL
SELECT 'cash_sales:' || merchant_id, gross FROM sums WHERE method = 'cash'
UNION ALL
SELECT 'cash_drawer:' || merchant_id, -gross FROM sums WHERE method = 'cash'
UNION ALL
SELECT 'fees:wallet', fee FROM sums WHERE method = 'wallet'
"""
# What was put into wallets, paid from one to another, and taken out of them.
_OF_WALLETS = f"""
SELECT credit_account AS account, paid_amount AS expected FROM payment
WHERE credit_account IS NOT NULL AND paid_at_ms IS NOT NULL AND method <> 'wallet'
UNION ALL
SELECT credit_account, gross - fee FROM ({_LEFT}) l WHERE method = 'wallet'
UNION ALL
SELECT 'wallet:' || s.payer_wallet_id, -l.gross FROM ({_LEFT}) l JOIN wallet_session s ON s.payment_id = l.payment_id
UNION ALL
SELECT 'wallet:' || wallet_id, -amount FROM wallet_withdrawal WHERE state NOT IN ('failed', 'reversed')
UNION ALL
SELECT 'clearing:' || id, amount FROM wallet_withdrawal WHERE state IN ('created', 'submitted', 'unknown')
UNION ALL
SELECT 'provider_receivable:' || bank, amount FROM wallet_withdrawal WHERE state = 'succeeded'
"""

# Money that fitted no payment when it came, as its report was kept. One transfer is known by its retrieval reference,
# or else by its event, and counts once however often it is told; what its payment was captured by is not here, unless
# it was kept apart before an operator accepted it.
_TOLD = """
SELECT e.provider, e.outcome, e.event_key, e.received_at_ms, e.id, p.rrn AS captured_rrn,
       EXISTS (SELECT 1 FROM payment_event s WHERE s.payment_id = p.id AND s.kind = 'payment.accepted') AS accepted,
       {status} AS status, {currency} AS currency, {amount} AS amount, {rrn} AS rrn
FROM provider_event e LEFT JOIN payment p ON p.id = e.payment_id WHERE e.report IS NOT NULL
"""
_CAME = """
SELECT provider, amount FROM (
  SELECT provider, amount,
         row_number() OVER (PARTITION BY provider, coalesce('rrn:' || rrn, 'event:' || event_key)
                            ORDER BY received_at_ms, id) AS telling
  FROM ({told}) t
  WHERE status = 'paid' AND currency = 'IDR' AND amount > 0
    AND (rrn IS NULL OR captured_rrn IS NULL OR rrn <> captured_rrn OR outcome <> 'needs_review'
         OR accepted)
) c WHERE telling = 1
"""
# It leaves by a refund, or by a decision, of which the ledger's own journal is the only sum there is.
_KEPT_APART = """
SELECT provider, amount FROM ({came}) came
UNION ALL
SELECT r.provider, -r.amount FROM refund r WHERE r.state = 'done' AND r.from_suspense
UNION ALL
SELECT substr(o.source, 10), -o.amount FROM posting o JOIN journal j ON j.id = o.journal_id
WHERE j.kind = 'release' AND o.source LIKE 'suspense:%'
"""
_OF_SUSPENSE = """
SELECT 'suspense:' || provider AS account, amount AS expected FROM kept
UNION ALL
SELECT 'provider_receivable:' || provider, -amount FROM kept
"""
# What a settlement's net left, where it waits, and where it went once it was paid.
_OF_SETTLEMENTS = """
SELECT 'merchant_payable:' || merchant_id AS account, -net_amount AS expected FROM settlement WHERE net_amount > 0
UNION ALL
SELECT 'clearing:' || id, net_amount FROM settlement WHERE net_amount > 0
UNION ALL
SELECT 'clearing:' || settlement_id, -amount FROM payout WHERE state = 'succeeded'
UNION ALL
SELECT 'provider_receivable:' || s.provider, s.net_amount FROM payout p
JOIN settlement_share s ON s.settlement_id = p.settlement_id WHERE p.state = 'succeeded' AND p.mode = 'merchant_direct'
UNION ALL
SELECT 'manual_payout', amount FROM payout WHERE state = 'succeeded' AND mode = 'manual'
"""
# What licenses should hold: what was bought and paid, what staff gave, less what was set aside or used.
_OF_TOKENS = """
SELECT 'reserved:' || license_id AS account, tokens AS expected FROM token_use WHERE state = 'reserved'
UNION ALL
SELECT 'token_used', tokens FROM token_use WHERE state = 'used'
UNION ALL
SELECT 'license:' || id, -tokens_taken FROM license
UNION ALL
SELECT 'license:' || t.license_id, t.tokens_requested + t.bonus_tokens FROM token_topup t
JOIN payment p ON p.id = t.payment_id WHERE p.paid_at_ms IS NOT NULL AND p.paid_amount >= p.amount
UNION ALL
SELECT o.destination, o.amount FROM posting o JOIN journal j ON j.id = o.journal_id
WHERE j.kind = 'token' AND o.source = 'token_issue'
"""
_CHECKED = (
    "provider_receivable:", "fees:", "merchant_payable:", "cash_sales:", "cash_drawer:", "suspense:", "clearing:",
    "manual_payout", "wallet:", "license:", "reserved:", "token_used",
)  # fmt: skip


def _member(tx: Statements, name: str) -> str:
    if tx.dialect == "sqlite":
        return f"json_extract(e.report, '$.payment.{name}')"
    text = f"e.report::json -> 'payment' ->> '{name}'"
    return f"({text})::bigint" if name == "amount_idr" else text


def _sums(tx: Statements) -> str:
    told = _TOLD.format(
        status=_member(tx, "status"), currency=_member(tx, "currency"), amount=_member(tx, "amount_idr"),
        rrn=_member(tx, "rrn"),
    )  # fmt: skip
    kept = _KEPT_APART.format(came=_CAME.format(told=told))
    return f"WITH sums AS MATERIALIZED ({_SUMS}), kept AS MATERIALIZED ({kept})"


async def _balances(tx: Statements) -> list[Finding]:
    """Every account that payments have a say about holds what they say."""
    checked = " OR ".join(f"account LIKE '{prefix}%'" for prefix in _CHECKED)
    expected = " UNION ALL ".join((_OF_PAYMENTS, _OF_SUSPENSE, _OF_SETTLEMENTS, _OF_WALLETS))
    rows = await tx.fetch(
        f"{_sums(tx)} SELECT account, unit, CAST(sum(booked) AS BIGINT) AS booked, "
        "CAST(sum(expected) AS BIGINT) AS expected FROM ("
        f"{_BALANCES} UNION ALL SELECT account, 'IDR', 0, expected FROM ({expected}) x "
        f"UNION ALL SELECT account, 'TOKEN', 0, expected FROM ({_OF_TOKENS}) y"
        f") b WHERE {checked} GROUP BY account, unit HAVING sum(booked) <> sum(expected) ORDER BY 1, 2 LIMIT {MOST}"
    )
    return _found("balance", rows)


async def _captures(tx: Statements) -> list[Finding]:
    """What was paid was captured once, for its amount and its fee; nothing else was."""
    rows = await tx.fetch(
        "SELECT id AS account, 'IDR' AS unit, CAST(sum(booked) AS BIGINT) AS booked, "
        "CAST(sum(expected) AS BIGINT) AS expected FROM ("
        "SELECT p.id, 0 AS booked, p.paid_amount AS expected, 0 AS fee, p.fee_amount AS wanted_fee "
        "FROM payment p WHERE p.paid_at_ms IS NOT NULL UNION ALL "
        "SELECT j.payment_id, CASE WHEN o.destination LIKE 'fees:%' THEN 0 ELSE o.amount END, 0, "
        "CASE WHEN o.destination LIKE 'fees:%' THEN o.amount ELSE 0 END, 0 "
        "FROM journal j JOIN posting o ON o.journal_id = j.id WHERE j.kind = 'capture'"
        ") c GROUP BY id HAVING sum(booked) <> sum(expected) OR sum(fee) <> sum(wanted_fee) "
        f"ORDER BY 1 LIMIT {MOST}"
    )
    return _found("capture", rows)


async def _settlements(tx: Statements) -> list[Finding]:
    """A batch is the sum of its items, and its shares are the batch."""
    rows = await tx.fetch(
        "SELECT id AS account, 'IDR' AS unit, CAST(sum(booked) AS BIGINT) AS booked, "
        "CAST(sum(expected) AS BIGINT) AS expected FROM ("
        "SELECT id, gross_amount - fee_amount + adjustment_amount AS booked, 0 AS expected, net_amount AS net "
        "FROM settlement WHERE state <> 'open' UNION ALL "
        "SELECT s.id, 0, i.gross_amount - i.fee_amount, 0 FROM settlement s "
        "JOIN settlement_item i ON i.settlement_id = s.id WHERE s.state <> 'open' UNION ALL "
        "SELECT s.id, 0, 0, -h.net_amount FROM settlement s "
        "JOIN settlement_share h ON h.settlement_id = s.id WHERE s.state <> 'open'"
        f") b GROUP BY id HAVING sum(booked) <> sum(expected) OR sum(net) <> 0 ORDER BY 1 LIMIT {MOST}"
    )
    return _found("settlement", rows)


async def _never_negative(tx: Statements) -> list[Finding]:
    """Nobody spends what is not there: wallets, tokens, and money that is kept apart."""
    owned = " OR ".join(f"account LIKE '{prefix}%'" for prefix in ("wallet:", "license:", "reserved:", "suspense:"))
    rows = await tx.fetch(
        "SELECT account, unit, CAST(sum(booked) AS BIGINT) AS booked, 0 AS expected "
        f"FROM ({_BALANCES}) b WHERE {owned} GROUP BY account, unit HAVING sum(booked) < 0 ORDER BY 1, 2 LIMIT {MOST}"
    )
    return _found("negative", rows)


async def _empty(tx: Statements) -> list[Finding]:
    """A journal moves something."""
    rows = await tx.fetch(
        "SELECT j.id AS account, 'IDR' AS unit, 0 AS booked, 1 AS expected FROM journal j "
        f"WHERE NOT EXISTS (SELECT 1 FROM posting o WHERE o.journal_id = j.id) ORDER BY j.id LIMIT {MOST}"
    )
    return _found("empty_journal", rows)


def _found(check: str, rows: Sequence[Row]) -> list[Finding]:
    return [
        Finding(
            check=check,
            subject=row["account"],
            unit=row["unit"],
            booked=int(row["booked"]),
            expected=int(row["expected"]),
        )
        for row in rows
    ]
