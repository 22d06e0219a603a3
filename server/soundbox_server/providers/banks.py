"""What a bank gives us that pays out to merchants, whatever its wire looks like.

Its callbacks come by the generic scheme (hmac_scheme): the same headers, signed the same way, with a body of their own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import msgspec

from soundbox_server.errors import ValidationFailed
from soundbox_server.providers.base import PayoutReport, PayoutState
from soundbox_server.providers.hmac_scheme import MAX_AMOUNT_IDR, Id, verify
from soundbox_server.providers.strict_json import MAX_BODY_BYTES, read_as

TransferState = Literal["pending", "succeeded", "failed", "reversed", "not_found"]
_ID, _CURRENCY = "[!-~]{1,128}", "[A-Z]{3}"


@dataclass(frozen=True, kw_only=True)
class TransferRequest:
    """Money to be sent. `reference` is ours and written down before anybody is asked: the same one never pays twice.

    `account` and `account_type` are the merchant's, as it gave them; `rail` is bi_fast, skn or rtgs.
    """

    reference: str
    amount_idr: int
    account: str
    account_type: str | None
    beneficiary: str
    rail: str


@dataclass(frozen=True, kw_only=True)
class TransferStatus:
    """Where a transfer stands. Only not_found says that it never happened; pending is also "they will not say"."""

    reference: str
    state: TransferState
    bank_payout_id: str | None = None
    body: bytes = b""


class Bank(Protocol):
    """`create` raises ProviderRefused where nothing happened and ProviderUnknown where nobody knows: then `query`, and
    never send again before it has said not_found."""

    @property
    def name(self) -> str:
        """What payouts know it by, and what it calls itself in its callbacks."""

    async def create(self, request: TransferRequest) -> TransferStatus: ...

    async def query(self, reference: str) -> TransferStatus: ...

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> PayoutReport:
        """Check the signature over the raw bytes, then read them; header names are in lower case.

        Raises InvalidSignature (missing, forged, stale) or ValidationFailed (signed, but not readable), nothing else.
        """

    async def circuit(self) -> str: ...

    async def aclose(self) -> None: ...


class _Body(msgspec.Struct):
    """What banks of the generic scheme send; fields that are not listed are ignored."""

    event_id: Id
    payout_reference: Id
    payout_id: Id
    status: PayoutState
    amount: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT_IDR)]
    currency: Annotated[str, msgspec.Meta(pattern=rf"\A{_CURRENCY}\Z")]


# `_Body` for whoever reads the API's description.
BODY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["event_id", "payout_reference", "payout_id", "status", "amount", "currency"],
    "properties": {
        "event_id": {"type": "string", "pattern": f"^{_ID}$"},
        "payout_reference": {"type": "string", "pattern": f"^{_ID}$", "description": "the payout's, as we named it"},
        "payout_id": {"type": "string", "pattern": f"^{_ID}$", "description": "the payout's, as the bank names it"},
        "status": {"type": "string", "enum": ["pending", "succeeded", "failed", "reversed"]},
        "amount": {"type": "integer", "minimum": 1, "maximum": MAX_AMOUNT_IDR, "description": "whole rupiah"},
        "currency": {"type": "string", "pattern": f"^{_CURRENCY}$"},
    },
}


def read_callback(
    headers: Mapping[str, str], body: bytes, *, bank: str, secrets: Sequence[bytes], now_ms: int
) -> PayoutReport:
    """Verify, then read. Raises InvalidSignature or ValidationFailed, nothing else."""
    if len(body) > MAX_BODY_BYTES:
        raise ValidationFailed("The body is too long.", limit_bytes=MAX_BODY_BYTES)
    verify(headers, body, partner_id=bank, secrets=secrets, now_ms=now_ms)
    said = read_as(_Body, body)
    return PayoutReport(
        provider=bank,
        event_id=said.event_id,
        payout_reference=said.payout_reference,
        provider_payout_id=said.payout_id,
        state=said.status,
        amount_idr=said.amount,
        currency=said.currency,
        body=body,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )
