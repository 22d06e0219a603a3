"""Every event that somebody outside can hear of: its name, what it says, and an example. What the API's description
shows under `webhooks` is this table, and so is what a subscription may name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from soundbox_server.answers import Time

PING = "webhook.ping"
EVERYTHING = "*"


class PaymentData(TypedDict):
    """A payment as it was right after the event. `fee_amount` and `net_amount` are for the merchant's own addresses."""

    transaction_id: str
    merchant_id: str
    outlet_id: str
    terminal_id: str
    device_id: str | None
    order_code: str | None
    description: str | None
    method: str
    initiation_mode: str
    amount: int
    currency: str
    status: str
    late: bool
    paid_amount: int | None
    refunded_amount: int
    fee_amount: NotRequired[int | None]
    net_amount: NotRequired[int | None]
    issuer: str | None
    created_at: Time
    expires_at: Time
    paid_at: Time | None
    refund_amount: NotRequired[int]


class SettlementData(TypedDict):
    settlement_id: str
    merchant_id: str
    net_amount: int
    status: str
    payout_id: str
    payout_mode: str
    code: str | None


class DeviceData(TypedDict):
    device_id: str
    serial_number: str
    label: str | None
    merchant_id: str
    outlet_id: str
    terminal_id: str
    online: bool
    reason: str | None
    since: Time


class WarningData(TypedDict):
    """An early warning as it was right after the event. `value` is the last one that was a warning; it and `threshold`
    are in the metric's own unit: percent, points or days."""

    warning_id: str
    merchant_id: str
    warning: str
    severity: str
    status: str
    metric: str
    value: float
    threshold: float
    detected_at: Time
    resolved_at: Time | None


class PingData(TypedDict):
    webhook_id: str


@dataclass(frozen=True)
class Kind:
    """One kind of event: what it means, the shape of its `data`, and an example of it."""

    meaning: str
    shape: Any
    example: Mapping[str, object]


_PAYMENT: dict[str, object] = {
    "transaction_id": "txn_01k9x3m8z6f1q4v7c2b5n0t8rj",
    "merchant_id": "mer_01k9x3m8z6f1q4v7c2b5n0t8rk",
    "outlet_id": "out_01k9x3m8z6f1q4v7c2b5n0t8rm",
    "terminal_id": "term_01k9x3m8z6f1q4v7c2b5n0t8rn",
    "device_id": "sbx_01k9x3m8z6f1q4v7c2b5n0t8rp",
    "order_code": "INV-2026-0042",
    "description": None,
    "method": "qris_dynamic",
    "initiation_mode": "pos",
    "amount": 50_000,
    "currency": "IDR",
    "status": "paid",
    "late": False,
    "paid_amount": 50_000,
    "refunded_amount": 0,
    "fee_amount": 350,
    "net_amount": 49_650,
    "issuer": "Bank Contoh",
    "created_at": "2026-05-23T09:58:00.000Z",
    "expires_at": "2026-05-23T10:03:00.000Z",
    "paid_at": "2026-05-23T10:00:00.000Z",
}
_UNPAID = _PAYMENT | {
    "paid_amount": None, "fee_amount": None, "net_amount": None, "issuer": None, "paid_at": None
}  # fmt: skip
_SETTLEMENT: dict[str, object] = {
    "settlement_id": "stl_01k9x3m8z6f1q4v7c2b5n0t8rq",
    "merchant_id": "mer_01k9x3m8z6f1q4v7c2b5n0t8rk",
    "net_amount": 1_250_000,
    "status": "paid",
    "payout_id": "pyt_01k9x3m8z6f1q4v7c2b5n0t8rr",
    "payout_mode": "merchant_direct",
    "code": None,
}
_DEVICE: dict[str, object] = {
    "device_id": "sbx_01k9x3m8z6f1q4v7c2b5n0t8rp",
    "serial_number": "SBX-2026-000042",
    "label": "kasir 1",
    "merchant_id": "mer_01k9x3m8z6f1q4v7c2b5n0t8rk",
    "outlet_id": "out_01k9x3m8z6f1q4v7c2b5n0t8rm",
    "terminal_id": "term_01k9x3m8z6f1q4v7c2b5n0t8rn",
    "online": True,
    "reason": None,
    "since": "2026-05-23T10:00:00.000Z",
}


_WARNING: dict[str, object] = {
    "warning_id": "ewn_01k9x3m8z6f1q4v7c2b5n0t8ru",
    "merchant_id": "mer_01k9x3m8z6f1q4v7c2b5n0t8rk",
    "warning": "revenue_drop",
    "severity": "Critical",
    "status": "open",
    "metric": "revenue_drop_percent",
    "value": 83.33,
    "threshold": 30.0,
    "detected_at": "2026-05-23T20:00:00.000Z",
    "resolved_at": None,
}


def _payment(meaning: str, example: Mapping[str, object] = _PAYMENT, **other: object) -> Kind:
    return Kind(meaning, PaymentData, {**example, **other})


