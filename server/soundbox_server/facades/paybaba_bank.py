"""Reference 000's bank doors: merchants with their scores, warnings, loan applications, and batches of assessments.

Its paths, its words, and its envelope `{success, message, data}`. Translation only. A bank sees the merchants that let
it and no others: whoever does not is as unknown as whoever is not there. Lists go by `limit` and `offset` as the
reference has it, or by `after`, which stays stable while merchants come and go.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.access.models import Person, PersonProfile
from soundbox_server.audit.service import Actor
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import statements
from soundbox_server.errors import Forbidden, NotFound
from soundbox_server.facades.paybaba_merchant import (
    SCALES,
    TYPES,
    Alerts,
    Components,
    CreditDetailData,
    CreditMetrics,
    PastScore,
    WeighedComponent,
    counted,
    detail_of,
    silent_row,
    warning_row,
)
from soundbox_server.fields import Id, Text
from soundbox_server.http import Reader, Session, answer, problems
from soundbox_server.lending import applications, seen
from soundbox_server.lending.applications import NewApplication
from soundbox_server.lending.listings import applications_at
from soundbox_server.lending.models import LoanApplication
from soundbox_server.lending.routes import MOST_IDR, note, shown_to_bank
from soundbox_server.lending.seen import Seen
from soundbox_server.lending.state import ConsentScope, LoanState, LookedAt, Side
from soundbox_server.merchants.models import Merchant, Outlet
from soundbox_server.scoring import looks
from soundbox_server.scoring.explanation import summary
from soundbox_server.scoring.models import EarlyWarning
from soundbox_server.scoring.service import score_of
from soundbox_server.scoring.state import RiskBand, WarningState, WarningType
from soundbox_server.scoring.thresholds import judged_for

router = APIRouter(prefix="/api/bank", tags=["banks"])

ELIGIBLE_FROM = 60  # of a score
MOST_AT_ONCE = 100
_HISTORY = 12
_MOST_WARNINGS = 100
Status = Literal["Draft", "Submitted", "Under Review", "Approved", "Rejected", "Disbursed", "Withdrawn"]
STATUS: Mapping[str, Status] = {
    LoanState.DRAFT: "Draft", LoanState.SUBMITTED: "Submitted", LoanState.UNDER_REVIEW: "Under Review",
    LoanState.APPROVED: "Approved", LoanState.REJECTED: "Rejected", LoanState.DISBURSED: "Disbursed",
    LoanState.WITHDRAWN: "Withdrawn",
}  # fmt: skip

MerchantId = Annotated[Id, Field(examples=["mer_demo"])]
Rupiah = Annotated[int, Field(strict=True, ge=1, le=MOST_IDR, examples=[25_000_000], description="whole rupiah")]
Spoken = Annotated[str | None, Header(alias="accept-language", description="`en` for English, else Indonesian")]


class _Body(BaseModel):
    """Fields that other systems' clients send besides are not looked at; false is no number."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Paged(BaseModel):
    model_config = ConfigDict(extra="ignore")

    limit: int = Field(50, ge=1, le=MOST_AT_ONCE, description="rows a page")
    offset: int = Field(0, ge=0, le=100_000)
    after: Id | None = Field(None, description="nextAfter of the page before; instead of offset")


class MerchantSearch(_Paged):
    """Bounds of the score leave out merchants without one."""

    model_config = ConfigDict(extra="ignore", strict=True)

    minCreditScore: int | None = Field(None, ge=0, le=100, examples=[60])  # noqa: N815
    maxCreditScore: int | None = Field(None, ge=0, le=100)  # noqa: N815
    riskBand: Literal["Low", "Medium", "High"] | None = None  # noqa: N815
    businessCategory: Annotated[Id | None, Field(examples=["5812"])] = None  # noqa: N815
    city: Annotated[str | None, Field(min_length=1, max_length=60, pattern=r"^[^\x00]*$")] = None
    minMonthlyRevenue: int | None = Field(None, ge=0, le=MOST_IDR)  # noqa: N815
    maxMonthlyRevenue: int | None = Field(None, ge=0, le=MOST_IDR)  # noqa: N815

    @property
    def search(self) -> seen.Search:
        return seen.Search(
            min_score=self.minCreditScore,
            max_score=self.maxCreditScore,
            risk_band=self.riskBand,
            category=self.businessCategory,
            city=self.city,
            min_revenue_idr=self.minMonthlyRevenue,
            max_revenue_idr=self.maxMonthlyRevenue,
        )


