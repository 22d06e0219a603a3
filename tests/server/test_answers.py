"""What doors answer is what the description says, word for word: no field is missing, and none is beside it."""

import ssl
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from support.hub import Hub, open_hub
from support.makers import IMEI, qf100
from support.merchant import give_to
from support.registry import WHOLE
from support.settled import settled
from support.shop import execute, open_shop, report, take
from support.staff import Staff

from soundbox_server import clock
from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.db import Database
from soundbox_server.webhooks.jobs import Courier
from soundbox_server.webhooks.sender import Sender

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


async def test_another_makers_box(tour: Tour, database: Database) -> None:
    shop = await open_shop(database)
    tour.ids["device_id"] = device_id = await qf100(shop)
    one = "/admin/devices/{device_id}"
    opened = await tour.ask("POST", f"{one}/config-window", {"for_s": 60, "imei": IMEI})
    assert await tour.ask("GET", f"{one}/config-window") == opened
    assert not (await tour.ask("DELETE", f"{one}/config-window"))["open"]
    payment = await shop.payment(device_id)
    await take(database, report(payment))
    assert (await tour.ask("GET", one))["unconfirmed"]
    (told,) = await tour.ask("GET", f"{one}/notifications")
    assert (told["unsigned"], told["unconfirmed"]) == (True, True)
    assert (await tour.ask("GET", f"{one}/heartbeats"))[0]["source"] == "qf100"
    restart = await tour.ask("POST", f"{one}/commands", {"command_name": "reboot"}, status=201)
    await database.write(lambda tx: tx.execute("UPDATE device_command SET state = 'unconfirmed'"))
    tour.ids["command_id"] = restart["command_id"]
    assert (await tour.ask("GET", f"{one}/commands/{{command_id}}"))["status"] == "unconfirmed"


async def test_money_and_what_is_told_of_it(tour: Tour, database: Database) -> None:
    shop = await open_shop(database)
    payment = await shop.payment(await shop.box())
    await take(database, report(payment), now_ms=clock.now_ms())
    tour.ids |= {"transaction_id": payment.payment_id, "device_id": payment.device_id}

    told = await tour.ask("GET", "/admin/transactions/{transaction_id}")
    again = await tour.ask("POST", "/admin/transactions/{transaction_id}/retry-notification", status=202)

    assert all(told[part] for part in ("attempts", "reports", "postings", "timeline", "announcements"))
    assert len(again["announcements"]) == 2
    lists = ("transactions", "ledger-entries", "revenue", "devices/{device_id}/notifications")
    for path in lists:
        assert await tour.ask("GET", f"/admin/{path}")


async def test_a_merchants_own_shop(tour: Tour, database: Database) -> None:
    tour = replace(tour, staff=tour.staff.another("per_owner", "merchant_owner"))
    shop = await open_shop(database)
    await give_to(database, shop)
    payment = await shop.payment(await shop.box())
    await take(database, report(payment), now_ms=clock.now_ms())
    tour.ids |= {"transaction_id": payment.payment_id}

    told = await tour.ask("GET", "/merchant/transactions/{transaction_id}")

    assert told["announcements"]
    assert told["timeline"]
    (own,) = (await tour.ask("GET", "/merchant/me"))["merchants"]
    tour.ids["merchant_id"] = own["id"]
    await tour.ask("PATCH", "/merchant/merchants/{merchant_id}", {"announcement_policy": "primary"})
    assert (await tour.ask("GET", "/merchant/dashboard/summary"))["days"]
    tour.ids["settlement_id"] = await settled(database, shop)
    assert (await tour.ask("GET", "/merchant/transactions/{transaction_id}"))["settlement"]
    assert (await tour.ask("GET", "/merchant/dashboard/summary"))["settlements"]["last"]
    assert (await tour.ask("GET", "/merchant/settlements/{settlement_id}"))["shares"]
    statement = {"kind": "statements", "format": "pdf", "filters": {"settlement_id": tour.ids["settlement_id"]}}
    tour.ids["export_id"] = (await tour.ask("POST", "/merchant/exports", statement, status=202))["id"]
    await tour.ask("GET", "/merchant/exports/{export_id}")
    await tour.ask("POST", "/merchant/exports/{export_id}/cancel")
    for path in ("transactions", "outlets", "devices", "settlements", "settlements/{settlement_id}/items", "exports"):
        assert await tour.ask("GET", f"/merchant/{path}")


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


