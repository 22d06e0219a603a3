"""What can be asked of a box: how each kind travels, which makes which pointless, and what a box cannot take."""

import json
from typing import Any

import pytest
from support.hub import Hub
from support.shop import MASTER, NOW, TELLING, Shop, execute, report, row, rows, take, told
from support.staff import Staff

from soundbox_protocol.messages import COMMANDS, Command, DynamicQrDisplay, PaymentSuccess, decode
from soundbox_protocol.signing import verify
from soundbox_server import seal
from soundbox_server.commands import replay, service
from soundbox_server.commands.kinds import KINDS, checked_payload, life_ms
from soundbox_server.commands.service import MOST_OPEN, Answer, Order
from soundbox_server.commands.state import TRANSITIONS, CommandState
from soundbox_server.db import Database
from soundbox_server.devices import service as devices
from soundbox_server.errors import CapabilityNotSupported, Conflict, ValidationFailed
from soundbox_server.outbox import service as outbox

PAYLOADS: dict[str, dict[str, Any]] = {
    "speak_code": {"code": "1234"},
    "set_volume": {"volume": 40},
    "daily_total": {"count": 3, "amount": 150_000},
    "show_qr": {"qr_payload": "00020101021226", "amount": 5_000},
}


def key_of(device_id: str, key_version: int) -> bytes:
    return seal.announcement_key(MASTER, device_id, key_version)


def order(device_id: str, name: str, **payload: Any) -> Order:
    given = checked_payload(name, payload or PAYLOADS.get(name, {}))
    return Order(device_id=device_id, kind=KINDS[name], payload=given, requested_by="per_test", trace_id="trc_1")


async def give(database: Database, device_id: str, name: str, *, now_ms: int = NOW, **payload: Any) -> str:
    wanted = order(device_id, name, **payload)
    return await database.write(lambda tx: service.give(tx, wanted, key_of=key_of, owner="test", now_ms=now_ms))


async def states(database: Database, device_id: str) -> list[tuple[str, str, str | None]]:
    found = await rows(
        database, "SELECT id, state, reason FROM device_command WHERE device_id = $1 ORDER BY id", device_id
    )
    return [(one["id"], one["state"], one["reason"]) for one in found]


async def sent(database: Database, now_ms: int) -> list[str]:
    async def sweep(tx: Any) -> list[str]:
        await outbox.expire(tx, now_ms=now_ms)
        await outbox.claim_due(tx, now_ms=now_ms, owner="test")
        return [one.id for one in tx.queued]

    return await database.write(sweep)


async def come_back(database: Database, device_id: str, now_ms: int) -> None:
    session = devices.Session(device_id=device_id, online=True, epoch=2, at_ms=now_ms, command_progress=True)
    await database.write(lambda tx: devices.take_sessions(tx, [session]))
    await database.write(lambda tx: outbox.make_due(tx, recipients=[device_id], now_ms=now_ms))


