"""What a merchant took: read from the sums that are kept by day, never from the payments themselves."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

from sqlalchemy import BigInteger, Select, and_, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.answers import Time, TypedDict
from soundbox_server.clock import jakarta_day, rfc3339
from soundbox_server.devices.models import DeviceBinding, DevicePresence
from soundbox_server.merchants.models import Outlet, Terminal
from soundbox_server.revenue.models import DailyRevenue
from soundbox_server.revenue.service import CASH, SUMS
from soundbox_server.settlements.listings import SettlementView, settlement_view
from soundbox_server.settlements.models import Settlement
from soundbox_server.settlements.state import SettlementState


class TakingsView(TypedDict):
    """Whole rupiah. `net_amount` is what stays the merchant's of all that; `cash_amount` is the part of the gross that
    lies in the drawer, and `wallet_amount` the part that went to a wallet: neither is settled."""

    payments: int
    gross_amount: int
    cash_amount: int
    wallet_amount: int
    fee_amount: int
    fee_returned: int
    refunds: int
    refunded_amount: int
    reversals: int
    reversed_amount: int
    net_amount: int


class DayView(TakingsView):
    day: str


class OutletTakingsView(TakingsView):
    outlet_id: str
    name: str


class BoxesView(TypedDict):
    bound: int
    online: int
    offline: int


class PayoutsView(TypedDict):
    """`waiting_amount` was settled and is not paid out yet."""

    waiting: int
    waiting_amount: int
    last: SettlementView | None


class SummaryView(TypedDict):
    as_of: Time
    timezone: str
    currency: str
    day: str
    today: TakingsView
    yesterday: TakingsView
    month: TakingsView
    period: TakingsView
    days: list[DayView]
    outlets: list[OutletTakingsView]
    devices: BoxesView
    settlements: PayoutsView


Sums = dict[str, int]
_CASH = "cash_amount"
_COLUMNS = (*SUMS, _CASH)


async def summary(
    session: AsyncSession, merchants: Sequence[str], *, outlet_id: str | None, days: int, now_ms: int
) -> SummaryView:
    """The takings of these merchants, or of one of their outlets, on the last `days` days in Jakarta, today among
    them."""
    today = date.fromisoformat(jakarta_day(now_ms))
    first = today - timedelta(days=days - 1)
    from_day = min(first, today.replace(day=1), today - timedelta(days=1))
    kept = await _by_day(session, merchants, outlet_id, from_day=from_day, to_day=today)
    period = [(first + timedelta(days=n)).isoformat() for n in range(days)]
    return {
        "as_of": rfc3339(now_ms),
        "timezone": "Asia/Jakarta",
        "currency": "IDR",
        "day": today.isoformat(),
        "today": _takings(kept, [today.isoformat()]),
        "yesterday": _takings(kept, [(today - timedelta(days=1)).isoformat()]),
        "month": _takings(kept, [day for day in kept if day >= today.replace(day=1).isoformat()]),
        "period": _takings(kept, period),
        "days": [{"day": day, **_takings(kept, [day])} for day in period],
        "outlets": await _by_outlet(session, merchants, outlet_id, from_day=first, to_day=today),
        "devices": await _boxes(session, merchants, outlet_id),
        "settlements": await _payouts(session, merchants),
    }


def _takings(kept: dict[str, Sums], days: Iterable[str]) -> TakingsView:
    found = [kept[day] for day in days if day in kept]
    return _shown({name: sum(sums[name] for sums in found) for name in _COLUMNS})


def _shown(sums: Sums) -> TakingsView:
    return {
        "payments": sums["payments"],
        "gross_amount": sums["gross_amount"],
        "cash_amount": sums[_CASH],
        "wallet_amount": sums["wallet_amount"],
        "fee_amount": sums["fee_amount"],
        "fee_returned": sums["fee_returned"],
        "refunds": sums["refunds"],
        "refunded_amount": sums["refunded_amount"],
        "reversals": sums["reversals"],
        "reversed_amount": sums["reversed_amount"],
        "net_amount": sums["gross_amount"] - sums["fee_amount"] + sums["fee_returned"]
        - sums["refunded_amount"] - sums["reversed_amount"],
    }  # fmt: skip


def _sums(*by: Any) -> Select[Any]:
    """Sums of whole rupiah; PostgreSQL would answer with decimals."""
    cash = case((DailyRevenue.provider == CASH, DailyRevenue.gross_amount), else_=0)
    summed = [(name, getattr(DailyRevenue, name)) for name in SUMS] + [(_CASH, cash)]
    return select(*by, *(cast(func.sum(column), BigInteger).label(name) for name, column in summed)).group_by(*by)


def _of(
    query: Select[Any], merchants: Sequence[str], outlet_id: str | None, from_day: date, to_day: date
) -> Select[Any]:
    query = query.join(Terminal, Terminal.id == DailyRevenue.terminal_id).where(
        DailyRevenue.merchant_id.in_(merchants),
        DailyRevenue.day >= from_day.isoformat(),
        DailyRevenue.day <= to_day.isoformat(),
    )
    return query if outlet_id is None else query.where(Terminal.outlet_id == outlet_id)


async def _by_day(
    session: AsyncSession, merchants: Sequence[str], outlet_id: str | None, *, from_day: date, to_day: date
) -> dict[str, Sums]:
    query = _of(_sums(DailyRevenue.day), merchants, outlet_id, from_day, to_day)
    return {row.day: {name: getattr(row, name) for name in _COLUMNS} for row in await session.execute(query)}


async def _by_outlet(
    session: AsyncSession, merchants: Sequence[str], outlet_id: str | None, *, from_day: date, to_day: date
) -> list[OutletTakingsView]:
    query = _of(_sums(Outlet.id, Outlet.name), merchants, outlet_id, from_day, to_day)
    found = await session.execute(query.join(Outlet, Outlet.id == Terminal.outlet_id))
    shown: list[OutletTakingsView] = [
        {
            "outlet_id": row.id,
            "name": row.name,
            **_shown({name: getattr(row, name) for name in _COLUMNS}),
        }
        for row in found
    ]
    return sorted(shown, key=lambda outlet: (-outlet["gross_amount"], outlet["outlet_id"]))


async def _boxes(session: AsyncSession, merchants: Sequence[str], outlet_id: str | None) -> BoxesView:
    query = (
        select(func.count(), func.count(DevicePresence.device_id))
        .select_from(DeviceBinding)
        .outerjoin(
            DevicePresence, and_(DevicePresence.device_id == DeviceBinding.device_id, DevicePresence.online.is_(True))
        )
        .where(DeviceBinding.unbound_at_ms.is_(None), DeviceBinding.merchant_id.in_(merchants))
    )
    if outlet_id is not None:
        query = query.where(DeviceBinding.outlet_id == outlet_id)
    bound, online = (await session.execute(query)).one()
    return {"bound": bound, "online": online, "offline": bound - online}


_WAITING = (SettlementState.CALCULATED.value, SettlementState.PAYING.value, SettlementState.FAILED.value)


async def _payouts(session: AsyncSession, merchants: Sequence[str]) -> PayoutsView:
    ours = Settlement.merchant_id.in_(merchants)
    waits = await session.execute(
        select(func.count(), cast(func.coalesce(func.sum(Settlement.net_amount), 0), BigInteger))
        .where(ours, Settlement.state.in_(_WAITING))
    )  # fmt: skip
    waiting, amount = waits.one()
    last = await session.scalar(
        select(Settlement).where(ours, Settlement.state != SettlementState.OPEN.value)
        .order_by(Settlement.id.desc()).limit(1)
    )  # fmt: skip
    return {"waiting": waiting, "waiting_amount": amount, "last": settlement_view(last) if last else None}
