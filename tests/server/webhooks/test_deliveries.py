"""From a payment to its receivers: what commits with it, who hears it, and what becomes of it when nobody takes it."""

import asyncio
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
from pydantic import TypeAdapter
from standardwebhooks import Webhook
from support.acquirer import adjustment
from support.bank import settlement
from support.databases import fresh_database
from support.receiver import Receiver, answered, receiving
from support.shop import LATE_REPORT_MS, NOW, TELLING, Shop, adjust, execute, open_shop, report, row, rows, take
from support.stack import until

from soundbox_server import clock, seal
from soundbox_server.db import Database, Statements, statements, transaction
from soundbox_server.devices import presence
from soundbox_server.devices import service as devices
from soundbox_server.errors import Conflict
from soundbox_server.payments import review
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.review import Action
from soundbox_server.payments.service import expire_unpaid
from soundbox_server.payouts import service as payouts
from soundbox_server.webhooks import deliveries, service
from soundbox_server.webhooks.addresses import Reach
from soundbox_server.webhooks.deliveries import GIVE_UP_MS, RETRY_AFTER_S
from soundbox_server.webhooks.jobs import LANES, Courier
from soundbox_server.webhooks.kinds import KINDS
from soundbox_server.webhooks.sender import Sender, look_up
from soundbox_server.webhooks.service import Wanted

RING = seal.ring(bytes(range(32)))
NOWHERE = "http://127.0.0.1:9999/"
HERE = Reach(https_only=False, loopback=True)
TRUST = httpx.create_ssl_context()


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def courier(database: Database, *, timeout_s: float = 15) -> Courier:
    return Courier(database, Sender(reach=HERE, trust=TRUST, timeout_s=timeout_s), ring=RING, owner="test")


async def organisation_of(shop: Shop) -> str:
    found = await row(shop.database, "SELECT organisation_id FROM merchant WHERE id = $1", shop.merchant_id)
    return str(found["organisation_id"])


async def partner(database: Database, name: str = "org_partner") -> str:
    await execute(
        database, "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, 'partner', $1, 1)", name
    )
    return name


async def listening(database: Database, organisation_id: str, url: str, **other: Any) -> tuple[str, str]:
    """An endpoint's id and secret."""
    wanted = Wanted(organisation_id=organisation_id, url=url, **other)
    async with transaction(database) as session:
        endpoint, secret = await service.create(session, wanted, reach=HERE, ring=RING, by=None, now_ms=NOW)
        return endpoint.id, secret


async def aimed(database: Database, payment_id: str, organisation_id: str, url: str | None, **facts: Any) -> None:
    await database.write(
        lambda tx: service.aim(
            tx, payment_id, organisation_id=organisation_id, url=url, facts=facts, reach=HERE, ring=RING, now_ms=NOW
        )
    )


async def deliver(database: Database, by: Courier | None = None) -> None:
    """Send what is due, and wait until it has been tried."""
    by = by or courier(database)
    await by.tick()
    await by.drain()


async def letters(database: Database) -> list[dict[str, Any]]:
    return await rows(
        database,
        "SELECT id, kind, recipient_id, subject_id, seq, state, attempt, reason, due_at_ms, original_id "
        "FROM outbox_message WHERE transport = 'webhook' ORDER BY id",
    )


async def paid(shop: Shop, box: str, **other: Any) -> str:
    payment = await shop.payment(box)
    await take(shop.database, report(payment, **other))
    return payment.payment_id


