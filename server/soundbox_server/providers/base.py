"""What every QRIS partner gives us, whatever its wire looks like: one file per partner turns bytes into these."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from soundbox_server.errors import GatewayError, PartnerTimeout

ReportedStatus = Literal["paid", "failed", "expired", "pending"]
ChargeState = Literal["open", "paid", "failed", "expired", "cancelled", "not_found"]
AdjustmentKind = Literal["refunded", "refund_pending", "refund_failed", "reversed", "disputed", "denied"]
PayoutState = Literal["pending", "succeeded", "failed", "reversed"]
RefundState = Literal["pending", "succeeded", "failed", "not_found"]
CallbackOutcome = Literal["taken", "orphan", "conflict", "forged", "token_refused", "unreadable", "unavailable"]


class Method(StrEnum):
    """How the payer pays. Cash never comes near a provider."""

    QRIS_DYNAMIC = "qris_dynamic"
    GOPAY = "gopay"
    OVO = "ovo"
    DANA = "dana"
    SHOPEEPAY = "shopeepay"
    LINKAJA = "linkaja"
    VA_BCA = "va_bca"
    VA_BNI = "va_bni"
    VA_BRI = "va_bri"
    VA_MANDIRI = "va_mandiri"
    CARD_HOSTED = "card_hosted"  # on the provider's own page: card numbers never reach us


class ProviderUnknown(PartnerTimeout):
    """The answer was lost, late or unreadable: the charge may exist. Query the same reference; never charge again."""


class ProviderRefused(GatewayError):
    """A definite no: nothing was charged, and another provider may be asked."""


class ProviderUnreachable(ProviderRefused):
    """Nothing happened because the question was never heard: the same one may be asked again later."""


class PaymentReport(msgspec.Struct, frozen=True, kw_only=True):
    """A partner's word about one payment, after its signature was checked.

    `event_id` names the report (one payment may have several), `partner_reference` is the reference that we chose.
    `currency` is whatever three letters the partner sent: the payment decides whether they fit.
    `body` are the bytes as signed, `body_sha256` their digest in hex: the same event with another body is a lie.
    `remark` says why a status is less than it seems, such as fraud_challenge on a payment that is still pending.
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
    remark: str | None = None


@dataclass(frozen=True, kw_only=True)
class AdjustmentReport:
    """A partner's word that a payment's money went back, or is disputed, after its signature was checked.

    A type of its own, so that no reader of payments books it by mistake. "denied" is said of payments before and
    after their capture: an unpaid one failed, a paid one is reversed; only the payment knows which.
    `partner_reference` is None where the partner names nothing but its own ids; find it by `provider_transaction_id`.
    `amount_idr` is what this adjustment moves, `total_idr` all that went back so far; None where the partner is silent.
    `confirmed` is False where the signature does not cover the status: query before money is moved.
    """

    provider: str
    event_id: str
    kind: AdjustmentKind
    partner_reference: str | None
    provider_transaction_id: str | None
    refund_reference: str | None
    amount_idr: int | None
    total_idr: int | None
    currency: str
    confirmed: bool
    body: bytes
    body_sha256: str


@dataclass(frozen=True, kw_only=True)
class PayoutReport:
    """A partner's word about money on its way to a bank account; succeeded may still become reversed."""

    provider: str
    event_id: str
    payout_reference: str
    provider_payout_id: str
    state: PayoutState
    amount_idr: int
    currency: str
    body: bytes
    body_sha256: str


