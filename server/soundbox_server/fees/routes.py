"""What payments cost, as staff read it and finance agrees on it. Versions are added; what was agreed stays."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.access.auth import Acting, AskedOnce
from soundbox_server.answers import NotRequired, Time, TypedDict, answers, pages
from soundbox_server.audit.service import record
from soundbox_server.clock import rfc3339
from soundbox_server.db import statements
from soundbox_server.errors import Conflict, FeeRuleMissing, NotFound
from soundbox_server.fees import service
from soundbox_server.fees.models import FeeProfile, FeeVersion
from soundbox_server.fees.service import NewTerms
from soundbox_server.fees.state import FeeCategory
from soundbox_server.fees.terms import Rule, Tier, Window, read_rules, read_windows
from soundbox_server.fields import Body, Code, Day, Id, Name, Reason
from soundbox_server.http import Reader, Session, envelope, problems
from soundbox_server.paging import Listing, Page, Rows, page

router = APIRouter(tags=["operators"])

Bps = Annotated[int, Field(ge=0, le=10_000, description="basis points of the whole amount", examples=[70])]
Criteria = Annotated[str, StringConstraints(pattern=r"^(UMI|UKE|UME|UBE|URE)$")]
Category = Annotated[str, StringConstraints(pattern=f"^({'|'.join(FeeCategory)})$")]
Cutoff = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"), Field(examples=["23:59"])]


class NewTier(Body):
    """The last tier has no `max`."""

    bps: Bps
    max: Annotated[int | None, Field(ge=1, le=10_000_000, description="the largest amount it holds for")] = None


class NewRule(Body):
    """For the merchants, the categories or the criteria that it names, or for everybody: either `bps` or `tiers`."""

    merchant: Annotated[list[Id], Field(max_length=100)] = Field(default_factory=list)
    category: Annotated[list[Category], Field(max_length=7)] = Field(default_factory=list)
    criteria: Annotated[list[Criteria], Field(max_length=5, examples=[["UKE", "UME"]])] = Field(default_factory=list)
    bps: Bps | None = None
    tiers: Annotated[list[NewTier], Field(max_length=10)] = Field(default_factory=list)
    source: Annotated[Reason | None, Field(description="where it is agreed or ordered")] = None

    def rule(self) -> Rule:
        return Rule(
            merchant=tuple(self.merchant), category=tuple(self.category), criteria=tuple(self.criteria), bps=self.bps,
            tiers=tuple(Tier(tier.bps, tier.max) for tier in self.tiers), source=self.source,
        )  # fmt: skip


class NewWindow(Body):
    """What is paid up to the end of the cutoff's minute, in Jakarta, is settled so many business days later."""

    name: Annotated[Code, Field(examples=["daily"])]
    cutoff: Cutoff
    settle_after_days: Annotated[int, Field(ge=0, le=30, examples=[1])]


def _daily() -> list[NewWindow]:
    return [NewWindow(name="daily", cutoff="23:59", settle_after_days=1)]


class NewVersion(Body):
    effective_from: Annotated[Day, Field(description="from the beginning of this day in Jakarta")]
    rules: Annotated[list[NewRule], Field(min_length=1, max_length=200, examples=[[{"bps": 70}]])]
    windows: Annotated[list[NewWindow], Field(min_length=1, max_length=24)] = Field(default_factory=_daily)
    reason: Reason | None = None

    def terms(self) -> NewTerms:
        windows = [Window(one.name, one.cutoff, one.settle_after_days) for one in self.windows]
        return NewTerms(
            effective_from=self.effective_from, rules=[one.rule() for one in self.rules], windows=windows,
            reason=self.reason,
        )  # fmt: skip


class NewProfile(NewVersion):
    id: Annotated[Id | None, Field(examples=["fee_partners"])] = None
    name: Name
    refund_returns_fee: Annotated[bool, Field(description="whether a refund brings the fee back")] = False


class ProfileFilters(Page):
    pass


class TierView(TypedDict):
    bps: int
    max: NotRequired[int]


class RuleView(TypedDict):
    merchant: NotRequired[list[str]]
    category: NotRequired[list[str]]
    criteria: NotRequired[list[str]]
    bps: NotRequired[int]
    tiers: NotRequired[list[TierView]]
    source: NotRequired[str]


class WindowView(TypedDict):
    name: str
    cutoff: str
    settle_after_days: int


class FeeVersionView(TypedDict):
    version: int
    effective_from: str
    rules: list[RuleView]
    windows: list[WindowView]
    reason: str | None
    added_by: str | None
    created_at: Time


class FeeProfileView(TypedDict):
    id: str
    name: str
    version: int
    refund_returns_fee: bool
    created_at: Time


class WholeFeeProfileView(FeeProfileView):
    versions: list[FeeVersionView]


