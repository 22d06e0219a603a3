"""Cash: paid at the counter before anybody tells us. No provider and no fee, and nothing to settle.

Boxes stay silent: whoever holds the cash needs no voice to know that it is there.
"""

from soundbox_server.db import Statements
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.payments.charging import Order, store_payment
from soundbox_server.payments.methods import PaymentMethod
from soundbox_server.payments.service import insert_steps


async def take_cash(
    tx: Statements, order: Order, *, paid_at_ms: int, note: str | None = None, now_ms: int
) -> tuple[str, bool]:
    """Store what somebody paid in cash, and book it: the payment's id, and whether it stood there before.

    Whether the merchant is approved does not matter: the money is in its own drawer, and never comes to us. `note` says
    why `paid_at_ms` is not what the till's clock said. Raises InvalidAmount, and Conflict for an order_code that stands
    for another payment.
    """
    assert order.method == PaymentMethod.CASH
    payment_id, found = await store_payment(tx, order, life_ms=0, now_ms=now_ms)
    if not found:
        await tx.execute(
            "UPDATE payment SET state = 'paid', paid_at_ms = $2, captured_at_ms = $3, fee_amount = 0, fee_bps = 0, "
            "fee_version = 'cash' WHERE id = $1",
            payment_id, paid_at_ms, now_ms,
        )  # fmt: skip
        booked = ledger.cash(payment_id=payment_id, merchant_id=order.merchant_id, amount=order.amount)
        await ledger.post(tx, [booked], now_ms=now_ms)
        await insert_steps(tx, [(new_id("pev"), payment_id, now_ms, "payment.paid", "paid", order.source, note)])
    return payment_id, found
