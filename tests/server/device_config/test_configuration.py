"""What boxes are to be like, from an operator's wish to the box's own word."""

import asyncio
import json
from typing import Any

import pytest
from support.hub import Hub
from support.shop import MASTER, NOW, Shop, execute, row, rows
from support.staff import Staff, audited

from soundbox_protocol.configuration import pushed_config, sha256_of
from soundbox_protocol.messages import MAX_COUNT, ConfigAck
from soundbox_protocol.signing import verify
from soundbox_server import seal
from soundbox_server.clock import now_ms
from soundbox_server.db import Database, Statements
from soundbox_server.device_config import service
from soundbox_server.device_config.jobs import keep_configured
from soundbox_server.device_config.layers import LayerChanges, as_sent, changed, merged
from soundbox_server.device_config.service import PUSH_LIFE_MS, Said
from soundbox_server.device_config.state import TRANSITIONS, ConfigState
from soundbox_server.devices import lifecycle
from soundbox_server.devices import service as devices
from soundbox_server.outbox import service as outbox
from soundbox_server.uplinks import HIGHEST_BELIEVED

S = ConfigState


def key_of(device_id: str, key_version: int) -> bytes:
    return seal.announcement_key(MASTER, device_id, key_version)


async def configure(database: Database, scope: Any, subject_id: str, **settings: Any) -> None:
    await database.write(lambda tx: service.change_layer(tx, scope, subject_id, settings, by="per_test", now_ms=NOW))


async def follow_up(database: Database) -> list[outbox.Message]:
    """The worker's job, and what it published."""
    sent: list[outbox.Message] = []
    await keep_configured(database, key_of=key_of, owner="test", publish=sent.extend)
    return sent


async def say(
    database: Database,
    device_id: str,
    digest: str | None,
    *,
    version: int | None = None,
    birth: bool = False,
    at_ms: int = NOW + 1_000,
) -> None:
    said = Said(device_id=device_id, version=version, sha256=digest, at_birth=birth)
    await database.write(lambda tx: service.take_words(tx, [said], now_ms=at_ms))


async def ack(database: Database, device_id: str, version: int, status: Any = "applied", **other: Any) -> Any:
    said = ConfigAck(device_id=device_id, config_version=version, status=status, **other)
    (verdict,) = await database.write(lambda tx: service.take_acks(tx, [said], now_ms=NOW + 1_000))
    return verdict


async def standing(database: Database, device_id: str) -> dict[str, Any]:
    return await row(database, "SELECT * FROM device_config WHERE device_id = $1", device_id)


async def activate_again(database: Database, device_id: str) -> None:
    async def activate(tx: Statements) -> None:
        code = await devices.issue_new_code(tx, device_id, now_ms=NOW)
        serial = (await tx.fetch("SELECT serial_number FROM device WHERE id = $1", device_id))[0]["serial_number"]
        assert await devices.activate(
            tx, code=code, serial_number=serial, hash_password=lambda _: "$7$unused", now_ms=NOW
        )

    await database.write(activate)


async def go(database: Database, device_id: str, *, online: bool, epoch: int = 2) -> None:
    session = devices.Session(device_id=device_id, online=online, epoch=epoch, at_ms=NOW)
    await database.write(lambda tx: devices.take_sessions(tx, [session]))


def read(message: outbox.Message, *, key_version: int = 1) -> tuple[int, dict[str, Any]]:
    body = verify(key_of(message.recipient_id, key_version), message.address, message.body)
    push, raw = pushed_config(body)
    return push.config_version, json.loads(raw)


# --- layers -------------------------------------------------------------------------------------------------------


def test_the_narrower_layer_counts_and_the_rest_is_inherited() -> None:
    night = {"start": "22:00", "end": "06:00", "volume": 20}
    fleet, merchant = {"volume": 70, "quiet_hours": night, "language": "id"}, {"volume": 50, "quiet_hours": "off"}

    assert merged([fleet, {}, {}]) == fleet
    assert merged([fleet, merchant, {"volume": 30}]) == {"volume": 30, "language": "id"}
    assert merged([fleet, merchant, {"quiet_hours": night}])["quiet_hours"] == night


