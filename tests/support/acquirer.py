"""A provider in this process that keeps books of its own, and does wrong what a test tells it to."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from support.shop import NOW

from soundbox_server.clock import rfc3339
from soundbox_server.ids import new_id
from soundbox_server.payments.charging import Pending
from soundbox_server.providers.base import (
    AdjustmentReport,
    Capabilities,
    Charge,
    ChargeRequest,
    ChargeState,
    ChargeStatus,
    Method,
    PaymentReport,
    ProviderRefused,
    ProviderUnknown,
    ProviderUnreachable,
    RefundRequest,
    RefundStatus,
)
from soundbox_server.providers.hmac_scheme import read_report, read_word


@dataclass
class Acquirer:
    """`faults` strike one call each, in turn: `lost` does what is asked and loses the answer, `silent` does nothing and
    says nothing, `unreachable` was never heard, `refuse` says no, `slow` leaves a refund pending."""

    name: str = "sandbox"
    can_refund: bool = True
    can_cancel: bool = True
    faults: deque[str] = field(default_factory=deque)
    charges: dict[str, ChargeStatus] = field(default_factory=dict)
    refunds: dict[str, RefundStatus] = field(default_factory=dict)
    sent: list[RefundRequest] = field(default_factory=list)  # every refund that reached it
    cancelled: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            methods=frozenset({Method.QRIS_DYNAMIC}), cancel=self.can_cancel, refund=self.can_refund,
            partial_refund=self.can_refund,
        )  # fmt: skip

    async def create(self, request: ChargeRequest) -> Charge:
        raise ProviderRefused("Nobody asked for this in these tests.")

    async def query(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> ChargeStatus:
        self.asked.append(reference)
        self._strike()
        return self.charges.get(reference) or ChargeStatus(reference=reference, state="not_found")

    async def cancel(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> None:
        fault = self._strike("lost")
        self.cancelled.append(reference)
        if fault:
            raise ProviderUnknown("The answer got lost.")

    async def refund(self, request: RefundRequest) -> RefundStatus:
        fault = self._strike("lost", "slow")
        self.sent.append(request)
        made = RefundStatus(
            refund_reference=request.refund_reference,
            state="pending" if fault == "slow" else "succeeded",
            provider_refund_id=new_id("prf"),
            body=b"{}",
        )
        self.refunds[request.refund_reference] = made
        if fault == "lost":
            raise ProviderUnknown("The answer got lost.")
        return made

    async def query_refund(self, request: RefundRequest) -> RefundStatus:
        self._strike()
        unheard = RefundStatus(refund_reference=request.refund_reference, state="not_found")
        return self.refunds.get(request.refund_reference, unheard)

    async def circuit(self) -> str:
        return "closed"

    async def aclose(self) -> None: ...

    def says(self, payment: Pending, state: ChargeState, *, report: PaymentReport | None = None, **more: Any) -> None:
        """What it answers from now on when it is asked about this payment."""
        self.charges[payment.reference] = ChargeStatus(reference=payment.reference, state=state, report=report, **more)

    def _strike(self, *handled: str) -> str | None:
        fault = self.faults.popleft() if self.faults else None
        if fault in (None, *handled):
            return fault
        if fault == "unreachable":
            raise ProviderUnreachable("It cannot be reached.")
        if fault == "refuse":
            raise ProviderRefused("It refuses.")
        raise ProviderUnknown("It says nothing.")


def adjustment(
    payment: Pending, kind: str, *, amount: int | None = None, refund_reference: str | None = None, **other: Any
) -> AdjustmentReport:
    """What the payment's provider says became of its money, read from a body as it would come."""
    body = {
        "event_id": new_id("pev"), "partner_reference": payment.reference, "status": kind,
        "amount": amount or payment.amount, "currency": "IDR", "refund_reference": refund_reference,
    } | other  # fmt: skip
    read = read_word(json.dumps(body).encode(), provider=payment.provider)
    assert isinstance(read, AdjustmentReport)
    return read


def money_for(reference: str, amount: int, *, provider: str = "sandbox", **other: Any) -> PaymentReport:
    """A report of money under a reference, whoever's it is."""
    body = {
        "event_id": new_id("pev"), "partner_reference": reference, "status": "paid", "amount": amount,
        "currency": "IDR", "paid_at": rfc3339(NOW),
    } | other  # fmt: skip
    return read_report(json.dumps(body).encode(), provider=provider)


def references(sent: Sequence[RefundRequest]) -> list[str]:
    return [request.refund_reference for request in sent]
