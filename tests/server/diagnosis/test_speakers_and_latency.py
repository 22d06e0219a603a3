"""Boxes that play none of their payments are alerts until they do; and how long it takes until money is heard."""

import math
import random
from typing import Any

import pytest
from support.makers import qf100
from support.shop import NOW, Shop, execute, report, rows, take
from support.staff import Staff

from soundbox_server.clock import now_ms, rfc3339
from soundbox_server.db import Database, Statements
from soundbox_server.diagnosis import facts, silence
from soundbox_server.diagnosis.jobs import watch_speakers
from soundbox_server.diagnosis.latency import Latency, latency
from soundbox_server.diagnosis.silence import GRACE_MS, Patience
from soundbox_server.diagnosis.verdict import Cause, diagnose
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox

PATIENCE = Patience(minutes=10, payments=2)
_INSERT = (
    "INSERT INTO outbox_message (id, transport, kind, recipient_id, subject_id, original_id, address, body, state, "
    "reason, attempt, created_at_ms, received_at_ms, played_at_ms, trace_id) "
    "VALUES ($1, 'mqtt', 'payment_success', $2, $3, $4, 'a', $5, $6, $7, 1, $8, $9, $10, 'trc_1')"
)


def told(
    box: str,
    at_ms: int,
    *,
    received: int | None = None,
    played: int | None = None,
    state: str = "expired",
    reason: str | None = None,
    original: str | None = None,
) -> tuple[object, ...]:
    """An announcement as its row; `received` and `played` are milliseconds after it."""
    state = "played" if played is not None else "received" if received is not None else state
    return (
        new_id("ann"), box, new_id("txn"), original, b"", state, reason, at_ms,
        None if received is None else at_ms + received, None if played is None else at_ms + played,
    )  # fmt: skip


async def plant(database: Database, *messages: tuple[object, ...]) -> None:
    await database.write(lambda tx: tx.many(_INSERT, messages))


async def alerts(database: Database) -> list[tuple[str, str, str, int]]:
    found = await rows(
        database,
        "SELECT subject_id, state, severity, times FROM alert WHERE kind = 'device.silent_speaker' ORDER BY id",
    )
    return [(one["subject_id"], one["state"], one["severity"], one["times"]) for one in found]


async def test_a_box_that_plays_nothing_is_one_alert_until_it_plays_again(database: Database, shop: Shop) -> None:
    silent, speaking, seldom = await shop.box(), await shop.box(), await shop.box(online=False)
    at_ms = now_ms() - GRACE_MS - 60_000
    await plant(
        database, told(silent, at_ms), told(silent, at_ms + 1, received=20), told(speaking, at_ms),
        told(speaking, at_ms, played=900), told(seldom, at_ms),
    )  # fmt: skip
    await watch_speakers(database, PATIENCE)
    await watch_speakers(database, PATIENCE)
    raised = await alerts(database)
    await plant(database, told(seldom, at_ms))
    await watch_speakers(database, PATIENCE)
    both = await alerts(database)
    await plant(database, told(silent, now_ms(), played=50))
    await execute(database, "UPDATE device SET state = 'activated' WHERE id = $1", seldom)
    await watch_speakers(database, PATIENCE)

    assert raised == [(silent, "open", "critical", 1)]
    assert both == [*raised, (seldom, "open", "warning", 1)]
    assert [state for _, state, _, _ in await alerts(database)] == ["resolved", "resolved"]


@pytest.mark.parametrize(
    "message",
    [
        {"state": "suppressed", "reason": "device_suspended"}, {"state": "sent"}, {"reason": "reported_late"},
        {"original": "ann_1"},
    ],
)  # fmt: skip
async def test_what_no_box_was_to_play_or_says_nothing_of_is_no_silence(
    database: Database, shop: Shop, message: dict[str, Any]
) -> None:
    box, at_ms = await shop.box(), now_ms() - GRACE_MS - 60_000
    await plant(database, told(box, at_ms, **message), told(box, at_ms, **message), told(box, now_ms()))

    await watch_speakers(database, PATIENCE)

    assert await alerts(database) == []