class BankMerchant(BaseModel):
    """Revenue, verified and of thirty days, is null where the merchant lets the bank see the score alone."""

    merchantId: str  # noqa: N815
    companyName: str  # noqa: N815
    city: str | None
    businessCategory: str | None  # noqa: N815
    businessScale: Literal["Micro", "Small", "Medium", "Large"] | None  # noqa: N815
    creditScore: int | None  # noqa: N815
    riskBand: RiskBand | None  # noqa: N815
    estimatedMaxLimit: int | None  # noqa: N815
    monthlyRevenue: int | None  # noqa: N815


class BankMerchantsData(BaseModel):
    count: int = Field(description="of this page")
    merchants: list[BankMerchant]
    nextAfter: str | None  # noqa: N815


class BankMerchants(BaseModel):
    success: Literal[True]
    data: BankMerchantsData


class BankCreditMetrics(CreditMetrics):
    """Takings are null where the merchant lets the bank see the score alone."""

    avgMonthlyRevenue: int | None  # type: ignore[assignment]  # noqa: N815  # read only
    growthPercentageMoM: float | None  # type: ignore[assignment]  # noqa: N815
    transactionCount3m: int | None  # type: ignore[assignment]  # noqa: N815


class ToldComponent(WeighedComponent):
    """Its value is null where that would tell takings, and the merchant lets the bank see the score alone."""

    value: str | None  # type: ignore[assignment]  # read only


class BankComponents(Components):
    transactionVolume: ToldComponent  # noqa: N815
    growthTrend: ToldComponent  # noqa: N815


_TAKINGS = ("avgMonthlyRevenue", "growthPercentageMoM", "transactionCount3m")
_TOLD_BY_TAKINGS = ("transactionVolume", "growthTrend")


class BankCreditDetailData(CreditDetailData):
    components: BankComponents
    metrics: BankCreditMetrics


class BankCreditDetail(BaseModel):
    success: Literal[True]
    data: BankCreditDetailData


class FinancialMetrics(BaseModel):
    revenue30d: int
    transactions30d: int
    avgMonthlyRevenue: int  # noqa: N815
    revenueGrowth: float  # noqa: N815
    refundRate: float  # noqa: N815
    avgSettlementDays: float  # noqa: N815


class LoanEligibility(BaseModel):
    estimatedMinLimit: int | None  # noqa: N815
    estimatedMaxLimit: int | None  # noqa: N815
    isEligible: bool  # noqa: N815
    canBorrow: bool  # noqa: N815


class BankProfileData(BankMerchant):
    ownerName: str | None  # noqa: N815
    email: str | None
    phoneNumber: str | None  # noqa: N815
    address: str | None
    joinDate: AwareDatetime  # noqa: N815
    consentUntil: AwareDatetime  # noqa: N815
    scoreHistory: list[PastScore] = Field(description="the twelve newest, newest first")  # noqa: N815
    financialMetrics: FinancialMetrics  # noqa: N815
    loanEligibility: LoanEligibility  # noqa: N815
    riskFlags: list[str] = Field(description="warnings that stand")  # noqa: N815


class BankProfile(BaseModel):
    success: Literal[True]
    data: BankProfileData


class PastWarning(BaseModel):
    id: str
    type: Literal["Revenue Drop", "Refund Spike", "Settlement Delay", "Transaction Drop", "Score Drop"]
    severity: Literal["Low", "Medium", "Critical"]
    status: Literal["Active", "Resolved"]
    metricName: str  # noqa: N815
    metricValue: float  # noqa: N815
    thresholdValue: float  # noqa: N815
    deviationPercentage: float  # noqa: N815
    detectedAt: AwareDatetime  # noqa: N815
    resolvedAt: AwareDatetime | None  # noqa: N815
    analysis: str


