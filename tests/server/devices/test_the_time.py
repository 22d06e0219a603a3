"""Boxes ask what time it is: answered so that no old answer fits, and not without end."""

from typing import Any

from support.shop import MASTER, NOW, Shop, rows

from soundbox_protocol.messages import Time, TimeRequest, decode
from soundbox_protocol.signing import verify
from soundbox_server import seal
from soundbox_server.db import Database, Statements
from soundbox_server.devices.mqtt import TIMES_A_MINUTE, TimeRequests
from soundbox_server.uplinks import Uplink


def key_of(device_id: str, key_version: int) -> bytes:
    return seal.announcement_key(MASTER, device_id, key_version)


def asking(device: str, nonce: str, *, at_ms: int = NOW) -> Uplink[TimeRequest]:
    message = TimeRequest(device_id=device, timestamp="1970-01-01T00:00:12Z", nonce=nonce)
    return Uplink(device_id=device, message=message, payload=b"", received_at_ms=at_ms)


async def ask(database: Database, desk: TimeRequests, *asked: Uplink[TimeRequest]) -> list[Any]:
    async def work(tx: Statements) -> list[Any]:
        await desk(tx, asked)
        return tx.queued

    return await database.write(work)


def answer(device: str, message: Any) -> Time:
    return decode(Time, verify(key_of(device, 1), message.address, message.body))


async def test_the_answer_is_signed_and_fits_the_question_alone(database: Database, shop: Shop) -> None:
    device = await shop.box()

    (sent,) = await ask(database, TimeRequests(key_of=key_of, owner="test"), asking(device, "n1"))

    assert answer(device, sent) == Time(server_time="2026-05-23T10:00:00Z", nonce="n1")
    (kept,) = await rows(database, "SELECT time_asked_at_ms FROM device_presence")
    assert kept["time_asked_at_ms"] == NOW


async def test_of_questions_that_come_together_the_last_is_answered(database: Database, shop: Shop) -> None:
    device, other = await shop.box(), await shop.box()
    asked = [asking(device, "n1"), asking(other, "n2"), asking(device, "n3")]

    sent = await ask(database, TimeRequests(key_of=key_of, owner="test"), *asked)

    assert {message.recipient_id: answer(message.recipient_id, message).nonce for message in sent} == {
        device: "n3", other: "n2",
    }  # fmt: skip


async def test_a_box_that_asks_without_end_is_answered_so_many_times_a_minute(database: Database, shop: Shop) -> None:
    device, calm = await shop.box(), await shop.box()
    desk = TimeRequests(key_of=key_of, owner="test")

    answers = [await ask(database, desk, asking(device, f"n{n}", at_ms=NOW + n)) for n in range(100)]

    assert len([one for one in answers if one]) == TIMES_A_MINUTE
    assert len(await ask(database, desk, asking(calm, "n", at_ms=NOW + 100))) == 1
    assert len(await ask(database, desk, asking(device, "n", at_ms=NOW + 60_000))) == 1
