"""Withdrawing an unpaid payment: at the provider first, so that nobody can pay it any more, and then here."""

from collections.abc import Sequence

from soundbox_server import clock
from soundbox_server.db import Database, Statements
from soundbox_server.errors import Conflict, DuplicateRequest, IllegalTransition
from soundbox_server.payments.asking import Question, ask_now, end_unpaid, forget
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.payments.locked import lock_payment
from soundbox_server.payments.state import OPEN, PaymentState
from soundbox_server.providers.base import ProviderUnknown

_ENDED = ("failed", "expired")


async def withdraw(database: Database, inquiry: Inquiry, questions: Sequence[Question], *, by: str) -> None:
    """Cancel all attempts of a payment and then the payment. Raises IllegalTransition for one that is not open,
    DuplicateRequest while its provider is being asked for it, Conflict where a provider cannot cancel, ProviderRefused
    where one does not, and ProviderUnknown where nobody knows: then it is asked where the charge stands."""
    payment_id = questions[0].payment_id
    alive = await database.write(lambda tx: _alive(tx, payment_id, now_ms=clock.now_ms()))
    for question in questions:
        if question.attempt_id not in alive:
            continue
        gateway = inquiry.gateway(question.provider)
        if not gateway.capabilities.cancel:
            raise Conflict("This provider cannot withdraw a charge; it ends by itself.", provider=question.provider)
        try:
            await gateway.cancel(
                question.reference, method=question.method, provider_transaction_id=question.provider_reference
            )
        except ProviderUnknown:
            await database.write(lambda tx: ask_now(tx, payment_id, now_ms=clock.now_ms()))
            raise
    await database.write(lambda tx: _record(tx, payment_id, by=by, now_ms=clock.now_ms()))


async def _alive(tx: Statements, payment_id: str, *, now_ms: int) -> set[str]:
    payment = await lock_payment(tx, payment_id)
    _require_open(payment["state"])
    rows = await tx.fetch("SELECT id, state, lease_until_ms FROM payment_attempt WHERE payment_id = $1", payment_id)
    if any(row["state"] in ("new", "submitted") and row["lease_until_ms"] > now_ms for row in rows):
        raise DuplicateRequest("Its provider is being asked for it right now. Try again in a moment.")
    return {row["id"] for row in rows if row["state"] not in _ENDED}


async def _record(tx: Statements, payment_id: str, *, by: str, now_ms: int) -> None:
    payment = await lock_payment(tx, payment_id)
    _require_open(payment["state"])  # the customer may have been faster
    rows = await tx.fetch(
        "UPDATE payment_attempt SET state = 'failed', error_code = 'CANCELLED' WHERE payment_id = $1 "
        "AND state NOT IN ('succeeded', 'failed', 'expired') RETURNING id",
        payment_id,
    )
    await forget(tx, [row["id"] for row in rows])
    await end_unpaid(tx, payment, PaymentState.CANCELLED, source=by, detail=None, now_ms=now_ms)


def _require_open(state: str) -> None:
    if PaymentState(state) not in OPEN:
        raise IllegalTransition("Only an unpaid transaction can be withdrawn.", state=state)