class PastWarningsData(BaseModel):
    count: int
    alerts: list[PastWarning]
    nextAfter: str | None  # noqa: N815


class PastWarnings(BaseModel):
    success: Literal[True]
    data: PastWarningsData


class WarningsAsked(BaseModel):
    model_config = ConfigDict(extra="ignore")

    resolved: bool | None = Field(None, description="those that ended, or those that stand; else both")
    limit: int = Field(50, ge=1, le=_MOST_WARNINGS)
    after: Id | None = Field(None, description="nextAfter of the page before")


class NewLoanApplication(_Body):
    """A draft, or handed in at once. A decision has doors of its own, for somebody else of the bank."""

    merchantId: MerchantId  # noqa: N815
    amount: Rupiah
    tenor: Annotated[int, Field(strict=True, ge=1, le=360, examples=[12], description="months")]
    bankId: Annotated[Id | None, Field(description="the caller's own, if any")] = None  # noqa: N815
    status: Literal["Draft", "Submitted"] = "Draft"
    purpose: Text | None = None
    recommendedAmount: Rupiah | None = None  # noqa: N815
    interestRate: Annotated[  # noqa: N815
        float | None, Field(ge=0, le=100, examples=[12.5], description="% a year, to two decimals")
    ] = None


class LoanApplicationRow(BaseModel):
    id: str
    merchantId: str  # noqa: N815
    bankId: str  # noqa: N815
    amount: int
    tenor: int
    purpose: str | None
    status: Status
    recommendedAmount: int | None  # noqa: N815
    interestRate: float | None  # noqa: N815
    creditScore: int | None  # noqa: N815
    riskBand: RiskBand | None  # noqa: N815
    scoreModel: str | None  # noqa: N815
    submittedAt: AwareDatetime | None  # noqa: N815
    decidedAt: AwareDatetime | None  # noqa: N815
    decisionReason: str | None  # noqa: N815
    approvedAmount: int | None  # noqa: N815
    disbursedAmount: int | None  # noqa: N815
    disbursementReference: str | None  # noqa: N815
    disbursedOn: str | None  # noqa: N815
    createdAt: AwareDatetime  # noqa: N815


class LoanApplicationsData(BaseModel):
    count: int
    applications: list[LoanApplicationRow]
    nextAfter: str | None  # noqa: N815


class LoanApplications(BaseModel):
    success: Literal[True]
    data: LoanApplicationsData


class OneLoanApplication(BaseModel):
    success: Literal[True]
    message: str
    data: LoanApplicationRow


class ApplicationsAsked(BaseModel):
    model_config = ConfigDict(extra="ignore")

    limit: int = Field(50, ge=1, le=MOST_AT_ONCE)
    after: Id | None = Field(None, description="nextAfter of the page before")


class BatchAsked(_Body):
    merchantIds: Annotated[  # noqa: N815
        list[Id], Field(min_length=1, max_length=MOST_AT_ONCE, examples=[["mer_demo", "mer_other"]])
    ]


class Assessment(BaseModel):
    """Of a merchant that is not found, which may not let the bank see it, nothing but `found` is told."""

    merchantId: str  # noqa: N815
    found: bool
    companyName: str | None  # noqa: N815
    creditScore: int | None  # noqa: N815
    riskBand: RiskBand | None  # noqa: N815
    estimatedMinLimit: int | None  # noqa: N815
    estimatedMaxLimit: int | None  # noqa: N815
    isEligible: bool | None  # noqa: N815
    calculatedAt: AwareDatetime | None  # noqa: N815


class AssessmentsData(BaseModel):
    count: int
    found: int
    results: list[Assessment]


class Assessments(BaseModel):
    success: Literal[True]
    data: AssessmentsData


@router.get("/merchants/all", responses={200: {"model": BankMerchants}})
async def list_merchants(
    request: Request, session: Reader, actor: Acting, asked: Annotated[_Paged, Query()]
) -> Response:
    """Merchants that let the bank see something, by id, each with its newest score and its verified revenue."""
    return await _merchants(request, session, actor, seen.Search(), asked)


