"""How well a box can be reached, for operators: its days, and its way out of quarantine."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import or_, select

from soundbox_server import clock
from soundbox_server.access.auth import Acting
from soundbox_server.answers import TypedDict, answers
from soundbox_server.audit.service import record
from soundbox_server.db import statements
from soundbox_server.devices import presence
from soundbox_server.devices.models import Device, DeviceOnline
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.fields import Id
from soundbox_server.http import Reader, Session, envelope, problems

router = APIRouter(tags=["operators"])

# A day that the calendar has, until 2099.
_DAY = (
    r"20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|20[0-9]{2}-(0[13-9]|1[0-2])-(29|30)|"
    r"20[0-9]{2}-(0[13578]|1[02])-31|20([02468][048]|[13579][26])-02-29"
)
DAY_MS, JAKARTA_MS = 86_400_000, 7 * 3_600_000


class Days(BaseModel):
    """The last days up to `until`, the day in Jakarta; without it up to today."""

    model_config = ConfigDict(extra="forbid")

    until: Annotated[str | None, Field(pattern=f"^({_DAY})$", examples=["2026-05-23"])] = None
    days: Annotated[int, Field(ge=1, le=31)] = 7


class DayView(TypedDict):
    day: str
    online_s: int
    of_s: int
    share: float
    interruptions: int


class ReleasedView(TypedDict):
    device_id: str
    released: bool


@router.get("/admin/devices/{device_id}/availability", responses=answers(list[DayView]))
async def availability(request: Request, device_id: Id, session: Reader, asked: Annotated[Days, Query()]) -> Response:
    """For each day how long the box could be reached, and how often that ended, newest first. A day that is not over
    counts as far as it is."""
    device = await session.get(Device, device_id)
    if device is None:
        raise NotFound("No such device.", device_id=device_id)
    now_ms = clock.now_ms()
    last = date.fromisoformat(asked.until) if asked.until else _day(now_ms)
    days = [last - timedelta(days=back) for back in range(asked.days)]
    found = await session.scalars(
        select(DeviceOnline).where(DeviceOnline.device_id == device_id, DeviceOnline.began_at_ms < _end_ms(days[0]))
        .where(or_(DeviceOnline.ended_at_ms.is_(None), DeviceOnline.ended_at_ms > _end_ms(days[-1]) - DAY_MS))
    )  # fmt: skip
    times = list(found)
    return envelope(request, [_shown(day, times, now_ms) for day in days])


def _day(at_ms: int) -> date:
    return datetime.fromtimestamp((at_ms + JAKARTA_MS) / 1000, UTC).date()


def _end_ms(day: date) -> int:
    """The end of a day in Jakarta, in UTC."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return int(midnight.timestamp()) * 1000 + DAY_MS - JAKARTA_MS


def _shown(day: date, times: Sequence[Any], now_ms: int) -> DayView:
    begin_ms = _end_ms(day) - DAY_MS
    end_ms = max(begin_ms, min(_end_ms(day), now_ms))
    spans = [(max(one.began_at_ms, begin_ms), min(one.ended_at_ms or now_ms, end_ms)) for one in times]
    online_ms = sum(max(0, until - since) for since, until in spans)
    ends = [one.ended_at_ms for one in times if one.ended_at_ms is not None]
    return {
        "day": day.isoformat(),
        "online_s": online_ms // 1000,
        "of_s": (end_ms - begin_ms) // 1000,
        "share": round(online_ms / (end_ms - begin_ms), 4) if end_ms > begin_ms else 0.0,
        "interruptions": sum(begin_ms <= at_ms < begin_ms + DAY_MS for at_ms in ends),
    }


@router.post(
    "/admin/devices/{device_id}/quarantine/release", responses=answers(ReleasedView) | problems(NotFound, Conflict)
)
async def release(request: Request, device_id: Id, session: Session, actor: Acting) -> Response:
    """Let a box out of quarantine. Of one that was cloned rotate or revoke the credentials first: whoever has a copy of
    them comes back too."""
    if await session.get(Device, device_id) is None:
        raise NotFound("No such device.", device_id=device_id)
    tx = await statements(session)
    why = await presence.release(tx, device_id, now_ms=clock.now_ms())
    if why is None:
        raise Conflict("This device is not in quarantine.")
    await record(tx, actor, "device.quarantine_released", ("device", device_id), details={"quarantine": why})
    return envelope(request, {"device_id": device_id, "released": True})