def test_what_is_taken_back_is_inherited_again() -> None:
    assert changed({"volume": 30, "language": "en"}, {"volume": None, "heartbeat_s": 60}) == {
        "language": "en", "heartbeat_s": 60,
    }  # fmt: skip


def test_the_same_settings_are_the_same_bytes_whatever_came_first() -> None:
    assert as_sent([{"volume": 1}, {"language": "id"}, {}]) == as_sent([{"language": "id"}, {}, {"volume": 1}])


@pytest.mark.parametrize(
    "settings",
    [{"volume": 101}, {"volume": "70"}, {"loudness": 1}, {"quiet_hours": {"start": "22:00", "end": "06:00"}},
     {"quiet_hours": {"start": "22:00", "end": "06:00", "volume": 0}}, {"template": "shout"}, {"heartbeat_s": 1}],
)  # fmt: skip
def test_a_setting_that_no_box_can_have_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LayerChanges.model_validate(settings)


def test_every_state_but_the_last_leads_on() -> None:
    assert [state for state in ConfigState if not TRANSITIONS[state]] == [S.CLEARED]


# --- sending ------------------------------------------------------------------------------------------------------


async def test_a_box_that_nobody_configured_is_sent_nothing(database: Database, shop: Shop) -> None:
    await shop.box()

    assert await follow_up(database) == []
    assert await rows(database, "SELECT device_id FROM device_config") == []


async def test_the_fleets_settings_reach_every_box_signed_and_retained(database: Database, shop: Shop) -> None:
    first, second = sorted([await shop.box(), await shop.box()])
    away = await shop.box(online=False)
    await configure(database, "fleet", "fleet", volume=60)
    await configure(database, "merchant", shop.merchant_id, language="en")
    await configure(database, "device", second, volume=20)

    sent = await follow_up(database)

    assert [(one.recipient_id, read(one)) for one in sent] == [
        (first, (1, {"volume": 60, "language": "en"})),
        (second, (1, {"volume": 20, "language": "en"})),
    ]
    assert {one.kind for one in sent} <= outbox.RETAINED
    assert [(await standing(database, box))["state"] for box in (first, second, away)] == [
        "pushed",
        "pushed",
        "pending",
    ]
    assert await follow_up(database) == []


async def test_a_box_that_moves_to_another_merchant_gets_that_merchants_settings(
    database: Database, shop: Shop
) -> None:
    box = await shop.box()
    await configure(database, "merchant", shop.merchant_id, language="en", volume=50)
    await follow_up(database)
    await shop.unbind(box)

    (sent,) = await follow_up(database)

    assert read(sent) == (2, {})


async def test_an_offline_box_is_sent_the_newest_once_it_is_back(database: Database, shop: Shop) -> None:
    box = await shop.box(online=False)
    for volume in (10, 20, 30):
        await configure(database, "device", box, volume=volume)
        assert await follow_up(database) == []
    await go(database, box, online=True)

    (sent,) = await follow_up(database)

    assert read(sent) == (3, {"volume": 30})


async def test_a_newer_one_ends_the_sending_of_the_older(database: Database, shop: Shop) -> None:
    box = await shop.box()
    await configure(database, "device", box, volume=10)
    (old,) = await follow_up(database)
    await configure(database, "device", box, volume=20)
    (new,) = await follow_up(database)

    found = await rows(database, "SELECT id, state, reason FROM outbox_message WHERE kind = 'config' ORDER BY id")
    assert [(one["id"], one["state"], one["reason"]) for one in found] == [
        (old.id, "expired", "superseded"), (new.id, "published", None),
    ]  # fmt: skip


async def test_what_nobody_answers_waits_for_the_next_birth(database: Database, shop: Shop) -> None:
    box = await shop.box()
    await configure(database, "device", box, volume=10)
    (first,) = await follow_up(database)
    late = first.created_at_ms + PUSH_LIFE_MS
    await database.write(lambda tx: outbox.expire(tx, now_ms=late))
    assert await follow_up(database) == []
    unanswered = (await standing(database, box))["state"]

    await say(database, box, None, birth=True)
    (again,) = await follow_up(database)

    assert unanswered == "unanswered"
    assert (again.body, again.id != first.id) == (first.body, True)


