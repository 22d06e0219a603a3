"""Asking a provider where a charge stands: while its QR lives, for a while after, and whenever somebody wants to know.

Callbacks get lost. Each attempt is asked about a few times, further and further apart, and then no more: what is known
then is what reconciliation finds. An attempt whose creation was never answered ends the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from soundbox_server.db import Row, Statements
from soundbox_server.ids import new_id
from soundbox_server.payments.locked import lock_payment
from soundbox_server.payments.methods import at_provider
from soundbox_server.payments.state import OPEN, AttemptState, PaymentState, before, require
from soundbox_server.payments.timeline import insert_steps, step
from soundbox_server.providers.base import ChargeStatus, Method

# From the attempt's birth on, and then after each question; the last one repeats until it is over for as long.
ASK_AFTER_S = (30, 60, 120, 300, 900, 3_600, 6 * 3_600)
ANYWAY = -3  # `asks` below zero: somebody wants to know, whatever the attempt's state; so many tries

_UNANSWERED = before(AttemptState.ACTIVE)
_ASKED_FOR = (AttemptState.NEW, AttemptState.SUBMITTED)
_ENDED = (AttemptState.SUCCEEDED, AttemptState.FAILED)


async def watch(tx: Statements, attempt_id: str, *, now_ms: int) -> None:
    """Ask about this new attempt by and by."""
    await tx.execute(
        "INSERT INTO charge_watch (attempt_id, asks, ask_at_ms) VALUES ($1, 0, $2)",
        attempt_id,
        now_ms + ASK_AFTER_S[0] * 1_000,
    )


async def ask_now(tx: Statements, payment_id: str, *, now_ms: int) -> None:
    """Ask about all attempts of a payment as soon as may be."""
    await tx.execute(
        "INSERT INTO charge_watch (attempt_id, asks, ask_at_ms) "
        f"SELECT id, {ANYWAY}, $2 FROM payment_attempt WHERE payment_id = $1 "
        f"ON CONFLICT (attempt_id) DO UPDATE SET asks = {ANYWAY}, ask_at_ms = excluded.ask_at_ms",
        payment_id,
        now_ms,
    )


@dataclass(frozen=True, kw_only=True)
class Question:
    """An attempt whose provider is to be asked where it stands. `aside`: another one is its payment's."""

    attempt_id: str
    payment_id: str
    provider: str
    reference: str
    provider_reference: str | None
    method: Method
    aside: bool = False


_DUE = """
SELECT w.attempt_id, w.asks, a.payment_id, a.provider, a.reference, a.provider_reference, a.state, a.lease_until_ms,
       coalesce(a.method, p.method) AS method, p.expires_at_ms, p.current_attempt_id
FROM charge_watch w JOIN payment_attempt a ON a.id = w.attempt_id JOIN payment p ON p.id = a.payment_id
WHERE w.ask_at_ms <= $1 ORDER BY w.ask_at_ms LIMIT $2
"""


async def claim_due(tx: Statements, *, now_ms: int, limit: int) -> list[Question]:
    """Attempts to ask about now: whoever claims them has until their next question. What has ended is forgotten."""
    rows = await tx.fetch(f"{_DUE} {tx.lock('w', skip=True)}", now_ms, limit)
    over = [row for row in rows if _is_over(row, now_ms)]
    await forget(tx, [row["attempt_id"] for row in over])
    left = [row for row in rows if row not in over]
    busy = [row for row in left if _is_being_made(row, now_ms)]
    await _put_off(tx, [(row["attempt_id"], row["asks"], row["lease_until_ms"]) for row in busy])
    asked = [row for row in left if row not in busy]
    await _put_off(tx, [(row["attempt_id"], row["asks"] + 1, now_ms + _pause_ms(row["asks"] + 1)) for row in asked])
    return [question_of(row, aside=_is_aside(row, now_ms)) for row in asked]


def _is_over(row: Row, now_ms: int) -> bool:
    """Asked often enough, with a question after its end; or it has ended, and nobody in particular wants to know."""
    enough = row["asks"] >= len(ASK_AFTER_S) and row["expires_at_ms"] + ASK_AFTER_S[-1] * 1_000 <= now_ms
    return enough or (row["asks"] >= 0 and row["state"] in _ENDED)


def _is_being_made(row: Row, now_ms: int) -> bool:
    """Somebody waits for the answer to its creation: not now. Who is asked before it arrived knows of no charge."""
    return row["lease_until_ms"] > now_ms and (row["asks"] >= 0 or row["state"] in _ASKED_FOR)


def _is_aside(row: Row, now_ms: int) -> bool:
    """Its payment is paid by another charge, or will be: this one should not be payable any more."""
    another = row["current_attempt_id"] not in (None, row["attempt_id"])
    return another and row["lease_until_ms"] <= now_ms


def _pause_ms(asks: int) -> int:
    return ASK_AFTER_S[min(max(asks, 0), len(ASK_AFTER_S) - 1)] * 1_000


