"""A payer who would rather pay otherwise: another charge of the same payment, by another method (decision 0013).

Nobody ever holds two charges that can be paid. The new one is made first and shown to nobody; then the one that was
shown is withdrawn at its provider; then the new one counts. Where the first cannot be withdrawn for sure, it stays, and
the new one is withdrawn instead. What a crash leaves half done, the worker carries on or takes back.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog

from soundbox_server import clock
from soundbox_server.db import Database, Row, Statements
from soundbox_server.errors import Conflict, DuplicateRequest, IllegalTransition, SoundboxError
from soundbox_server.payments import charging
from soundbox_server.payments.asking import Question, ask_now, forget, record_status
from soundbox_server.payments.charging import FIND, LEASE_MS, Answered, Pending, insert_attempt, pending_of, place_at
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.payments.locked import lock_payment
from soundbox_server.payments.methods import ceiling_idr
from soundbox_server.payments.state import PaymentState
from soundbox_server.payments.timeline import step
from soundbox_server.providers.base import ChargeStatus, Method, ProviderRefused, ProviderUnknown
from soundbox_server.providers.registry import Gateways
from soundbox_server.webhooks.service import also_called

MOST_CHANGES = 12  # of one payment: each is two questions to providers
FINISH_MS = 3 * LEASE_MS  # to withdraw one charge: two questions, each perhaps asked twice, and some time besides
NOT_CHOSEN = "NOT_CHOSEN"  # the error of a charge that is taken back: nobody carries it on

_OVER = ("succeeded", "failed", "expired")

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a payer chose. `seen` is the attempt that they were shown, `page_url` where a wallet sends them back to."""

    payment_id: str
    seen: str
    method: Method
    page_url: str


def offers(gateways: Gateways, merchant_id: str, amount: int) -> list[Method]:
    """What this merchant's providers would charge such an amount by. OVO asks on the payer's phone as soon as its
    charge is made, while what is shown can still be paid: it is for payments that begin with it."""
    return [
        method for method in Method
        if amount <= ceiling_idr(method) and method is not Method.OVO
        and _candidates(gateways, merchant_id, method, amount)
    ]  # fmt: skip


def _candidates(gateways: Gateways, merchant_id: str, method: Method, amount: int) -> Sequence[str]:
    try:
        return gateways.candidates(merchant_id, method, amount)
    except SoundboxError:
        return ()


async def choose(database: Database, gateways: Gateways, inquiry: Inquiry, wish: Wish) -> None:
    """Have the payment paid by another method from now on; by the one that it has, nothing is done.

    Raises IllegalTransition where it does not wait any more, Conflict where the payer was shown something else, where
    what they were shown cannot be withdrawn, or after too many changes, DuplicateRequest while a change is under way;
    InvalidPaymentType, InvalidAmount, ProviderRefused or PartnerTimeout where the other charge is not to be had.
    Whatever is raised, the payment is paid as before.
    """
    asked: list[str] = []
    resting = await gateways.resting()
    while True:
        begin = partial(_begin, wish=wish, gateways=gateways, resting=resting, asked=tuple(asked))
        if (begun := await database.write(begin)) is None:
            return
        pending, others = begun
        answered = await charging.ask(gateways, pending)
        await database.write(partial(_record, answered=answered))
        if answered.error is None:
            break
        if not (answered.elsewhere and others):
            raise answered.error
        asked.append(pending.provider)
    made = _question(pending)
    if answered.report is not None:  # the customer was faster
        await inquiry.ask(made)
    await _finish(database, inquiry, made, ask_again=True)