async def test_a_paid_payment_reaches_its_merchants_address_signed(
    database: Database, shop: Shop, receiver: Receiver
) -> None:
    _, secret = await listening(database, await organisation_of(shop), receiver.url())
    payment_id = await paid(shop, await shop.box())

    await deliver(database)

    (got,) = receiver.got
    assert Webhook(secret).verify(got.body, got.headers) == got.said
    assert (got.said["type"], got.said["sequence"], got.said["id"]) == ("payment.paid", 1, got.headers["webhook-id"])
    data = got.said["data"]
    assert (data["transaction_id"], data["status"], data["amount"]) == (payment_id, "paid", 50_000)
    assert (data["paid_amount"], data["fee_amount"], data["net_amount"]) == (50_000, 350, 49_650)
    assert (data["paid_at"], data["issuer"]) == ("2026-05-23T10:00:00.000Z", "Bank Contoh")
    (letter,) = await letters(database)
    assert (letter["state"], letter["attempt"]) == ("sent", 1)
    assert await rows(database, "SELECT id FROM webhook_event") == []


async def test_every_event_says_what_its_description_says(database: Database, shop: Shop, receiver: Receiver) -> None:
    await listening(database, await organisation_of(shop), receiver.url())
    box = await shop.box()
    first, second, third = [await shop.payment(box) for _ in range(3)]
    await take(database, report(first))
    await take(database, report(second, amount=1))
    await database.write(lambda tx: expire_unpaid(tx, now_ms=NOW + 3_600_000))
    await take(database, report(third), now_ms=NOW + 3_600_000)
    will = devices.Session(device_id=box, online=False, epoch=1, at_ms=NOW)
    await database.write(lambda tx: devices.take_sessions(tx, [will]))

    await deliver(database)

    said = sorted((got.said for got in receiver.got), key=lambda one: int(one["sequence"]))
    assert [one["type"] for one in said] == [
        "payment.paid", "payment.needs_review", "payment.expired", "payment.late", "device.offline",
    ]  # fmt: skip
    assert [one["sequence"] for one in said] == [1, 2, 3, 4, 5]
    for one in said:
        TypeAdapter(KINDS[one["type"]].shape).validate_python(one["data"], extra="forbid")
    assert [one["data"].get("late") for one in said] == [False, False, False, True, None]
    assert said[-1]["data"] | {"serial_number": "", "label": None} == {
        "device_id": box, "serial_number": "", "label": None, "merchant_id": shop.merchant_id,
        "outlet_id": shop.outlet_id, "terminal_id": shop.terminal_id, "online": False, "reason": "will",
        "since": "2026-05-23T10:00:00.000Z",
    }  # fmt: skip


async def events(database: Database) -> list[tuple[str, dict[str, Any]]]:
    """What waits to be told, each as its description says."""
    found = await rows(database, "SELECT type, data FROM webhook_event ORDER BY id")
    for one in found:
        TypeAdapter(KINDS[one["type"]].shape).validate_python(json.loads(one["data"]), extra="forbid")
    return [(one["type"], json.loads(one["data"])) for one in found]


async def test_money_that_moves_on_is_told(database: Database, shop: Shop) -> None:
    await listening(database, await organisation_of(shop), NOWHERE)
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))
    await adjust(database, adjustment(payment, "refunded", amount=20_000, refund_reference="r1"))
    await adjust(database, adjustment(payment, "disputed"))
    await adjust(database, adjustment(payment, "reversed"))

    told = await events(database)

    assert [kind for kind, _ in told] == [
        "payment.paid", "payment.refunded", "payment.disputed", "payment.reversed",
    ]  # fmt: skip
    assert [data["status"] for _, data in told] == ["paid", "partially_refunded", "disputed", "reversed"]
    assert (told[1][1]["refund_amount"], told[1][1]["refunded_amount"]) == (20_000, 20_000)


async def test_what_a_person_decides_is_told_as_what_became_of_the_payment(database: Database, shop: Shop) -> None:
    await listening(database, await organisation_of(shop), NOWHERE)
    box = await shop.box()
    twice, rejected, accepted = [await shop.payment(box) for _ in range(3)]
    await take(database, report(twice, rrn="1"))
    for payment, other in ((twice, {"rrn": "2"}), (rejected, {"amount": 1}), (accepted, {"amount": 2})):
        await take(database, report(payment, **other))
    decisions: list[tuple[Pending, Action]] = [(twice, "reject"), (rejected, "reject"), (accepted, "accept")]
    for payment, action in decisions:
        await decide(database, payment.payment_id, action)

    told = [(data["transaction_id"], kind, data["status"]) for kind, data in await events(database)]

    assert told == [
        (twice.payment_id, "payment.paid", "paid"),
        (twice.payment_id, "payment.needs_review", "paid"),
        (rejected.payment_id, "payment.needs_review", "needs_review"),
        (accepted.payment_id, "payment.needs_review", "needs_review"),
        (rejected.payment_id, "payment.failed", "failed"),
        (accepted.payment_id, "payment.paid", "paid"),
    ]