def test_every_command_of_the_protocol_can_be_given() -> None:
    assert set(COMMANDS) <= set(KINDS)
    assert {name: kind.payload for name, kind in KINDS.items() if kind.travels == "command"} == dict(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
async def test_each_command_travels_signed_with_its_payload_and_its_end(
    database: Database, shop: Shop, name: str
) -> None:
    box = await shop.box()
    command_id = await give(database, box, name)

    message = await row(database, "SELECT * FROM outbox_message WHERE id = $1", command_id)
    said = decode(Command, verify(key_of(box, 1), message["address"], bytes(message["body"])))
    assert (said.command_id, said.command_name) == (command_id, name)
    assert said.payload == checked_payload(name, PAYLOADS.get(name, {}))
    assert message["expires_at_ms"] == NOW + KINDS[name].life_ms


async def test_a_qr_by_command_travels_where_qrs_do_and_ends_when_it_is_no_longer_shown(
    database: Database, shop: Shop
) -> None:
    box = await shop.box()
    command_id = await give(database, box, "show_qr", qr_payload="0002", amount=5_000, show_for_s=60)

    message = await row(database, "SELECT * FROM outbox_message WHERE id = $1", command_id)
    assert message["address"].endswith("/downlink/dynamic-qr/display")
    said = decode(DynamicQrDisplay, verify(key_of(box, 1), message["address"], bytes(message["body"])))
    assert (said.command_id, said.action, said.qr_payload, said.amount) == (command_id, "show", "0002", 5_000)
    assert (said.transaction_id, said.expires_at) == (None, "2026-05-23T10:01:00Z")
    assert message["expires_at_ms"] == NOW + 60_000


@pytest.mark.parametrize(("digits", "fits"), [(251, True), (400, False)])
async def test_a_qr_that_is_too_long_for_this_box_is_refused_and_leaves_nothing(
    database: Database, shop: Shop, digits: int, fits: bool
) -> None:
    box = await shop.box()
    if fits:
        await give(database, box, "show_qr", qr_payload="9" * digits)
        return
    with pytest.raises(CapabilityNotSupported):
        await give(database, box, "show_qr", qr_payload="9" * digits)

    assert await states(database, box) == []
    await execute(database, "UPDATE device_presence SET max_payload_bytes = 1024 WHERE device_id = $1", box)
    await give(database, box, "show_qr", qr_payload="9" * digits)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("set_volume", {}), ("set_volume", {"volume": 101}), ("set_volume", {"volume": "40"}),
        ("daily_total", {"count": 1}), ("daily_total", {"count": -1, "amount": 5}), ("upload_log", {"lines": 41}),
        ("show_qr", {}), ("show_qr", {"qr_payload": "é"}), ("show_qr", {"qr_payload": "0002", "show_for_s": 9}),
        ("reboot", {"now": True}), ("clear_qr", {"transaction_id": "txn_1"}),
    ],
)  # fmt: skip
def test_a_payload_that_does_not_fit_its_command_is_refused(name: str, payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        checked_payload(name, payload)


# --- the latest counts --------------------------------------------------------------------------------------------


async def test_of_volumes_that_wait_for_a_box_only_the_latest_reaches_it(database: Database, shop: Shop) -> None:
    box = await shop.box(online=False)
    first, second = await give(database, box, "set_volume", volume=10), await give(database, box, "play_test")
    latest = await give(database, box, "set_volume", volume=90)

    await come_back(database, box, NOW + 1_000)

    assert await sent(database, NOW + 1_000) == [second, latest]
    assert await states(database, box) == [
        (first, "cancelled", "superseded"), (second, "queued", None), (latest, "queued", None),
    ]  # fmt: skip


async def test_a_volume_on_its_way_is_not_sent_again_after_a_newer_one(database: Database, shop: Shop) -> None:
    box = await shop.box()
    first = await give(database, box, "set_volume", volume=10)
    latest = await give(database, box, "set_volume", volume=90, now_ms=NOW + 1_000)

    resent = await sent(database, NOW + 30_000)

    assert resent == [latest]
    assert (await states(database, box))[0] == (first, "expired", "superseded")


async def test_what_a_box_has_already_is_not_taken_back(database: Database, shop: Shop) -> None:
    box = await shop.box()
    await come_back(database, box, NOW)
    first = await give(database, box, "set_volume", volume=10)
    said = Answer(command_id=first, device_id=box, status="delivered", reason=None, result=None, source="mqtt")
    await database.write(lambda tx: service.take_answers(tx, [said], now_ms=NOW))

    await give(database, box, "set_volume", volume=90)

    assert (await states(database, box))[0] == (first, "delivered", None)


async def test_a_full_queue_refuses_visibly_and_takes_what_replaces_one_of_its_own(
    database: Database, shop: Shop
) -> None:
    box = await shop.box(online=False)
    await give(database, box, "set_volume", volume=10)
    for _ in range(MOST_OPEN - 1):
        await give(database, box, "play_test")
    with pytest.raises(Conflict, match="too many") as refusal:
        await give(database, box, "play_test")

    await give(database, box, "set_volume", volume=20)

    assert refusal.value.facts == {"waiting": MOST_OPEN}
    assert [state for _, state, _ in await states(database, box)].count("queued") == MOST_OPEN


async def test_a_refused_command_takes_nothing_back(database: Database, shop: Shop) -> None:
    box = await shop.box(online=False)
    shown = await give(database, box, "show_qr", qr_payload="0002")
    with pytest.raises(CapabilityNotSupported):
        await give(database, box, "show_qr", qr_payload="9" * 400)

    assert await states(database, box) == [(shown, "queued", None)]


def test_what_is_superseded_goes_where_the_table_allows() -> None:
    assert CommandState.CANCELLED in TRANSITIONS[CommandState.QUEUED]
    assert CommandState.EXPIRED in TRANSITIONS[CommandState.SENT]


# --- an offline box -----------------------------------------------------------------------------------------------


async def test_an_offline_box_gets_it_once_after_it_is_back_however_often_the_hub_restarts(
    database: Database, shop: Shop
) -> None:
    """A restart is another process with nothing but the database."""
    box, command_id, sendings = await shop.box(online=False), "", []
    command_id = await give(database, box, "set_volume", volume=40)
    for restart in range(3):
        again = Database(database.url.render_as_string(hide_password=False))
        try:
            sendings += await sent(again, NOW + restart * 60_000)
            await again.write(lambda tx, at=NOW + restart * 60_000: service.follow_up(tx, now_ms=at))  # type: ignore[misc]
        finally:
            await again.close()
    still = await states(database, box)
    await come_back(database, box, NOW + 200_000)
    sendings += await sent(database, NOW + 200_000)
    said = Answer(command_id=command_id, device_id=box, status="delivered", reason=None, result=None, source="mqtt")
    await database.write(lambda tx: service.take_answers(tx, [said], now_ms=NOW + 200_500))
    sendings += await sent(database, NOW + 300_000)

    assert still == [(command_id, "queued", None)]
    assert sendings == [command_id]


async def test_one_that_expired_meanwhile_is_never_sent(database: Database, shop: Shop) -> None:
    box = await shop.box(online=False)
    command_id = await give(database, box, "reboot")
    late = NOW + life_ms(KINDS["reboot"], {})
    await come_back(database, box, late)

    assert await sent(database, late) == []
    await database.write(lambda tx: service.follow_up(tx, now_ms=late))
    assert (await states(database, box))[0][:2] == (command_id, "expired")


# --- the last payment once more -----------------------------------------------------------------------------------


async def test_the_last_payment_is_said_again_as_a_replay(database: Database, shop: Shop) -> None:
    box = await shop.box()
    for amount in (10_000, 25_000):
        await take(database, report(await shop.payment(box, amount)))
    wanted = order(box, "replay_last")

    command_id = await database.write(lambda tx: replay.replay_last(tx, wanted, telling=TELLING, now_ms=NOW + 5_000))

    done = await row(database, "SELECT state, result FROM device_command WHERE id = $1", command_id)
    result = json.loads(done["result"])
    (first, again) = await told(database, result["transaction_id"])
    said = decode(PaymentSuccess, verify(key_of(box, 1), again["address"], bytes(again["body"])))
    assert (done["state"], result["event_id"], result["repeats"]) == ("succeeded", again["id"], first["id"])
    assert (said.amount, said.original_event_id, said.seq) == (25_000, first["id"], 3)


async def test_a_box_that_was_told_nothing_where_it_stands_has_nothing_to_repeat(
    database: Database, shop: Shop
) -> None:
    box = await shop.box()
    await take(database, report(await shop.payment(box)))
    elsewhere = await shop.another_terminal()
    await shop.unbind(box)
    unbound = order(box, "replay_last")
    with pytest.raises(Conflict, match="no terminal"):
        await database.write(lambda tx: replay.replay_last(tx, unbound, telling=TELLING, now_ms=NOW))

    other = order(await elsewhere.box(), "replay_last")
    with pytest.raises(Conflict, match="no payment"):
        await database.write(lambda tx: replay.replay_last(tx, other, telling=TELLING, now_ms=NOW))

    assert await rows(database, "SELECT id FROM device_command") == []


async def test_an_operator_gives_each_kind_at_one_door(hub: Hub, shop: Shop, database: Database) -> None:
    staff, box = Staff(hub, "per_operator", "operator"), await shop.box()
    await take(database, report(await shop.payment(box)))

    for name in KINDS:
        body = {"command_name": name, "payload": PAYLOADS.get(name, {})}
        given = await staff.post(f"/admin/devices/{box}/commands", body, status=201)
        assert (given["command_name"], given["status"]) == (name, "succeeded" if name == "replay_last" else "sent")
    too_long = {"command_name": "show_qr", "payload": {"qr_payload": "9" * 400}}
    refused = await staff.refused("POST", f"/admin/devices/{box}/commands", too_long, status=422)
    assert refused["code"] == "DEVICE_CAPABILITY_NOT_SUPPORTED"
