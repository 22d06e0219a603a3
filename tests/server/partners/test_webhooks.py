"""What a partner's program hears of the payments it asked for: from the API's own doors to the receiver's."""

import hashlib
import hmac

from support.hub import Hub
from support.partner import GENERATE, Partner, licensed
from support.receiver import receiving
from support.shop import Shop, report, rows, take

from soundbox_server import clock, parts
from soundbox_server.db import Database
from soundbox_server.payments.charging import find_charge
from soundbox_server.webhooks.jobs import LANES, Courier


async def _deliver(hub: Hub) -> None:
    state = hub.app.state
    courier = Courier(state.database, parts.webhook_sender(state.settings), ring=state.sealing_ring, owner="test")
    await courier.tick()
    await courier.drain()


async def _pay(database: Database, payment_id: str) -> None:
    pending = await database.read(lambda tx: find_charge(tx, payment_id))
    await take(database, report(pending), now_ms=clock.now_ms())


async def test_a_payment_is_told_at_its_own_address_in_the_answer_s_words_and_signed_with_the_key_s_secret(
    hub: Hub, partner: Partner, database: Database
) -> None:
    issued = await partner.post("/api/user/regenerate-api-key")
    program = Partner(hub, headers={"x-api-key": issued["api_key"]})
    async with receiving() as receiver:
        made = await program.generate(license_key=partner.license_key, webhook_url=receiver.url("/paid"))
        await _pay(database, made["payment_id"])
        await _pay(database, made["payment_id"])  # the provider says it again

        await _deliver(hub)
        await _deliver(hub)

    (got,) = receiver.got
    assert got.path == "/paid"
    told = ("payment_id", "transaction_id", "amount", "payment_type", "gateway_transaction_id")
    assert {name: got.said[name] for name in told} == {name: made[name] for name in told}
    assert (got.said["event"], got.said["status"], got.said["license_key"]) == (
        "payment.success", "paid", partner.license_key,
    )  # fmt: skip
    expected = hmac.new(issued["webhook_secret"].encode(), got.body, hashlib.sha256).hexdigest()
    assert got.headers["x-kgiton-signature"] == expected


async def test_an_address_that_is_slow_keeps_no_other_one_of_the_partner_s_waiting(
    hub: Hub, shop: Shop, database: Database
) -> None:
    partner = await licensed(hub, shop, tokens=6)
    state = hub.app.state
    courier = Courier(state.database, parts.webhook_sender(state.settings), ring=state.sealing_ring, owner="test")
    async with receiving(None) as slow, receiving() as quick:
        for n in range(LANES + 2):
            url = (quick if n == LANES + 1 else slow).url(f"/{n}" if n == LANES + 1 else "/slow")
            made = await partner.generate(f"TRX-{n}", webhook_url=url)
            await _pay(database, made["payment_id"])
        await courier.tick()
        await slow.until(LANES)
        await quick.until(1)

        assert slow.under_way == LANES
        await courier.end()


async def test_a_payment_without_an_address_is_told_to_nobody(hub: Hub, partner: Partner, database: Database) -> None:
    made = await partner.generate()
    await _pay(database, made["payment_id"])

    await _deliver(hub)

    assert not await rows(database, "SELECT id FROM outbox_message WHERE transport = 'webhook'")


async def test_an_address_inside_costs_no_token(hub: Hub, partner: Partner) -> None:
    before = await partner.balance()

    for url in ("http://169.254.169.254/latest", "http://user:word@partner.test/", "http://10.0.0.1/hook"):
        refused = await partner.refused("POST", GENERATE, partner.asked(webhook_url=url), status=400)
        assert refused["code"] == "VALIDATION_FAILED"

    assert await partner.balance() == before
