"""What a box says to the hub over a real broker, and what it hears back."""

import asyncio
import base64
import shutil
from collections.abc import Iterator
from dataclasses import replace

import aiomqtt
import httpx
import pytest
from standardwebhooks import Webhook
from support.device import Credentials, activate, line
from support.receiver import receiving
from support.shop import execute
from support.stack import Stack, until

from soundbox_protocol.messages import DynamicQrRequest, Heartbeat, PaymentAck, TimeRequest, encode
from soundbox_protocol.times import from_rfc3339, to_rfc3339
from soundbox_protocol.topics import Downlink, Uplink, uplink
from soundbox_server import clock
from soundbox_server.db import Database

pytestmark = [pytest.mark.journey, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hub")]


def _now() -> str:
    return to_rfc3339(clock.now_ms())


def _heartbeat(box: Credentials, **more: object) -> Heartbeat:
    said = {"device_id": box.device_id, "timestamp": _now(), "firmware_version": "1.0.3", "state": "idle"} | more
    return Heartbeat.model_validate(said)


def _ask(box: Credentials, request_id: str, **more: object) -> DynamicQrRequest:
    said = {
        "device_id": box.device_id, "timestamp": _now(), "request_id": request_id, "terminal_id": box.terminal_id,
        "amount": 50_000, "currency": "IDR", "created_at": _now(),
    } | more  # fmt: skip
    return DynamicQrRequest.model_validate(said)


async def _payments(hub: Stack, box: Credentials) -> list[tuple[str]]:
    return await hub.query("SELECT state FROM payment WHERE device_id = $1", box.device_id)


async def _battery(hub: Stack, box: Credentials) -> int | None:
    rows = await hub.query("SELECT battery_level FROM device_presence WHERE device_id = $1", box.device_id)
    return rows[0][0] if rows else None


async def _pay(hub: Stack, transaction_id: str, amount: int, event_id: str) -> str:
    """The customer pays: the outcome of the callback."""
    rows = await hub.query("SELECT reference FROM payment_attempt WHERE payment_id = $1", transaction_id)
    body, headers = hub.callback(str(rows[0][0]), amount, event_id=event_id)
    async with httpx.AsyncClient(base_url=hub.url, timeout=20) as partner:
        answer = await partner.post("/integrations/qris/callback", content=body, headers=headers)
    return str(answer.json()["data"]["outcome"])


async def test_a_box_asks_for_a_qr_is_paid_and_acks(hub: Stack, box: Credentials) -> None:
    async with line(hub, box) as wire:
        await wire.birth(1)
        await wire.say(Uplink.DYNAMIC_QR_REQUEST, _ask(box, "r1"))
        channel, answer = await wire.hear()
        assert (channel, answer.status, answer.correlation_id) == (Downlink.DYNAMIC_QR_RESPONSE, "success", "r1")
        assert "54055000" in answer.qr_payload

        assert await _pay(hub, answer.transaction_id, 50_000, "e1") == "applied"
        channel, paid = await wire.hear()
        assert (channel, paid.amount, paid.seq) == (Downlink.PAYMENT_SUCCESS, 50_000, 1)
        for status in ("received", "played"):
            ack = {"device_id": box.device_id, "timestamp": _now(), "event_id": paid.event_id, "status": status}
            await wire.say(Uplink.PAYMENT_ACK, PaymentAck.model_validate(ack))

        async def played() -> bool:
            return await hub.query("SELECT state FROM outbox_message WHERE id = $1", paid.event_id) == [("played",)]

        await until(played, what="the ack recorded")

    async with httpx.AsyncClient(base_url=hub.url, headers=await hub.login()) as operator:
        seen = (await operator.get(f"/admin/transactions/{answer.transaction_id}")).json()["data"]
        told = (await operator.get(f"/admin/devices/{box.device_id}/notifications")).json()["data"]
    hops = seen["announcements"][0]["hops"]
    assert hops["queued_at"] <= hops["received_at"] <= hops["finished_at"]
    assert [step["event"] for step in seen["timeline"]] == ["payment.created", "payment.qr_issued", "payment.paid"]
    assert told == seen["announcements"]


async def test_a_shops_own_program_hears_of_the_payment(hub: Stack, box: Credentials) -> None:
    owner = await hub.login("owner@demo.test", door="merchant")
    async with (
        receiving() as program, line(hub, box) as wire,
        httpx.AsyncClient(base_url=hub.url, headers=owner, timeout=20) as shop,
    ):  # fmt: skip
        wanted = {"url": program.url(), "events": ["payment.paid"]}
        webhook = (await shop.post("/merchant/webhooks", json=wanted)).json()["data"]
        await wire.birth(1)
        await wire.say(Uplink.DYNAMIC_QR_REQUEST, _ask(box, "r1"))
        _, answer = await wire.hear()
        assert await _pay(hub, answer.transaction_id, 50_000, f"hook:{box.device_id}") == "applied"
        await program.until(1)
        (got,) = program.got
        await shop.post(f"/merchant/webhooks/{webhook['id']}/disable")

    said = Webhook(webhook["secret"]).verify(got.body, got.headers)
    assert (said["type"], said["data"]["transaction_id"]) == ("payment.paid", answer.transaction_id)


async def test_a_point_of_sale_asks_and_the_box_at_its_till_speaks(hub: Stack, box: Credentials) -> None:
    owner = await hub.login("owner@demo.test", door="merchant")
    async with line(hub, box) as wire, httpx.AsyncClient(base_url=hub.url, headers=owner, timeout=20) as pos:
        await wire.birth(1)
        order = {"order_code": f"ORDER-{box.device_id}", "method": "qris", "amount": 33_000}
        created = (await pos.post("/api/v1/pos/payments", json=order | {"terminal_id": box.terminal_id})).json()["data"]
        await _scan(hub, created["qr_string"])
        channel, paid = await wire.hear()

        assert (channel, paid.amount, paid.transaction_id) == (
            Downlink.PAYMENT_SUCCESS,
            33_000,
            created["reference_id"],
        )
        status = (await pos.get(f"/api/v1/pos/payments/{created['reference_id']}")).json()["data"]
        assert (created["status"], status["status"], status["order_code"]) == ("pending", "paid", order["order_code"])


async def _scan(hub: Stack, qr_payload: str) -> None:
    """The customer pays what their app read from the QR."""
    settings = hub.settings()
    key = {"authorization": f"Bearer {settings.sandbox_api_key}"}
    async with httpx.AsyncClient(base_url=settings.sandbox_url, headers=key, timeout=20) as acquirer:
        answer = await acquirer.post("/v1/pay", json={"qr_payload": qr_payload})
        assert answer.status_code == 200, answer.text


async def test_the_same_question_gets_the_same_answer(hub: Stack, box: Credentials) -> None:
    async with line(hub, box) as wire:
        await wire.birth(1)
        await wire.say(Uplink.DYNAMIC_QR_REQUEST, _ask(box, "r1"))
        _, first = await wire.hear()
        await wire.say(Uplink.DYNAMIC_QR_REQUEST, _ask(box, "r1"))
        _, second = await wire.hear()

    assert second == first
    assert await _payments(hub, box) == [("awaiting_payment",)]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"terminal_id": "term_999"}, "DEVICE_NOT_BOUND"),
        ({"amount": 0}, "INVALID_AMOUNT"),
        ({"amount": 10_000_001}, "INVALID_AMOUNT"),
        ({"currency": "USD"}, "INVALID_AMOUNT"),
        ({"created_at": "2026-01-01T00:00:00Z"}, "PARTNER_TIMEOUT"),
    ],
)
async def test_a_question_that_makes_no_payment_is_answered_with_its_reason(
    hub: Stack, box: Credentials, changed: dict[str, object], code: str
) -> None:
    async with line(hub, box) as wire:
        await wire.birth(1)
        await wire.say(Uplink.DYNAMIC_QR_REQUEST, _ask(box, "r1", **changed))
        _, answer = await wire.hear()

    assert (answer.status, answer.error_code) == ("failed", code)
    assert await _payments(hub, box) == []


