"""Midtrans: the Core API for QRIS, GoPay, ShopeePay and virtual accounts, Snap's page for cards.

HTTP says 200 to almost everything; what happened is in the body's `status_code`. Times are Jakarta's. A notification's
`signature_key` covers order, status code and amount alone, so a refund's news is confirmed by a query.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import orjson
import structlog

from soundbox_server import clock
from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.providers.base import (
    Acknowledgement,
    AdjustmentKind,
    AdjustmentReport,
    CallbackOutcome,
    Capabilities,
    Charge,
    ChargeRequest,
    ChargeState,
    ChargeStatus,
    Method,
    PaymentReport,
    ProviderRefused,
    ProviderUnknown,
    RefundRequest,
    RefundStatus,
    Report,
    ReportedStatus,
)
from soundbox_server.providers.calls import Answer, Calls
from soundbox_server.providers.fields import (
    Fields,
    currency,
    identifier,
    identifier_or_none,
    moment_or_none,
    reference_or_none,
    rupiah,
    text_or_none,
)
from soundbox_server.providers.strict_json import MAX_BODY_BYTES, read_exact

log = structlog.get_logger()

DEFAULT_LIFE_MS = 15 * 60 * 1000
LONGEST_LIFE_S = 7 * 24 * 3600

_BANKS = {Method.VA_BCA: "bca", Method.VA_BNI: "bni", Method.VA_BRI: "bri"}


@dataclass(frozen=True, kw_only=True)
class MidtransConfig:
    """`callback_url`, where set, overrides the address that the account's portal names."""

    server_key: str = field(repr=False)
    name: str = "midtrans"
    base_url: str = "https://api.midtrans.com"
    snap_url: str = "https://app.midtrans.com"
    callback_url: str | None = None
    qris_acquirer: str = "gopay"
    minimum_idr: int = 1