KINDS: Mapping[str, Kind] = {
    "payment.paid": _payment("The money of a payment is there."),
    "payment.late": _payment(
        "The money came after the payment had expired, or was cancelled or failed. It is paid all the same; where the "
        "merchant's policy is to give such money back, payment.refunded follows.",
        late=True,
    ),
    "payment.expired": _payment(
        "Nobody paid in time. Money may still come: then payment.late.", _UNPAID, status="expired"
    ),
    "payment.failed": _payment("The provider will not charge it.", _UNPAID, status="failed"),
    "payment.cancelled": _payment("It was withdrawn before anybody paid.", _UNPAID, status="cancelled"),
    "payment.needs_review": _payment(
        "Money came that does not fit, another amount say. It is not the merchant's before a person decides.",
        _UNPAID,
        status="needs_review",
    ),
    "payment.refunded": _payment(
        "Money went back to the payer: refund_amount now, refunded_amount in all.",
        status="partially_refunded",
        refunded_amount=20_000,
        refund_amount=20_000,
    ),
    "payment.refund_failed": _payment("The provider will not give the money back; it is still the merchant's."),
    "payment.reversed": _payment("The bank took the money of a paid payment back.", status="reversed"),
    "payment.disputed": _payment("The payer's bank disputes a paid payment.", status="disputed"),
    "payment.dispute_won": _payment("A dispute ended for the merchant."),
    "settlement.paid": Kind("A settlement was paid out to the merchant.", SettlementData, _SETTLEMENT),
    "payout.failed": Kind(
        "A payout did not reach the merchant, or came back: `code` says which. The money waits for another try.",
        SettlementData,
        {**_SETTLEMENT, "status": "failed", "code": "PAYOUT_FAILED"},
    ),
    "device.online": Kind("A soundbox at one of the merchant's tills can be reached again.", DeviceData, _DEVICE),
    "device.offline": Kind(
        "A soundbox at one of the merchant's tills cannot be reached; payments are told to it when it is back.",
        DeviceData,
        {**_DEVICE, "online": False, "reason": "will"},
    ),
    "warning.opened": Kind(
        "A sign that a merchant's trade goes wrong. Told to the merchant, and to whom the merchant lets see it; a bank "
        "with thresholds of its own hears of what is a warning by those.",
        WarningData,
        _WARNING,
    ),
    "warning.resolved": Kind(
        "An early warning ended: things are as they were.",
        WarningData,
        {**_WARNING, "status": "resolved", "value": 31.5, "resolved_at": "2026-06-02T20:00:00.000Z"},
    ),
    PING: Kind(
        "Asked for by hand, to try an address. It is sent once, whatever the address subscribes to.",
        PingData,
        {"webhook_id": "whk_01k9x3m8z6f1q4v7c2b5n0t8rs"},
    ),
}
SUBSCRIBABLE = tuple(kind for kind in KINDS if kind != PING)
# What a partner hears who charged for a merchant, less what is between the merchant and its provider.
MERCHANTS_OWN = ("fee_amount", "net_amount")

_HEADERS = {
    "webhook-id": "The event's id: the same on every try, so that a receiver knows what it has seen.",
    "webhook-timestamp": "When this try was made: seconds since 1970.",
    "webhook-signature": "`v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`; two while a secret is exchanged.",
}


def described() -> dict[str, Any]:
    """What the API's description says under `webhooks`, by event."""
    return {name: {"post": _operation(name, kind)} for name, kind in KINDS.items()}


def _operation(name: str, kind: Kind) -> dict[str, Any]:
    data = TypeAdapter(kind.shape).json_schema()
    schema = {
        "type": "object",
        "required": ["id", "type", "timestamp", "sequence", "data"],
        "properties": {
            "id": {"type": "string"},
            "type": {"const": name},
            "timestamp": {"type": "string", "format": "date-time", "description": "when it happened"},
            "sequence": {
                "type": ["integer", "null"],
                "minimum": 1,
                "description": "counts what this address is sent; null for a ping",
            },
            "data": data,
        },
    }
    return {
        "summary": kind.meaning,
        "description": f"{kind.meaning}\n\nAnswer 2xx within 15 seconds; anything else is tried again.",
        "operationId": f"webhook_{name.replace('.', '_')}",
        "parameters": [
            {"name": one, "in": "header", "required": True, "schema": {"type": "string"}, "description": said}
            for one, said in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": example(name)}},
        },
        "responses": {"2XX": {"description": "Taken."}, "410": {"description": "Gone: nothing more is sent."}},
    }


def example(name: str) -> dict[str, object]:
    return {
        "id": "whe_01k9x3m8z6f1q4v7c2b5n0t8rt",
        "type": name,
        "timestamp": "2026-05-23T10:00:00.123Z",
        "sequence": None if name == PING else 42,
        "data": dict(KINDS[name].example),
    }
