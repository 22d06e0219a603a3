"""Reference 000's merchant doors: profile, dashboard, credit score, loan timing, products, warnings.

Its paths, its words, and its envelope `{success, message, data}`. Translation only; amounts are whole rupiah, and what
its merchants are told comes in Indonesian, or in English where the request prefers that.
"""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access import limits
from soundbox_server.access.auth import Acting, AskedOnce, Caller
from soundbox_server.access.models import Organisation, Person
from soundbox_server.access.service import Principal
from soundbox_server.advice.facts import Facts, of_sales, of_score, of_timing, of_warning
from soundbox_server.advice.service import written_of
from soundbox_server.alerts.models import Alert
from soundbox_server.audit.service import record
from soundbox_server.clock import jakarta_day, rfc3339
from soundbox_server.db import Statements, reading
from soundbox_server.errors import Conflict, NotFound, RateLimited
from soundbox_server.fields import Id
from soundbox_server.http import Reader, answer, problems, request_id
from soundbox_server.merchants.models import Merchant, Outlet
from soundbox_server.scoring import looks, products, seasons, telling
from soundbox_server.scoring.explanation import reasons, recommendation, summary
from soundbox_server.scoring.models import CreditScore, EarlyWarning
from soundbox_server.scoring.points import WEIGHTS, Score
from soundbox_server.scoring.service import facts_of, rescore, score, score_of
from soundbox_server.scoring.state import Component, Model, RiskBand, WarningSeverity, WarningType
from soundbox_server.scoring.warnings import sentence

router = APIRouter(tags=["merchants"])

SCALES = {"UMI": "Micro", "UKE": "Small", "UME": "Medium", "UBE": "Large"}
TYPES = {
    WarningType.REVENUE_DROP: "Revenue Drop", WarningType.REFUND_SPIKE: "Refund Spike",
    WarningType.SETTLEMENT_DELAY: "Settlement Delay", WarningType.TRANSACTION_DROP: "Transaction Drop",
    WarningType.SCORE_DROP: "Score Drop",
}  # fmt: skip
SILENT = "Silent Soundbox"
RECALCULATIONS = 10  # of one shop in an hour
COMPONENTS = {
    Component.VOLUME: "transactionVolume", Component.CONSISTENCY: "revenueConsistency",
    Component.GROWTH: "growthTrend", Component.REFUNDS: "refundRate", Component.SETTLEMENT: "settlementTime",
}  # fmt: skip
_SEVERITIES = {"info": WarningSeverity.LOW, "warning": WarningSeverity.MEDIUM, "critical": WarningSeverity.CRITICAL}
_SILENT = {
    "id": "Soundbox tidak bersuara sementara pembayaran terus masuk.",
    "en": "A soundbox says nothing while payments go on.",
}

Which = Annotated[Id | None, Query(alias="merchantId", description="where the organisation has several merchants")]


def _language(accept_language: str | None) -> str:
    """Indonesian, unless English is what the request names first."""
    return "en" if (accept_language or "").strip().lower().startswith("en") else "id"


Spoken = Annotated[str | None, Header(alias="accept-language", description="`en` for English, else Indonesian")]


class UserOfProfile(BaseModel):
    id: str | None
    email: str | None
    fullName: str | None  # noqa: N815
    companyName: str  # noqa: N815
    phoneNumber: str | None  # noqa: N815
    city: str | None
    address: str | None


class MerchantOfProfile(BaseModel):
    merchantId: str  # noqa: N815
    businessCategory: str | None  # noqa: N815
    businessScale: Literal["Micro", "Small", "Medium", "Large"] | None  # noqa: N815
    joinDate: AwareDatetime  # noqa: N815


class ProfileData(BaseModel):
    user: UserOfProfile
    merchant: MerchantOfProfile


class Profile(BaseModel):
    success: Literal[True]
    data: ProfileData


class PastScore(BaseModel):
    date: AwareDatetime
    score: int


class DashboardData(BaseModel):
    """Of the last 30 days in Jakarta, today among them; verified amounts, with cash beside them.

    Scores, limits and their history are for owners, and for keys that may read scores: null to all others.
    """

    merchantId: str  # noqa: N815
    companyName: str  # noqa: N815
    currentCreditScore: int | None  # noqa: N815
    riskBand: RiskBand | None  # noqa: N815
    estimatedMinLimit: int | None  # noqa: N815
    estimatedMaxLimit: int | None  # noqa: N815
    monthlyTransactionVolume: int  # noqa: N815
    monthlyCashVolume: int  # noqa: N815
    monthlyGrowth: float  # noqa: N815
    refundRate: float  # noqa: N815
    totalTransactions: int  # noqa: N815
    avgDailyTransaction: float  # noqa: N815
    scoreHistory: list[PastScore] | None  # noqa: N815


