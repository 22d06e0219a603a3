"""What an organisation's wallets were paid and paid, newest first."""

from dataclasses import dataclass

from soundbox_server.db import Row, Statements
from soundbox_server.wallets.state import EntryKind

MOST = 100  # lines of a page

_ENTRIES = """
SELECT e.id, e.organisation_id, e.wallet_id, e.kind, e.direction, e.trace_id, e.amount, e.fee_percent, e.total_amount,
       e.counterparty, e.created_at_ms, s.state AS session_state, s.expires_at_ms, p.state AS payment_state,
       d.state AS withdrawal_state
FROM wallet_entry e
LEFT JOIN wallet_session s ON e.kind = 'payment' AND s.id = e.trace_id
LEFT JOIN payment p ON e.kind = 'topup' AND p.merchant_id = e.merchant_id AND p.order_code = e.trace_id
LEFT JOIN wallet_withdrawal d ON e.kind = 'withdrawal' AND d.id = e.trace_id
WHERE e.organisation_id = $1 AND e.id < $2 ORDER BY e.id DESC LIMIT $3
"""
_OF_TOPUPS = {"created": "pending", "awaiting_payment": "pending", "needs_review": "pending", "paid": "success",
              "partially_refunded": "success", "refunded": "success", "reversed": "success",
              "disputed": "success"}  # fmt: skip
_OF_WITHDRAWALS = {"created": "pending", "submitted": "pending", "unknown": "pending", "succeeded": "success"}
_NEWEST = "txn-" + "z" * 26  # no line is newer


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A line and where it stands: initiated, pending, success or failed."""

    row: Row
    status: str


async def entries_of(
    tx: Statements, organisation_id: str, *, before: str | None, limit: int, now_ms: int
) -> tuple[list[Listed], str | None]:
    """At most so many lines that were written before this one, and which one the next page begins before."""
    rows = list(await tx.fetch(_ENTRIES, organisation_id, before or _NEWEST, min(limit, MOST) + 1))
    page, more = rows[:limit], len(rows) > limit
    listed = [Listed(row=row, status=status_of(row, now_ms=now_ms)) for row in page]
    return listed, page[-1]["id"] if more else None


def status_of(row: Row, *, now_ms: int) -> str:
    """In the reference's words."""
    if row["kind"] == EntryKind.TOPUP:
        return _OF_TOPUPS.get(row["payment_state"] or "created", "failed")
    if row["kind"] == EntryKind.WITHDRAWAL:
        return _OF_WITHDRAWALS.get(row["withdrawal_state"], "failed")
    if row["kind"] == EntryKind.REFUND or row["session_state"] == "success":
        return "success"
    return "initiated" if row["expires_at_ms"] > now_ms else "failed"
