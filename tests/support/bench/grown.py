"""`scripts/bench --grown`: what a callback costs once there are many payments, and at ten times as many.

Two databases of one engine, alike but for their size, are measured in turns: groups of callbacks are taken through the
hot path as the api takes them, without HTTP. The past is written by a few statements over whole tables.
"""

import contextlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from support.bench import world
from support.bench.measure import databases
from support.bench.world import PlantedBox, PlantedPayment
from support.shop import LATE_REPORT_MS, TELLING, open_shop

from soundbox_server import clock, migrate
from soundbox_server.db import Database, Statements
from soundbox_server.ids import new_id
from soundbox_server.payments.service import Received, take_reports
from soundbox_server.payments.state import Outcome
from soundbox_server.providers.hmac_scheme import read_report

TILLS = 64
MERCHANTS = 16
GROUP = 16
DAYS = 90
AT_ONCE = 50_000  # payments of the past written by one transaction


class Costs(msgspec.Struct):
    """Microseconds a callback, by round, in a database with so many paid payments."""

    payments: int
    bytes_on_disk: int
    elapsed_us: list[float] = msgspec.field(default_factory=list)
    ours_us: list[float] = msgspec.field(default_factory=list)  # processor time of this process


class Grown(msgspec.Struct):
    database: str
    small: Costs
    large: Costs

    def ratio(self, what: str) -> float:
        """The median of the rounds' own ratios, large to small."""
        pairs = zip(getattr(self.large, what), getattr(self.small, what), strict=True)
        return statistics.median(large / small for large, small in pairs)


@dataclass(frozen=True)
class _World:
    database: Database
    boxes: Sequence[PlantedBox]
    costs: Costs


