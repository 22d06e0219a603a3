"""Commands from an operator's wish to the box's last word, and what happens when it has none."""

import asyncio
import json
from typing import Any

import pytest
from support.shop import MASTER, NOW, Shop, execute, row, rows

from soundbox_protocol.messages import Command, decode
from soundbox_protocol.signing import verify
from soundbox_server import seal
from soundbox_server.commands import service
from soundbox_server.commands.kinds import KINDS, checked_payload, kind_named
from soundbox_server.commands.service import MOST_OPEN, Answer, Order, Verdict
from soundbox_server.commands.state import OPEN, TRANSITIONS, CommandState
from soundbox_server.db import Database
from soundbox_server.devices import service as devices
from soundbox_server.errors import Conflict, NotFound, ValidationFailed
from soundbox_server.outbox import service as outbox

SPEAK = KINDS["speak_code"]


def key_of(device_id: str, key_version: int) -> bytes:
    return seal.announcement_key(MASTER, device_id, key_version)


async def give(database: Database, device_id: str, *, now_ms: int = NOW, **other: Any) -> str:
    order = Order(
        device_id=device_id, kind=SPEAK, payload={"code": "1234"}, requested_by="per_test", trace_id="trc_1", **other
    )
    return await database.write(lambda tx: service.give(tx, order, key_of=key_of, owner="test", now_ms=now_ms))


async def say(
    database: Database, device_id: str, command_id: str, status: str, *, now_ms: int = NOW + 1_000, **other: Any
) -> Verdict:
    facts: dict[str, Any] = {"reason": None, "result": None, "source": "mqtt"} | other
    answer = Answer(command_id=command_id, device_id=device_id, status=status, **facts)
    (verdict,) = await database.write(lambda tx: service.take_answers(tx, [answer], now_ms=now_ms))
    return verdict


async def follow_up(database: Database, now_ms: int) -> None:
    await database.write(lambda tx: service.follow_up(tx, now_ms=now_ms))


async def sweep(database: Database, now_ms: int) -> list[Any]:
    async def work(tx: Any) -> list[Any]:
        await outbox.expire(tx, now_ms=now_ms)
        await outbox.claim_due(tx, now_ms=now_ms, owner="test")
        return list(tx.queued)

    return await database.write(work)


async def telling_box(database: Database, shop: Shop, *, progress: bool = True) -> str:
    """A box online that tells, or does not, how its commands end."""
    device = await shop.box(online=False)
    session = devices.Session(device_id=device, online=True, epoch=1, at_ms=NOW, command_progress=progress)
    await database.write(lambda tx: devices.take_sessions(tx, [session]))
    return device


async def state(database: Database, command_id: str) -> str:
    return str((await row(database, "SELECT state FROM device_command WHERE id = $1", command_id))["state"])


async def message(database: Database, command_id: str) -> dict[str, Any]:
    return await row(database, "SELECT * FROM outbox_message WHERE id = $1", command_id)


async def test_a_box_that_is_online_is_told_at_once_signed_and_with_an_end(database: Database, shop: Shop) -> None:
    device = await shop.box()

    command_id = await give(database, device)

    told = await message(database, command_id)
    body = verify(key_of(device, 1), told["address"], bytes(told["body"]))
    said = decode(Command, body)
    assert (said.command_id, said.command_name, said.payload) == (command_id, "speak_code", {"code": "1234"})
    assert (said.issued_at, said.expires_at) == ("2026-05-23T10:00:00Z", "2026-05-23T10:05:00Z")
    assert (told["state"], told["attempt"], told["expires_at_ms"]) == ("published", 1, NOW + SPEAK.life_ms)
    assert await state(database, command_id) == "sent"


async def test_an_offline_box_leaves_it_queued_until_it_is_back(database: Database, shop: Shop) -> None:
    device = await shop.box(online=False)
    command_id = await give(database, device)
    assert await sweep(database, NOW + 1_000) == []
    assert await state(database, command_id) == "queued"

    await database.write(lambda tx: outbox.make_due(tx, recipients=[device], now_ms=NOW + 2_000))
    sent = await sweep(database, NOW + 2_000)
    await follow_up(database, NOW + 2_000)

    assert [one.id for one in sent] == [command_id]
    assert await state(database, command_id) == "sent"


async def test_each_step_is_recorded_and_the_message_is_not_sent_again(database: Database, shop: Shop) -> None:
    device = await telling_box(database, shop)
    command_id = await give(database, device)

    first = await say(database, device, command_id, "delivered")
    assert await sweep(database, NOW + 60_000) == []
    last = await say(database, device, command_id, "succeeded", now_ms=NOW + 3_000, result={"volume": 7})

    assert (first.state, first.moved) == (CommandState.DELIVERED, True)
    assert (last.state, last.moved) == (CommandState.SUCCEEDED, True)
    found = await row(database, "SELECT * FROM device_command WHERE id = $1", command_id)
    assert (found["delivered_at_ms"], found["finished_at_ms"]) == (NOW + 1_000, NOW + 3_000)
    assert (found["last_ack"], json.loads(found["result"])) == ("succeeded", {"volume": 7})
    assert (await message(database, command_id))["state"] == "played"