async def _begin(
    tx: Statements, *, wish: Wish, gateways: Gateways, resting: Collection[str], asked: Sequence[str]
) -> tuple[Pending, Sequence[str]] | None:
    """The charge to ask for, which counts for nothing yet, and who else could be asked for it; None where the payment
    is paid that way already."""
    now_ms = clock.now_ms()
    payment = await lock_payment(tx, wish.payment_id)
    attempts = await _attempts(tx, wish.payment_id)
    _require_waiting(payment, now_ms=now_ms)
    shown = attempts[-1]
    if shown["method"] == wish.method:
        return None
    if shown["id"] != wish.seen:
        raise Conflict("This payment is to be paid otherwise by now.")
    if any(row["number"] < 0 and row["state"] not in _OVER and row["lease_until_ms"] > now_ms for row in attempts):
        raise DuplicateRequest("Another way to pay is being prepared right now.")
    if len(attempts) > MOST_CHANGES:
        raise Conflict("This payment was changed too often.")
    await place_at(tx, payment["merchant_id"], terminal_id=payment["terminal_id"])
    charging.require_amount(payment["amount"], currency="IDR", method=wish.method)
    candidates = gateways.candidates(payment["merchant_id"], wish.method, payment["amount"], resting=resting)
    left = [name for name in candidates if name not in asked]
    if not left:  # who else could be asked is not set up any more
        raise ProviderRefused("Nobody else can be asked for this charge.")
    await _tell_apart(tx, payment, shown)
    attempt_id = await insert_attempt(
        tx, wish.payment_id, provider=left[0], number=min(0, attempts[0]["number"]) - 1, leased=True, now_ms=now_ms,
        method=wish.method,
    )  # fmt: skip
    await step(
        tx, wish.payment_id, "payment.method_asked", payment["state"], source="payer", detail=wish.method, now_ms=now_ms
    )
    (row,) = await tx.fetch(FIND + "WHERE a.id = $1", attempt_id)
    pending = pending_of(row)
    payer = replace(pending.payer, success_url=wish.page_url, failure_url=wish.page_url)
    return replace(pending, payer=payer), left[1:]


async def _record(tx: Statements, *, answered: Answered) -> None:
    """What the provider said; what it made is ours to finish for a while longer."""
    now_ms = clock.now_ms()
    await charging.record_answer(tx, answered, now_ms=now_ms)
    await tx.execute(
        "UPDATE payment_attempt SET lease_until_ms = $2 WHERE id = $1 AND state = 'active'",
        answered.pending.attempt_id, now_ms + FINISH_MS,
    )  # fmt: skip


async def _attempts(tx: Statements, payment_id: str) -> Sequence[Row]:
    return await tx.fetch(
        "SELECT a.id, a.number, a.state, a.lease_until_ms, coalesce(a.method, p.method) AS method "
        "FROM payment_attempt a JOIN payment p ON p.id = a.payment_id WHERE p.id = $1 ORDER BY a.number",
        payment_id,
    )


def _require_waiting(payment: Row, *, now_ms: int) -> None:
    if payment["state"] != PaymentState.AWAITING_PAYMENT or payment["expires_at_ms"] <= now_ms:
        raise IllegalTransition("Only a payment that waits to be paid can be paid otherwise.", state=payment["state"])


async def _tell_apart(tx: Statements, payment: Row, shown: Row) -> None:
    """From now on each charge has a method of its own, and the payment says which one is its own: money that comes by
    two of them came twice."""
    await tx.execute(
        "UPDATE payment_attempt SET method = $2 WHERE payment_id = $1 AND method IS NULL",
        payment["id"], payment["method"],
    )  # fmt: skip
    await tx.execute("UPDATE payment SET current_attempt_id = $2 WHERE id = $1", payment["id"], shown["id"])


def _question(pending: Pending) -> Question:
    return Question(
        attempt_id=pending.attempt_id,
        payment_id=pending.payment_id,
        provider=pending.provider,
        reference=pending.reference,
        provider_reference=pending.provider_reference,
        method=pending.method,
    )