async def decide(database: Database, payment_id: str, action: Action) -> None:
    await database.write(
        lambda tx: review.resolve(
            tx, payment_id, action=action, reason="looked into", by="per_1", able={}, telling=TELLING,
            late_report_ms=LATE_REPORT_MS, now_ms=NOW,
        )
    )  # fmt: skip


async def test_what_reached_the_merchants_account_and_what_came_back_is_told(database: Database, shop: Shop) -> None:
    await listening(database, await organisation_of(shop), NOWHERE, events=["settlement.paid", "payout.failed"])
    settlement_id = await settlement(shop, mode="manual")
    payout_id = await database.write(
        lambda tx: payouts.mark_paid(tx, settlement_id, reference="TRF-1", reason="by hand", by="per_1", now_ms=NOW)
    )
    await database.write(
        lambda tx: payouts.mark_returned(tx, payout_id, reason="closed account", by="per_1", now_ms=NOW)
    )

    _, (kind, done), (also, back) = await events(database)

    assert (kind, also) == ("settlement.paid", "payout.failed")
    assert done == {
        "settlement_id": settlement_id, "merchant_id": shop.merchant_id, "net_amount": 49_650, "status": "paid",
        "payout_id": payout_id, "payout_mode": "manual", "code": None,
    }  # fmt: skip
    assert back == done | {"status": "failed", "code": "REVERSED"}


async def test_a_box_that_falls_silent_and_comes_back_is_told(database: Database, shop: Shop) -> None:
    await listening(database, await organisation_of(shop), NOWHERE)
    box, late = await shop.box(), NOW + 3_600_000
    born = devices.Session(device_id=box, online=True, epoch=2, at_ms=late + 1_000)
    await database.write(lambda tx: presence.end_silent(tx, [box], now_ms=late))
    await database.write(lambda tx: devices.take_sessions(tx, [born, born]))
    await database.write(lambda tx: presence.end_silent(tx, [box], now_ms=late + 3_600_000))
    await database.write(lambda tx: presence.heard_of(tx, [box], at_ms=late + 3_600_001))

    told = await events(database)

    assert [(kind, data["online"], data["reason"]) for kind, data in told] == [
        ("device.offline", False, "silent"), ("device.online", True, None),
        ("device.offline", False, "silent"), ("device.online", True, None),
    ]  # fmt: skip


async def test_where_nobody_listens_nothing_is_written(database: Database, shop: Shop) -> None:
    other = await open_shop(database)
    endpoint_id, _ = await listening(database, await organisation_of(other), NOWHERE)
    await paid(shop, await shop.box())
    async with transaction(database) as session:
        endpoint = await service.lock(session, endpoint_id, organisation_id=None)
        await service.disable(session, endpoint, now_ms=NOW)
    await paid(other, await other.box())

    assert await rows(database, "SELECT id FROM webhook_event") == []


async def test_fifty_callbacks_for_one_payment_are_one_event(database: Database, shop: Shop) -> None:
    await listening(database, await organisation_of(shop), NOWHERE)
    payment = await shop.payment(await shop.box())
    one = report(payment, event_id="pev_once")

    await asyncio.gather(*(take(database, one) for _ in range(50)))

    assert len(await rows(database, "SELECT id FROM webhook_event")) == 1