async def test_a_provider_that_fails_for_a_moment_is_asked_again_for_the_box(hub: Stack, box: Credentials) -> None:
    sandbox = {"authorization": f"Bearer {hub.settings().sandbox_api_key}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{hub.sandbox_port}", headers=sandbox) as acquirer:
        assert (await acquirer.put("/v1/faults", json={"create_failures": 2})).status_code == 200
    async with line(hub, box) as wire:
        await wire.birth(1)
        await wire.say(Uplink.DYNAMIC_QR_REQUEST, _ask(box, "r1"))
        _, answer = await wire.hear(within_s=25)

    assert answer.status == "success"
    assert await _payments(hub, box) == [("awaiting_payment",)]


async def test_a_lost_answer_is_resumed_by_query_and_charges_once(hub: Stack, box: Credentials) -> None:
    sandbox = {"authorization": f"Bearer {hub.settings().sandbox_api_key}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{hub.sandbox_port}", headers=sandbox) as acquirer:
        assert (await acquirer.put("/v1/faults", json={"lose_answers": 2})).status_code == 200
        async with line(hub, box) as wire:
            await wire.birth(1)
            await wire.say(Uplink.DYNAMIC_QR_REQUEST, _ask(box, "r1"))
            _, answer = await wire.hear(within_s=25)
        charges = (await acquirer.get("/v1/qr?status=open")).json()["charges"]

    rows = await hub.query("SELECT reference FROM payment_attempt WHERE payment_id = $1", answer.transaction_id)
    issued = [charge["qr_payload"] for charge in charges if charge["reference"] == rows[0][0]]
    assert answer.status == "success"
    assert issued == [answer.qr_payload]