class Dashboard(BaseModel):
    success: Literal[True]
    data: DashboardData


class Advice(BaseModel):
    """Texts beside the answer's own, and whose they are: `ai`, written by a machine from the same figures, or
    `builtin`, the answer's own once more. Nothing is decided by them."""

    source: Literal["ai", "builtin"]
    writtenBy: str | None = Field(description="the model; null for built-in texts")  # noqa: N815
    writtenAt: AwareDatetime | None  # noqa: N815


class ScoreAdvice(Advice):
    explanation: str
    recommendation: str


class WarningAdvice(Advice):
    analysis: str


class TimingAdvice(Advice):
    reasoning: str


class ProductAdvice(Advice):
    performance_summary: str
    inventory_advice: str | None
    growth_opportunity: str | None


class WeighedComponent(BaseModel):
    score: int
    weight: int
    value: str = Field(description="what it was computed from, in words")
    advice: str = Field(description="what would raise it")


class Components(BaseModel):
    transactionVolume: WeighedComponent  # noqa: N815
    revenueConsistency: WeighedComponent  # noqa: N815
    growthTrend: WeighedComponent  # noqa: N815
    refundRate: WeighedComponent  # noqa: N815
    settlementTime: WeighedComponent  # noqa: N815


class CreditMetrics(BaseModel):
    avgMonthlyRevenue: int  # noqa: N815
    revenueVolatility: float  # noqa: N815
    growthPercentageMoM: float  # noqa: N815
    refundRatePercentage: float  # noqa: N815
    avgSettlementDays: float  # noqa: N815
    transactionCount3m: int  # noqa: N815


class CreditDetailData(BaseModel):
    score: int
    riskBand: RiskBand  # noqa: N815
    estimatedMinLimit: int  # noqa: N815
    estimatedMaxLimit: int  # noqa: N815
    components: Components
    metrics: CreditMetrics
    explanation: str
    recommendation: str
    model: Model
    version: int
    calculatedAt: AwareDatetime  # noqa: N815


class AdvisedCreditDetailData(CreditDetailData):
    advice: ScoreAdvice


class CreditDetail(BaseModel):
    success: Literal[True]
    data: CreditDetailData


class AdvisedCreditDetail(BaseModel):
    success: Literal[True]
    data: AdvisedCreditDetailData


class RecalculatedData(BaseModel):
    """Without enough history `creditScore` and `riskBand` are null, and `message` says what is missing."""

    creditScore: int | None  # noqa: N815
    riskBand: RiskBand | None  # noqa: N815
    calculatedAt: AwareDatetime  # noqa: N815


class Recalculated(BaseModel):
    success: Literal[True]
    message: str
    data: RecalculatedData


class LoanTimingData(BaseModel):
    recommended_week: int | None = Field(description="week of the month, 1 to 4; null where none is better")
    confidence: float = Field(ge=0, le=1)
    reasoning: str
    date_range: str | None = Field(examples=["2026-06-08 - 2026-06-14"])
    advice: TimingAdvice


class LoanTiming(BaseModel):
    success: Literal[True]
    data: LoanTimingData


class TrendingProduct(BaseModel):
    name: str
    reason: str


class ProductInsightsData(BaseModel):
    performance_summary: str
    top_trending_products: list[TrendingProduct]
    inventory_advice: str | None
    growth_opportunity: str | None
    confidence: float = Field(ge=0, le=1)
    advice: ProductAdvice


class ProductInsights(BaseModel):
    success: Literal[True]
    data: ProductInsightsData


class AlertRow(BaseModel):
    id: str
    type: Literal[
        "Revenue Drop", "Refund Spike", "Settlement Delay", "Transaction Drop", "Score Drop", "Silent Soundbox"
    ]
    severity: WarningSeverity
    metric: str
    currentValue: float | None  # noqa: N815
    detectedAt: AwareDatetime  # noqa: N815
    analysis: str


class AdvisedAlertRow(AlertRow):
    advice: WarningAdvice


class AlertsData(BaseModel):
    totalAlerts: int  # noqa: N815
    criticalCount: int  # noqa: N815
    mediumCount: int  # noqa: N815
    lowCount: int  # noqa: N815
    alerts: list[AlertRow]


class Alerts(BaseModel):
    success: Literal[True]
    data: AlertsData