async def test_an_activation_publishes_it_under_the_new_key(database: Database, shop: Shop) -> None:
    box = await shop.box()
    await configure(database, "device", box, volume=10)
    await follow_up(database)
    await ack(database, box, 1)

    await activate_again(database, box)
    await go(database, box, online=True)
    (sent,) = await follow_up(database)

    assert read(sent, key_version=2) == (1, {"volume": 10})


async def test_what_an_earlier_key_signed_is_not_left_with_the_broker_until_the_box_comes(
    database: Database, shop: Shop
) -> None:
    """It would hear the retained one before it can be born, and complain of a wrong signature."""
    box, never_sent = await shop.box(), await shop.box(online=False)
    await configure(database, "device", box, volume=10)
    await configure(database, "device", never_sent, volume=10)
    await follow_up(database)
    await ack(database, box, 1)
    await activate_again(database, box)
    await activate_again(database, never_sent)

    (sent,) = await follow_up(database)
    await configure(database, "device", box, volume=20)
    later = await follow_up(database)

    assert (sent.recipient_id, read(sent, key_version=2)) == (box, (1, {"volume": 10}))
    assert later == []
    assert (await standing(database, box))["state"] == "pending"


async def test_what_changed_with_the_key_goes_out_in_its_place(database: Database, shop: Shop) -> None:
    box = await shop.box()
    await configure(database, "device", box, volume=10)
    await follow_up(database)
    await activate_again(database, box)
    await configure(database, "device", box, volume=20)

    (sent,) = await follow_up(database)

    assert read(sent, key_version=2) == (2, {"volume": 20})
    assert await follow_up(database) == []


async def test_a_box_that_fetched_what_was_never_pushed_is_not_built_over_and_over(
    database: Database, shop: Shop
) -> None:
    box = await shop.box(online=False)
    await configure(database, "device", box, volume=10)
    await follow_up(database)
    await ack(database, box, 1, sha256=DIGEST)

    assert await follow_up(database) == []
    assert (await standing(database, box))["state"] == "applied"


async def test_a_box_that_leaves_for_good_leaves_nothing_at_the_broker(database: Database, shop: Shop) -> None:
    box = await shop.box()
    await configure(database, "device", box, volume=10)
    await follow_up(database)
    await database.write(lambda tx: lifecycle.revoke(tx, box, reason="stolen", now_ms=NOW))

    (cleared,) = await follow_up(database)

    assert (cleared.address, cleared.body) == (f"devices/{box}/downlink/config/push", b"")
    assert await follow_up(database) == []


# --- what boxes say -----------------------------------------------------------------------------------------------


@pytest.fixture
async def pushed(database: Database, shop: Shop) -> str:
    """A box that was sent its first configuration."""
    box = await shop.box()
    await configure(database, "device", box, volume=10)
    assert len(await follow_up(database)) == 1
    return box


DIGEST, OTHER = sha256_of(b'{"volume":10}'), sha256_of(b"{}")


async def test_an_ack_ends_the_sending(database: Database, pushed: str) -> None:
    verdict = await ack(database, pushed, 1, sha256=DIGEST)

    found = await standing(database, pushed)
    message = await row(database, "SELECT state FROM outbox_message WHERE kind = 'config'")
    assert (verdict.state, found["state"], message["state"]) == (S.APPLIED, "applied", "played")


async def test_a_refusal_is_kept_with_its_reasons_and_somebody_is_told(database: Database, pushed: str) -> None:
    await ack(database, pushed, 1, "rejected", errors=["volume: broken"])

    assert (await standing(database, pushed))["acked_errors"] == '["volume: broken"]'
    assert (await row(database, "SELECT kind FROM alert"))["kind"] == "device.config_rejected"
    await configure(database, "device", pushed, volume=11)
    await follow_up(database)
    await ack(database, pushed, 2)
    assert (await row(database, "SELECT state FROM alert"))["state"] == "resolved"


