"""Credentials and lifecycle as boxes and operators see them over HTTP."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.hub import Hub, open_hub
from support.shop import Shop, execute, rows

from soundbox_server.clock import now_ms, rfc3339
from soundbox_server.db import Database
from soundbox_server.devices.provisioning_routes import BrokerView
from soundbox_server.devices.routes import ActivationView

REFRESH = "/device/provision/refresh-credential"


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path) as hub:
        yield hub


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def refresh(hub: Hub, token: str, body: dict[str, str] | None = None) -> httpx.Response:
    return await hub.http.post(REFRESH, headers=bearer(token), json=body)


async def beat(hub: Hub, token: str, device: str) -> httpx.Response:
    said = {"device_id": device, "timestamp": rfc3339(now_ms()), "firmware_version": "1.0.3", "state": "idle"}
    return await hub.http.post("/device/heartbeat", headers=bearer(token), json=said)


async def act(hub: Hub, device: str, verb: str, body: dict[str, Any] | None = None) -> httpx.Response:
    return await hub.http.post(f"/admin/devices/{device}/{verb}", headers=hub.operator(), json=body)


async def deeds(database: Database) -> list[tuple[str, str, str | None]]:
    found = await rows(database, "SELECT action, actor_kind, subject_id FROM audit_entry ORDER BY id")
    return [(entry["action"], entry["actor_kind"], entry["subject_id"]) for entry in found]


async def test_a_box_gets_a_new_credential_and_confirms_it(hub: Hub, database: Database, shop: Shop) -> None:
    device, old = await shop.box_with_token()

    answer = await refresh(hub, old)
    issued = answer.json()["data"]
    confirmed = await refresh(hub, issued["device_token"], {"confirm": issued["credential_id"]})
    repeated = await refresh(hub, issued["device_token"], {"confirm": issued["credential_id"]})

    assert issued["broker"]["username"] == issued["broker"]["client_id"] == device
    assert len({old, issued["device_token"], issued["broker"]["password"]}) == 3
    assert answer.headers["cache-control"] == "no-store"
    assert [one.json()["data"]["status"] for one in (confirmed, repeated)] == ["active", "active"]
    assert (await beat(hub, issued["device_token"], device)).status_code == 200
    assert (await beat(hub, old, device)).status_code == 401
    assert await deeds(database) == [("device.credential_rotated", "device", device)]


async def test_the_old_token_may_confirm_too_and_works_until_the_new_one_is_used(hub: Hub, shop: Shop) -> None:
    device, old = await shop.box_with_token()
    issued = (await refresh(hub, old)).json()["data"]
    assert (await refresh(hub, old, {"confirm": issued["credential_id"]})).status_code == 200

    assert (await beat(hub, old, device)).status_code == 200
    assert (await beat(hub, issued["device_token"], device)).status_code == 200
    assert (await beat(hub, old, device)).status_code == 401


async def test_confirming_what_was_never_issued_is_not_found(hub: Hub, shop: Shop) -> None:
    _, token = await shop.box_with_token()

    answer = await refresh(hub, token, {"confirm": "cred_of_nobody"})

    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("headers", [{}, bearer("nobodys"), bearer(""), {"authorization": "Basic abc"}])
async def test_nobody_refreshes_without_a_token_that_works(hub: Hub, headers: dict[str, str]) -> None:
    answer = await hub.http.post(REFRESH, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (401, "DEVICE_UNAUTHORIZED")


async def test_a_box_learns_with_its_heartbeat_that_it_shall_rotate(hub: Hub, database: Database, shop: Shop) -> None:
    device, token = await shop.box_with_token()
    before = (await beat(hub, token, device)).json()["data"]

    asked = await act(hub, device, "credentials/rotate", {"within_s": 3600})

    assert asked.status_code == 202
    assert "rotate_credential" not in before
    assert (await beat(hub, token, device)).json()["data"]["rotate_credential"] is True
    issued = (await refresh(hub, token)).json()["data"]
    await refresh(hub, issued["device_token"], {"confirm": issued["credential_id"]})
    assert "rotate_credential" not in (await beat(hub, issued["device_token"], device)).json()["data"]
    assert [deed for deed, _, _ in await deeds(database)] == ["device.rotation_asked", "device.credential_rotated"]


@pytest.mark.parametrize("body", [{"within_s": 59}, {"within_s": "60"}, {"within_s": 10**9}, {"soon": True}])
async def test_a_deadline_that_is_none_is_refused(hub: Hub, shop: Shop, body: dict[str, Any]) -> None:
    device = await shop.box()

    assert (await act(hub, device, "credentials/rotate", body)).status_code == 400


async def test_operators_see_credentials_without_secrets(hub: Hub, shop: Shop) -> None:
    device, token = await shop.box_with_token()
    issued = (await refresh(hub, token)).json()["data"]

    seen = await hub.http.get(f"/admin/devices/{device}/credentials", headers=hub.operator())

    assert [one["status"] for one in seen.json()["data"]] == ["issued", "active"]
    assert seen.json()["data"][0]["id"] == issued["credential_id"]
    for secret in (token, issued["device_token"], issued["broker"]["password"], "$7$"):
        assert secret not in seen.text


async def test_every_move_is_written_down_once_with_its_reason(hub: Hub, database: Database, shop: Shop) -> None:
    device, token = await shop.box_with_token()
    why = {"reason": "found under the counter"}
    refused: list[int] = []
    for verb in ("suspend", "suspend", "resume", "credentials/revoke", "credentials/revoke", "retire"):
        assert (await act(hub, device, verb, why)).status_code == 200
        refused.append((await beat(hub, token, device)).status_code)

    assert refused == [401, 401, 200, 401, 401, 401]
    moves = ["device.suspended", "device.resumed", "device.revoked", "device.retired"]
    assert await deeds(database) == [(move, "person", device) for move in moves]
    details = [json.loads(entry["details"]) for entry in await rows(database, "SELECT details FROM audit_entry")]
    assert {"from": "bound", "to": "revoked", "reason": why["reason"]} in details
    seen = (await hub.http.get(f"/admin/devices/{device}", headers=hub.operator())).json()["data"]
    assert (seen["status"], seen["status_reason"], seen["binding"]) == ("retired", why["reason"], None)


async def test_a_move_that_may_not_be_is_a_conflict_and_leaves_no_entry(
    hub: Hub, database: Database, shop: Shop
) -> None:
    device = await shop.box()

    answer = await act(hub, device, "retire", {"reason": "scrapped"})

    assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
    assert await deeds(database) == []


@pytest.mark.parametrize("body", [None, {}, {"reason": ""}, {"reason": "a\nb c"}, {"reason": "x" * 201}])
async def test_a_move_without_a_reason_is_refused(hub: Hub, shop: Shop, body: dict[str, Any] | None) -> None:
    device = await shop.box()

    assert (await act(hub, device, "suspend", body)).status_code == 400


async def test_codes_and_activations_are_written_down(hub: Hub, database: Database, shop: Shop) -> None:
    device = await shop.box()
    (known,) = await rows(database, "SELECT serial_number FROM device WHERE id = $1", device)
    issued = (await act(hub, device, "activation-code")).json()["data"]
    asked = {"activation_code": issued["activation_code"], "serial_number": known["serial_number"]}

    got_in = await hub.http.post("/device/provision/activate", json=asked)

    assert got_in.status_code == 200
    assert await deeds(database) == [
        ("device.activation_code_issued", "person", device),
        ("device.activated", "device", device),
    ]
    written = str(await rows(database, "SELECT details FROM audit_entry"))
    assert issued["activation_code"] not in written


async def test_every_activation_that_fails_gets_the_same_answer(hub: Hub, database: Database, shop: Shop) -> None:
    device = await shop.box()
    (known,) = await rows(database, "SELECT serial_number FROM device WHERE id = $1", device)
    code = (await act(hub, device, "activation-code")).json()["data"]["activation_code"]
    serial = known["serial_number"]

    async def told(code: str, serial: str) -> tuple[int, str, str]:
        answer = await hub.http.post(
            "/device/provision/activate", json={"activation_code": code, "serial_number": serial}
        )
        said = answer.json()
        return answer.status_code, said["code"], said["detail"]

    answers = [await told("0000000000", serial), await told(code, "SBX-OF-NOBODY")]
    await execute(database, "UPDATE device SET state = 'suspended' WHERE id = $1", device)
    answers.append(await told(code, serial))
    await execute(database, "UPDATE activation_code SET expires_at_ms = 0")
    answers.append(await told(code, serial))

    assert len(set(answers)) == 1
    assert answers[0][:2] == (401, "UNAUTHENTICATED")


def test_the_protocol_describes_every_field_of_an_activation() -> None:
    spec = (Path(__file__).parents[3] / "firmware-protocol" / "README.md").read_text(encoding="utf-8")
    section = spec[spec.index("## Credentials") : spec.index("**Keeping them.**")]
    rows = [re.findall(r"`([a-z_.]+)`", line.split("|")[1]) for line in section.splitlines() if line.startswith("|")]

    sent = ActivationView.__annotations__.keys() - {"broker"} | {
        f"broker.{name}" for name in BrokerView.__annotations__
    }
    assert {name for row in rows for name in row} == sent
