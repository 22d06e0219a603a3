"""What a bank sees: the merchants that let it, each with its newest score and its takings. One statement a page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from soundbox_server.clock import DAY_MS, jakarta_day
from soundbox_server.lending.models import BankConsent
from soundbox_server.lending.state import ConsentScope
from soundbox_server.merchants.models import Merchant
from soundbox_server.paging import Rows, beginning
from soundbox_server.revenue.models import DailyRevenue
from soundbox_server.revenue.service import NOBODYS
from soundbox_server.scoring.models import CreditScore
from soundbox_server.scoring.state import Model

REVENUE_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class Search:
    """None asks for nothing. Whoever asks for a score or revenue means merchants that have one to show."""

    min_score: int | None = None
    max_score: int | None = None
    risk_band: str | None = None
    category: str | None = None  # the fee category, or the merchant category code where there is none
    city: str | None = None  # whatever the case
    name: str | None = None  # how the shop's name begins
    min_revenue_idr: int | None = None
    max_revenue_idr: int | None = None
    merchant_ids: Sequence[str] | None = None
    scope: ConsentScope = ConsentScope.SCORE


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One merchant as a bank sees it. `revenue_idr`, of thirty days and verified, is None where the merchant lets it
    see no more than the score; the score is None where there is not enough history."""

    merchant_id: str
    name: str
    city: str | None
    category: str | None
    criteria: str | None
    scope: ConsentScope
    granted_at_ms: int
    expires_at_ms: int
    score: int | None
    risk_band: str | None
    min_limit_idr: int | None
    max_limit_idr: int | None
    scored_at_ms: int | None
    revenue_idr: int | None


_category = func.coalesce(Merchant.fee_category, Merchant.mcc)


def merchants_seen(bank_id: str, search: Search, *, model: Model, now_ms: int) -> Rows:
    """Rows for `seen_of`. Order them by `BankConsent.merchant_id`."""
    newest = aliased(CreditScore)
    newest_at = (
        select(func.max(newest.scored_at_ms))
        .where(newest.merchant_id == BankConsent.merchant_id, newest.model == model.value)
        .correlate(BankConsent).scalar_subquery()
    )  # fmt: skip
    query: Rows = (
        select(
            BankConsent.merchant_id, Merchant.brand_name, Merchant.city, _category, Merchant.criteria,
            BankConsent.scope, BankConsent.granted_at_ms, BankConsent.expires_at_ms,
            CreditScore.score, CreditScore.risk_band, CreditScore.min_limit_idr, CreditScore.max_limit_idr,
            CreditScore.scored_at_ms, _revenue(now_ms),
        )
        .join(Merchant, Merchant.id == BankConsent.merchant_id)
        .outerjoin(
            CreditScore,
            (CreditScore.merchant_id == BankConsent.merchant_id) & (CreditScore.model == model.value)
            & (CreditScore.scored_at_ms == newest_at),
        )
        .where(BankConsent.organisation_id == bank_id, *holds(now_ms))
    )  # fmt: skip
    return query.where(*_conditions(search, now_ms))


def holds(now_ms: int) -> tuple[ColumnElement[bool], ...]:
    """That a consent holds at this moment."""
    return BankConsent.withdrawn_at_ms.is_(None), BankConsent.expires_at_ms > now_ms


def _revenue(now_ms: int) -> ColumnElement[int]:
    taken = (
        select(func.coalesce(func.sum(DailyRevenue.gross_amount), 0))
        .where(DailyRevenue.merchant_id == BankConsent.merchant_id, *_verified_lately(now_ms))
        .correlate(BankConsent).scalar_subquery()
    )  # fmt: skip
    return case((BankConsent.scope == ConsentScope.FULL.value, taken))


def _verified_lately(now_ms: int) -> tuple[ColumnElement[bool], ...]:
    first = jakarta_day(now_ms - (REVENUE_DAYS - 1) * DAY_MS)
    return DailyRevenue.day >= first, DailyRevenue.provider.not_in(NOBODYS)


def _earning(now_ms: int, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Merchants whose revenue is so, summed up in one pass whatever else is asked."""
    found = (
        select(DailyRevenue.merchant_id).where(*_verified_lately(now_ms))
        .group_by(DailyRevenue.merchant_id).having(condition)
    )  # fmt: skip
    return BankConsent.merchant_id.in_(found)


_gross = func.sum(DailyRevenue.gross_amount)


def _conditions(search: Search, now_ms: int) -> list[ColumnElement[bool]]:
    asked: Mapping[str, Callable[[Any], ColumnElement[bool]]] = {
        "min_score": lambda score: CreditScore.score >= score,
        "max_score": lambda score: CreditScore.score <= score,
        "risk_band": lambda band: CreditScore.risk_band == band,
        "category": lambda category: _category == category,
        "city": lambda city: func.lower(Merchant.city) == city.lower(),
        "name": lambda name: beginning(Merchant.brand_name, name),
        # Who took nothing is in no sum.
        "min_revenue_idr": lambda idr: _earning(now_ms, _gross >= idr) if idr > 0 else true(),
        "max_revenue_idr": lambda idr: ~_earning(now_ms, _gross > idr),
        "merchant_ids": BankConsent.merchant_id.in_,
    }
    wanted = {name: getattr(search, name) for name in asked}
    conditions = [asked[name](value) for name, value in wanted.items() if value is not None]
    by_revenue = search.min_revenue_idr is not None or search.max_revenue_idr is not None
    if search.scope is ConsentScope.FULL or by_revenue:
        conditions.append(BankConsent.scope == ConsentScope.FULL.value)
    return conditions


def seen_of(*row: Any) -> Seen:
    """A row of `merchants_seen`."""
    (
        merchant_id, name, city, category, criteria, scope, granted_at_ms, expires_at_ms, score, band, least, most,
        scored_at_ms, revenue,
    ) = row  # fmt: skip
    return Seen(
        merchant_id=merchant_id, name=name, city=city, category=category, criteria=criteria,
        scope=ConsentScope(scope), granted_at_ms=granted_at_ms, expires_at_ms=expires_at_ms, score=score,
        risk_band=band, min_limit_idr=least, max_limit_idr=most, scored_at_ms=scored_at_ms,
        revenue_idr=None if revenue is None else int(revenue),
    )  # fmt: skip


async def search(
    session: AsyncSession,
    bank_id: str,
    wanted: Search,
    *,
    model: Model,
    limit: int,
    offset: int = 0,
    after: str | None = None,
    now_ms: int,
) -> list[Seen]:
    """By merchant id; `after` is the last one of the page before."""
    query = merchants_seen(bank_id, wanted, model=model, now_ms=now_ms)
    if after is not None:
        query = query.where(BankConsent.merchant_id > after)
    rows = await session.execute(query.order_by(BankConsent.merchant_id).limit(limit).offset(offset))
    return [seen_of(*row) for row in rows]


async def one(
    session: AsyncSession, bank_id: str, merchant_id: str, *, scope: ConsentScope, model: Model, now_ms: int
) -> Seen | None:
    """None for whom there is not, and for who does not let this bank see so much: it cannot tell them apart."""
    wanted = Search(merchant_ids=[merchant_id], scope=scope)
    found = await search(session, bank_id, wanted, model=model, limit=1, now_ms=now_ms)
    return found[0] if found else None