class AdvisedAlertsData(AlertsData):
    alerts: list[AdvisedAlertRow]  # type: ignore[assignment]  # read only: a list of narrower rows is one of rows


class AdvisedAlerts(BaseModel):
    success: Literal[True]
    data: AdvisedAlertsData


def _may_see_scores(caller: Principal) -> bool:
    """What is said of a shop's credit is its owner's; whoever sells in it sees its trade."""
    return caller.role == "merchant_owner" and (caller.api_key_id is None or "scores:read" in caller.scopes)


async def _beside(
    request: Request, session: AsyncSession, merchant_id: str, facts: Facts | None, language: str, **builtin: str | None
) -> dict[str, Any]:
    """What a machine wrote of these figures, or else the built-in texts, marked as such."""
    written = await written_of(session, merchant_id, facts) if request.app.state.shows_advice else None
    if written is None:
        return {"source": "builtin", "writtenBy": None, "writtenAt": None, **builtin}
    return {
        "source": "ai", "writtenBy": written.model, "writtenAt": rfc3339(written.at_ms), **written.texts[language]
    }  # fmt: skip


async def _merchant(session: AsyncSession, caller: Principal, merchant_id: str | None) -> Merchant:
    """The organisation's merchant. Raises NotFound, also for another organisation's and for one that was erased, and
    Conflict where there are several and none is named."""
    theirs = Merchant.organisation_id == caller.organisation_id, Merchant.erased_at_ms.is_(None)
    query = select(Merchant).where(*theirs).order_by(Merchant.id).limit(2)
    if merchant_id is not None:
        query = query.where(Merchant.id == merchant_id)
    found = (await session.scalars(query)).all()
    if not found:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    if len(found) > 1:
        raise Conflict("This organisation has several merchants: say which merchantId.", field="merchantId")
    return found[0]


@router.get("/api/merchant/profile", responses={200: {"model": Profile}, **problems(NotFound, Conflict)})
async def get_profile(session: Reader, caller: Caller, merchant_id: Which = None) -> Response:
    """Who is asking, and the shop they sell for."""
    merchant = await _merchant(session, caller, merchant_id)
    organisation = await session.get_one(Organisation, merchant.organisation_id)
    person = None if caller.person_id is None else await session.get(Person, caller.person_id)
    address = await session.scalar(
        select(Outlet.address).where(Outlet.merchant_id == merchant.id)
        .order_by(Outlet.is_default.desc(), Outlet.id).limit(1)
    )  # fmt: skip
    data = {
        "user": {
            "id": person and person.id,
            "email": person and person.email,
            "fullName": person and person.name,
            "companyName": organisation.name,
            "phoneNumber": None,
            "city": merchant.city,
            "address": address,
        },
        "merchant": {
            "merchantId": merchant.id,
            "businessCategory": merchant.fee_category or merchant.mcc,
            "businessScale": SCALES.get(merchant.criteria or ""),
            "joinDate": rfc3339(merchant.created_at_ms),
        },
    }
    return answer({"success": True, "data": data})


@router.get("/api/merchant/dashboard", responses={200: {"model": Dashboard}, **problems(NotFound, Conflict)})
async def get_dashboard(request: Request, session: Reader, caller: Caller, merchant_id: Which = None) -> Response:
    """The shop's last 30 days, and where its score stands."""
    now_ms = clock.now_ms()
    merchant = await _merchant(session, caller, merchant_id)
    model: Model = request.app.state.scoring_model
    newest, shown = await looks.newest_score(session, merchant.id, model), _may_see_scores(caller)
    taken = await looks.takings(session, merchant.id, now_ms=now_ms)
    metrics = {} if newest is None else score_of(newest).metrics
    given = newest if shown else None
    data = {
        "merchantId": merchant.id,
        "companyName": merchant.brand_name,
        "currentCreditScore": given and given.score,
        "riskBand": given and given.risk_band,
        "estimatedMinLimit": given and given.min_limit_idr,
        "estimatedMaxLimit": given and given.max_limit_idr,
        "monthlyTransactionVolume": taken.verified_idr,
        "monthlyCashVolume": taken.cash_idr,
        "monthlyGrowth": metrics.get("growthPercentageMoM", 0.0),
        "refundRate": metrics.get("refundRatePercentage", 0.0),
        "totalTransactions": taken.payments_ever,
        "avgDailyTransaction": round(taken.payments / 30, 2),
        "scoreHistory": [
            {"date": rfc3339(at_ms), "score": past}
            for at_ms, past in await looks.history(session, merchant.id, model, now_ms=now_ms)
        ]
        if shown
        else None,
    }
    return answer({"success": True, "data": data})


