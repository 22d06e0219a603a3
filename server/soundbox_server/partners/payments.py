"""Payments that partners ask for: by a name of their own, for the merchant of a license, at the price of a token.

A name asked for twice is one payment. It is tried anew only where the one before it ended before anything was issued.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from soundbox_server.audit.service import Actor, record
from soundbox_server.checkout.service import Presentation, new_session_id, open_session
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, DuplicateRequest, InsufficientTokens, InvalidLicense, TransactionNotFound
from soundbox_server.ids import new_id
from soundbox_server.partners import licenses, tokens
from soundbox_server.partners.licenses import License
from soundbox_server.partners.state import PaymentType
from soundbox_server.payments.charging import Order, Pending, find_charge, place_at
from soundbox_server.payments.methods import Payer, PaymentMethod
from soundbox_server.payments.state import CAPTURED, LATE, PaymentState
from soundbox_server.seal import Ring
from soundbox_server.webhooks import service as webhooks
from soundbox_server.webhooks.addresses import Reach

LEAST_IDR = 1_000
PURPOSE: Mapping[PaymentType, str] = {"qris": "Partner payment: QRIS", "checkout_page": "Partner payment: checkout"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a partner wants to be paid. Without a license key any license of its own that has a token will do."""

    organisation_id: str
    transaction_id: str
    amount: int
    payment_type: PaymentType
    license_key: str | None
    life_ms: int
    presentation: Presentation
    payer: Payer = field(default_factory=Payer)
    webhook_url: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    trace_id: str


