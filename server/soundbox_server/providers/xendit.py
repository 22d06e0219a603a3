"""Xendit: payment requests for QRIS, wallets and virtual accounts, invoices for cards, QR codes where wanted.

Its callbacks carry one static token and no signature. Four shapes of body are live: v1 and v2 of `qr.payment`, v2 and
v3 payments, and the flat one of invoices.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

import orjson
import structlog

from soundbox_server import clock
from soundbox_server.clock import rfc3339
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
    PayoutReport,
    PayoutState,
    ProviderRefused,
    ProviderUnknown,
    RefundRequest,
    RefundState,
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
    section,
    text_or_none,
)
from soundbox_server.providers.strict_json import MAX_BODY_BYTES, read_exact, read_list, read_object

log = structlog.get_logger()

QR_API_VERSION = "2022-07-31"
DEFAULT_LIFE_MS = 48 * 3600 * 1000
REFUND_REASON = "REQUESTED_BY_CUSTOMER"  # Xendit takes one of five words; ours goes into the metadata

_WALLETS = {
    Method.GOPAY: "GOPAY",
    Method.OVO: "OVO",
    Method.DANA: "DANA",
    Method.SHOPEEPAY: "SHOPEEPAY",
    Method.LINKAJA: "LINKAJA",
}
_BANKS = {Method.VA_BCA: "BCA", Method.VA_BNI: "BNI", Method.VA_BRI: "BRI", Method.VA_MANDIRI: "MANDIRI"}


@dataclass(frozen=True, kw_only=True)
class XenditConfig:
    """`callback_tokens` are all that a callback may carry just now. A QR code of `qr_codes` is found only by Xendit's
    own id, so a lost answer stays lost; payment requests are found by our reference."""

    secret_key: str = field(repr=False)
    callback_tokens: Sequence[str] = field(repr=False)
    name: str = "xendit"
    base_url: str = "https://api.xendit.co"
    qris_api: Literal["payment_requests", "qr_codes"] = "payment_requests"
    minimum_idr: int = 1_500


class XenditProvider:
    def __init__(self, config: XenditConfig, calls: Calls, *, now_ms: Callable[[], int] = clock.now_ms) -> None:
        if not config.callback_tokens or not all(config.callback_tokens):
            raise ValueError("Xendit needs at least one callback token, and none may be empty.")
        self._config = config
        self._calls = calls
        self._now_ms = now_ms
        self._authorization = "Basic " + base64.b64encode(f"{config.secret_key}:".encode()).decode()
        self._tokens = tuple(_bytes(token) for token in config.callback_tokens)

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            methods=frozenset({Method.QRIS_DYNAMIC, Method.CARD_HOSTED, *_WALLETS, *_BANKS}),
            cancel=True,
            refund=True,
            partial_refund=True,
            minimum_idr=self._config.minimum_idr,
        )

    async def create(self, request: ChargeRequest) -> Charge:
        path, body = self.charge_body(request)
        answer = await self._send("POST", path, body, key=request.reference, version=self._version(request.method))
        return self._charge(_read(answer), answer.body, request.reference, request.amount_idr, request.expires_at_ms)

    async def query(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> ChargeStatus:
        found = await self._find(reference, method, provider_transaction_id)
        if found is None:
            return ChargeStatus(reference=reference, state="not_found")
        said, body = found
        try:
            if self._is_qr_code(method):
                return await self._status_of_qr_code(said, body, reference)
            return self._status(said, body, reference)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's answer cannot be read.", reference=reference) from wrong

    async def cancel(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> None:
        """Xendit ends the way to pay: the payment method of a request, or the invoice."""
        if self._is_qr_code(method):
            raise ProviderRefused("Xendit does not cancel a QR code; it expires.")
        found = await self._find(reference, method, provider_transaction_id)
        if found is None:
            raise ProviderRefused("The provider does not know the charge.", reference=reference)
        if method is Method.CARD_HOSTED:
            path = f"/invoices/{_segment(found[0], 'id')}/expire!"
        else:
            path = f"/v2/payment_methods/{_segment(section(found[0], 'payment_method'), 'id')}/expire"
        ended = _read(await self._send("POST", path, {}, key=f"{reference}-cancel"))
        if _STATES.get(str(ended.get("status"))) not in ("expired", "cancelled"):
            raise ProviderUnknown("The provider did not say that the charge has ended.", reference=reference)

    async def refund(self, request: RefundRequest) -> RefundStatus:
        if self._is_qr_code(request.method):
            path, version = await self._refunds_of_qr_code(request), QR_API_VERSION
        else:
            path, version = "/refunds", None
        answer = await self._send(
            "POST", path, self.refund_body(request), key=request.refund_reference, version=version
        )
        return self._refund_status(_read(answer), answer.body, request)

    async def query_refund(self, request: RefundRequest) -> RefundStatus:
        if self._is_qr_code(request.method):
            path, version = await self._refunds_of_qr_code(request), QR_API_VERSION
        else:
            of, value = _refunded_thing(request)
            path, version = f"/refunds?{of}={quote(value, safe='')}", None
        answer = await self._send("GET", path, version=version)
        for entry in _entries(_read(answer)):
            if entry.get("reference_id") == request.refund_reference:
                return self._refund_status(entry, answer.body, request)
        return RefundStatus(refund_reference=request.refund_reference, state="not_found", body=answer.body)

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Report:
        if len(body) > MAX_BODY_BYTES:
            raise ValidationFailed("The body is too long.", limit_bytes=MAX_BODY_BYTES)
        given = _bytes(headers.get("x-callback-token", ""))
        matches = [hmac.compare_digest(given, token) for token in self._tokens]  # all of them: no early exit
        if not any(matches):
            raise InvalidSignature("The callback's token does not match.")
        return self._read_event(read_exact(body), body)

    def acknowledge(self, outcome: CallbackOutcome, *, body: bytes, now_ms: int) -> Acknowledgement:
        """Any 2xx is taken; Xendit repeats all else six times within a day."""
        status = _ANSWERS[outcome]
        return Acknowledgement(
            status=status,
            headers={"content-type": "application/json"},
            body=orjson.dumps({"code": status, "message": outcome}),
        )

    async def circuit(self) -> str:
        return await self._calls.circuit()

    async def aclose(self) -> None:
        await self._calls.aclose()

    # What we send

    def charge_body(self, request: ChargeRequest) -> tuple[str, dict[str, object]]:
        """The path and body of a new charge. Raises ProviderRefused for a method or payer that Xendit cannot serve."""
        if self._is_qr_code(request.method):
            return "/qr_codes", {
                "reference_id": request.reference,
                "type": "DYNAMIC",
                "currency": "IDR",
                "amount": request.amount_idr,
                "expires_at": rfc3339(request.expires_at_ms),
            }
        if request.method is Method.CARD_HOSTED:
            return "/v2/invoices", _invoice(request, now_ms=self._now_ms())
        body: dict[str, object] = {
            "reference_id": request.reference,
            "currency": "IDR",
            "amount": request.amount_idr,
            "payment_method": _payment_method(request),
        }
        if request.method is not Method.QRIS_DYNAMIC:
            body["country"] = "ID"
        return "/payment_requests", body

    def refund_body(self, request: RefundRequest) -> dict[str, object]:
        body: dict[str, object] = {
            "reference_id": request.refund_reference,
            "amount": request.amount_idr,
            "currency": "IDR",
            "reason": REFUND_REASON,
            "metadata": {"reason": request.reason},
        }
        if not self._is_qr_code(request.method):
            of, value = _refunded_thing(request)
            body[of] = value
        return body

    # How we ask

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        version: str | None = None,
    ) -> Answer:
        """One question. A key makes repeating harmless: Xendit answers it as before."""
        headers = {"authorization": self._authorization, "content-type": "application/json"}
        if key is not None:
            headers["idempotency-key"] = key
        if version is not None:
            headers["api-version"] = version
        answer = await self._calls.send(
            method,
            self._config.base_url.rstrip("/") + path,
            headers=headers,
            content=None if body is None else orjson.dumps(body),
            idempotent=True,
        )
        if answer.status >= 300:
            self._raise_refusal(answer)
        return answer

    def _raise_refusal(self, answer: Answer) -> None:
        code = _error_code(answer)
        log.warning("provider.refused", provider=self.name, status=answer.status, code=code)
        if answer.status == 404 and code in _NOT_FOUND:
            raise _NotFound("The provider does not know it.", code=code)
        if answer.status == 409 or code in _SEEN_BEFORE:
            raise ProviderUnknown("The provider saw this reference before.", code=code)
        raise ProviderRefused("The provider refused.", status=answer.status, code=code)

    async def _find(
        self, reference: str, method: Method, provider_transaction_id: str | None
    ) -> tuple[Fields, bytes] | None:
        """The charge with this reference, as Xendit has it; None where it says that there is none."""
        if self._is_qr_code(method):
            if not provider_transaction_id:
                raise ProviderUnknown("Xendit finds a QR code only by its own id.", reference=reference)
            path = f"/qr_codes/{quote(provider_transaction_id, safe='')}"
            try:
                answer = await self._send("GET", path, version=QR_API_VERSION)
            except _NotFound:
                return None
            return self._mine(_read(answer), reference, "reference_id"), answer.body
        if method is Method.CARD_HOSTED:
            answer = await self._send("GET", f"/v2/invoices?external_id={quote(reference, safe='')}")
            entries, name = _list(answer), "external_id"
        else:
            answer = await self._send("GET", f"/payment_requests?reference_id={quote(reference, safe='')}")
            entries, name = _entries(_read(answer)), "reference_id"
        if not entries:
            return None
        return self._mine(entries[0], reference, name), _written(entries[0])

    def _mine(self, said: Fields, reference: str, name: str) -> Fields:
        if said.get(name) != reference:
            raise ProviderUnknown("The provider answered for another charge.", reference=reference)
        return said

    async def _payments_of_qr_code(self, qr_id: str) -> list[Fields]:
        answer = await self._send("GET", f"/qr_codes/{quote(qr_id, safe='')}/payments", version=QR_API_VERSION)
        return _entries(_read(answer))

    async def _refunds_of_qr_code(self, request: RefundRequest) -> str:
        """The address of a QR code's refunds: they hang on its payment."""
        if not request.provider_transaction_id:
            raise ProviderRefused("Xendit refunds a QR code only by its own id.")
        for payment in await self._payments_of_qr_code(request.provider_transaction_id):
            if payment.get("status") in ("SUCCEEDED", "COMPLETED"):
                return f"/qr_codes/payments/{_segment(payment, 'id')}/refunds"
        raise ProviderRefused("The provider knows of no payment to refund.", reference=request.reference)

    # What we are told

    def _charge(self, said: Fields, body: bytes, reference: str, amount_idr: int, expires_at_ms: int) -> Charge:
        """A charge out of any of the three kinds of answer; raises ProviderUnknown."""
        try:
            named = said.get("reference_id", said.get("external_id"))
            if named != reference or rupiah(said.get("amount")) != amount_idr:
                raise ProviderUnknown("The provider answered for another charge.", reference=reference)
            return self._read_charge(said, body, reference, amount_idr, expires_at_ms)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's answer cannot be read.", reference=reference) from wrong

    def _read_charge(
        self, said: Fields, body: bytes, reference: str, amount_idr: int, expires_at_ms: int | None
    ) -> Charge:
        way = section(said, "payment_method")
        qr, bank = section(way, "qr_code"), section(way, "virtual_account")
        qr_text = said.get("qr_string") or section(qr, "channel_properties").get("qr_string")
        bank_properties = section(bank, "channel_properties")
        expiry = moment_or_none(
            said.get("expires_at")
            or said.get("expiry_date")
            or section(qr, "channel_properties").get("expires_at")
            or bank_properties.get("expires_at")
        )
        return Charge(
            provider=self.name,
            reference=reference,
            provider_transaction_id=identifier(said, "id"),
            amount_idr=amount_idr,
            qr_payload=qr_text if isinstance(qr_text, str) else "",
            va_number=identifier_or_none(bank_properties, "virtual_account_number"),
            checkout_url=_action(said, "WEB", "MOBILE") or _web_address(said.get("invoice_url")),
            deeplink=_action(said, "DEEPLINK"),
            expires_at_ms=expiry or expires_at_ms or _by_default(said),
            body=body,
        )

    def _status(self, said: Fields, body: bytes, reference: str) -> ChargeStatus:
        """Of a payment request or an invoice."""
        amount_idr = rupiah(said.get("amount"))
        state = _STATES.get(str(said.get("status")))
        if state is None:
            raise ValidationFailed("The status is not one of Xendit's.")
        report = None
        if state == "paid":
            paid_at = said.get("paid_at") or said.get("updated")
            report = self._payment(said, body, reference, _event_id(said, "succeeded"), "paid", paid_at)
        return ChargeStatus(
            reference=reference,
            state=state,
            charge=self._read_charge(said, body, reference, amount_idr, None),
            report=report,
        )

    async def _status_of_qr_code(self, said: Fields, body: bytes, reference: str) -> ChargeStatus:
        """Its payments hang on it: a QR code itself only knows whether it may still be paid."""
        charge = self._read_charge(said, body, reference, rupiah(said.get("amount")), None)
        for payment in await self._payments_of_qr_code(charge.provider_transaction_id):
            if payment.get("status") in ("SUCCEEDED", "COMPLETED"):
                raw = _written(payment)
                report = self._payment(
                    payment, raw, reference, identifier(payment, "id"), "paid", payment.get("created")
                )
                return ChargeStatus(reference=reference, state="paid", charge=charge, report=report)
        state: ChargeState = "open" if said.get("status") == "ACTIVE" else "expired"
        return ChargeStatus(reference=reference, state=state, charge=charge)

    def _refund_status(self, said: Fields, body: bytes, request: RefundRequest) -> RefundStatus:
        state = _REFUND_STATES.get(str(said.get("status")))
        try:
            if state is None or rupiah(said.get("amount")) != request.amount_idr:
                raise ProviderUnknown("The provider answered for another refund.", reference=request.refund_reference)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's answer cannot be read.") from wrong
        return RefundStatus(
            refund_reference=request.refund_reference,
            state=state,
            provider_refund_id=reference_or_none(said, "id"),
            body=body,
        )

    def _read_event(self, said: Fields, body: bytes) -> Report:
        event = str(said.get("event", ""))
        if event.startswith(("payout.", "v3_payout.")):
            return self._payout(section(said, "data"), body)
        if event.startswith("refund."):
            return self._adjustment(section(said, "data"), body)
        if event == "qr.payment" and "data" not in said:
            code = section(said, "qr_code")
            return self._event(said, body, identifier(code, "external_id"), identifier(said, "id"))
        if event == "qr.payment":
            data = section(said, "data")
            return self._event(data, body, identifier(data, "reference_id"), identifier(data, "id"))
        if event.startswith(("payment.", "payment_request.")):
            data = section(said, "data")
            return self._event(data, body, identifier(data, "reference_id"), None)
        if not event:
            return self._event(said, body, identifier(said, "external_id"), None)
        raise ValidationFailed("This kind of event is not known.", event=event[:40])

    def _event(self, said: Fields, body: bytes, reference: str, event_id: str | None) -> Report:
        word = str(said.get("status"))
        status = _REPORTED.get(word)
        if status is None and word in _TAKEN_BACK:
            return self._taken_back(said, body, reference, _TAKEN_BACK[word])
        if status is None:
            raise ValidationFailed("The status is not one of Xendit's.")
        paid_at = said.get("paid_at") or _captured_at(said) or said.get("created") or said.get("updated")
        ended = "succeeded" if status == "paid" else word.lower()
        return self._payment(said, body, reference, event_id or _event_id(said, ended), status, paid_at)

    def _payment(
        self, said: Fields, body: bytes, reference: str, event_id: str, status: ReportedStatus, paid_at: object
    ) -> PaymentReport:
        amount = said.get("paid_amount", said.get("amount", said.get("request_amount")))
        detail = section(said, "payment_detail") or section(said, "payment_details")
        amount_idr = rupiah(amount) if status == "paid" or amount is not None else 0
        if status == "paid" and amount_idr == 0:
            raise ValidationFailed("A payment has an amount.")
        return PaymentReport(
            provider=self.name,
            event_id=event_id,
            partner_reference=reference,
            provider_transaction_id=_charge_id(said),
            status=status,
            amount_idr=amount_idr,
            currency=currency(said),
            paid_at_ms=moment_or_none(paid_at) if status == "paid" else None,
            issuer=text_or_none(detail, "source") or text_or_none(detail, "issuer_name"),
            rrn=reference_or_none(detail, "receipt_id"),
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )

    def _taken_back(self, said: Fields, body: bytes, reference: str, kind: AdjustmentKind) -> AdjustmentReport:
        return AdjustmentReport(
            provider=self.name,
            event_id=_event_id(said, kind),
            kind=kind,
            partner_reference=reference,
            provider_transaction_id=_charge_id(said),
            refund_reference=None,
            amount_idr=None,
            total_idr=None,
            currency=currency(said),
            confirmed=True,
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )

    def _adjustment(self, said: Fields, body: bytes) -> AdjustmentReport:
        """A refund's news: it names the payment by Xendit's ids, and the refund by ours."""
        state = _REFUND_STATES.get(str(said.get("status")))
        if state is None or state == "not_found":
            raise ValidationFailed("The refund's status is not one of Xendit's.")
        refund_id = identifier(said, "id")
        return AdjustmentReport(
            provider=self.name,
            event_id=f"{refund_id}:{state}",
            kind=_REFUND_KINDS[state],
            partner_reference=None,
            provider_transaction_id=reference_or_none(said, "payment_request_id", "invoice_id", "payment_id"),
            refund_reference=identifier(said, "reference_id"),
            amount_idr=rupiah(said.get("amount")),
            total_idr=None,
            currency=currency(said),
            confirmed=True,
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )

    def _payout(self, said: Fields, body: bytes) -> PayoutReport:
        state = _PAYOUTS.get(str(said.get("status")))
        if state is None:
            raise ValidationFailed("The payout's status is not one of Xendit's.")
        payout_id = identifier(said, "id")
        return PayoutReport(
            provider=self.name,
            event_id=f"{payout_id}:{state}",
            payout_reference=identifier(said, "reference_id"),
            provider_payout_id=payout_id,
            state=state,
            amount_idr=rupiah(said.get("amount")),
            currency=currency(said),
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )

    def _is_qr_code(self, method: Method) -> bool:
        return method is Method.QRIS_DYNAMIC and self._config.qris_api == "qr_codes"

    def _version(self, method: Method) -> str | None:
        return QR_API_VERSION if self._is_qr_code(method) else None