@pytest.mark.parametrize(("prefix", "role"), [("/admin", "operator"), ("/merchant", "merchant_owner")])
async def test_webhooks(tour: Tour, prefix: str, role: str) -> None:
    tour.staff = tour.staff.another(f"per_{role}", role)
    wanted: dict[str, Any] = {"url": "http://127.0.0.1:9999/"}
    wanted |= {"organisation_id": "org_test_merchant"} if prefix == "/admin" else {}
    hooks, one = f"{prefix}/webhooks", f"{prefix}/webhooks/{{webhook_id}}"
    tour.ids["webhook_id"] = (await tour.ask("POST", hooks, wanted, status=201))["id"]
    assert await tour.ask("GET", hooks)
    await tour.ask("GET", one)
    await tour.ask("PATCH", one, {"description": "till", "events": ["payment.paid"]})
    await tour.ask("POST", f"{one}/rotate")
    pinged = await tour.ask("POST", f"{one}/ping", status=202)
    tour.ids["delivery_id"] = pinged["delivery_id"]
    state = tour.staff.hub.app.state
    sender = Sender(reach=state.webhook_reach, trust=ssl.create_default_context())
    courier = Courier(state.database, sender, ring=state.sealing_ring, owner="test")
    await courier.tick()
    await courier.drain()

    assert await tour.ask("GET", f"{one}/deliveries")
    whole = await tour.ask("GET", f"{prefix}/webhook-deliveries/{{delivery_id}}")
    assert [tried["error"] for tried in whole["log"]] == ["connection_failed"]
    await tour.ask("POST", f"{prefix}/webhook-deliveries/{{delivery_id}}/replay", status=202)
    await tour.ask("POST", f"{one}/replay", {"since": "2026-05-23T00:00:00Z"}, status=202)
    await tour.ask("POST", f"{one}/disable")
    await tour.ask("POST", f"{one}/enable")


async def test_consents_loans_and_erasures(tour: Tour, database: Database) -> None:
    shop = await open_shop(database)
    await give_to(database, shop)
    admin, bank = tour.staff, tour.staff.another("per_test_bank", "bank")
    tour.staff = admin.another("per_test_merchant_owner", "merchant_owner")
    theirs = {"merchant_id": shop.merchant_id, "bank_id": "org_test_bank"}
    assert await tour.ask("GET", "/merchant/banks")
    tour.ids["consent_id"] = (await tour.ask("POST", "/merchant/consents", theirs, status=201))["id"]
    wish = theirs | {"amount_idr": 5_000_000, "tenor_months": 6}
    loans, loan = "/merchant/loan-applications", "/merchant/loan-applications/{application_id}"
    tour.ids["application_id"] = (await tour.ask("POST", loans, wish, status=201))["id"]
    await tour.ask("POST", f"{loan}/submit")
    tour.staff, ours = bank, "/lending/loan-applications/{application_id}"
    assert await tour.ask("GET", "/lending/merchants")
    assert await tour.ask("GET", "/lending/loan-applications")
    await tour.ask("GET", "/lending/me")
    await tour.ask("GET", ours)
    await tour.ask("POST", f"{ours}/review")
    await tour.ask("POST", f"{ours}/approve", {"reason": "sound", "interest_bps": 900})
    await tour.ask("POST", f"{ours}/disburse", {"reference": "trf-1", "on": "2025-05-23", "amount_idr": 5_000_000})
    assert await tour.ask("GET", "/lending/looks")
    tour.staff = admin
    for path in ("consents", "looks", "loan-applications"):
        assert await tour.ask("GET", f"/admin/{path}")
    await tour.ask("GET", "/admin/loan-applications/{application_id}")
    await tour.ask("GET", "/admin/consents/{consent_id}")
    tour.ids["merchant_id"] = shop.merchant_id
    asked = await tour.ask("POST", "/admin/merchants/{merchant_id}/erasures", {"reason": "closed"}, status=201)
    tour.ids["erasure_id"] = asked["id"]
    assert await tour.ask("GET", "/admin/erasures")
    await tour.ask("GET", "/admin/erasures/{erasure_id}")
    await tour.ask("POST", "/admin/erasures/{erasure_id}/refuse")
    tour.staff = admin.another("per_test_merchant_owner", "merchant_owner")
    for path in ("consents", "looks", "loan-applications", "erasures"):
        assert await tour.ask("GET", f"/merchant/{path}")
    await tour.ask("GET", loan)
    withdrawn = await tour.ask("POST", "/merchant/consents/{consent_id}/withdraw")
    assert [step["kind"] for step in withdrawn["history"]] == ["granted", "withdrawn"]