@router.post("/merchants/search", responses={200: {"model": BankMerchants}})
async def search_merchants(request: Request, session: Reader, actor: Acting, asked: MerchantSearch) -> Response:
    """The same, of a score, a band, a category, a city or a revenue."""
    return await _merchants(request, session, actor, asked.search, asked)


async def _merchants(
    request: Request, session: AsyncSession, actor: Actor, search: seen.Search, asked: _Paged
) -> Response:
    found = await seen.search(
        session, str(actor.organisation_id), search, model=request.app.state.scoring_model, limit=asked.limit + 1,
        offset=0 if asked.after else asked.offset, after=asked.after, now_ms=clock.now_ms(),
    )  # fmt: skip
    rows = found[: asked.limit]
    ids = [one.merchant_id for one in rows]
    shown = await note(request, actor, ids, LookedAt.LIST, scope=ConsentScope.SCORE)
    merchants = [_as_let(_merchant(one), shown[one.merchant_id]) for one in rows if one.merchant_id in shown]
    after = ids[-1] if len(found) > asked.limit else None
    return answer({"success": True, "data": {"count": len(merchants), "merchants": merchants, "nextAfter": after}})


def _as_let(merchant: dict[str, Any], scope: ConsentScope) -> dict[str, Any]:
    """The consent may have become one to the score alone since the merchant was read."""
    return merchant if scope is ConsentScope.FULL else merchant | {"monthlyRevenue": None}


def _merchant(one: Seen) -> dict[str, Any]:
    return {
        "merchantId": one.merchant_id,
        "companyName": one.name,
        "city": one.city,
        "businessCategory": one.category,
        "businessScale": SCALES.get(one.criteria or ""),
        "creditScore": one.score,
        "riskBand": one.risk_band,
        "estimatedMaxLimit": one.max_limit_idr,
        "monthlyRevenue": one.revenue_idr,
    }


async def _one(request: Request, session: AsyncSession, actor: Actor, merchant_id: str, scope: ConsentScope) -> Seen:
    """Raises NotFound, also for whom the bank may not see so much of."""
    found = await seen.one(
        session, str(actor.organisation_id), merchant_id, scope=scope, model=request.app.state.scoring_model,
        now_ms=clock.now_ms(),
    )  # fmt: skip
    if found is None:
        raise _unknown(merchant_id)
    return found


def _unknown(merchant_id: str) -> NotFound:
    return NotFound("No such merchant.", merchant_id=merchant_id)


async def _shown(
    request: Request, actor: Actor, merchant_id: str, what: LookedAt, data: object, *, scope: ConsentScope
) -> Response:
    """The answer, once the look is committed. Raises NotFound where the consent ended meanwhile."""
    if not await note(request, actor, [merchant_id], what, scope=scope):
        raise _unknown(merchant_id)
    return answer({"success": True, "data": data})


@router.get("/merchants/{merchant_id}", responses={200: {"model": BankProfile}, **problems(NotFound)})
async def get_merchant(request: Request, merchant_id: Id, session: Reader, actor: Acting) -> Response:
    """Who they are, how they trade, and what they could borrow; for whom the bank may see everything of."""
    one = await _one(request, session, actor, merchant_id, ConsentScope.FULL)
    data = _merchant(one) | await _contact(session, merchant_id)
    data |= await _trade(session, one, model=request.app.state.scoring_model)
    warnings = await looks.standing_warnings(session, merchant_id, judged_for=await _judged_for(session, actor))
    data["riskFlags"] = [TYPES[WarningType(warning.type)] for warning in warnings]
    data["consentUntil"] = rfc3339(one.expires_at_ms)
    return await _shown(request, actor, merchant_id, LookedAt.PROFILE, data, scope=ConsentScope.FULL)


