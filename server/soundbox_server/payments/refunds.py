"""Money on its way back. Stored first, then the provider is asked, then its answer is stored, each step durable before
the next: a crash or a lost answer leaves a refund that is resumed by query, and nothing is ever sent twice.

What is pending and what is done together never exceed what was paid: both are looked at under the payment's lock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, IllegalTransition, InvalidAmount, NotFound, SoundboxError
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.payments import suspense
from soundbox_server.payments.locked import charged_by, lock_payment
from soundbox_server.payments.methods import PaymentMethod, at_provider
from soundbox_server.payments.state import (
    PENDING,
    TRANSITIONS,
    PaymentState,
    RefundState,
    require,
    require_refund,
)
from soundbox_server.payments.timeline import step
from soundbox_server.providers.base import (
    Capabilities,
    Gateway,
    ProviderRefused,
    ProviderUnknown,
    ProviderUnreachable,
    RefundRequest,
    RefundStatus,
)
from soundbox_server.revenue import service as revenue

LEASE_MS = 30_000  # how long one process may take to get the provider's answer
ASK_AFTER_S = (2, 5, 15, 60, 300, 900, 3_600)  # after each question without an end; the last one repeats
STUCK_AFTER = len(ASK_AFTER_S)  # questions, and somebody should look into it

_PENDING = ", ".join(f"'{state}'" for state in PENDING)


class NewRefund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund to be made. Without a provider it is cash, or money that went back already."""

    payment_id: str
    attempt_id: str | None
    provider: str | None
    origin: str  # person | late_policy | review | provider
    amount: int
    reason: str
    requested_by: str | None = None
    returns_fee: bool = False
    from_suspense: bool = False
    reference: str | None = None
    asked: bool = True  # whether the provider is still to be asked for it


_INSERT = """
INSERT INTO refund (id, payment_id, attempt_id, provider, reference, origin, amount, fee_returned, returns_fee,
                    from_suspense, state, reason, requested_by, asks, ask_at_ms, lease_until_ms, created_at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, 'requested', $10, $11, 0, $12, 0, $13)
"""


async def insert_refunds(tx: Statements, refunds: Sequence[NewRefund], *, now_ms: int) -> list[str]:
    """Store them as requested; the worker asks the providers. Returns their ids."""
    ids = [new_id("rfd") for _ in refunds]
    await tx.many(
        _INSERT,
        [
            (
                refund_id, new.payment_id, new.attempt_id, new.provider, new.reference or new_id("ref"), new.origin,
                new.amount, new.returns_fee, new.from_suspense, new.reason, new.requested_by,
                now_ms if new.asked else None, now_ms,
            )
            for refund_id, new in zip(ids, refunds, strict=True)
        ],
    )  # fmt: skip
    return ids


async def request_refund(
    tx: Statements,
    payment_id: str,
    *,
    amount: int | None,
    reason: str,
    requested_by: str | None,
    able: Mapping[str, Capabilities],
    now_ms: int,
) -> str:
    """Give back so much of a paid payment, or all that is left; returns the refund's id.

    Cash goes back at once. Raises IllegalTransition for what is not paid, InvalidAmount for more than is left, Conflict
    where the provider cannot do it.
    """
    payment = await lock_payment(tx, payment_id)
    if PaymentState(payment["state"]) not in (PaymentState.PAID, PaymentState.PARTIALLY_REFUNDED):
        raise IllegalTransition("Only what is paid can be refunded.", state=payment["state"])
    if payment["credit_account"] is not None:
        raise Conflict("This money is in a wallet, and leaves it only by its owner's will.")
    if payment["promised"] is not None:
        raise Conflict("Tokens were issued for this money. Take them back first.")
    left = await _left(tx, payment)
    if not left:
        raise Conflict("All of this payment went back, or is on its way.", left=0)
    wanted = left if amount is None else amount
    if wanted > left:
        raise InvalidAmount("More than what is left of this payment.", amount=wanted, left=left)
    attempt, cash = await charged_by(tx, payment_id), await _is_cash(tx, payment_id)
    if not cash:
        require_able(able, attempt["provider"] if attempt else None, partial=wanted < payment["paid_amount"])
    (refund_id,) = await insert_refunds(
        tx,
        [
            NewRefund(
                payment_id=payment_id,
                attempt_id=attempt["id"] if attempt and not cash else None,
                provider=attempt["provider"] if attempt and not cash else None,
                origin="person",
                amount=wanted,
                reason=reason,
                requested_by=requested_by,
                returns_fee=bool(payment["refund_returns_fee"]),
                asked=not cash,
            )
        ],
        now_ms=now_ms,
    )
    await step(
        tx, payment_id, "refund.requested", payment["state"], source=requested_by or "system", detail=str(wanted),
        now_ms=now_ms,
    )  # fmt: skip
    if cash:
        await _finish(tx, payment, await _refund(tx, refund_id), source="cash_drawer", now_ms=now_ms)
    return refund_id


