"""Reference 000's three merchants and three banks with months of trade: a shop that grows, one that stays as it is, one
that fails. Development only: the passwords are in this file, as they are in the reference's own.

Planting again changes nothing; what a planting that was ended left undone is done.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from soundbox_server import parts
from soundbox_server.access.mails import Desk
from soundbox_server.access.passwords import in_thread
from soundbox_server.audit.service import SYSTEM, Actor
from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS, jakarta_day
from soundbox_server.db import Database, Statements
from soundbox_server.errors import Forbidden
from soundbox_server.fees.service import terms_of
from soundbox_server.fees.terms import Payee, Terms
from soundbox_server.ids import lowest_id, new_id
from soundbox_server.lending import applications
from soundbox_server.lending.service import create_bank, grant
from soundbox_server.lending.state import ConsentScope, Side
from soundbox_server.scoring import service as scoring
from soundbox_server.scoring.early_warning import Thresholds
from soundbox_server.scoring.facts import jakarta_number
from soundbox_server.scoring.state import Model
from soundbox_server.settings import Settings
from soundbox_server.settlements.calendar import Calendar, read_calendar
from soundbox_server.settlements.state import RunState
from soundbox_server.synthetic.books import Books, Seller, keep, settle, write
from soundbox_server.synthetic.settling import Batch, batches, windows
from soundbox_server.synthetic.shops import Character, Fall, Product, late_payouts, trade

DAYS = 182  # three months of scores, each of which looks back three months
NIGHTS = 91
SEED = 2026
FEE_PROFILE = "fee_basic"
MERCHANT_PASSWORD, BANK_PASSWORD = "DummyPass123", "BankPass123"
FINANCE = "per_demo_finance"  # of the demo world: gives money back, and has payouts tried again
_NIGHT_MS = 3 * 3_600_000  # when everybody is scored
_TOGETHER = 7  # nights in one commit
_FALLS_DAYS, _DEFAULTS_DAYS = 40, 20  # before today, and after it


_Facts = Sequence[tuple[int, Model, Mapping[str, scoring.Facts]]]  # of the shops, by night and model


@dataclass(frozen=True, kw_only=True)
class Shop:
    """`key` names its rows; the letter is the reference's, in its owner's address."""

    key: str
    letter: str
    name: str
    owner: str
    city: str
    postal_code: str
    address: str
    mcc: str
    nmid: str
    criteria: str
    account: str
    story: str  # growing, steady or failing
    character: Character

    @property
    def merchant_id(self) -> str:
        return f"mer_{self.key}"


_KOPI = (
    Product("Kopi susu gula aren", 18_000, 9), Product("Americano", 16_000, 4), Product("Croissant", 22_000, 3),
    Product("Teh tarik", 15_000, 4), Product("Roti bakar", 20_000, 3), Product("Nasi ayam sambal matah", 32_000, 2),
)  # fmt: skip
_WARUNG = (
    Product("Nasi rames", 18_000, 8), Product("Soto ayam", 20_000, 5), Product("Gado-gado", 17_000, 4),
    Product("Ayam goreng", 24_000, 4), Product("Es teh manis", 5_000, 9), Product("Kerupuk", 2_000, 5),
)  # fmt: skip
_TOKO = (
    Product("Kaos polos", 65_000, 5), Product("Kemeja batik", 145_000, 2), Product("Celana chino", 175_000, 2),
    Product("Kaos kaki", 15_000, 4), Product("Topi", 45_000, 2), Product("Jilbab segi empat", 55_000, 4),
)  # fmt: skip


def shops(today: int) -> tuple[Shop, Shop, Shop]:
    """The three, as of that day's number."""
    return (
        Shop(
            key="trade_a", letter="a", name="Kopi Senja", owner="Andini Prameswari", city="BANDUNG",
            postal_code="40115", address="Jl. Riau 12, Bandung", mcc="5814", nmid="ID1029384756021", criteria="UKE",
            account="bank:0000000021", story="growing",
            character=Character(
                payments_a_day=12, menu=_KOPI, week=(0.9, 0.9, 0.95, 1.0, 1.15, 1.25, 1.15), growth_a_month=0.12,
                chance=0.1, cash_share=0.15, refund_share=0.004,
            ),
        ),
        Shop(
            key="trade_b", letter="b", name="Warung Bu Tini", owner="Tini Rahayu", city="YOGYAKARTA",
            postal_code="55221", address="Jl. Kaliurang 8, Yogyakarta", mcc="5812", nmid="ID1029384756022",
            criteria="UMI", account="bank:0000000022", story="steady",
            character=Character(
                payments_a_day=16, menu=_WARUNG, week=(1.05, 1.05, 1.05, 1.05, 1.1, 0.95, 0.75), chance=0.22,
                cash_share=0.4, refund_share=0.022, fasting=0.85, late_payouts=0.05,
            ),
        ),
        Shop(
            key="trade_c", letter="c", name="Toko Busana Maju", owner="Budi Hartono", city="SURABAYA",
            postal_code="60271", address="Jl. Tunjungan 30, Surabaya", mcc="5651", nmid="ID1029384756023",
            criteria="UKE", account="bank:0000000023", story="failing",
            character=Character(
                payments_a_day=15, menu=_TOKO, week=(0.8, 0.85, 0.9, 0.95, 1.1, 1.3, 1.1), chance=0.2, cash_share=0.2,
                refund_share=0.008,
                fall=Fall(
                    day=today - _FALLS_DAYS, half_life_days=14, default_day=today + _DEFAULTS_DAYS, refunds=8.0,
                    late_payouts=0.45,
                ),
            ),
        ),
    )  # fmt: skip


