"""The sandbox acquirer as a partner: its QR by HTTP, its callbacks by the generic scheme."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Literal, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import orjson
import structlog

from soundbox_server.clock import rfc3339
from soundbox_server.errors import Conflict, ValidationFailed
from soundbox_server.providers import hmac_scheme
from soundbox_server.providers.base import (
    AdjustmentReport,
    Capabilities,
    Charge,
    ChargeRequest,
    ChargeStatus,
    IssuedStaticQr,
    MerchantIdentity,
    Method,
    PaymentReport,
    ProviderRefused,
    ProviderUnknown,
    RefundRequest,
    RefundStatus,
)
from soundbox_server.providers.calls import TOTAL_TIMEOUT_S, Answer, Calls, open_client
from soundbox_server.providers.strict_json import read_as, read_object

log = structlog.get_logger()

Said = TypeVar("Said")


# All but OVO, which asks the payer on their own phone: here nobody holds one.
METHODS = frozenset(Method) - {Method.OVO}
WITH_A_PAGE = frozenset(method for method in METHODS - {Method.QRIS_DYNAMIC} if not method.startswith("va_"))


class _ChargeAnswer(msgspec.Struct):
    reference: str
    transaction_id: str
    status: Literal["open", "paid", "expired", "cancelled"]
    amount: int
    qr_payload: str
    expires_at: str
    event: str | None  # the paid event's text, exactly as the callback carries and signs it
    adjustments: list[str] = []  # and those of what became of the money since
    method: Method = Method.QRIS_DYNAMIC
    va_number: str | None = None


class _RefundAnswer(msgspec.Struct):
    refund_reference: str
    refund_id: str
    reference: str
    amount: int
    status: Literal["pending", "succeeded"]


class _StaticAnswer(msgspec.Struct):
    reference: str
    qr_payload: str


class SandboxProvider:
    """Owns its HTTP client unless one is handed in; `secrets` are all that a callback may be signed with just now."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        secrets: Sequence[bytes],
        callback_url: str,
        client: httpx.AsyncClient | None = None,
        *,
        name: str = "sandbox",
        total_timeout_s: float = TOTAL_TIMEOUT_S,
        calls_at_once: int = 16,
        calls_waiting: int = 64,
        failures_to_open: int = 5,
        rest_s: float = 10,
    ) -> None:
        if not secrets or not all(secrets):
            raise ValueError("The sandbox provider needs at least one callback secret, and none may be empty.")
        self._name = name
        self._base_url = base_url.rstrip("/")
        self._url = base_url.rstrip("/") + "/v1/qr"
        self._static_url = base_url.rstrip("/") + "/v1/static"
        self._refunds_url = base_url.rstrip("/") + "/v1/refunds"
        self._headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json"}
        self._secrets = tuple(secrets)
        self._callback_url = callback_url
        self._client = client or open_client(total_timeout_s=total_timeout_s)
        self._client_is_ours = client is None
        self._calls = Calls(
            name,
            self._client,
            total_timeout_s=total_timeout_s,
            at_once=calls_at_once,
            waiting=calls_waiting,
            failures_to_open=failures_to_open,
            rest_s=rest_s,
        )

    @property
    def name(self) -> str:
        return self._name

    async def create(self, request: ChargeRequest) -> Charge:
        body = {
            "reference": request.reference,
            "amount": request.amount_idr,
            "merchant": asdict(request.merchant),
            "expires_at": rfc3339(request.expires_at_ms),
            "callback_url": self._callback_url,
        }
        if request.method is not Method.QRIS_DYNAMIC:
            body |= {"method": request.method.value, "return_url": request.success_url}
        # The sandbox knows a reference again, so asking twice is harmless.
        answer = await self._calls.send(
            "POST", self._url, headers=self._headers, content=orjson.dumps(body), idempotent=True
        )
        if answer.status not in {200, 201}:
            raise _refusal(answer)
        said = _read(answer)
        if (said.reference, said.amount) != (request.reference, request.amount_idr):
            raise ProviderUnknown("The provider answered for another charge.", reference=request.reference)
        return self._charge(said, answer)

    async def issue_static(self, reference: str, merchant: MerchantIdentity) -> IssuedStaticQr:
        body = {"reference": reference, "merchant": asdict(merchant), "callback_url": self._callback_url}
        answer = await self._calls.send(
            "POST", self._static_url, headers=self._headers, content=orjson.dumps(body), idempotent=True
        )
        if answer.status not in {200, 201}:
            raise _refusal(answer)
        said = _read_as(_StaticAnswer, answer)
        if said.reference != reference:
            raise ProviderUnknown("The provider answered for another QR.", reference=reference)
        return IssuedStaticQr(provider=self._name, reference=reference, qr_payload=said.qr_payload)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(methods=METHODS, cancel=True, refund=True, partial_refund=True)

    async def query(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> ChargeStatus:
        url = f"{self._url}/{quote(reference, safe='')}"
        answer = await self._calls.send("GET", url, headers=self._headers, idempotent=True)
        if answer.status == 404 and _code(answer) == "TRANSACTION_NOT_FOUND":  # not a wrong address or a proxy's page
            return ChargeStatus(reference=reference, state="not_found")
        if answer.status != 200:
            raise _refusal(answer)
        said = _read(answer)
        if said.reference != reference:
            raise ProviderUnknown("The provider answered for another charge.", reference=reference)
        return ChargeStatus(
            reference=reference,
            state=said.status,
            charge=self._charge(said, answer),
            report=self._report(said),
            adjustments=self._adjustments(said),
        )

    async def pay(self, reference: str, *, amount_idr: int | None = None) -> None:
        """The simulated customer pays, what was asked or another amount; the simulator then reports it by a callback.

        Raises Conflict for a charge that is paid already, and as `create` does.
        """
        answer = await self._calls.send(
            "POST",
            f"{self._url}/{quote(reference, safe='')}/pay",
            headers=self._headers,
            content=orjson.dumps({} if amount_idr is None else {"amount": amount_idr}),
            idempotent=False,
        )
        if answer.status == 409:
            raise Conflict("The simulated customer has paid this already.")
        if answer.status != 200:
            raise _refusal(answer)

    async def cancel(
        self, reference: str, *, method: Method = Method.QRIS_DYNAMIC, provider_transaction_id: str | None = None
    ) -> None:
        url = f"{self._url}/{quote(reference, safe='')}/cancel"
        answer = await self._calls.send("POST", url, headers=self._headers, content=b"{}", idempotent=True)
        if answer.status != 200:
            raise _refusal(answer)

    async def refund(self, request: RefundRequest) -> RefundStatus:
        url = f"{self._url}/{quote(request.reference, safe='')}/refunds"
        asked = {
            "refund_reference": request.refund_reference,
            "amount": request.amount_idr,
            "reason": request.reason,
        }
        # The sandbox knows a refund_reference again, so asking twice is harmless.
        answer = await self._calls.send(
            "POST", url, headers=self._headers, content=orjson.dumps(asked), idempotent=True
        )
        if answer.status not in {200, 201}:
            raise _refusal(answer)
        return _refunded(request, answer)

    async def query_refund(self, request: RefundRequest) -> RefundStatus:
        url = f"{self._refunds_url}/{quote(request.refund_reference, safe='')}"
        answer = await self._calls.send("GET", url, headers=self._headers, idempotent=True)
        if answer.status == 404 and _code(answer) == "TRANSACTION_NOT_FOUND":
            return RefundStatus(refund_reference=request.refund_reference, state="not_found")
        if answer.status != 200:
            raise _refusal(answer)
        return _refunded(request, answer)

    def read_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> PaymentReport | AdjustmentReport:
        return hmac_scheme.read_callback(headers, body, partner_id=self._name, secrets=self._secrets, now_ms=now_ms)

    async def circuit(self) -> str:
        return await self._calls.circuit()

    async def aclose(self) -> None:
        if self._client_is_ours:
            await self._client.aclose()

    def _charge(self, said: _ChargeAnswer, answer: Answer) -> Charge:
        return Charge(
            provider=self._name,
            reference=said.reference,
            provider_transaction_id=said.transaction_id,
            amount_idr=said.amount,
            qr_payload=said.qr_payload,
            expires_at_ms=_time(said.expires_at),
            body=answer.body,
            va_number=said.va_number,
            checkout_url=f"{self._base_url}/wallet/{said.transaction_id}" if said.method in WITH_A_PAGE else None,
        )

    def _report(self, said: _ChargeAnswer) -> PaymentReport | None:
        if said.event is None:
            return None
        try:
            return hmac_scheme.read_report(said.event.encode(), provider=self._name)
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's event cannot be read.", reference=said.reference) from wrong

    def _adjustments(self, said: _ChargeAnswer) -> tuple[AdjustmentReport, ...]:
        try:
            read = [hmac_scheme.read_word(event.encode(), provider=self._name) for event in said.adjustments]
        except ValidationFailed as wrong:
            raise ProviderUnknown("The provider's event cannot be read.", reference=said.reference) from wrong
        return tuple(one for one in read if isinstance(one, AdjustmentReport))


def _refunded(request: RefundRequest, answer: Answer) -> RefundStatus:
    try:
        said = read_as(_RefundAnswer, answer.body)
    except ValidationFailed as wrong:
        raise ProviderUnknown("The provider's answer cannot be read.") from wrong
    if (said.refund_reference, said.amount) != (request.refund_reference, request.amount_idr):
        raise ProviderUnknown("The provider answered for another refund.", reference=request.reference)
    return RefundStatus(
        refund_reference=said.refund_reference,
        state=said.status,
        provider_refund_id=said.refund_id,
        body=answer.body,
    )


def _read(answer: Answer) -> _ChargeAnswer:
    return _read_as(_ChargeAnswer, answer)


def _read_as(kind: type[Said], answer: Answer) -> Said:
    try:
        return read_as(kind, answer.body)
    except ValidationFailed as wrong:
        raise ProviderUnknown("The provider's answer cannot be read.") from wrong


def _time(text: str) -> int:
    try:
        return hmac_scheme.read_time(text)
    except ValidationFailed as wrong:
        raise ProviderUnknown("The provider's answer carries no time.") from wrong


def _code(answer: Answer) -> object:
    try:
        return read_object(answer.body).get("code")
    except ValidationFailed:
        return None


def _refusal(answer: Answer) -> ProviderRefused:
    log.warning("provider.refused", status=answer.status, code=_code(answer))
    return ProviderRefused("The provider refused.", status=answer.status)