async def test_a_message_nobody_can_read_is_put_aside_and_the_next_one_counts(hub: Stack, box: Credentials) -> None:
    async with line(hub, box) as wire:
        for garbage in (b"", b"\xff\xfe", b'{"message_type":"heartbeat"', b'{"a":1,"a":2}', b"[]"):
            await wire.say(Uplink.HEARTBEAT, garbage)
        await wire.say(Uplink.HEARTBEAT, _heartbeat(box, battery_level=41))

        async def counted() -> bool:
            return await _battery(hub, box) == 41

        await until(counted, what="the good heartbeat")

    stored = await hub.query("SELECT topic FROM poison_message WHERE device_id = $1", box.device_id)
    alerts = await hub.query("SELECT kind, state FROM alert WHERE subject_id = $1", box.device_id)
    assert len(stored) == 5
    assert set(stored) == {(uplink(box.device_id, Uplink.HEARTBEAT),)}
    assert alerts == [("device.poison_message", "open")]


async def test_a_box_that_speaks_for_another_is_not_believed(hub: Stack, box: Credentials) -> None:
    other = hub.world["devices"][-1]["device_id"]
    async with line(hub, box) as wire:
        claimed = _heartbeat(box).model_copy(update={"device_id": other})
        await wire.say(Uplink.HEARTBEAT, claimed)

        async def put_aside() -> bool:
            return len(await hub.query("SELECT id FROM poison_message WHERE device_id = $1", box.device_id)) == 1

        await until(put_aside, what="the claim put aside")
    assert await hub.query("SELECT id FROM device_heartbeat WHERE device_id = $1", other) == []


async def test_an_old_will_does_not_end_a_new_session(hub: Stack, box: Credentials) -> None:
    async def online() -> bool:
        rows = await hub.query("SELECT online, session_epoch FROM device_presence WHERE device_id = $1", box.device_id)
        return [(bool(up), epoch) for up, epoch in rows] == [(True, 8)]

    async with line(hub, box) as wire:
        await wire.birth(7)
        await wire.birth(8)
        await until(online, what="epoch 8 online")
        await wire.birth(7, state="offline")
        await wire.say(Uplink.HEARTBEAT, _heartbeat(box, battery_level=55))

        async def later_message_counted() -> bool:
            return await _battery(hub, box) == 55

        await until(later_message_counted, what="what came after the will")
        assert await online()
        await wire.birth(8, state="offline")

        async def offline() -> bool:
            return not await online()

        await until(offline, what="the session's own will")