async def test_an_ack_of_an_earlier_version_or_of_other_bytes_is_no_proof(database: Database, pushed: str) -> None:
    await configure(database, "device", pushed, volume=11)
    await follow_up(database)

    old = await ack(database, pushed, 1, sha256=DIGEST)
    wrong = await ack(database, pushed, 2, sha256=OTHER)

    assert (old.state, old.counts, wrong.state) == (S.PUSHED, False, S.REJECTED)


async def test_a_box_that_forgets_is_noticed_and_sent_it_again_but_not_all_day(database: Database, pushed: str) -> None:
    await ack(database, pushed, 1, sha256=DIGEST)
    await say(database, pushed, OTHER)
    drifted = (await standing(database, pushed))["state"]
    alerts = await rows(database, "SELECT kind FROM alert WHERE state = 'open'")
    too_soon = await follow_up(database)
    await execute(database, "UPDATE device_config SET pushed_at_ms = $1", now_ms() - service.DRIFT_AGAIN_MS)

    (sent,) = await follow_up(database)
    await ack(database, pushed, 1, sha256=DIGEST)

    assert (drifted, [one["kind"] for one in alerts], too_soon) == ("drifted", ["device.config_drifted"], [])
    assert read(sent) == (1, {"volume": 10})
    assert await rows(database, "SELECT kind FROM alert WHERE state = 'open'") == []


async def test_what_nobody_answered_is_sent_again_to_a_box_that_says_another_hash(
    database: Database, pushed: str
) -> None:
    sent_ms = (await standing(database, pushed))["pushed_at_ms"]
    await say(database, pushed, OTHER, at_ms=sent_ms + PUSH_LIFE_MS)
    still_sent = await follow_up(database)
    await database.write(lambda tx: outbox.expire(tx, now_ms=sent_ms + PUSH_LIFE_MS))
    await follow_up(database)

    await say(database, pushed, OTHER, at_ms=sent_ms + service.UNANSWERED_AGAIN_MS - 1)
    too_soon = await follow_up(database)
    await say(database, pushed, OTHER, at_ms=sent_ms + service.UNANSWERED_AGAIN_MS)
    (sent,) = await follow_up(database)

    assert (still_sent, too_soon) == ([], [])
    assert read(sent) == (1, {"volume": 10})


async def test_a_heartbeat_that_says_the_right_hash_makes_up_for_a_lost_ack(database: Database, pushed: str) -> None:
    await say(database, pushed, DIGEST)

    assert (await standing(database, pushed))["state"] == "applied"


async def test_a_heartbeat_that_says_nothing_new_writes_nothing(database: Database, pushed: str) -> None:
    await ack(database, pushed, 1, sha256=DIGEST)
    before = await standing(database, pushed)
    await say(database, pushed, DIGEST)

    assert await standing(database, pushed) == before


@pytest.mark.parametrize(("digest", "again"), [(DIGEST, False), (OTHER, True), (None, True)])
async def test_a_birth_says_whether_it_is_to_be_sent_again(
    database: Database, pushed: str, digest: str | None, again: bool
) -> None:
    await ack(database, pushed, 1, sha256=DIGEST)
    await say(database, pushed, digest, birth=True)

    assert [one.recipient_id for one in await follow_up(database)] == [pushed] * again


async def test_a_box_that_never_tells_is_believed_its_ack(database: Database, pushed: str) -> None:
    await ack(database, pushed, 1)
    await say(database, pushed, None, birth=True)

    assert await follow_up(database) == []


async def test_a_hub_from_a_backup_goes_on_above_its_boxes_version(database: Database, pushed: str) -> None:
    await say(database, pushed, OTHER, version=41, birth=True)

    (sent,) = await follow_up(database)

    assert read(sent) == (42, {"volume": 10})


