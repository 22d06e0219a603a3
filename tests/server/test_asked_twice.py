"""Asked twice, done once: the same key and body get the first answer, byte for byte."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from support.hub import Hub, open_hub
from support.registry import WHOLE
from support.shop import NOW, Shop, execute, open_shop, report, row, rows, take
from support.staff import Staff, audited

from soundbox_server import idempotency
from soundbox_server.db import Database, Statements
from soundbox_server.devices.service import code_sha256
from soundbox_server.devices.sheet import CONTENT_SECURITY_POLICY
from soundbox_server.errors import DuplicateRequest, ValidationFailed
from soundbox_server.idempotency import KEPT_MS, Once, once
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.payments.methods import Lives
from soundbox_server.providers.base import (
    Capabilities,
    Charge,
    ChargeRequest,
    ChargeStatus,
    Method,
    RefundRequest,
    RefundStatus,
)
from soundbox_server.providers.registry import Gateways
from soundbox_server.sandbox.qr import issue

LEASE_MS = 30_000


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def operator(hub: Hub) -> Staff:
    return Staff(hub, "per_operator", "operator")


def same(first: httpx.Response, second: httpx.Response) -> bool:
    return (
        (first.status_code, first.content) == (second.status_code, second.content)
        and first.headers["content-type"] == second.headers["content-type"]
        and "idempotent-replayed" not in first.headers
        and second.headers["idempotent-replayed"] == "true"
    )


async def test_a_merchant_asked_for_twice_is_made_once(operator: Staff, database: Database) -> None:
    first = await operator.call("POST", "/admin/merchants", json=WHOLE, key="order-1")
    second = await operator.call("POST", "/admin/merchants", json=WHOLE, key="order-1")

    assert first.status_code == 201
    assert same(first, second)
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(await rows(database, "SELECT id FROM merchant")) == 1
    assert len(await audited(database, "merchant.created")) == 1


async def test_every_create_at_its_door(operator: Staff, database: Database) -> None:
    merchant = await operator.post("/admin/merchants", WHOLE, status=201)
    outlet = await operator.post(f"/admin/merchants/{merchant['id']}/outlets", {"name": "Utara"}, status=201)
    paid = await a_paid_payment(await open_shop(database))
    paper = {"document_type": "deed", "document_url": "https://papers.test/1"}
    creates: list[tuple[str, Any, int]] = [
        (f"/admin/merchants/{merchant['id']}/outlets", {"name": "Selatan"}, 201),
        (f"/admin/outlets/{outlet['id']}/terminals", {}, 201),
        (f"/admin/merchants/{merchant['id']}/approve", None, 200),
        (f"/admin/merchants/{merchant['id']}/documents", paper, 201),
        ("/admin/devices", {"serial_number": "SBX-77", "device_id": "sbx_77"}, 201),
        ("/admin/devices/sbx_77/activation-code", None, 201),
        (f"/admin/transactions/{paid}/retry-notification", None, 202),
    ]  # fmt: skip

    for path, body, status in creates:
        first = await operator.call("POST", path, json=body, key="k")
        second = await operator.call("POST", path, json=body, key="k")
        assert first.status_code == status, first.text
        assert same(first, second), path
    told = await rows(database, "SELECT id FROM outbox_message WHERE original_id IS NOT NULL")
    assert len(told) == 1


async def test_who_and_what_may_come_in_is_made_once_and_its_key_is_the_same_key(hub: Hub, database: Database) -> None:
    admin = Staff(hub, "per_admin", "platform_admin")
    organisation = {"kind": "merchant", "name": "Toko Indo"}
    made = [await admin.call("POST", "/admin/organisations", json=organisation, key="k") for _ in range(2)]
    its_id = made[0].json()["data"]["id"]
    person = {"organisation_id": its_id, "email": "siti@toko.test", "name": "Siti", "role": "merchant_owner"}
    key = {"organisation_id": its_id, "name": "till", "role": "merchant_owner", "scopes": ["payments:write"]}

    invited = [await admin.call("POST", "/admin/people", json=person, key="k") for _ in range(2)]
    keys = [await admin.call("POST", "/admin/api-keys", json=key, key="k") for _ in range(2)]

    for answers in (made, invited, keys):
        assert answers[0].status_code == 201, answers[0].text
        assert same(*answers)
    assert [answer.headers["cache-control"] for answer in keys] == ["no-store"] * 2
    assert len(await rows(database, "SELECT id FROM organisation WHERE name = 'Toko Indo'")) == 1
    assert len(await rows(database, "SELECT id FROM outbox_message WHERE transport = 'mail'")) == 1
    (stored,) = await rows(database, "SELECT id FROM api_key WHERE name = 'till'")
    assert stored["id"] == keys[0].json()["data"]["id"]
    secret = keys[0].json()["data"]["api_key"].encode()
    assert all(secret not in bytes(kept["body"]) for kept in await rows(database, "SELECT body FROM idempotency_key"))


async def test_a_command_given_twice_is_one_command(operator: Staff, database: Database) -> None:
    device_id = await (await open_shop(database)).box()
    path, wanted = f"/admin/devices/{device_id}/commands", {"command_name": "set_volume", "payload": {"volume": 40}}

    first, second = [await operator.call("POST", path, json=wanted, key="k") for _ in range(2)]
    other = await operator.call("POST", path, json=wanted | {"payload": {"volume": 41}}, key="k")

    assert first.status_code == 201, first.text
    assert same(first, second)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert len(await rows(database, "SELECT id FROM device_command")) == 1
    assert len(await audited(database, "device.command_given")) == 1


async def test_codes_asked_for_twice_are_the_same_codes_and_nobody_may_cache_them(
    operator: Staff, database: Database
) -> None:
    await operator.call("POST", "/admin/devices", json={"serial_number": "SBX-1", "device_id": "sbx_1"}, key="k")
    path = "/admin/devices/sbx_1/activation-code"
    made = await operator.call("POST", path, key="k")
    answers = [
        await operator.call("POST", "/admin/devices", json={"serial_number": "SBX-1", "device_id": "sbx_1"}, key="k"),
        await operator.call("POST", path, key="k"),
    ]

    assert same(made, answers[1])
    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * 2
    (live,) = await rows(database, "SELECT code_sha256 FROM activation_code")
    assert live["code_sha256"] == code_sha256(made.json()["data"]["activation_code"])
    assert len(await audited(database, "device.activation_code_issued")) == 1


async def send_file(operator: Staff, text: str, *, accept: str = "application/json", **params: str) -> httpx.Response:
    headers = {"content-type": "text/csv", "accept": accept}
    return await operator.call(
        "POST", "/admin/devices/bulk", content=text.encode(), headers=headers, params=params, key="k"
    )


async def test_a_file_of_boxes_sent_twice_is_taken_in_once_and_its_codes_come_in_every_form(
    operator: Staff, database: Database
) -> None:
    text = "serial_number,label\nSBX-1,kasir\nSBX-2,\n"
    first = await send_file(operator, text)
    codes = [one["activation_code"] for one in first.json()["data"]["devices"]]
    name = f"{first.json()['data']['batch_id']}.csv"

    again = await send_file(operator, text)
    as_csv, as_csv_again = [await send_file(operator, text, accept="text/csv") for _ in range(2)]
    as_sheet = await send_file(operator, text, accept="text/html")
    other = await send_file(operator, text + "SBX-3,\n")

    assert same(first, again)
    assert [line.split(",")[2] for line in as_csv.text.splitlines()[1:]] == codes
    assert (as_csv.content, name in as_csv.headers["content-disposition"]) == (as_csv_again.content, True)
    assert all(f"{code[:5]}-{code[5:]}" in as_sheet.text for code in codes)
    assert as_sheet.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    for answer in (again, as_csv, as_sheet):
        assert (answer.headers["idempotent-replayed"], answer.headers["cache-control"]) == ("true", "no-store")
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert len(await rows(database, "SELECT id FROM device")) == 2
    assert len(await audited(database, "device.registered_in_bulk")) == 1


async def test_a_dry_run_uses_no_key(operator: Staff, database: Database) -> None:
    text = "serial_number\nSBX-1\n"

    tried = await send_file(operator, text, dry_run="true")
    taken = await send_file(operator, text)

    assert (tried.status_code, taken.status_code) == (200, 201)
    assert len(await rows(database, "SELECT id FROM device")) == 1


async def test_a_box_moved_twice_is_moved_once(operator: Staff, database: Database) -> None:
    shop = await open_shop(database)
    device_id = await shop.box()
    unbind, bind = f"/admin/devices/{device_id}/unbind", f"/admin/devices/{device_id}/bind"

    off = [await operator.call("POST", unbind, key="k") for _ in range(2)]
    on = [await operator.call("POST", bind, json={"terminal_id": shop.terminal_id}, key="k") for _ in range(2)]
    late = await operator.call("POST", unbind, key="k")

    assert (off[0].status_code, on[0].status_code) == (200, 200), (off[0].text, on[0].text)
    assert same(*off)
    assert same(*on)
    assert same(off[0], late)  # and it stands where it stood
    standing = await rows(database, "SELECT terminal_id FROM device_binding WHERE unbound_at_ms IS NULL")
    assert [one["terminal_id"] for one in standing] == [shop.terminal_id]
    assert len(await audited(database, "device.bound")) == len(await audited(database, "device.unbound")) == 1


async def test_a_box_asked_twice_for_its_code_speaks_it_once(hub: Hub, operator: Staff, database: Database) -> None:
    hub.app.state.possession_check = True
    device_id = await (await open_shop(database)).box()

    first, second = [await operator.call("POST", f"/admin/devices/{device_id}/unbind", key="k") for _ in range(2)]

    assert first.status_code == 202, first.text
    assert same(first, second)
    assert len(await rows(database, "SELECT id FROM device_command")) == 1


async def a_paid_payment(shop: Shop) -> str:
    payment = await shop.payment(await shop.box())
    await take(shop.database, report(payment))
    return payment.payment_id


async def test_another_body_under_the_same_key_is_refused(operator: Staff, database: Database) -> None:
    await operator.call("POST", "/admin/merchants", json=WHOLE, key="order-1")

    answer = await operator.call("POST", "/admin/merchants", json=WHOLE | {"brand_name": "Other"}, key="order-1")

    assert (answer.status_code, answer.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert len(await rows(database, "SELECT id FROM merchant")) == 1


async def test_a_key_is_its_callers_and_its_doors_own(operator: Staff, database: Database) -> None:
    await operator.call("POST", "/admin/merchants", json=WHOLE, key="order-1")

    other_person = await operator.another("per_other").call("POST", "/admin/merchants", json=WHOLE, key="order-1")
    other_door = await operator.call("POST", "/admin/devices", json={"serial_number": "SBX-1"}, key="order-1")

    assert (other_person.status_code, other_door.status_code) == (201, 201)
    assert "idempotent-replayed" not in other_person.headers
    assert len(await rows(database, "SELECT id FROM merchant")) == 2


async def test_what_was_refused_may_be_asked_again_with_the_same_key(operator: Staff) -> None:
    await operator.post("/admin/devices", {"serial_number": "SBX-1"}, status=201)

    refused = await operator.call("POST", "/admin/devices", json={"serial_number": "SBX-1"}, key="k")
    again = await operator.call("POST", "/admin/devices", json={"serial_number": "SBX-2"}, key="k")

    assert (refused.status_code, again.status_code) == (409, 201)


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "x" * 256, "tab\tbed"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_key_is_visible_ascii_of_a_bounded_length(operator: Staff, database: Database, key: str) -> None:
    answer = await operator.call(
        "POST", "/admin/merchants", json=WHOLE, headers={"idempotency-key": key.encode("latin-1")}
    )

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["Idempotency-Key"]
    assert await rows(database, "SELECT id FROM merchant") == []


async def test_of_twenty_at_once_over_two_processes_connections_one_merchant_is_made(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with open_hub(database_url, tmp_path / "home") as one, open_hub(database_url, tmp_path / "home") as two:
        staff = [Staff(one, "per_operator", "operator"), Staff(two, "per_operator", "operator")]

        answers = await asyncio.gather(
            *(staff[n % 2].call("POST", "/admin/merchants", json=WHOLE, key="order-1") for n in range(20))
        )

    made = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len([answer for answer in made if "idempotent-replayed" not in answer.headers]) == 1
    assert len({answer.content for answer in made}) == 1
    for late in (answer for answer in answers if answer.status_code == 409):
        assert late.json()["code"] == "DUPLICATE_REQUEST"
    assert len(await rows(database, "SELECT id FROM merchant")) == 1
    assert len(await rows(database, "SELECT scope FROM idempotency_key")) == 1


async def test_of_twenty_registrations_at_once_one_box_is_made(operator: Staff, database: Database) -> None:
    answers = await asyncio.gather(
        *(operator.call("POST", "/admin/devices", json={"serial_number": "SBX-1"}, key="k") for _ in range(20))
    )

    assert {answer.status_code for answer in answers} <= {201, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"DUPLICATE_REQUEST"}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert len(await rows(database, "SELECT id FROM device")) == 1


async def test_neither_the_key_nor_the_answer_can_be_read_in_the_database(operator: Staff, database: Database) -> None:
    answer = await operator.call("POST", "/admin/devices", json={"serial_number": "SBX-1"}, key="a-secret-key")

    (stored,) = await rows(database, "SELECT * FROM idempotency_key")
    assert "a-secret-key" not in str(stored)
    assert answer.json()["data"]["activation_code"].encode() not in bytes(stored["body"])
    assert b"SBX-1" not in bytes(stored["body"])


# A door that asks somebody else between its two transactions.


def asked(body: bytes = b"{}") -> Once:
    return once("k", principal="sbx_1", method="POST", path="/x", body=body)


async def begin(database: Database, wanted: Once, *, now_ms: int = NOW) -> Response | None:
    return await database.write(lambda tx: idempotency.begin(tx, wanted, now_ms=now_ms, lease_ms=LEASE_MS))


async def test_while_the_first_is_under_way_the_second_is_told_to_wait(database: Database) -> None:
    assert await begin(database, asked()) is None

    with pytest.raises(DuplicateRequest):
        await begin(database, asked(), now_ms=NOW + LEASE_MS - 1)


async def test_after_the_lease_somebody_else_goes_on(database: Database) -> None:
    await begin(database, asked())

    assert await begin(database, asked(), now_ms=NOW + LEASE_MS) is None
    with pytest.raises(DuplicateRequest):
        await begin(database, asked(), now_ms=NOW + LEASE_MS + 1)


async def test_the_answer_is_kept_and_a_failure_is_forgotten(database: Database) -> None:
    await begin(database, asked())
    await database.write(lambda tx: idempotency.release(tx, asked()))
    assert await begin(database, asked()) is None

    await database.write(lambda tx: idempotency.keep(tx, asked(), Response(b"done", 202, media_type="text/plain")))
    stored = await begin(database, asked())

    assert stored is not None
    assert (stored.body, stored.status_code, stored.media_type) == (b"done", 202, "text/plain")


async def test_a_key_is_forgotten_after_72_hours(database: Database) -> None:
    await begin(database, asked())

    async def purge(at_ms: int) -> int:
        return await database.write(lambda tx: idempotency.purge(tx, now_ms=at_ms))

    assert [await purge(NOW + KEPT_MS - 1), await purge(NOW + KEPT_MS), await purge(NOW + KEPT_MS)] == [0, 1, 0]


async def test_without_a_key_a_deed_is_done_each_time(database: Database) -> None:
    done = []

    async def deed() -> Response:
        done.append(1)
        return Response(b"done")

    async def work(tx: Statements) -> Response:
        return await once(None, principal="p", method="POST", path="/x", body=b"").answer(tx, deed)

    for _ in range(2):
        await database.write(work)

    assert len(done) == 2
    assert await rows(database, "SELECT scope FROM idempotency_key") == []


def test_a_strange_key_is_named() -> None:
    with pytest.raises(ValidationFailed):
        once("two words", principal="p", method="POST", path="/x", body=b"")


# A box's QR: its own request_id does, and a key does besides.


class Acquirer:
    """A provider that issues at once, in this process."""

    name = "sandbox"

    async def create(self, request: ChargeRequest) -> Charge:
        payload = issue(request.merchant, amount_idr=request.amount_idr, transaction_id="ptx_1")
        return Charge(
            provider=self.name, reference=request.reference, provider_transaction_id="ptx_1",
            amount_idr=request.amount_idr, qr_payload=payload, expires_at_ms=request.expires_at_ms, body=b"{}",
        )  # fmt: skip

    capabilities = Capabilities(
        methods=frozenset({Method.QRIS_DYNAMIC}), cancel=False, refund=False, partial_refund=False
    )

    async def query(self, reference: str, **about: Any) -> ChargeStatus:
        raise AssertionError("nobody asks about what is known")

    async def cancel(self, reference: str, **about: Any) -> None:
        raise AssertionError("nobody cancels")

    async def refund(self, request: RefundRequest) -> RefundStatus:
        raise AssertionError("nobody refunds")

    async def query_refund(self, request: RefundRequest) -> RefundStatus:
        raise AssertionError("nobody refunds")

    async def circuit(self) -> str:
        return "closed"

    async def aclose(self) -> None:
        pass


@pytest.fixture
def issuing(hub: Hub, database: Database) -> None:
    hub.app.state.charge_desk = ChargeDesk(
        database, Gateways.of(Acquirer()), hub.app.state.callback_desk.take, lives=Lives()
    )


async def ask_for_qr(hub: Hub, shop: Shop, device: tuple[str, str], request_id: str, key: str | None) -> httpx.Response:
    body = {
        "device_id": device[0], "terminal_id": shop.terminal_id, "amount": 5_000, "currency": "IDR",
        "request_id": request_id,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {device[1]}"} | ({"idempotency-key": key} if key else {})
    return await hub.http.post("/device/transactions/dynamic-qr", json=body, headers=headers)


async def test_a_qr_under_a_key_is_answered_again_byte_for_byte(hub: Hub, database: Database, issuing: None) -> None:
    shop = await open_shop(database)
    device = await shop.box_with_token()

    first = await ask_for_qr(hub, shop, device, "req-1", "k")
    second = await ask_for_qr(hub, shop, device, "req-1", "k")
    no_key = await ask_for_qr(hub, shop, device, "req-1", None)
    other_body = await ask_for_qr(hub, shop, device, "req-2", "k")

    assert first.status_code == 200, first.text
    assert same(first, second)
    assert no_key.json()["transaction_id"] == first.json()["transaction_id"]
    assert (other_body.status_code, other_body.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert len(await rows(database, "SELECT id FROM payment")) == 1


async def test_a_qr_that_the_provider_refused_leaves_the_key_free(hub: Hub, database: Database) -> None:
    """No provider listens here: nothing was charged, and the next try with this key is told the same, not to wait."""
    shop = await open_shop(database)
    device = await shop.box_with_token()

    first = await ask_for_qr(hub, shop, device, "req-1", "k")
    second = await ask_for_qr(hub, shop, device, "req-1", "k")

    assert (first.status_code, second.status_code) == (502, 502)
    assert await rows(database, "SELECT scope FROM idempotency_key") == []


async def test_a_qr_that_a_crash_left_unanswered_is_resumed_after_the_lease(
    hub: Hub, database: Database, issuing: None
) -> None:
    shop = await open_shop(database)
    device = await shop.box_with_token()
    await ask_for_qr(hub, shop, device, "req-1", "k")
    await execute(database, "UPDATE idempotency_key SET status = NULL, body = NULL")  # as if it had died before
    waits = await ask_for_qr(hub, shop, device, "req-1", "k")
    await execute(database, "UPDATE idempotency_key SET lease_until_ms = 1")

    resumed = await ask_for_qr(hub, shop, device, "req-1", "k")

    assert (waits.status_code, waits.json()["code"]) == (409, "DUPLICATE_REQUEST")
    assert resumed.status_code == 200
    assert (await row(database, "SELECT status FROM idempotency_key"))["status"] == 200
    assert len(await rows(database, "SELECT id FROM payment_attempt")) == 1
