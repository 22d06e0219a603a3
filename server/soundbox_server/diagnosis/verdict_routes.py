"""Operators ask why it was silent, and how long it takes until money is heard."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from soundbox_server import clock
from soundbox_server.answers import Time, TypedDict, among, answers
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import statements
from soundbox_server.devices.presence import Reach
from soundbox_server.diagnosis import facts
from soundbox_server.diagnosis.latency import Latency, Spread, latency
from soundbox_server.diagnosis.routes import require_device
from soundbox_server.diagnosis.verdict import BoxFacts, Cause, diagnose
from soundbox_server.errors import NotFound, TransactionNotFound
from soundbox_server.fields import Id, Moment
from soundbox_server.http import Reader, envelope, problems
from soundbox_server.merchants.models import Outlet

router = APIRouter(tags=["operators"])

HOUR_MS = 3_600_000


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    transaction_id: Annotated[Id | None, Field(description="without it: the box as it is now")] = None


class SentenceView(TypedDict):
    id: str
    en: str


class HopView(TypedDict):
    hop: str
    state: Literal["ok", "failed", "waiting", "not_reached", "unknown"]
    at: Time | None
    detail: str | None


class BoxStateView(TypedDict):
    status: str
    bound: bool
    reachable: Annotated[str, among(Reach)] | None
    offline_reason: str | None
    quarantine: str | None
    changed_at: Time | None
    heartbeat_at: Time | None
    heard_at: Time | None
    volume: int | None
    speaker_fault: bool
    clock_skew_ms: int | None
    battery_level: int | None
    verifies_signatures: bool
    silent_speaker: bool


class DiagnosisView(TypedDict):
    device_id: str
    transaction_id: str | None
    cause: Annotated[str, among(Cause)]
    sentence: SentenceView
    hops: list[HopView]
    device: BoxStateView


@router.get(
    "/admin/devices/{device_id}/diagnosis", responses=answers(DiagnosisView) | problems(NotFound, TransactionNotFound)
)
async def diagnosis(request: Request, device_id: Id, session: Reader, asked: Annotated[Asked, Query()]) -> Response:
    """Why was it silent? One sentence, and each step from the payment to the speaker. Without a transaction: what is
    the matter with the box now."""
    tx, now_ms = await statements(session), clock.now_ms()
    if asked.transaction_id is None:
        known = await facts.of_box(tx, device_id, now_ms=now_ms)
    else:
        known = await facts.of_payment(tx, device_id, asked.transaction_id, now_ms=now_ms)
    found = diagnose(known)
    view: DiagnosisView = {
        "device_id": device_id,
        "transaction_id": asked.transaction_id,
        "cause": found.cause.value,
        "sentence": {"id": found.id, "en": found.en},
        "hops": [
            {"hop": hop.hop, "state": hop.state, "at": rfc3339_or_none(hop.at_ms), "detail": hop.detail}
            for hop in found.hops
        ],
        "device": _box(known.box),
    }
    return envelope(request, view)


def _box(box: BoxFacts) -> BoxStateView:
    return {
        "status": box.state,
        "bound": box.bound,
        "reachable": None if box.reach is None else box.reach.value,
        "offline_reason": box.offline_reason,
        "quarantine": box.quarantine,
        "changed_at": rfc3339_or_none(box.changed_at_ms),
        "heartbeat_at": rfc3339_or_none(box.heartbeat_at_ms),
        "heard_at": rfc3339_or_none(box.heard_at_ms),
        "volume": box.volume,
        "speaker_fault": box.speaker_fault,
        "clock_skew_ms": box.clock_skew_ms,
        "battery_level": box.battery_level,
        "verifies_signatures": box.verifies_signatures,
        "silent_speaker": box.silent_speaker,
    }


# --- heard latency ------------------------------------------------------------------------------------------------


class Period(BaseModel):
    """Payments told in the last `hours` up to `until`, without it up to now."""

    model_config = ConfigDict(extra="forbid")

    until: Moment | None = None
    hours: Annotated[int, Field(ge=1, le=31 * 24)] = 24

    def times(self) -> tuple[int, int]:
        to_ms = clock.now_ms() if self.until is None else self.until
        return max(0, to_ms - self.hours * HOUR_MS), to_ms


class FleetPeriod(Period):
    hours: Annotated[int, Field(ge=1, le=7 * 24)] = 24


class SpreadView(TypedDict):
    count: int
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None


class LatencyView(TypedDict):
    told_from: Time
    told_to: Time
    told: int
    received: SpreadView
    played: SpreadView


@router.get("/admin/latency", responses=answers(LatencyView))
async def fleet_latency(request: Request, session: Reader, asked: Annotated[FleetPeriod, Query()]) -> Response:
    """From a payment's commit to the box's word that it has it, and to the moment it says it was heard: of all boxes,
    over at most 7 days."""
    from_ms, to_ms = asked.times()
    found = await latency(await statements(session), from_ms=from_ms, to_ms=to_ms)
    return envelope(request, _latency(found, from_ms, to_ms))


@router.get("/admin/outlets/{outlet_id}/latency", responses=answers(LatencyView) | problems(NotFound))
async def outlet_latency(
    request: Request, outlet_id: Id, session: Reader, asked: Annotated[Period, Query()]
) -> Response:
    """The same of the boxes that stood at an outlet, over at most 31 days."""
    from_ms, to_ms = asked.times()
    if await session.get(Outlet, outlet_id) is None:
        raise NotFound("No such outlet.", outlet_id=outlet_id)
    found = await latency(await statements(session), from_ms=from_ms, to_ms=to_ms, outlet_id=outlet_id)
    return envelope(request, _latency(found, from_ms, to_ms))


@router.get("/admin/devices/{device_id}/latency", responses=answers(LatencyView) | problems(NotFound))
async def device_latency(
    request: Request, device_id: Id, session: Reader, asked: Annotated[Period, Query()]
) -> Response:
    """The same of one box, over at most 31 days."""
    from_ms, to_ms = asked.times()
    await require_device(session, device_id)
    found = await latency(await statements(session), from_ms=from_ms, to_ms=to_ms, device_id=device_id)
    return envelope(request, _latency(found, from_ms, to_ms))


def _latency(found: Latency, from_ms: int, to_ms: int) -> LatencyView:
    return {
        "told_from": rfc3339(from_ms),
        "told_to": rfc3339(to_ms),
        "told": found.told,
        "received": _spread(found.received),
        "played": _spread(found.played),
    }


def _spread(spread: Spread) -> SpreadView:
    return {"count": spread.count, "p50_ms": spread.p50_ms, "p95_ms": spread.p95_ms, "p99_ms": spread.p99_ms}