async def _put_off(tx: Statements, rows: Sequence[Sequence[object]]) -> None:
    await tx.many("UPDATE charge_watch SET asks = $2, ask_at_ms = $3 WHERE attempt_id = $1", rows)


async def forget(tx: Statements, attempt_ids: Sequence[str]) -> None:
    """Ask no more about these."""
    await tx.many("DELETE FROM charge_watch WHERE attempt_id = $1", [(attempt_id,) for attempt_id in attempt_ids])


async def questions_of(tx: Statements, payment_id: str) -> list[Question]:
    """All attempts of a payment, the oldest first."""
    rows = await tx.fetch(
        "SELECT a.id AS attempt_id, a.payment_id, a.provider, a.reference, a.provider_reference, "
        "coalesce(a.method, p.method) AS method "
        "FROM payment_attempt a JOIN payment p ON p.id = a.payment_id WHERE a.payment_id = $1 ORDER BY a.number",
        payment_id,
    )
    return [question_of(row) for row in rows]


def question_of(row: Row, *, aside: bool = False) -> Question:
    """A row with attempt_id, payment_id, provider, reference, provider_reference and method."""
    return Question(
        attempt_id=row["attempt_id"],
        payment_id=row["payment_id"],
        provider=row["provider"],
        reference=row["reference"],
        provider_reference=row["provider_reference"],
        method=at_provider(row["method"]),
        aside=aside,
    )


async def record_status(tx: Statements, question: Question, status: ChargeStatus, *, now_ms: int) -> None:
    """Store where an unpaid charge stands. Money, and what became of it, is taken like a callback by whoever asked."""
    payment = await lock_payment(tx, question.payment_id)
    rows = await tx.fetch("SELECT state FROM payment_attempt WHERE id = $1", question.attempt_id)
    unanswered = rows[0]["state"] in (AttemptState.NEW, AttemptState.SUBMITTED, AttemptState.UNKNOWN)
    if status.state == "not_found":
        if unanswered:
            await _end(tx, payment, question, PaymentState.FAILED, "never_charged", now_ms=now_ms)
    elif status.state == "open":
        if unanswered:
            await _activate(tx, payment, question, status, now_ms=now_ms)
    elif status.state in ("failed", "expired", "cancelled"):
        await _end(tx, payment, question, PaymentState(status.state), "said_when_asked", now_ms=now_ms)
    if status.state in ("failed", "cancelled", "not_found") or status.report is not None:
        await forget(tx, [question.attempt_id])


async def _activate(tx: Statements, payment: Row, question: Question, status: ChargeStatus, *, now_ms: int) -> None:
    """The answer to its creation got lost, but the charge is there. Nobody waits for its QR any more."""
    charge = status.charge
    await tx.execute(
        "UPDATE payment_attempt SET state = 'active', qr_payload = coalesce($3, qr_payload), answered_at_ms = $4, "
        f"provider_reference = coalesce(nullif($2, ''), provider_reference) WHERE id = $1 AND state IN ({_UNANSWERED})",
        question.attempt_id, charge.provider_transaction_id if charge else "",
        charge.qr_payload or None if charge else None, now_ms,
    )  # fmt: skip
    if payment["state"] == PaymentState.CREATED:
        state = require(payment["state"], PaymentState.AWAITING_PAYMENT)
        await tx.execute("UPDATE payment SET state = $2 WHERE id = $1", payment["id"], state.value)
        await step(tx, payment["id"], "payment.found_at_provider", state, source=question.provider, now_ms=now_ms)


async def _end(
    tx: Statements, payment: Row, question: Question, wanted: PaymentState, detail: str, *, now_ms: int
) -> None:
    """This attempt brings no money; without another one that may, the payment has ended too."""
    await tx.execute(
        "UPDATE payment_attempt SET state = $2 WHERE id = $1 AND state NOT IN ('succeeded', 'failed', 'expired')",
        question.attempt_id,
        "expired" if wanted is PaymentState.EXPIRED else "failed",
    )
    alive = await tx.fetch(
        "SELECT id FROM payment_attempt WHERE payment_id = $1 AND state NOT IN ('failed', 'expired')", payment["id"]
    )
    if alive or PaymentState(payment["state"]) not in OPEN:
        return
    await end_unpaid(tx, payment, wanted, source=question.provider, detail=detail, now_ms=now_ms)


async def end_unpaid(
    tx: Statements, payment: Row, wanted: PaymentState, *, source: str, detail: str | None, now_ms: int
) -> None:
    """An unpaid payment ends; it is locked. Money that still comes makes it paid, marked late."""
    state = require(payment["state"], wanted)
    await tx.execute("UPDATE payment SET state = $2 WHERE id = $1", payment["id"], state.value)
    await insert_steps(
        tx, [(new_id("pev"), payment["id"], now_ms, f"payment.{state.value}", state.value, source, detail)]
    )