async def test_what_waits_for_an_offline_box_goes_out_at_its_birth(hub: Stack, box: Credentials) -> None:
    async with httpx.AsyncClient(base_url=hub.url, headers=box.bearer, timeout=20) as client:
        asked = {
            "device_id": box.device_id, "terminal_id": box.terminal_id, "amount": 12_000, "currency": "IDR",
            "request_id": "r1",
        }  # fmt: skip
        made = (await client.post("/device/transactions/dynamic-qr", json=asked)).json()
    assert await _pay(hub, made["transaction_id"], 12_000, "e1") == "applied"
    assert await hub.query("SELECT state, due_at_ms FROM outbox_message WHERE recipient_id = $1", box.device_id) == [
        ("queued", None)
    ]

    async with line(hub, box) as wire:
        await wire.birth(1)
        _, paid = await wire.hear()

    assert (paid.amount, paid.transaction_id) == (12_000, made["transaction_id"])


async def test_a_box_whose_answer_was_lost_is_activated_again_with_a_new_code(hub: Stack, box: Credentials) -> None:
    async with httpx.AsyncClient(base_url=hub.url, headers=await hub.login(), timeout=20) as operator:
        path = f"/admin/devices/{box.device_id}"
        code = (await operator.post(f"{path}/activation-code")).json()["data"]["activation_code"]
        serial = (await operator.get(path)).json()["data"]["serial_number"]
        asked = {"activation_code": code, "serial_number": serial}
        again = (await operator.post("/device/provision/activate", json=asked)).json()["data"]
        old = await operator.post("/device/heartbeat", headers=box.bearer, content=encode(_heartbeat(box)))
        new = {"authorization": f"Bearer {again['device_token']}"}
        fresh = await operator.post("/device/heartbeat", headers=new, content=encode(_heartbeat(box)))
        seen = (await operator.get(path)).json()["data"]

    assert (again["device_id"], again["key_version"]) == (box.device_id, 2)
    assert (old.status_code, fresh.status_code) == (401, 200)
    assert seen["status"] == "bound"  # it still stands where it stood


async def test_a_box_without_a_clock_is_told_the_time(hub: Stack, box: Credentials) -> None:
    async with line(hub, box) as wire:
        asked = {"device_id": box.device_id, "timestamp": "1970-01-01T00:00:00Z", "nonce": "n-1"}
        await wire.say(Uplink.TIME_REQUEST, TimeRequest.model_validate(asked))
        channel, answer = await wire.hear()

    assert (channel, answer.nonce) == (Downlink.TIME, "n-1")
    assert abs(clock.now_ms() - from_rfc3339(answer.server_time)) < 30_000


async def test_the_hub_comes_back_when_the_broker_does(hub: Stack, box: Credentials) -> None:
    broker = next(child for child in hub.children if child.name == "broker" and child.process.returncode is None)
    await broker.kill()
    await hub.start("broker")

    async def heard() -> bool:
        try:
            async with line(hub, box) as wire:
                await wire.birth(clock.now_ms())
                await wire.say(Uplink.HEARTBEAT, _heartbeat(box, battery_level=63))
        except (OSError, aiomqtt.MqttError):  # the broker is not back yet
            return False
        return await _battery(hub, box) == 63

    await until(heard, what="a heartbeat through the restarted broker")