class _NotFound(ProviderRefused):
    """404 with one of Xendit's own words for it: not a wrong address, and not a proxy's page."""


def _payment_method(request: ChargeRequest) -> dict[str, object]:
    method: dict[str, object] = {"reusability": "ONE_TIME_USE"}
    expires_at = rfc3339(request.expires_at_ms)
    if request.method is Method.QRIS_DYNAMIC:
        code = {"channel_code": "QRIS", "channel_properties": {"expires_at": expires_at}}
        return method | {"type": "QR_CODE", "qr_code": code}
    if channel := _WALLETS.get(request.method):
        properties = _come_back(request)
        if request.method is Method.OVO:
            if not request.payer_phone:
                raise ProviderRefused("OVO asks for the payer's phone number.")
            properties["mobile_number"] = request.payer_phone
        elif not properties:
            raise ProviderRefused("This wallet asks for a page to come back to.", method=request.method)
        return method | {"type": "EWALLET", "ewallet": {"channel_code": channel, "channel_properties": properties}}
    if bank := _BANKS.get(request.method):
        account = {"customer_name": request.payer_name or request.merchant.name, "expires_at": expires_at}
        return method | {
            "type": "VIRTUAL_ACCOUNT",
            "reference_id": request.reference,
            "virtual_account": {"channel_code": bank, "channel_properties": account},
        }
    raise ProviderRefused("This provider does not offer this method.", method=request.method)