BANKS = (
    ("org_bank_bca", "BCA", "per_bank_bca", "bank1@bca.com"),
    ("org_bank_mandiri", "Mandiri", "per_bank_mandiri", "bank2@mandiri.com"),
    ("org_bank_bni", "BNI", "per_bank_bni", "bank3@bni.com"),
)


_BCA, _MANDIRI, _BNI = (organisation_id for organisation_id, _, _, _ in BANKS)
_CONSENTS = {
    "growing": ((_BCA, ConsentScope.FULL), (_MANDIRI, ConsentScope.FULL), (_BNI, ConsentScope.SCORE)),
    "steady": ((_BCA, ConsentScope.FULL), (_MANDIRI, ConsentScope.SCORE)),
    "failing": ((_BCA, ConsentScope.FULL), (_BNI, ConsentScope.FULL)),
}
# Of each story: the bank, its analyst, how much, what for.
_LOANS = {
    "growing": (_BCA, "per_bank_bca", 30_000_000, "Mesin espreso kedua"),
    "steady": (_BCA, "per_bank_bca", 10_000_000, "Renovasi dapur"),
    "failing": (_BNI, "per_bank_bni", 25_000_000, "Stok baru"),
}


async def plant(
    database: Database, settings: Settings, *, now_ms: int, seed: int = SEED, nights: int = NIGHTS
) -> dict[str, Any]:
    """Plant the trade, or what is missing of it, and tell who may log in. Raises Forbidden in production. The shops are
    scored as of each of the last nights.

    The demo world is there already. Each commit is short: whoever else writes meanwhile hardly waits.
    """
    if settings.environment == "production":
        raise Forbidden("Trade that never was is not planted in production.")
    calendar = read_calendar(settings.settlement_calendar)
    ours = shops(jakarta_number(now_ms))
    for shop in await _missing(database, ours):
        terms, returns_fee = await database.read(_terms)
        books, settled = await asyncio.to_thread(
            books_of, shop, terms, calendar, returns_fee=returns_fee, seed=seed, now_ms=now_ms
        )
        await database.write(lambda tx, books=books, settled=settled, shop=shop: _open(tx, shop, books, settled))  # type: ignore[misc]
    await _tell_history(database, settings, ours, nights=nights)
    # They come last: nobody gets mail about warnings of a past that never was.
    hasher = parts.passwords(settings)
    hashes = [await in_thread(hasher.hash, password) for password in (MERCHANT_PASSWORD, BANK_PASSWORD)]
    await database.write(lambda tx: _let_in(tx, ours, hashes[0], hashes[1], now_ms=now_ms))
    await database.write(lambda tx: _lend(tx, ours, Model(settings.scoring_model), now_ms=now_ms))
    return {
        "shops": [{"id": shop.merchant_id, "brand_name": shop.name, "story": shop.story} for shop in ours],
        "users": [
            *({"email": _email(shop), "password": MERCHANT_PASSWORD, "role": "merchant_owner"} for shop in ours),
            *({"email": email, "password": BANK_PASSWORD, "role": "bank"} for _, _, _, email in BANKS),
        ],
    }