@pytest.mark.parametrize(("said", "then"), [(HIGHEST_BELIEVED, HIGHEST_BELIEVED + 2), (HIGHEST_BELIEVED + 1, 2)])
async def test_a_version_that_no_box_comes_to_is_not_gone_on_from(
    database: Database, pushed: str, said: int, then: int
) -> None:
    for _ in range(2):
        await say(database, pushed, OTHER, version=said, birth=True)
        await follow_up(database)
    await configure(database, "device", pushed, volume=11)

    (sent,) = await follow_up(database)

    assert read(sent) == (then, {"volume": 11})
    assert (await standing(database, pushed))["reported_version"] == said


async def test_a_box_whose_configuration_cannot_be_written_holds_up_no_other(
    database: Database, shop: Shop, pushed: str
) -> None:
    other = await shop.box()
    await configure(database, "fleet", "fleet", language="en")
    await execute(database, "UPDATE device_config SET version = $2 WHERE device_id = $1", pushed, MAX_COUNT)

    sent = await follow_up(database)
    await activate_again(database, pushed)
    for _ in range(3):
        assert await follow_up(database) == []

    assert [one.recipient_id for one in sent] == [other]
    assert (await standing(database, pushed))["state"] == "rejected"
    assert (await row(database, "SELECT kind, subject_id, times FROM alert")) == {
        "kind": "device.config_rejected", "subject_id": pushed, "times": 2,
    }  # fmt: skip


# --- doors --------------------------------------------------------------------------------------------------------


async def test_an_operator_configures_a_box_and_sees_what_became_of_it(
    operator: Staff, shop: Shop, database: Database
) -> None:
    device, token = await shop.box_with_token()
    path, bearer = f"/admin/devices/{device}/config", {"authorization": f"Bearer {token}"}
    night = {"start": "21:30", "end": "06:00", "volume": 25}

    shown = await operator.patch(path, {"volume": 70, "quiet_hours": night})
    sent = await operator.get(f"{path}/status")
    own = (await operator.hub.http.get("/device/config", headers=bearer)).json()["data"]
    said = {"device_id": device, "config_version": 1, "status": "applied", "sha256": own["sha256"]}
    answered = await operator.hub.http.post("/device/config/ack", json=said, headers=bearer)
    done = await operator.get(f"{path}/status")

    assert (shown["config_version"], shown["config"]) == (1, {"volume": 70, "quiet_hours": night})
    assert shown["layers"] == {"fleet": {}, "merchant": {}, "device": {"volume": 70, "quiet_hours": night}}
    assert (sent["status"], sent["attempts"], sent["ack"]) == ("pushed", 1, None)
    assert (answered.status_code, answered.json()["data"]) == (200, {"config_version": 1, "status": "applied"})
    assert (done["status"], done["ack"]["sha256"], done["reported"]["sha256"]) == (
        "applied", own["sha256"], shown["sha256"],
    )  # fmt: skip
    (entry,) = await audited(database, "device.config_changed")
    assert json.loads(entry["details"])["after"] == {"volume": 70, "quiet_hours": night}


async def test_a_box_hashes_what_it_fetched_as_it_stands(hub: Hub, operator: Staff, shop: Shop) -> None:
    device, token = await shop.box_with_token()
    await operator.patch(f"/admin/devices/{device}/config", {"volume": 70, "language": "en"})

    text = (await hub.http.get("/device/config", headers={"authorization": f"Bearer {token}"})).text

    raw = text[text.index('"config":') + 9 : text.index(',"sha256"')]
    assert sha256_of(raw.encode()) == json.loads(text)["data"]["sha256"]


