"""What others hear of a payment (webhooks/): the steps of its log that mean something outside, each with the payment as
it is right after it.
"""

from collections.abc import Collection, Mapping, Sequence

from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Row, Statements
from soundbox_server.payments.state import PaymentState
from soundbox_server.webhooks.service import PAYMENT_HEARD, Event, tell

TOLD_AS = {
    "payment.paid": "payment.paid",
    "payment.accepted": "payment.paid",  # an operator found out whose the money is
    "payment.paid_late": "payment.late",
    "payment.expired": "payment.expired",
    "payment.failed": "payment.failed",
    "payment.rejected": "payment.failed",
    "payment.taken_back": "payment.failed",
    "payment.cancelled": "payment.cancelled",
    "payment.needs_review": "payment.needs_review",
    "payment.reversed": "payment.reversed",
    "payment.disputed": "payment.disputed",
    "payment.dispute_won": "payment.dispute_won",
    "refund.done": "payment.refunded",
    "refund.failed": "payment.refund_failed",
}

Facts = Mapping[str, object]  # of a payment, by column


async def facts_of(tx: Statements, payment_ids: Collection[str]) -> dict[str, Facts]:
    """The payments of these of which somebody hears, as they are."""
    if not payment_ids:
        return {}
    rows = await tx.fetch(
        f"SELECT {', '.join(f'p.{column}' for column in _COLUMNS)}, m.organisation_id "
        f"FROM payment p JOIN merchant m ON m.id = p.merchant_id WHERE p.id {tx.among(1)} AND {PAYMENT_HEARD}",
        sorted(payment_ids),
    )
    return {row["id"]: _facts(row) for row in rows}


_COLUMNS = (
    "id", "merchant_id", "outlet_id", "terminal_id", "device_id", "order_code", "description", "method", "source",
    "amount", "currency", "late", "paid_amount", "refunded_amount", "fee_amount", "issuer", "created_at_ms",
    "expires_at_ms", "paid_at_ms",
)  # fmt: skip


def _facts(row: Row) -> Facts:
    return {column: row[column] for column in (*_COLUMNS, "organisation_id")}


async def tell_steps(
    tx: Statements, steps: Sequence[Sequence[object]], facts: Mapping[str, Facts] | None = None
) -> None:
    """Tell those of these rows of the log that mean something to somebody. Whoever has looked already hands over the
    payments' `facts`, as they are after the steps; the others are looked for."""
    told = [step for step in steps if step[3] in TOLD_AS and _is_news(step)]
    if not told:
        return
    if facts is None:
        facts = await facts_of(tx, {str(step[1]) for step in told})
    await tell(tx, [_event(step, facts[str(step[1])]) for step in told if step[1] in facts])


def _is_news(step: Sequence[object]) -> bool:
    """Money that came on top of a paid payment, and was rejected, leaves it paid: nothing failed."""
    return step[3] != "payment.rejected" or step[4] == PaymentState.FAILED


def _event(step: Sequence[object], payment: Facts) -> Event:
    _, payment_id, at_ms, kind, state, _, detail = step
    data = _data(payment) | {"status": state}
    if kind == "refund.done":
        data["refund_amount"] = int(str(detail))
    return Event(
        type=TOLD_AS[str(kind)],
        organisation_id=str(payment["organisation_id"]),
        merchant_id=str(payment["merchant_id"]),
        payment_id=str(payment_id),
        at_ms=int(str(at_ms)),
        data=data,
    )


def _data(payment: Facts) -> dict[str, object]:
    """As `webhooks.kinds.PaymentData` describes it; a test holds the two together."""
    return {
        "transaction_id": payment["id"],
        "merchant_id": payment["merchant_id"],
        "outlet_id": payment["outlet_id"],
        "terminal_id": payment["terminal_id"],
        "device_id": payment["device_id"],
        "order_code": payment["order_code"],
        "description": payment["description"],
        "method": payment["method"],
        "initiation_mode": payment["source"],
        "amount": payment["amount"],
        "currency": payment["currency"],
        "status": None,
        "late": bool(payment["late"]),
        "paid_amount": payment["paid_amount"],
        "refunded_amount": payment["refunded_amount"],
        "fee_amount": payment["fee_amount"],
        "net_amount": _net(payment["paid_amount"], payment["fee_amount"]),
        "issuer": payment["issuer"],
        "created_at": rfc3339(_ms(payment["created_at_ms"])),
        "expires_at": rfc3339(_ms(payment["expires_at_ms"])),
        "paid_at": rfc3339_or_none(None if payment["paid_at_ms"] is None else _ms(payment["paid_at_ms"])),
    }


def _ms(value: object) -> int:
    assert isinstance(value, int)
    return value


def _net(paid: object, fee: object) -> int | None:
    return None if paid is None or fee is None else _ms(paid) - _ms(fee)