def books_of(
    shop: Shop, terms: Terms, calendar: Calendar, *, returns_fee: bool, seed: int, now_ms: int
) -> tuple[Books, list[Batch]]:
    """Everything that the shop's trade leaves behind, and the batches of it that were paid out."""
    first = jakarta_number(now_ms) - DAYS
    seller = Seller(
        merchant_id=shop.merchant_id, outlet_id=f"out_{shop.key}", terminal_id=f"term_{shop.key}",
        account=shop.account, payee=Payee(shop.merchant_id, None, shop.criteria), terms=terms, returns_fee=returns_fee,
        by=FINANCE,
    )  # fmt: skip
    books = Books(seller=seller, chances=random.Random(f"{seed}/{shop.key}/ids"))  # noqa: S311
    keep(books, trade(shop.character, seed=f"{seed}/{shop.key}", first_day=first, days=DAYS + 1), now_ms=now_ms)
    within = windows(terms, calendar, first_ms=_begins(first), last_ms=now_ms)
    settled = batches(
        books.moved,
        within,
        late_share=partial(late_payouts, shop.character),
        seed=f"{seed}/{shop.key}/bank",
        now_ms=now_ms,
    )
    settle(books, settled, calendar=calendar)
    return books, settled


async def _missing(database: Database, ours: Sequence[Shop]) -> list[Shop]:
    ids = [shop.merchant_id for shop in ours]
    rows = await database.read(lambda tx: tx.fetch(f"SELECT id FROM merchant WHERE id {tx.among(1)}", ids))
    known = {row["id"] for row in rows}
    return [shop for shop in ours if shop.merchant_id not in known]


async def _terms(tx: Statements) -> tuple[Terms, bool]:
    (row,) = await tx.fetch("SELECT version_id, refund_returns_fee FROM fee_profile WHERE id = $1", FEE_PROFILE)
    terms = await terms_of(tx, [row["version_id"]])
    return terms[row["version_id"]], bool(row["refund_returns_fee"])


async def _open(tx: Statements, shop: Shop, books: Books, settled: Sequence[Batch]) -> None:
    """The shop with all its trade, in one transaction: it is there whole, or not at all."""
    since_ms = _begins(min(jakarta_number(entry.at_ms) for entry in books.earned))
    organisation_id = f"org_{shop.key}"
    await tx.execute(
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, 'merchant', $2, $3)",
        organisation_id, shop.name, since_ms,
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, "
        "nmid, criteria, fee_profile_id, settlement_account_reference, settlement_account_type, payout_mode, status, "
        "approved_at_ms, created_at_ms) VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8, $9, $10, $11, "
        "'merchant_bank_account', 'merchant_direct', 'approved', $12, $12)",
        shop.merchant_id, organisation_id, f"m_{shop.key}", shop.name, shop.city, shop.postal_code, shop.mcc, shop.nmid,
        shop.criteria, FEE_PROFILE, shop.account, since_ms,
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, is_default, created_at_ms) "
        "VALUES ($1, $2, 'main', $3, $4, 'active', $5, $6)",
        f"out_{shop.key}", shop.merchant_id, shop.name, shop.address, True, since_ms,
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, is_default, created_at_ms) "
        "VALUES ($1, $2, $3, 'main', 'dynamic', 'active', $4, $5)",
        f"term_{shop.key}", f"out_{shop.key}", shop.merchant_id, True, since_ms,
    )  # fmt: skip
    await write(tx, books)
    await _write_runs(tx, shop, settled)


