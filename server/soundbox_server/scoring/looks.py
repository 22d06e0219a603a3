"""What merchants' doors show: the newest score, its history, the sums of thirty days, and what seasons and products are
told from. Sums come from what is kept by day, in Jakarta."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson
from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.alerts.models import Alert
from soundbox_server.clock import DAY_MS, jakarta_day
from soundbox_server.devices.models import DeviceBinding
from soundbox_server.payments.models import Payment
from soundbox_server.pos.models import Sale
from soundbox_server.revenue.models import DailyRevenue
from soundbox_server.revenue.service import CASH, NOBODYS
from soundbox_server.scoring.facts import jakarta_number, number
from soundbox_server.scoring.models import CreditScore, EarlyWarning
from soundbox_server.scoring.products import WINDOW_DAYS, Sold
from soundbox_server.scoring.seasons import LOOKS_BACK_DAYS
from soundbox_server.scoring.state import PLATFORM, Model, WarningState

SILENT = ("device.silent_speaker",)  # what tells that a box says nothing of payments that go on
_HISTORY_DAYS = 365
_MOST_SALES = 20_000
_PERIOD_DAYS = 30
_KEPT = ("paid", "partially_refunded", "disputed")


async def newest_score(session: AsyncSession, merchant_id: str, model: Model) -> CreditScore | None:
    """The newest word of a model, which may be that there is not enough history."""
    found: CreditScore | None = await session.scalar(
        select(CreditScore).where(CreditScore.merchant_id == merchant_id, CreditScore.model == model.value)
        .order_by(CreditScore.scored_at_ms.desc()).limit(1)
    )  # fmt: skip
    return found


async def history(session: AsyncSession, merchant_id: str, model: Model, *, now_ms: int) -> Sequence[tuple[int, int]]:
    """When, and which score: of a year, oldest first."""
    rows = await session.execute(
        select(CreditScore.scored_at_ms, CreditScore.score)
        .where(CreditScore.merchant_id == merchant_id, CreditScore.model == model.value)
        .where(CreditScore.score.is_not(None), CreditScore.scored_at_ms > now_ms - _HISTORY_DAYS * DAY_MS)
        .order_by(CreditScore.scored_at_ms)
    )
    return [(at_ms, score) for at_ms, score in rows if score is not None]


@dataclass(frozen=True, kw_only=True)
class Takings:
    """Thirty days up to today, and all payments that there ever were."""

    payments: int
    verified_idr: int
    cash_idr: int
    payments_ever: int


async def takings(session: AsyncSession, merchant_id: str, *, now_ms: int) -> Takings:
    first = jakarta_day(now_ms - (_PERIOD_DAYS - 1) * DAY_MS)
    lately, is_cash = DailyRevenue.day >= first, DailyRevenue.provider == CASH
    is_verified = DailyRevenue.provider.not_in(NOBODYS)
    rows = await session.execute(
        select(
            func.sum(case((lately, DailyRevenue.payments), else_=0)),
            func.sum(case((lately & is_verified, DailyRevenue.gross_amount), else_=0)),
            func.sum(case((lately & is_cash, DailyRevenue.gross_amount), else_=0)),
            func.sum(DailyRevenue.payments),
        ).where(DailyRevenue.merchant_id == merchant_id)
    )
    payments, verified, cash, ever = (int(one or 0) for one in rows.one())
    return Takings(payments=payments, verified_idr=verified, cash_idr=cash, payments_ever=ever)


async def standing_warnings(
    session: AsyncSession, merchant_id: str, *, judged_for: str = PLATFORM
) -> Sequence[EarlyWarning]:
    """Newest first; by the platform's thresholds, or by those of a bank (`thresholds.judged_for`)."""
    rows = await session.scalars(
        select(EarlyWarning)
        .where(EarlyWarning.merchant_id == merchant_id, EarlyWarning.judged_for == judged_for)
        .where(EarlyWarning.state == WarningState.OPEN.value)
        .order_by(EarlyWarning.id.desc())
    )
    return rows.all()


async def silent_boxes(session: AsyncSession, merchant_id: str) -> Sequence[Alert]:
    """Standing alerts of the merchant's boxes that say nothing while payments go on; newest first."""
    rows = await session.scalars(
        select(Alert).join(DeviceBinding, DeviceBinding.device_id == Alert.subject_id)
        .where(DeviceBinding.merchant_id == merchant_id, DeviceBinding.unbound_at_ms.is_(None))
        .where(Alert.subject_kind == "device", Alert.kind.in_(SILENT), Alert.state != "resolved")
        .order_by(Alert.id.desc())
    )  # fmt: skip
    return rows.all()


async def verified_by_day(session: AsyncSession, merchant_id: str, *, now_ms: int) -> dict[int, int]:
    """What providers confirmed, by the number of the day since 1970: as far back as seasons look."""
    rows = await session.execute(
        select(DailyRevenue.day, func.sum(DailyRevenue.gross_amount))
        .where(DailyRevenue.merchant_id == merchant_id, DailyRevenue.provider.not_in(NOBODYS))
        .where(DailyRevenue.day >= jakarta_day(now_ms - LOOKS_BACK_DAYS * DAY_MS))
        .group_by(DailyRevenue.day)
    )
    return {number(date.fromisoformat(day)): int(idr) for day, idr in rows}


async def sold(session: AsyncSession, merchant_id: str, *, now_ms: int) -> list[Sold]:
    """What was sold in the sales of three months that name their products: of the newest 20,000."""
    rows = await session.execute(
        select(Sale.items, Sale.product_name, Payment.paid_at_ms)
        .join(Payment, (Payment.merchant_id == Sale.merchant_id) & (Payment.order_code == Sale.order_code))
        .where(Payment.merchant_id == merchant_id, Payment.paid_at_ms > now_ms - WINDOW_DAYS * DAY_MS)
        .where(Payment.state.in_(_KEPT))
        .order_by(Payment.id.desc())
        .limit(_MOST_SALES)
    )
    today = jakarta_number(now_ms)
    return [
        Sold(name=name, pieces=pieces, days_ago=today - jakarta_number(paid_at_ms))
        for items, product_name, paid_at_ms in rows
        if paid_at_ms is not None
        for name, pieces in _lines(orjson.loads(items), product_name)
    ]


def _lines(items: Any, product_name: str | None) -> list[tuple[str, int]]:
    """Name and pieces of each line, however the caller wrote it; a sale without lines is one of its product."""
    lines = [
        (line["name"].strip(), line["quantity"] if isinstance(line.get("quantity"), int) else 1)
        for line in (items if isinstance(items, list) else [])
        if isinstance(line, dict) and isinstance(line.get("name"), str) and line["name"].strip()
    ]
    if not lines and product_name:
        lines = [(product_name, 1)]
    return [(name, pieces) for name, pieces in lines if pieces > 0]
