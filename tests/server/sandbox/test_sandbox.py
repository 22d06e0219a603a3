"""The acquirer simulator through its own HTTP doors, with a hub that listens on a real socket."""

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_server.clock import rfc3339
from soundbox_server.errors import InvalidSignature
from soundbox_server.payments import qris
from soundbox_server.providers import hmac_scheme
from soundbox_server.providers.base import MerchantIdentity
from soundbox_server.sandbox import qr
from soundbox_server.sandbox.app import create_app

from .conftest import API_KEY, SECRETS, Hub, serving

Until = Callable[[Callable[[], Any]], Awaitable[Any]]

MERCHANT = {
    "merchant_id": "mrc_01jabc",
    "name": "Warung Kopi “Bu Sri” Sejahtera Sentosa",
    "city": "Kota Jakarta Selatan",
    "postal_code": "12940",
    "nmid": "ID1099999999999",
    "mcc": "5411",
    "criteria": "UMI",
}


def order(hub: Hub, reference: str = "ref_1", **changes: Any) -> dict[str, Any]:
    in_five_minutes = rfc3339(time.time_ns() // 1_000_000 + 300_000)
    asked = {"reference": reference, "amount": 50_000, "merchant": MERCHANT, "expires_at": in_five_minutes}
    return asked | {"callback_url": hub.url} | changes


async def issued(acquirer: httpx.AsyncClient, hub: Hub, reference: str = "ref_1", **changes: Any) -> dict[str, Any]:
    answer = await acquirer.post("/v1/qr", json=order(hub, reference, **changes))
    assert answer.status_code == 201, answer.text
    charge: dict[str, Any] = answer.json()
    return charge


async def switch(acquirer: httpx.AsyncClient, **faults: Any) -> None:
    assert (await acquirer.put("/v1/faults", json=faults)).status_code == 200


def reported(hub: Hub) -> list[tuple[str, str, int]]:
    said = [json.loads(body) for _, body in hub.heard]
    return [(event["partner_reference"], event["status"], event["amount"]) for event in said]


# Issuing


async def test_a_qr_is_a_faultless_dynamic_qris_for_the_amount(acquirer: httpx.AsyncClient, hub: Hub) -> None:
    charge = await issued(acquirer, hub)
    decoded = qris.decode(charge["qr_payload"])

    assert decoded.strict_qris_ok
    assert decoded.qris is not None
    assert qris.amount_idr(decoded) == 50_000
    assert (decoded.qris.merchant_name, decoded.qris.city) == ('Warung Kopi "Bu Sri" Seja', "Kota Jakarta Se")
    assert (decoded.qris.acquirer_domain, decoded.qris.nns) == ("ID.CO.SANDBOX.WWW", "93600999")
    assert decoded.qris.additional_data == {"05": charge["transaction_id"]}
    assert (charge["status"], charge["event"]) == ("open", None)


async def test_a_known_reference_is_answered_again_and_another_amount_is_a_conflict(
    acquirer: httpx.AsyncClient, hub: Hub
) -> None:
    asked = order(hub)
    first = await acquirer.post("/v1/qr", json=asked)
    again = await acquirer.post("/v1/qr", json=asked)
    other = await acquirer.post("/v1/qr", json=asked | {"amount": 50_001})

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert (other.status_code, other.json()["code"]) == (409, "CONFLICT")


@given(
    name=st.text("Wé’ ", min_size=1, max_size=60).filter(str.strip),
    city=st.text("Jö ", min_size=1, max_size=40).filter(str.strip),
    postal_code=st.text("0123456789", min_size=1, max_size=10),
    merchant_id=st.text(min_size=1),
    amount_idr=st.integers(1, 10_000_000),
)
def test_every_qr_fits_a_small_box(name: str, city: str, postal_code: str, merchant_id: str, amount_idr: int) -> None:
    merchant = MerchantIdentity(
        merchant_id=merchant_id,
        name=name,
        city=city,
        postal_code=postal_code,
        mcc="5411",
        criteria="UMI",
        nmid="ID1099999999999",
    )
    payload = qr.issue(merchant, amount_idr=amount_idr, transaction_id="SB01234567890")

    assert len(payload) <= 251


ORDERS_THAT_CANNOT_BE: list[dict[str, Any]] = [
    {"amount": 0},
    {"amount": 10_000_001},
    {"amount": 1000.0},
    {"amount": "1000"},
    {"reference": ""},
    {"reference": "a b"},
    {"reference": "a/b"},
    {"expires_at": "2020-01-01T00:00:00Z"},
    {"expires_at": "tomorrow"},
    {"callback_url": "ftp://example.org/"},
    {"callback_url": "http://["},
    {"merchant": MERCHANT | {"name": "咖啡店"}},
    {"merchant": MERCHANT | {"nmid": "ID1"}},
    {"merchant": MERCHANT | {"criteria": "XXX"}},
    {"merchant": None},
]


async def test_an_order_that_cannot_be_is_a_clear_problem(acquirer: httpx.AsyncClient, hub: Hub) -> None:
    for change in ORDERS_THAT_CANNOT_BE:
        answer = await acquirer.post("/v1/qr", json=order(hub) | change)

        assert answer.headers["content-type"] == "application/problem+json", change
        assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_FAILED"), change
    assert (await acquirer.get("/v1/qr")).json() == {"charges": []}


async def test_without_the_key_only_health_is_answered(address: str) -> None:
    doors = [("POST", "/v1/qr"), ("GET", "/v1/qr"), ("GET", "/v1/qr/x"), ("POST", "/v1/qr/x/pay")]
    doors += [("POST", "/v1/pay"), ("GET", "/v1/faults"), ("PUT", "/v1/faults")]
    keys = [None, "Bearer", "Bearer wrong", f"Basic {API_KEY}", "Bearer é"]
    async with httpx.AsyncClient(base_url=address, trust_env=False) as stranger:
        statuses = {
            (await stranger.request(method, path, headers={b"authorization": (key or "").encode()})).status_code
            for key in keys
            for method, path in doors
        }
        health = await stranger.get("/healthz")

    assert statuses == {401}
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


REFUSALS = [
    ("GET", "/nowhere", b"", 404),
    ("DELETE", "/v1/qr", b"", 405),
    ("GET", "/v1/qr/unknown", b"", 404),
    ("POST", "/v1/qr/unknown/pay", b"", 404),
    ("POST", "/v1/qr", b"\xff", 400),
    ("POST", "/v1/qr", b"x" * 70_000, 413),
    ("GET", "/v1/qr?status=lost", b"", 400),
    ("GET", "/v1/qr?limit=101", b"", 400),
    ("GET", "/v1/qr?limit=" + "9" * 5_000, b"", 400),
    ("PUT", "/v1/faults", b'{"no_such_fault": 1}', 400),
    ("PUT", "/v1/faults", b'{"create_failures": -1}', 400),
    ("POST", "/v1/pay", b'{"qr_payload": "0002016304ABCD"}', 400),
]


async def test_every_refusal_is_a_problem_document(acquirer: httpx.AsyncClient) -> None:
    for method, path, body, status in REFUSALS:
        answer = await acquirer.request(method, path, content=body)

        assert (answer.status_code, answer.json()["status"]) == (status, status), path
        assert answer.headers["content-type"] == "application/problem+json", path


# Paying


async def test_a_payment_is_called_back_signed_with_every_secret(
    acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    await issued(acquirer, hub)
    paid = await acquirer.post("/v1/qr/ref_1/pay", json={"issuer": "Bank Contoh", "at": "2026-05-23T10:00:00.250Z"})
    await until(lambda: hub.heard)
    headers, body = hub.heard[0]

    assert paid.json()["status"] == "paid"
    assert paid.json()["event"].encode() == body
    for secret in SECRETS:
        now_ms = int(headers["x-partner-timestamp"]) * 1000
        report = hmac_scheme.read_callback(headers, body, partner_id="sandbox", secrets=[secret], now_ms=now_ms)
        assert (report.partner_reference, report.status, report.amount_idr) == ("ref_1", "paid", 50_000)
        assert (report.issuer, report.paid_at_ms) == ("Bank Contoh", 1_779_530_400_250)
        assert report.rrn is not None
        assert len(report.rrn) == 12


async def test_a_qr_is_paid_once(acquirer: httpx.AsyncClient, hub: Hub, until: Until) -> None:
    await issued(acquirer, hub)
    first = await acquirer.post("/v1/qr/ref_1/pay")
    second = await acquirer.post("/v1/qr/ref_1/pay")
    await until(lambda: hub.heard)

    assert (first.status_code, second.status_code) == (200, 409)
    charge = (await acquirer.get("/v1/qr/ref_1")).json()
    assert len(charge["callbacks"]) == 1


async def test_scanning_the_qr_pays_its_charge_and_a_changed_qr_pays_nothing(
    acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    payload = (await issued(acquirer, hub))["qr_payload"]
    changed = payload.replace("540550000", "540510000")[:-4]

    forged = await acquirer.post("/v1/pay", json={"qr_payload": changed + qris.crc16(changed)})
    scanned = await acquirer.post("/v1/pay", json={"qr_payload": payload, "amount": 40_000})
    await until(lambda: hub.heard)

    assert (forged.status_code, scanned.status_code) == (400, 200)
    assert reported(hub) == [("ref_1", "paid", 40_000)]


async def test_a_qr_is_still_paid_after_its_expiry(database: Path, hub: Hub, until: Until) -> None:
    clock = [time.time_ns() // 1_000_000]
    app = create_app(database=database, api_key=API_KEY, secrets=SECRETS, now=lambda: clock[0])
    with serving(app) as address:
        async with client(address) as acquirer:
            await issued(acquirer, hub)
            clock[0] += 3_600_000
            expired = (await acquirer.get("/v1/qr/ref_1")).json()["status"]
            paid = (await acquirer.post("/v1/qr/ref_1/pay")).json()["status"]
            await until(lambda: hub.heard)

    assert (expired, paid) == ("expired", "paid")


async def test_the_list_shows_what_is_open(acquirer: httpx.AsyncClient, hub: Hub) -> None:
    for reference in ("ref_1", "ref_2", "ref_3"):
        await issued(acquirer, hub, reference)
    await acquirer.post("/v1/qr/ref_2/pay")

    listed = {
        state: {charge["reference"] for charge in (await acquirer.get(f"/v1/qr?status={state}")).json()["charges"]}
        for state in ("open", "paid", "expired", "all")
    }
    assert listed == {
        "open": {"ref_1", "ref_3"},
        "paid": {"ref_2"},
        "expired": set(),
        "all": {"ref_1", "ref_2", "ref_3"},
    }


# Callbacks


async def test_a_callback_is_repeated_until_it_is_taken(acquirer: httpx.AsyncClient, hub: Hub, until: Until) -> None:
    hub.answers = [500, 404, 302]
    await issued(acquirer, hub)
    await acquirer.post("/v1/qr/ref_1/pay")

    async def delivered() -> Any:
        callback = (await acquirer.get("/v1/qr/ref_1")).json()["callbacks"][0]
        return callback["delivered_at"] and callback

    callback = await until(delivered)
    assert (callback["attempts"], callback["last_answer"]) == (4, 200)
    assert len({body for _, body in hub.heard}) == 1
    assert len(hub.heard) == 4


async def test_a_restart_forgets_neither_charges_nor_callbacks(database: Path, hub: Hub, until: Until) -> None:
    def app() -> Any:
        return create_app(database=database, api_key=API_KEY, secrets=SECRETS, first_retry_ms=20)

    hub.answers = [503] * 1_000
    with serving(app()) as address:
        async with client(address) as acquirer:
            before = await issued(acquirer, hub)
            await acquirer.post("/v1/qr/ref_1/pay")
            await until(lambda: hub.heard)

    hub.answers = []
    heard = len(hub.heard)
    with serving(app()) as address:
        async with client(address) as acquirer:
            after = (await acquirer.get("/v1/qr/ref_1")).json()
            await until(lambda: len(hub.heard) > heard)

    assert after["qr_payload"] == before["qr_payload"]
    assert len({body for _, body in hub.heard}) == 1


async def test_a_qr_can_pay_itself(database: Path, hub: Hub, until: Until) -> None:
    app = create_app(database=database, api_key=API_KEY, secrets=SECRETS, auto_pay_after_ms=30)
    with serving(app) as address:
        async with client(address) as acquirer:
            await issued(acquirer, hub, "ref_1")
            await issued(acquirer, hub, "ref_2")
            await until(lambda: len(hub.heard) == 2)

    assert {reference for reference, _, _ in reported(hub)} == {"ref_1", "ref_2"}


# Faults


async def test_faults_are_set_whole_and_shown(acquirer: httpx.AsyncClient) -> None:
    await switch(acquirer, create_failures=2, wrong_amount=1)
    await switch(acquirer, reorder=True)

    faults = (await acquirer.get("/v1/faults")).json()
    assert (faults["reorder"], faults["create_failures"], faults["wrong_amount"]) == (True, 0, 0)


async def test_a_create_that_fails_records_nothing(acquirer: httpx.AsyncClient, hub: Hub) -> None:
    await switch(acquirer, create_failures=1)
    failed = await acquirer.post("/v1/qr", json=order(hub))

    assert (failed.status_code, failed.json()["code"]) == (503, "OVERLOADED")
    assert (await acquirer.get("/v1/qr/ref_1")).status_code == 404
    assert (await issued(acquirer, hub))["status"] == "open"


async def test_a_lost_answer_leaves_a_charge_behind(acquirer: httpx.AsyncClient, hub: Hub) -> None:
    await switch(acquirer, lose_answers=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await acquirer.post("/v1/qr", json=order(hub))

    assert (await acquirer.get("/v1/qr/ref_1")).json()["status"] == "open"


async def test_a_slow_create_is_slow(acquirer: httpx.AsyncClient, hub: Hub) -> None:
    await switch(acquirer, create_delay_ms=60_000)

    with pytest.raises(httpx.ReadTimeout):
        await acquirer.post("/v1/qr", json=order(hub), timeout=0.2)


async def test_copies_are_sent_of_one_event(acquirer: httpx.AsyncClient, hub: Hub, until: Until) -> None:
    await switch(acquirer, duplicate_callbacks=9)
    await issued(acquirer, hub)
    await acquirer.post("/v1/qr/ref_1/pay")
    await until(lambda: len(hub.heard) == 10)

    assert len({body for _, body in hub.heard}) == 1


async def test_callbacks_can_come_in_the_wrong_order(acquirer: httpx.AsyncClient, hub: Hub, until: Until) -> None:
    await switch(acquirer, reorder=True)
    for reference in ("ref_1", "ref_2", "ref_3"):
        await issued(acquirer, hub, reference)
    for reference in ("ref_1", "ref_2", "ref_3"):
        await acquirer.post(f"/v1/qr/{reference}/pay")
    await until(lambda: len(hub.heard) == 3)

    assert [reference for reference, _, _ in reported(hub)] == ["ref_3", "ref_2", "ref_1"]


async def test_a_wrong_amount_and_a_contradiction_can_be_reported(
    acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    await switch(acquirer, wrong_amount=-1, contradict="expired")
    await issued(acquirer, hub)
    await acquirer.post("/v1/qr/ref_1/pay")
    await until(lambda: len(hub.heard) == 2)

    assert sorted(reported(hub)) == [("ref_1", "expired", 49_999), ("ref_1", "paid", 49_999)]
    assert len({json.loads(body)["event_id"] for _, body in hub.heard}) == 2


@pytest.mark.parametrize("signature", ["bad", "stale", "missing"])
async def test_signatures_can_be_spoilt(acquirer: httpx.AsyncClient, hub: Hub, until: Until, signature: str) -> None:
    await switch(acquirer, callback_signature=signature)
    await issued(acquirer, hub)
    await acquirer.post("/v1/qr/ref_1/pay")
    await until(lambda: hub.heard)
    headers, body = hub.heard[0]

    with pytest.raises(InvalidSignature):
        hmac_scheme.read_callback(
            headers, body, partner_id="sandbox", secrets=SECRETS, now_ms=time.time_ns() // 1_000_000
        )


async def test_a_dropped_callback_is_told_by_a_query_only(acquirer: httpx.AsyncClient, hub: Hub, until: Until) -> None:
    await switch(acquirer, drop_callbacks=1)
    await issued(acquirer, hub, "ref_1")
    await issued(acquirer, hub, "ref_2")
    await acquirer.post("/v1/qr/ref_1/pay")
    await acquirer.post("/v1/qr/ref_2/pay")
    await until(lambda: hub.heard)

    charge = (await acquirer.get("/v1/qr/ref_1")).json()
    assert [reference for reference, _, _ in reported(hub)] == ["ref_2"]
    assert (charge["status"], charge["callbacks"][0]["attempts"]) == ("paid", 0)
    assert json.loads(charge["event"])["partner_reference"] == "ref_1"


def client(address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, headers={"authorization": f"Bearer {API_KEY}"}, trust_env=False)