@router.get(
    "/api/merchant/credit-detail", responses={200: {"model": AdvisedCreditDetail}, **problems(NotFound, Conflict)}
)
async def get_credit_detail(
    request: Request, session: Reader, caller: Caller, accept_language: Spoken = None, merchant_id: Which = None
) -> Response:
    """The newest score, what each component brings to it, and what would raise it. 404 while there is none."""
    merchant, language = await _merchant(session, caller, merchant_id), _language(accept_language)
    newest = await looks.newest_score(session, merchant.id, request.app.state.scoring_model)
    if newest is None:
        raise NotFound("There is no score yet.", merchant_id=merchant.id)
    if newest.score is None:
        raise NotFound(summary(score_of(newest), language), merchant_id=merchant.id)
    given = score_of(newest)
    detail = detail_of(newest, given, language)
    told = {"explanation": str(detail["explanation"]), "recommendation": str(detail["recommendation"])}
    advice = await _beside(request, session, merchant.id, of_score(given), language, **told)
    return answer({"success": True, "data": {**detail, "advice": advice}})


def detail_of(newest: CreditScore, given: Score, language: str) -> Mapping[str, object]:
    """A score with its reasons, in the reference's words."""
    explained = {
        COMPONENTS[Component(one["component"])]: {
            "score": one["points"],
            "weight": WEIGHTS[Component(one["component"])],
            "value": one["value"][language],
            "advice": one["advice"][language],
        }
        for one in reasons(given)
    }
    shown = CreditMetrics.model_validate(dict(given.metrics)).model_dump()
    return {
        "score": newest.score,
        "riskBand": newest.risk_band,
        "estimatedMinLimit": newest.min_limit_idr,
        "estimatedMaxLimit": newest.max_limit_idr,
        "components": explained,
        "metrics": shown,
        "explanation": summary(given, language),
        "recommendation": recommendation(given, language),
        "model": newest.model,
        "version": newest.version,
        "calculatedAt": rfc3339(newest.scored_at_ms),
    }


@router.post(
    "/api/merchant/recalculate",
    responses={200: {"model": Recalculated}, **problems(NotFound, Conflict, RateLimited)},
)
async def recalculate(
    request: Request,
    caller: Caller,
    actor: Acting,
    once: AskedOnce,
    accept_language: Spoken = None,
    merchant_id: Which = None,
) -> Response:
    """Score the shop as of now, at most ten times an hour. 404 without any transactions; with too few of them it says
    so instead of a score."""
    state, now_ms, trace_id = request.app.state, clock.now_ms(), request_id(request)
    async with reading(state.database) as session:
        merchant = await _merchant(session, caller, merchant_id)

    async def work(tx: Statements) -> Response:
        key = f"recalculate:{merchant.id}"
        limits.require(await limits.rate_limit(tx, key, limit=RECALCULATIONS, window_ms=limits.HOUR_MS, now_ms=now_ms))
        facts = await facts_of(tx, state.scoring_model, as_of_ms=now_ms, merchant_ids=[merchant.id])
        said = score(facts[merchant.id])
        if said.score is None and not await _has_transactions(tx, merchant.id):
            raise NotFound("There are no transactions to score.", merchant_id=merchant.id)
        await rescore(
            tx, facts, thresholds=state.warning_thresholds, desk=state.mail_desk, hearing=state.warning_hearing,
            as_of_ms=now_ms, trace_id=trace_id, now_ms=now_ms,
        )  # fmt: skip
        details = {"model": said.model.value, "score": said.score}
        await record(tx, actor, "score.recalculated", ("merchant", merchant.id), details=details)
        data = {
            "creditScore": said.score,
            "riskBand": said.risk_band and said.risk_band.value,
            "calculatedAt": rfc3339(now_ms),
        }
        return answer({"success": True, "message": summary(said, _language(accept_language)), "data": data})

    recalculated: Response = await state.database.write(lambda tx: once.answer(tx, lambda: work(tx)))
    return recalculated


async def _has_transactions(tx: Statements, merchant_id: str) -> bool:
    return bool(await tx.fetch("SELECT id FROM payment WHERE merchant_id = $1 LIMIT 1", merchant_id))