def _come_back(request: ChargeRequest) -> dict[str, str]:
    pages = {"success_return_url": request.success_url, "failure_return_url": request.failure_url}
    return {name: url for name, url in pages.items() if url}


def _invoice(request: ChargeRequest, *, now_ms: int) -> dict[str, object]:
    pages = {"success_redirect_url": request.success_url, "failure_redirect_url": request.failure_url}
    return {
        "external_id": request.reference,
        "amount": request.amount_idr,
        "currency": "IDR",
        "payment_methods": ["CREDIT_CARD"],
        "invoice_duration": max(60, (request.expires_at_ms - now_ms) // 1000),
        **{name: url for name, url in pages.items() if url},
        **({"payer_email": request.payer_email} if request.payer_email else {}),
    }


def _refunded_thing(request: RefundRequest) -> tuple[str, str]:
    if not request.provider_transaction_id:
        raise ProviderRefused("Xendit refunds only by its own id of the charge.")
    return (
        "invoice_id" if request.method is Method.CARD_HOSTED else "payment_request_id"
    ), request.provider_transaction_id


def _read(answer: Answer) -> Fields:
    try:
        return read_exact(answer.body)
    except ValidationFailed as wrong:
        raise ProviderUnknown("The provider's answer cannot be read.") from wrong


def _list(answer: Answer) -> list[Fields]:
    try:
        return [entry for entry in read_list(answer.body) if isinstance(entry, dict)]
    except ValidationFailed as wrong:
        raise ProviderUnknown("The provider's answer cannot be read.") from wrong


def _entries(said: Fields) -> list[Fields]:
    entries = said.get("data")
    if not isinstance(entries, list):
        raise ProviderUnknown("The provider's answer is not a list.")
    return [entry for entry in entries if isinstance(entry, dict)]


def _segment(said: Fields, name: str) -> str:
    """An id out of an answer, as a part of an address."""
    try:
        return quote(identifier(said, name), safe="")
    except ValidationFailed as wrong:
        raise ProviderUnknown("The provider's answer carries no id.") from wrong


def _written(entry: Fields) -> bytes:
    """One entry of a list, as the evidence that is kept of it."""
    return json.dumps(entry, default=str).encode()


def _error_code(answer: Answer) -> str | None:
    try:
        return reference_or_none(read_object(answer.body), "error_code")
    except ValidationFailed:
        return None


def _action(said: Fields, *kinds: str) -> str | None:
    """Where the payer goes on, by the kind of address."""
    actions = said.get("actions")
    for entry in actions if isinstance(actions, list) else []:
        if isinstance(entry, dict) and entry.get("url_type") in kinds and (url := _web_address(entry.get("url"))):
            return url
    return None


def _by_default(said: Fields) -> int:
    """When a charge ends that says nothing of it: two days after its birth."""
    created_at_ms = moment_or_none(said.get("created"))
    if created_at_ms is None:
        raise ValidationFailed("The charge says neither when it began nor when it ends.")
    return created_at_ms + DEFAULT_LIFE_MS


def _web_address(value: object) -> str | None:
    return value if isinstance(value, str) and value.isascii() and value.isprintable() and "://" in value else None


def _captured_at(said: Fields) -> object:
    captures = said.get("captures")
    first = captures[0] if isinstance(captures, list) and captures else None
    return first.get("capture_timestamp") if isinstance(first, dict) else None


def _charge_id(said: Fields) -> str | None:
    """The id that the charge was created with."""
    return reference_or_none(said, "payment_request_id", "qr_id") or reference_or_none(
        section(said, "qr_code") or said, "id"
    )


def _event_id(said: Fields, ended: str) -> str:
    """A payment request is paid once, so its id and end name the event: a query knows no other id of the payment."""
    thing = reference_or_none(said, "payment_request_id") or identifier(said, "id")
    return f"{thing}:{ended}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_NOT_FOUND = {"DATA_NOT_FOUND", "QR_CODE_NOT_FOUND", "PAYMENT_REQUEST_NOT_FOUND", "INVOICE_NOT_FOUND_ERROR"}
_SEEN_BEFORE = {"DUPLICATE_ERROR", "IDEMPOTENCY_ERROR", "REQUEST_IN_PROGRESS"}
_STATES: dict[str, ChargeState] = {
    "ACTIVE": "open",
    "PENDING": "open",
    "REQUIRES_ACTION": "open",
    "AWAITING_CAPTURE": "open",
    "UNKNOWN": "open",
    "SUCCEEDED": "paid",
    "COMPLETED": "paid",
    "PAID": "paid",
    "SETTLED": "paid",
    "FAILED": "failed",
    "EXPIRED": "expired",
    "INACTIVE": "expired",
    "CANCELED": "cancelled",
    "VOIDED": "cancelled",
}
_REPORTED: dict[str, ReportedStatus] = {
    "ACTIVE": "pending",
    "PENDING": "pending",
    "REQUIRES_ACTION": "pending",
    "AWAITING_CAPTURE": "pending",
    "UNKNOWN": "pending",
    "SUCCEEDED": "paid",
    "COMPLETED": "paid",
    "PAID": "paid",
    "SETTLED": "paid",
    "FAILED": "failed",
    "CANCELED": "failed",
    "EXPIRED": "expired",
    "INACTIVE": "expired",
}
_TAKEN_BACK: dict[str, AdjustmentKind] = {"VOIDED": "denied", "REVERSED": "reversed"}  # voided before or after capture
_REFUND_STATES: dict[str, RefundState] = {
    "SUCCEEDED": "succeeded",
    "PENDING": "pending",
    "REQUIRES_ACTION": "pending",
    "FAILED": "failed",
    "CANCELLED": "failed",
}
_REFUND_KINDS: dict[RefundState, AdjustmentKind] = {
    "succeeded": "refunded",
    "pending": "refund_pending",
    "failed": "refund_failed",
}
_PAYOUTS: dict[str, PayoutState] = {
    "ACCEPTED": "pending",
    "REQUESTED": "pending",
    "PENDING_COMPLIANCE_ASSESSMENT": "pending",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELLED": "failed",
    "REVERSED": "reversed",
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
