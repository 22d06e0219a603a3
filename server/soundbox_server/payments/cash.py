"""Cash: paid at the counter before anybody tells us. No provider and no fee, and nothing to settle.

Boxes stay silent: whoever holds the cash needs no voice to know that it is there.
"""

from soundbox_server.db import Statements
from soundbox_server.ledger import service as ledger
from soundbox_server.payments.adjustments import reverse
from soundbox_server.payments.charging import Order, store_payment
from soundbox_server.payments.locked import lock_payment
from soundbox_server.payments.methods import PaymentMethod
from soundbox_server.payments.state import PaymentState, require
from soundbox_server.payments.timeline import step
from soundbox_server.revenue import service as revenue


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
        await _book(tx, order, payment_id, paid_at_ms=paid_at_ms, now_ms=now_ms)
        paid = require(PaymentState.CREATED, PaymentState.PAID)
        await step(tx, payment_id, "payment.paid", paid, source=order.source, detail=note, now_ms=now_ms)
    return payment_id, found


async def _book(tx: Statements, order: Order, payment_id: str, *, paid_at_ms: int, now_ms: int) -> None:
    await tx.execute(
        "UPDATE payment SET state = 'paid', paid_amount = amount, paid_at_ms = $2, captured_at_ms = $3, "
        "fee_amount = 0, fee_bps = 0, fee_version = 'cash' WHERE id = $1",
        payment_id, paid_at_ms, now_ms,
    )  # fmt: skip
    journal = ledger.cash(payment_id=payment_id, merchant_id=order.merchant_id, amount=order.amount)
    await ledger.post(tx, [journal], now_ms=now_ms)
    earned = revenue.Entry(
        at_ms=paid_at_ms,
        terminal_id=order.terminal_id,
        provider=revenue.CASH,
        merchant_id=order.merchant_id,
        payments=1,
        gross_amount=order.amount,
    )
    await revenue.add(tx, [earned])


async def take_cash_back(tx: Statements, payment_id: str, *, source: str, now_ms: int) -> None:
    """The sale never was: what is left of its cash leaves the drawer. What went back before changes nothing."""
    payment = await lock_payment(tx, payment_id)
    if payment["state"] not in (PaymentState.REFUNDED, PaymentState.REVERSED):
        await reverse(tx, payment, event_id=None, source=source, now_ms=now_ms)