class MidtransProvider:
    def __init__(self, config: MidtransConfig, calls: Calls, *, now_ms: Callable[[], int] = clock.now_ms) -> None:
        if not config.server_key:
            raise ValueError("Midtrans needs a server key.")
        self._config = config
        self._calls = calls
        self._now_ms = now_ms
        self._authorization = "Basic " + base64.b64encode(f"{config.server_key}:".encode()).decode()

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            methods=frozenset(
                {
                    Method.QRIS_DYNAMIC,
                    Method.GOPAY,
                    Method.SHOPEEPAY,
                    Method.VA_MANDIRI,
                    Method.CARD_HOSTED,
                    *_BANKS,
                }
            ),
            cancel=True,
            refund=True,
            partial_refund=True,
            minimum_idr=self._config.minimum_idr,
        )

    async def create(self, request: ChargeRequest) -> Charge:
        if request.method is Method.CARD_HOSTED:
            return await self._create_page(request)
        said, body = await self._ask("POST", "/v2/charge", self.charge_body(request))
        try:
            if said.get("order_id") != request.reference or rupiah(said.get("gross_amount")) != request.amount_idr:
                raise ProviderUnknown("The provider answered for another charge.", reference=request.reference)
            if said.get("transaction_status") == "deny":
                raise ProviderRefused("The provider denied the charge.", reference=request.reference)
            return self._charge(said, body, request.reference, request.amount_idr, request.expires_at_ms)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's answer cannot be read.", reference=request.reference) from wrong

    async def query(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> ChargeStatus:
        try:
            said, body = await self._ask("GET", f"/v2/{quote(reference, safe='')}/status")
        except _NotFound:
            # A page of Snap's is no transaction before its visitor has chosen how to pay.
            return ChargeStatus(reference=reference, state="open" if method is Method.CARD_HOSTED else "not_found")
        try:
            if said.get("order_id") != reference:
                raise ProviderUnknown("The provider answered for another charge.", reference=reference)
            return self._status(said, body, reference)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's answer cannot be read.", reference=reference) from wrong

    async def cancel(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> None:
        await self._ask("POST", f"/v2/{quote(reference, safe='')}/cancel", {})

    async def refund(self, request: RefundRequest) -> RefundStatus:
        said, body = await self._ask(
            "POST", f"/v2/{quote(request.reference, safe='')}/refund/online/direct", self.refund_body(request)
        )
        if said.get("status_code") == "202":
            return RefundStatus(refund_reference=request.refund_reference, state="failed", body=body)
        # The answer's refund_amount is the sum of all refunds, so it cannot be compared with ours.
        if said["status_code"] != "200" or said.get("refund_key", request.refund_reference) != request.refund_reference:
            raise ProviderUnknown("The provider answered for another refund.", reference=request.refund_reference)
        return RefundStatus(
            refund_reference=request.refund_reference,
            state="succeeded",
            provider_refund_id=_number(said.get("refund_chargeback_id")),
            body=body,
        )

    async def query_refund(self, request: RefundRequest) -> RefundStatus:
        try:
            said, body = await self._ask("GET", f"/v2/{quote(request.reference, safe='')}/status")
        except _NotFound as error:
            raise ProviderUnknown("The provider does not know the payment.", reference=request.reference) from error
        for entry in _refunds(said):
            if entry.get("refund_key") == request.refund_reference:
                return RefundStatus(
                    refund_reference=request.refund_reference,
                    state="succeeded",
                    provider_refund_id=_number(entry.get("refund_chargeback_id")),
                    body=body,
                )
        return RefundStatus(refund_reference=request.refund_reference, state="not_found", body=body)

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Report:
        """The signature is inside the body, so that the body is parsed first, strictly.

        There is no time in what is signed: a notification may be replayed for ever, and leads to the same event.
        """
        said = self._signed(body)
        reference = identifier(said, "order_id")
        report = self._report(said, body, reference)
        if report is None:
            raise ValidationFailed("The transaction_status is not one of Midtrans'.")
        return report

    def acknowledge(self, outcome: CallbackOutcome, *, body: bytes, now_ms: int) -> Acknowledgement:
        """A 503 is repeated four times, other errors five times or fewer; 2xx and 3xx never."""
        return Acknowledgement(
            status=_ANSWERS[outcome],
            headers={"content-type": "application/json"},
            body=orjson.dumps({"status": outcome}),
        )

    async def circuit(self) -> str:
        return await self._calls.circuit()

    async def aclose(self) -> None:
        await self._calls.aclose()

    # What we send

    def charge_body(self, request: ChargeRequest) -> dict[str, object]:
        """Raises ProviderRefused for a method that Midtrans does not offer."""
        life_s = min(max(20, (request.expires_at_ms - self._now_ms()) // 1000), LONGEST_LIFE_S)
        body = _order(request) | {"custom_expiry": {"expiry_duration": life_s, "unit": "second"}}
        if request.method is Method.QRIS_DYNAMIC:
            return body | {"payment_type": "qris", "qris": {"acquirer": self._config.qris_acquirer}}
        if request.method is Method.GOPAY:
            back = {"enable_callback": True, "callback_url": request.success_url} if request.success_url else {}
            return body | {"payment_type": "gopay", "gopay": back}
        if request.method is Method.SHOPEEPAY:
            back = {"callback_url": request.success_url} if request.success_url else {}
            return body | {"payment_type": "shopeepay", "shopeepay": back}
        if bank := _BANKS.get(request.method):
            return body | {"payment_type": "bank_transfer", "bank_transfer": {"bank": bank}}
        if request.method is Method.VA_MANDIRI:
            bill = {"bill_info1": "Payment for:", "bill_info2": request.merchant.name}
            return body | {"payment_type": "echannel", "echannel": bill}
        raise ProviderRefused("This provider does not offer this method.", method=request.method)

    def page_body(self, request: ChargeRequest) -> dict[str, object]:
        """A page of Snap's for a card."""
        minutes = max(1, (request.expires_at_ms - self._now_ms()) // 60_000)
        body = _order(request) | {
            "enabled_payments": ["credit_card"],
            "credit_card": {"secure": True},
            "expiry": {"duration": minutes, "unit": "minute"},
        }
        if request.success_url:
            body["callbacks"] = {"finish": request.success_url}
        return body

    def refund_body(self, request: RefundRequest) -> dict[str, object]:
        return {"refund_key": request.refund_reference, "amount": request.amount_idr, "reason": request.reason}

    # How we ask

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[Fields, bytes]:
        answer = await self._send(method, self._config.base_url.rstrip("/") + path, body)
        said = self._read(answer)
        if "status_code" not in said and answer.status >= 400:  # a gate before Midtrans, which knows of no charges
            raise ProviderRefused("The provider refused.", status=answer.status)
        self._require_success(str(said.get("status_code")))
        return said, answer.body

    async def _send(self, method: str, url: str, body: Mapping[str, object] | None) -> Answer:
        headers = {
            "authorization": self._authorization,
            "accept": "application/json",
            "content-type": "application/json",
        }
        if self._config.callback_url and body is not None:
            headers["x-override-notification"] = self._config.callback_url
        return await self._calls.send(
            method,
            url,
            headers=headers,
            content=None if body is None else orjson.dumps(body),
            idempotent=method == "GET",
        )

    def _read(self, answer: Answer) -> Fields:
        try:
            return read_exact(answer.body)
        except ValidationFailed as wrong:
            if answer.status >= 400:
                raise ProviderRefused("The provider refused.", status=answer.status) from None
            raise ProviderUnknown("The provider's answer cannot be read.") from wrong

    def _require_success(self, code: str) -> None:
        if code in ("200", "201", "202", "407"):  # 202 is denied and 407 expired: the body tells of what
            return
        log.warning("provider.refused", provider=self.name, code=code[:3])
        if code == "404":
            raise _NotFound("The provider does not know the charge.", code=code)
        if code == "406" or not code.startswith("4"):  # 406: this order or refund was seen before
            raise ProviderUnknown("The provider did not say what became of it.", code=code[:3])
        raise ProviderRefused("The provider refused.", code=code)

    async def _create_page(self, request: ChargeRequest) -> Charge:
        url = self._config.snap_url.rstrip("/") + "/snap/v1/transactions"
        answer = await self._send("POST", url, self.page_body(request))
        said = self._read(answer)
        if answer.status >= 300:
            log.warning("provider.refused", provider=self.name, status=answer.status)
            raise ProviderRefused("The provider refused.", status=answer.status)
        page = said.get("redirect_url")
        if not isinstance(page, str):
            raise ProviderUnknown("The provider's answer carries no page.", reference=request.reference)
        return Charge(
            provider=self.name,
            reference=request.reference,
            provider_transaction_id="",
            amount_idr=request.amount_idr,
            qr_payload="",
            checkout_url=page,
            expires_at_ms=request.expires_at_ms,
            body=answer.body,
        )

    # What we are told

    def _signed(self, body: bytes) -> Fields:
        if len(body) > MAX_BODY_BYTES:
            raise ValidationFailed("The body is too long.", limit_bytes=MAX_BODY_BYTES)
        try:
            said = read_exact(body)
        except ValidationFailed:
            raise InvalidSignature("The notification carries no signature that can be read.") from None
        parts = [said.get(name) for name in ("order_id", "status_code", "gross_amount")]
        given = said.get("signature_key")
        if not isinstance(given, str) or not all(isinstance(part, str) for part in parts):
            raise InvalidSignature("The notification is not signed.")
        expected = self.signature_key(*(str(part) for part in parts))
        if not hmac.compare_digest(expected.encode(), given.lower().encode("utf-8", "surrogatepass")):
            raise InvalidSignature("The notification's signature does not match.")
        return said

    def signature_key(self, order_id: str, status_code: str, gross_amount: str) -> str:
        """128 hex digits over the three strings exactly as they came."""
        text = f"{order_id}{status_code}{gross_amount}{self._config.server_key}"
        return hashlib.sha512(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _charge(self, said: Fields, body: bytes, reference: str, amount_idr: int, expires_at_ms: int | None) -> Charge:
        qr_text = said.get("qr_string")
        return Charge(
            provider=self.name,
            reference=reference,
            provider_transaction_id=identifier(said, "transaction_id"),
            amount_idr=amount_idr,
            qr_payload=qr_text if isinstance(qr_text, str) else "",
            qr_image_url=_action(said, "generate-qr-code-v2", "generate-qr-code"),
            va_number=_va_number(said),
            biller_code=identifier_or_none(said, "biller_code"),
            deeplink=_action(said, "deeplink-redirect"),
            expires_at_ms=moment_or_none(said.get("expiry_time")) or expires_at_ms or _by_default(said),
            body=body,
        )

    def _status(self, said: Fields, body: bytes, reference: str) -> ChargeStatus:
        word = str(said.get("transaction_status"))
        report = self._report(said, body, reference)
        if report is None:
            raise ValidationFailed("The transaction_status is not one of Midtrans'.")
        state: ChargeState = _STATES.get(word, "open")
        if isinstance(report, PaymentReport):
            state = "paid" if report.status == "paid" else "open" if report.status == "pending" else state
        return ChargeStatus(
            reference=reference,
            state=state,
            charge=self._charge(said, body, reference, rupiah(said.get("gross_amount")), None),
            report=report if isinstance(report, PaymentReport) and report.status == "paid" else None,
            adjustments=(report,) if isinstance(report, AdjustmentReport) else (),
        )

    def _report(self, said: Fields, body: bytes, reference: str) -> PaymentReport | AdjustmentReport | None:
        word = str(said.get("transaction_status"))
        if word == "deny" and said.get("settlement_time") is not None:
            return self._adjustment(said, body, reference, "reversed")
        if kind := _ADJUSTMENTS.get(word):
            return self._adjustment(said, body, reference, kind)
        status, remark = _payment_status(said, word)
        if status is None:
            return None
        amount_idr = rupiah(said.get("gross_amount"))
        if status == "paid" and amount_idr == 0:
            raise ValidationFailed("A payment has an amount.")
        return PaymentReport(
            provider=self.name,
            # A card is captured, then settled: one transfer, and there is no retrieval reference to know it by.
            event_id=f"{reference}:{'settlement' if status == 'paid' else remark or word}",
            partner_reference=reference,
            provider_transaction_id=reference_or_none(said, "transaction_id"),
            status=status,
            amount_idr=amount_idr,
            currency=currency(said),
            paid_at_ms=moment_or_none(said.get("settlement_time") or said.get("transaction_time"))
            if status == "paid"
            else None,
            issuer=text_or_none(said, "issuer"),
            # Midtrans' own references are not signed: a replay with another one would look like a second payment.
            rrn=None,
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
            remark=remark,
        )

    def _adjustment(self, said: Fields, body: bytes, reference: str, kind: AdjustmentKind) -> AdjustmentReport:
        """`refund_amount` is the sum of all refunds; the last entry of `refunds` is the one that this is about."""
        last = (_refunds(said) or [{}])[-1]
        refund_key = reference_or_none(last, "refund_key") or reference_or_none(said, "refund_key")
        total = said.get("refund_amount")
        digest = hashlib.sha256(body).hexdigest()
        return AdjustmentReport(
            provider=self.name,
            event_id=f"{reference}:{said.get('transaction_status')}:{refund_key or str(total)[:20]}",
            kind=kind,
            partner_reference=reference,
            provider_transaction_id=reference_or_none(said, "transaction_id"),
            refund_reference=refund_key,
            amount_idr=rupiah(last["refund_amount"]) if "refund_amount" in last else None,
            total_idr=None if total is None else rupiah(total),
            currency=currency(said),
            confirmed=False,
            body=body,
            body_sha256=digest,
        )


class _NotFound(ProviderRefused):
    """404 in Midtrans' own words: no transaction has this order id."""


def _order(request: ChargeRequest) -> dict[str, object]:
    customer = {"first_name": request.payer_name, "email": request.payer_email, "phone": request.payer_phone}
    known = {name: value for name, value in customer.items() if value}
    order: dict[str, object] = {
        "transaction_details": {"order_id": request.reference, "gross_amount": request.amount_idr},
        "item_details": [
            {"id": request.reference, "price": request.amount_idr, "quantity": 1, "name": request.merchant.name[:50]}
        ],
    }
    return order | {"customer_details": known} if known else order


def _payment_status(said: Fields, word: str) -> tuple[ReportedStatus | None, str | None]:
    """The status, and a remark where it is less than it seems.

    Paid is only status_code 200 with settlement or capture, and a fraud check that accepts or is absent.
    """
    if word in ("settlement", "capture"):
        fraud = said.get("fraud_status", "accept")
        if fraud == "challenge":
            return "pending", "fraud_challenge"
        if fraud != "accept":
            return "failed", "fraud_denied"
        return ("paid", None) if said.get("status_code") == "200" else ("pending", "status_code_is_not_200")
    return _REPORTED.get(word), None


def _refunds(said: Fields) -> list[Fields]:
    refunds = said.get("refunds")
    return [entry for entry in refunds if isinstance(entry, dict)] if isinstance(refunds, list) else []


def _va_number(said: Fields) -> str | None:
    numbers = said.get("va_numbers")
    first = numbers[0] if isinstance(numbers, list) and numbers else None
    if isinstance(first, dict):
        return identifier(first, "va_number")
    return identifier_or_none(said, "bill_key")


def _action(said: Fields, *names: str) -> str | None:
    """The address of the first of the named actions that the answer offers."""
    actions = said.get("actions")
    offered = [entry for entry in actions if isinstance(entry, dict)] if isinstance(actions, list) else []
    urls = {entry.get("name"): entry.get("url") for entry in offered if isinstance(entry.get("name"), str)}
    return next((url for name in names if isinstance(url := urls.get(name), str)), None)


def _by_default(said: Fields) -> int:
    began_at_ms = moment_or_none(said.get("transaction_time"))
    if began_at_ms is None:
        raise ValidationFailed("The charge says neither when it began nor when it ends.")
    return began_at_ms + DEFAULT_LIFE_MS


def _number(value: object) -> str | None:
    return str(value) if isinstance(value, int | str) and len(str(value)) <= 128 else None


_REPORTED: dict[str, ReportedStatus] = {
    "pending": "pending",
    "authorize": "pending",
    "expire": "expired",
    "cancel": "failed",
    "failure": "failed",
}
_ADJUSTMENTS: dict[str, AdjustmentKind] = {
    "deny": "denied",
    "refund": "refunded",
    "partial_refund": "refunded",
    "chargeback": "disputed",
    "partial_chargeback": "disputed",
}
_STATES: dict[str, ChargeState] = {
    "expire": "expired",
    "cancel": "cancelled",
    "failure": "failed",
    "deny": "failed",
    "refund": "paid",
    "partial_refund": "paid",
    "chargeback": "paid",
    "partial_chargeback": "paid",
    "settlement": "failed",  # unless the fraud check lets it be paid
    "capture": "failed",
}
_ANSWERS: dict[CallbackOutcome, int] = {
    "taken": 200,
    "orphan": 200,
    "conflict": 200,
    "forged": 401,
    "token_refused": 401,
    "unreadable": 400,
    "unavailable": 503,
}
