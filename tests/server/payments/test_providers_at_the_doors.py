"""Each provider through the whole API: charged, notified, misbehaving, replaced by another, never charged twice."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.responses import Response
from support.acquirers import ACQUIRERS, Acquirer, acquirer, now_in_jakarta, send
from support.fakes import snap
from support.fakes.service import OUR_SECRET, Charge, Fault, rsa_signed
from support.hub import Hub, open_hub
from support.shop import Shop, execute, open_shop, payment_row, row, rows

from soundbox_server.db import Database, Statements
from soundbox_server.idempotency import once
from soundbox_server.ids import new_id
from soundbox_server.payments.charging import Order, Pending
from soundbox_server.payments.methods import Payer
from soundbox_server.providers.base import Method

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # nothing here is the database's doing


@asynccontextmanager
async def hub_with(
    database_url: str, folder: Path, primary: str, fallback: str = "", **other: Any
) -> AsyncIterator[tuple[Hub, dict[str, Acquirer]]]:
    """The API with these providers, each somewhere on loopback."""
    async with AsyncExitStack() as stack:
        providers = {
            name: await stack.enter_async_context(acquirer(name, folder)) for name in (primary, fallback) if name
        }
        settings: dict[str, Any] = {"provider": primary, "provider_fallback": fallback}
        for provider in providers.values():
            settings |= provider.settings
        yield await stack.enter_async_context(open_hub(database_url, folder / "home", **settings | other)), providers


async def ask(hub: Hub, shop: Shop, device: tuple[str, str], request_id: str = "req-1") -> httpx.Response:
    """A box asks for a QR."""
    body = {
        "device_id": device[0], "terminal_id": shop.terminal_id, "amount": 25_000, "currency": "IDR",
        "request_id": request_id,
    }  # fmt: skip
    return await hub.http.post(
        "/device/transactions/dynamic-qr", json=body, headers={"authorization": f"Bearer {device[1]}"}
    )


async def ask_again_after_a_while(database: Database, hub: Hub, shop: Shop, device: tuple[str, str]) -> httpx.Response:
    await execute(database, "UPDATE payment_attempt SET lease_until_ms = 0")
    return await ask(hub, shop, device)


async def charge_by(hub: Hub, shop: Shop, method: Method, order_code: str, *, amount: int = 25_000) -> Pending:
    """A till asks for a charge by any method."""
    found: list[Pending] = []

    async def order(tx: Statements) -> Order:
        return Order(
            merchant_id=shop.merchant_id, outlet_id=shop.outlet_id, terminal_id=shop.terminal_id, amount=amount,
            source="pos", trace_id=new_id("trc"), method=method, order_code=order_code,
            payer=Payer(
                name="Budi", phone="+628123456789", email="budi@payer.test", success_url="https://shop.test/ok",
                failure_url="https://shop.test/no",
            ),
        )  # fmt: skip

    def show(pending: Pending) -> Response:
        found.append(pending)
        return Response(b"{}")

    no_key = once(None, principal="p", method="POST", path="/x", body=b"")
    await hub.app.state.charge_desk.issue(order, once=no_key, show=show)
    return found[-1]


async def states(database: Database) -> list[tuple[str, str]]:
    found = await rows(database, "SELECT provider, state FROM payment_attempt ORDER BY number")
    return [(one["provider"], one["state"]) for one in found]


@pytest.mark.parametrize("name", ACQUIRERS)
async def test_a_qr_is_charged_paid_and_booked_once_however_it_is_reported(
    database: Database, database_url: str, tmp_path: Path, name: str
) -> None:
    async with hub_with(database_url, tmp_path, name) as (hub, providers):
        shop, provider = await open_shop(database), providers[name]
        device = await shop.box_with_token()
        answer = await ask(hub, shop, device)
        charge = provider.only_charge
        before = provider.notify(charge)
        provider.fake.pay(charge.reference)
        paid = provider.notify(charge)

        told = [await send(hub, one) for one in (paid, paid, before)]  # a duplicate, and one that comes late

        assert answer.status_code == 200, answer.text
        assert [one.status_code for one in told] == [200, 200, 200]
        payment = await payment_row(database, answer.json()["transaction_id"])
        assert (payment["state"], payment["amount"]) == ("paid", 25_000)
        assert len(await rows(database, "SELECT id FROM journal WHERE kind = 'capture'")) == 1
        credits = await rows(database, "SELECT source FROM posting ORDER BY position")
        assert credits[0]["source"] == f"provider_receivable:{name}"
        assert provider.fake.refused == []


@ON_SQLITE
@pytest.mark.parametrize("name", ACQUIRERS)
async def test_what_nobody_signed_changes_nothing_and_is_answered_as_the_provider_expects(
    database_url: str, database: Database, tmp_path: Path, name: str
) -> None:
    async with hub_with(database_url, tmp_path, name) as (hub, providers):
        shop, provider = await open_shop(database), providers[name]
        await ask(hub, shop, await shop.box_with_token())
        provider.fake.pay(provider.only_charge.reference)
        path, headers, body = provider.notify(provider.only_charge)

        unsigned = [
            await send(hub, (path, {}, b"{}")),
            await send(hub, (path, dict.fromkeys(headers, "x"), body[:-1])),
        ]
        if name != "xendit":  # whose token says nothing of the body
            unsigned.append(await send(hub, (path, headers, body.replace(b"25000", b"25001"))))
        too_long = await send(hub, (path, headers, b"\xff" * 70_000))

        assert {one.status_code for one in unsigned} == {401}
        assert too_long.status_code == 413
        assert await rows(database, "SELECT id FROM provider_event") == []
        (payment,) = await rows(database, "SELECT state FROM payment")
        assert payment["state"] == "awaiting_payment"


@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, fault) for name in ACQUIRERS for fault in ("lost", "malformed")] + [("acme", "slow"), ("xendit", "slow")],
)
async def test_an_answer_that_never_came_is_found_by_asking_and_nobody_is_charged_twice(
    database: Database, database_url: str, tmp_path: Path, name: str, fault: Fault
) -> None:
    timeout_s = 2 if fault == "slow" else 15
    async with hub_with(database_url, tmp_path, name, provider_timeout_s=timeout_s) as (hub, providers):
        shop, fake = await open_shop(database), providers[name].fake
        device = await shop.box_with_token()
        fake.faults = [fault, fault]  # some questions are repeated by themselves
        first = await ask(hub, shop, device)
        fake.faults = []

        again = await ask_again_after_a_while(database, hub, shop, device)

        assert (first.status_code, first.json()["code"]) == (504, "PARTNER_TIMEOUT")
        assert again.status_code == 200, again.text
        payable = [charge for charge in fake.charges.values() if charge.status == "open"]
        assert len(payable) == 1
        attempt = await row(database, "SELECT reference FROM payment_attempt ORDER BY number DESC LIMIT 1")
        assert payable[0].reference == attempt["reference"]
        assert again.json()["qr_payload"]


@pytest.mark.parametrize("name", ACQUIRERS)
async def test_a_provider_that_failed_before_it_did_anything_is_charged_when_it_says_so(
    database: Database, database_url: str, tmp_path: Path, name: str
) -> None:
    async with hub_with(database_url, tmp_path, name) as (hub, providers):
        shop, fake = await open_shop(database), providers[name].fake
        device = await shop.box_with_token()
        fake.faults = ["5xx", "5xx"]
        first = await ask(hub, shop, device)
        fake.faults = []

        again = await ask_again_after_a_while(database, hub, shop, device)

        assert first.status_code == 504
        if name == "paylabs":  # nobody told us its word for an order that it does not know: it stays open
            assert again.status_code == 504
        else:
            assert (again.status_code, len(fake.charges)) == (200, 1)


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("xendit", list(Method)),
        ("midtrans", [
            Method.QRIS_DYNAMIC, Method.GOPAY, Method.SHOPEEPAY, Method.VA_BCA, Method.VA_BNI, Method.VA_BRI,
            Method.VA_MANDIRI, Method.CARD_HOSTED,
        ]),
    ],
)  # fmt: skip
async def test_every_method_is_charged_and_paid(
    database: Database, database_url: str, tmp_path: Path, name: str, methods: list[Method]
) -> None:
    async with hub_with(database_url, tmp_path, name) as (hub, providers):
        shop, provider = await open_shop(database), providers[name]
        paid = {}
        for method in methods:
            pending = await charge_by(hub, shop, method, f"INV-{method}")
            charge = provider.fake.pay(pending.reference)
            assert (await provider.tell(hub, charge)).status_code == 200
            paid[method] = (await payment_row(database, pending.payment_id))["state"], bool(pending.actions)

        needs_nothing = {Method.OVO} if name == "midtrans" else set()
        assert paid == {method: ("paid", method not in needs_nothing) for method in methods}
        assert provider.fake.refused == []


async def test_a_method_that_nobody_offers_makes_no_payment(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with hub_with(database_url, tmp_path, "paylabs") as (hub, _):
        shop = await open_shop(database)

        with pytest.raises(Exception, match="No provider offers"):
            await charge_by(hub, shop, Method.VA_BCA, "INV-1")

        assert await rows(database, "SELECT id FROM payment") == []


async def test_another_provider_is_asked_only_after_a_definite_failure(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with hub_with(database_url, tmp_path, "xendit", "midtrans") as (hub, providers):
        shop = await open_shop(database)
        device = await shop.box_with_token()
        providers["xendit"].fake.faults = ["lost", "lost"]
        unknown = await ask(hub, shop, device, "unknown")
        after_unknown = list(providers["midtrans"].fake.charges)
        _refuse(providers["xendit"])
        refused = await ask(hub, shop, device, "refused")

        assert (unknown.status_code, after_unknown) == (504, [])
        assert refused.status_code == 200, refused.text
        asked = await rows(
            database,
            "SELECT a.provider, a.state FROM payment_attempt a JOIN payment p ON p.id = a.payment_id "
            "WHERE p.request_id = 'refused' ORDER BY a.number",
        )
        assert [(one["provider"], one["state"]) for one in asked] == [("xendit", "failed"), ("midtrans", "active")]


async def test_money_at_both_providers_is_seen_and_booked_once(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with hub_with(database_url, tmp_path, "xendit", "midtrans") as (hub, providers):
        shop = await open_shop(database)
        _refuse(providers["xendit"])
        answer = await ask(hub, shop, await shop.box_with_token())
        first = await row(database, "SELECT reference FROM payment_attempt WHERE number = 1")
        # It said no, and yet somebody paid there: that happens, and is nobody's sale a second time.
        at_first = providers["xendit"].fake.new_charge(first["reference"], 25_000, method="QR_CODE")
        at_first.status = "expired"
        expired = await providers["xendit"].tell(hub, at_first)
        state = (await payment_row(database, answer.json()["transaction_id"]))["state"]
        second = providers["midtrans"].only_charge
        providers["midtrans"].fake.pay(second.reference)
        await providers["midtrans"].tell(hub, second)
        providers["xendit"].fake.pay(first["reference"])

        twice = await providers["xendit"].tell(hub, at_first)

        assert (expired.status_code, state, twice.status_code) == (200, "awaiting_payment", 200)
        payment = await payment_row(database, answer.json()["transaction_id"])
        assert (payment["state"], payment["review_reason"]) == ("paid", "paid_twice")
        booked = await rows(database, "SELECT kind FROM journal ORDER BY kind")
        assert [one["kind"] for one in booked] == ["capture", "suspense"]


async def test_what_was_asked_and_answered_is_kept_without_secrets(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with hub_with(database_url, tmp_path, "acme") as (hub, _):
        shop = await open_shop(database)
        await ask(hub, shop, await shop.box_with_token())

        kept = await row(database, "SELECT raw_request, raw_response FROM payment_attempt")
        asked, said = json.loads(kept["raw_request"]), json.loads(kept["raw_response"])
        assert [one["asked"].rpartition("/")[2] for one in asked] == ["b2b", "qr-mpm-generate"]
        assert '"accessToken":"***"' in said[0]["body"]
        assert "qrContent" in said[1]["body"]
        assert OUR_SECRET not in str(asked) + str(said)
        assert "token-1" not in str(asked) + str(said)


async def test_a_circuit_that_opened_is_seen_and_the_other_provider_goes_first(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with hub_with(database_url, tmp_path, "xendit", "midtrans", changed=True) as (hub, providers):
        shop = await open_shop(database)
        device = await shop.box_with_token()
        providers["xendit"].fake.faults = ["5xx"] * 20
        for n in range(5):
            await ask(hub, shop, device, f"req-{n}")
        asked_before = len(providers["xendit"].fake.requests)

        answer = await ask(hub, shop, device, "later")
        ready = await hub.http.get("/readyz")
        figures = (await hub.http.get("/metrics")).text
        deep = await hub.http.get("/admin/health/deep", headers=hub.operator())

        assert answer.status_code == 200
        assert len(providers["xendit"].fake.requests) == asked_before
        assert ready.json()["checks"]["provider"] == "failing"
        assert 'soundbox_provider_circuit{provider="xendit"} 2.0' in figures
        circuits = deep.json()["data"]["parts"]["provider"]["circuits"]
        assert (circuits["xendit"], circuits["midtrans"]) == ("opened", "closed")


async def test_a_snap_partner_gets_a_token_of_ours_and_notifies_us_with_it(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with hub_with(database_url, tmp_path, "acme") as (hub, providers):
        partners = tmp_path / "partners.toml"
        partners.write_text(partners.read_text() + 'notifications_signed = "symmetric"\n')
    async with hub_with_file(database_url, tmp_path, providers["acme"].settings) as hub:
        at = now_in_jakarta()
        proof = {"x-client-key": "acme-at-ours", "x-timestamp": at}
        wrong = await _token(hub, proof | {"x-signature": rsa_signed("somebody else", f"acme-at-ours|{at}")})
        issued = await _token(hub, proof | {"x-signature": rsa_signed("partner", f"acme-at-ours|{at}")})
        body = json.dumps(snap.told(Charge("ref_nobodys", 25_000, "no1", "qris", "paid"))).encode()
        token = issued.json()["accessToken"]
        headers, _ = snap.signed_by_hmac(body, token, at=at)

        taken = await hub.http.post(snap.NOTIFY_PATH, content=body, headers=headers | {"x-external-id": "41"})
        again = await hub.http.post(snap.NOTIFY_PATH, content=body, headers=headers | {"x-external-id": "41"})
        other = json.dumps(snap.told(Charge("ref_anothers", 25_000, "no2", "qris", "paid"))).encode()
        signed, _ = snap.signed_by_hmac(other, token, at=at)
        same_name = await hub.http.post(snap.NOTIFY_PATH, content=other, headers=signed | {"x-external-id": "41"})
        stranger, _ = snap.signed_by_hmac(body, token[:-4] + "AAAA", at=at)
        refused = await hub.http.post(snap.NOTIFY_PATH, content=body, headers=stranger)

        assert (wrong.status_code, wrong.json()["responseCode"]) == (401, "4017300")
        assert (issued.status_code, issued.json()["expiresIn"]) == (200, "900")
        assert (taken.status_code, taken.json()["responseCode"]) == (200, "2005200")
        assert (again.status_code, again.json()["responseCode"]) == (200, "2005200")
        assert (same_name.status_code, same_name.json()["responseCode"]) == (409, "4095200")
        assert (refused.status_code, refused.json()["responseCode"]) == (401, "4015201")
        events = await rows(database, "SELECT provider, outcome, reference FROM provider_event ORDER BY id")
        assert [(one["provider"], one["outcome"], one["reference"]) for one in events] == [
            ("acme", "orphan", "ref_nobodys"), ("acme", "orphan", "ref_anothers"),
        ]  # fmt: skip


@ON_SQLITE
async def test_nobody_notifies_for_a_partner_that_is_none(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path / "home") as hub:
        answers = [
            await hub.http.post(path, content=b"{}")
            for path in (snap.NOTIFY_PATH, "/api/v1/webhook/xendit", "/integrations/snap/acme/else")
        ]

    assert [answer.json()["code"] for answer in answers] == ["INVALID_SIGNATURE", "INVALID_SIGNATURE", "NOT_FOUND"]


@asynccontextmanager
async def hub_with_file(database_url: str, folder: Path, settings: dict[str, Any]) -> AsyncIterator[Hub]:
    async with open_hub(database_url, folder / "home", provider="acme", **settings) as hub:
        yield hub


async def _token(hub: Hub, headers: dict[str, str]) -> httpx.Response:
    path = "/integrations/snap/acme/v1.0/access-token/b2b"
    return await hub.http.post(path, content=b'{"grantType":"client_credentials"}', headers=headers)


def _refuse(provider: Acquirer) -> None:
    """From now on it says no to every new charge."""
    answered = provider.fake.handle

    def handle(request: Any, body: bytes) -> Any:
        if provider.fake.changes(request):
            return Response(b'{"error_code": "CHANNEL_UNAVAILABLE"}', 400)
        return answered(request, body)

    provider.fake.handle = handle  # type: ignore[method-assign]