async def _finish(database: Database, inquiry: Inquiry, made: Question, *, ask_again: bool) -> None:
    """Withdraw what was shown and let the new charge count, or take the new one back."""
    try:
        for other in await database.read(lambda tx: _alive(tx, made)):
            if not await database.write(lambda tx: _hold(tx, made, now_ms=clock.now_ms())):
                break
            await _withdraw(inquiry, other)
    except SoundboxError:
        await _take_back(database, inquiry, made, ask_again=ask_again)
        raise
    if not await database.write(lambda tx: _let_count(tx, made, now_ms=clock.now_ms())):
        await _take_back(database, inquiry, made, ask_again=ask_again)
        # Paid or ended meanwhile; or the new one ended by itself, and with it the payment: its provider says so.
        if ask_again:
            await database.write(lambda tx: ask_now(tx, made.payment_id, now_ms=clock.now_ms()))
        raise Conflict("This payment cannot be paid otherwise any more.")


async def _hold(tx: Statements, made: Question, *, now_ms: int) -> bool:
    """The change is still ours, for a while longer: only then is anything withdrawn for its sake."""
    payment = await lock_payment(tx, made.payment_id)
    if not _may_count(payment, await _attempt(tx, made)):
        return False
    await tx.execute(
        "UPDATE payment_attempt SET lease_until_ms = $2 WHERE id = $1", made.attempt_id, now_ms + FINISH_MS
    )
    return True


async def _attempt(tx: Statements, made: Question) -> Row:
    (row,) = await tx.fetch(
        "SELECT a.number, a.state, a.error_code, a.provider_reference, a.qr_payload, a.actions, a.lease_until_ms, "
        "p.current_attempt_id FROM payment_attempt a JOIN payment p ON p.id = a.payment_id WHERE a.id = $1",
        made.attempt_id,
    )
    return row


def _may_count(payment: Row, ours: Row) -> bool:
    """Its payment waits, and the new charge can be paid: nobody ended it, took it back or let it count already."""
    waits = payment["state"] == PaymentState.AWAITING_PAYMENT
    return bool(waits and ours["state"] == "active" and ours["number"] < 0 and ours["error_code"] != NOT_CHOSEN)


async def _alive(tx: Statements, made: Question) -> list[Question]:
    """The other charges of this payment that can be paid, the one that was shown last: it goes when all others are."""
    rows = await tx.fetch(
        "SELECT a.id AS attempt_id, a.payment_id, a.provider, a.reference, a.provider_reference, a.method, a.state "
        "FROM payment_attempt a WHERE a.payment_id = $1 AND a.id <> $2 ORDER BY a.number",
        made.payment_id, made.attempt_id,
    )  # fmt: skip
    return [_of_row(row) for row in rows if row["state"] not in _OVER]


def _of_row(row: Row) -> Question:
    return Question(
        attempt_id=row["attempt_id"],
        payment_id=row["payment_id"],
        provider=row["provider"],
        reference=row["reference"],
        provider_reference=row["provider_reference"],
        method=Method(row["method"]),
    )


async def _withdraw(inquiry: Inquiry, question: Question) -> None:
    """Nobody can pay this charge any more; raises where that is not sure. Whoever refuses to withdraw it may have been
    paid, or have ended it before."""
    gateway = inquiry.gateway(question.provider)
    if not gateway.capabilities.cancel:
        raise Conflict("This provider cannot withdraw a charge; it ends by itself.", provider=question.provider)
    try:
        await gateway.cancel(
            question.reference, method=question.method, provider_transaction_id=question.provider_reference
        )
    except (ProviderRefused, ProviderUnknown):
        status = await inquiry.ask(question)
        if status.state in ("open", "paid"):
            raise


