"""Webhooks as operators and owners handle them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from support.hub import Hub, open_hub
from support.receiver import Receiver, answered, receiving
from support.shop import Shop, execute, open_shop, report, rows, take
from support.staff import Staff, audited

from soundbox_server.db import Database
from soundbox_server.webhooks.addresses import Reach
from soundbox_server.webhooks.jobs import Courier
from soundbox_server.webhooks.kinds import KINDS, SUBSCRIBABLE
from soundbox_server.webhooks.sender import Sender

TRUST = httpx.create_ssl_context()


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def operator(hub: Hub) -> Staff:
    return Staff(hub, "per_operator", "operator")


@pytest.fixture
def owner(hub: Hub) -> Staff:
    return Staff(hub, "per_owner", "merchant_owner")


@pytest.fixture
async def shop(database: Database, hub: Hub) -> Shop:
    """The owner's."""
    shop = await open_shop(database)
    sql = "UPDATE merchant SET organisation_id = 'org_test_merchant' WHERE id = $1"
    await execute(database, sql, shop.merchant_id)
    return shop


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def deliver(hub: Hub) -> None:
    state = hub.app.state
    sender = Sender(reach=Reach(https_only=False, loopback=True), trust=TRUST)
    courier = Courier(state.database, sender, ring=state.sealing_ring, owner="test")
    await courier.tick()
    await courier.drain()


async def paid(shop: Shop) -> str:
    payment = await shop.payment(await shop.box())
    await take(shop.database, report(payment))
    return payment.payment_id


async def test_an_owner_sets_up_an_address_tries_it_and_sees_what_was_sent(
    hub: Hub, owner: Staff, shop: Shop, receiver: Receiver, database: Database
) -> None:
    wanted = {"url": receiver.url(), "events": ["payment.paid"], "description": "kasir"}
    made = await owner.post("/merchant/webhooks", wanted, status=201)
    pinged = await owner.post(f"/merchant/webhooks/{made['id']}/ping", status=202)
    payment_id = await paid(shop)
    await deliver(hub)

    ping = await owner.get(f"/merchant/webhook-deliveries/{pinged['delivery_id']}")
    listed = await owner.get(f"/merchant/webhooks/{made['id']}/deliveries", event_type="payment.paid")
    whole = await owner.get(f"/merchant/webhook-deliveries/{listed[0]['id']}")

    assert (made["events"], made["status"], made["organisation_id"]) == (
        ["payment.paid"],
        "active",
        "org_test_merchant",
    )
    assert (ping["event_type"], ping["status"], ping["sequence"]) == ("webhook.ping", "delivered", None)
    assert [one["sequence"] for one in listed] == [1]
    assert json.loads(whole["request_body"])["data"]["transaction_id"] == payment_id
    (tried,) = whole["log"]
    assert (tried["number"], tried["status"], tried["error"], tried["response_body"]) == (1, 200, None, "ok")
    for got in receiver.got:
        assert Webhook(made["secret"]).verify(got.body, got.headers)
    assert made["secret"] not in json.dumps([await owner.get("/merchant/webhooks"), whole, ping])
    assert made["secret"] not in str(await rows(database, "SELECT sealed FROM webhook_secret"))
    assert len(await audited(database, "webhook.created")) == 1


async def test_a_secret_is_shown_once_and_to_whoever_asks_again_with_the_same_key(
    owner: Staff, database: Database
) -> None:
    wanted = {"url": "https://shop.example/hooks"}
    first = await owner.call("POST", "/merchant/webhooks", json=wanted, key="k")
    again = await owner.call("POST", "/merchant/webhooks", json=wanted, key="k")

    assert first.content == again.content
    assert [answer.headers["cache-control"] for answer in (first, again)] == ["no-store"] * 2
    assert len(await rows(database, "SELECT id FROM webhook_endpoint")) == 1
    assert "secret" not in (await owner.get(f"/merchant/webhooks/{first.json()['data']['id']}"))


async def test_both_secrets_hold_while_one_is_exchanged(
    hub: Hub, owner: Staff, shop: Shop, receiver: Receiver, database: Database
) -> None:
    made = await owner.post("/merchant/webhooks", {"url": receiver.url()}, status=201)
    path = f"/merchant/webhooks/{made['id']}/rotate"
    secrets = [made["secret"], *[(await owner.post(path))["secret"] for _ in range(2)]]
    await paid(shop)
    await deliver(hub)

    (got,) = receiver.got
    assert len(got.headers["webhook-signature"].split()) == 2
    verified = [_takes(secret, got.body, got.headers) for secret in secrets]
    assert verified == [False, True, True]
    await execute(database, "UPDATE webhook_secret SET expires_at_ms = 1 WHERE expires_at_ms IS NOT NULL")
    await owner.post(f"/merchant/webhooks/{made['id']}/ping", status=202)
    await deliver(hub)
    assert len(receiver.got[-1].headers["webhook-signature"].split()) == 1