def require_able(able: Mapping[str, Capabilities], provider: str | None, *, partial: bool) -> None:
    """Raise Conflict where this provider cannot give the money back."""
    can = able.get(provider or "")
    if can is None or not can.refund or (partial and not can.partial_refund):
        what = "a part of a payment" if can is not None and can.refund else "payments"
        raise Conflict(f"This payment's provider cannot refund {what}.", provider=provider)


async def refund_transfer(
    tx: Statements, payment_id: str, *, amount: int | None, reason: str, requested_by: str | None, now_ms: int
) -> tuple[str, int]:
    """Give back so much, or all that is left, of what was paid from wallet to wallet: at once, for nobody has to be
    asked. Returns the refund's id and its amount.

    That the payee's wallet holds it is the caller's to look at, under the wallet's lock. Raises IllegalTransition for
    what is not paid, InvalidAmount for more than is left, Conflict where nothing is.
    """
    payment = await lock_payment(tx, payment_id)
    if PaymentState(payment["state"]) not in (PaymentState.PAID, PaymentState.PARTIALLY_REFUNDED):
        raise IllegalTransition("Only what is paid can be refunded.", state=payment["state"])
    left = await _left(tx, payment)
    wanted = left if amount is None else amount
    if wanted > left:
        raise InvalidAmount("More than what is left of this payment.", amount=wanted, left=left)
    new = NewRefund(
        payment_id=payment_id, attempt_id=None, provider=None, origin="person", amount=wanted, reason=reason,
        requested_by=requested_by, asked=False,
    )  # fmt: skip
    (refund_id,) = await insert_refunds(tx, [new], now_ms=now_ms)
    source = requested_by or "system"
    await step(tx, payment_id, "refund.requested", payment["state"], source=source, detail=str(wanted), now_ms=now_ms)
    await _finish(tx, payment, await _refund(tx, refund_id), source=source, now_ms=now_ms)
    return refund_id, wanted


async def _left(tx: Statements, payment: Row) -> int:
    rows = await tx.fetch(
        f"SELECT coalesce(sum(amount), 0) AS pending FROM refund WHERE payment_id = $1 AND state IN ({_PENDING}) "
        "AND NOT from_suspense",
        payment["id"],
    )
    return int(payment["paid_amount"] - payment["refunded_amount"] - rows[0]["pending"])


async def _is_cash(tx: Statements, payment_id: str) -> bool:
    captured = await ledger.captured_by(tx, payment_id)
    return bool(captured) and captured[0].source.startswith("cash_drawer:")


@dataclass(frozen=True, kw_only=True)
class Due:
    """A refund whose provider is to be asked, by whoever claimed it."""

    id: str
    payment_id: str
    provider: str
    request: RefundRequest
    resumed: bool  # somebody may have asked before: query, do not send
    asks: int


_CLAIM = f"""
SELECT r.id, r.payment_id, r.provider, r.reference AS refund_reference, r.amount, r.reason, r.state, r.asks,
       a.reference, a.provider_reference, p.paid_amount, p.amount AS asked_amount, p.rrn,
       coalesce(a.method, p.method) AS method
FROM refund r JOIN payment_attempt a ON a.id = r.attempt_id JOIN payment p ON p.id = r.payment_id
WHERE r.ask_at_ms <= $1 AND r.lease_until_ms <= $1 AND r.state IN ({_PENDING})
  AND (p.state <> 'disputed' OR r.state <> 'requested' OR r.from_suspense)
ORDER BY r.ask_at_ms, r.id LIMIT $2
"""