async def _let_count(tx: Statements, made: Question, *, now_ms: int) -> bool:
    """The new charge is the one that counts, unless the payment was paid or ended meanwhile. Somebody who took us for
    dead may have seen to it."""
    payment = await lock_payment(tx, made.payment_id)
    ours = await _attempt(tx, made)
    if ours["number"] > 0:
        return True
    if not _may_count(payment, ours):
        return False
    attempts = await _attempts(tx, made.payment_id)
    ended = await tx.fetch(
        "UPDATE payment_attempt SET state = 'failed', error_code = 'METHOD_CHANGED' WHERE payment_id = $1 "
        "AND id <> $2 AND state NOT IN ('succeeded', 'failed', 'expired') RETURNING id",
        made.payment_id, made.attempt_id,
    )  # fmt: skip
    await forget(tx, [row["id"] for row in ended])
    await tx.execute(
        "UPDATE payment_attempt SET number = $2 WHERE id = $1", made.attempt_id, max(attempts[-1]["number"], 0) + 1
    )
    mode = "dynamic" if made.method is Method.QRIS_DYNAMIC else "none"
    await tx.execute(
        "UPDATE payment SET method = $2, qr_mode = $3, current_attempt_id = $4 WHERE id = $1",
        made.payment_id, made.method.value, mode, made.attempt_id,
    )  # fmt: skip
    await step(
        tx, made.payment_id, "payment.method_chosen", payment["state"], source="payer", detail=made.method.value,
        now_ms=now_ms,
    )  # fmt: skip
    called = ours["provider_reference"] or made.reference
    await also_called(tx, made.payment_id, facts={"gateway_transaction_id": called})
    return True


async def _take_back(database: Database, inquiry: Inquiry, made: Question, *, ask_again: bool) -> None:
    """Nobody has seen it, so nobody misses it. Where its provider does not say that it has ended, the worker asks. What
    counts by now, or was paid, stays."""
    if not await database.write(lambda tx: _give_up(tx, made)):
        return
    try:
        await _withdraw(inquiry, made)
    except SoundboxError as error:
        log.warning("charge.not_taken_back", payment_id=made.payment_id, code=error.code)
        if ask_again:  # the worker has its next time already
            await database.write(lambda tx: ask_now(tx, made.payment_id, now_ms=clock.now_ms()))
        return
    over = ChargeStatus(reference=made.reference, state="cancelled")
    await database.write(lambda tx: record_status(tx, made, over, now_ms=clock.now_ms()))


async def _give_up(tx: Statements, made: Question) -> bool:
    await lock_payment(tx, made.payment_id)
    ours = await _attempt(tx, made)
    if ours["current_attempt_id"] == made.attempt_id or ours["state"] == "succeeded":
        return False
    await tx.execute(
        "UPDATE payment_attempt SET error_code = $2 WHERE id = $1 AND number < 0", made.attempt_id, NOT_CHOSEN
    )
    return True


async def settle(database: Database, inquiry: Inquiry, question: Question) -> None:
    """A charge that is not its payment's, and that nobody is working on: what a crash left of a change is carried on,
    and what came to nothing is withdrawn, so that it cannot be paid. Raises ProviderRefused or ProviderUnknown."""
    status = await inquiry.ask(question)
    if status.state != "open":
        return
    if await database.write(lambda tx: _carries_on(tx, question, now_ms=clock.now_ms())):
        await _finish(database, inquiry, question, ask_again=False)
    else:
        await _take_back(database, inquiry, question, ask_again=False)


async def _carries_on(tx: Statements, question: Question, *, now_ms: int) -> bool:
    """It was made for a payer who may still see it, and there is something to see: ours to finish, then. Where making
    it went wrong, or it was taken back, the payer was told to pay as before."""
    payment = await lock_payment(tx, question.payment_id)
    row = await _attempt(tx, question)
    waits = payment["state"] == PaymentState.AWAITING_PAYMENT and payment["expires_at_ms"] > now_ms
    whole = row["number"] < 0 and row["state"] == "active" and (row["qr_payload"] or row["actions"])
    if not waits or not whole or row["error_code"] is not None or row["lease_until_ms"] > now_ms:
        return False
    await tx.execute(
        "UPDATE payment_attempt SET lease_until_ms = $2 WHERE id = $1", question.attempt_id, now_ms + FINISH_MS
    )
    return True