async def _write_runs(tx: Statements, shop: Shop, settled: Sequence[Batch]) -> None:
    """The runs that made these batches, and up to where everything is settled: the next real run goes on from there."""
    await tx.many(
        "INSERT INTO settlement_run (fee_profile_id, day, window_name, closes_at_ms, state, cursor, settled_to, "
        "started_at_ms, finished_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) ON CONFLICT DO NOTHING",
        [
            (
                FEE_PROFILE, one.window.day, one.window.name, one.window.closes_at_ms, RunState.DONE.value,
                lowest_id("jrn", one.runs_at_ms), lowest_id("jrn", one.window.closes_at_ms), one.runs_at_ms,
            )
            for one in settled
        ],
    )  # fmt: skip
    if settled:
        await tx.execute(
            "INSERT INTO settlement_progress (merchant_id, settled_to) VALUES ($1, $2)",
            shop.merchant_id, lowest_id("jrn", settled[-1].window.closes_at_ms),
        )  # fmt: skip


async def _tell_history(database: Database, settings: Settings, ours: Sequence[Shop], *, nights: int) -> None:
    """Score the shops as of each night of the last months, by both models; the model in use raises its warnings."""
    ids = [shop.merchant_id for shop in ours]
    followed = Model(settings.scoring_model)
    desk, thresholds = parts.mail_desk(settings, owner="seed"), parts.warning_thresholds(settings)
    left = await database.read(lambda tx: _nights(tx, ids, followed, nights))
    for first in range(0, len(left), _TOGETHER):
        facts = await database.read_at_leisure(partial(_facts, ids=ids, nights=left[first : first + _TOGETHER]))

        async def score(tx: Statements, facts: _Facts = facts) -> None:
            await _score(tx, facts, followed=followed, desk=desk, thresholds=thresholds)

        await database.write(score)


async def _nights(tx: Statements, ids: Sequence[str], model: Model, nights: int) -> list[int]:
    """The last days of their trade, as far as there are no scores as of them yet."""
    (row,) = await tx.fetch(f"SELECT min(created_at_ms) AS since FROM merchant WHERE id {tx.among(1)}", ids)
    scored = await tx.fetch(
        f"SELECT DISTINCT scored_at_ms FROM credit_score WHERE merchant_id {tx.among(1)} AND model = $2",
        ids, model.value,
    )  # fmt: skip
    known, first = {one["scored_at_ms"] for one in scored}, jakarta_number(row["since"])
    return [day for day in range(first + DAYS - nights + 1, first + DAYS + 1) if _begins(day) not in known]


async def _facts(tx: Statements, ids: Sequence[str], nights: Sequence[int]) -> _Facts:
    """Read before the commit that writes what comes of them: whoever else writes waits for that alone."""
    return [
        (night, model, await scoring.facts_of(tx, model, as_of_ms=_begins(night), merchant_ids=ids))
        for night in nights
        for model in Model
    ]


async def _score(tx: Statements, found: _Facts, *, followed: Model, desk: Desk, thresholds: Thresholds) -> None:
    for night, model, facts in found:
        as_of_ms = _begins(night)
        night_ms = as_of_ms + _NIGHT_MS
        if model is followed:
            await scoring.rescore(
                tx, facts, thresholds=thresholds, desk=desk, as_of_ms=as_of_ms, trace_id=new_id("trc"), now_ms=night_ms
            )
        else:
            await scoring.keep(tx, facts, as_of_ms=as_of_ms, now_ms=night_ms)


