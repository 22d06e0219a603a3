"""A bank in this process that keeps books of its own, and does wrong what a test tells it to; and settlements for it to
pay out."""

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from support.shop import NOW, Shop, execute, report, row, rows, take

from soundbox_server.db import Database, Statements
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.ledger.service import Journal, Posting
from soundbox_server.providers.banks import TransferRequest, TransferStatus
from soundbox_server.providers.base import PayoutReport, ProviderRefused, ProviderUnknown, ProviderUnreachable

ACCOUNT = "bank:9876543210"


@dataclass
class Bank:
    """`faults` strike one call each, in turn: `lost` does what is asked and loses the answer, `silent` does nothing and
    says nothing, `unreachable` was never heard, `refuse` says no, `slow` leaves a transfer pending, `fail` takes it on
    and fails, `reversed` pays and sends it back."""

    name: str = "sandbox"
    faults: deque[str] = field(default_factory=deque)
    transfers: dict[str, TransferStatus] = field(default_factory=dict)
    sent: list[TransferRequest] = field(default_factory=list)  # every transfer that reached it
    queried: list[str] = field(default_factory=list)

    async def create(self, request: TransferRequest) -> TransferStatus:
        fault = self._strike("lost", "slow", "fail", "reversed")
        self.sent.append(request)
        state = {"slow": "pending", "fail": "failed", "reversed": "reversed"}.get(fault or "", "succeeded")
        if request.reference not in self.transfers:
            self.becomes(request.reference, state)
        if fault == "lost":
            raise ProviderUnknown("The answer got lost.")
        return self.transfers[request.reference]

    async def query(self, reference: str) -> TransferStatus:
        self.queried.append(reference)
        self._strike()
        return self.transfers.get(reference) or TransferStatus(reference=reference, state="not_found")

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> PayoutReport:
        raise NotImplementedError

    async def circuit(self) -> str:
        return "closed"

    async def aclose(self) -> None: ...

    def becomes(self, reference: str, state: Any) -> None:
        """Where this transfer stands from now on."""
        self.transfers[reference] = TransferStatus(reference=reference, state=state, bank_payout_id="TRF1", body=b"{}")

    @property
    def paid(self) -> int:
        """What left it for good."""
        amounts = {request.reference: request.amount_idr for request in self.sent}
        return sum(amounts[one.reference] for one in self.transfers.values() if one.state == "succeeded")

    def _strike(self, *handled: str) -> str | None:
        fault = self.faults.popleft() if self.faults else None
        if fault in (None, *handled):
            return fault
        if fault == "unreachable":
            raise ProviderUnreachable("It cannot be reached.")
        if fault == "refuse":
            raise ProviderRefused("It refuses.")
        raise ProviderUnknown("It says nothing.")


def told(reference: str, state: str, amount: int, *, event_id: str | None = None, **other: Any) -> PayoutReport:
    """What the bank says of a payout."""
    event_id = event_id or new_id("evt")
    body = json.dumps([event_id, reference, state, amount, other]).encode()
    fields: dict[str, Any] = {
        "provider": "sandbox", "event_id": event_id, "payout_reference": reference, "provider_payout_id": "TRF1",
        "state": state, "amount_idr": amount, "currency": "IDR", "body": body,
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }  # fmt: skip
    return PayoutReport(**fields | other)


async def settlement(
    shop: Shop, *amounts: int, mode: str = "merchant_direct", account: str | None = ACCOUNT, acme: int = 0,
    day: str = "2026-05-22",
) -> str:  # fmt: skip
    """A batch of payments that were made and paid just now, `acme` of it through the other provider; its id."""
    box = await shop.box()
    paid = [(await shop.payment(box, amount), "sandbox") for amount in amounts or (50_000,)]
    paid += [(await shop.payment(box, acme, provider="acme"), "acme")] if acme else []
    await take(shop.database, *(report(payment) for payment, _ in paid))
    await execute(
        shop.database, "UPDATE merchant SET settlement_account_reference = $2, settlement_account_type = 'bank', "
        "payout_mode = $3 WHERE id = $1", shop.merchant_id, account, mode,
    )  # fmt: skip
    settlement_id = new_id("stl")
    items = [
        (await row(
            shop.database, "SELECT j.id, p.id AS payment_id, p.paid_amount, p.fee_amount, p.paid_at_ms FROM payment p "
            "JOIN journal j ON j.payment_id = p.id AND j.kind = 'capture' WHERE p.id = $1", payment.payment_id,
        ), provider)
        for payment, provider in paid
    ]  # fmt: skip

    async def plant(tx: Statements) -> None:
        await _batch(tx, shop, settlement_id, items, mode=mode, day=day)

    await shop.database.write(plant)
    return settlement_id


async def _batch(
    tx: Statements, shop: Shop, settlement_id: str, items: list[tuple[Any, str]], *, mode: str, day: str
) -> None:
    gross, fee = (sum(item[name] for item, _ in items) for name in ("paid_amount", "fee_amount"))
    await tx.execute(
        "INSERT INTO settlement (id, merchant_id, fee_profile_id, day, window_name, opens_at_ms, closes_at_ms, "
        "settles_on, state, payout_mode, payments, gross_amount, fee_amount, net_amount, created_at_ms, "
        "calculated_at_ms) VALUES ($1, $2, $3, $4, $1, 1, 2, $4, 'calculated', $5, $6, $7, $8, $9, $10, $10)",
        settlement_id, shop.merchant_id, shop.fee_profile_id, day, mode, len(items), gross, fee, gross - fee, NOW,
    )  # fmt: skip
    for provider in {provider for _, provider in items}:
        ours = [item for item, through in items if through == provider]
        gross, fee = (sum(item[name] for item in ours) for name in ("paid_amount", "fee_amount"))
        await tx.execute(
            "INSERT INTO settlement_share (settlement_id, provider, merchant_id, payments, adjustments, gross_amount, "
            "fee_amount, adjustment_amount, carried_in, carried_out, net_amount) "
            "VALUES ($1, $2, $3, $4, 0, $5, $6, 0, 0, 0, $7)",
            settlement_id, provider, shop.merchant_id, len(ours), gross, fee, gross - fee,
        )  # fmt: skip
    for item, provider in items:
        await tx.execute(
            "INSERT INTO settlement_item (settlement_id, journal_id, payment_id, kind, provider, gross_amount, "
            "fee_amount, at_ms) VALUES ($1, $2, $3, 'payment', $4, $5, $6, $7)",
            settlement_id, item["id"], item["payment_id"], provider, item["paid_amount"], item["fee_amount"],
            item["paid_at_ms"],
        )  # fmt: skip
    net = sum(item["paid_amount"] - item["fee_amount"] for item, _ in items)
    settled = Posting(f"merchant_payable:{shop.merchant_id}", f"clearing:{settlement_id}", net)
    journal = Journal(kind="settlement", postings=(settled,), money_key=f"settlement:{settlement_id}")
    await ledger.post(tx, [journal], now_ms=NOW)


async def payouts(database: Database) -> list[dict[str, Any]]:
    return await rows(database, "SELECT * FROM payout ORDER BY id")


async def state_of(database: Database, settlement_id: str) -> str:
    return str((await row(database, "SELECT state FROM settlement WHERE id = $1", settlement_id))["state"])
