"""Settings for a box that can prove nothing: inside a window, for the numbers it was first seen with."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.hub import Hub, open_hub
from support.makers import ICCID, IMEI, beat, call, open_window, register
from support.ports import free_port
from support.shop import NOW, Shop, execute, row, rows
from support.staff import Staff, audited

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.devices import presence, service
from soundbox_server.devices.lifecycle import revoke, suspend
from soundbox_server.errors import CapabilityNotSupported, Conflict, NotFound, ValidationFailed

MINUTE_MS = 60_000


async def test_without_a_window_nobody_is_answered(database: Database) -> None:
    device = await register(database)

    assert await call(database) is None

    await open_window(database, device)
    assert await call(database, "SN0002") is None
    assert await call(database, now_ms=NOW + 15 * MINUTE_MS) is None
    assert (await row(database, "SELECT state FROM device"))["state"] == "registered"


async def test_each_call_gives_another_password_and_ends_the_one_before(database: Database) -> None:
    device = await register(database)
    await open_window(database, device)

    first = await call(database)
    second = await call(database, now_ms=NOW + MINUTE_MS)

    assert first is not None
    assert second is not None
    assert (first.device_id, first.first, second.first) == (device, True, False)
    assert first.password != second.password
    assert (await database.read(service.legacy_users))[1] == [("SN0001", f"$7${second.password}")]
    assert (await database.read(service.broker_users))[1] == []  # no name of its own at the broker of ours


async def test_other_numbers_than_the_first_are_refused_and_five_close_the_window(database: Database) -> None:
    device = await register(database)
    await open_window(database, device)
    await call(database)

    for other in ({"imei": "860000000000002"}, {"iccid": "89620000000000000002"}) * 3:
        assert await call(database, **other) is None

    assert await call(database) is None  # the box itself neither
    (alert,) = await rows(database, "SELECT kind, subject_id, facts FROM alert WHERE state <> 'cleared'")
    assert (alert["kind"], alert["subject_id"]) == ("device.config_call_refused", device)
    assert json.loads(alert["facts"])["closed"]
    await open_window(database, device, now_ms=NOW + MINUTE_MS)
    assert await call(database, now_ms=NOW + MINUTE_MS) is not None


async def test_the_pins_outlive_their_window_until_an_operator_has_them_forgotten(database: Database) -> None:
    device = await register(database)
    await open_window(database, device)
    await call(database)
    another = {"iccid": "89620000000000000002"}

    await open_window(database, device, now_ms=NOW + 60 * MINUTE_MS)
    assert await call(database, **another, now_ms=NOW + 60 * MINUTE_MS) is None
    await open_window(database, device, forget_pins=True, now_ms=NOW + 60 * MINUTE_MS)

    assert await call(database, **another, now_ms=NOW + 60 * MINUTE_MS) is not None


async def test_numbers_that_an_operator_named_leave_nobody_to_come_first(database: Database) -> None:
    device = await register(database)
    await open_window(database, device, imei=IMEI)

    assert await call(database, imei="860000000000002") is None
    assert await call(database) is not None


@pytest.mark.parametrize("verb", [suspend, revoke])
async def test_a_box_out_of_service_is_answered_no_more(database: Database, verb: Any) -> None:
    device = await register(database)
    await open_window(database, device)
    await call(database)

    await database.write(lambda tx: verb(tx, device, reason="stolen", now_ms=NOW))

    assert await call(database) is None
    assert (await database.read(service.legacy_users))[1] == []
    with pytest.raises(Conflict):
        await open_window(database, device)


async def test_only_for_boxes_that_make_such_calls(database: Database, shop: Shop) -> None:
    with pytest.raises(CapabilityNotSupported):
        await open_window(database, await shop.box())
    with pytest.raises(NotFound):
        await open_window(database, "dev_nobody")


async def test_its_activation_code_opens_nothing(database: Database) -> None:
    serial = "SN0009"
    registered = await database.write(
        lambda tx: service.register(tx, serial_number=serial, vendor="bizone", model="EDOTF1", now_ms=NOW)
    )

    activated = await database.write(
        lambda tx: service.activate(
            tx, code=registered[1], serial_number=serial, hash_password=lambda word: word, now_ms=NOW
        )
    )

    assert activated is None
    with pytest.raises(CapabilityNotSupported):
        await database.write(lambda tx: service.issue_new_code(tx, registered[0], now_ms=NOW))
    with pytest.raises(ValidationFailed):
        await register(database, "sn0010")


# --- presence by heartbeats ---------------------------------------------------------------------------------------


async def test_a_heartbeat_is_its_birth_and_silence_its_end(database: Database) -> None:
    device = await register(database)
    await open_window(database, device)
    await call(database)
    await beat(database, payload=b'{"fw-version":"1.0.2","battery":80,"signal":-82}')
    born = await row(database, "SELECT * FROM device_presence")

    minutes_3 = NOW + 3 * MINUTE_MS + presence.GRACE_MS
    silent = await database.write(lambda tx: presence.end_silent(tx, [device], now_ms=minutes_3))
    gone = await row(database, "SELECT online FROM device_presence")
    await beat(database, now_ms=minutes_3 + 1)

    assert (born["online"], born["firmware_version"], born["battery_level"], born["network_strength"]) == (
        True, "1.0.2", 80, 50,
    )  # fmt: skip
    assert not born["verifies_signatures"]
    assert (silent, bool(gone["online"])) == ([device], False)
    assert bool((await row(database, "SELECT online FROM device_presence"))["online"])
    intervals = await rows(database, "SELECT began_at_ms, end_reason FROM device_online ORDER BY began_at_ms")
    assert [(one["began_at_ms"], one["end_reason"]) for one in intervals] == [(NOW, "silent"), (minutes_3 + 1, None)]


async def test_heartbeats_of_strangers_and_of_our_own_boxes_names_change_nothing(
    database: Database, shop: Shop
) -> None:
    await shop.box(online=False)
    await execute(database, "UPDATE device SET serial_number = 'SN0777'")
    await register(database, "SN0001")  # registered, and never let in

    for serial in ("SN0777", "SN0001", "SN9999"):
        await beat(database, serial)

    assert await rows(database, "SELECT id FROM device_heartbeat") == []
    assert await rows(database, "SELECT device_id FROM device_presence WHERE online") == []


async def test_a_box_in_quarantine_stays_there(database: Database) -> None:
    device = await register(database)
    await open_window(database, device)
    await call(database)
    await beat(database)
    await execute(database, "UPDATE device_presence SET quarantine = 'cloned', online = $1", False)

    await beat(database, now_ms=NOW + 1)

    assert not (await row(database, "SELECT online FROM device_presence WHERE device_id = $1", device))["online"]


# --- the doors ----------------------------------------------------------------------------------------------------

CALL = "/speaker/dev-config"
SAID = {
    "dev-model": "QF100", "item-number": "00", "dev-sn": "SN0001", "hardware-config": "0x0F", "fw-version": "1.0.0",
    "fw-build": 1, "app-config-version": 0, "imei": IMEI, "imsi": "510010000000001", "iccid": ICCID,
}  # fmt: skip
REFUSED = {"error-code": 1, "message": "refused"}


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    """With a plain listener in its settings, and nobody on its port."""
    async with open_hub(
        database_url, tmp_path / "home", broker_legacy_port=free_port(), broker_legacy_public_host="mqtt.example"
    ) as hub:
        yield hub


@pytest.fixture
def staff(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Staff:
    monkeypatch.setattr("soundbox_server.devices.makers_routes.BROKER_WAIT_S", 0.0)
    return Staff(hub, "per_operator", "operator")


async def asked(hub: Hub, said: object = SAID, *, method: str = "POST") -> httpx.Response:
    return await hub.http.request(method, CALL, content=json.dumps(said), headers={"content-type": "text/plain"})


async def new_box(staff: Staff, serial: str = "SN0001") -> str:
    wanted = {"serial_number": serial, "vendor": "bizone", "model": "QF100"}
    return str((await staff.post("/admin/devices", wanted, status=201))["id"])


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_from_registration_to_settings(hub: Hub, staff: Staff, database: Database, method: str) -> None:
    device = await new_box(staff)
    before = await asked(hub, method=method)
    opened = await staff.post(f"/admin/devices/{device}/config-window", {"for_s": 600})
    answer = await asked(hub, method=method)

    assert (before.status_code, before.json()) == (200, REFUSED)
    assert opened["open"]
    settings = answer.json()["mqtt"]
    assert answer.json()["error-code"] == 0
    assert answer.headers["cache-control"] == "no-store"
    assert len(settings.pop("password")) >= 32
    assert settings == {
        "broker-ip": "mqtt.example", "broker-port": hub.app.state.makers_broker.port, "client-id": "soundbox-SN0001",
        "user-name": "SN0001", "subscribe-topic": "soundbox/SN0001/down", "keep-alive": 60,
    }  # fmt: skip
    shown = await staff.get(f"/admin/devices/{device}")
    assert (shown["codec"], shown["unsigned"], shown["unconfirmed"], shown["status"]) == (
        "qf100", True, True, "activated",
    )  # fmt: skip
    window = await staff.get(f"/admin/devices/{device}/config-window")
    assert (window["imei"], window["iccid"], window["grants"]) == (IMEI, ICCID, 1)
    closed = await staff.call("DELETE", f"/admin/devices/{device}/config-window")
    assert not closed.json()["data"]["open"]
    assert (await asked(hub, method=method)).json() == REFUSED
    assert len(await audited(database, "device.config_window_opened")) == 1
    assert len(await audited(database, "device.config_window_closed")) == 1
    assert len(await audited(database, "device.activated")) == 1


@pytest.mark.parametrize(
    "said",
    [
        [], {}, SAID | {"dev-sn": "sn0001"}, SAID | {"dev-sn": "SN0002"}, SAID | {"imei": ""}, SAID | {"iccid": None},
        SAID | {"imei": "86000000000000x"}, {"dev-sn": "SN0001"},
    ],
)  # fmt: skip
async def test_every_refusal_is_the_same(hub: Hub, staff: Staff, said: object) -> None:
    await staff.post(f"/admin/devices/{await new_box(staff)}/config-window")

    answer = await asked(hub, said)

    assert (answer.status_code, answer.json()) == (200, REFUSED)


async def test_an_address_may_fail_ten_times_a_minute(hub: Hub, staff: Staff) -> None:
    await staff.post(f"/admin/devices/{await new_box(staff)}/config-window")
    failed = [await asked(hub, SAID | {"dev-sn": "SN0002"}) for _ in range(10)]

    eleventh = await asked(hub)

    assert {one.status_code for one in failed} == {200}
    assert (eleventh.status_code, eleventh.json()["error-code"]) == (429, 1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_without_a_listener_for_such_boxes_there_is_no_such_door(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path / "home") as hub:
        answer = await asked(hub)

        assert (answer.status_code, answer.json()["error-code"]) == (404, 1)


async def test_what_a_model_cannot_do_is_said_at_the_doors(hub: Hub, staff: Staff) -> None:
    path = f"/admin/devices/{await new_box(staff)}"
    await staff.post(f"{path}/config-window")
    await asked(hub)

    refusals = [
        await staff.refused("POST", f"{path}/commands", {"command_name": "play_test"}, status=422),
        await staff.refused("PATCH", f"{path}/config", {"volume": 40}, status=422),
        await staff.refused("POST", f"{path}/config/retry-push", status=422),
        await staff.refused("POST", f"{path}/activation-code", status=422),
        await staff.refused("POST", f"{path}/credentials/rotate", status=422),
    ]

    assert {refusal["code"] for refusal in refusals} == {"DEVICE_CAPABILITY_NOT_SUPPORTED"}
    await staff.refused("PATCH", path, {"vendor": "native"}, status=409)


async def test_its_heartbeats_are_shown_read_and_word_for_word(hub: Hub, staff: Staff, database: Database) -> None:
    device = await new_box(staff)
    await staff.post(f"/admin/devices/{device}/config-window")
    await asked(hub)
    await beat(database, payload=b'{"battery":77,"odd":"\xff"}', now_ms=clock.now_ms())
    await beat(database, payload=b'{"battery":78}', now_ms=clock.now_ms())

    newest, oldest = await staff.get(f"/admin/devices/{device}/heartbeats")

    assert (newest["source"], newest["battery_level"], newest["payload"]) == ("qf100", 78, '{"battery":78}')
    assert oldest["battery_level"] is None
    shown = await staff.get(f"/admin/devices/{device}")
    assert (shown["presence"]["reachable"], shown["presence"]["verifies_signatures"]) == ("online", False)
