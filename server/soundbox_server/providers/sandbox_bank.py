"""The sandbox's bank: transfers by HTTP, its callbacks by the generic scheme."""

from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import quote

import httpx
import msgspec
import orjson
import structlog

from soundbox_server.errors import ValidationFailed
from soundbox_server.providers import banks
from soundbox_server.providers.banks import TransferRequest, TransferStatus
from soundbox_server.providers.base import PayoutReport, ProviderRefused, ProviderUnknown
from soundbox_server.providers.calls import TOTAL_TIMEOUT_S, Answer, Calls, open_client
from soundbox_server.providers.strict_json import read_as, read_object

log = structlog.get_logger()


class _Answer(msgspec.Struct):
    reference: str
    transfer_id: str
    amount: int
    status: Literal["pending", "succeeded", "failed", "reversed"]


class SandboxBank:
    """Pays out with play money. Circuit and bulkhead are its own: a slow bank slows no charge."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        secrets: Sequence[bytes],
        callback_url: str,
        *,
        name: str = "sandbox",
        total_timeout_s: float = TOTAL_TIMEOUT_S,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._name = name
        self._url = f"{base_url.rstrip('/')}/v1/transfers"
        self._headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json"}
        self._secrets = secrets
        self._callback_url = callback_url
        self._client = client or open_client(total_timeout_s=total_timeout_s)
        self._client_is_ours = client is None
        self._calls = Calls(f"bank:{name}", self._client, total_timeout_s=total_timeout_s)

    @property
    def name(self) -> str:
        return self._name

    async def create(self, request: TransferRequest) -> TransferStatus:
        asked = {
            "reference": request.reference,
            "amount": request.amount_idr,
            "account": request.account,
            "account_type": request.account_type,
            "beneficiary": request.beneficiary,
            "rail": request.rail,
            "callback_url": self._callback_url,
        }
        # Sent once: after a lost answer it is asked about, whatever a second one would have said.
        answer = await self._calls.send(
            "POST", self._url, headers=self._headers, content=orjson.dumps(asked), idempotent=False
        )
        if answer.status not in {200, 201}:
            raise _refusal(answer)
        said = _read(answer)
        if (said.reference, said.amount) != (request.reference, request.amount_idr):
            raise ProviderUnknown("The bank answered for another transfer.", reference=request.reference)
        return _status(said, answer)

    async def query(self, reference: str) -> TransferStatus:
        url = f"{self._url}/{quote(reference, safe='')}"
        answer = await self._calls.send("GET", url, headers=self._headers, idempotent=True)
        if answer.status == 404 and _code(answer) == "TRANSACTION_NOT_FOUND":  # not a wrong address or a proxy's page
            return TransferStatus(reference=reference, state="not_found")
        if answer.status != 200:
            raise _refusal(answer)
        said = _read(answer)
        if said.reference != reference:
            raise ProviderUnknown("The bank answered for another transfer.", reference=reference)
        return _status(said, answer)

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> PayoutReport:
        return banks.read_callback(headers, body, bank=self._name, secrets=self._secrets, now_ms=now_ms)

    async def circuit(self) -> str:
        return await self._calls.circuit()

    async def aclose(self) -> None:
        if self._client_is_ours:
            await self._client.aclose()


def _status(said: _Answer, answer: Answer) -> TransferStatus:
    return TransferStatus(
        reference=said.reference, state=said.status, bank_payout_id=said.transfer_id, body=answer.body
    )


def _read(answer: Answer) -> _Answer:
    try:
        return read_as(_Answer, answer.body)
    except ValidationFailed as wrong:
        raise ProviderUnknown("The bank's answer cannot be read.") from wrong


def _code(answer: Answer) -> object:
    try:
        return read_object(answer.body).get("code")
    except ValidationFailed:
        return None


def _refusal(answer: Answer) -> ProviderRefused:
    log.warning("bank.refused", status=answer.status, code=_code(answer))
    return ProviderRefused("The bank refused.", status=answer.status)