@dataclass
class Case:
    """One request, from the order to what is booked beside it. `session_id` is known once `order_of` was asked;
    `reach` is where webhooks may go."""

    asked: Asked
    actor: Actor
    ring: Ring
    reach: Reach
    now_ms: int
    session_id: str = ""
    number: int = 0  # of a new payment; 0 for one that was there
    _license: License | None = None

    async def order_of(self, tx: Statements) -> Order:
        """What is to be paid, in the transaction that stores it. Raises InvalidLicense, LicenseExpired,
        InsufficientTokens, Forbidden where the merchant takes no payments, and Conflict for a transaction_id that
        stands for another payment."""
        asked = self.asked
        found = await _latest(tx, asked.organisation_id, asked.transaction_id)
        if found is None or await self._tried_anew(tx, found):
            license = self._license = await self._locked_license(tx, found)
            # Somebody who asked for the same was faster, perhaps: look again under the lock.
            found = await _latest(tx, asked.organisation_id, asked.transaction_id)
            if found is None or await self._tried_anew(tx, found):
                return await self._new_order(tx, license, found)
        return await self._found(tx, found)

    async def _tried_anew(self, tx: Statements, found: Row) -> bool:
        """Nothing was ever issued for it, and nobody waits for that any more."""
        if PaymentState(found["state"]) not in LATE:
            return False
        pending = await find_charge(tx, found["payment_id"])
        return not pending.answered

    async def _locked_license(self, tx: Statements, found: Row | None) -> License:
        asked = self.asked
        if asked.license_key is not None:
            named = await licenses.owned(tx, asked.license_key, organisation_id=asked.organisation_id)
            both = {named.id} if found is None else {named.id, found["license_id"]}
            locked = {license_id: await licenses.lock(tx, license_id) for license_id in sorted(both)}
            license = locked[named.id]
        elif found is not None:
            license = await licenses.lock(tx, found["license_id"])
        else:
            license = await _any_license(tx, asked.organisation_id, now_ms=self.now_ms)
        return licenses.require_usable(license, now_ms=self.now_ms)

    async def _new_order(self, tx: Statements, license: License, before: Row | None) -> Order:
        asked = self.asked
        if before is not None:
            await tokens.void_reserved(tx, before["payment_id"], now_ms=self.now_ms)
            self._license = license = await licenses.get(tx, license.id)
        self.number, self.session_id = 1 if before is None else before["number"] + 1, new_session_id()
        assert license.merchant_id is not None  # it is usable
        outlet_id, terminal_id = await place_at(tx, license.merchant_id, terminal_id=license.terminal_id)
        details = {"transaction_id": asked.transaction_id, "amount": asked.amount, "type": asked.payment_type}
        await record(tx, self.actor, "partner_payment.asked", ("license", license.id), details=details)
        return Order(
            merchant_id=license.merchant_id,
            outlet_id=outlet_id,
            terminal_id=terminal_id,
            amount=asked.amount,
            source="api",
            trace_id=asked.trace_id,
            method=PaymentMethod.QRIS_DYNAMIC.value,
            order_code=new_id("ptp"),
            description=asked.presentation.description,
            payer=asked.payer,
            life_ms=asked.life_ms,
        )

    async def _found(self, tx: Statements, found: Row) -> Order:
        asked = self.asked
        same_license = asked.license_key is None or licenses.readable_key(asked.license_key) == found["key"]
        if (found["amount"], found["payment_type"]) != (asked.amount, asked.payment_type) or not same_license:
            raise Conflict(
                "This transaction_id belongs to another payment.", transaction_id=asked.transaction_id,
                amount=found["amount"],
            )  # fmt: skip
        self.number, self.session_id = 0, found["session_id"]
        return Order(
            merchant_id=found["merchant_id"],
            outlet_id=found["outlet_id"],
            terminal_id=found["terminal_id"],
            amount=found["amount"],
            source="api",
            trace_id=asked.trace_id,
            method=found["method"],
            order_code=found["order_code"],
        )

    async def opened(self, tx: Statements, pending: Pending) -> None:
        """Beside the payment's first row: its session and name, and the token that is set aside."""
        if not self.number:
            if pending.answered:  # somebody else found out that it was issued
                await tokens.use_reserved(tx, pending.payment_id, now_ms=self.now_ms)
            return
        asked, license = self.asked, self._license
        assert license is not None
        await open_session(
            tx, payment_id=pending.payment_id, organisation_id=asked.organisation_id, presentation=asked.presentation,
            expires_at_ms=pending.expires_at_ms, session_id=self.session_id, now_ms=self.now_ms,
            payer_chooses=asked.payment_type == "checkout_page",
        )  # fmt: skip
        named = await tx.fetch(
            "INSERT INTO partner_payment (payment_id, organisation_id, license_id, transaction_id, number, "
            "payment_type, session_id, webhook_url, facts, created_at_ms) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
            "ON CONFLICT (organisation_id, transaction_id, number) DO NOTHING RETURNING payment_id",
            pending.payment_id, asked.organisation_id, license.id, asked.transaction_id, self.number,
            asked.payment_type, self.session_id, asked.webhook_url,
            orjson.dumps(asked.facts).decode() if asked.facts else None, self.now_ms,
        )  # fmt: skip
        if not named:  # the same name came with another license at the same moment
            raise DuplicateRequest("This transaction_id is being asked for. Ask again in a moment.")
        await webhooks.aim(
            tx, pending.payment_id, organisation_id=asked.organisation_id, url=asked.webhook_url,
            facts=_called(asked, license, pending), reach=self.reach, ring=self.ring, now_ms=self.now_ms,
        )  # fmt: skip
        await tokens.reserve(
            tx, license, payment_id=pending.payment_id, purpose=PURPOSE[asked.payment_type], now_ms=self.now_ms
        )

    async def issued(self, tx: Statements, pending: Pending) -> None:
        """Beside the charge: the token is used, and webhooks call the payment as the answer does."""
        if pending.provider_reference:
            await webhooks.also_called(
                tx, pending.payment_id, facts={"gateway_transaction_id": pending.provider_reference}
            )
        await tokens.use_reserved(tx, pending.payment_id, now_ms=self.now_ms)


