"""The HTTP doors of payments: the providers' callback and a box's dynamic QR."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import structlog
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from soundbox_protocol.messages import DeviceId, TerminalId
from soundbox_server import clock, failpoints, metrics
from soundbox_server.announcements.service import Telling
from soundbox_server.db import Database, Statements
from soundbox_server.devices.auth import AuthenticatedDevice
from soundbox_server.errors import (
    DeviceNotBound,
    DeviceUnauthorized,
    Forbidden,
    GatewayError,
    InvalidAmount,
    InvalidSignature,
    PartnerTimeout,
    SoundboxError,
)
from soundbox_server.fields import Whole
from soundbox_server.group_commit import GroupCommit
from soundbox_server.http import answer, problems, read_body, request_id
from soundbox_server.idempotency import HEADER, KEY, once
from soundbox_server.payments import dynamic_qr
from soundbox_server.payments.adjustments import ReceivedAdjustment, take_adjustments
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.payments.methods import CEILING_IDR
from soundbox_server.payments.payouts import keep_payout
from soundbox_server.payments.service import Received, Taken, take_reports
from soundbox_server.payments.state import PaymentState
from soundbox_server.providers.base import AdjustmentReport, PaymentReport, PayoutReport, Report
from soundbox_server.providers.hmac_scheme import BODY_SCHEMA

log = structlog.get_logger()
router = APIRouter(tags=["devices"])


class CallbackReader(Protocol):
    def read_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> PaymentReport | AdjustmentReport: ...


class CallbackDesk:
    """Where providers' words arrive: verified one by one, applied in groups, published right after each commit."""

    def __init__(
        self,
        database: Database,
        partners: Mapping[str, CallbackReader],
        *,
        telling: Telling,
        late_report_ms: int,
        publish: Callable[[Sequence[Any]], None],
        most: int = 64,
        waiting: int = 4_096,
    ) -> None:
        self.partners = partners
        self._database = database
        self._telling = telling
        self._late_report_ms = late_report_ms
        self._publish = publish
        self._group: GroupCommit[Received, Taken] = GroupCommit(
            database, self._apply, committed=self._committed, at_once=True, most=most, waiting=waiting
        )

    async def take(self, report: Report, *, asked: str) -> Taken:
        """The report's durable outcome."""
        if isinstance(report, AdjustmentReport):
            return await self._adjust(report, asked)
        if isinstance(report, PayoutReport):
            now_ms = clock.now_ms()
            return await self._database.write(lambda tx: keep_payout(tx, report, request_id=asked, now_ms=now_ms))
        return await self._group.submit(Received(report=report, request_id=asked, received_at_ms=clock.now_ms()))

    async def _adjust(self, report: AdjustmentReport, asked: str) -> Taken:
        """In a transaction of its own: it seldom comes."""
        received = ReceivedAdjustment(report=report, request_id=asked, received_at_ms=clock.now_ms())
        (taken,) = await self._database.write(
            lambda tx: take_adjustments(tx, [received], now_ms=received.received_at_ms)
        )
        return taken

    async def drain(self) -> None:
        await self._group.drain()

    async def _apply(self, tx: Statements, reports: Sequence[Received]) -> Sequence[Taken]:
        taken = await take_reports(
            tx, reports, now_ms=clock.now_ms(), telling=self._telling, late_report_ms=self._late_report_ms
        )
        tx.after_commit.append(partial(metrics.callback_group.observe, len(reports)))
        failpoints.reached("callback.before_commit")
        return taken

    def _committed(self, queued: Sequence[Any]) -> None:
        failpoints.reached("callback.committed")
        self._publish(queued)
        failpoints.reached("callback.published")


async def qris_callback(request: Request) -> Response:
    """`POST /integrations/qris/callback`: answered only after the commit. Forged or stale: 401 and nothing written."""
    started = time.perf_counter()
    desk: CallbackDesk = request.app.state.callback_desk
    body = await read_body(request)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
    partner = headers.get("x-partner-id", "")
    reader = desk.partners.get(partner)
    try:
        if reader is None:
            raise InvalidSignature("The callback does not name a partner of ours.")
        report = reader.read_callback(headers, body, now_ms=clock.now_ms())
    except SoundboxError as error:
        metrics.labelled(metrics.callbacks, partner if reader else "unknown", error.code.lower()).inc()
        raise
    failpoints.reached("callback.verified")
    try:
        taken = await desk.take(report, asked=request_id(request))
    except Exception as error:
        outcome = error.code.lower() if isinstance(error, SoundboxError) else "crashed"
        metrics.labelled(metrics.callbacks, partner, outcome).inc()
        raise
    failpoints.reached("callback.answered")
    metrics.labelled(metrics.callbacks, partner, taken.outcome.value).inc()
    metrics.callback_seconds.observe(time.perf_counter() - started)
    log.info(
        "callback.taken",
        partner=partner, event_id=report.event_id, payment_id=taken.payment_id, outcome=taken.outcome.value,
    )  # fmt: skip
    return answer(
        {
            "data": {
                "event_id": report.event_id,
                "transaction_id": taken.payment_id,
                "outcome": taken.outcome.value,
            },
            "request_id": request_id(request),
            "timestamp": clock.rfc3339(clock.now_ms()),
        }
    )


