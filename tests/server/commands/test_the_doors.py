"""Commands over HTTP: an operator's doors, and the box's own."""

import json
from typing import Any

import httpx
import pytest
from support.hub import Hub
from support.shop import Shop, row, rows

from soundbox_server.db import Database


async def give(hub: Hub, device_id: str, name: str = "speak_code", **payload: Any) -> httpx.Response:
    wanted = {"command_name": name, "payload": payload or {"code": "1234"}}
    return await hub.http.post(f"/admin/devices/{device_id}/commands", json=wanted, headers=hub.operator())


async def look(hub: Hub, device_id: str, command_id: str = "", **query: Any) -> httpx.Response:
    path = f"/admin/devices/{device_id}/commands" + (f"/{command_id}" if command_id else "")
    return await hub.http.get(path, params=query, headers=hub.operator())


async def ack(hub: Hub, token: str, body: dict[str, Any] | bytes) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body)
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return await hub.http.post("/device/commands/ack", content=content, headers=headers)


def contract(device_id: str, command_id: str, **other: Any) -> dict[str, Any]:
    """The body of the first contract."""
    body = {
        "device_id": device_id, "command_id": command_id, "status": "delivered", "reason": "ok",
        "result_payload": {"payment_result": "ok"},
    }  # fmt: skip
    return body | other


async def test_a_command_is_given_and_seen_and_audited(hub: Hub, shop: Shop, database: Database) -> None:
    device = await shop.box()

    given = await give(hub, device)

    assert given.status_code == 201, given.text
    command = given.json()["data"]
    assert (command["device_id"], command["status"], command["payload"]) == (device, "sent", {"code": "1234"})
    assert (command["command_name"], command["requested_by"], command["acks"]) == (
        "speak_code",
        "per_test_operator",
        [],
    )
    (entry,) = await rows(database, "SELECT action, subject_id, actor_id, details FROM audit_entry")
    assert (entry["action"], entry["subject_id"], entry["actor_id"]) == (
        "device.command_given",
        device,
        "per_test_operator",
    )
    assert json.loads(entry["details"])["command_id"] == command["command_id"]


async def test_the_boxs_own_ack_ends_it_as_the_contract_says(hub: Hub, shop: Shop) -> None:
    device, token = await shop.box_with_token()
    command_id = (await give(hub, device)).json()["data"]["command_id"]

    first = await ack(hub, token, contract(device, command_id))
    again = await ack(hub, token, contract(device, command_id))
    otherwise = await ack(hub, token, contract(device, command_id, status="failed"))

    assert [answer.status_code for answer in (first, again, otherwise)] == [200, 200, 200]
    assert first.json()["data"] == {"command_id": command_id, "status": "succeeded", "conflicting": False}
    assert again.json()["data"] == first.json()["data"]
    assert otherwise.json()["data"] == {"command_id": command_id, "status": "succeeded", "conflicting": True}
    seen = (await look(hub, device, command_id)).json()["data"]
    assert (seen["status"], seen["last_ack"], seen["result_payload"]) == (
        "succeeded", "delivered", {"payment_result": "ok"}
    )  # fmt: skip
    assert {(said["status"], said["conflicting"]) for said in seen["acks"]} == {("delivered", False), ("failed", True)}


async def test_a_box_may_not_answer_for_another_one(hub: Hub, shop: Shop, database: Database) -> None:
    device, _ = await shop.box_with_token()
    other, others_token = await shop.box_with_token()
    command_id = (await give(hub, device)).json()["data"]["command_id"]

    in_its_own_name = await ack(hub, others_token, contract(other, command_id))
    in_the_others_name = await ack(hub, others_token, contract(device, command_id))
    nobody = await ack(hub, "no-token", contract(device, command_id))

    assert [answer.status_code for answer in (in_its_own_name, in_the_others_name, nobody)] == [404, 401, 401]
    assert (await row(database, "SELECT state FROM device_command"))["state"] == "sent"


