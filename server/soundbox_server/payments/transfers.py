"""From wallet to wallet: paid at once, without a provider, and said at the payee's terminal like any other payment."""

from soundbox_server.announcements.service import Announced, Telling, queue_payment_announcement
from soundbox_server.db import Statements
from soundbox_server.errors import Conflict
from soundbox_server.fees.terms import ROUNDING
from soundbox_server.ledger import service as ledger
from soundbox_server.payments.charging import Order, store_payment
from soundbox_server.payments.methods import PaymentMethod
from soundbox_server.payments.state import PaymentState, require
from soundbox_server.payments.timeline import step
from soundbox_server.revenue import service as revenue

FEE_VERSION = "wallet"  # the service fee of the setting


async def take_transfer(
    tx: Statements,
    order: Order,
    *,
    payer: str,
    fee: int,
    merchant_name: str,
    policy: str,
    telling: Telling,
    now_ms: int,
) -> str:
    """Move the order's amount from the payer's account to its `credit_account`, the payee's, which owes the fee; and
    say it, at the boxes that `policy` names. Returns the payment's id.

    That the payer has it is the caller's to look at, under the wallets' locks. Raises InvalidAmount, and Conflict for
    an order_code that was paid.
    """
    assert order.method == PaymentMethod.WALLET
    assert order.credit_account is not None
    payment_id, found = await store_payment(tx, order, life_ms=0, now_ms=now_ms)
    if found:
        raise Conflict("This order_code belongs to another payment.", order_code=order.order_code)
    await tx.execute(
        "UPDATE payment SET state = 'paid', paid_amount = amount, paid_at_ms = $2, captured_at_ms = $2, "
        "fee_amount = $3, fee_version = $4, fee_rounding = $5 WHERE id = $1",
        payment_id, now_ms, fee, FEE_VERSION, ROUNDING,
    )  # fmt: skip
    paid = require(PaymentState.CREATED, PaymentState.PAID)
    await step(tx, payment_id, "payment.paid", paid, source=order.source, now_ms=now_ms)
    journal = ledger.transfer(
        payment_id=payment_id, payer=payer, payee=order.credit_account, amount=order.amount, fee=fee
    )
    await ledger.post(tx, [journal], now_ms=now_ms)
    announced = Announced(
        payment_id=payment_id,
        terminal_id=order.terminal_id,
        merchant_name=merchant_name,
        amount=order.amount,
        paid_at_ms=now_ms,
        trace_id=order.trace_id,
        policy=policy,
    )
    await queue_payment_announcement(tx, [announced], telling=telling, now_ms=now_ms)
    earned = revenue.Entry(
        at_ms=now_ms,
        terminal_id=order.terminal_id,
        provider=revenue.WALLET,
        merchant_id=order.merchant_id,
        payments=1,
        gross_amount=order.amount,
        fee_amount=fee,
        wallet_amount=order.amount,
    )
    await revenue.add(tx, [earned])
    return payment_id