async def _let_in(tx: Statements, ours: Sequence[Shop], shops_hash: str, banks_hash: str, *, now_ms: int) -> None:
    for organisation_id, name, _, _ in BANKS:
        await create_bank(tx, name=name, organisation_id=organisation_id, actor=SYSTEM, now_ms=now_ms)
    await tx.many(
        "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
        "password_hash, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, 'active', 'id', $7, $8) ON CONFLICT DO NOTHING",
        [
            *(
                (
                    f"per_{shop.key}", f"org_{shop.key}", "merchant", _email(shop), shop.owner, "merchant_owner",
                    shops_hash, now_ms,
                )
                for shop in ours
            ),
            *(
                (person_id, organisation_id, "bank", email, f"{name} Analyst", "bank", banks_hash, now_ms)
                for organisation_id, name, person_id, email in BANKS
            ),
        ],
    )  # fmt: skip


async def _lend(tx: Statements, ours: Sequence[Shop], model: Model, *, now_ms: int) -> None:
    """Who lets which bank see what, and a loan application of each shop: one paid, one waiting, one refused. A shop
    that has ever let a bank see it is left as it is."""
    rows = await tx.fetch(
        f"SELECT DISTINCT merchant_id FROM bank_consent WHERE merchant_id {tx.among(1)}",
        [shop.merchant_id for shop in ours],
    )
    known = {row["merchant_id"] for row in rows}
    for shop in ours:
        if shop.merchant_id in known:
            continue
        owner = Actor(
            kind="person", id=f"per_{shop.key}", organisation_id=f"org_{shop.key}", role="merchant_owner"
        )  # fmt: skip
        for bank_id, scope in _CONSENTS[shop.story]:
            await grant(
                tx, merchant_id=shop.merchant_id, bank_id=bank_id, scope=scope, organisation_id=owner.organisation_id,
                actor=owner, now_ms=now_ms,
            )  # fmt: skip
        await _apply(tx, shop, owner, model, now_ms=now_ms)


async def _apply(tx: Statements, shop: Shop, owner: Actor, model: Model, *, now_ms: int) -> None:
    bank_id, person_id, amount_idr, purpose = _LOANS[shop.story]
    analyst = Actor(kind="person", id=person_id, organisation_id=bank_id, role="bank")
    wanted = applications.NewApplication(
        merchant_id=shop.merchant_id, bank_id=bank_id, amount_idr=amount_idr, tenor_months=12, purpose=purpose
    )
    loan = await applications.make(tx, wanted, side=Side.MERCHANT, actor=owner, now_ms=now_ms)
    await applications.submit(tx, loan, side=Side.MERCHANT, model=model, actor=owner, now_ms=now_ms)
    if shop.story == "steady":
        return
    await applications.review(tx, loan, actor=analyst, now_ms=now_ms)
    if shop.story == "failing":
        await applications.reject(tx, loan, reason="Omzet turun sejak enam minggu.", actor=analyst, now_ms=now_ms)
        return
    offer = applications.Offer(interest_bps=1_400)
    await applications.approve(tx, loan, offer, reason="Omzet tumbuh dan teratur.", actor=analyst, now_ms=now_ms)
    paid = applications.Disbursement(reference="TRF-0001", on=jakarta_day(now_ms), amount_idr=amount_idr)
    await applications.disburse(tx, loan, paid, actor=analyst, now_ms=now_ms)


def _email(shop: Shop) -> str:
    return f"merchant.{shop.letter}@example.com"


def _begins(day: int) -> int:
    """The moment at which the day of that number begins in Jakarta."""
    return day * DAY_MS - JAKARTA_AHEAD_MS