def _takes(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except Exception:  # the library lets several kinds out
        return False
    return True


async def test_what_failed_is_sent_again_by_hand(
    hub: Hub, owner: Staff, operator: Staff, shop: Shop, receiver: Receiver
) -> None:
    receiver.answer = answered(410, b"gone")
    made = await owner.post("/merchant/webhooks", {"url": receiver.url()}, status=201)
    path = f"/merchant/webhooks/{made['id']}"
    await paid(shop)
    await deliver(hub)
    off = await owner.get(path)
    refused = await owner.refused("POST", f"{path}/replay", {"since": "2026-01-01T00:00:00Z"}, status=409)
    await owner.post(f"{path}/enable")
    receiver.answer = answered(204)
    (failed,) = await operator.get(f"/admin/webhooks/{made['id']}/deliveries", status="failed")
    one = await operator.post(f"/admin/webhook-deliveries/{failed['id']}/replay", status=202)
    early = await operator.refused("POST", f"/admin/webhook-deliveries/{one['delivery_id']}/replay", status=409)
    none = await owner.post(f"{path}/replay", {"since": "2026-01-01T00:00:00Z"}, status=202)
    await deliver(hub)
    replayed = await operator.get(f"/admin/webhook-deliveries/{one['delivery_id']}")

    assert (off["status"], off["disabled_reason"]) == ("disabled", "gone")
    assert (refused["code"], early["code"], none["replayed"]) == ("CONFLICT", "CONFLICT", 0)
    assert (failed["reason"], failed["attempts"]) == ("http_410", 1)
    assert (replayed["status"], replayed["replay_of"]) == ("delivered", failed["id"])
    assert replayed["event_id"] == failed["event_id"]
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1


async def test_a_webhook_that_is_off_hears_nothing_and_what_waited_is_dead(
    hub: Hub, owner: Staff, shop: Shop, receiver: Receiver, database: Database
) -> None:
    receiver.answer = answered(500)
    made = await owner.post("/merchant/webhooks", {"url": receiver.url()}, status=201)
    await paid(shop)
    await deliver(hub)
    off = await owner.post(f"/merchant/webhooks/{made['id']}/disable")
    await owner.refused("POST", f"/merchant/webhooks/{made['id']}/disable", status=409)
    await owner.refused("POST", f"/merchant/webhooks/{made['id']}/ping", status=409)
    await paid(shop)
    await deliver(hub)

    assert (off["status"], off["disabled_reason"]) == ("disabled", "by_hand")
    assert len(receiver.got) == 1
    (letter,) = await rows(database, "SELECT state, reason FROM outbox_message WHERE transport = 'webhook'")
    assert letter == {"state": "failed", "reason": "webhook_disabled"}


async def test_an_address_is_changed_and_only_what_is_named(owner: Staff) -> None:
    made = await owner.post("/merchant/webhooks", {"url": "https://a.example/", "description": "a"}, status=201)
    path = f"/merchant/webhooks/{made['id']}"
    moved = await owner.patch(path, {"url": "https://b.example/", "events": ["payment.late", "payment.late"]})
    bare = await owner.patch(path, {"description": None})

    assert made["events"] == list(SUBSCRIBABLE)
    assert (moved["url"], moved["events"], moved["description"]) == ("https://b.example/", ["payment.late"], "a")
    assert (bare["url"], bare["events"], bare["description"]) == ("https://b.example/", ["payment.late"], None)
    for wrong in ({"url": "https://10.0.0.1/"}, {"url": None}, {"events": ["payment.gone"]}, {"events": None}):
        problem = await owner.refused("PATCH", path, wrong, status=400)
        assert problem["code"] == "VALIDATION_FAILED", wrong


async def test_operators_set_up_for_partners_and_for_nobody_else(operator: Staff, shop: Shop) -> None:
    def of(organisation_id: str, **other: Any) -> dict[str, Any]:
        return {"organisation_id": organisation_id, "url": "https://partner.example/hooks"} | other

    made = await operator.post("/admin/webhooks", of("org_test_partner"), status=201)
    for body in (of("org_test_platform"), of("org_nowhere"), of("org_test_partner", merchant_id=shop.merchant_id)):
        await operator.refused("POST", "/admin/webhooks", body, status=404)

    assert [one["id"] for one in await operator.get("/admin/webhooks", organisation_id="org_test_partner")] == [
        made["id"]
    ]
    assert await operator.get("/admin/webhooks", organisation_id="org_test_merchant") == []


async def test_another_tenants_webhooks_are_not_there(operator: Staff, owner: Staff) -> None:
    body = {"organisation_id": "org_test_partner", "url": "https://partner.example/hooks"}
    theirs = await operator.post("/admin/webhooks", body, status=201)
    for method, rest in (
        ("GET", ""),
        ("POST", "/rotate"),
        ("POST", "/disable"),
        ("POST", "/ping"),
        ("GET", "/deliveries"),
    ):
        await owner.refused(method, f"/merchant/webhooks/{theirs['id']}{rest}", status=404)

    assert await owner.get("/merchant/webhooks") == []


async def test_every_event_is_described_with_an_example(hub: Hub) -> None:
    told = hub.app.openapi()["webhooks"]

    assert set(told) == set(KINDS)
    for name, operation in told.items():
        body = operation["post"]["requestBody"]["content"]["application/json"]
        assert body["example"]["type"] == body["schema"]["properties"]["type"]["const"] == name
        data = body["schema"]["properties"]["data"]
        assert set(data["required"]) <= set(body["example"]["data"]) <= set(data["properties"])