async def measured(kind: str, *, small: int, large: int, rounds: int, callbacks: int) -> Grown:
    """The first round warms up and is not kept, unless it is the only one."""
    folder = Path(tempfile.mkdtemp(prefix="sbgrown-"))
    try:
        async with contextlib.AsyncExitStack() as exits:
            urls = (
                [f"sqlite:///{folder / name}.db" for name in ("small", "large")]
                if kind == "sqlite"
                else await databases(kind, folder, exits)
            )
            worlds = [
                await exits.enter_async_context(_grown(url, payments))
                for url, payments in zip(urls, (small, large), strict=True)
            ]
            for n in range(rounds):
                for one in worlds if n % 2 else reversed(worlds):
                    elapsed_us, ours_us = await _round(one, callbacks)
                    if n or rounds == 1:
                        one.costs.elapsed_us.append(elapsed_us)
                        one.costs.ours_us.append(ours_us)
            return Grown(kind, *(one.costs for one in worlds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(grown: Grown) -> str:
    lines = [f"{grown.database}: a callback in groups of {GROUP}, median of {len(grown.small.elapsed_us)} rounds"]
    for costs in (grown.small, grown.large):
        elapsed, ours = statistics.median(costs.elapsed_us), statistics.median(costs.ours_us)
        size = f"{costs.bytes_on_disk / 2**20:,.0f} MiB"
        lines.append(f"{costs.payments:>10,} payments ({size}): {elapsed:7.0f} us elapsed, {ours:7.0f} us of our time")
    lines += [
        f"ratio, {name}: {grown.ratio(what):.2f}" for name, what in (("elapsed", "elapsed_us"), ("our time", "ours_us"))
    ]
    return "\n".join(lines)


async def _round(one: _World, callbacks: int) -> tuple[float, float]:
    waiting = await world.plant_payments(one.database, one.boxes, count=callbacks)
    groups = list(_groups([_received(payment) for payment in waiting]))
    began, used = time.perf_counter(), time.process_time()
    for group in groups:
        taken = await one.database.write(partial(_take, group=group), at_once=True)
        if {each.outcome for each in taken} != {Outcome.APPLIED}:
            raise AssertionError(f"not every payment was taken: {taken}")
    elapsed, ours = time.perf_counter() - began, time.process_time() - used
    return elapsed / callbacks * 1e6, ours / callbacks * 1e6


def _take(tx: Statements, *, group: Sequence[Received]) -> object:
    return take_reports(tx, group, now_ms=clock.now_ms(), telling=TELLING, late_report_ms=LATE_REPORT_MS)


def _groups(received: Sequence[Received]) -> Iterator[Sequence[Received]]:
    for n in range(0, len(received), GROUP):
        yield received[n : n + GROUP]


def _received(payment: PlantedPayment) -> Received:
    now_ms = clock.now_ms()
    body = {
        "event_id": new_id("evt"), "partner_reference": payment.reference, "status": "paid", "amount": world.AMOUNT,
        "currency": "IDR", "paid_at": clock.rfc3339(now_ms), "issuer": "Bank Contoh", "rrn": payment.id[-12:],
    }  # fmt: skip
    report = read_report(json.dumps(body).encode(), provider="sandbox")
    return Received(report=report, request_id=new_id("req"), received_at_ms=now_ms)


@contextlib.asynccontextmanager
async def _grown(url: str, payments: int) -> AsyncIterator[_World]:
    database = Database(url)
    try:
        await migrate.upgrade(database)
        boxes = await _tills(database)
        await _live_through(database, payments)
        yield _World(database, boxes, Costs(payments, await _size(database)))
    finally:
        await database.close()


async def _tills(database: Database) -> list[PlantedBox]:
    boxes = []
    for _ in range(MERCHANTS):
        till = await open_shop(database)
        for n in range(TILLS // MERCHANTS):
            till = await till.another_terminal() if n else till
            device_id, token = await till.box_with_token()
            boxes.append(
                PlantedBox(
                    device_id=device_id, terminal_id=till.terminal_id, token=token, password="",
                    merchant_id=till.merchant_id, outlet_id=till.outlet_id,
                )
            )  # fmt: skip
    return boxes


# The past: payments paid one after the other, evenly over the tills and the days before today.
_NUMBERS = "WITH RECURSIVE past(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM past WHERE n < $2) "
_PAST = """
, till AS (SELECT b.terminal_id, b.device_id, b.outlet_id, b.merchant_id,
                  row_number() OVER (ORDER BY b.terminal_id) - 1 AS number
           FROM device_binding b)
, paid AS (SELECT n, {key} AS key, $3 + n * $4 AS at_ms, till.*
           FROM past JOIN till ON till.number = n % {tills})
"""
_TABLES = (
    "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, device_id, request_id, source, qr_mode, amount, "
    "currency, state, late, fee_amount, fee_bps, fee_version, issuer, rrn, expires_at_ms, paid_at_ms, captured_at_ms, "
    "created_at_ms, trace_id, paid_amount) {past} SELECT 'txn_' || key, merchant_id, outlet_id, terminal_id, "
    "device_id, 'req_' || key, 'device', 'dynamic', 50000, 'IDR', 'paid', {no}, 350, 70, 'past/1', 'Bank Contoh', "
    "key, at_ms + 300000, at_ms, at_ms, at_ms, 'trc_' || key, 50000 FROM paid",
    "INSERT INTO payment_attempt (id, payment_id, provider, reference, provider_reference, state, qr_payload, "
    "lease_until_ms, created_at_ms, answered_at_ms) {past} SELECT 'att_' || key, 'txn_' || key, 'sandbox', "
    "'ref_' || key, 'ptx_' || key, 'succeeded', {qr}, 0, at_ms, at_ms FROM paid",
    "INSERT INTO provider_event (id, provider, event_key, body_sha256, body, outcome, payment_id, reference, "
    "request_id, received_at_ms) {past} SELECT 'evt_' || key, 'sandbox', 'evt_' || key, 'sha_' || key, {body}, "
    "'applied', 'txn_' || key, 'ref_' || key, 'req_' || key, at_ms FROM paid",
    "INSERT INTO journal (id, kind, payment_id, provider_event_id, booked_at_ms) {past} SELECT 'jrn_' || key, "
    "'capture', 'txn_' || key, 'evt_' || key, at_ms FROM paid",
    "INSERT INTO posting (journal_id, position, source, destination, unit, amount) {past} SELECT 'jrn_' || key, 0, "
    "'provider_receivable:sandbox', 'merchant_payable:' || merchant_id, 'IDR', 50000 FROM paid",
    "INSERT INTO posting (journal_id, position, source, destination, unit, amount) {past} SELECT 'jrn_' || key, 1, "
    "'merchant_payable:' || merchant_id, 'fees:sandbox', 'IDR', 350 FROM paid",
    "INSERT INTO payment_event (id, payment_id, at_ms, kind, state, source) {past} SELECT 'pev_0' || key, "
    "'txn_' || key, at_ms, 'payment.created', 'created', 'device' FROM paid",
    "INSERT INTO payment_event (id, payment_id, at_ms, kind, state, source) {past} SELECT 'pev_1' || key, "
    "'txn_' || key, at_ms, 'payment.paid', 'paid', 'sandbox' FROM paid",
    "INSERT INTO outbox_message (id, transport, kind, recipient_id, subject_id, seq, address, body, state, attempt, "
    "created_at_ms, published_at_ms, received_at_ms, played_at_ms, finished_at_ms, trace_id) {past} SELECT "
    "'ann_' || key, 'mqtt', 'payment_success', device_id, 'txn_' || key, n, 'past', {body}, 'played', 1, at_ms, at_ms, "
    "at_ms, at_ms, at_ms, 'trc_' || key FROM paid",
)


async def _live_through(database: Database, payments: int) -> None:
    """So many paid payments with everything that belongs to them, as dear to look up as real ones."""
    sqlite = database.dialect == "sqlite"
    body = "zeroblob(400)" if sqlite else "decode(repeat('00', 400), 'hex')"
    qr = "hex(zeroblob(100))" if sqlite else "repeat('0', 200)"
    key = "printf('0%025d', n)" if sqlite else "'0' || lpad(n::text, 25, '0')"
    past = _PAST.format(key=key, tills=TILLS)
    numbers = _NUMBERS if sqlite else _NUMBERS.replace("$1", "$1::bigint")
    if not sqlite:
        past = past.replace("$3", "$3::bigint").replace("$4", "$4::bigint")
    step_ms = DAYS * 86_400_000 // payments
    began_ms = clock.now_ms() - (DAYS + 1) * 86_400_000

    async def write(tx: Statements, *, first: int, last: int) -> None:
        for sql in _TABLES:
            filled = sql.format(past=numbers + past, no="0" if sqlite else "false", body=body, qr=qr)
            await tx.execute(filled, first, last, began_ms, step_ms)

    for first in range(1, payments + 1, AT_ONCE):
        last = min(payments, first + AT_ONCE - 1)
        await database.write_at_leisure(partial(write, first=first, last=last))
    await database.write_at_leisure(_analyze)


async def _analyze(tx: Statements) -> None:
    await tx.execute("ANALYZE")


async def _size(database: Database) -> int:
    async def work(tx: Statements) -> int:
        sqlite = "SELECT page_count * page_size AS n FROM pragma_page_count(), pragma_page_size()"
        sql = sqlite if tx.dialect == "sqlite" else "SELECT pg_database_size(current_database()) AS n"
        return int((await tx.fetch(sql))[0]["n"])

    return await database.read(work)
