"""A year of a platform, settled day by day, against sums made with plain Python from the same story.

The story is made first: who is paid how much and when, what goes back, which rates and windows hold from which day on.
One side is the database, settled by the runs that are due each morning; the other knows nothing of the product's code.
"""

import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from fractions import Fraction
from functools import partial

import pytest
from support.settling import CALENDAR, settlements
from support.shop import NOW, open_shop, rows

from soundbox_server.clock import DAY_MS
from soundbox_server.db import Database, Statements
from soundbox_server.ids import new_id
from soundbox_server.settlements import planning
from soundbox_server.settlements.running import settle_window

JAKARTA = timezone(timedelta(hours=7))
# Closed in 2026 besides weekends, told once more so that a slip of the product's own file is seen.
CLOSED = {
    "2026-01-01", "2026-01-16", "2026-02-16", "2026-02-17", "2026-03-18", "2026-03-19", "2026-03-20", "2026-03-23",
    "2026-03-24", "2026-04-03", "2026-05-01", "2026-05-14", "2026-05-15", "2026-05-27", "2026-05-28", "2026-06-01",
    "2026-06-16", "2026-08-17", "2026-08-25", "2026-12-24", "2026-12-25",
}  # fmt: skip


@dataclass(frozen=True)
class Terms:
    """From this day on: basis points up to each amount, and the windows as (name, last minute, days to wait)."""

    since: str
    tiers: tuple[tuple[int, int], ...]
    windows: tuple[tuple[str, str, int], ...]


PROFILES = {
    "fee_plain": [Terms("2025-01-01", ((10**9, 70),), (("daily", "23:59", 1),))],
    "fee_changes": [
        Terms("2025-01-01", ((500_000, 0), (10**9, 30)), (("daily", "23:59", 1),)),
        Terms("2026-03-02", ((10**9, 63),), (("noon", "12:00", 0), ("night", "21:29", 1))),
        Terms("2026-08-18", ((100_000, 0), (10**9, 30)), (("daily", "16:00", 3),)),
        Terms("2026-11-02", ((10**9, 70),), (("daily", "23:59", 1),)),
    ],
}


@dataclass
class Event:
    """Something that moved money, by when it was booked; `paid_ms` is when the provider says that it was paid."""

    merchant: str
    kind: str
    provider: str
    booked_ms: int
    paid_ms: int
    gross: int
    fee: int
    payment: str
    bps: int = 0
    version: str = ""


@dataclass
class Story:
    events: list[Event] = field(default_factory=list)
    profile_of: dict[str, str] = field(default_factory=dict)
    suspended: dict[str, tuple[str, str]] = field(default_factory=dict)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def local(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, JAKARTA)


def half_up(amount: int, bps: int) -> int:
    return int(Fraction(amount * bps, 10_000) + Fraction(1, 2))


def is_open(day: date) -> bool:
    return day.weekday() < 5 and day.isoformat() not in CLOSED


def held_on(profile: str, day: date) -> tuple[int, Terms]:
    return max((n, terms) for n, terms in enumerate(PROFILES[profile], 1) if terms.since <= day.isoformat())