async def _contact(session: AsyncSession, merchant_id: str) -> dict[str, Any]:
    merchant = await session.get_one(Merchant, merchant_id)
    owner = (
        await session.execute(
            select(Person.name, Person.email, PersonProfile.phone_number)
            .outerjoin(PersonProfile, PersonProfile.person_id == Person.id)
            .where(Person.organisation_id == merchant.organisation_id)
            .where(Person.role == "merchant_owner", Person.state == "active")
            .order_by(Person.id).limit(1)
        )
    ).one_or_none()  # fmt: skip
    name, email, phone = owner or (None, None, None)
    address = await session.scalar(
        select(Outlet.address).where(Outlet.merchant_id == merchant_id)
        .order_by(Outlet.is_default.desc(), Outlet.id).limit(1)
    )  # fmt: skip
    return {
        "ownerName": name,
        "email": email or merchant.owner_email,
        "phoneNumber": phone,
        "address": address,
        "joinDate": rfc3339(merchant.created_at_ms),
    }


async def _trade(session: AsyncSession, one: Seen, *, model: Any) -> dict[str, Any]:
    now_ms = clock.now_ms()
    newest = await looks.newest_score(session, one.merchant_id, model)
    taken = await looks.takings(session, one.merchant_id, now_ms=now_ms)
    past = await looks.history(session, one.merchant_id, model, now_ms=now_ms)
    metrics: Mapping[str, Any] = {} if newest is None else score_of(newest).metrics
    return {
        "scoreHistory": [{"date": rfc3339(at_ms), "score": given} for at_ms, given in past[::-1][:_HISTORY]],
        "financialMetrics": {
            "revenue30d": taken.verified_idr,
            "transactions30d": taken.payments,
            "avgMonthlyRevenue": metrics.get("avgMonthlyRevenue", 0),
            "revenueGrowth": metrics.get("growthPercentageMoM", 0.0),
            "refundRate": metrics.get("refundRatePercentage", 0.0),
            "avgSettlementDays": metrics.get("avgSettlementDays", 0.0),
        },
        "loanEligibility": {
            "estimatedMinLimit": one.min_limit_idr,
            "estimatedMaxLimit": one.max_limit_idr,
            "isEligible": _is_eligible(one),
            "canBorrow": taken.verified_idr > 0,
        },
    }


def _is_eligible(one: Seen) -> bool:
    return one.score is not None and one.score >= ELIGIBLE_FROM


@router.get("/merchants/{merchant_id}/credit", responses={200: {"model": BankCreditDetail}, **problems(NotFound)})
async def get_credit(
    request: Request, merchant_id: Id, session: Reader, actor: Acting, accept_language: Spoken = None
) -> Response:
    """The newest score, what each component brings to it, and what would raise it. 404 while there is none.

    What was taken is null where the merchant lets the bank see the score alone, and so is what a component was computed
    from where that would tell it."""
    await _one(request, session, actor, merchant_id, ConsentScope.SCORE)
    newest = await looks.newest_score(session, merchant_id, request.app.state.scoring_model)
    shown = await note(request, actor, [merchant_id], LookedAt.CREDIT, scope=ConsentScope.SCORE)
    if merchant_id not in shown:
        raise _unknown(merchant_id)
    everything = shown[merchant_id] is ConsentScope.FULL
    if newest is None or newest.score is None:
        told = newest is not None and everything  # why there is none tells how they trade
        why = summary(score_of(newest), _language(accept_language)) if newest and told else "There is no score yet."
        raise NotFound(why, merchant_id=merchant_id)
    data = dict(detail_of(newest, score_of(newest), _language(accept_language)))
    if not everything:
        _leave_out_takings(data)
    return answer({"success": True, "data": data})


def _leave_out_takings(detail: dict[str, Any]) -> None:
    components, metrics = detail["components"], detail["metrics"]
    detail["components"] = components | {name: components[name] | {"value": None} for name in _TOLD_BY_TAKINGS}
    detail["metrics"] = metrics | dict.fromkeys(_TAKINGS)


def _language(accept_language: str | None) -> str:
    return "en" if (accept_language or "").strip().lower().startswith("en") else "id"