async def test_a_worker_that_was_away_takes_no_box_for_silent(
    hub: Stack, box: Credentials, numbers: Iterator[int]
) -> None:
    """They were connected all the time, and their heartbeats went where nobody listened. That it has looked for silent
    boxes is seen at another one, which it lets out afterwards."""
    calm = await activate(hub, next(numbers))
    async with line(hub, box) as wire:
        await wire.birth(1)

        async def online() -> bool:
            rows = await hub.query("SELECT online FROM device_presence WHERE device_id = $1", box.device_id)
            return [bool(up) for (up,) in rows] == [True]

        await until(online, what="the birth recorded")
        worker = next(child for child in hub.children if child.name == "worker" and child.process.returncode is None)
        await worker.stop()
        database = Database(hub.database_url)
        try:
            await execute(database, "UPDATE device_presence SET last_seen_at_ms = last_seen_at_ms - 600000")
            await execute(
                database,
                "INSERT INTO device_presence (device_id, online, session_epoch, last_seen_at_ms, changed_at_ms, "
                "max_payload_bytes, verifies_signatures, session_at_ms, quarantine) "
                "VALUES ($1, $2, 1, 1, 1, 512, $2, 1, 'flapping') "
                "ON CONFLICT (device_id) DO UPDATE SET online = $2, session_at_ms = 1, quarantine = 'flapping'",
                calm.device_id, False,
            )  # fmt: skip
        finally:
            await database.close()
        await hub.start("worker")

        async def looked() -> bool:
            rows = await hub.query("SELECT quarantine FROM device_presence WHERE device_id = $1", calm.device_id)
            return rows == [(None,)]

        await until(looked, what="the worker's look at every box")

        async def heard() -> bool:
            await wire.say(Uplink.HEARTBEAT, _heartbeat(box, battery_level=64))
            return await _battery(hub, box) == 64

        await until(heard, what="a heartbeat")

    ended = await hub.query(
        "SELECT end_reason FROM device_online WHERE device_id = $1 AND end_reason = 'silent'", box.device_id
    )
    assert ended == []


