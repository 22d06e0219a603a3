"""A sum that one organisation asks for and another pays, from wallet to wallet: once, before its time is over."""

from dataclasses import dataclass

from soundbox_server.announcements.service import Telling
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Forbidden, InvalidAmount, NotFound, SessionExpired, ValidationFailed
from soundbox_server.merchants.tills import Till, till_of
from soundbox_server.payments.charging import Order
from soundbox_server.payments.methods import MOST_IDR, PaymentMethod
from soundbox_server.payments.refunds import refund_transfer
from soundbox_server.payments.transfers import take_transfer
from soundbox_server.wallets import service
from soundbox_server.wallets.service import Entry, account, enter, new_code, user_code
from soundbox_server.wallets.state import Direction, EntryKind, SessionState, require_session

_CLOSED = ("rejected", "suspended")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The platform's own, from its settings. The service fee is a part of what the payee asks for, and comes on top."""

    fee_percent: int = 0
    session_ms: int = 600_000

    def fee(self, amount: int) -> int:
        """Half-up to whole rupiah."""
        return (amount * self.fee_percent * 2 + 100) // 200


@dataclass(frozen=True, kw_only=True)
class Session:
    """`total_amount` is what the payer pays, in whole rupiah."""

    trace_id: str
    amount: int
    fee_percent: int
    total_amount: int
    expires_at_ms: int


async def open_session(
    tx: Statements, wallet_id: str, *, organisation_id: str, amount: int, terms: Terms, actor: Actor, now_ms: int
) -> Session:
    """Ask for a sum, to be paid into this wallet and said at the organisation's default terminal.

    Raises NotFound, InvalidAmount, Forbidden where the merchant or the terminal takes nothing. A merchant that is still
    looked at may be paid so: what it gets stays in its wallet.
    """
    wallet = await service.own(tx, wallet_id, organisation_id=organisation_id)
    till = await till_of(tx, organisation_id)
    await _require_open(tx, till)
    total = amount + terms.fee(amount)
    if not 1 <= total <= MOST_IDR:
        raise InvalidAmount(f"With its fee the amount must be from 1 to {MOST_IDR} rupiah.", amount=amount)
    trace_id, expires_at_ms = new_code("txn"), now_ms + terms.session_ms
    await tx.execute(
        "INSERT INTO wallet_session (id, wallet_id, merchant_id, outlet_id, terminal_id, amount, fee_percent, "
        "fee_amount, total_amount, state, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, "
        "'initiated', $10, $11)",
        trace_id, wallet["id"], till.merchant_id, till.outlet_id, till.terminal_id, amount, terms.fee_percent,
        total - amount, total, now_ms, expires_at_ms,
    )  # fmt: skip
    asked = Entry(
        organisation_id=organisation_id,
        wallet_id=wallet["id"],
        kind=EntryKind.PAYMENT,
        direction=Direction.CREDIT,
        trace_id=trace_id,
        amount=amount,
        fee_percent=terms.fee_percent,
        total_amount=total,
    )
    await enter(tx, asked, now_ms=now_ms)
    await record(tx, actor, "wallet.payment_asked", ("wallet", wallet["id"]), details={"amount": amount})
    return Session(
        trace_id=trace_id,
        amount=amount,
        fee_percent=terms.fee_percent,
        total_amount=total,
        expires_at_ms=expires_at_ms,
    )