@pytest.mark.parametrize(("status", "carried"), [("failed", "failed"), ("rejected", "rejected"), ("timeout", "failed")])
async def test_a_box_that_cannot_says_so_at_any_step(database: Database, shop: Shop, status: str, carried: str) -> None:
    device = await telling_box(database, shop)
    at_once, after_delivery = await give(database, device), await give(database, device)
    await say(database, device, after_delivery, "delivered")

    for command_id in (at_once, after_delivery):
        await say(database, device, command_id, status, reason="no")

        assert await state(database, command_id) == status
        assert (await message(database, command_id))["state"] == carried


async def test_the_end_may_overtake_the_delivery(database: Database, shop: Shop) -> None:
    device = await telling_box(database, shop)
    command_id = await give(database, device)

    await say(database, device, command_id, "succeeded")
    late = await say(database, device, command_id, "delivered")

    assert (late.state, late.moved) == (CommandState.SUCCEEDED, False)
    assert await state(database, command_id) == "succeeded"


@pytest.mark.parametrize(("source", "progress"), [("http", True), ("http", False), ("mqtt", False)])
async def test_the_first_contracts_delivered_means_done(
    database: Database, shop: Shop, source: str, progress: bool
) -> None:
    device = await telling_box(database, shop, progress=progress)
    command_id = await give(database, device)

    await say(database, device, command_id, "delivered", source=source)

    found = await row(database, "SELECT state, last_ack FROM device_command WHERE id = $1", command_id)
    assert found == {"state": "succeeded", "last_ack": "delivered"}


@pytest.mark.parametrize("end", ["succeeded", "failed", "rejected", "timeout"])
async def test_a_terminal_state_never_moves_and_what_says_otherwise_is_kept_as_conflicting(
    database: Database, shop: Shop, end: str
) -> None:
    device = await telling_box(database, shop)
    command_id = await give(database, device)
    await say(database, device, command_id, "delivered")
    await say(database, device, command_id, end)

    for status in ("delivered", "succeeded", "failed", "rejected", "timeout"):
        verdict = await say(database, device, command_id, status, reason="later")

        assert (verdict.moved, verdict.conflicting) == (False, status not in (end, "delivered"))
    assert await state(database, command_id) == end
    kept = await rows(
        database, "SELECT status, conflicting FROM device_command_ack WHERE command_id = $1 ORDER BY status", command_id
    )
    assert {one["status"] for one in kept if one["conflicting"]} == {
        "succeeded", "failed", "rejected", "timeout"
    } - {end}  # fmt: skip


async def test_repeats_are_kept_once_and_of_progress_the_newest(database: Database, shop: Shop) -> None:
    device = await telling_box(database, shop)
    command_id = await give(database, device)
    for percent in (10, 60):
        for _ in range(2):
            await say(database, device, command_id, "delivered")
            await say(database, device, command_id, "progress", result={"percent": percent})

    kept = await rows(database, "SELECT status, conflicting, result FROM device_command_ack ORDER BY status")
    assert [(one["status"], bool(one["conflicting"])) for one in kept] == [("delivered", False), ("progress", False)]
    assert json.loads(kept[1]["result"]) == {"percent": 60}
    assert await state(database, command_id) == "delivered"


async def test_a_box_cannot_answer_for_another(database: Database, shop: Shop) -> None:
    device, other = await telling_box(database, shop), await telling_box(database, shop)
    command_id = await give(database, device)

    verdict = await say(database, other, command_id, "succeeded")
    unknown = await say(database, other, "cmd_nowhere", "succeeded")

    assert (verdict.state, unknown.state) == (None, None)
    assert await state(database, command_id) == "sent"
    assert await rows(database, "SELECT status FROM device_command_ack") == []


async def test_what_nobody_had_in_time_expires(database: Database, shop: Shop) -> None:
    online, offline = await shop.box(), await shop.box(online=False)
    commands = [await give(database, online), await give(database, offline)]

    await follow_up(database, NOW + SPEAK.life_ms - 1)
    assert [await state(database, command_id) for command_id in commands] == ["sent", "queued"]
    await sweep(database, NOW + SPEAK.life_ms)
    await follow_up(database, NOW + SPEAK.life_ms)

    assert [await state(database, command_id) for command_id in commands] == ["expired", "expired"]
    late = await say(database, online, commands[0], "succeeded", now_ms=NOW + SPEAK.life_ms + 1)
    assert (late.state, late.conflicting) == (CommandState.EXPIRED, True)


