"""Boxes from registration to their place in a shop, and what they say of themselves."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.shop import NOW, Shop, execute, report, row, rows, take, told

from soundbox_server.db import Database, transaction
from soundbox_server.devices import service as devices
from soundbox_server.devices.service import CODE_FAILURES, CODE_LIFE_MS, Activated, Session, Vitals, code_sha256
from soundbox_server.devices.state import TRANSITIONS, DeviceState, require
from soundbox_server.errors import Conflict, IllegalTransition, NotFound, ValidationFailed
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import Delivery


async def register(database: Database, serial: str = "SBX-1", device_id: str | None = None) -> tuple[str, str]:
    return await database.write(
        lambda tx: devices.register(
            tx, serial_number=serial, vendor="native", model="sbx-1", device_id=device_id, now_ms=NOW
        )
    )


async def activate(database: Database, code: str, serial: str = "SBX-1", *, now_ms: int = NOW) -> Activated | None:
    return await database.write(
        lambda tx: devices.activate(
            tx, code=code, serial_number=serial, hash_password=lambda password: f"$7${len(password)}", now_ms=now_ms
        )
    )


async def revision(database: Database) -> int:
    return await database.write(devices.credential_revision)


async def test_a_code_becomes_credentials_once(database: Database) -> None:
    device_id, code = await register(database)
    before = await revision(database)

    first = await activate(database, code)
    second = await activate(database, code)

    assert first is not None
    assert (first.device_id, first.key_version) == (device_id, 1)
    assert len(first.device_token) >= 43
    assert len(first.broker_password) >= 43
    assert second is None
    assert await revision(database) == before + 1
    assert (await row(database, "SELECT state FROM device"))["state"] == "activated"


async def test_neither_code_nor_token_nor_password_is_stored(database: Database) -> None:
    _, code = await register(database)
    activated = await activate(database, code)

    assert activated is not None
    stored = str(
        [await rows(database, f"SELECT * FROM {table}") for table in ("device", "activation_code", "device_credential")]
    )
    for secret in (code, activated.device_token, activated.broker_password):
        assert secret not in stored


@pytest.mark.parametrize("spelled", [str.lower, lambda code: f"{code[:5]}-{code[5:]}", lambda code: f" {code} "])
async def test_a_code_is_forgiven_how_it_is_typed(database: Database, spelled: Callable[[str], str]) -> None:
    _, code = await register(database)

    assert await activate(database, spelled(code)) is not None


def test_letters_that_look_alike_are_the_same() -> None:
    assert code_sha256("OIL00-11111") == code_sha256("01100-11111")


async def test_a_code_ends_after_a_day(database: Database) -> None:
    _, code = await register(database)

    assert await activate(database, code, now_ms=NOW + CODE_LIFE_MS) is None
    assert await activate(database, code, now_ms=NOW + CODE_LIFE_MS - 1) is not None


async def test_a_code_fits_its_own_serial_number_only(database: Database) -> None:
    _, code = await register(database, "SBX-1")
    await register(database, "SBX-2")

    assert await activate(database, code, "SBX-2") is None
    assert await activate(database, code, "SBX-3") is None
    assert await activate(database, code, "SBX-1") is not None


async def test_a_code_is_burnt_after_five_failures(database: Database) -> None:
    _, code = await register(database)

    for _ in range(CODE_FAILURES - 1):
        assert await activate(database, "0000000000") is None
    (counted,) = await rows(database, "SELECT failures FROM activation_code")
    assert await activate(database, "0000000000") is None
    assert counted["failures"] == CODE_FAILURES - 1
    assert await activate(database, code) is None


async def test_a_fresh_code_takes_the_place_of_the_old_one(database: Database) -> None:
    device_id, old = await register(database)
    new = await database.write(lambda tx: devices.issue_code(tx, device_id, now_ms=NOW))

    assert await activate(database, old) is None
    assert await activate(database, new) is not None


async def test_twenty_at_once_with_one_code_are_one_activation(database: Database) -> None:
    _, code = await register(database)
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        answers = await asyncio.gather(*(activate([database, other][n % 2], code) for n in range(20)))
    finally:
        await other.close()

    assert len([answer for answer in answers if answer is not None]) == 1
    assert len(await rows(database, "SELECT id FROM device_credential")) == 1


async def test_activated_again_the_old_credentials_and_messages_are_worth_nothing(
    database: Database, shop: Shop
) -> None:
    device = await shop.box()
    payment, received = await shop.payment(device), await shop.payment(device)
    await take(database, report(payment), report(received))
    (heard,) = await told(database, received.payment_id)
    answer = outbox.Answer(message_id=heard["id"], recipient_id=device, status="received")
    await database.write(lambda tx: outbox.acknowledge(tx, [answer], now_ms=NOW + 500))
    serial = (await row(database, "SELECT serial_number FROM device WHERE id = $1", device))["serial_number"]
    code = await database.write(lambda tx: devices.issue_code(tx, device, now_ms=NOW))

    again = await activate(database, code, serial, now_ms=NOW + 1_000)

    assert again is not None
    assert again.key_version == 2
    states = await rows(database, "SELECT state FROM device_credential ORDER BY state")
    assert [one["state"] for one in states] == ["active", "superseded"]
    (unheard,) = await told(database, payment.payment_id)
    assert (unheard["state"], unheard["reason"]) == ("expired", "activated_again")
    (heard,) = await told(database, received.payment_id)  # nobody asks a journal that begins anew what became of it
    assert (heard["state"], heard["reason"], heard["finished_at_ms"]) == ("failed", "activated_again", NOW + 1_000)
    box = await row(database, "SELECT state, last_seq FROM device WHERE id = $1", device)
    assert box == {"state": "bound", "last_seq": 0}
    presence = await row(database, "SELECT online, session_epoch FROM device_presence WHERE device_id = $1", device)
    assert (bool(presence["online"]), presence["session_epoch"]) == (False, 0)


@pytest.mark.parametrize("device_id", ["hub-shard-0", "hub-x", "Sbx", "ab", "x" * 33, "a/b", "a+", "a#", "ä123"])
async def test_a_name_that_would_be_somebody_elses_is_refused(database: Database, device_id: str) -> None:
    with pytest.raises(ValidationFailed):
        await register(database, device_id=device_id)

    assert await rows(database, "SELECT id FROM device") == []


async def test_a_serial_number_is_registered_once(database: Database) -> None:
    await register(database, "SBX-1")

    with pytest.raises(Conflict):
        await register(database, "SBX-1")


async def bind(database: Database, device: str, terminal: str) -> None:
    async with transaction(database) as session:
        await devices.bind(session, device_id=device, terminal_id=terminal, now_ms=NOW)


async def test_a_box_stands_in_one_place_at_a_time(database: Database, shop: Shop) -> None:
    device = await shop.box()
    elsewhere = await shop.another_terminal()

    await bind(database, device, shop.terminal_id)
    with pytest.raises(Conflict, match="another terminal"):
        await bind(database, device, elsewhere.terminal_id)
    await shop.unbind(device)
    await bind(database, device, elsewhere.terminal_id)

    history = await rows(database, "SELECT terminal_id, unbound_at_ms FROM device_binding ORDER BY id")
    assert [one["terminal_id"] for one in history] == [shop.terminal_id, elsewhere.terminal_id]
    assert [one["unbound_at_ms"] is None for one in history] == [False, True]


async def test_two_bindings_at_once_leave_one(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await shop.unbind(device)
    places = [await shop.another_terminal() for _ in range(6)]

    answers = await asyncio.gather(
        *(bind(database, device, place.terminal_id) for place in places), return_exceptions=True
    )

    assert [type(answer) for answer in answers if answer is not None] == [Conflict] * 5
    assert len(await rows(database, "SELECT id FROM device_binding WHERE unbound_at_ms IS NULL")) == 1


async def test_a_box_that_was_never_activated_cannot_be_bound(database: Database, shop: Shop) -> None:
    device_id, _ = await register(database)

    with pytest.raises(IllegalTransition):
        await bind(database, device_id, shop.terminal_id)
    with pytest.raises(NotFound):
        await bind(database, "dev_of_nobody", shop.terminal_id)
    with pytest.raises(NotFound):
        await bind(database, device_id, "term_of_nobody")


async def test_a_box_that_is_taken_away_says_no_more_of_what_was_paid_where_it_stood(
    database: Database, shop: Shop
) -> None:
    device, neighbour = await shop.box(online=False), await (await shop.another_terminal()).box(online=False)
    payments = [await shop.payment(device) for _ in range(2)]
    await take(database, *(report(payment) for payment in payments))
    elsewhere = outbox.Message(
        id="ann_of_the_neighbour", kind="payment_success", recipient_id=neighbour, address="a", body=b"{}",
        created_at_ms=NOW, expires_at_ms=NOW + 60_000, trace_id="trc", state=Delivery.QUEUED,
    )  # fmt: skip
    others = {
        kind: msgspec.structs.replace(elsewhere, id=f"{kind}_1", kind=kind, recipient_id=device)
        for kind in ("payment_digest", "command", "config")
    }
    await database.write(lambda tx: outbox.queue(tx, [elsewhere, *others.values()], owner="test"))
    (received,) = await told(database, payments[0].payment_id)
    answer = outbox.Answer(message_id=received["id"], recipient_id=device, status="received")
    await database.write(lambda tx: outbox.acknowledge(tx, [answer], now_ms=NOW))

    await shop.unbind(device)

    found = await rows(database, "SELECT id, kind, state, reason FROM outbox_message ORDER BY id")
    (ended,) = await told(database, payments[1].payment_id)
    over = {one["id"] for one in found if (one["state"], one["reason"]) == ("expired", "device_moved")}
    assert over == {ended["id"], others["payment_digest"].id}
    assert {one["state"] for one in found if one["id"] not in {*over, received["id"]}} == {"queued"}


async def say(database: Database, *sessions: Session) -> dict[str, object]:
    await database.write(lambda tx: devices.take_sessions(tx, sessions))
    seen = await row(
        database, "SELECT online, session_epoch, changed_at_ms FROM device_presence WHERE device_id = $1",
        sessions[0].device_id,
    )  # fmt: skip
    return seen | {"online": bool(seen["online"])}


async def test_an_old_will_does_not_end_a_new_session(database: Database, shop: Shop) -> None:
    device = await shop.box(online=False)
    born = await say(database, Session(device_id=device, online=True, epoch=5, at_ms=NOW))
    born_again = await say(database, Session(device_id=device, online=True, epoch=6, at_ms=NOW + 10))

    late_will = await say(database, Session(device_id=device, online=False, epoch=5, at_ms=NOW + 20))
    will = await say(database, Session(device_id=device, online=False, epoch=6, at_ms=NOW + 30))
    late_birth = await say(database, Session(device_id=device, online=True, epoch=5, at_ms=NOW + 40))

    assert born == {"online": True, "session_epoch": 5, "changed_at_ms": NOW}
    assert born_again == late_will == {"online": True, "session_epoch": 6, "changed_at_ms": NOW}
    assert will == late_birth == {"online": False, "session_epoch": 6, "changed_at_ms": NOW + 30}


async def test_heartbeats_are_history_and_the_newest_is_the_latest_state(database: Database, shop: Shop) -> None:
    device = await shop.box()

    def beat(number: int, **more: object) -> Vitals:
        unsaid = ("firmware_version", "network_strength", "battery_level", "state", "volume")
        said: dict[str, Any] = dict.fromkeys(unsaid) | more
        return Vitals(device_id=device, payload=b"{}", source="mqtt", received_at_ms=NOW + number, **said)

    await database.write(
        lambda tx: devices.take_heartbeats(
            tx, [beat(1, battery_level=90, volume=70), beat(2, battery_level=80), beat(3, battery_level=70)]
        )
    )

    assert len(await rows(database, "SELECT id FROM device_heartbeat")) == 3
    latest = await row(
        database, "SELECT battery_level, heartbeat_at_ms FROM device_presence WHERE device_id = $1", device
    )
    assert latest == {"battery_level": 70, "heartbeat_at_ms": NOW + 3}


async def test_the_broker_lets_in_who_is_in_service_and_nobody_else(database: Database, shop: Shop) -> None:
    bound, suspended = await shop.box(), await shop.box()
    await register(database, "SBX-NEVER-ACTIVATED")
    await execute(database, "UPDATE device SET state = 'suspended' WHERE id = $1", suspended)

    number, users = await database.read(devices.broker_users)

    assert users == [(bound, "$7$unused")]
    assert number == await revision(database)


def test_what_is_retired_stays_retired() -> None:
    assert TRANSITIONS[DeviceState.RETIRED] == frozenset()
    with pytest.raises(IllegalTransition):
        require("revoked", DeviceState.BOUND)
