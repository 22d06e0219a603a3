"""Past trade in a real database: payments as they stand once their life is over, planted row by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from support.shop import Shop

from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS, jakarta_day
from soundbox_server.db import Database, Statements
from soundbox_server.ids import new_id
from soundbox_server.revenue.service import rebuild

WORDS = {"paid": "Success", "refunded": "Refunded", "expired": "Failed", "awaiting_payment": "Pending"}


@dataclass(frozen=True, kw_only=True)
class Past:
    """One payment: asked for and, when its state says so, paid at the same moment. `settled_at_ms` by the bank."""

    at_ms: int
    amount: int
    method: str = "qris_dynamic"
    state: str = "paid"
    settled_at_ms: int | None = None

    @property
    def is_paid(self) -> bool:
        return self.state in ("paid", "refunded")


async def plant(database: Database, shop: Shop, trade: Sequence[Past]) -> None:
    """Put these payments into the shop's history, with its payouts and its sums by day."""

    async def work(tx: Statements) -> None:
        rows: list[list[Any]] = [[new_id("txn"), one] for one in trade]
        await tx.many(
            "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, source, method, qr_mode, amount, currency, "
            "state, late, fee_amount, expires_at_ms, paid_at_ms, captured_at_ms, created_at_ms, trace_id, paid_amount, "
            "refunded_amount) VALUES ($1, $2, $3, $4, 'api', $5, 'dynamic', $6, 'IDR', $7, $8, $9, $10, $11, $11, "
            "$10, 'trc', $12, $13)",
            [
                [
                    payment_id, shop.merchant_id, shop.outlet_id, shop.terminal_id, one.method, one.amount, one.state,
                    False, 0 if one.is_paid else None, one.at_ms, one.at_ms if one.is_paid else None,
                    one.amount if one.is_paid else None, one.amount if one.state == "refunded" else 0,
                ]
                for payment_id, one in rows
            ],
        )  # fmt: skip
        await tx.many(
            "INSERT INTO payment_attempt (id, payment_id, number, provider, reference, state, lease_until_ms, "
            "created_at_ms) VALUES ($1, $2, 1, 'sandbox', $1, $3, 0, $4)",
            [
                [new_id("att"), payment_id, "succeeded" if one.is_paid else "expired", one.at_ms]
                for payment_id, one in rows
                if one.method != "cash"
            ],
        )
        for payment_id, one in rows:
            if one.settled_at_ms is not None and one.method != "cash":
                await _settle(tx, shop, payment_id, one)
        await rebuild(tx)

    await database.write(work)


async def _settle(tx: Statements, shop: Shop, payment_id: str, one: Past) -> None:
    """A batch of its own, paid out."""
    settlement_id, day = new_id("stl"), jakarta_day(one.at_ms)
    await tx.execute(
        "INSERT INTO settlement (id, merchant_id, fee_profile_id, day, window_name, opens_at_ms, closes_at_ms, "
        "settles_on, state, payout_mode, gross_amount, net_amount, created_at_ms, changed_at_ms) "
        "VALUES ($1, $2, $3, $4, $1, $5, $6, $4, 'paid', 'manual', $7, $7, $6, $8)",
        settlement_id, shop.merchant_id, shop.fee_profile_id, day, one.at_ms - 1, one.at_ms, one.amount,
        one.settled_at_ms,
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO settlement_item (settlement_id, journal_id, payment_id, kind, provider, gross_amount, fee_amount, "
        "at_ms) VALUES ($1, $2, $3, 'payment', 'sandbox', $4, 0, $5)",
        settlement_id, new_id("jrn"), payment_id, one.amount, one.at_ms,
    )  # fmt: skip


def noon(day: int) -> int:
    """Noon in Jakarta, on the day of that number since 1970."""
    return day * DAY_MS - JAKARTA_AHEAD_MS + DAY_MS // 2


def steady(today: int, *, days: int = 90, amount: int = 50_000, a_day: int = 3) -> list[Past]:
    """The same sales on each of so many days before that day, each paid out a day later."""
    return [
        Past(at_ms=noon(day) + n, amount=amount, settled_at_ms=noon(day) + n + DAY_MS)
        for day in range(today - days, today)
        for n in range(a_day)
    ]