def _select(_asked: ProfileFilters) -> Rows:
    return select(FeeProfile)


def _profile(profile: FeeProfile) -> FeeProfileView:
    return {
        "id": profile.id,
        "name": profile.name,
        "version": profile.version,
        "refund_returns_fee": profile.refund_returns_fee,
        "created_at": rfc3339(profile.created_at_ms),
    }


def _version(version: FeeVersion) -> FeeVersionView:
    return {
        "version": version.version,
        "effective_from": version.effective_from,
        "rules": [_rule(rule) for rule in read_rules(version.rules)],
        "windows": [_window(window) for window in read_windows(version.windows)],
        "reason": version.reason,
        "added_by": version.added_by,
        "created_at": rfc3339(version.created_at_ms),
    }


def _rule(rule: Rule) -> RuleView:
    view: RuleView = {}
    if rule.merchant:
        view["merchant"] = list(rule.merchant)
    if rule.category:
        view["category"] = list(rule.category)
    if rule.criteria:
        view["criteria"] = list(rule.criteria)
    if rule.bps is not None:
        view["bps"] = rule.bps
    if rule.tiers:
        view["tiers"] = [_tier(tier) for tier in rule.tiers]
    if rule.source is not None:
        view["source"] = rule.source
    return view


def _tier(tier: Tier) -> TierView:
    return {"bps": tier.bps} if tier.max is None else {"bps": tier.bps, "max": tier.max}


def _window(window: Window) -> WindowView:
    return {"name": window.name, "cutoff": window.cutoff, "settle_after_days": window.settle_after_days}


FEE_PROFILES = Listing(asked=ProfileFilters, key=(FeeProfile.id,), select=_select, show=_profile, newest_first=False)


@router.get("/admin/fees/profiles", responses=pages(FeeProfileView))
async def list_fee_profiles(request: Request, session: Reader, asked: Annotated[ProfileFilters, Query()]) -> Response:
    """Fee profiles, by their ids."""
    return await page(request, session, FEE_PROFILES, asked)


@router.get("/admin/fees/profiles/{fee_profile_id}", responses=answers(WholeFeeProfileView) | problems(NotFound))
async def get_fee_profile(request: Request, fee_profile_id: Id, session: Reader) -> Response:
    """One profile with all its versions, the latest first: each holds from its day until the next one's."""
    profile = await session.get(FeeProfile, fee_profile_id)
    if profile is None:
        raise NotFound("No such fee profile.", fee_profile_id=fee_profile_id)
    return envelope(request, await _whole(session, profile))


async def _whole(session: AsyncSession, profile: FeeProfile) -> dict[str, Any]:
    versions = await session.scalars(
        select(FeeVersion).where(FeeVersion.fee_profile_id == profile.id).order_by(FeeVersion.version.desc())
    )
    return {**_profile(profile), "versions": [_version(version) for version in versions]}


@router.post(
    "/admin/fees/profiles", status_code=201, responses=answers(WholeFeeProfileView, status=201) | problems(Conflict)
)
async def add_fee_profile(
    request: Request, wanted: NewProfile, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """A profile with its first version. Merchants have it once an operator gives it to them."""

    async def add() -> Response:
        profile, _ = await service.add_profile(
            session, wanted.terms(), name=wanted.name, fee_profile_id=wanted.id,
            refund_returns_fee=wanted.refund_returns_fee, by=actor.id, now_ms=clock.now_ms(),
        )  # fmt: skip
        await record(
            await statements(session), actor, "fee_profile.added", ("fee_profile", profile.id),
            details={"name": profile.name, "effective_from": wanted.effective_from},
        )  # fmt: skip
        return envelope(request, await _whole(session, profile), status=201)

    return await once.answer(await statements(session), add)


@router.post(
    "/admin/fees/profiles/{fee_profile_id}/versions", status_code=201,
    responses=answers(WholeFeeProfileView, status=201) | problems(NotFound, FeeRuleMissing),
)  # fmt: skip
async def add_fee_version(
    request: Request, fee_profile_id: Id, wanted: NewVersion, session: Session, actor: Acting, once: AskedOnce
) -> Response:
    """Other rates or windows from a later day on. What is paid before that day keeps today's.

    409 FEE_RULE_MISSING names approved merchants that no rule would speak of.
    """

    async def add() -> Response:
        now_ms = clock.now_ms()
        profile, version = await service.add_version(
            session, fee_profile_id, wanted.terms(), by=actor.id, today=clock.jakarta_day(now_ms), now_ms=now_ms
        )
        await record(
            await statements(session), actor, "fee_profile.version_added", ("fee_profile", fee_profile_id),
            details={"version": version.version, "effective_from": version.effective_from, "reason": version.reason},
        )  # fmt: skip
        return envelope(request, await _whole(session, profile), status=201)

    return await once.answer(await statements(session), add)
