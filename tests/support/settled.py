"""A settlement as a run leaves it: of what a merchant's journals hold, with one batch for everything."""

from typing import Any

from support.shop import NOW, Shop, execute, rows

from soundbox_server.db import Database
from soundbox_server.ids import new_id

_JOURNALS = """
SELECT j.id, j.kind, j.payment_id, p.paid_amount, p.fee_amount, p.paid_at_ms, r.amount, r.fee_returned,
       r.finished_at_ms, coalesce(r.provider, a.provider) AS provider
FROM journal j JOIN payment p ON p.id = j.payment_id
LEFT JOIN payment_attempt a ON a.payment_id = p.id AND a.state = 'succeeded'
LEFT JOIN refund r ON j.kind = 'refund' AND r.payment_id = p.id
WHERE p.merchant_id = $1 AND j.kind IN ('capture', 'refund') ORDER BY j.id
"""


async def settle(
    database: Database, shop: Shop, *, day: str = "2026-05-23", state: str = "calculated", carried_in: int = 0
) -> str:
    """The batch's id. Each payment may have one refund."""
    items = [_item(row) for row in await rows(database, _JOURNALS, shop.merchant_id)]
    settlement_id = new_id("stl")
    sums = _sums(items, carried_in)
    columns = ", ".join(sums)
    marks = ", ".join(f"${n}" for n in range(9, 9 + len(sums)))
    await execute(
        database,
        "INSERT INTO settlement (id, merchant_id, fee_profile_id, day, window_name, opens_at_ms, closes_at_ms, "
        f"settles_on, state, payout_mode, created_at_ms, {columns}) "
        f"VALUES ($1, $2, $3, $4, 'day', $5, $6, '2026-05-26', $7, 'manual', $8, {marks})",
        settlement_id, shop.merchant_id, shop.fee_profile_id, day, NOW - 1_000, NOW, state, NOW, *sums.values(),
    )  # fmt: skip
    for provider in sorted({item["provider"] for item in items}):
        share = _sums([item for item in items if item["provider"] == provider], carried_in)
        carried_in = 0
        await execute(
            database,
            f"INSERT INTO settlement_share (settlement_id, provider, merchant_id, {columns}) "
            f"VALUES ($1, $2, $3, {', '.join(f'${n}' for n in range(4, 4 + len(share)))})",
            settlement_id, provider, shop.merchant_id, *share.values(),
        )  # fmt: skip
    for item in items:
        await execute(
            database,
            "INSERT INTO settlement_item (settlement_id, journal_id, payment_id, kind, provider, gross_amount, "
            "fee_amount, at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            settlement_id, *item.values(),
        )  # fmt: skip
    return settlement_id


def _item(row: dict[str, Any]) -> dict[str, Any]:
    paid = row["kind"] == "capture"
    return {
        "journal_id": row["id"],
        "payment_id": row["payment_id"],
        "kind": "payment" if paid else "refund",
        "provider": row["provider"],
        "gross_amount": row["paid_amount"] if paid else -row["amount"],
        "fee_amount": row["fee_amount"] if paid else -row["fee_returned"],
        "at_ms": row["paid_at_ms"] if paid else row["finished_at_ms"],
    }


def _sums(items: list[dict[str, Any]], carried_in: int) -> dict[str, int]:
    paid = [item for item in items if item["kind"] == "payment"]
    back = [item for item in items if item["kind"] != "payment"]
    gross, fees = sum(item["gross_amount"] for item in paid), sum(item["fee_amount"] for item in paid)
    adjusted = sum(item["gross_amount"] - item["fee_amount"] for item in back)
    left = gross - fees + adjusted + carried_in
    return {
        "payments": len(paid), "adjustments": len(back), "gross_amount": gross, "fee_amount": fees,
        "adjustment_amount": adjusted, "carried_in": carried_in, "carried_out": min(left, 0),
        "net_amount": max(left, 0),
    }  # fmt: skip
