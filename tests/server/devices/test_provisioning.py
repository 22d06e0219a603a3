"""A box that cannot speak HTTPS gets its name: once, and in words that only it can read."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from support.shop import MASTER, NOW, execute, rows

from soundbox_protocol.messages import ProvisionRequest, ProvisionResponse, decode, encode
from soundbox_protocol.provisioning import Secrets, code_secret, request_key, response_key
from soundbox_protocol.sealing import unseal
from soundbox_protocol.signing import sign
from soundbox_protocol.topics import provision_request, provision_response
from soundbox_server import clock, seal
from soundbox_server.db import Database
from soundbox_server.devices import credentials, provision_mqtt, provisioning, service
from soundbox_server.devices.provision_mqtt import PER_NONCE, WAITING, ProvisionDesk
from soundbox_server.devices.provisioning import ANSWER_LIFE_MS, REFUSAL, Answered, Granting
from soundbox_server.devices.service import CODE_FAILURES, CODE_LIFE_MS

SERIAL = "SBX-1"
GRANTING = Granting(
    host="mqtt.example.com",
    port=8883,
    tls=True,
    key_of=lambda device_id, version: seal.announcement_key(MASTER, device_id, version),
    hash_password=lambda password: f"$7${len(password)}",
    kept_under=seal.derive(MASTER, "soundbox/provision-answer/v1"),
)


def request(code: str, nonce: str, *, serial: str = SERIAL) -> bytes:
    body = encode(ProvisionRequest(serial_number=serial))
    return sign(request_key(code_secret(code), nonce), provision_request(nonce), body)


def opened(code: str, nonce: str, payload: bytes) -> tuple[ProvisionResponse, Secrets]:
    body, raw = unseal(response_key(code_secret(code), nonce), provision_response(nonce), payload)
    return decode(ProvisionResponse, body), Secrets.unpacked(raw)


async def answer(database: Database, nonce: str, payload: bytes, *, now_ms: int = NOW) -> Answered:
    return await database.write(
        lambda tx: provisioning.answer(tx, GRANTING, nonce=nonce, payload=payload, now_ms=now_ms)
    )


async def register(database: Database, serial: str = SERIAL, *, now_ms: int = NOW) -> tuple[str, str]:
    return await database.write(
        lambda tx: service.register(tx, serial_number=serial, vendor="native", model="sbx-1", now_ms=now_ms)
    )


@pytest.fixture
def nonce() -> str:
    return secrets.token_hex(16)


async def test_a_code_becomes_a_name_and_secrets_that_work(database: Database, nonce: str) -> None:
    device_id, code = await register(database)

    answered = await answer(database, nonce, request(code, nonce))

    said, secret = opened(code, nonce, answered.payload)
    assert answered.device_id == said.device_id == device_id
    assert (said.host, said.port, said.tls, said.key_version) == ("mqtt.example.com", 8883, True, 1)
    assert (said.server_time, said.retry_after_s) == ("2026-05-23T10:00:00Z", 5)
    assert secret.announcement_key == seal.announcement_key(MASTER, device_id, 1)
    hashed = _sha256(secret.device_token)
    known = await database.read(lambda tx: credentials.known_tokens(tx, [hashed], now_ms=1))
    assert known[hashed].device_id == device_id
    (kept,) = await rows(database, "SELECT broker_hash FROM device_credential WHERE state = 'active'")
    assert kept["broker_hash"] == GRANTING.hash_password(secret.broker_password)
    (entry,) = await rows(database, "SELECT action, actor_kind, subject_id FROM audit_entry")
    assert entry == {"action": "device.activated", "actor_kind": "device", "subject_id": device_id}


async def test_a_lost_answer_is_given_again_and_nothing_else_happens(database: Database, nonce: str) -> None:
    _, code = await register(database)
    asked = request(code, nonce)

    first = await answer(database, nonce, asked)
    again = await answer(database, nonce, asked, now_ms=NOW + ANSWER_LIFE_MS - 1)

    assert again.payload == first.payload
    assert again.device_id is None
    assert len(await rows(database, "SELECT id FROM device_credential")) == 1


async def test_after_ten_minutes_the_answer_is_forgotten(database: Database, nonce: str) -> None:
    _, code = await register(database)
    await answer(database, nonce, request(code, nonce))

    too_late = await answer(database, nonce, request(code, nonce), now_ms=NOW + ANSWER_LIFE_MS)
    await database.write(lambda tx: provisioning.forget(tx, now_ms=NOW + ANSWER_LIFE_MS))

    assert too_late.payload == REFUSAL
    assert await rows(database, "SELECT nonce FROM provision_answer") == []


async def test_another_question_with_the_same_nonce_gets_nothing_of_the_answer(database: Database, nonce: str) -> None:
    _, code = await register(database)
    await answer(database, nonce, request(code, nonce))

    assert (await answer(database, nonce, request("0000000000", nonce))).payload == REFUSAL
    assert (await answer(database, nonce, b"{}")).payload == REFUSAL


async def test_a_used_code_opens_nothing_under_another_nonce(database: Database, nonce: str) -> None:
    _, code = await register(database)
    other = secrets.token_hex(16)
    await answer(database, nonce, request(code, nonce))

    assert (await answer(database, other, request(code, other))).payload == REFUSAL
    assert (await answer(database, other, request(code, nonce))).payload == REFUSAL


def somebody_else(code: str, nonce: str) -> bytes:
    return request(code, nonce, serial="SBX-2")


def unsigned(_code: str, _nonce: str) -> bytes:
    return encode(ProvisionRequest(serial_number=SERIAL))


@pytest.mark.parametrize(
    "ask",
    [
        lambda code, nonce: request("0000000000", nonce),
        lambda code, nonce: request(code, nonce[::-1]),
        lambda code, nonce: request(code, nonce, serial="SBX-UNKNOWN"),
        somebody_else,
        unsigned,
        lambda code, nonce: request(code, nonce)[:-1],
        lambda code, nonce: b"",
        lambda code, nonce: b"\xff" * 300,
    ],
    ids=["other code", "other nonce", "unknown serial", "other serial", "unsigned", "cut off", "empty", "garbage"],
)
async def test_whatever_does_not_fit_gets_one_and_the_same_refusal(
    database: Database, nonce: str, ask: Callable[[str, str], bytes]
) -> None:
    _, code = await register(database)
    await register(database, "SBX-2")

    refused = await answer(database, nonce, ask(code, nonce))

    assert refused == Answered(payload=REFUSAL)
    assert await rows(database, "SELECT id FROM device_credential") == []
    assert (await answer(database, nonce, request(code, nonce))).payload != REFUSAL


async def test_a_code_is_burnt_after_five_failures_over_either_door(database: Database, nonce: str) -> None:
    _, code = await register(database)
    for _ in range(CODE_FAILURES - 1):
        await answer(database, nonce, request("0000000000", nonce))
    await database.write(
        lambda tx: service.activate(
            tx, code="0000000000", serial_number=SERIAL, hash_password=GRANTING.hash_password, now_ms=NOW
        )
    )

    assert (await answer(database, nonce, request(code, nonce))).payload == REFUSAL


async def test_a_code_ends_after_a_day_and_a_box_out_of_service_stays_out(database: Database, nonce: str) -> None:
    _, code = await register(database)
    assert (await answer(database, nonce, request(code, nonce), now_ms=NOW + CODE_LIFE_MS)).payload == REFUSAL
    await execute(database, "UPDATE activation_code SET expires_at_ms = $1", clock.now_ms() + CODE_LIFE_MS)
    await execute(database, "UPDATE device SET state = 'revoked'")
    desk, sent = open_desk(database)

    desk.take(provision_request(nonce), request(code, nonce))
    await run_until(desk, lambda: len(sent) == 1)

    assert [message.body for message in sent] == [REFUSAL]
    assert await rows(database, "SELECT id FROM device_credential") == []


async def test_ten_nonces_at_once_with_one_code_are_one_activation(database: Database) -> None:
    _, code = await register(database)
    other = Database(database.url.render_as_string(hide_password=False))
    nonces = [secrets.token_hex(16) for _ in range(10)]
    try:
        answers = await asyncio.gather(
            *(answer([database, other][n % 2], nonce, request(code, nonce)) for n, nonce in enumerate(nonces))
        )
    finally:
        await other.close()

    assert len([one for one in answers if one.payload != REFUSAL]) == 1
    assert len(await rows(database, "SELECT id FROM device_credential")) == 1


async def test_what_is_kept_cannot_be_opened_with_what_the_database_holds(database: Database, nonce: str) -> None:
    _, code = await register(database)
    answered = await answer(database, nonce, request(code, nonce))
    _, secret = opened(code, nonce, answered.payload)

    (kept,) = await rows(database, "SELECT answer FROM provision_answer")

    assert answered.payload not in bytes(kept["answer"])
    for text in (secret.device_token, secret.broker_password, code):
        assert text.encode() not in bytes(kept["answer"])


# --- the desk ------------------------------------------------------------------------------------------------------


def open_desk(database: Database) -> tuple[ProvisionDesk, list[Any]]:
    sent: list[Any] = []
    return ProvisionDesk(database, GRANTING, publish=sent.extend), sent


async def run_until(desk: ProvisionDesk, holds: Callable[[], bool]) -> None:
    running = asyncio.create_task(desk.run())
    try:
        async with asyncio.timeout(20):
            while not holds():
                assert not running.done()
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_desk_answers_where_the_question_came_from(database: Database, nonce: str) -> None:
    _, code = await register(database, now_ms=clock.now_ms())
    desk, sent = open_desk(database)

    assert desk.take(provision_request(nonce), request(code, nonce))
    await run_until(desk, lambda: len(sent) == 1)

    assert sent[0].address == provision_response(nonce)
    assert opened(code, nonce, sent[0].body)[0].status == "success"
    assert await rows(database, "SELECT id FROM outbox_message") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_desk_leaves_uplinks_alone_and_drops_what_is_no_nonces(database: Database) -> None:
    desk, sent = open_desk(database)

    assert not desk.take("devices/dev_1/uplink/status", b"")
    for topic in ("provision/x/request", "provision/", f"provision/{'0' * 32}/response", "provision/+/request"):
        assert desk.take(topic, b"")
    assert desk.take(provision_request("0" * 32), b"")
    await run_until(desk, lambda: len(sent) == 1)

    assert [message.address for message in sent] == [provision_response("0" * 32)]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_nonce_asks_so_often_and_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision_mqtt, "AFTER_A_REFUSAL_S", 0)
    desk, sent = open_desk(database)

    for _ in range(PER_NONCE + 5):
        desk.take(provision_request("0" * 32), b"")
    desk.take(provision_request("1" * 32), b"")
    await run_until(desk, lambda: len(sent) == PER_NONCE + 1)

    assert [message.address for message in sent].count(provision_response("0" * 32)) == PER_NONCE


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_flood_of_questions_waits_in_a_bounded_line(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision_mqtt, "AFTER_A_REFUSAL_S", 0)
    desk, sent = open_desk(database)

    for number in range(WAITING + 50):
        assert desk.take(provision_request(f"{number:032x}"), b"")
    await run_until(desk, lambda: len(sent) == WAITING)

    assert sent[-1].address == provision_response(f"{WAITING - 1:032x}")


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