def _called(asked: Asked, license: License, pending: Pending) -> dict[str, object]:
    """What the partner's webhooks call this payment."""
    return {
        "payment_id": pending.payment_id,
        "transaction_id": asked.transaction_id,
        "license_key": license.key,
        "payment_type": asked.payment_type,
        "gateway_transaction_id": pending.reference,
    }


_OF_PARTNER = """
SELECT b.payment_id, b.number, b.payment_type, b.session_id, b.license_id, b.transaction_id, l.key, p.merchant_id,
       p.outlet_id, p.terminal_id, p.amount, p.method, p.order_code, p.state, p.paid_at_ms, p.expires_at_ms
FROM partner_payment b JOIN payment p ON p.id = b.payment_id JOIN license l ON l.id = b.license_id
WHERE b.organisation_id = $1 AND b.transaction_id = $2 ORDER BY b.number DESC LIMIT 1
"""


async def _latest(tx: Statements, organisation_id: str, transaction_id: str) -> Row | None:
    rows = await tx.fetch(_OF_PARTNER, organisation_id, transaction_id)
    return rows[0] if rows else None


async def _any_license(tx: Statements, organisation_id: str, *, now_ms: int) -> License:
    """The oldest usable license that has a token, under its lock. Raises InvalidLicense where there is
    none at all, InsufficientTokens where all are empty."""
    usable = [
        one for one in await licenses.of_organisation(tx, organisation_id) if one.valid(now_ms) and one.merchant_id
    ]
    if not usable:
        raise InvalidLicense("You have no license that charges for a merchant.")
    for one in usable:  # in the order of their ids, as all locks
        if one.balance >= tokens.PAYMENT_TOKENS:
            license = await licenses.lock(tx, one.id)
            if license.balance >= tokens.PAYMENT_TOKENS:
                return license
    balance = sum(one.balance for one in usable)
    raise InsufficientTokens("None of your licenses has tokens.", balance=balance, required=tokens.PAYMENT_TOKENS)


async def find(tx: Statements, *, organisation_id: str, transaction_id: str) -> tuple[Row, Pending]:
    """A partner's payment by the partner's own name of it, with its charge. Raises TransactionNotFound."""
    found = await _latest(tx, organisation_id, transaction_id)
    if found is None:
        raise TransactionNotFound("No such transaction.", transaction_id=transaction_id)
    return found, await find_charge(tx, found["payment_id"])


# Tokens whose payment was decided while nobody waited for it


async def settle(tx: Statements, payment_id: str, *, now_ms: int) -> None:
    """What was set aside for a payment is used once something was issued, and goes back once nothing can be."""
    rows = await tx.fetch("SELECT license_id FROM token_use WHERE payment_id = $1 AND state = 'reserved'", payment_id)
    if not rows:
        return
    await licenses.lock(tx, rows[0]["license_id"])
    await tx.fetch("SELECT id FROM payment WHERE id = $1 " + tx.lock("payment"), payment_id)
    pending = await find_charge(tx, payment_id)
    state = PaymentState(pending.payment_state)
    if pending.answered or state in CAPTURED or state is PaymentState.REFUNDED:
        await tokens.use_reserved(tx, payment_id, now_ms=now_ms)
    elif state in LATE:
        await tokens.void_reserved(tx, payment_id, now_ms=now_ms)


async def undecided(tx: Statements, *, before_ms: int, limit: int) -> Sequence[str]:
    """Payments that tokens have been set aside for since before that moment, and that wait no more."""
    rows = await tx.fetch(
        "SELECT u.payment_id FROM token_use u JOIN payment p ON p.id = u.payment_id "
        "WHERE u.state = 'reserved' AND u.created_at_ms < $1 AND p.state <> 'created' AND p.state <> 'needs_review' "
        "ORDER BY u.id LIMIT $2",
        before_ms, limit,
    )  # fmt: skip
    return [row["payment_id"] for row in rows]
