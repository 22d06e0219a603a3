"""What every QRIS partner gives us, whatever its wire looks like: one file per partner turns bytes into these."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from soundbox_server.errors import GatewayError, PartnerTimeout

ReportedStatus = Literal["paid", "failed", "expired", "pending"]
ChargeState = Literal["open", "paid", "failed", "expired", "not_found"]


class ProviderUnknown(PartnerTimeout):
    """The answer was lost, late or unreadable: the charge may exist. Query the same reference; never charge again."""


class ProviderRefused(GatewayError):
    """A definite no: nothing was charged, and another provider may be asked."""


class PaymentReport(msgspec.Struct, frozen=True, kw_only=True):
    """A partner's word about one payment, after its signature was checked.

    `event_id` names the report (one payment may have several), `partner_reference` is the reference that we chose.
    `currency` is whatever three letters the partner sent: the payment decides whether they fit.
    `body` are the bytes as signed, `body_sha256` their digest in hex: the same event with another body is a lie.
    """

    provider: str
    event_id: str
    partner_reference: str
    provider_transaction_id: str | None
    status: ReportedStatus
    amount_idr: int
    currency: str
    paid_at_ms: int | None
    issuer: str | None
    rrn: str | None
    body: bytes
    body_sha256: str


@dataclass(frozen=True, kw_only=True)
class MerchantIdentity:
    """The shop as the QR names it. `criteria` and `mcc` as QRIS writes them; `nmid` where the shop has one."""

    merchant_id: str
    name: str
    city: str
    postal_code: str
    mcc: str
    criteria: str
    nmid: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChargeRequest:
    """One dynamic QR to be issued. `reference` is ours, unique, and written down before anybody is asked."""

    reference: str
    amount_idr: int
    expires_at_ms: int
    merchant: MerchantIdentity


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A QR that a partner issued. `qr_payload` is its text, unread: the payments room decodes and compares it."""

    provider: str
    reference: str
    provider_transaction_id: str
    amount_idr: int
    qr_payload: str
    expires_at_ms: int
    body: bytes


@dataclass(frozen=True, kw_only=True)
class ChargeStatus:
    """What a partner answers when asked about a reference, over an authenticated connection.

    `charge` is None where the state is not_found: then the charge never happened, and creating it is safe.
    `report` is there once the partner saw the payer's money; it carries the same event_id as the callback would.
    """

    reference: str
    state: ChargeState
    charge: Charge | None = None
    report: PaymentReport | None = None


class Provider(Protocol):
    @property
    def name(self) -> str: ...

    async def create(self, request: ChargeRequest) -> Charge:
        """Issue a QR. Raises ProviderRefused (nothing happened) or ProviderUnknown (query before anything else)."""

    async def query(self, reference: str) -> ChargeStatus:
        """Where a charge stands. Raises ProviderUnknown or ProviderRefused."""

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> PaymentReport:
        """Check the signature over the raw bytes, then read them; header names are in lower case.

        Raises InvalidSignature (missing, forged, stale) or ValidationFailed (signed, but not readable), nothing else.
        """

    async def circuit(self) -> str:
        """`closed` while it is asked; `opened` or `half-opened` after repeated failures."""

    async def aclose(self) -> None: ...
