"""From where on a change is a warning to a bank: its own door, and operators' for every bank."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from soundbox_server import clock
from soundbox_server.access.auth import Acting, Caller
from soundbox_server.answers import Time, TypedDict, answers
from soundbox_server.audit.service import Actor
from soundbox_server.clock import rfc3339_or_none
from soundbox_server.db import statements
from soundbox_server.errors import Conflict, NotFound, ValidationFailed
from soundbox_server.fields import Body, Id
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.scoring import thresholds
from soundbox_server.scoring.early_warning import Thresholds
from soundbox_server.scoring.points import shown
from soundbox_server.scoring.state import WarningType
from soundbox_server.scoring.thresholds import BOUNDS, Own

operators = APIRouter(prefix="/admin/organisations/{organisation_id}", tags=["alerts"])
banks = APIRouter(prefix="/lending", tags=["banks"])
UNITS = {
    WarningType.REVENUE_DROP: "percent",
    WarningType.REFUND_SPIKE: "percentage points",
    WarningType.SETTLEMENT_DELAY: "days",
    WarningType.TRANSACTION_DROP: "percent",
    WarningType.SCORE_DROP: "points",
}


def _threshold(kind: WarningType, what: str) -> Any:
    least, most = BOUNDS[kind]
    said = f"{what}, to hundredths; null: as it is for everybody"
    return Field(None, ge=least / 100, le=most / 100, description=said)


Figure = float | None


class NewThresholds(Body):
    """All of them: what is not named is as it is for everybody. A warning is what lies above."""

    version: Annotated[int, Field(ge=0, le=1_000_000, examples=[0], description="the one that was seen; 0 at first")]
    revenue_drop: Figure = _threshold(WarningType.REVENUE_DROP, "% by which daily revenue fell")
    refund_spike: Figure = _threshold(WarningType.REFUND_SPIKE, "points by which the refund rate rose")
    settlement_delay: Figure = _threshold(WarningType.SETTLEMENT_DELAY, "days that payouts take on average")
    transaction_drop: Figure = _threshold(WarningType.TRANSACTION_DROP, "% by which transactions became fewer")
    score_drop: Figure = _threshold(WarningType.SCORE_DROP, "points by which a score fell")


class ThresholdView(TypedDict):
    """`own`: the bank said so itself."""

    value: float
    own: bool
    unit: str
    least: float
    most: float


class ThresholdsView(TypedDict):
    organisation_id: str
    version: int
    changed_at: Time | None
    thresholds: dict[str, ThresholdView]


async def _get(request: Request, session: Reader, organisation_id: str) -> Response:
    said = await thresholds.said_by(await statements(session), organisation_id)
    return envelope(request, _view(said, request.app.state.warning_thresholds))


async def _put(request: Request, session: Session, organisation_id: str, body: NewThresholds, actor: Actor) -> Response:
    said = await thresholds.change(
        await statements(session), organisation_id, _hundredths(body), version=body.version, actor=actor,
        now_ms=clock.now_ms(),
    )  # fmt: skip
    return envelope(request, _view(said, request.app.state.warning_thresholds))


def _hundredths(body: NewThresholds) -> dict[WarningType, int]:
    named: Mapping[str, float | None] = body.model_dump(exclude={"version"})
    return {WarningType(name): round(Decimal(str(value)) * 100) for name, value in named.items() if value is not None}


def _view(said: Own, default: Thresholds) -> ThresholdsView:
    return {
        "organisation_id": said.organisation_id,
        "version": said.version,
        "changed_at": rfc3339_or_none(said.changed_at_ms),
        "thresholds": {kind.value: _threshold_view(kind, said, default) for kind in WarningType},
    }


def _threshold_view(kind: WarningType, said: Own, default: Thresholds) -> ThresholdView:
    own = said.hundredths.get(kind)
    least, most = BOUNDS[kind]
    return {
        "value": shown(default[kind]) if own is None else own / 100,
        "own": own is not None,
        "unit": UNITS[kind],
        "least": least / 100,
        "most": most / 100,
    }


@operators.get("/warning-thresholds", responses=answers(ThresholdsView) | problems(NotFound))
async def get_thresholds_of(request: Request, organisation_id: Id, session: Reader) -> Response:
    """From where on a bank calls it a warning."""
    return await _get(request, session, organisation_id)


@operators.put(
    "/warning-thresholds", responses=answers(ThresholdsView) | problems(NotFound, Conflict, ValidationFailed)
)
async def put_thresholds_of(
    request: Request, organisation_id: Id, body: NewThresholds, session: Session, actor: Acting
) -> Response:
    """Say it for a bank. Warnings that stand are judged anew within a minute."""
    return await _put(request, session, organisation_id, body, actor)


@banks.get("/warning-thresholds", responses=answers(ThresholdsView) | problems(NotFound))
async def get_thresholds(request: Request, session: Reader, caller: Caller) -> Response:
    """From where on it is a warning to this bank."""
    return await _get(request, session, caller.organisation_id)


@banks.put("/warning-thresholds", responses=answers(ThresholdsView) | problems(NotFound, Conflict, ValidationFailed))
async def put_thresholds(
    request: Request, body: NewThresholds, session: Session, caller: Caller, actor: Acting
) -> Response:
    """Say it. Warnings that stand are judged anew within a minute, and the bank hears of those that open or end."""
    return await _put(request, session, caller.organisation_id, body, actor)
