"""Does a score foresee who fails? A world of made-up shops, scored as of each week.

Their payments are in a database, and the scores are those that the product itself would have given: the same
statements, the same models, the same warnings.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soundbox_server import migrate
from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS, jakarta_day
from soundbox_server.db import Database, Statements
from soundbox_server.fees.service import terms_of
from soundbox_server.fees.terms import Payee, Terms, fee
from soundbox_server.revenue import service as revenue
from soundbox_server.scoring import early_warning
from soundbox_server.scoring import service as scoring
from soundbox_server.scoring.state import Model
from soundbox_server.settlements.calendar import Calendar, read_calendar
from soundbox_server.settlements.windows import Occurrence
from soundbox_server.synthetic.report import report
from soundbox_server.synthetic.settling import Batch, Moved, batches, windows
from soundbox_server.synthetic.shops import Sale, late_payouts, trade
from soundbox_server.synthetic.world import FIRST_DAY, Seen, Subject, World

FEE_PROFILE = "fee_basic"
TOGETHER = 25  # shops in one transaction
PROVIDER = "sandbox"


# Planting


async def plant(database: Database, world: World) -> int:
    """Put what the shops sold into an empty, migrated database; returns how many payments that were."""
    calendar = read_calendar()
    terms = await database.read(_terms)
    end_ms = _begins(world.last_day + 1)
    within = windows(terms, calendar, first_ms=_begins(FIRST_DAY), last_ms=end_ms)
    await database.write(_plant_organisation)
    payments = 0
    for first in range(0, len(world.subjects), TOGETHER):
        some = world.subjects[first : first + TOGETHER]
        made = [_Made.of(subject, world, terms, within, calendar, end_ms) for subject in some]
        payments += sum(len(one.sales) for one in made)
        await database.write(partial(_write, made=made))
    return payments


@dataclass(frozen=True, kw_only=True)
class _Made:
    subject: Subject
    sales: Sequence[Sale]
    settled: Sequence[Batch]

    @classmethod
    def of(
        cls, subject: Subject, world: World, terms: Terms, within: Sequence[Occurrence], calendar: Calendar, end_ms: int
    ) -> "_Made":
        days = world.last_day - FIRST_DAY + 1
        sales = list(trade(subject.character, seed=subject.seed, first_day=FIRST_DAY, days=days))
        moved = (_moved(subject, n, sale, terms) for n, sale in enumerate(sales) if not sale.is_cash)
        settled = batches(
            (one for one in moved if one is not None), within, late_share=partial(late_payouts, subject.character),
            seed=f"{subject.seed}/bank", now_ms=end_ms,
        )  # fmt: skip
        return cls(subject=subject, sales=sales, settled=settled)


def _moved(subject: Subject, n: int, sale: Sale, terms: Terms) -> Moved | None:
    if sale.paid_at_ms is None:
        return None
    rate = terms.rate(_payee(subject), day=jakarta_day(sale.paid_at_ms), amount=sale.amount)
    name = f"{subject.merchant_id}_{n}"
    return Moved(
        journal_id=f"jrn_{name}", payment_id=f"txn_{name}", kind="payment", gross=sale.amount,
        fee=0 if rate is None else fee(sale.amount, rate.bps), at_ms=sale.paid_at_ms,
    )  # fmt: skip


def _payee(subject: Subject) -> Payee:
    return Payee(subject.merchant_id, None, "UMI")


async def _terms(tx: Statements) -> Terms:
    (row,) = await tx.fetch("SELECT version_id FROM fee_profile WHERE id = $1", FEE_PROFILE)
    return (await terms_of(tx, [row["version_id"]]))[row["version_id"]]


async def _plant_organisation(tx: Statements) -> None:
    await tx.execute(
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org_world', 'merchant', 'World', 0)"
    )


async def _write(tx: Statements, made: Sequence[_Made]) -> None:
    """As much of each payment as a score looks at."""
    await tx.many(
        "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, "
        "nmid, criteria, fee_profile_id, payout_mode, status, created_at_ms) VALUES ($1, 'org_world', $1, $1, $1, 'J', "
        "'10110', '5812', 'ID1029384756012', 'UMI', $2, 'manual', 'approved', 0)",
        [(one.subject.merchant_id, FEE_PROFILE) for one in made],
    )
    await tx.many(
        "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, created_at_ms) "
        "VALUES ($1, $1, 'main', 'O', 'A', 'active', 0)",
        [(one.subject.merchant_id,) for one in made],
    )
    await tx.many(
        "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, created_at_ms) "
        "VALUES ($1, $1, $1, 'main', 'dynamic', 'active', 0)",
        [(one.subject.merchant_id,) for one in made],
    )
    await tx.many(
        "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, source, method, qr_mode, amount, currency, "
        "state, late, fee_amount, expires_at_ms, paid_at_ms, captured_at_ms, created_at_ms, trace_id, paid_amount, "
        "refunded_amount) VALUES ($1, $2, $2, $2, 'api', $3, 'dynamic', $4, 'IDR', $5, $6, $7, $8, $9, $9, $8, 'trc', "
        "$10, $11)",
        [_payment(one.subject.merchant_id, n, sale) for one in made for n, sale in enumerate(one.sales)],
    )
    await _write_settled(tx, made)
    await revenue.add(tx, [entry for one in made for entry in _earned(one.subject.merchant_id, one.sales)])


def _payment(merchant_id: str, n: int, sale: Sale) -> tuple[object, ...]:
    is_paid = sale.paid_at_ms is not None
    state = "expired"
    if is_paid:
        state = "paid" if not sale.refunded_idr else "partially_refunded"
    if is_paid and sale.refunded_idr == sale.amount:
        state = "refunded"
    return (
        f"txn_{merchant_id}_{n}", merchant_id, "cash" if sale.is_cash else "qris_dynamic", sale.amount, state, False,
        0 if is_paid else None, sale.at_ms, sale.paid_at_ms, sale.amount if is_paid else None, sale.refunded_idr,
    )  # fmt: skip


def _earned(merchant_id: str, sales: Iterable[Sale]) -> list[revenue.Entry]:
    return [
        revenue.Entry(
            at_ms=sale.paid_at_ms, terminal_id=merchant_id, provider=revenue.CASH if sale.is_cash else PROVIDER,
            merchant_id=merchant_id, payments=1, gross_amount=sale.amount,
        )
        for sale in sales
        if sale.paid_at_ms is not None
    ]  # fmt: skip


async def _write_settled(tx: Statements, made: Sequence[_Made]) -> None:
    named = [
        (f"stl_{one.subject.merchant_id}_{n}", one.subject.merchant_id, batch)
        for one in made
        for n, batch in enumerate(one.settled)
        if batch.share.net_amount
    ]
    await tx.many(
        "INSERT INTO settlement (id, merchant_id, fee_profile_id, day, window_name, opens_at_ms, closes_at_ms, "
        "settles_on, state, payout_mode, gross_amount, net_amount, created_at_ms, changed_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'paid', 'manual', $9, $9, $10, $11)",
        [
            (
                settlement_id, merchant_id, FEE_PROFILE, batch.window.day, batch.window.name,
                batch.window.opens_at_ms, batch.window.closes_at_ms, batch.window.settles_on, batch.share.net_amount,
                batch.runs_at_ms, batch.paid_at_ms,
            )
            for settlement_id, merchant_id, batch in named
        ],
    )  # fmt: skip
    await tx.many(
        "INSERT INTO settlement_item (settlement_id, journal_id, payment_id, kind, provider, gross_amount, fee_amount, "
        "at_ms) VALUES ($1, $2, $3, 'payment', $4, $5, $6, $7)",
        [
            (settlement_id, one.journal_id, one.payment_id, PROVIDER, one.gross, one.fee, one.at_ms)
            for settlement_id, _, batch in named
            for one in batch.moved
        ],
    )


# Looking


async def look(database: Database, world: World, model: Model) -> list[Seen]:
    """What the model says of everybody, as of each of the world's days until their default."""
    seen: list[Seen] = []
    before: dict[str, int] = {}
    for day in world.days:
        facts = await database.read_at_leisure(partial(scoring.facts_of, model=model, as_of_ms=_begins(day)))
        for subject in world.subjects:
            if not subject.is_there(day):
                continue
            found = facts.get(subject.merchant_id)
            said = None if found is None else scoring.score(found)
            score = None if said is None else said.score
            past = [one for one in (before.get(subject.merchant_id), score) if one is not None]
            signs = early_warning.NO_SIGNS if found is None else found.signs
            told = early_warning.judge(early_warning.measure(signs, scores=past))
            seen.append(
                Seen(
                    subject=subject, day=day, score=score, band=None if said is None else said.risk_band,
                    warnings=frozenset(one.type for one in told),
                )
            )  # fmt: skip
            if score is not None:
                before[subject.merchant_id] = score
    return seen


def _begins(day: int) -> int:
    return day * DAY_MS - JAKARTA_AHEAD_MS


async def run(database: Database, world: World) -> dict[str, Any]:
    """Plant the world, look at it week by week with both models, and report."""
    payments = await plant(database, world)
    seen: Mapping[Model, Sequence[Seen]] = {model: await look(database, world, model) for model in Model}
    return {"payments": payments, **report(world, seen)}


async def run_aside(world: World) -> dict[str, Any]:
    """The same, in a database of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="soundbox-backtest-") as folder:
        database = Database(f"sqlite:///{Path(folder) / 'world.db'}")
        try:
            await migrate.upgrade(database)
            return await run(database, world)
        finally:
            await database.close()
