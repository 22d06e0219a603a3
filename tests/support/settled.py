"""Settlements to look at: made by a run, or planted where only its row counts."""

from support.settling import settle, settlements
from support.shop import NOW, Shop, execute

from soundbox_server.db import Database
from soundbox_server.ids import new_id

MONDAY, TUESDAY = "2026-05-25", "2026-05-26"  # the first business days after NOW


async def settled(database: Database, shop: Shop, *, day: str = MONDAY) -> str:
    """The id of the shop's batch of that day, once every window of it was run."""
    await settle(database, day)
    (batch,) = [one for one in await settlements(database, shop.merchant_id) if one["day"] == day]
    return str(batch["id"])


async def plant_settlement(database: Database, shop: Shop, *, day: str = MONDAY, state: str = "calculated") -> str:
    """A batch of no items; its id. One that pays something pays one rupiah."""
    settlement_id, pays = new_id("stl"), 0 if state in ("open", "carried") else 1
    await execute(
        database,
        "INSERT INTO settlement (id, merchant_id, fee_profile_id, day, window_name, opens_at_ms, closes_at_ms, "
        "settles_on, state, payout_mode, gross_amount, net_amount, created_at_ms) "
        "VALUES ($1, $2, $3, $4, 'daily', $5, $6, $4, $7, 'manual', $8, $8, $6)",
        settlement_id, shop.merchant_id, shop.fee_profile_id, day, NOW - 1_000, NOW, state, pays,
    )  # fmt: skip
    return settlement_id