Report: TypeAlias = PaymentReport | AdjustmentReport | PayoutReport


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
    """One charge to be made. `reference` is ours, unique, and written down before anybody is asked.

    The payer's fields are there where the method needs them: OVO a phone number as +62…, wallets and cards the pages
    to come back to, virtual accounts a name.
    """

    reference: str
    amount_idr: int
    expires_at_ms: int
    merchant: MerchantIdentity
    method: Method = Method.QRIS_DYNAMIC
    payer_name: str | None = None
    payer_phone: str | None = None
    payer_email: str | None = None
    success_url: str | None = None
    failure_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What a partner issued for the payer. `qr_payload` is a QR's text, unread: the payments room decodes and compares
    it; it is empty where the method has none, or the partner only drew a picture (`qr_image_url`).

    A virtual account is `va_number`, with `biller_code` where the bank wants both. `provider_transaction_id` is empty
    where the partner gives none.
    """

    provider: str
    reference: str
    provider_transaction_id: str
    amount_idr: int
    qr_payload: str
    expires_at_ms: int
    body: bytes
    qr_image_url: str | None = None
    va_number: str | None = None
    biller_code: str | None = None
    checkout_url: str | None = None
    deeplink: str | None = None


@dataclass(frozen=True, kw_only=True)
class IssuedStaticQr:
    """A QR to hang at a terminal, unread. `provider_reference` where the partner has an id of its own for the QR."""

    provider: str
    reference: str
    qr_payload: str
    provider_reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChargeStatus:
    """What a partner answers when asked about a reference, over an authenticated connection.

    The state not_found alone says that the charge never happened, and that creating it is safe. `charge` is None there,
    and where a partner does not repeat what it issued (SNAP's query has no QR): the QR of a lost answer stays lost.
    `report` is there once the partner saw the payer's money; it carries the same event_id as the callback would.
    `adjustments` are what became of that money since.
    """

    reference: str
    state: ChargeState
    charge: Charge | None = None
    report: PaymentReport | None = None
    adjustments: tuple[AdjustmentReport, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RefundRequest:
    """Money to be given back. `reference` and `provider_transaction_id` are the charge's, `rrn` the payment's, and
    `payment_amount_idr` all that was paid; some partners want them repeated.

    `refund_reference` is ours and written down before anybody is asked: the same one never refunds twice.
    """

    reference: str
    refund_reference: str
    amount_idr: int
    reason: str
    method: Method = Method.QRIS_DYNAMIC
    provider_transaction_id: str | None = None
    payment_amount_idr: int | None = None
    rrn: str | None = None


@dataclass(frozen=True, kw_only=True)
class RefundStatus:
    """Where a refund stands. Only not_found says that it never happened; pending is also "they will not say"."""

    refund_reference: str
    state: RefundState
    provider_refund_id: str | None = None
    body: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What can be asked of a partner with the account and profile that we have there."""

    methods: frozenset[Method]
    cancel: bool
    refund: bool
    partial_refund: bool
    minimum_idr: int = 1


@dataclass(frozen=True, kw_only=True)
class Acknowledgement:
    """The answer that a partner expects to its callback."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@runtime_checkable
class StaticIssuer(Protocol):
    """A partner that issues QR to hang at terminals, when asked over its API."""

    @property
    def name(self) -> str: ...

    async def issue_static(self, reference: str, merchant: MerchantIdentity) -> IssuedStaticQr:
        """The same reference gets the same QR. Raises ProviderRefused or ProviderUnknown (ask again)."""


class Gateway(Protocol):
    """A partner with all that it can do.

    `create`, `cancel` and `refund` raise ProviderRefused where nothing happened and ProviderUnknown where nobody knows:
    then query before anything else.
    """

    @property
    def name(self) -> str:
        """The account: what attempts and the books know it by."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def create(self, request: ChargeRequest) -> Charge:
        """Issue what the payer needs, for any of the methods in `capabilities`."""

    async def query(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> ChargeStatus:
        """Where a charge stands. Some partners find it only by the id that they gave it."""

    async def cancel(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> None:
        """The charge can no longer be paid."""

    async def refund(self, request: RefundRequest) -> RefundStatus:
        """Give back a part or all of a payment; after ProviderUnknown ask `query_refund`, never refund again."""

    async def query_refund(self, request: RefundRequest) -> RefundStatus: ...

    async def circuit(self) -> str:
        """`closed` while it is asked; `opened` or `half-opened` after repeated failures."""

    async def aclose(self) -> None: ...


class Notifying(Gateway, Protocol):
    """A partner that notifies us in its own way; it may also tell of money that went back."""

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Report:
        """Check the signature over the raw bytes, then read them; header names are in lower case.

        Raises InvalidSignature (missing, forged, stale) or ValidationFailed (signed, but not readable), nothing else.
        """

    def acknowledge(self, outcome: CallbackOutcome, *, body: bytes, now_ms: int) -> Acknowledgement:
        """The answer to the callback with this body; only "taken" and "orphan" make the partner stop repeating it."""