async def claim_due(tx: Statements, *, now_ms: int, limit: int) -> list[Due]:
    """Refunds that no process is asking a provider about right now. From this commit on they may have been sent. What
    the bank is judging is not refunded beside it: it waits for the word."""
    rows = await tx.fetch(f"{_CLAIM} {tx.lock('r', skip=True)}", now_ms, limit)
    await tx.many(
        "UPDATE refund SET state = CASE WHEN state = 'requested' THEN 'submitted' ELSE state END, "
        "submitted_at_ms = coalesce(submitted_at_ms, $2), lease_until_ms = $3, asks = asks + 1 WHERE id = $1",
        [(row["id"], now_ms, now_ms + LEASE_MS) for row in rows],
    )
    return [_due(row) for row in rows]


def _due(row: Row) -> Due:
    return Due(
        id=row["id"],
        payment_id=row["payment_id"],
        provider=row["provider"],
        request=RefundRequest(
            reference=row["reference"],
            refund_reference=row["refund_reference"],
            amount_idr=row["amount"],
            reason=row["reason"],
            provider_transaction_id=row["provider_reference"],
            payment_amount_idr=row["paid_amount"] or row["asked_amount"],
            rrn=row["rrn"],
            method=at_provider(row["method"]),
        ),
        resumed=row["state"] != RefundState.REQUESTED,
        asks=row["asks"] + 1,
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the provider said of a refund, or why nobody knows. `later`: it was never heard."""

    due: Due
    status: RefundStatus | None = None
    error: SoundboxError | None = None
    later: bool = False
    unknown: bool = False


async def ask_provider(gateway: Gateway | None, due: Due) -> Asked:
    """One question to the provider, outside any transaction. What may have been sent is queried, and sent again only
    where the provider never heard of it."""
    if gateway is None:
        gone = ProviderRefused("This provider is not set up any more.", provider=due.provider)
        return Asked(due=due, error=gone, unknown=due.resumed)
    try:
        if due.resumed:
            status = await _query(gateway, due)
            if status.state != "not_found":
                return Asked(due=due, status=status)
        return Asked(due=due, status=await gateway.refund(due.request))
    except ProviderUnreachable as error:
        return Asked(due=due, error=error, later=True)
    except ProviderUnknown as error:
        return Asked(due=due, error=error, unknown=True)
    except SoundboxError as error:
        return Asked(due=due, error=error)


async def _query(gateway: Gateway, due: Due) -> RefundStatus:
    """Only "not found" says that nothing was sent: a refusal to answer leaves it open."""
    try:
        return await gateway.query_refund(due.request)
    except ProviderUnreachable:
        raise
    except ProviderRefused as error:
        raise ProviderUnknown("The provider did not say where this refund stands.") from error


async def record_answer(tx: Statements, asked: Asked, *, now_ms: int) -> None:
    """Store what the provider said. A callback may have been faster: then nothing changes."""
    payment = await lock_payment(tx, asked.due.payment_id)
    refund = await _refund(tx, asked.due.id)
    if RefundState(refund["state"]) not in PENDING:
        return
    state = asked.status.state if asked.status else None
    if state == "succeeded" and not await fits(tx, payment, refund):
        await more_than_paid(tx, payment, refund["amount"], now_ms=now_ms)
        await fail_refund(tx, payment, refund, code="MORE_THAN_PAID", source=asked.due.provider, now_ms=now_ms)
    elif state == "succeeded":
        await _finish(tx, payment, refund, source=asked.due.provider, answer=asked.status, now_ms=now_ms)
    elif state in ("failed", "not_found") or (asked.error and not asked.later and not asked.unknown):
        code = asked.error.code if asked.error else "REFUND_FAILED"
        await fail_refund(tx, payment, refund, code=code, source=asked.due.provider, now_ms=now_ms)
    else:
        await _ask_again(tx, asked, refund, now_ms=now_ms)


async def _ask_again(tx: Statements, asked: Asked, refund: Row, *, now_ms: int) -> None:
    pause_s = ASK_AFTER_S[min(asked.due.asks, len(ASK_AFTER_S)) - 1]
    wanted = require_refund(refund["state"], RefundState.UNKNOWN if asked.unknown else RefundState.SUBMITTED)
    await tx.execute(
        "UPDATE refund SET state = $2, error_code = $3, ask_at_ms = $4, lease_until_ms = 0, "
        "provider_refund_id = coalesce($5, provider_refund_id) WHERE id = $1",
        refund["id"], wanted.value, asked.error.code if asked.error else None, now_ms + pause_s * 1_000,
        asked.status.provider_refund_id if asked.status else None,
    )  # fmt: skip
    if asked.due.asks == STUCK_AFTER:
        await raise_alert(
            tx, "refund.stuck", ("transaction", refund["payment_id"]), severity=Severity.WARNING,
            facts={"refund_id": refund["id"], "state": wanted.value}, now_ms=now_ms,
        )  # fmt: skip


_REFUND = """
SELECT id, payment_id, attempt_id, provider, reference, amount, returns_fee, from_suspense, state, origin, reason
FROM refund
"""


async def _refund(tx: Statements, refund_id: str) -> Row:
    rows = await tx.fetch(_REFUND + "WHERE id = $1 " + tx.lock("refund"), refund_id)
    if not rows:
        raise NotFound("No such refund.", refund_id=refund_id)
    return rows[0]


async def refund_by_reference(tx: Statements, payment_id: str, reference: str | None) -> Row | None:
    """The payment's refund that a provider names by our reference, or by its own."""
    if reference is None:
        return None
    rows = await tx.fetch(
        _REFUND + f"WHERE payment_id = $1 AND (reference = $2 OR provider_refund_id = $2) {tx.lock('refund')}",
        payment_id,
        reference,
    )
    return rows[0] if rows else None


async def fits(tx: Statements, payment: Row, refund: Row) -> bool:
    """Whether so much can still go back. One that failed, and was done all the same, may have been asked for again, or
    its money decided about in another way."""
    if refund["from_suspense"]:
        return bool(refund["amount"] <= (await suspense.held(tx, payment["id"])).get(refund["provider"], 0))
    return bool(refund["amount"] <= (payment["paid_amount"] or 0) - payment["refunded_amount"])


async def more_than_paid(tx: Statements, payment: Row, amount: int, *, now_ms: int) -> None:
    """A provider says that more went back than ever came. It is not booked: somebody has to find out."""
    await raise_alert(
        tx, "refund.more_than_paid", ("transaction", payment["id"]), severity=Severity.CRITICAL,
        facts={"amount": amount, "paid_amount": payment["paid_amount"], "refunded": payment["refunded_amount"]},
        now_ms=now_ms,
    )  # fmt: skip


async def take_done(
    tx: Statements, payment: Row, refund: Row, *, source: str, answer: RefundStatus | None = None, now_ms: int
) -> None:
    """A provider says that this refund is done; the payment is locked."""
    await _finish(tx, payment, refund, source=source, answer=answer, now_ms=now_ms)


async def take_unasked(
    tx: Statements, payment: Row, *, amount: int, named: str, source: str, from_suspense: bool, now_ms: int
) -> str:
    """Money went back that nobody here asked for, at the provider's own desk; returns the refund's id. `named`: what
    the provider calls it, or the event that told of it."""
    attempt = await charged_by(tx, payment["id"])
    new = NewRefund(
        payment_id=payment["id"],
        attempt_id=attempt["id"] if attempt else None,
        provider=source,
        origin="provider",
        amount=amount,
        reason="Refunded at the provider.",
        returns_fee=bool(payment["refund_returns_fee"]),
        from_suspense=from_suspense,
        reference=f"{source}:{payment['id']}:{named}",
        asked=False,
    )
    (refund_id,) = await insert_refunds(tx, [new], now_ms=now_ms)
    await tx.execute("UPDATE refund SET provider_refund_id = $2 WHERE id = $1", refund_id, named)
    await _finish(tx, payment, await _refund(tx, refund_id), source=source, now_ms=now_ms)
    if not from_suspense:
        await _drop_wishes(tx, payment["id"], source=source, now_ms=now_ms)
    return refund_id


async def _drop_wishes(tx: Statements, payment_id: str, *, source: str, now_ms: int) -> None:
    """What was not sent yet and does not fit any more, because the provider was there first, is not sent at all."""
    payment = await lock_payment(tx, payment_id)
    over = -await _left(tx, payment)
    wishes = await tx.fetch(
        "SELECT id, amount FROM refund WHERE payment_id = $1 AND state = 'requested' AND NOT from_suspense "
        f"ORDER BY id DESC {tx.lock('refund')}",
        payment_id,
    )
    for wish in wishes:
        if over <= 0:
            break
        await tx.execute(
            "UPDATE refund SET state = 'failed', error_code = 'REFUNDED_ALREADY', finished_at_ms = $2, "
            "ask_at_ms = NULL WHERE id = $1",
            wish["id"],
            now_ms,
        )
        await step(
            tx, payment_id, "refund.failed", payment["state"], source=source, detail="REFUNDED_ALREADY", now_ms=now_ms
        )
        over -= wish["amount"]


async def _finish(
    tx: Statements, payment: Row, refund: Row, *, source: str, answer: RefundStatus | None = None, now_ms: int
) -> None:
    """Book a refund that is done and move its payment along."""
    require_refund(refund["state"], RefundState.DONE)
    now_ms = max(now_ms, (payment["reversed_at_ms"] or 0) + 1)  # the clock was read before the lock was ours
    fee_returned = 0
    if refund["from_suspense"]:
        state = await _book_from_suspense(tx, payment, refund, now_ms=now_ms)
    else:
        fee_returned = await _fee_returned(tx, payment, refund)
        state = await _book(tx, payment, refund, fee_returned=fee_returned, now_ms=now_ms)
    await tx.execute(
        "UPDATE refund SET state = 'done', fee_returned = $2, finished_at_ms = $3, ask_at_ms = NULL, "
        "error_code = NULL, provider_refund_id = coalesce($4, provider_refund_id), raw_response = $5 WHERE id = $1",
        refund["id"], fee_returned, now_ms, answer.provider_refund_id if answer else None,
        answer.body if answer else None,
    )  # fmt: skip
    await step(tx, payment["id"], "refund.done", state, source=source, detail=str(refund["amount"]), now_ms=now_ms)


async def borne_by_merchant(tx: Statements, payment: Row) -> tuple[ledger.Posting, ...]:
    """The postings of a capture, as what takes them back sees them. What was put into a wallet may be spent: the
    merchant that took it in, the platform's own, bears what a provider takes back, and a wallet is never negative."""
    captured = await ledger.captured_by(tx, payment["id"])
    if payment["credit_account"] is None or payment["method"] == PaymentMethod.WALLET:
        return captured
    taken, *priced = captured
    merchant = f"merchant_payable:{payment['merchant_id']}"
    return (ledger.Posting(taken.source, merchant, taken.amount, taken.unit), *priced)


async def _fee_returned(tx: Statements, payment: Row, refund: Row) -> int:
    """The part of the fee that comes back, so that the parts of several refunds add up to the whole."""
    if not refund["returns_fee"] or not payment["fee_amount"] or payment["state"] == PaymentState.REVERSED:
        return 0
    rows = await tx.fetch(
        "SELECT coalesce(sum(fee_returned), 0) AS returned FROM refund WHERE payment_id = $1 AND state = 'done'",
        payment["id"],
    )
    gone, paid = payment["refunded_amount"] + refund["amount"], payment["paid_amount"]
    return int((2 * payment["fee_amount"] * gone + paid) // (2 * paid) - rows[0]["returned"])


async def warn_of_promised(tx: Statements, payment: Row, state: PaymentState, *, now_ms: int) -> None:
    """Money went back for which something else was booked, tokens say: an operator takes that back, for it may be used
    by now."""
    if payment["promised"] is not None:
        await raise_alert(
            tx, "payment.promised_kept", ("transaction", payment["id"]), severity=Severity.CRITICAL,
            facts={"state": state.value, "promised": payment["promised"]}, now_ms=now_ms,
        )  # fmt: skip


async def _book(tx: Statements, payment: Row, refund: Row, *, fee_returned: int, now_ms: int) -> PaymentState:
    journal = ledger.refund(
        await borne_by_merchant(tx, payment),
        payment_id=payment["id"],
        refund_id=refund["id"],
        amount=refund["amount"],
        fee_returned=fee_returned,
    )
    await ledger.post(tx, [journal], now_ms=now_ms)
    gone = payment["refunded_amount"] + refund["amount"]
    state = _after(payment, gone)
    await tx.execute(
        "UPDATE payment SET state = $2, refunded_amount = $3 WHERE id = $1", payment["id"], state.value, gone
    )
    await warn_of_promised(tx, payment, state, now_ms=now_ms)
    if state is PaymentState.REVERSED:  # it went back twice
        await raise_alert(
            tx, "refund.after_reversal", ("transaction", payment["id"]), severity=Severity.CRITICAL,
            facts={"refund_id": refund["id"], "amount": refund["amount"]}, now_ms=now_ms,
        )  # fmt: skip
    earned = revenue.Entry(
        at_ms=now_ms,
        terminal_id=payment["terminal_id"],
        provider=refund["provider"] or revenue.without_provider(payment["method"]),
        merchant_id=payment["merchant_id"],
        refunds=1,
        refunded_amount=refund["amount"],
        fee_returned=fee_returned,
    )
    await revenue.add(tx, [earned])
    return state


def _after(payment: Row, gone: int) -> PaymentState:
    """The state once so much went back. A dispute about the rest goes on, and what was reversed stays so."""
    state = PaymentState(payment["state"])
    if state is PaymentState.REVERSED or (state is PaymentState.DISPUTED and gone < payment["paid_amount"]):
        return state
    whole = gone == payment["paid_amount"]
    return require(state, PaymentState.REFUNDED if whole else PaymentState.PARTIALLY_REFUNDED)


async def _book_from_suspense(tx: Statements, payment: Row, refund: Row, *, now_ms: int) -> PaymentState:
    journal = ledger.refund_from_suspense(
        payment_id=payment["id"], refund_id=refund["id"], provider=refund["provider"], amount=refund["amount"]
    )
    await ledger.post(tx, [journal], now_ms=now_ms)
    state, left = PaymentState(payment["state"]), await suspense.held(tx, payment["id"])
    if state is PaymentState.NEEDS_REVIEW and PaymentState.REFUNDED in TRANSITIONS[state] and not left:
        state = PaymentState.REFUNDED
    await tx.execute(
        "UPDATE payment SET state = $2, review_reason = $3, resolution = 'refunded' WHERE id = $1",
        payment["id"],
        state.value,
        payment["review_reason"] if left else None,  # what came meanwhile, or through another provider, still waits
    )
    return state


async def fail_refund(tx: Statements, payment: Row, refund: Row, *, code: str, source: str, now_ms: int) -> None:
    """The provider will not give it back: the amount is free again, and somebody has to look at it."""
    require_refund(refund["state"], RefundState.FAILED)
    await tx.execute(
        "UPDATE refund SET state = 'failed', error_code = $2, finished_at_ms = $3, ask_at_ms = NULL WHERE id = $1",
        refund["id"],
        code,
        now_ms,
    )
    await step(tx, payment["id"], "refund.failed", payment["state"], source=source, detail=code, now_ms=now_ms)
    await raise_alert(
        tx, "refund.failed", ("transaction", payment["id"]), severity=Severity.WARNING,
        facts={"refund_id": refund["id"], "amount": refund["amount"], "code": code}, now_ms=now_ms,
    )  # fmt: skip