async def test_five_thousand_boxes_are_looked_at_with_one_statement(database: Database, shop: Shop) -> None:
    """As many alerts as boxes, and the look itself asks once, whoever is silent."""
    box, at_ms = await shop.box(), now_ms() - GRACE_MS - 60_000

    async def multiply(tx: Statements) -> None:
        await tx.many(
            "INSERT INTO device (id, serial_number, vendor, model, state, key_version, last_seq, created_at_ms) "
            "VALUES ($1, $1, 'native', 'sbx-1', 'bound', 1, 0, $2)",
            [(f"fleet_{number:04}", NOW) for number in range(5_000)],
        )
        for first in range(0, 5_000, 500):  # no statement may take longer than a few seconds
            some = [f"fleet_{number:04}" for number in range(first, first + 500)]
            await tx.many(_INSERT, [told(one, at_ms, played=None if int(one[-4:]) % 10 else 800) for one in some])
            await tx.many(_INSERT, [told(one, at_ms) for one in some])
        await tx.execute("ANALYZE")  # a fleet does not come in one moment: what a server does by itself meanwhile

    await database.write(multiply)
    asked = 0

    async def counting(tx: Statements) -> list[silence.SilentBox]:
        nonlocal asked
        fetch = tx.fetch

        async def counted(sql: str, *args: object) -> Any:
            nonlocal asked
            asked += 1
            return await fetch(sql, *args)

        tx.fetch = counted  # type: ignore[method-assign]
        return await silence.silent(tx, PATIENCE, now_ms=now_ms())

    found = await database.read(counting)

    assert (len(found), asked) == (4_500, 1)
    assert box not in {one.device_id for one in found}


# --- heard latency ------------------------------------------------------------------------------------------------


def nearest_rank(values: list[int], percent: int) -> int:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100, 333])
async def test_percentiles_are_those_of_a_plain_sort(database: Database, shop: Shop, count: int) -> None:
    box, dice = await shop.box(), random.Random(count)
    at_ms = now_ms()
    received = [dice.randrange(20, 900) for _ in range(count)]
    played = [dice.randrange(900, 9_000) for _ in range(count)]
    await plant(
        database,
        *(told(box, at_ms, received=r, played=p) for r, p in zip(received, played, strict=True)),
        told(box, at_ms), told(box, at_ms, original="ann_1", received=1, played=1),
        told(box, at_ms - 3_600_000, received=1), told(box, at_ms, state="suppressed"),
    )  # fmt: skip

    async def of_all(tx: Statements) -> Latency:
        return await latency(tx, from_ms=at_ms - 1_000, to_ms=at_ms + 1_000)

    found = await database.read(of_all)
    assert (found.told, found.received.count, found.played.count) == (count + 1, count, count)
    for spread, values in ((found.received, received), (found.played, played)):
        assert (spread.p50_ms, spread.p95_ms, spread.p99_ms) == tuple(nearest_rank(values, p) for p in (50, 95, 99))


async def test_operators_ask_for_a_box_an_outlet_and_the_fleet(database: Database, shop: Shop, operator: Staff) -> None:
    slow, fast = await shop.box(), await shop.box()
    await execute(database, "UPDATE device_binding SET bound_at_ms = $2 WHERE device_id = $1", slow, now_ms() - 5_000)
    await plant(
        database, told(slow, now_ms() - 1_000, received=800, played=950), told(fast, now_ms(), received=40),
        told(slow, now_ms() - 60_000, received=10),  # it stood elsewhere then
    )  # fmt: skip
    of_box = await operator.get(f"/admin/devices/{slow}/latency")
    of_outlet = await operator.get(f"/admin/outlets/{shop.outlet_id}/latency")
    of_fleet = await operator.get("/admin/latency")
    before = await operator.get("/admin/latency", until=rfc3339(now_ms() - 3_600_000), hours=2)

    assert (of_box["told"], of_box["received"]["count"], of_box["played"]["p50_ms"]) == (2, 2, 950)
    assert of_outlet["received"] == {"count": 2, "p50_ms": 40, "p95_ms": 800, "p99_ms": 800}
    assert (of_fleet["told"], of_fleet["received"]["count"]) == (3, 3)
    assert before["played"] == {"count": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    await operator.refused("GET", "/admin/outlets/out_nowhere/latency", status=404)
    await operator.refused("GET", "/admin/devices/sbx_nowhere/latency", status=404)
    await operator.refused("GET", "/admin/latency?hours=169", status=400)


async def test_a_box_whose_kind_says_nothing_of_what_it_plays_is_not_silent(database: Database, shop: Shop) -> None:
    box = await qf100(shop)
    at_ms = now_ms() - GRACE_MS - 60_000
    for _ in range(PATIENCE.payments):
        payment = await shop.payment(box, now_ms=at_ms)
        await take(database, report(payment, paid_at_ms=at_ms), now_ms=at_ms)
    await database.write(lambda tx: outbox.make_due(tx, recipients=[box], now_ms=at_ms))
    await database.write(lambda tx: outbox.claim_due(tx, now_ms=at_ms, owner="test"))
    handed_over = await rows(database, "SELECT state FROM outbox_message WHERE unconfirmed")
    await watch_speakers(database, PATIENCE)
    found = await database.read(lambda tx: facts.of_payment(tx, box, payment.payment_id, now_ms=now_ms()))

    assert [one["state"] for one in handed_over] == ["published"] * PATIENCE.payments
    assert await alerts(database) == []
    assert diagnose(found).cause is Cause.UNCONFIRMED  # and not that no answer came
    timed = await database.read(lambda tx: latency(tx, from_ms=at_ms - 60_000, to_ms=now_ms()))
    assert timed.told == 0
