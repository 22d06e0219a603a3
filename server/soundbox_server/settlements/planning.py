"""Which windows of which fee profiles are to be settled."""

from soundbox_server.clock import jakarta_day, jakarta_ms
from soundbox_server.db import Row, Statements
from soundbox_server.errors import NotFound, SettlementNotEligible
from soundbox_server.fees.service import terms_of
from soundbox_server.fees.terms import Terms
from soundbox_server.settlements.calendar import Calendar
from soundbox_server.settlements.service import Wanted
from soundbox_server.settlements.windows import Occurrence, due, windows_of

_PROFILES = """
SELECT f.id, f.version_id, (SELECT max(r.closes_at_ms) FROM settlement_run r WHERE r.fee_profile_id = f.id) AS closed_ms
FROM fee_profile f WHERE EXISTS (SELECT 1 FROM merchant m WHERE m.fee_profile_id = f.id) ORDER BY 1
"""


async def due_now(tx: Statements, calendar: Calendar, *, by: str | None, now_ms: int) -> list[Wanted]:
    """What somebody began and nobody ended, then what is due, of every profile that merchants have."""
    return [
        *await _begun(tx, calendar),
        *(
            Wanted(fee_profile_id=row["id"], window=window, by=by)
            for row, terms in await _profiles(tx)
            for window in due(terms, calendar, after_ms=row["closed_ms"], now_ms=now_ms)
        ),
    ]


async def latest(
    tx: Statements, calendar: Calendar, fee_profile_id: str | None, *, by: str | None, now_ms: int
) -> list[Wanted]:
    """The last window that is due, of this profile or of each: what was settled last, where nothing is left to do."""
    return [
        Wanted(fee_profile_id=row["id"], window=window, by=by)
        for row, terms in await _profiles(tx)
        if fee_profile_id in (None, row["id"])
        for window in due(terms, calendar, after_ms=None, now_ms=now_ms)
    ]


async def on_day(
    tx: Statements, calendar: Calendar, day: str, *, name: str | None, fee_profile_id: str | None, by: str | None,
    now_ms: int,
) -> list[Wanted]:  # fmt: skip
    """The windows of a day, or the one of that name. Raises SettlementNotEligible where there are none, or where one is
    not due yet."""
    if day > (today := jakarta_day(now_ms)):
        raise SettlementNotEligible("That day has not come yet.", today=today)
    found = [
        Wanted(fee_profile_id=row["id"], window=window, by=by)
        for row, terms in await _profiles(tx)
        if fee_profile_id in (None, row["id"])
        for window in windows_of(terms, calendar, day)
        if name in (None, window.name)
    ]
    if not found:
        raise SettlementNotEligible("No window is settled of that day: banks are closed, or none has that name.")
    if waiting := [one.window.settles_on for one in found if not one.window.is_due(now_ms)]:
        raise SettlementNotEligible("This window is not due yet.", settles_on=min(waiting), today=today)
    return found


async def _profiles(tx: Statements) -> list[tuple[Row, Terms]]:
    rows = await tx.fetch(_PROFILES)
    terms = await terms_of(tx, {row["version_id"] for row in rows})
    return [(row, terms[row["version_id"]]) for row in rows]


async def _begun(tx: Statements, calendar: Calendar) -> list[Wanted]:
    rows = await tx.fetch(
        "SELECT r.fee_profile_id, r.day, r.window_name, r.closes_at_ms, r.started_by, f.version_id "
        "FROM settlement_run r JOIN fee_profile f ON f.id = r.fee_profile_id WHERE r.state <> 'done' ORDER BY 4, 1"
    )
    terms = await terms_of(tx, {row["version_id"] for row in rows})
    return [
        Wanted(
            fee_profile_id=row["fee_profile_id"], window=_again(row, terms[row["version_id"]], calendar),
            by=row["started_by"],
        )
        for row in rows
    ]  # fmt: skip


def _again(row: Row, terms: Terms, calendar: Calendar) -> Occurrence:
    """The window as it was begun, even where its day has become a holiday meanwhile."""
    known = (window for window in windows_of(terms, calendar, row["day"]) if window.name == row["window_name"])
    begun = Occurrence(
        day=row["day"], name=row["window_name"], opens_at_ms=jakarta_ms(row["day"]),
        closes_at_ms=row["closes_at_ms"], settles_on=calendar.after(row["day"], 1),
    )  # fmt: skip
    return next(known, begun)


async def profile_of(tx: Statements, merchant_id: str) -> str:
    """Raises NotFound, or SettlementNotEligible for a merchant without terms."""
    rows = await tx.fetch("SELECT fee_profile_id FROM merchant WHERE id = $1", merchant_id)
    if not rows:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    if rows[0]["fee_profile_id"] is None:
        raise SettlementNotEligible("This merchant has no fee profile.", merchant_id=merchant_id)
    return str(rows[0]["fee_profile_id"])
