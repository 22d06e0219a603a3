"""One payment under its lock, for the verbs that seldom run: lock first, then look."""

from soundbox_server.db import Row, Statements
from soundbox_server.errors import TransactionNotFound

_PAYMENT = """
SELECT p.id, p.state, p.amount, p.paid_amount, p.refunded_amount, p.fee_amount, p.fee_bps, p.late, p.review_reason,
       p.resolution, p.qr_mode, p.rrn, p.trace_id, p.promised, p.paid_at_ms, p.reversed_at_ms, p.expires_at_ms,
       p.merchant_id, p.terminal_id, p.method, p.credit_account, p.current_attempt_id, m.brand_name,
       m.announcement_policy, m.status AS merchant_status, m.criteria, m.fee_category, f.version_id,
       f.refund_returns_fee
FROM payment p JOIN merchant m ON m.id = p.merchant_id LEFT JOIN fee_profile f ON f.id = m.fee_profile_id
"""


async def lock_payment(tx: Statements, payment_id: str) -> Row:
    """The payment with its merchant's terms, locked until the commit. Raises TransactionNotFound."""
    await tx.fetch("SELECT id FROM payment WHERE id = $1 " + tx.lock("payment"), payment_id)
    rows = await tx.fetch(_PAYMENT + "WHERE p.id = $1", payment_id)
    if not rows:
        raise TransactionNotFound("No such transaction.", transaction_id=payment_id)
    return rows[0]


async def charged_by(tx: Statements, payment_id: str) -> Row | None:
    """The attempt that brought the money, or else the last one; None where nobody was asked, as with cash."""
    rows = await tx.fetch(
        "SELECT id, provider, reference, provider_reference, state FROM payment_attempt WHERE payment_id = $1 "
        "ORDER BY CASE WHEN state = 'succeeded' THEN 0 ELSE 1 END, number DESC LIMIT 1",
        payment_id,
    )
    return rows[0] if rows else None