async def test_mosquittos_own_clients_can_play_a_box(hub: Stack, box: Credentials) -> None:
    assert shutil.which("mosquitto_sub"), "mosquitto-clients is missing: scripts/test installs it"
    login = ["-h", "127.0.0.1", "-p", str(hub.broker_port), "-u", box.username, "-P", box.password, "-i", box.username]
    async with httpx.AsyncClient(base_url=hub.url, headers=box.bearer, timeout=20) as client:
        asked = {
            "device_id": box.device_id, "terminal_id": box.terminal_id, "amount": 50_000, "currency": "IDR",
            "request_id": "r1",
        }  # fmt: skip
        made = (await client.post("/device/transactions/dynamic-qr", json=asked)).json()
    await _publish(login, box, "status", f'"state":"online","session_epoch":1,"timestamp":"{_now()}"')

    async def online() -> bool:
        rows = await hub.query("SELECT online FROM device_presence WHERE device_id = $1", box.device_id)
        return [bool(up) for (up,) in rows] == [True]

    await until(online, what="the foreign box's birth")
    # Its id is its session: the listener takes over from the publisher, and what it missed is sent again.
    assert await _pay(hub, made["transaction_id"], 50_000, "e1") == "applied"
    topic = f"devices/{box.device_id}/downlink/payment/success"
    listener = await asyncio.create_subprocess_exec(
        "mosquitto_sub", *login, "-q", "1", "-C", "1", "-W", "20", "-t", topic, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await listener.communicate()
    assert b'"amount":50000' in out
    event_id = out.split(b'"event_id":"')[1].split(b'"')[0].decode()
    await _publish(login, box, "payment_ack", f'"event_id":"{event_id}","status":"received","timestamp":"{_now()}"')

    async def received() -> bool:
        return await hub.query("SELECT state FROM outbox_message WHERE id = $1", event_id) == [("received",)]

    await until(received, what="the foreign box's ack")


async def _publish(login: list[str], box: Credentials, kind: str, fields: str) -> None:
    channel = {"status": "status", "payment_ack": "payment/ack"}[kind]
    said = f'{{"message_type":"{kind}","device_id":"{box.device_id}",{fields}}}'
    topic = f"devices/{box.device_id}/uplink/{channel}"
    done = await asyncio.create_subprocess_exec("mosquitto_pub", *login, "-q", "1", "-t", topic, "-m", said)
    assert await done.wait() == 0


async def test_a_box_that_was_reset_begins_anew_and_its_old_self_is_cut_off(hub: Stack, box: Credentials) -> None:
    async with httpx.AsyncClient(base_url=hub.url, headers=await hub.login(), timeout=20) as operator:
        path = f"/admin/devices/{box.device_id}"
        serial = (await operator.get(path)).json()["data"]["serial_number"]
        code = (await operator.post(f"{path}/activation-code")).json()["data"]["activation_code"]
        first = await _asked_for(hub, box, "r1", 12_000)
        assert await _pay(hub, first, 12_000, "e1") == "applied"  # for the old self, which is not on the air
        async with line(hub, box) as old_self:
            asked = {"activation_code": code, "serial_number": serial}
            data = (await operator.post("/device/provision/activate", json=asked)).json()["data"]
            with pytest.raises((aiomqtt.MqttError, StopAsyncIteration)):
                await old_self.hear(within_s=20)
    key = base64.urlsafe_b64decode(data["announcement_key"] + "=")
    new_self = replace(box, token=data["device_token"], password=data["broker"]["password"], key=key)

    with pytest.raises(aiomqtt.MqttError):
        async with line(hub, box):
            pass
    async with line(hub, new_self) as wire:
        await wire.birth(1)
        second = await _asked_for(hub, new_self, "r2", 15_000)
        assert await _pay(hub, second, 15_000, "e2") == "applied"
        _, paid = await wire.hear()

    assert (paid.transaction_id, paid.seq) == (second, 1)
    assert new_self.key != box.key
    told = await hub.query("SELECT subject_id, state, reason FROM outbox_message WHERE subject_id = $1", first)
    assert told == [(first, "expired", "activated_again")]


async def _asked_for(hub: Stack, box: Credentials, request_id: str, amount: int) -> str:
    async with httpx.AsyncClient(base_url=hub.url, headers=box.bearer, timeout=20) as client:
        asked = {
            "device_id": box.device_id, "terminal_id": box.terminal_id, "amount": amount, "currency": "IDR",
            "request_id": request_id,
        }  # fmt: skip
        made = await client.post("/device/transactions/dynamic-qr", json=asked)
        assert made.status_code == 200, made.text
        return str(made.json()["transaction_id"])


async def test_what_was_paid_and_said_goes_back_in_parts_and_is_not_said_again(hub: Stack, box: Credentials) -> None:
    acquirer = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{hub.sandbox_port}",
        headers={"authorization": f"Bearer {hub.settings().sandbox_api_key}"},
        timeout=20,
    )
    finance = httpx.AsyncClient(base_url=hub.url, headers=await hub.login("finance@demo.test"), timeout=20)
    async with acquirer, finance, line(hub, box) as wire:
        await wire.birth(1)
        await wire.say(Uplink.DYNAMIC_QR_REQUEST, _ask(box, "back"))
        _, answer = await wire.hear()
        path = f"/admin/transactions/{answer.transaction_id}"
        rows = await hub.query("SELECT reference FROM payment_attempt WHERE payment_id = $1", answer.transaction_id)
        reference = rows[0][0]
        await acquirer.put("/v1/faults", json={"drop_callbacks": 1, "lose_refund_answers": 2})
        assert (await acquirer.post(f"/v1/qr/{reference}/pay")).status_code == 200
        asked = (await finance.post(f"{path}/check-status")).json()["data"]
        channel, paid = await wire.hear()
        for amount in (20_000, 30_000):
            wished = await finance.post(f"{path}/refund", json={"amount": amount, "reason": "Wrong size."})
            assert wished.status_code == 202, wished.text

        async def gone() -> bool:
            return (await finance.get(path)).json()["data"]["status"] == "refunded"

        await until(gone, what="both refunds done")
        seen = (await finance.get(path)).json()["data"]
        made = (await acquirer.get(f"/v1/qr/{reference}")).json()["adjustments"]
        await acquirer.put("/v1/faults", json={})

    assert (asked["status"], channel, paid.amount) == ("paid", Downlink.PAYMENT_SUCCESS, 50_000)
    assert (seen["refunded_amount"], len(seen["announcements"]), len(made)) == (50_000, 1, 2)
    assert {refund["status"] for refund in seen["refunds"]} == {"done"}