def tell(first: date, days: int, *, merchants: dict[str, str], payments_a_day: int, seed: int) -> Story:
    """Payments of every day and night; some told days later, some given back in part or whole, some reversed."""
    chance, story = random.Random(seed), Story(profile_of=merchants)
    names = sorted(merchants)
    for n in range(days * payments_a_day):
        merchant, provider = chance.choice(names), chance.choice(["sandbox", "sandbox", "acme"])
        began = datetime.combine(first, datetime.min.time(), JAKARTA)
        paid = began + timedelta(days=n // payments_a_day, milliseconds=chance.randrange(DAY_MS))
        amount = chance.choice(
            [chance.randrange(1, 200), chance.randrange(1_000, 120_000), 500_000, 500_001, 2_000_000]
        )
        version, terms = held_on(merchants[merchant], paid.date())
        bps = next(bps for most, bps in terms.tiers if amount <= most)
        told = paid + timedelta(hours=chance.choice([0] * 20 + [30, 100]), seconds=chance.randrange(60))
        payment = Event(
            merchant, "capture", provider, ms(told), ms(paid), amount, half_up(amount, bps), f"txn_y{n:08}", bps,
            f"{merchants[merchant]}/{version}",
        )  # fmt: skip
        story.events.append(payment)
        if chance.random() < 0.12:
            _go_back(story, payment, chance)
    story.events.sort(key=lambda event: (event.booked_ms, event.payment, event.kind))
    return story


def _go_back(story: Story, payment: Event, chance: random.Random) -> None:
    at_ms = payment.booked_ms + chance.randrange(1, 12 * DAY_MS)
    kind = chance.choice(["refund", "refund", "reversal"])
    amount = payment.gross if kind == "reversal" else chance.randrange(1, payment.gross + 1)
    fee = payment.fee if kind == "reversal" else chance.choice([0, half_up(amount, payment.bps)])
    back = Event(payment.merchant, kind, payment.provider, at_ms, at_ms, amount, min(fee, payment.fee), payment.payment)
    story.events.append(back)


# --- the independent side --------------------------------------------------------------------------------------------


@dataclass
class Batch:
    payments: int = 0
    gross: int = 0
    fee: int = 0
    adjustment: int = 0
    carried_in: int = 0
    carried_out: int = 0
    net: int = 0


def windows_between(profile: str, first: date, last: date) -> list[tuple[int, str, str, date]]:
    """(end, day, name, day of settlement) of every window, in their order."""
    found, day = [], first
    while day <= last:
        for name, minute, wait in held_on(profile, day)[1].windows if is_open(day) else ():
            ends = datetime.combine(day, time.fromisoformat(minute), JAKARTA) + timedelta(minutes=1)
            settles = day
            for _ in range(wait):
                settles += timedelta(days=1)
                while not is_open(settles):
                    settles += timedelta(days=1)
            found.append((ms(ends), day.isoformat(), name, settles))
        day += timedelta(days=1)
    return found


def expected(story: Story, first: date, days: int) -> dict[tuple[str, str, str], Batch]:
    """Each morning at five, what is due is settled in order: what was booked by then and happened before the end."""
    batches: dict[tuple[str, str, str], Batch] = {}
    carried: Counter[str] = Counter()
    for profile in PROFILES:
        its = [merchant for merchant, of in story.profile_of.items() if of == profile]
        left = {merchant: [e for e in story.events if e.merchant == merchant] for merchant in its}
        waiting = windows_between(profile, first, first + timedelta(days=days))
        began = False
        for morning in mornings(first, days):
            due = []
            while waiting and waiting[0][0] <= morning and waiting[0][3] <= local(morning).date():
                due.append(waiting.pop(0))
            for ends, day, name, _ in due if began else due[-1:]:
                began = True
                for merchant in its:
                    _settle(batches, carried, left, merchant, (ends, day, name), morning)
    return batches


def _settle(
    batches: dict[tuple[str, str, str], Batch], carried: Counter[str], left: dict[str, list[Event]], merchant: str,
    window: tuple[int, str, str], now_ms: int,
) -> None:  # fmt: skip
    ends, day, name = window
    taken = [e for e in left[merchant] if e.booked_ms < now_ms and e.paid_ms < ends]
    if not taken:
        return
    left[merchant] = [e for e in left[merchant] if not (e.booked_ms < now_ms and e.paid_ms < ends)]
    batch = batches[merchant, day, name] = Batch(carried_in=carried[merchant])
    for event in taken:
        if event.kind == "capture":
            batch.payments += 1
            batch.gross += event.gross
            batch.fee += event.fee
        else:
            batch.adjustment -= event.gross - event.fee
    total = batch.gross - batch.fee + batch.adjustment + batch.carried_in
    batch.net, batch.carried_out = max(total, 0), min(total, 0)
    carried[merchant] = batch.carried_out


def mornings(first: date, days: int) -> list[int]:
    return [ms(datetime.combine(first + timedelta(days=n), datetime.min.time(), JAKARTA)) + 5 * 3_600_000
            for n in range(1, days + 1)]  # fmt: skip


# --- the database's side ---------------------------------------------------------------------------------------------


async def live(database: Database, story: Story, first: date, days: int) -> None:
    """Book each day's events, and settle what is due in the morning after."""
    events = list(story.events)
    for morning in mornings(first, days):
        today = []
        while events and events[0].booked_ms < morning:
            today.append((new_id("jrn"), events.pop(0)))
        await database.write(partial(_book, today=today))
        for wanted in await database.read(partial(planning.due_now, calendar=CALENDAR, by=None, now_ms=morning)):
            await settle_window(database, wanted)


async def _book(tx: Statements, today: list[tuple[str, Event]]) -> None:
    """As captures, refunds and reversals are booked, many at once."""
    captures = [event for _, event in today if event.kind == "capture"]
    await tx.many(
        "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, source, qr_mode, amount, currency, state, late, "
        "fee_amount, fee_bps, fee_version, fee_rounding, expires_at_ms, paid_at_ms, captured_at_ms, created_at_ms, "
        "trace_id, paid_amount) SELECT $1, m.id, o.id, t.id, 'device', 'dynamic', $3, 'IDR', 'paid', $9, $4, $5, $6, "
        "'half_up', $7, $7, $8, $7, 'trc', $3 FROM merchant m JOIN outlet o ON o.merchant_id = m.id "
        "JOIN terminal t ON t.outlet_id = o.id WHERE m.id = $2",
        [(e.payment, e.merchant, e.gross, e.fee, e.bps, e.version, e.paid_ms, e.booked_ms, False) for e in captures],
    )
    await tx.many(
        "INSERT INTO journal (id, kind, payment_id, money_key, booked_at_ms) VALUES ($1, $2, $3, $4, $5)",
        [(journal, e.kind, e.payment, _money_key(journal, e), e.booked_ms) for journal, e in today],
    )
    await tx.many(
        "INSERT INTO posting (journal_id, position, source, destination, unit, amount) "
        "VALUES ($1, $2, $3, $4, 'IDR', $5)",
        [posting for journal, e in today for posting in _postings(journal, e)],
    )


def _money_key(journal: str, event: Event) -> str | None:
    return None if event.kind == "capture" else f"{event.kind}:{journal}"


def _postings(journal: str, event: Event) -> list[tuple[str, int, str, str, int]]:
    came, owed = f"provider_receivable:{event.provider}", f"merchant_payable:{event.merchant}"
    ends = ((came, owed), (owed, f"fees:{event.provider}"))
    turned = ends if event.kind == "capture" else tuple((there, here) for here, there in ends)
    found = [(journal, n, *turned[n], amount) for n, amount in enumerate((event.gross, event.fee))]
    return [posting for posting in found if posting[4]]


async def plant(database: Database) -> dict[str, str]:
    """Three merchants with the profile that changes, two with the plain one: by merchant, its profile."""
    shops = [await open_shop(database) for _ in range(5)]

    async def agree(tx: Statements) -> None:
        for profile, terms in PROFILES.items():
            await tx.execute(
                "INSERT INTO fee_profile (id, name, version, version_id, created_at_ms) VALUES ($1, $1, $2, $3, $4)",
                profile, len(terms), f"{profile}_{len(terms)}", NOW,
            )  # fmt: skip
            for number, one in enumerate(terms, 1):
                windows = [{"name": n, "cutoff": c, "settle_after_days": d} for n, c, d in one.windows]
                await tx.execute(
                    "INSERT INTO fee_version (fee_profile_id, version, id, effective_from, rules, windows, "
                    "created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    profile, number, f"{profile}_{number}", one.since, json.dumps([{"bps": 70}]), json.dumps(windows),
                    NOW,
                )  # fmt: skip
        for n, shop in enumerate(shops):
            profile = "fee_changes" if n < 3 else "fee_plain"
            await tx.execute(
                "UPDATE merchant SET fee_profile_id = $2, created_at_ms = 0 WHERE id = $1", shop.merchant_id, profile
            )

    await database.write(agree)
    return {shop.merchant_id: "fee_changes" if n < 3 else "fee_plain" for n, shop in enumerate(shops)}


@pytest.mark.parametrize(
    ("database_url", "first", "days", "a_day"),
    [("sqlite", date(2026, 1, 2), 364, 14), ("postgresql", date(2026, 2, 20), 40, 12)],
    indirect=["database_url"],
)
async def test_settled_day_by_day_it_comes_to_what_plain_python_says(
    database: Database, first: date, days: int, a_day: int
) -> None:
    merchants = await plant(database)
    story = tell(first, days, merchants=merchants, payments_a_day=a_day, seed=days)

    await live(database, story, first, days)

    said = expected(story, first, days)
    made = {
        (one["merchant_id"], one["day"], one["window_name"]): Batch(
            one["payments"], one["gross_amount"], one["fee_amount"], one["adjustment_amount"], one["carried_in"],
            one["carried_out"], one["net_amount"],
        )
        for one in await settlements(database)
    }  # fmt: skip
    assert made == said
    assert sum(batch.payments for batch in made.values()) > 0.9 * days * a_day
    assert any(batch.carried_in for batch in made.values())
    await _check_ledger(database, story, made, mornings(first, days)[-1])


async def _check_ledger(
    database: Database, story: Story, made: dict[tuple[str, str, str], Batch], last_ms: int
) -> None:
    """Of each merchant's money, what was not paid out is still owed to it, by the events themselves."""
    moved: defaultdict[str, int] = defaultdict(int)
    for event in story.events:
        if event.booked_ms < last_ms:
            moved[event.merchant] += (event.gross - event.fee) * (1 if event.kind == "capture" else -1)
    for (merchant, _, _), batch in made.items():
        moved[merchant] -= batch.net
    owed = {
        row["account"].removeprefix("merchant_payable:"): row["balance"]
        for row in await rows(
            database,
            "SELECT account, CAST(sum(amount) AS BIGINT) AS balance FROM ("
            "SELECT destination AS account, amount FROM posting UNION ALL SELECT source, -amount FROM posting) ends "
            "WHERE account LIKE 'merchant_payable:%' GROUP BY 1",
        )
    }
    assert owed == dict(moved)