async def _require_open(tx: Statements, till: Till) -> Row:
    rows = await tx.fetch(
        "SELECT m.status, m.brand_name, m.announcement_policy, t.status AS terminal_status, "
        "o.status AS outlet_status FROM terminal t JOIN merchant m ON m.id = t.merchant_id "
        "JOIN outlet o ON o.id = t.outlet_id WHERE t.id = $1",
        till.terminal_id,
    )
    if rows[0]["status"] in _CLOSED:
        raise Forbidden("This merchant may not take payments.")
    if "disabled" in (rows[0]["terminal_status"], rows[0]["outlet_status"]):
        raise Forbidden("This terminal is disabled.")
    return rows[0]


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A session that was paid: the payer's line of it, and what is left in the payer's wallet."""

    trace_id: str
    entry_id: str
    amount: int
    fee_percent: int
    total_amount: int
    counterparty: str
    paid_at_ms: int
    balance: int


async def accept(
    tx: Statements,
    trace_id: str,
    *,
    payer_wallet_id: str,
    total_amount: int,
    organisation_id: str,
    telling: Telling,
    request_id: str,
    actor: Actor,
    now_ms: int,
) -> Accepted:
    """Pay a session from one of the organisation's own wallets, whose PIN was proved. All of it commits together: the
    money, the session's end, and the announcement at the payee's terminal.

    Raises NotFound, SessionExpired for one that ended or was paid, ValidationFailed for a payment to oneself and for a
    wallet that does not pay, InvalidAmount for another amount than is asked, InsufficientBalance, Forbidden.
    """
    session = await _lock_session(tx, trace_id)
    await service.own(tx, payer_wallet_id, organisation_id=organisation_id)
    if session["state"] != SessionState.INITIATED:
        raise SessionExpired("This payment session was paid.")
    if session["expires_at_ms"] <= now_ms:
        raise SessionExpired("This payment session has ended. Ask for another.")
    wallets = await service.lock(tx, [payer_wallet_id, session["wallet_id"]])
    payer, payee = wallets[payer_wallet_id], wallets[session["wallet_id"]]
    if payer["organisation_id"] == payee["organisation_id"]:
        raise ValidationFailed("Nobody pays themselves.", field="fromWalletCode")
    if not payer["is_default"]:
        raise ValidationFailed("Only the default wallet pays.", field="fromWalletCode")
    if total_amount != session["total_amount"]:
        raise InvalidAmount("This is not the amount that was asked for.", total_amount=session["total_amount"])
    till = Till(merchant_id=session["merchant_id"], outlet_id=session["outlet_id"], terminal_id=session["terminal_id"])
    place = await _require_open(tx, till)
    balance = await service.require_balance(tx, payer["id"], total_amount)
    payment_id = await take_transfer(
        tx,
        Order(
            merchant_id=till.merchant_id,
            outlet_id=till.outlet_id,
            terminal_id=till.terminal_id,
            amount=total_amount,
            source="api",
            trace_id=request_id,
            method=PaymentMethod.WALLET.value,
            order_code=trace_id,
            credit_account=account(payee["id"]),
        ),
        payer=account(payer["id"]),
        fee=session["fee_amount"],
        merchant_name=place["brand_name"],
        policy=place["announcement_policy"],
        telling=telling,
        now_ms=now_ms,
    )
    await tx.execute(
        "UPDATE wallet_session SET state = $2, payer_wallet_id = $3, payment_id = $4, paid_at_ms = $5 WHERE id = $1",
        trace_id, require_session(session["state"], SessionState.SUCCESS).value, payer["id"], payment_id, now_ms,
    )  # fmt: skip
    paid = Entry(
        organisation_id=organisation_id,
        wallet_id=payer["id"],
        kind=EntryKind.PAYMENT,
        direction=Direction.DEBIT,
        trace_id=trace_id,
        amount=session["amount"],
        fee_percent=session["fee_percent"],
        total_amount=total_amount,
        counterparty=user_code(payee["organisation_id"]),
    )
    entry_id = await enter(tx, paid, now_ms=now_ms)
    await tx.execute(
        "UPDATE wallet_entry SET counterparty = $3 WHERE wallet_id = $1 AND trace_id = $2 AND kind = 'payment'",
        payee["id"], trace_id, user_code(organisation_id),
    )  # fmt: skip
    await service.touch(tx, wallets, now_ms=now_ms)
    details = {"amount": total_amount, "trace_id": trace_id}
    await record(tx, actor, "wallet.paid", ("wallet", payer["id"]), details=details)
    return Accepted(
        trace_id=trace_id,
        entry_id=entry_id,
        amount=session["amount"],
        fee_percent=session["fee_percent"],
        total_amount=total_amount,
        counterparty=user_code(payee["organisation_id"]),
        paid_at_ms=now_ms,
        balance=balance - total_amount,
    )


async def require_known(tx: Statements, trace_id: str, *, payee: str | None = None) -> None:
    """Before anybody's PIN is tried. Raises NotFound where there is no such session, or it is not this organisation's
    to be paid."""
    rows = await tx.fetch(
        "SELECT w.organisation_id FROM wallet_session s JOIN wallet w ON w.id = s.wallet_id WHERE s.id = $1", trace_id
    )
    if not rows or payee not in (None, rows[0]["organisation_id"]):
        raise NotFound("No such payment session.", transaction_trace_id=trace_id)


async def _lock_session(tx: Statements, trace_id: str) -> Row:
    rows = await tx.fetch(
        "SELECT s.id, s.wallet_id, s.merchant_id, s.outlet_id, s.terminal_id, s.amount, s.fee_percent, s.fee_amount, "
        "s.total_amount, s.state, s.expires_at_ms, s.payer_wallet_id, s.payment_id, w.organisation_id "
        f"FROM wallet_session s JOIN wallet w ON w.id = s.wallet_id WHERE s.id = $1 {tx.lock('s')}",
        trace_id,
    )
    if not rows:
        raise NotFound("No such payment session.", transaction_trace_id=trace_id)
    return rows[0]


@dataclass(frozen=True, kw_only=True)
class GivenBack:
    """So much of a session's money went back; `balance` is what the payee's wallet holds now."""

    trace_id: str
    refund_id: str
    amount: int
    balance: int


async def give_back(
    tx: Statements,
    trace_id: str,
    *,
    amount: int | None,
    reason: str,
    organisation_id: str,
    actor: Actor,
    now_ms: int,
) -> GivenBack:
    """The payee, whose PIN was proved, sends so much of what it was paid back, or all that is left. The service fee is
    kept.

    Raises NotFound, also for another organisation's, IllegalTransition for what was not paid, InvalidAmount for more
    than is left of it, InsufficientBalance where the wallet does not hold it any more.
    """
    session = await _lock_session(tx, trace_id)
    if session["organisation_id"] != organisation_id:
        raise NotFound("No such payment session.", transaction_trace_id=trace_id)
    if session["state"] != SessionState.SUCCESS:
        raise ValidationFailed("Only what was paid can be refunded.", field="transactionTraceId")
    wallets = await service.lock(tx, [session["payer_wallet_id"], session["wallet_id"]])
    payee, payer = wallets[session["wallet_id"]], wallets[session["payer_wallet_id"]]
    refund_id, wanted = await refund_transfer(
        tx, session["payment_id"], amount=amount, reason=reason, requested_by=actor.id, now_ms=now_ms
    )
    balance = await service.require_balance(tx, payee["id"], 0)  # raised, nothing of it was ever done
    for whose, other, direction in ((payee, payer, Direction.DEBIT), (payer, payee, Direction.CREDIT)):
        entry = Entry(
            organisation_id=whose["organisation_id"],
            wallet_id=whose["id"],
            kind=EntryKind.REFUND,
            direction=direction,
            trace_id=refund_id,
            amount=wanted,
            total_amount=wanted,
            counterparty=user_code(other["organisation_id"]),
        )
        await enter(tx, entry, now_ms=now_ms)
    await service.touch(tx, wallets, now_ms=now_ms)
    details = {"amount": wanted, "trace_id": trace_id, "reason": reason}
    await record(tx, actor, "wallet.refunded", ("wallet", payee["id"]), details=details)
    return GivenBack(trace_id=trace_id, refund_id=refund_id, amount=wanted, balance=balance)