async def test_the_fleets_and_a_merchants_layers_have_doors_of_their_own(operator: Staff, shop: Shop) -> None:
    fleet = await operator.patch("/admin/config/fleet", {"volume": 60})
    merchant = await operator.patch(f"/admin/config/merchants/{shop.merchant_id}", {"quiet_hours": "off"})
    again = await operator.patch("/admin/config/fleet", {"volume": None})

    assert (fleet["settings"], fleet["revision"], fleet["updated_by"]) == ({"volume": 60}, 1, "per_operator")
    assert merchant["settings"] == {"quiet_hours": "off"}
    assert (again["settings"], again["revision"]) == ({}, 2)
    assert await operator.get("/admin/config/fleet") == again


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/admin/devices/sbx_nowhere/config", None, 404),
        ("PATCH", "/admin/devices/sbx_nowhere/config", {"volume": 1}, 404),
        ("GET", "/admin/devices/sbx_nowhere/config/status", None, 404),
        ("POST", "/admin/devices/sbx_nowhere/config/retry-push", None, 404),
        ("GET", "/admin/config/merchants/mer_nowhere", None, 404),
        ("PATCH", "/admin/config/merchants/mer_nowhere", {"volume": 1}, 404),
        ("PATCH", "/admin/config/fleet", {"volume": 101}, 400),
        ("PATCH", "/admin/config/fleet", {"loudness": 1}, 400),
    ],
)
async def test_what_cannot_be_configured_is_refused(
    operator: Staff, method: str, path: str, body: Any, status: int
) -> None:
    await operator.refused(method, path, body, status=status)


async def test_a_push_is_sent_again_when_somebody_asks(operator: Staff, shop: Shop, database: Database) -> None:
    device = await shop.box()
    path = f"/admin/devices/{device}/config"
    nothing = await operator.refused("POST", f"{path}/retry-push", status=409)
    await operator.patch(path, {"volume": 70})

    again = await operator.post(f"{path}/retry-push")

    assert nothing["code"] == "CONFLICT"
    assert again["status"] == "pushed"
    sent = await rows(database, "SELECT state FROM outbox_message WHERE kind = 'config' ORDER BY id")
    assert [one["state"] for one in sent] == ["expired", "published"]
    assert len(await audited(database, "device.config_pushed_again")) == 1


async def test_a_heartbeat_over_http_tells_of_the_configuration_too(
    hub: Hub, operator: Staff, shop: Shop, database: Database
) -> None:
    device, token = await shop.box_with_token()
    shown = await operator.patch(f"/admin/devices/{device}/config", {"volume": 70})
    beat = {
        "device_id": device, "timestamp": "2026-05-23T10:00:00Z", "firmware_version": "1", "state": "idle",
        "config_sha256": shown["sha256"],
    }  # fmt: skip

    answered = await hub.http.post("/device/heartbeat", json=beat, headers={"authorization": f"Bearer {token}"})

    assert answered.status_code == 200, answered.text
    assert (await standing(database, device))["state"] == "applied"


@pytest.mark.parametrize(
    "change", [{"status": "partly"}, {"config_version": 0}, {"errors": "no"}, {"device_id": "sbx_other"}]
)
async def test_an_ack_that_cannot_be_read_or_is_anothers_is_refused(
    hub: Hub, shop: Shop, change: dict[str, Any]
) -> None:
    device, token = await shop.box_with_token()
    said = {"device_id": device, "config_version": 1, "status": "applied"} | change

    answered = await hub.http.post("/device/config/ack", json=said, headers={"authorization": f"Bearer {token}"})

    assert answered.status_code == (401 if "device_id" in change else 400)


async def test_two_changes_at_once_both_count(database: Database, shop: Shop) -> None:
    box, other = await shop.box(), Database(database.url.render_as_string(hide_password=False))

    async def change(where: Database, settings: dict[str, Any]) -> None:
        async def work(tx: Statements) -> None:
            await service.change_layer(tx, "device", box, settings, by=None, now_ms=NOW)
            await service.build(tx, [box], now_ms=NOW)
            await service.push(tx, [box], key_of=key_of, owner="test", trace_id="trc", now_ms=NOW)

        await where.write(work)

    try:
        await asyncio.gather(change(database, {"volume": 10}), change(other, {"language": "en"}))
    finally:
        await other.close()

    found = await standing(database, box)
    assert (found["version"], json.loads(found["config"])) == (2, {"volume": 10, "language": "en"})
    waiting = await rows(database, "SELECT id FROM outbox_message WHERE kind = 'config' AND state = 'published'")
    assert [one["id"] for one in waiting] == [found["message_id"]]