CALLBACK_OPERATION: dict[str, Any] = {
    "summary": "A provider reports a payment, or what became of its money",
    "description": (
        "Answered only after the commit. The signature covers the raw body; `X-Partner-Timestamp` may differ from our "
        "clock by 300 s. X-Partner-Event, Idempotency-Key and X-Request-Id are optional, unsigned and decide nothing."
    ),
    "tags": ["partners"],
    "operationId": "qris_callback",
    "parameters": [
        {"name": "X-Partner-Id", "in": "header", "required": True, "schema": {"type": "string"}, "example": "acme"},
        {"name": "X-Partner-Timestamp", "in": "header", "required": True, "description": "Unix seconds",
         "schema": {"type": "string", "pattern": "^[0-9]{1,11}$"}, "example": "1779527430"},
        {"name": "X-Partner-Signature", "in": "header", "required": True,
         "schema": {"type": "string", "pattern": "^v1=[0-9a-fA-F]{64}(,v1=[0-9a-fA-F]{64})*$"},
         "description": "v1= and 64 hex digits; several, separated by commas, while a secret is exchanged",
         "example": f"v1={'0123456789abcdef' * 4}"},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": BODY_SCHEMA,
                "example": {
                    "event_id": "evt_8812", "partner_reference": "ref_01k9x3m8z6", "status": "paid", "amount": 50000,
                    "currency": "IDR", "paid_at": "2026-05-23T10:00:30Z", "issuer": "Bank Demo", "rrn": "614210000123",
                },
            }
        },
    },
    "responses": {
        "200": {
            "description": "Stored for good, whatever the outcome",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["data", "request_id", "timestamp"],
                        "properties": {
                            "data": {
                                "type": "object",
                                "required": ["event_id", "transaction_id", "outcome"],
                                "properties": {
                                    "event_id": {"type": "string"},
                                    "transaction_id": {"type": ["string", "null"]},
                                    "outcome": {
                                        "type": "string",
                                        "enum": ["applied", "duplicate", "ignored", "needs_review", "orphan"],
                                    },
                                },
                            },
                            "request_id": {"type": "string"},
                            "timestamp": {"type": "string", "format": "date-time"},
                        },
                    }
                }
            },
        }
    },
}  # fmt: skip


class DynamicQrAsk(BaseModel):
    """Reference 001's request. Unknown fields are ignored: boxes in shops outlive our schema.

    The description tells the bounds of `amount` and `currency`; what lies outside is answered with INVALID_AMOUNT.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    device_id: Annotated[DeviceId, Field(examples=["sbx_001"])]
    terminal_id: Annotated[TerminalId, Field(examples=["term_001"])]
    amount: Whole = Field(
        examples=[50000],
        description="whole rupiah",
        json_schema_extra={"minimum": 1, "maximum": CEILING_IDR},
    )
    currency: str = Field(examples=["IDR"], max_length=3, json_schema_extra={"enum": ["IDR"]})
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", examples=["req_123"])]


class DynamicQr(BaseModel):
    """A QR to show until it expires."""

    request_id: str
    transaction_id: str
    qr_type: Literal["dynamic"]
    qr_payload: str
    expires_at: AwareDatetime
    status: PaymentState


_QR_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": DynamicQr},
    **problems(InvalidAmount, Forbidden, DeviceNotBound, GatewayError, PartnerTimeout),
}


@router.post("/device/transactions/dynamic-qr", responses=_QR_ANSWERS)
async def create_dynamic_qr(
    request: Request,
    ask: DynamicQrAsk,
    device: AuthenticatedDevice,
    idempotency_key: Annotated[
        str | None, Header(alias=HEADER, pattern=KEY, description="without it, request_id does")
    ] = None,
) -> Response:
    """A QR for one amount, flat as in the contract. The same request_id gets the same answer."""
    if ask.device_id != device.id:
        raise DeviceUnauthorized("The token belongs to another device.")
    desk: ChargeDesk = request.app.state.charge_desk
    asked = dynamic_qr.Ask(
        device_id=device.id,
        terminal_id=ask.terminal_id,
        amount=ask.amount,
        currency=ask.currency,
        request_id=ask.request_id,
        door="device",
        trace_id=request_id(request),
    )
    return await desk.issue(
        lambda tx: dynamic_qr.order_of(tx, asked),
        show=_shown,
        once=once(
            idempotency_key, principal=device.id, method="POST", path=request.url.path, body=await request.body()
        ),
    )


def _shown(pending: Pending) -> Response:
    return answer(
        {
            "request_id": pending.request_id,
            "transaction_id": pending.payment_id,
            "qr_type": "dynamic",
            "qr_payload": pending.qr_payload,
            "expires_at": clock.rfc3339(pending.expires_at_ms),
            "status": pending.payment_state,
        }
    )
