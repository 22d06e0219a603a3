"""What doors answer is what the description says, word for word: no field is missing, and none is beside it."""

from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from support.hub import Hub, open_hub
from support.registry import WHOLE
from support.shop import execute, open_shop, report, take
from support.staff import Staff

from soundbox_server import clock
from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.db import Database

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Tour:
    """Somebody who goes from door to door and compares each answer with its description."""

    staff: Staff
    document: dict[str, Any]
    ids: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, body: Any = None, *, headers: Any = None, status: int = 200) -> Any:
        """The answer's data, once it is of the shape that is described for this status, and of no other."""
        answer = await self.staff.call(method, path.format(**self.ids), json=body, headers=headers or {})
        assert answer.status_code == status, (method, path, answer.text)
        told = self.document["paths"][path][method.lower()]["responses"][str(status)]["content"]["application/json"]
        whole = {**told["schema"], "components": self.document["components"]}
        wrong = [f"{error.json_path}: {error.message}" for error in OAS31Validator(whole).iter_errors(answer.json())]
        assert not wrong, (method, path, wrong)
        return answer.json()["data"]


def closed(schema: Any) -> Any:
    """The same, with no member but those it names."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        inner["additionalProperties"] = False
    return inner


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def tour(hub: Hub) -> Tour:
    return Tour(Staff(hub, "per_admin", "platform_admin"), closed(deepcopy(hub.app.openapi())))


async def test_the_registry(tour: Tour, database: Database) -> None:
    one = "/admin/merchants/{merchant_id}"
    tour.ids["merchant_id"] = (await tour.ask("POST", "/admin/merchants", WHOLE, status=201))["id"]
    await tour.ask("GET", one)
    outlet = await tour.ask("POST", f"{one}/outlets", {"name": "Utara"}, status=201)
    tour.ids["outlet_id"] = outlet["id"]
    terminal = await tour.ask("POST", "/admin/outlets/{outlet_id}/terminals", {}, status=201)
    tour.ids["terminal_id"] = terminal["id"]
    paper = {"document_type": "deed", "document_url": "https://papers.test/1"}
    tour.ids["document_id"] = (await tour.ask("POST", f"{one}/documents", paper, status=201))["id"]
    await tour.ask("PATCH", f"{one}/documents/{{document_id}}", {"verification_status": "verified"})
    await tour.ask("POST", f"{one}/approve")
    changed = await tour.ask("PATCH", one, {"settlement_account_reference": "bank:1111111111"})
    tour.ids["change_id"] = changed["pending_account_change"]["id"]
    await tour.ask("GET", one)
    await tour.ask("POST", f"{one}/account-changes/{{change_id}}/refuse", {"reason": "not theirs"})
    await tour.ask("POST", f"{one}/suspend", {"reason": "a complaint"})
    for path in ("/admin/outlets/{outlet_id}", "/admin/terminals/{terminal_id}"):
        await tour.ask("PATCH", path, {"status": "disabled"})
        await tour.ask("GET", path)
    for path in ("merchants", "outlets", "terminals", "account-changes", "audit-logs"):
        assert await tour.ask("GET", f"/admin/{path}")
    assert await tour.ask("GET", f"{one}/documents")


async def test_boxes_and_what_they_do(tour: Tour, database: Database) -> None:
    async def let_in(_user: str, _password: str) -> bool:
        return True

    tour.staff.hub.app.state.probe_login = let_in
    shop, one = await open_shop(database), "/admin/devices/{device_id}"
    made = await tour.ask("POST", "/admin/devices", {"serial_number": "SBX-1", "device_id": "sbx_1"}, status=201)
    tour.ids["device_id"] = made["id"]
    made = await tour.ask("POST", f"{one}/activation-code", status=201)
    code = {"activation_code": made["activation_code"], "serial_number": "SBX-1"}
    box = await tour.ask("POST", "/device/provision/activate", code)
    token = {"authorization": f"Bearer {box['device_token']}"}
    await tour.ask("POST", f"{one}/credentials/rotate", status=202)
    beat = {"device_id": "sbx_1", "timestamp": "2026-05-23T10:00:00Z", "firmware_version": "1.0", "state": "idle"}
    assert (await tour.ask("POST", "/device/heartbeat", beat, headers=token))["rotate_credential"]
    issued = await tour.ask("POST", "/device/provision/refresh-credential", {}, headers=token)
    confirm = {"confirm": issued["credential_id"]}
    await tour.ask("POST", "/device/provision/refresh-credential", confirm, headers=token)
    await tour.ask("POST", f"{one}/bind", {"terminal_id": shop.terminal_id})
    spoken = {"command_name": "speak_code", "payload": {"code": "1234"}}
    command = await tour.ask("POST", f"{one}/commands", spoken, status=201)
    tour.ids["command_id"] = command["command_id"]
    await execute(database, "UPDATE device_command SET state = 'sent' WHERE id = $1", command["command_id"])
    ack = {"device_id": "sbx_1", "command_id": command["command_id"], "status": "delivered", "reason": "ok"}
    token = {"authorization": f"Bearer {issued['device_token']}"}
    await tour.ask("POST", "/device/commands/ack", ack, headers=token)
    assert (await tour.ask("GET", f"{one}/commands/{{command_id}}"))["acks"]
    for path in ("commands", "heartbeats", "credentials"):
        assert await tour.ask("GET", f"{one}/{path}")
    await tour.ask("PATCH", one, {"label": "kasir"})
    assert (await tour.ask("GET", one))["presence"]
    await execute(database, "UPDATE device_presence SET online = $1", True)
    tour.staff.hub.app.state.possession_check = True
    await tour.ask("POST", f"{one}/unbind", status=202)
    waived = {"possession": "waived", "reason": "to the workshop"}
    await tour.ask("POST", f"{one}/unbind", waived)
    await tour.ask("POST", f"{one}/bind", {"terminal_id": shop.terminal_id}, status=202)
    for verb in ("suspend", "resume", "credentials/revoke", "retire"):
        await tour.ask("POST", f"{one}/{verb}", {"reason": "seen too often"})
    assert await tour.ask("GET", "/admin/devices")


async def test_money_and_what_is_told_of_it(tour: Tour, database: Database) -> None:
    shop = await open_shop(database)
    payment = await shop.payment(await shop.box())
    await take(database, report(payment), now_ms=clock.now_ms())
    tour.ids |= {"transaction_id": payment.payment_id, "device_id": payment.device_id}

    told = await tour.ask("GET", "/admin/transactions/{transaction_id}")
    again = await tour.ask("POST", "/admin/transactions/{transaction_id}/retry-notification", status=202)

    assert all(told[part] for part in ("attempts", "reports", "postings", "timeline", "announcements"))
    assert len(again["announcements"]) == 2
    for path in ("/admin/transactions", "/admin/ledger-entries", "/admin/devices/{device_id}/notifications"):
        assert await tour.ask("GET", path)


async def test_what_is_settled_and_what_it_costs(tour: Tour, database: Database) -> None:
    shop = await open_shop(database)
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))
    tour.ids["fee_profile_id"] = shop.fee_profile_id

    await tour.ask("POST", "/admin/settlements/run", {"dry_run": True})
    await tour.ask("POST", "/admin/settlements/run", {})

    tour.ids["settlement_id"] = (await tour.ask("GET", "/admin/settlements"))[0]["id"]
    assert (await tour.ask("GET", "/admin/settlements/{settlement_id}"))["shares"]
    assert await tour.ask("GET", "/admin/settlements/{settlement_id}/items")
    assert len(await tour.ask("GET", "/admin/fees/profiles")) == 2
    tiered = {"criteria": ["UMI"], "tiers": [{"bps": 0, "max": 100_000}, {"bps": 30}], "source": "a letter"}
    wanted = {"effective_from": "2099-01-01", "rules": [{"bps": 70}, tiered]}
    await tour.ask("POST", "/admin/fees/profiles/{fee_profile_id}/versions", wanted, status=201)
    assert len((await tour.ask("GET", "/admin/fees/profiles/{fee_profile_id}"))["versions"]) == 2
    await tour.ask("POST", "/admin/fees/profiles", wanted | {"name": "Partners"}, status=201)


async def test_people_and_programs(tour: Tour, database: Database) -> None:
    made = await tour.ask("POST", "/admin/organisations", {"kind": "merchant", "name": "Warung"}, status=201)
    tour.ids["organisation_id"] = made["id"]
    person = {"organisation_id": made["id"], "email": "siti@warung.test", "name": "Siti", "role": "merchant_owner"}
    tour.ids["person_id"] = (await tour.ask("POST", "/admin/people", person, status=201))["id"]
    wanted = {"organisation_id": "org_test_platform", "name": "till", "role": "operator", "scopes": ["devices:read"]}
    tour.ids["api_key_id"] = (await tour.ask("POST", "/admin/api-keys", wanted, status=201))["id"]
    await tour.ask("POST", "/admin/people/{person_id}/invite", status=202)
    await tour.ask("PATCH", "/admin/people/{person_id}", {"name": "Siti Rahma"})

    for path in ("organisations", "people", "api-keys", "mails", "sessions", "me", "health"):
        assert await tour.ask("GET", f"/admin/{path}")
    for path in ("organisations/{organisation_id}", "people/{person_id}", "api-keys/{api_key_id}"):
        await tour.ask("GET", f"/admin/{path}")
    await tour.ask("DELETE", "/admin/api-keys/{api_key_id}")


async def test_alerts_exports_and_the_demo(tour: Tour, database: Database) -> None:
    await database.write(
        lambda tx: raise_alert(
            tx, "broker.differs", ("broker", "1"), severity=Severity.WARNING, facts={"n": 1}, now_ms=clock.now_ms()
        )
    )
    tour.ids["alert_id"] = (await tour.ask("GET", "/admin/alerts"))[0]["id"]
    for verb in ("acknowledge", "resolve"):
        await tour.ask("POST", f"/admin/alerts/{{alert_id}}/{verb}", {"note": "seen"})
    await tour.ask("GET", "/admin/alerts/{alert_id}")
    tour.ids["export_id"] = (await tour.ask("POST", "/admin/exports", {"kind": "devices"}, status=202))["id"]
    assert await tour.ask("GET", "/admin/exports")
    await tour.ask("GET", "/admin/exports/{export_id}")
    await tour.ask("POST", "/admin/exports/{export_id}/cancel")
    await tour.ask("GET", "/admin/health/deep")

    assert (await tour.ask("POST", "/admin/seed"))["devices"]