@router.get("/api/merchant/loan-timing", responses={200: {"model": LoanTiming}, **problems(NotFound, Conflict)})
async def get_loan_timing(
    request: Request, session: Reader, caller: Caller, accept_language: Spoken = None, merchant_id: Which = None
) -> Response:
    """The week of the month in which the shop earns most, from whole months; null where none stands out."""
    now_ms = clock.now_ms()
    merchant, language = await _merchant(session, caller, merchant_id), _language(accept_language)
    revenue = await looks.verified_by_day(session, merchant.id, now_ms=now_ms)
    timing = seasons.best_week(revenue, today=date.fromisoformat(jakarta_day(now_ms)))
    why = telling.why_then(timing, language)
    data = {
        "recommended_week": timing.week,
        "confidence": timing.confidence,
        "reasoning": why,
        "date_range": timing.begins and f"{timing.begins} - {timing.ends}",
        "advice": await _beside(request, session, merchant.id, of_timing(timing), language, reasoning=why),
    }
    return answer({"success": True, "data": data})


@router.get(
    "/api/merchant/product-insights", responses={200: {"model": ProductInsights}, **problems(NotFound, Conflict)}
)
async def get_product_insights(
    request: Request, session: Reader, caller: Caller, accept_language: Spoken = None, merchant_id: Which = None
) -> Response:
    """The five products most sold in three months, how they grow, and what to have in stock. What a machine wrote
    beside it is of the days up to yesterday."""
    merchant, language = await _merchant(session, caller, merchant_id), _language(accept_language)
    sold = await looks.sold(session, merchant.id, now_ms=clock.now_ms())
    found, (sales, _) = products.insights(sold), of_sales(sold)
    told = {
        "performance_summary": telling.performance(found, language),
        "inventory_advice": telling.stock_advice(found, language),
        "growth_opportunity": telling.opportunity(found, language),
    }
    data = told | {
        "top_trending_products": [
            {"name": one.name, "reason": telling.reason(one, language)} for one in found.products
        ],
        "confidence": found.confidence,
        "advice": await _beside(request, session, merchant.id, sales, language, **told),
    }
    return answer({"success": True, "data": data})


@router.get("/api/merchant/alerts", responses={200: {"model": AdvisedAlerts}, **problems(NotFound, Conflict)})
async def list_alerts(
    request: Request, session: Reader, caller: Caller, accept_language: Spoken = None, merchant_id: Which = None
) -> Response:
    """Early warnings that stand, newest first; boxes that fell silent while payments go on are among them. That a score
    fell is for whoever may see scores."""
    merchant, language = await _merchant(session, caller, merchant_id), _language(accept_language)
    standing = await looks.standing_warnings(session, merchant.id)
    if not _may_see_scores(caller):
        standing = [one for one in standing if one.type != WarningType.SCORE_DROP]
    rows = [
        await _advised(request, session, warning_row(one, language), merchant.id, of_warning(one), language)
        for one in standing
    ]
    rows += [
        await _advised(request, session, silent_row(one, language), merchant.id, None, language)
        for one in await looks.silent_boxes(session, merchant.id)
    ]
    return answer({"success": True, "data": counted(rows)})


async def _advised(
    request: Request, session: AsyncSession, row: dict[str, Any], merchant_id: str, facts: Facts | None, language: str
) -> dict[str, Any]:
    """A warning with what a machine wrote of it, if it did."""
    return row | {"advice": await _beside(request, session, merchant_id, facts, language, analysis=row["analysis"])}


def counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Warnings, newest first, with how many there are of each severity."""
    rows = sorted(rows, key=lambda one: str(one["detectedAt"]), reverse=True)
    counts = {level: sum(one["severity"] == level.value for one in rows) for level in WarningSeverity}
    return {
        "totalAlerts": len(rows),
        "criticalCount": counts[WarningSeverity.CRITICAL],
        "mediumCount": counts[WarningSeverity.MEDIUM],
        "lowCount": counts[WarningSeverity.LOW],
        "alerts": rows,
    }


def silent_row(one: Alert, language: str) -> dict[str, Any]:
    """A box that says nothing, as a warning."""
    return {
        "id": one.id,
        "type": SILENT,
        "severity": _SEVERITIES[one.severity].value,
        "metric": "silent_soundbox",
        "currentValue": None,
        "detectedAt": rfc3339(one.raised_at_ms),
        "analysis": _SILENT[language],
    }


def warning_row(one: EarlyWarning, language: str) -> dict[str, Any]:
    """An early warning in the reference's words."""
    value, threshold = one.value_hundredths / 100, one.threshold_hundredths / 100
    return {
        "id": one.id,
        "type": TYPES[WarningType(one.type)],
        "severity": one.severity,
        "metric": one.metric,
        "currentValue": value,
        "detectedAt": rfc3339(one.detected_at_ms),
        "analysis": sentence(WarningType(one.type), language, value=value, threshold=threshold),
    }