@router.get("/merchants/{merchant_id}/alerts", responses={200: {"model": Alerts}, **problems(NotFound)})
async def list_standing_alerts(
    request: Request, merchant_id: Id, session: Reader, actor: Acting, accept_language: Spoken = None
) -> Response:
    """Early warnings that stand, newest first; boxes that fell silent while payments go on are among them."""
    await _one(request, session, actor, merchant_id, ConsentScope.FULL)
    language = _language(accept_language)
    standing = await looks.standing_warnings(session, merchant_id, judged_for=await _judged_for(session, actor))
    rows = [warning_row(one, language) for one in standing]
    rows += [silent_row(one, language) for one in await looks.silent_boxes(session, merchant_id)]
    return await _shown(request, actor, merchant_id, LookedAt.ALERTS, counted(rows), scope=ConsentScope.FULL)


@router.get("/alerts/{merchant_id}", responses={200: {"model": PastWarnings}, **problems(NotFound)})
async def list_alerts(
    request: Request,
    merchant_id: Id,
    session: Reader,
    actor: Acting,
    asked: Annotated[WarningsAsked, Query()],
    accept_language: Spoken = None,
) -> Response:
    """Early warnings of a merchant, newest first, also those that ended."""
    await _one(request, session, actor, merchant_id, ConsentScope.FULL)
    query = select(EarlyWarning).where(
        EarlyWarning.merchant_id == merchant_id, EarlyWarning.judged_for == await _judged_for(session, actor)
    )
    if asked.resolved is not None:
        wanted = WarningState.RESOLVED if asked.resolved else WarningState.OPEN
        query = query.where(EarlyWarning.state == wanted.value)
    if asked.after is not None:
        query = query.where(EarlyWarning.id < asked.after)
    found = (await session.scalars(query.order_by(EarlyWarning.id.desc()).limit(asked.limit + 1))).all()
    rows = [_past_warning(one, _language(accept_language)) for one in found[: asked.limit]]
    after = rows[-1]["id"] if len(found) > asked.limit else None
    data = {"count": len(rows), "alerts": rows, "nextAfter": after}
    return await _shown(request, actor, merchant_id, LookedAt.ALERTS, data, scope=ConsentScope.FULL)


async def _judged_for(session: AsyncSession, actor: Actor) -> str:
    """By whose thresholds this bank sees warnings."""
    assert actor.organisation_id is not None
    return await judged_for(await statements(session), actor.organisation_id)


def _past_warning(one: EarlyWarning, language: str) -> dict[str, Any]:
    told = warning_row(one, language)
    return {
        "id": one.id,
        "type": told["type"],
        "severity": one.severity,
        "status": "Resolved" if one.state == WarningState.RESOLVED else "Active",
        "metricName": one.metric,
        "metricValue": one.value_hundredths / 100,
        "thresholdValue": one.threshold_hundredths / 100,
        "deviationPercentage": one.deviation_hundredths / 100,
        "detectedAt": told["detectedAt"],
        "resolvedAt": rfc3339_or_none(one.resolved_at_ms),
        "analysis": told["analysis"],
    }


@router.get("/loan-applications/{merchant_id}", responses={200: {"model": LoanApplications}, **problems(NotFound)})
async def list_loan_applications(
    request: Request, merchant_id: Id, session: Reader, actor: Acting, asked: Annotated[ApplicationsAsked, Query()]
) -> Response:
    """A merchant's loan applications at this bank, newest first."""
    await _one(request, session, actor, merchant_id, ConsentScope.FULL)
    theirs = applications_at(str(actor.organisation_id), now_ms=clock.now_ms())
    query = select(LoanApplication).where(LoanApplication.merchant_id == merchant_id, *theirs)
    if asked.after is not None:
        query = query.where(LoanApplication.id < asked.after)
    found = (await session.scalars(query.order_by(LoanApplication.id.desc()).limit(asked.limit + 1))).all()
    rows = [_application(one) for one in found[: asked.limit]]
    after = rows[-1]["id"] if len(found) > asked.limit else None
    data = {"count": len(rows), "applications": rows, "nextAfter": after}
    return await _shown(request, actor, merchant_id, LookedAt.APPLICATIONS, data, scope=ConsentScope.FULL)


