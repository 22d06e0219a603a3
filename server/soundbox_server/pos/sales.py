"""What was sold under an order code: kept beside the payment, for whoever asks what the money was for."""

from collections.abc import Sequence
from typing import Any

import orjson

from soundbox_server.db import Statements


async def keep_sale(
    tx: Statements,
    *,
    merchant_id: str,
    order_code: str,
    product_name: str | None,
    items: Sequence[dict[str, Any]],
    now_ms: int,
) -> None:
    """Keep it with the first request of its order code; one that is repeated finds it there."""
    await tx.execute(
        "INSERT INTO sale (merchant_id, order_code, product_name, items, created_at_ms) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (merchant_id, order_code) DO NOTHING",
        merchant_id, order_code, product_name, orjson.dumps(items).decode(), now_ms,
    )  # fmt: skip


async def items_of(tx: Statements, merchant_id: str, order_code: str) -> list[dict[str, Any]]:
    """What was sold under this order code; nothing where nobody said."""
    rows = await tx.fetch("SELECT items FROM sale WHERE merchant_id = $1 AND order_code = $2", merchant_id, order_code)
    return list(orjson.loads(rows[0]["items"])) if rows else []