async def test_a_box_that_tells_no_end_times_out(database: Database, shop: Shop) -> None:
    device = await telling_box(database, shop)
    command_id = await give(database, device)
    await say(database, device, command_id, "delivered", now_ms=NOW)

    await follow_up(database, NOW + SPEAK.result_within_ms - 1)
    assert await state(database, command_id) == "delivered"
    await follow_up(database, NOW + SPEAK.result_within_ms)

    assert await state(database, command_id) == "timeout"
    told = await message(database, command_id)
    assert (told["state"], told["reason"]) == ("failed", "no_result")


async def test_a_box_that_is_activated_again_never_gets_what_was_signed_for_it_before(
    database: Database, shop: Shop
) -> None:
    device = await shop.box()
    command_id = await give(database, device)
    serial = (await row(database, "SELECT serial_number FROM device WHERE id = $1", device))["serial_number"]
    code = await database.write(lambda tx: devices.issue_code(tx, device, now_ms=NOW))
    await database.write(
        lambda tx: devices.activate(
            tx, code=code, serial_number=serial, hash_password=lambda password: "$7$other", now_ms=NOW + 1
        )
    )

    await follow_up(database, NOW + 2)

    found = await row(database, "SELECT state, reason FROM device_command WHERE id = $1", command_id)
    assert found == {"state": "expired", "reason": "activated_again"}


async def test_what_was_not_sent_can_be_cancelled_and_again_changes_nothing(database: Database, shop: Shop) -> None:
    device = await shop.box(online=False)
    command_id = await give(database, device)

    async def cancel() -> bool:
        return await database.write(
            lambda tx: service.cancel(tx, device_id=device, command_id=command_id, now_ms=NOW + 1)
        )

    assert (await cancel(), await cancel()) == (True, False)
    await database.write(lambda tx: outbox.make_due(tx, recipients=[device], now_ms=NOW + 2))
    assert await sweep(database, NOW + 2) == []
    assert await state(database, command_id) == "cancelled"


async def test_what_is_on_its_way_or_somebody_elses_cannot_be_cancelled(database: Database, shop: Shop) -> None:
    device, other = await shop.box(online=False), await shop.box()
    swept, sent = await give(database, device), await give(database, other)
    await database.write(lambda tx: outbox.make_due(tx, recipients=[device], now_ms=NOW))
    await sweep(database, NOW)  # sent, and the command's own row does not say so yet

    for device_id, command_id, error in ((device, swept, Conflict), (other, sent, Conflict), (other, swept, NotFound)):
        with pytest.raises(error):
            await database.write(
                lambda tx, device_id=device_id, command_id=command_id: service.cancel(
                    tx, device_id=device_id, command_id=command_id, now_ms=NOW
                )
            )


async def test_a_cancel_and_the_sweep_at_once_never_both_succeed(database: Database, shop: Shop) -> None:
    other = Database(database.url.render_as_string(hide_password=False))
    try:
        for _ in range(10):
            device = await shop.box(online=False)
            command_id = await give(database, device)
            await database.write(lambda tx, device=device: outbox.make_due(tx, recipients=[device], now_ms=NOW))
            cancelling = other.write(
                lambda tx, device=device, command_id=command_id: service.cancel(
                    tx, device_id=device, command_id=command_id, now_ms=NOW
                )
            )
            cancelled, sent = await asyncio.gather(cancelling, sweep(database, NOW), return_exceptions=True)

            assert not isinstance(sent, BaseException)
            assert (cancelled is True) != (command_id in [one.id for one in sent]), (cancelled, sent)
    finally:
        await other.close()


async def test_unknown_boxes_those_out_of_service_and_full_ones_get_no_command(database: Database, shop: Shop) -> None:
    device = await shop.box(online=False)
    for _ in range(MOST_OPEN):
        await give(database, device)

    with pytest.raises(Conflict, match="too many"):
        await give(database, device)
    with pytest.raises(NotFound):
        await give(database, "dev_nowhere")
    gone = await shop.box()
    await execute(database, "UPDATE device SET state = 'revoked' WHERE id = $1", gone)
    with pytest.raises(Conflict, match="service"):
        await give(database, gone)


@pytest.mark.parametrize(
    "payload", [{}, {"code": "12"}, {"code": 1234}, {"code": "1234", "loud": True}, {"code": "１２３４"}]
)
def test_a_payload_that_does_not_fit_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        checked_payload("speak_code", payload)


def test_a_command_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValidationFailed) as refusal:
        kind_named("dance")

    assert refusal.value.facts["known"] == sorted(KINDS)


def test_what_has_ended_stays_as_it_ended() -> None:
    assert set(OPEN) == {CommandState.QUEUED, CommandState.SENT, CommandState.DELIVERED}
    assert all(TRANSITIONS[one] == frozenset() for one in set(CommandState) - set(OPEN))
    assert TRANSITIONS.keys() == set(CommandState)
