"""Any SNAP BI acquirer, by configuration: we ask it for QRs, and it notifies us as a client of ours.

Partners agree on the envelope and differ in the rest: which signature, which path is signed, what comes back. All that
is a `SnapConfig`. Outcomes are read from `responseCode` alone: HTTP(3) + service(2) + case(2).
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from soundbox_server import clock
from soundbox_server.errors import InvalidSignature, ValidationFailed
from soundbox_server.providers import snap_signing as signing
from soundbox_server.providers.base import (
    Acknowledgement,
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

TOKEN_LIFE_S = 900
TOKEN_MARGIN_S = 60
MAX_VALIDITY_S = 24 * 3600  # a token whose partner promises more is asked for again within a day

Signed = Literal["symmetric", "asymmetric"]
KnowsToken = Callable[[str, int], bool]


class TokenRefused(InvalidSignature):
    """The notification carries no token of ours, or one that has ended: the partner should ask for another."""


@dataclass(frozen=True, kw_only=True)
class SnapConfig:
    """One partner's profile.

    `base_url` carries whatever prefix the partner serves under; `unsigned_prefix` is the part of it that the partner
    leaves out when it signs. `callback_path` is the path that the partner signs when it notifies us. `status_07` is
    what it means by that status: some say it of every QR that nobody has paid yet.
    """

    name: str
    base_url: str
    partner_id: str
    client_key: str
    channel_id: str
    private_key: str = field(repr=False)
    partner_public_key: str
    client_secret: bytes = field(default=b"", repr=False)
    notify_secret: bytes = field(default=b"", repr=False)
    notify_client_key: str = ""
    merchant_id: str | None = None
    terminal_id: str | None = None
    requests_signed: Signed = "symmetric"
    notifications_signed: Signed = "asymmetric"
    unsigned_prefix: str = ""
    token_path: str = "/v1.0/access-token/b2b"  # noqa: S105 - an address
    generate_path: str = "/v1.0/qr/qr-mpm-generate"
    query_path: str = "/v1.0/qr/qr-mpm-query"
    cancel_path: str = "/v1.0/qr/qr-mpm-cancel"
    refund_path: str = "/v1.0/qr/qr-mpm-refund"
    refund_by: Literal["refund", "cancel"] = "refund"
    refund_amount_as: Literal["text", "number"] = "text"
    refund_needs_approval_code: bool = False
    callback_path: str = "/v1.0/qr/qr-mpm-notify"
    notify_service: str = "52"
    window_s: int = signing.WINDOW_S
    status_07: Literal["open", "expired", "not_found"] = "open"
    additional_info: Mapping[str, object] = field(default_factory=dict)
    minimum_idr: int = 1
    can_cancel: bool = True
    can_refund: bool = True


@dataclass(frozen=True)
class _Said:
    """An answer whose code is a success (200xx00), or in progress (202xx00)."""

    fields: Fields
    body: bytes
    in_progress: bool


class SnapProvider:
    """`calls` carry transactions, `token_calls` tokens: the token's own, shorter deadline leaves time for the rest.

    `knows_token(token, now_ms)` says whether we issued a token that still lives; only symmetric notifications ask it.
    """

    def __init__(
        self,
        config: SnapConfig,
        calls: Calls,
        token_calls: Calls,
        *,
        knows_token: KnowsToken = lambda token, now_ms: False,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        if config.requests_signed == "symmetric" and not config.client_secret:
            raise ValueError("Symmetric requests need a client secret.")
        if config.notifications_signed == "symmetric" and not config.notify_secret:
            raise ValueError("Symmetric notifications need a secret.")
        self._config = config
        self._calls = calls
        self._now_ms = now_ms
        self._knows_token = knows_token
        self._our_key = signing.private_key(config.private_key)
        self._their_key = signing.public_key(config.partner_public_key)
        self._tokens = _Tokens(config, token_calls, self._our_key, now_ms)

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            methods=frozenset({Method.QRIS_DYNAMIC}),
            cancel=self._config.can_cancel,
            refund=self._config.can_refund,
            partial_refund=self._config.can_refund and self._config.refund_by == "refund",
            minimum_idr=self._config.minimum_idr,
        )

    async def create(self, request: ChargeRequest) -> Charge:
        if request.method is not Method.QRIS_DYNAMIC:
            raise ProviderRefused("This provider only issues QRIS.", method=request.method)
        said = await self._ask(self._config.generate_path, self.generate_body(request))
        if said.in_progress or said.fields.get("partnerReferenceNo", request.reference) != request.reference:
            raise ProviderUnknown("The provider did not answer for this charge.", reference=request.reference)
        payload, picture = said.fields.get("qrContent"), said.fields.get("qrUrl")
        if not isinstance(payload, str) and not isinstance(picture, str):
            raise ProviderUnknown("The provider's answer carries no QR.", reference=request.reference)
        return Charge(
            provider=self.name,
            reference=request.reference,
            provider_transaction_id=_their_number(said.fields) or "",
            amount_idr=request.amount_idr,
            qr_payload=payload if isinstance(payload, str) else "",
            qr_image_url=picture if isinstance(picture, str) else None,
            expires_at_ms=request.expires_at_ms,
            body=said.body,
        )

    async def query(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> ChargeStatus:
        said = await self._query(reference, provider_transaction_id)
        if said is None:
            return ChargeStatus(reference=reference, state="not_found")
        try:
            return self._status(said, reference)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's answer cannot be read.", reference=reference) from wrong

    async def cancel(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> None:
        if not self._config.can_cancel:
            raise ProviderRefused("This provider does not cancel.")
        said = await self._ask(self._config.cancel_path, self.cancel_body(reference, provider_transaction_id))
        if said.in_progress:
            raise ProviderUnknown("The provider has not cancelled yet.", reference=reference)

    async def refund(self, request: RefundRequest) -> RefundStatus:
        if not self._config.can_refund:
            raise ProviderRefused("This provider does not refund.")
        path = self._config.refund_path if self._config.refund_by == "refund" else self._config.cancel_path
        said = await self._ask(path, self.refund_body(request))
        if not said.in_progress and not self._refunds_just(said.fields, request):
            raise ProviderUnknown("The provider refunded another amount.", reference=request.refund_reference)
        return RefundStatus(
            refund_reference=request.refund_reference,
            state="pending" if said.in_progress else "succeeded",
            provider_refund_id=reference_or_none(said.fields, "refundNo")
            or reference_or_none(section(said.fields, "additionalInfo"), "referenceNo"),
            body=said.body,
        )

    async def query_refund(self, request: RefundRequest) -> RefundStatus:
        """SNAP has no question for a refund: the payment's history tells, where the partner keeps one."""
        said = await self._query(request.reference, request.provider_transaction_id)
        if said is None:
            raise ProviderUnknown("The provider does not know the payment.", reference=request.reference)
        history = _history(said.fields)
        for entry in history or []:
            if request.refund_reference in (entry.get("partnerRefundNo"), entry.get("partnerReferenceNo")):
                state = _REFUND_STATES.get(str(entry.get("refundStatus", "00")), "pending")
                return RefundStatus(
                    refund_reference=request.refund_reference,
                    state=state,
                    provider_refund_id=reference_or_none(entry, "refundNo"),
                    body=said.body,
                )
        refunded = said.fields.get("latestTransactionStatus") == "04"
        state = "not_found" if history is not None and not refunded else "pending"
        return RefundStatus(refund_reference=request.refund_reference, state=state, body=said.body)

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Report:
        """The event's id is made of what is signed: the partner's number of the payment, and its status.

        X-EXTERNAL-ID, unique for a partner and a day, is not signed, and a query has none; whoever replays a
        notification could change it. So it decides nothing; `delivery_key` is there to recognise it.
        """
        if len(body) > MAX_BODY_BYTES:
            raise ValidationFailed("The body is too long.", limit_bytes=MAX_BODY_BYTES)
        self._verify(headers, body, now_ms=now_ms)
        said = read_exact(body)
        reference = identifier(said, "originalPartnerReferenceNo")
        report = self._report(said, reference, body) or self._adjustment(said, reference, body)
        if report is None:
            raise ValidationFailed("The notification's status is not one of SNAP's.")
        return report

    def delivery_key(self, headers: Mapping[str, str], *, now_ms: int) -> str | None:
        """What SNAP wants to be unique: the same with another body deserves the outcome "conflict"."""
        external_id = reference_or_none(headers, "x-external-id")
        return None if external_id is None else f"{self.name}:{jakarta_time(now_ms)[:10]}:{external_id}"

    def acknowledge(self, outcome: CallbackOutcome, *, body: bytes, now_ms: int) -> Acknowledgement:
        case, message = _ANSWERS[outcome]
        return _answer(case[:3] + self._config.notify_service + case[3:], message, now_ms=now_ms)

    def verify_token_request(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> None:
        """The partner asks us for a token. Raises InvalidSignature or ValidationFailed; issuing it is the caller's."""
        client_key, timestamp = headers.get("x-client-key", ""), headers.get("x-timestamp", "")
        if not self._config.notify_client_key or client_key != self._config.notify_client_key:
            raise InvalidSignature("The token request does not name a client of ours.")
        signing.require_recent(timestamp, window_s=self._config.window_s, now_ms=now_ms)
        if not signing.verify_rsa(
            self._their_key, signing.token_text(client_key, timestamp), headers.get("x-signature", "")
        ):
            raise InvalidSignature("The token request's signature does not match.")
        if read_object(body).get("grantType") != "client_credentials":
            raise ValidationFailed("The grantType must be client_credentials.")

    def token_answer(self, token: str, *, now_ms: int, life_s: int = TOKEN_LIFE_S) -> Acknowledgement:
        issued = {"accessToken": token, "tokenType": "Bearer", "expiresIn": str(life_s)}
        return _answer("2007300", "Successful", issued, now_ms=now_ms)

    def token_refusal(self, outcome: CallbackOutcome, *, now_ms: int) -> Acknowledgement:
        case, message = _ANSWERS[outcome]
        return _answer(case[:3] + "73" + case[3:], message, now_ms=now_ms)

    async def circuit(self) -> str:
        return await self._calls.circuit()

    async def aclose(self) -> None:
        await self._calls.aclose()
        await self._tokens.aclose()

    # What we send

    def generate_body(self, request: ChargeRequest) -> dict[str, object]:
        return _given(
            partnerReferenceNo=request.reference,
            amount=_amount(request.amount_idr),
            merchantId=self._config.merchant_id,
            terminalId=self._config.terminal_id,
            validityPeriod=jakarta_time(request.expires_at_ms),
            additionalInfo=dict(self._config.additional_info) or None,
        )

    def query_body(self, reference: str, provider_transaction_id: str | None) -> dict[str, object]:
        return _given(
            originalPartnerReferenceNo=reference,
            originalReferenceNo=provider_transaction_id or None,
            serviceCode="47",
            merchantId=self._config.merchant_id,
            additionalInfo=dict(self._config.additional_info) or None,
        )

    def cancel_body(self, reference: str, provider_transaction_id: str | None) -> dict[str, object]:
        return _given(
            originalPartnerReferenceNo=reference,
            originalReferenceNo=provider_transaction_id or None,
            merchantId=self._config.merchant_id,
            reason="cancelled by the merchant",
        )

    def refund_body(self, request: RefundRequest) -> dict[str, object]:
        amount: object = _amount(request.amount_idr)
        if self._config.refund_amount_as == "number":
            amount = {"value": request.amount_idr, "currency": "IDR"}
        more = dict(self._config.additional_info)
        if self._config.refund_needs_approval_code:
            if request.rrn is None:
                raise ProviderRefused("This provider refunds only by the payment's retrieval reference.")
            more["approvalCode"] = request.rrn
        return _given(
            merchantId=self._config.merchant_id,
            originalPartnerReferenceNo=request.reference,
            originalReferenceNo=request.provider_transaction_id or None,
            partnerRefundNo=request.refund_reference,
            reason=request.reason,
            refundAmount=amount,
            additionalInfo=more or None,
        )

    # How we ask

    async def _query(self, reference: str, provider_transaction_id: str | None) -> _Said | None:
        """What the partner knows of a charge; None where it says that there is none."""
        try:
            said = await self._ask(self._config.query_path, self.query_body(reference, provider_transaction_id))
        except _NotFound:
            return None
        if said.in_progress or said.fields.get("originalPartnerReferenceNo", reference) != reference:
            raise ProviderUnknown("The provider did not answer for this charge.", reference=reference)
        return said

    async def _ask(self, path: str, body: Mapping[str, object]) -> _Said:
        """One question. A token that the partner has forgotten is replaced once: nothing was done with it."""
        content = orjson.dumps(body)
        if self._config.requests_signed == "asymmetric":
            return await self._send(path, content, token=None)
        token = await self._tokens.current()
        try:
            return await self._send(path, content, token=token)
        except _StaleToken:
            return await self._send(path, content, token=await self._tokens.current(instead_of=token))

    async def _send(self, path: str, content: bytes, *, token: str | None) -> _Said:
        # Never repeated as it is: X-EXTERNAL-ID may come once a day. Whoever needs to know asks again, signed anew.
        answer = await self._calls.send(
            "POST",
            self._config.base_url.rstrip("/") + path,
            headers=self.signed_headers(path, content, token=token, at_ms=self._now_ms()),
            content=content,
            idempotent=False,
        )
        try:
            said = read_exact(answer.body)
        except ValidationFailed as wrong:
            if answer.status >= 400:  # a wrong address, or a gate before the partner: nobody there knows of charges
                raise ProviderRefused("The provider refused.", status=answer.status) from None
            raise ProviderUnknown("The provider's answer cannot be read.") from wrong
        return _judged(said, answer.body, provider=self.name)

    def signed_headers(self, path: str, content: bytes, *, token: str | None, at_ms: int) -> dict[str, str]:
        timestamp = jakarta_time(at_ms)
        signed_path = self._signed_path(path)
        headers = {
            "content-type": "application/json",
            "x-timestamp": timestamp,
            "x-partner-id": self._config.partner_id,
            "x-external-id": _external_id(at_ms),
            "channel-id": self._config.channel_id,
        }
        if token is None:
            text = signing.asymmetric_text("POST", signed_path, content, timestamp)
            return headers | {"x-signature": signing.sign_rsa(self._our_key, text)}
        text = signing.symmetric_text("POST", signed_path, token, content, timestamp)
        return headers | {
            "authorization": f"Bearer {token}",
            "x-signature": signing.sign_hmac(self._config.client_secret, text),
        }

    def _signed_path(self, path: str) -> str:
        _, _, rest = self._config.base_url.partition("://")
        _, slash, prefix = rest.rstrip("/").partition("/")
        return (slash + prefix + path).removeprefix(self._config.unsigned_prefix)

    # What we are told

    def _verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> None:
        timestamp, signature = headers.get("x-timestamp", ""), headers.get("x-signature", "")
        path = self._config.callback_path
        signing.require_recent(timestamp, window_s=self._config.window_s, now_ms=now_ms)
        if self._config.notifications_signed == "asymmetric":
            signing.require_signature(
                body,
                lambda signed: signing.verify_rsa(
                    self._their_key, signing.asymmetric_text("POST", path, signed, timestamp), signature
                ),
            )
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._knows_token(token, now_ms):
            raise TokenRefused("The notification carries no token of ours that still lives.")
        signing.require_signature(
            body,
            lambda signed: signing.verify_hmac(
                self._config.notify_secret,
                signing.symmetric_text("POST", path, token, signed, timestamp),
                signature,
            ),
        )

    def _status(self, said: _Said, reference: str) -> ChargeStatus:
        code = str(said.fields.get("latestTransactionStatus"))
        state = self._config.status_07 if code == "07" else _STATES.get(code)
        if state is None:
            raise ValidationFailed("The status is not one of SNAP's.")
        adjustment = self._adjustment(said.fields, reference, said.body)
        return ChargeStatus(
            reference=reference,
            state=state,
            report=self._report(said.fields, reference, said.body) if state == "paid" else None,
            adjustments=(adjustment,) if adjustment else (),
        )

    def _report(self, said: Fields, reference: str, body: bytes) -> PaymentReport | None:
        code = str(said.get("latestTransactionStatus"))
        status = _REPORTED.get(code)
        if code == "07":
            status = "pending" if self._config.status_07 == "open" else "expired"
        if status is None:
            return None
        amount, more = section(said, "amount"), section(said, "additionalInfo")
        number = _their_number(said)
        return PaymentReport(
            provider=self.name,
            event_id=f"{number or reference}:{code}",
            partner_reference=reference,
            provider_transaction_id=number,
            status=status,
            amount_idr=_paid(amount.get("value")) if status == "paid" else 0,
            currency=currency(amount),
            paid_at_ms=moment_or_none(said.get("paidTime") or more.get("paidTime") or said.get("finishedTime"))
            if status == "paid"
            else None,
            issuer=text_or_none(more, "issuer") or text_or_none(more, "issuerName"),
            rrn=reference_or_none(more, "rrn", "retrievalReferenceNo", "approvalCode"),
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )

    def _adjustment(self, said: Fields, reference: str, body: bytes) -> AdjustmentReport | None:
        """Status 04, with what the partner tells of its last refund."""
        if said.get("latestTransactionStatus") != "04":
            return None
        number, digest = _their_number(said), hashlib.sha256(body).hexdigest()
        last = (_history(said) or [said])[-1]
        refund = reference_or_none(last, "partnerRefundNo", "refundNo") or digest[:16]
        amount = section(last, "refundAmount")
        return AdjustmentReport(
            provider=self.name,
            event_id=f"{number or reference}:04:{refund}",
            kind="refunded",
            partner_reference=reference,
            provider_transaction_id=number,
            refund_reference=reference_or_none(last, "partnerRefundNo", "partnerReferenceNo"),
            amount_idr=rupiah(amount["value"]) if "value" in amount else None,
            total_idr=None,
            currency=currency(amount),
            confirmed=True,
            body=body,
            body_sha256=digest,
        )

    def _refunds_just(self, said: Fields, request: RefundRequest) -> bool:
        value = section(said, "refundAmount").get("value", request.amount_idr)
        try:
            return rupiah(value) == request.amount_idr
        except ValidationFailed:
            return False


class _Tokens:
    """The partner's token, asked for once however many wait for it, and again a while before it ends."""

    def __init__(self, config: SnapConfig, calls: Calls, key: RSAPrivateKey, now_ms: Callable[[], int]) -> None:
        self._config = config
        self._calls = calls
        self._key = key
        self._now_ms = now_ms
        self._asking = asyncio.Lock()
        self._token = ""
        self._ends_at_ms = 0

    async def current(self, *, instead_of: str | None = None) -> str:
        """A token that lives for a while yet. Raises ProviderRefused: without a token nothing was asked for."""
        async with self._asking:
            if self._token == instead_of or self._now_ms() >= self._ends_at_ms:
                try:
                    self._token, life_s = await self._ask()
                except ProviderUnknown as error:
                    raise ProviderRefused("The provider issues no token.", provider=self._config.name) from error
                self._ends_at_ms = self._now_ms() + max(1, life_s - TOKEN_MARGIN_S) * 1000
            return self._token

    async def aclose(self) -> None:
        await self._calls.aclose()

    async def _ask(self) -> tuple[str, int]:
        timestamp = jakarta_time(self._now_ms())
        answer = await self._calls.send(
            "POST",
            self._config.base_url.rstrip("/") + self._config.token_path,
            headers={
                "content-type": "application/json",
                "x-timestamp": timestamp,
                "x-client-key": self._config.client_key,
                "x-signature": signing.sign_rsa(self._key, signing.token_text(self._config.client_key, timestamp)),
            },
            content=b'{"grantType":"client_credentials"}',
            idempotent=True,
        )
        try:
            said = read_object(answer.body)
            code = str(said.get("responseCode", answer.status))
            if answer.status >= 300 or code[:3] != "200":
                log.warning("provider.token_refused", provider=self._config.name, status=answer.status, code=code[:7])
                raise ProviderRefused("The provider refused a token.", status=answer.status)
            return _access_token(said), min(int(str(said.get("expiresIn", TOKEN_LIFE_S))), MAX_VALIDITY_S)
        except (ValidationFailed, ValueError) as wrong:
            raise ProviderRefused("The provider's token cannot be read.", provider=self._config.name) from wrong


def _access_token(said: Fields) -> str:
    """Tokens are longer than other ids: a JWT has about a thousand characters. Raises ValidationFailed."""
    token = said.get("accessToken")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not 0 < len(token) <= 4096:
        raise ValidationFailed("The access token is missing or not printable.")
    return token


class _StaleToken(ProviderRefused):
    """401xx01: the partner has forgotten the token."""


class _NotFound(ProviderRefused):
    """404xx01: the partner knows of no such charge."""


def _judged(said: Fields, body: bytes, *, provider: str) -> _Said:
    """An answer that is a success; raises ProviderRefused or ProviderUnknown for the others."""
    code = said.get("responseCode")
    if not isinstance(code, str) or len(code) != 7 or not (code.isascii() and code.isdigit()):
        raise ProviderUnknown("The provider's answer carries no response code.", provider=provider)
    http, case = code[:3], code[5:]
    if http in ("200", "202"):
        return _Said(fields=said, body=body, in_progress=http == "202")
    log.warning("provider.refused", provider=provider, code=code)
    if http == "401" and case == "01":
        raise _StaleToken("The provider does not know our token.", code=code)
    if http == "404" and case == "01":
        raise _NotFound("The provider does not know the charge.", code=code)
    # A reference or external id seen before means that an earlier question arrived: ask what became of it.
    if http in ("408", "409") or http >= "500":
        raise ProviderUnknown("The provider did not say what became of it.", code=code)
    raise ProviderRefused("The provider refused.", code=code)


def _answer(code: str, message: str, more: Mapping[str, str] | None = None, *, now_ms: int) -> Acknowledgement:
    body: dict[str, Any] = {"responseCode": code, "responseMessage": message, **(more or {})}
    headers = {"content-type": "application/json", "x-timestamp": jakarta_time(now_ms)}
    return Acknowledgement(status=int(code[:3]), headers=headers, body=orjson.dumps(body))


def _external_id(at_ms: int) -> str:
    """25 digits, the time and chance: unique for the day without asking anybody."""
    return f"{at_ms:013d}{secrets.randbelow(10**12):012d}"


def _amount(amount_idr: int) -> dict[str, object]:
    return {"value": two_decimals(amount_idr), "currency": "IDR"}


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _paid(value: object) -> int:
    amount_idr = rupiah(value)
    if amount_idr == 0:
        raise ValidationFailed("A payment has an amount.")
    return amount_idr


def _their_number(said: Fields) -> str | None:
    number = identifier_or_none(said, "originalReferenceNo") or identifier_or_none(said, "referenceNo")
    return number or reference_or_none(section(said, "additionalInfo"), "contractId")


def _history(said: Fields) -> list[Fields] | None:
    """The payment's refunds, where the partner keeps their history; it may be empty."""
    history = said.get("refundHistory", section(said, "additionalInfo").get("refundHistory"))
    return [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else None


_REPORTED: dict[str, ReportedStatus] = {
    "00": "paid",
    "01": "pending",
    "02": "pending",
    "03": "pending",
    "05": "failed",
    "06": "failed",
}
_STATES: dict[str, ChargeState] = {
    "00": "paid",
    "01": "open",
    "02": "open",
    "03": "open",
    "04": "paid",  # and refunded since: the adjustment tells
    "05": "cancelled",
    "06": "failed",
}
_REFUND_STATES: dict[str, RefundState] = {"00": "succeeded", "06": "failed"}

# HTTP status and case; the service's two digits go between them.
_ANSWERS: dict[CallbackOutcome, tuple[str, str]] = {
    "taken": ("20000", "Successful"),
    "orphan": ("20000", "Successful"),  # it is stored, and matched when we learn whose it is
    "conflict": ("40900", "Conflict"),
    "forged": ("40100", "Unauthorized. [Signature]"),
    "token_refused": ("40101", "Invalid Token (B2B)"),
    "unreadable": ("40000", "Bad Request"),
    "unavailable": ("50000", "General Error"),
}
