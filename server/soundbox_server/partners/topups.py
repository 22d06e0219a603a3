"""Buying tokens: a payment to the platform's own merchant that promises them, so that its capture issues them.

Whoever pays more at once gets tokens besides, by tiers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from soundbox_server.audit.service import Actor, record
from soundbox_server.checkout.service import Presentation, new_session_id, open_session
from soundbox_server.db import Row, Statements
from soundbox_server.errors import NotFound, PaymentsClosed
from soundbox_server.partners import licenses, tokens
from soundbox_server.partners.licenses import License
from soundbox_server.payments.charging import Order, Pending, place_at
from soundbox_server.payments.methods import Payer


@dataclass(frozen=True, kw_only=True)
class Tier:
    """From so many tokens on, so many come besides."""

    min_tokens: int
    bonus_tokens: int


def bonus(tiers: Sequence[Tier], wanted: int) -> int:
    """What comes besides so many tokens: of the highest tier that they reach."""
    reached = [tier for tier in tiers if tier.min_tokens <= wanted]
    return max(reached, key=lambda tier: tier.min_tokens).bonus_tokens if reached else 0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Tokens to buy. `method` is how they are paid for, `named` how the partner says so."""

    topup_id: str
    organisation_id: str
    license_key: str
    tokens: int
    method: str
    named: str
    life_ms: int | None
    payer: Payer
    trace_id: str


@dataclass
class Case:
    """One request, from the order to what is booked beside it. `license`, `bonus_tokens` and `session_id` are known
    once `order_of` was asked."""

    wanted: Wanted
    tiers: Sequence[Tier]
    requested_by: str | None
    actor: Actor
    now_ms: int
    license: License | None = None
    bonus_tokens: int = 0
    session_id: str = ""

    async def order_of(self, tx: Statements) -> Order:
        """What is to be paid. Raises InvalidLicense, and PaymentsClosed while the platform has no merchant."""
        wanted = self.wanted
        license = self.license = await licenses.owned(tx, wanted.license_key, organisation_id=wanted.organisation_id)
        self.bonus_tokens, self.session_id = bonus(self.tiers, wanted.tokens), new_session_id()
        price = license.price_per_token
        if (found := await _find(tx, "t.id = $1", wanted.topup_id)) is not None:  # asked once more, with its key
            self.bonus_tokens, self.session_id = found["bonus_tokens"], found["session_id"]
            price = found["price_per_token"]
        merchant_id = await _platform_merchant(tx)
        outlet_id, terminal_id = await place_at(tx, merchant_id)
        total = wanted.tokens + self.bonus_tokens
        return Order(
            merchant_id=merchant_id,
            outlet_id=outlet_id,
            terminal_id=terminal_id,
            amount=wanted.tokens * price,
            source="api",
            trace_id=wanted.trace_id,
            method=wanted.method,
            order_code=wanted.topup_id,
            description=f"{total} tokens",
            payer=wanted.payer,
            life_ms=wanted.life_ms,
            promised=(tokens.issue(license.id, total),),
        )

    async def opened(self, tx: Statements, pending: Pending) -> None:
        """Beside the payment's first row: its session, and what was asked for."""
        wanted, license = self.wanted, self.license
        assert license is not None
        if await _find(tx, "t.id = $1", wanted.topup_id) is not None:
            return
        shown = Presentation(description=pending.description, customer_name=wanted.payer.name)
        await open_session(
            tx, payment_id=pending.payment_id, organisation_id=wanted.organisation_id, presentation=shown,
            expires_at_ms=pending.expires_at_ms, session_id=self.session_id, now_ms=self.now_ms,
            payer_chooses=wanted.named == "checkout_page",
        )  # fmt: skip
        await tx.execute(
            "INSERT INTO token_topup (id, organisation_id, license_id, payment_id, session_id, tokens_requested, "
            "bonus_tokens, price_per_token, payment_method, requested_by, created_at_ms) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            wanted.topup_id, wanted.organisation_id, license.id, pending.payment_id, self.session_id, wanted.tokens,
            self.bonus_tokens, license.price_per_token, wanted.named, self.requested_by, self.now_ms,
        )  # fmt: skip
        details = {"tokens": wanted.tokens, "bonus": self.bonus_tokens, "amount": pending.amount}
        await record(tx, self.actor, "token_topup.asked", ("license", license.id), details=details)


async def _platform_merchant(tx: Statements) -> str:
    rows = await tx.fetch(
        "SELECT m.id FROM merchant m JOIN organisation o ON o.id = m.organisation_id "
        "WHERE o.kind = 'platform' AND m.status = 'approved' ORDER BY m.id LIMIT 1"
    )
    if not rows:
        raise PaymentsClosed("The platform has no approved merchant of its own that could be paid for tokens.")
    return str(rows[0]["id"])


_FIND = """
SELECT t.id, t.organisation_id, t.license_id, t.payment_id, t.session_id, t.tokens_requested, t.bonus_tokens,
       t.price_per_token, t.payment_method, t.requested_by, t.created_at_ms, l.key, p.amount, p.state, p.paid_at_ms,
       p.expires_at_ms, a.provider, a.provider_reference, a.reference, a.qr_payload, a.actions
FROM token_topup t JOIN license l ON l.id = t.license_id JOIN payment p ON p.id = t.payment_id
LEFT JOIN payment_attempt a ON a.payment_id = p.id
  AND a.number = (SELECT max(number) FROM payment_attempt WHERE payment_id = p.id)
WHERE """


async def _find(tx: Statements, wanted: str, *args: object) -> Row | None:
    rows = await tx.fetch(_FIND + wanted, *args)
    return rows[0] if rows else None


async def get(tx: Statements, topup_id: str, *, organisation_id: str | None = None) -> Row:
    """A top-up with its payment and charge; of this organisation, where one is named. Raises NotFound."""
    found = await _find(tx, "t.id = $1", topup_id)
    if found is None or organisation_id not in (None, found["organisation_id"]):
        raise NotFound("No such top-up.", transaction_id=topup_id)
    return found


async def history(tx: Statements, organisation_id: str, *, page: int, limit: int) -> Sequence[Row]:
    """An organisation's top-ups, the newest first."""
    return await tx.fetch(
        _FIND + "t.organisation_id = $1 ORDER BY t.id DESC LIMIT $2 OFFSET $3",
        organisation_id, limit, (page - 1) * limit,
    )  # fmt: skip


def actions_of(row: Row) -> dict[str, str]:
    """What else than a QR pays a top-up, by the names of `Charge`."""
    return dict(orjson.loads(row["actions"])) if row["actions"] else {}