@router.post(
    "/loan-applications",
    status_code=201,
    responses={201: {"model": OneLoanApplication}, **problems(NotFound, Forbidden)},
)
async def make_loan_application(
    request: Request, asked: NewLoanApplication, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """An application on a merchant's behalf, with its score as it is now once it is handed in."""
    now_ms, tx, bank_id = clock.now_ms(), await statements(session), str(actor.organisation_id)
    if asked.bankId not in (None, bank_id):
        raise Forbidden("An application is made at one's own bank.")
    rate = asked.interestRate
    new = NewApplication(
        merchant_id=asked.merchantId, bank_id=bank_id, amount_idr=asked.amount, tenor_months=asked.tenor,
        purpose=asked.purpose, recommended_amount_idr=asked.recommendedAmount,
        interest_bps=None if rate is None else round(rate * 100),
    )  # fmt: skip

    async def deed() -> Response:
        model = request.app.state.scoring_model
        made = await applications.make(tx, new, side=Side.BANK, actor=actor, now_ms=now_ms)
        if asked.status == "Submitted":
            await applications.submit(tx, made, side=Side.BANK, model=model, actor=actor, now_ms=now_ms)
        await shown_to_bank(session, made, actor, now_ms=now_ms)
        row = _application(await session.get_one(LoanApplication, made))
        return answer({"success": True, "message": "Pengajuan pinjaman berhasil dibuat", "data": row}, 201)

    return await once.answer(tx, deed)


def _application(row: LoanApplication) -> dict[str, Any]:
    return {
        "id": row.id,
        "merchantId": row.merchant_id,
        "bankId": row.organisation_id,
        "amount": row.amount_idr,
        "tenor": row.tenor_months,
        "purpose": row.purpose,
        "status": STATUS[row.state],
        "recommendedAmount": row.recommended_amount_idr,
        "interestRate": None if row.interest_bps is None else row.interest_bps / 100,
        "creditScore": row.score,
        "riskBand": row.risk_band,
        "scoreModel": row.score_model,
        "submittedAt": rfc3339_or_none(row.submitted_at_ms),
        "decidedAt": rfc3339_or_none(row.decided_at_ms),
        "decisionReason": row.decision_reason,
        "approvedAmount": row.approved_amount_idr,
        "disbursedAmount": row.disbursed_amount_idr,
        "disbursementReference": row.disbursement_reference,
        "disbursedOn": row.disbursed_on,
        "createdAt": rfc3339(row.created_at_ms),
    }


@router.post("/batch-assessment", responses={200: {"model": Assessments}})
async def assess_batch(request: Request, session: Reader, actor: Acting, asked: BatchAsked) -> Response:
    """The newest score of each of up to a hundred merchants, in the order they were asked for, each once."""
    ids = list(dict.fromkeys(asked.merchantIds))
    found = await seen.search(
        session, str(actor.organisation_id), seen.Search(merchant_ids=ids),
        model=request.app.state.scoring_model, limit=len(ids), now_ms=clock.now_ms(),
    )  # fmt: skip
    shown = await note(
        request, actor, [one.merchant_id for one in found], LookedAt.ASSESSMENT, scope=ConsentScope.SCORE
    )
    return answer({"success": True, "data": _assessments(ids, [one for one in found if one.merchant_id in shown])})


def _assessments(ids: Sequence[str], found: Sequence[Seen]) -> dict[str, Any]:
    by_id = {one.merchant_id: one for one in found}
    results = [_assessment(merchant_id, by_id.get(merchant_id)) for merchant_id in ids]
    return {"count": len(results), "found": len(by_id), "results": results}


def _assessment(merchant_id: str, one: Seen | None) -> dict[str, Any]:
    return {
        "merchantId": merchant_id,
        "found": one is not None,
        "companyName": one and one.name,
        "creditScore": one and one.score,
        "riskBand": one and one.risk_band,
        "estimatedMinLimit": one and one.min_limit_idr,
        "estimatedMaxLimit": one and one.max_limit_idr,
        "isEligible": None if one is None else _is_eligible(one),
        "calculatedAt": None if one is None else rfc3339_or_none(one.scored_at_ms),
    }
