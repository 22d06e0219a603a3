"""Paylabs, version 2.3: QRIS over signed messages in both directions, the acknowledgement included.

Amounts and times are strings, times without an offset are Jakarta's. With `fee_type` OUR Paylabs adds its fee to what
the payer pays: the amount that comes back is then another than was asked, and such payments wait for review.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import orjson
import structlog

from soundbox_server import clock
from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.ids import new_id
from soundbox_server.providers import snap_signing as signing
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
    RefundState,
    RefundStatus,
    Report,
    ReportedStatus,
)
from soundbox_server.providers.calls import Calls
from soundbox_server.providers.fields import (
    Fields,
    currency,
    identifier,
    identifier_or_none,
    jakarta_time,
    moment_or_none,
    reference_or_none,
    rupiah,
    section,
    text_or_none,
    two_decimals,
)
from soundbox_server.providers.strict_json import MAX_BODY_BYTES, read_exact, read_object

log = structlog.get_logger()

DEFAULT_LIFE_S = 300


@dataclass(frozen=True, kw_only=True)
class PaylabsConfig:
    """`signed_callback_path` is what Paylabs signs when it notifies us; by default the path of `callback_url`.

    The window is wider than SNAP's: Paylabs repeats a notification for 52 minutes and does not promise a new time.
    Its published API refunds wallets and not QRIS: who may, by contract, names the addresses. `unknown_order_codes` are
    the errCodes that say that an order does not exist, `undecided_codes` those after which it may have been made.
    """

    merchant_id: str
    private_key: str = field(repr=False)
    partner_public_key: str
    callback_url: str
    name: str = "paylabs"
    base_url: str = "https://pay.paylabs.co.id"
    signed_callback_path: str | None = None
    fee_type: Literal["BEN", "OUR"] = "BEN"
    product_name: str = "QRIS Payment"
    window_s: int = 3_600
    create_path: str = "/payment/v2.3/qris/create"
    query_path: str = "/payment/v2.3/qris/query"
    cancel_path: str = "/payment/v2.3/qris/cancel"
    refund_path: str | None = None
    refund_query_path: str | None = None
    unknown_order_codes: frozenset[str] = frozenset()
    undecided_codes: frozenset[str] = frozenset({"duplicateMerchantTradeNo", "systemError"})
    minimum_idr: int = 1


class PaylabsProvider:
    def __init__(self, config: PaylabsConfig, calls: Calls, *, now_ms: Callable[[], int] = clock.now_ms) -> None:
        self._config = config
        self._calls = calls
        self._now_ms = now_ms
        self._our_key = signing.private_key(config.private_key)
        self._their_key = signing.public_key(config.partner_public_key)
        self._callback_path = config.signed_callback_path or urlsplit(config.callback_url).path

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            methods=frozenset({Method.QRIS_DYNAMIC}),
            cancel=True,
            refund=self._config.refund_path is not None,
            partial_refund=self._config.refund_path is not None,
            minimum_idr=self._config.minimum_idr,
        )

    async def create(self, request: ChargeRequest) -> Charge:
        if request.method is not Method.QRIS_DYNAMIC:
            raise ProviderRefused("This provider only issues QRIS.", method=request.method)
        said, body = await self._ask(self._config.create_path, self.create_body(request))
        if said.get("merchantTradeNo") != request.reference:
            raise ProviderUnknown("The provider answered for another charge.", reference=request.reference)
        try:
            return self._charge(said, body, request.reference, request.amount_idr, request.expires_at_ms)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's answer cannot be read.", reference=request.reference) from wrong

    async def query(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> ChargeStatus:
        try:
            said, body = await self._ask(self._config.query_path, self.query_body(reference))
        except _NotFound:
            return ChargeStatus(reference=reference, state="not_found")
        if said.get("merchantTradeNo") != reference:
            raise ProviderUnknown("The provider answered for another charge.", reference=reference)
        try:
            return self._status(said, body, reference)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's answer cannot be read.", reference=reference) from wrong

    async def cancel(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> None:
        """Paylabs wants its own number and the QR as well; they are asked for."""
        said, _ = await self._ask(self._config.query_path, self.query_body(reference))
        body = self.query_body(reference) | {
            name: value for name in ("platformTradeNo", "qrCode") if (value := said.get(name)) is not None
        }
        await self._ask(self._config.cancel_path, body)

    async def refund(self, request: RefundRequest) -> RefundStatus:
        if self._config.refund_path is None:
            raise ProviderRefused("This provider does not refund QRIS.")
        return self._refund_status(*await self._ask(self._config.refund_path, self.refund_body(request)), request)

    async def query_refund(self, request: RefundRequest) -> RefundStatus:
        if self._config.refund_query_path is None:
            return RefundStatus(refund_reference=request.refund_reference, state="pending")  # its callback will tell
        body = self.query_body(request.reference) | {"merchantRefundNo": request.refund_reference}
        try:
            said, raw = await self._ask(self._config.refund_query_path, body)
        except _NotFound:
            return RefundStatus(refund_reference=request.refund_reference, state="not_found")
        return self._refund_status(said, raw, request)

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Report:
        if len(body) > MAX_BODY_BYTES:
            raise ValidationFailed("The body is too long.", limit_bytes=MAX_BODY_BYTES)
        timestamp, signature = headers.get("x-timestamp", ""), headers.get("x-signature", "")
        signing.require_recent(timestamp, window_s=self._config.window_s, now_ms=now_ms)
        signing.require_signature(
            body,
            lambda signed: signing.verify_rsa(
                self._their_key,
                signing.asymmetric_text("POST", self._callback_path, signed, timestamp),
                signature,
            ),
        )
        said = read_exact(body)
        if said.get("merchantId") != self._config.merchant_id:
            raise InvalidSignature("The notification is for another merchant.")
        if said.get("merchantRefundNo") is not None:
            return self._refund(said, body)
        return self._report(said, body, identifier(said, "merchantTradeNo"))

    def acknowledge(self, outcome: CallbackOutcome, *, body: bytes, now_ms: int) -> Acknowledgement:
        """Signed like a request of ours, with the notification's own requestId; errCode 0 ends the repetitions."""
        try:
            request_id = identifier_or_none(read_object(body), "requestId")
        except ValidationFailed:
            request_id = None
        status, code, words = _ANSWERS[outcome]
        request_id = request_id or new_id("req")
        content = orjson.dumps(
            {
                "merchantId": self._config.merchant_id,
                "requestId": request_id,
                "errCode": code,
                "errCodeDes": words,
            }
        )
        headers = self._signed_headers(self._callback_path, content, request_id, at_ms=now_ms)
        return Acknowledgement(status=status, headers=headers, body=content)

    async def circuit(self) -> str:
        return await self._calls.circuit()

    async def aclose(self) -> None:
        await self._calls.aclose()

    # What we send

    def create_body(self, request: ChargeRequest) -> dict[str, object]:
        body: dict[str, object] = {
            "merchantId": self._config.merchant_id,
            "merchantTradeNo": request.reference,
            "requestId": new_id("req"),
            "paymentType": "QRIS",
            "amount": two_decimals(request.amount_idr),
            "productName": self._config.product_name,
            "expire": max(1, (request.expires_at_ms - self._now_ms()) // 1000),
            "feeType": self._config.fee_type,
            "notifyUrl": self._config.callback_url,
        }
        return body | {"payer": request.payer_name} if request.payer_name else body

    def query_body(self, reference: str) -> dict[str, object]:
        return {
            "merchantId": self._config.merchant_id,
            "merchantTradeNo": reference,
            "requestId": new_id("req"),
            "paymentType": "QRIS",
        }

    def refund_body(self, request: RefundRequest) -> dict[str, object]:
        """Raises ProviderRefused where the whole payment's amount is not known: Paylabs wants it repeated."""
        if request.payment_amount_idr is None:
            raise ProviderRefused("Paylabs refunds only by the amount of the whole payment.")
        body = self.query_body(request.reference) | {
            "merchantRefundNo": request.refund_reference,
            "amount": two_decimals(request.payment_amount_idr),
            "refundAmount": two_decimals(request.amount_idr),
            "reason": request.reason,
            "notifyUrl": self._config.callback_url,
        }
        number = request.provider_transaction_id
        return body | {"platformTradeNo": number} if number else body

    # How we ask

    async def _ask(self, path: str, body: Mapping[str, object]) -> tuple[Fields, bytes]:
        content = orjson.dumps(body)
        answer = await self._calls.send(
            "POST",
            self._config.base_url.rstrip("/") + path,
            headers=self._signed_headers(path, content, str(body["requestId"]), at_ms=self._now_ms()),
            content=content,
            idempotent=False,  # requestId may come once; whoever needs to know asks again
        )
        try:
            said = read_exact(answer.body)
        except ValidationFailed as wrong:
            if answer.status >= 400:
                raise ProviderRefused("The provider refused.", status=answer.status) from None
            raise ProviderUnknown("The provider's answer cannot be read.") from wrong
        code = said.get("errCode")
        if code != "0":
            self._raise_refusal(code, answer.status)
        return said, answer.body

    def _raise_refusal(self, code: object, status: int) -> None:
        word = code if isinstance(code, str) and code.isascii() and code.isprintable() and len(code) <= 32 else None
        log.warning("provider.refused", provider=self.name, status=status, code=word)
        if word is None or word in self._config.undecided_codes:
            raise ProviderUnknown("The provider did not say what became of it.", code=word)
        if word in self._config.unknown_order_codes:
            raise _NotFound("The provider does not know the charge.", code=word)
        raise ProviderRefused("The provider refused.", code=word)

    def _signed_headers(self, path: str, content: bytes, request_id: str, *, at_ms: int) -> dict[str, str]:
        timestamp = jakarta_time(at_ms, "milliseconds")
        text = signing.asymmetric_text("POST", path, content, timestamp)
        return {
            "content-type": "application/json;charset=utf-8",
            "x-timestamp": timestamp,
            "x-signature": signing.sign_rsa(self._our_key, text),
            "x-partner-id": self._config.merchant_id,
            "x-request-id": request_id,
        }

    # What we are told

    def _charge(self, said: Fields, body: bytes, reference: str, amount_idr: int, expires_at_ms: int | None) -> Charge:
        payload, picture = said.get("qrCode"), said.get("qrisUrl")
        if not isinstance(payload, str) and expires_at_ms is not None:
            raise ValidationFailed("The provider's answer carries no QR.")
        ends_at_ms = moment_or_none(said.get("expiredTime"))
        return Charge(
            provider=self.name,
            reference=reference,
            provider_transaction_id=identifier(said, "platformTradeNo"),
            amount_idr=amount_idr,
            qr_payload=payload if isinstance(payload, str) else "",
            qr_image_url=picture if isinstance(picture, str) else None,
            expires_at_ms=ends_at_ms or expires_at_ms or self._now_ms() + DEFAULT_LIFE_S * 1000,
            body=body,
        )

    def _status(self, said: Fields, body: bytes, reference: str) -> ChargeStatus:
        state = _STATES.get(str(said.get("status")))
        if state is None:
            raise ValidationFailed("The status is not one of Paylabs'.")
        charge = None
        if isinstance(said.get("qrCode"), str):
            charge = self._charge(said, body, reference, rupiah(said.get("amount")), None)
        report = self._report(said, body, reference) if state == "paid" else None
        return ChargeStatus(reference=reference, state=state, charge=charge, report=report)

    def _refund_status(self, said: Fields, body: bytes, request: RefundRequest) -> RefundStatus:
        if said.get("merchantRefundNo", request.refund_reference) != request.refund_reference:
            raise ProviderUnknown("The provider answered for another refund.", reference=request.refund_reference)
        return RefundStatus(
            refund_reference=request.refund_reference,
            state=_REFUND_STATES.get(str(said.get("status")), "pending"),
            provider_refund_id=reference_or_none(said, "platformRefundNo"),
            body=body,
        )

    def _report(self, said: Fields, body: bytes, reference: str) -> PaymentReport:
        """Paylabs' number of the trade and its status name the event: requestId is another in every repetition."""
        word = str(said.get("status"))
        status = _REPORTED.get(word)
        if status is None or (status == "paid" and said.get("errCode") != "0"):
            raise ValidationFailed("The status is not one of Paylabs'.")
        number, info = identifier_or_none(said, "platformTradeNo"), section(said, "paymentMethodInfo")
        amount_idr = rupiah(said.get("amount"))
        if status == "paid" and amount_idr == 0:
            raise ValidationFailed("A payment has an amount.")
        return PaymentReport(
            provider=self.name,
            event_id=f"{number or reference}:{word}",
            partner_reference=reference,
            provider_transaction_id=number,
            status=status,
            amount_idr=amount_idr,
            currency="IDR",
            paid_at_ms=moment_or_none(said.get("successTime")) if status == "paid" else None,
            issuer=text_or_none(info, "issuer") or text_or_none(said, "issuerId"),
            rrn=reference_or_none(info, "rrn") or reference_or_none(said, "rrn"),
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )

    def _refund(self, said: Fields, body: bytes) -> AdjustmentReport:
        word = str(said.get("status"))
        kind = _REFUND_KINDS.get(word)
        if kind is None:
            raise ValidationFailed("The refund's status is not one of Paylabs'.")
        refund = identifier(said, "merchantRefundNo")
        return AdjustmentReport(
            provider=self.name,
            event_id=f"{refund}:{word}",
            kind=kind,
            partner_reference=identifier(said, "merchantTradeNo"),
            provider_transaction_id=identifier_or_none(said, "platformTradeNo"),
            refund_reference=refund,
            amount_idr=rupiah(said.get("amount")),
            total_idr=None,
            currency=currency(said),
            confirmed=True,
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )


class _NotFound(ProviderRefused):
    """Paylabs' own word for it: the order does not exist."""


_STATES: dict[str, ChargeState] = {"01": "open", "02": "paid", "09": "failed"}
_REPORTED: dict[str, ReportedStatus] = {"01": "pending", "02": "paid", "09": "failed"}
_REFUND_STATES: dict[str, RefundState] = {"02": "succeeded", "03": "pending", "05": "failed", "06": "failed"}
_REFUND_KINDS: dict[str, AdjustmentKind] = {
    "02": "refunded",
    "03": "refund_pending",
    "05": "refund_failed",
    "06": "refund_failed",
}
_ANSWERS: dict[CallbackOutcome, tuple[int, str, str]] = {
    "taken": (200, "0", "Success"),
    "orphan": (200, "0", "Success"),
    "conflict": (200, "0", "Success"),
    "forged": (401, "signError", "The signature does not match"),
    "token_refused": (401, "signError", "The signature does not match"),
    "unreadable": (400, "paramInvalid", "The notification cannot be read"),
    "unavailable": (503, "systemError", "Try again"),
}