async def test_a_partner_hears_of_no_sale_that_the_merchants_policy_gives_back(
    database: Database, shop: Shop, receiver: Receiver
) -> None:
    await execute(database, "UPDATE merchant SET late_policy = 'refund'")
    payment = await shop.payment(await shop.box())
    await aimed(database, payment.payment_id, await partner(database), receiver.url("/in"), transaction_id="TRX-1")
    late_ms = payment.expires_at_ms + 60_000
    await database.write(lambda tx: expire_unpaid(tx, now_ms=late_ms))

    await take(database, report(payment), now_ms=late_ms)
    await deliver(database)

    assert [got.said["payment_status"] for got in receiver.got] == ["expired"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_events_that_another_worker_is_at_are_waited_for(database: Database, shop: Shop) -> None:
    """Whoever went on with the later ones would give them the smaller numbers."""
    await listening(database, await organisation_of(shop), "https://shop.test/in")
    box = await shop.box()
    subjects = [await paid(shop, box), await paid(shop, box)]
    routing: list[asyncio.Task[int]] = []

    async def waits() -> bool:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return routing[0].done() or bool(await rows(database, waiting))

    async def hold_the_first(tx: Statements) -> None:
        await tx.fetch("SELECT id FROM webhook_event ORDER BY id LIMIT 1 FOR UPDATE")
        route = database.write(lambda tx: deliveries.route(tx, owner="another", now_ms=NOW))
        routing.append(asyncio.create_task(route))
        await until(waits, what="the wait for the first event")
        assert not routing[0].done()

    await database.write(hold_the_first)

    assert await routing[0] == len(subjects)


async def test_what_rolls_back_is_never_told(database: Database, shop: Shop) -> None:
    await listening(database, await organisation_of(shop), NOWHERE)
    payment = await shop.payment(await shop.box())

    async def cut_off() -> None:
        async with transaction(database) as session:
            tx = await statements(session)
            await expire_unpaid(tx, now_ms=NOW + 3_600_000)
            assert len(await tx.fetch("SELECT id FROM webhook_event")) == 1
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        await cut_off()

    assert await rows(database, "SELECT id FROM webhook_event") == []
    assert (await row(database, "SELECT state FROM payment WHERE id = $1", payment.payment_id))["state"] == (
        "awaiting_payment"
    )


async def test_an_address_hears_what_it_subscribed_to_and_what_its_merchant_does(
    database: Database, shop: Shop, receiver: Receiver
) -> None:
    owner = await organisation_of(shop)
    other = await open_shop(database)
    await execute(database, "UPDATE merchant SET organisation_id = $2 WHERE id = $1", other.merchant_id, owner)
    await listening(database, owner, receiver.url("/expired"), events=["payment.expired"])
    await listening(database, owner, receiver.url("/one"), merchant_id=shop.merchant_id)
    await listening(database, owner, receiver.url("/all"))
    await paid(shop, await shop.box())
    await paid(other, await other.box())

    await deliver(database)

    assert sorted(got.path for got in receiver.got) == ["/all", "/all", "/one"]
    sequences = sorted(got.said["sequence"] for got in receiver.got if got.path == "/all")
    assert sequences == [1, 2]


async def test_a_partner_hears_of_the_payments_it_made_and_of_no_fee(
    database: Database, shop: Shop, receiver: Receiver
) -> None:
    box, org = await shop.box(), await partner(database)
    await listening(database, org, receiver.url("/partner"))
    theirs = await shop.payment(box)
    await aimed(database, theirs.payment_id, org, None)
    await paid(shop, box)
    await take(database, report(theirs))

    await deliver(database)

    (got,) = receiver.got
    assert got.said["data"]["transaction_id"] == theirs.payment_id
    assert {"fee_amount", "net_amount"}.isdisjoint(got.said["data"])


async def test_a_payment_with_an_address_of_its_own_is_told_there_as_reference_003_tells_it(
    database: Database, shop: Shop, receiver: Receiver
) -> None:
    org = await partner(database)
    secret = await database.write(lambda tx: service.kgiton_secret(tx, org, ring=RING, now_ms=NOW))
    payment = await shop.payment(await shop.box())
    await aimed(
        database, payment.payment_id, org, receiver.url("/paid"), transaction_id="TRX-7", license_key="A1B2C",
        payment_type="qris", gateway_transaction_id="gw_1",
    )  # fmt: skip
    await take(database, report(payment))

    await deliver(database)

    (got,) = receiver.got
    assert got.path == "/paid"
    assert got.said == {
        "event": "payment.success", "payment_id": payment.payment_id, "transaction_id": "TRX-7",
        "license_key": "A1B2C", "payment_type": "qris", "gateway_transaction_id": "gw_1", "amount": 50_000,
        "payment_status": "paid", "status": "paid", "paid_at": "2026-05-23T10:00:00.000Z",
    }  # fmt: skip
    assert got.headers["x-kgiton-signature"] == _hex_hmac(secret, got.body)
    assert "signature" not in got.said


def _hex_hmac(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def test_a_partners_new_secret_signs_from_then_on(database: Database, shop: Shop, receiver: Receiver) -> None:
    org, box = await partner(database), await shop.box()
    first = await database.write(lambda tx: service.kgiton_secret(tx, org, ring=RING, now_ms=NOW))
    second = await database.write(lambda tx: service.kgiton_secret(tx, org, ring=RING, now_ms=NOW))
    payment = await shop.payment(box)
    await aimed(database, payment.payment_id, org, receiver.url(), transaction_id="T")
    await take(database, report(payment))

    await deliver(database)

    assert first != second
    assert receiver.got[0].headers["x-kgiton-signature"] == _hex_hmac(second, receiver.got[0].body)


async def test_what_fails_is_tried_again_by_the_table_and_is_dead_in_the_end(database: Database, shop: Shop) -> None:
    async with receiving(answered(503, b"not\x00now", "Retry-After: 1")) as receiver:
        endpoint_id, _ = await listening(database, await organisation_of(shop), receiver.url())
        await paid(shop, await shop.box())
        waits = []
        with time_machine.travel(clock.now_ms() / 1000 + 1, tick=False) as moved:
            for delay in (*RETRY_AFTER_S, 0):
                at_ms = clock.now_ms()
                await deliver(database)
                await deliver(database)  # too early: nothing is tried
                (letter,) = await letters(database)
                waits.append(None if letter["due_at_ms"] is None else (letter["due_at_ms"] - at_ms) / 1000)
                moved.shift(delay * 1.2)
            moved.shift(86_400)
            await deliver(database)

    assert RETRY_AFTER_S == (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
    assert all(low <= wait <= low * 1.2 for low, wait in zip(RETRY_AFTER_S, waits[:-1], strict=True))
    assert len(receiver.got) == len(RETRY_AFTER_S) + 1
    assert len({(got.headers["webhook-id"], got.body) for got in receiver.got}) == 1
    assert (letter["state"], letter["reason"], waits[-1]) == ("failed", "http_503", None)
    (alert,) = await rows(database, "SELECT kind, subject_id, severity FROM alert")
    assert alert == {"kind": "webhook.dead", "subject_id": endpoint_id, "severity": "warning"}
    log = await rows(database, "SELECT number, status, error, response_body FROM webhook_attempt ORDER BY id")
    assert [one["number"] for one in log] == list(range(1, 11))
    assert {(one["status"], one["error"], one["response_body"]) for one in log} == {(503, "http_503", "not�now")}


async def test_a_partner_that_was_down_for_three_days_gets_everything(database: Database, shop: Shop) -> None:
    async with receiving(answered(500)) as receiver:
        endpoint_id, _ = await listening(database, await organisation_of(shop), receiver.url())
        box = await shop.box()
        ids = [await paid(shop, box) for _ in range(3)]
        with time_machine.travel(clock.now_ms() / 1000 + 1, tick=False) as moved:
            for _ in range(36):
                await deliver(database)
                await deliver(database)
                await deliver(database)
                moved.shift(7_200)
            receiver.answer = answered(200)
            receiver.got.clear()
            for _ in range(4):
                moved.shift(86_400)
                await deliver(database)

    assert sorted(got.said["data"]["transaction_id"] for got in receiver.got) == sorted(ids)
    assert {letter["state"] for letter in await letters(database)} == {"sent"}
    standing = await row(database, "SELECT state, failing_since_ms FROM webhook_endpoint WHERE id = $1", endpoint_id)
    assert standing == {"state": "active", "failing_since_ms": None}


async def test_an_address_that_takes_nothing_for_days_is_switched_off(database: Database, shop: Shop) -> None:
    async with receiving(answered(500)) as receiver:
        endpoint_id, _ = await listening(database, await organisation_of(shop), receiver.url())
        box = await shop.box()
        await paid(shop, box)
        with time_machine.travel(clock.now_ms() / 1000 + 1, tick=False) as moved:
            await deliver(database)
            moved.shift(GIVE_UP_MS / 1000)  # quiet days: one more failure is no reason yet
            await deliver(database)
            between = await row(database, "SELECT state FROM webhook_endpoint WHERE id = $1", endpoint_id)
            for delay in RETRY_AFTER_S[1:]:
                moved.shift(delay * 1.3)
                await deliver(database)

    standing = await row(database, "SELECT state, disabled_reason FROM webhook_endpoint WHERE id = $1", endpoint_id)
    assert between == {"state": "active"}
    assert standing == {"state": "disabled", "disabled_reason": "failing"}
    assert [letter["state"] for letter in await letters(database)] == ["failed"]
    kinds = {one["kind"] for one in await rows(database, "SELECT kind FROM alert")}
    assert kinds == {"webhook.dead", "webhook.disabled"}


async def test_a_ping_that_nobody_takes_says_nothing_of_the_days(database: Database, shop: Shop) -> None:
    async with receiving(answered(500)) as receiver:
        endpoint_id, _ = await listening(database, await organisation_of(shop), receiver.url())
        await database.write(lambda tx: deliveries.ping(tx, endpoint_id, owner="test", now_ms=clock.now_ms()))
        await deliver(database)

    found = await row(database, "SELECT state, failing_since_ms FROM webhook_endpoint WHERE id = $1", endpoint_id)
    assert found == {"state": "active", "failing_since_ms": None}


async def test_an_organisation_has_so_many_webhooks_and_no_more(database: Database, shop: Shop) -> None:
    org = await organisation_of(shop)
    for _ in range(service.MOST_ENDPOINTS):
        await listening(database, org, "http://127.0.0.1:9999/hooks")

    with pytest.raises(Conflict):
        await listening(database, org, "http://127.0.0.1:9999/hooks")


async def test_a_name_that_is_never_found_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, real = threading.Event(), socket.getaddrinfo

    def slow(host: str, *args: Any, **other: Any) -> Any:
        if host.endswith(".slow.test"):
            let_go.wait(30)
        return real("127.0.0.1", *args, **other)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    held = [asyncio.create_task(look_up(f"{n}.slow.test", 443)) for n in range(8)]
    try:
        async with asyncio.timeout(20):
            assert await look_up("quick.test", 443) == ["127.0.0.1"]
        assert not any(one.done() for one in held)
    finally:
        let_go.set()
        await asyncio.gather(*held)


async def test_gone_switches_an_address_off_at_once_but_not_a_whole_partner(database: Database, shop: Shop) -> None:
    async with receiving(answered(410)) as receiver:
        org, box = await partner(database), await shop.box()
        endpoint_id, _ = await listening(database, await organisation_of(shop), receiver.url())
        payment = await shop.payment(box)
        await aimed(database, payment.payment_id, org, receiver.url("/theirs"), transaction_id="T")
        await take(database, report(payment))
        await deliver(database)
        await paid(shop, box)
        await deliver(database)

    assert len(receiver.got) == 2
    found = {
        one["id"]: one
        for one in await rows(database, "SELECT id, profile, state, disabled_reason FROM webhook_endpoint")
    }
    gone = found.pop(endpoint_id)
    assert (gone["state"], gone["disabled_reason"]) == ("disabled", "gone")
    assert [one["state"] for one in found.values()] == ["active"]
    assert {letter["state"] for letter in await letters(database)} == {"failed"}


async def test_a_slow_receiver_slows_nobody_else(database: Database, shop: Shop, receiver: Receiver) -> None:
    other = await open_shop(database)
    async with receiving(None) as slow:
        await listening(database, await organisation_of(shop), slow.url())
        await listening(database, await organisation_of(other), receiver.url())
        slow_box, box = await shop.box(), await other.box()
        for _ in range(12):
            await paid(shop, slow_box)
        by = courier(database)
        await by.tick()
        await slow.until(LANES)
        for _ in range(3):
            await paid(other, box)
        await by.tick()
        await receiver.until(3)

        assert (len(slow.got), slow.most_under_way) == (LANES, LANES)
        slow.let_go.set()
        await by.drain()

    assert {letter["state"] for letter in await letters(database)} == {"sent"}
    assert (len(slow.got), slow.most_under_way) == (12, LANES)


async def test_two_workers_send_each_letter_once(database: Database, shop: Shop, receiver: Receiver) -> None:
    await listening(database, await organisation_of(shop), receiver.url())
    box = await shop.box()
    for _ in range(20):
        await paid(shop, box)
    one, two = courier(database), courier(database)

    await asyncio.gather(one.tick(), two.tick())
    await asyncio.gather(one.tick(), two.tick())
    await asyncio.gather(one.drain(), two.drain())

    assert sorted(got.said["sequence"] for got in receiver.got) == list(range(1, 21))


async def test_what_a_crash_left_behind_is_tried_again(database: Database, shop: Shop) -> None:
    async with receiving(None) as receiver:
        await listening(database, await organisation_of(shop), receiver.url())
        await paid(shop, await shop.box())
        by = courier(database)
        await by.tick()
        await receiver.until(1)
        await by.end()
        receiver.answer = answered(200)
        await deliver(database)
        assert len(receiver.got) == 1  # its lease still holds
        with time_machine.travel(clock.now_ms() / 1000 + 180):
            await deliver(database)

    assert [letter["state"] for letter in await letters(database)] == ["sent"]
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1


async def test_what_failed_is_sent_again_once_and_in_its_order(database: Database, shop: Shop) -> None:
    async with receiving(answered(410)) as receiver:
        endpoint_id, _ = await listening(database, await organisation_of(shop), receiver.url())
        box = await shop.box()
        for _ in range(3):
            await paid(shop, box)
        await deliver(database)
        async with transaction(database) as session:
            endpoint = await service.lock(session, endpoint_id, organisation_id=None)
            await service.enable(session, endpoint, now_ms=NOW)
        receiver.answer = answered(200)
        receiver.got.clear()

        async def again() -> int:
            return await database.write(
                lambda tx: deliveries.replay_failed(tx, endpoint_id, since_ms=0, owner="test", now_ms=clock.now_ms())
            )

        counted = [await again(), await again()]
        await deliver(database)
        counted.append(await again())

    assert counted == [3, 0, 0]
    found = await letters(database)
    first, second = found[:3], found[3:]
    assert [letter["original_id"] for letter in second] == [letter["id"] for letter in first]
    assert [letter["seq"] for letter in second] == [1, 2, 3]
    assert {got.headers["webhook-id"] for got in receiver.got} == {letter["subject_id"] for letter in first}
    assert {letter["state"] for letter in second} == {"sent"}


async def test_without_a_secret_that_opens_nothing_is_sent_and_nothing_is_lost(
    database: Database, shop: Shop, receiver: Receiver
) -> None:
    await listening(database, await organisation_of(shop), receiver.url())
    await paid(shop, await shop.box())
    stranger = Courier(database, Sender(reach=HERE, trust=TRUST), ring=seal.ring(bytes(range(1, 33))), owner="test")

    await deliver(database, stranger)

    (letter,) = await letters(database)
    assert (letter["state"], letter["reason"], receiver.connections) == ("published", "secret_unreadable", 0)
    with time_machine.travel(clock.now_ms() / 1000 + 60):
        await deliver(database)
    assert [one.said["type"] for one in receiver.got] == ["payment.paid"]


async def test_the_log_holds_no_secrets_and_the_forgotten_are_gone(
    database: Database, shop: Shop, receiver: Receiver
) -> None:
    await listening(database, await organisation_of(shop), receiver.url())
    await paid(shop, await shop.box())
    await deliver(database)

    logged = await row(database, "SELECT * FROM webhook_attempt")
    sent, told = json.loads(logged["request_headers"]), json.loads(logged["response_headers"])
    whole = receiver.got[0].headers["webhook-signature"]
    assert sent["webhook-signature"] == f"{whole[:12]}…"
    assert told == {"content-length": "2", "set-cookie": "…"}
    assert (logged["status"], logged["response_body"], logged["address"]) == (200, "ok", "127.0.0.1")
    with time_machine.travel(clock.now_ms() / 1000 + 31 * 86_400):
        await courier(database).forget()
    assert await letters(database) == []
    assert await rows(database, "SELECT id FROM webhook_attempt") == []


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_boxes_messages_and_letters_are_found_without_wading_through_each_other(
    request: pytest.FixtureRequest, engine: str, tmp_path: Path
) -> None:
    database = Database(fresh_database(request, engine, tmp_path))
    explain = "EXPLAIN QUERY PLAN " if engine == "sqlite" else "EXPLAIN "
    waiting = "state IN ('queued', 'published')"
    unfinished = "state IN ('queued', 'published', 'received') AND finished_at_ms IS NULL"
    asked = {
        "outbox_due": f"SELECT id FROM outbox_message WHERE transport = 'mqtt' AND {waiting} "
        "AND finished_at_ms IS NULL AND due_at_ms <= 1",
        "outbox_expiring": f"SELECT id FROM outbox_message WHERE {unfinished} AND state <> 'received' "
        "AND expires_at_ms <= 1",
        "outbox_letter_recipient": "SELECT id FROM outbox_message WHERE transport = 'webhook' AND transport <> 'mqtt' "
        f"AND {waiting} AND recipient_id = 'whk_1' AND due_at_ms <= 1 ORDER BY due_at_ms",
    }
    try:
        for index, sql in asked.items():
            plan = await database.write(lambda tx, sql=sql: tx.fetch(explain + sql))  # type: ignore[misc]
            assert any(index in str(tuple(step)) for step in plan), (index, [tuple(step) for step in plan])
    finally:
        await database.close()


async def test_a_lane_that_had_its_turn_makes_room_for_the_others(
    database: Database, shop: Shop, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundbox_server.webhooks.jobs.LETTERS_A_TURN", 2)
    await listening(database, await organisation_of(shop), receiver.url())
    box = await shop.box()
    for _ in range(2 * LANES + 3):
        await paid(shop, box)

    await deliver(database)
    first = len(receiver.got)
    await deliver(database)

    assert (first, len(receiver.got)) == (2 * LANES, 2 * LANES + 3)


async def test_a_partner_with_an_address_for_each_payment_takes_a_few_lanes_and_has_its_turn_again(
    database: Database, shop: Shop, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundbox_server.webhooks.jobs.MOST_OF_AN_ENDPOINT", 3)
    partner_id, box = await partner(database), await shop.box()
    for n in range(5):
        payment = await shop.payment(box)
        await aimed(database, payment.payment_id, partner_id, receiver.url(f"/{n}"))
        await take(shop.database, report(payment))

    await deliver(database)
    first = len(receiver.got)
    await deliver(database)

    assert (first, len(receiver.got)) == (3, 5)