@pytest.mark.parametrize(
    "change",
    [{"status": "done"}, {"command_id": ""}, {"result_payload": "ok"}, {"reason": "a\nb"}, {"reason": "x" * 65}],
)
async def test_an_ack_that_cannot_be_read_is_refused(hub: Hub, shop: Shop, change: dict[str, Any]) -> None:
    device, token = await shop.box_with_token()

    assert (await ack(hub, token, contract(device, "cmd_1") | change)).status_code == 400


@pytest.mark.parametrize("body", [b"", b"\xff", b'{"device_id":"a","device_id":"b"}', b"[]", b'{"status":NaN}'])
async def test_garbage_instead_of_an_ack_is_refused(hub: Hub, shop: Shop, body: bytes) -> None:
    _, token = await shop.box_with_token()

    assert (await ack(hub, token, body)).status_code == 400


async def test_a_result_is_shown_as_the_box_sent_it(hub: Hub, shop: Shop) -> None:
    device, token = await shop.box_with_token()
    command_id = (await give(hub, device)).json()["data"]["command_id"]
    result = {"huge": 10**40, "text": "é\u0001", "deep": [{"a": None}]}

    answered = await ack(hub, token, contract(device, command_id, result_payload=result))

    assert answered.status_code == 200, answered.text
    assert (await look(hub, device, command_id)).json()["data"]["result_payload"] == result


async def test_commands_are_listed_newest_first_by_state_and_in_pages(hub: Hub, shop: Shop) -> None:
    device, token = await shop.box_with_token()
    commands = [(await give(hub, device)).json()["data"]["command_id"] for _ in range(3)]
    await ack(hub, token, contract(device, commands[1]))

    first = (await look(hub, device, limit=2)).json()
    second = (await look(hub, device, limit=2, cursor=first["next_cursor"])).json()
    done = (await look(hub, device, status="succeeded")).json()

    assert [command["command_id"] for command in first["data"] + second["data"]] == commands[::-1]
    assert second["next_cursor"] is None
    assert [command["command_id"] for command in done["data"]] == [commands[1]]


async def test_what_waits_for_an_offline_box_can_be_cancelled(hub: Hub, shop: Shop, database: Database) -> None:
    device = await shop.box(online=False)
    command = (await give(hub, device)).json()["data"]
    path = f"/admin/devices/{device}/commands/{command['command_id']}/cancel"

    cancelled = await hub.http.post(path, headers=hub.operator())
    again = await hub.http.post(path, headers=hub.operator())

    assert (command["status"], cancelled.json()["data"]["status"]) == ("queued", "cancelled")
    assert again.status_code == 200
    audited = await rows(database, "SELECT id FROM audit_entry WHERE action = 'device.command_cancelled'")
    assert len(audited) == 1


async def test_what_is_on_its_way_cannot_be_cancelled(hub: Hub, shop: Shop) -> None:
    device = await shop.box()
    command_id = (await give(hub, device)).json()["data"]["command_id"]

    answered = await hub.http.post(f"/admin/devices/{device}/commands/{command_id}/cancel", headers=hub.operator())

    assert (answered.status_code, answered.json()["details"]) == (409, {"state": "sent"})


async def test_what_cannot_be_asked_is_refused_and_leaves_nothing(hub: Hub, shop: Shop, database: Database) -> None:
    device = await shop.box()
    unknown_field = {"command_name": "speak_code", "payload": {"code": "1234"}, "priority": 1}

    answers = [
        await give(hub, "dev_nowhere"),
        await give(hub, device, "dance"),
        await give(hub, device, code="12"),
        await give(hub, device, code="1234", loud=True),
        await hub.http.post(f"/admin/devices/{device}/commands", json=unknown_field, headers=hub.operator()),
    ]

    assert [answer.status_code for answer in answers] == [404, 400, 400, 400, 400]
    assert await rows(database, "SELECT id FROM device_command") == []
    assert await rows(database, "SELECT id FROM audit_entry") == []


async def test_a_command_is_seen_at_its_own_device_only(hub: Hub, shop: Shop) -> None:
    device, other = await shop.box(), await shop.box()
    command_id = (await give(hub, device)).json()["data"]["command_id"]

    answers = [
        await look(hub, other, command_id),
        await look(hub, "dev_nowhere"),
        await hub.http.post(f"/admin/devices/{other}/commands/{command_id}/cancel", headers=hub.operator()),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
