"""Whoever binds or unbinds a box stands in front of it: the box speaks a code, and it is repeated here."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.hub import Hub
from support.shop import Shop, execute, row, rows

from soundbox_server import clock, settings
from soundbox_server.commands.possession import LIFE_MS, MOST_BEGUN, TRIES
from soundbox_server.db import Database
from soundbox_server.devices import service as devices


@pytest.fixture
async def box(shop: Shop) -> str:
    """Activated, online, and standing nowhere."""
    device = await shop.box()
    await shop.unbind(device)
    return device


@pytest.fixture
def checking(hub: Hub) -> Hub:
    """An installation that asks for possession, as in production."""
    hub.app.state.possession_check = True
    return hub


async def post(hub: Hub, device: str, path: str, **body: Any) -> httpx.Response:
    return await hub.http.post(f"/admin/devices/{device}/{path}", json=body, headers=hub.operator())


async def spoken(database: Database, answer: httpx.Response) -> str:
    """What the box was told to speak, from the message as it was sent."""
    command_id = answer.json()["data"]["challenge"]["command_id"]
    sent = await row(database, "SELECT body FROM outbox_message WHERE id = $1", command_id)
    return str(json.loads(bytes(sent["body"]))["payload"]["code"])


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10_000:04d}"


async def terminal_of(database: Database, device: str) -> list[str]:
    found = await rows(
        database, "SELECT terminal_id FROM device_binding WHERE device_id = $1 AND unbound_at_ms IS NULL", device
    )
    return [one["terminal_id"] for one in found]


async def audited(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    found = await rows(database, "SELECT action, outcome, details FROM audit_entry ORDER BY id")
    return [(entry["action"], entry["outcome"], json.loads(entry["details"])) for entry in found]


async def test_the_code_the_box_spoke_binds_it(checking: Hub, shop: Shop, box: str, database: Database) -> None:
    begun = await post(checking, box, "bind", terminal_id=shop.terminal_id)
    before = await terminal_of(database, box)
    challenge, code = begun.json()["data"]["challenge"], await spoken(database, begun)

    bound = await post(checking, box, "bind/confirm", challenge_id=challenge["challenge_id"], code=code)

    assert (begun.status_code, begun.json()["data"]["bound"], before) == (202, False, [])
    assert (challenge["digits"], challenge["tries"]) == (4, TRIES)
    assert bound.status_code == 200, bound.text
    assert bound.json()["data"]["terminal_id"] == shop.terminal_id
    assert await terminal_of(database, box) == [shop.terminal_id]
    (asked, done) = await audited(database)
    assert (asked[0], done[0], done[2]["possession"]) == ("device.bind_challenged", "device.bound", "confirmed")


async def test_the_code_is_neither_stored_nor_shown_where_it_could_be_read(
    checking: Hub, shop: Shop, box: str, database: Database
) -> None:
    begun = await post(checking, box, "bind", terminal_id=shop.terminal_id)
    code, challenge = await spoken(database, begun), begun.json()["data"]["challenge"]
    path = f"/admin/devices/{box}/commands/{challenge['command_id']}"

    seen = (await checking.http.get(path, headers=checking.operator())).json()["data"]

    assert seen["payload"] == {"code": "****"}
    (kept,) = await rows(database, "SELECT code_hmac FROM possession_challenge")
    assert len(kept["code_hmac"]) == 64
    stored = [await rows(database, f"SELECT * FROM {table}") for table in ("device_command", "audit_entry")]
    assert f'"{code}"' not in str(stored)


async def test_the_third_wrong_code_ends_the_challenge(checking: Hub, shop: Shop, box: str, database: Database) -> None:
    begun = await post(checking, box, "bind", terminal_id=shop.terminal_id)
    code, challenge_id = await spoken(database, begun), begun.json()["data"]["challenge"]["challenge_id"]

    answers = [
        await post(checking, box, "bind/confirm", challenge_id=challenge_id, code=tried)
        for tried in (wrong(code), wrong(code), wrong(code), code)
    ]

    assert [answer.status_code for answer in answers] == [409] * 4
    assert [answer.json()["code"] for answer in answers] == ["WRONG_CODE", "WRONG_CODE", "CONFLICT", "CONFLICT"]
    assert [answer.json()["details"].get("tries_left") for answer in answers[:3]] == [2, 1, 0]
    assert await terminal_of(database, box) == []
    failed = [entry for entry in await audited(database) if entry[0] == "device.bind_code_wrong"]
    assert [(outcome, details["tries_left"]) for _, outcome, details in failed] == [
        ("failed", 2), ("failed", 1), ("failed", 0)
    ]  # fmt: skip


async def test_a_wrong_code_leaves_room_for_the_right_one(
    checking: Hub, shop: Shop, box: str, database: Database
) -> None:
    begun = await post(checking, box, "bind", terminal_id=shop.terminal_id)
    code, challenge_id = await spoken(database, begun), begun.json()["data"]["challenge"]["challenge_id"]

    await post(checking, box, "bind/confirm", challenge_id=challenge_id, code=wrong(code))
    bound = await post(checking, box, "bind/confirm", challenge_id=challenge_id, code=code)

    assert bound.status_code == 200


async def test_a_code_is_good_for_five_minutes_and_once(
    checking: Hub, shop: Shop, box: str, database: Database
) -> None:
    late = await post(checking, box, "bind", terminal_id=shop.terminal_id)
    await execute(
        database, "UPDATE possession_challenge SET created_at_ms = created_at_ms - $1, expires_at_ms = $2",
        LIFE_MS, clock.now_ms(),
    )  # fmt: skip
    late_code = await spoken(database, late)
    late_id = late.json()["data"]["challenge"]["challenge_id"]
    too_late = await post(checking, box, "bind/confirm", challenge_id=late_id, code=late_code)
    fresh = await post(checking, box, "bind", terminal_id=shop.terminal_id)
    code, challenge_id = await spoken(database, fresh), fresh.json()["data"]["challenge"]["challenge_id"]
    in_time = await post(checking, box, "bind/confirm", challenge_id=challenge_id, code=code)
    await shop.unbind(box)
    replayed = await post(checking, box, "bind/confirm", challenge_id=challenge_id, code=code)

    assert [answer.status_code for answer in (too_late, in_time, replayed)] == [409, 200, 409]
    assert await terminal_of(database, box) == []


async def test_a_new_challenge_takes_the_place_of_the_last(
    checking: Hub, shop: Shop, box: str, database: Database
) -> None:
    first = await post(checking, box, "bind", terminal_id=shop.terminal_id)
    await post(checking, box, "bind", terminal_id=shop.terminal_id)

    challenge_id = first.json()["data"]["challenge"]["challenge_id"]
    answered = await post(checking, box, "bind/confirm", challenge_id=challenge_id, code=await spoken(database, first))

    assert answered.status_code == 409
    states = await rows(database, "SELECT state FROM possession_challenge ORDER BY state")
    assert [one["state"] for one in states] == ["open", "superseded"]


async def test_patience_does_not_find_a_code(checking: Hub, shop: Shop, box: str) -> None:
    begun = [await post(checking, box, "bind", terminal_id=shop.terminal_id) for _ in range(MOST_BEGUN + 1)]

    assert [answer.status_code for answer in begun] == [202] * MOST_BEGUN + [429]


async def test_a_challenge_belongs_to_its_device_and_its_purpose(
    checking: Hub, shop: Shop, box: str, database: Database
) -> None:
    begun = await post(checking, box, "bind", terminal_id=shop.terminal_id)
    heard = {"challenge_id": begun.json()["data"]["challenge"]["challenge_id"], "code": await spoken(database, begun)}
    other = await shop.box()

    answers = [
        await post(checking, other, "bind/confirm", **heard),
        await post(checking, box, "unbind/confirm", **heard),
        await post(checking, "dev_nowhere", "bind/confirm", **heard),
        await post(checking, box, "bind/confirm", **(heard | {"challenge_id": "chl_nowhere"})),
    ]

    assert [answer.status_code for answer in answers] == [404] * 4
    assert (await row(database, "SELECT failures FROM possession_challenge"))["failures"] == 0


async def test_an_offline_box_is_bound_only_by_somebody_who_says_why(
    checking: Hub, shop: Shop, database: Database
) -> None:
    device = await shop.box(online=False)
    await shop.unbind(device)

    refused = await post(checking, device, "bind", terminal_id=shop.terminal_id)
    no_reason = await post(checking, device, "bind", terminal_id=shop.terminal_id, possession="waived")
    waived = await post(
        checking, device, "bind", terminal_id=shop.terminal_id, possession="waived", reason="bound in the factory"
    )

    assert [answer.status_code for answer in (refused, no_reason, waived)] == [409, 400, 200]
    assert await terminal_of(database, device) == [shop.terminal_id]
    (entry,) = await audited(database)
    assert entry[2] == {"terminal_id": shop.terminal_id, "possession": "waived", "reason": "bound in the factory"}


async def test_what_would_refuse_the_binding_refuses_it_before_the_box_speaks(
    checking: Hub, shop: Shop, box: str, database: Database
) -> None:
    elsewhere = await shop.another_terminal()
    standing = await elsewhere.box()
    unused, _ = await database.write(
        lambda tx: devices.register(tx, serial_number="SBX-9", vendor="native", model="sbx-1", now_ms=clock.now_ms())
    )

    answers = [
        await post(checking, box, "bind", terminal_id="term_nowhere"),
        await post(checking, standing, "bind", terminal_id=shop.terminal_id),
        await post(checking, unused, "bind", terminal_id=shop.terminal_id),
        await post(checking, box, "unbind"),
    ]
    again = await post(checking, standing, "bind", terminal_id=elsewhere.terminal_id)

    assert [answer.status_code for answer in answers] == [404, 409, 409, 409]
    assert (again.status_code, again.json()["data"]["terminal_id"]) == (200, elsewhere.terminal_id)
    assert await rows(database, "SELECT id FROM device_command") == []


async def test_a_box_is_taken_away_by_whoever_heard_its_code(checking: Hub, shop: Shop, database: Database) -> None:
    device = await shop.box()
    begun = await post(checking, device, "unbind")
    challenge_id, code = begun.json()["data"]["challenge"]["challenge_id"], await spoken(database, begun)
    tried = await post(checking, device, "unbind/confirm", challenge_id=challenge_id, code=wrong(code))
    still = await terminal_of(database, device)

    done = await post(checking, device, "unbind/confirm", challenge_id=challenge_id, code=code)

    assert (begun.status_code, begun.json()["data"]["bound"]) == (202, True)
    assert (tried.json()["code"], still) == ("WRONG_CODE", [shop.terminal_id])
    assert done.json()["data"] == {"device_id": device, "bound": False}
    assert await terminal_of(database, device) == []


async def test_a_lost_box_is_taken_away_with_a_reason(checking: Hub, shop: Shop, database: Database) -> None:
    device = await shop.box(online=False)

    refused = await post(checking, device, "unbind")
    done = await post(checking, device, "unbind", possession="waived", reason="stolen")

    assert [refused.status_code, done.status_code] == [409, 200]
    assert [(action, details["possession"]) for action, _, details in await audited(database)] == [
        ("device.unbound", "waived")
    ]


async def test_without_the_check_the_first_contracts_calls_do_it_at_once(hub: Hub, shop: Shop, box: str) -> None:
    bound = await post(hub, box, "bind", terminal_id=shop.terminal_id)
    unbound = await hub.http.post(f"/admin/devices/{box}/unbind", headers=hub.operator())
    checked = await post(hub, box, "bind", terminal_id=shop.terminal_id, possession="check")

    assert (bound.status_code, bound.json()["data"]["terminal_id"]) == (200, shop.terminal_id)
    assert (unbound.status_code, unbound.json()["data"]) == (200, {"device_id": box, "bound": False})
    assert checked.status_code == 202


def test_possession_is_checked_in_production_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    def checked(**given: Any) -> str:
        return settings.Settings(home=tmp_path, provider="acme", **given).possession_check

    assert (checked(), checked(environment="production")) == ("off", "on")
    assert checked(environment="production", possession_check="off") == "off"
    assert checked(possession_check="on") == "on"
