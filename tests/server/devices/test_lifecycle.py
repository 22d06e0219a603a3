"""Boxes that are suspended, revoked and retired: what stays, what ends, and what is said of it."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import product

import pytest
from support.shop import NOW, Shop, report, row, rows, take, told

from soundbox_server.db import Database, Statements, transaction
from soundbox_server.devices import credentials, lifecycle
from soundbox_server.devices import service as devices
from soundbox_server.devices.lifecycle import Move
from soundbox_server.devices.service import Activated
from soundbox_server.devices.state import TRANSITIONS, DeviceState
from soundbox_server.errors import Conflict, IllegalTransition, NotFound, SoundboxError

Verb = Callable[[Statements, str], Awaitable[Move]]
VERBS: dict[str, Verb] = {
    "suspend": lambda tx, device: lifecycle.suspend(tx, device, reason="in for repair", now_ms=NOW),
    "resume": lambda tx, device: lifecycle.resume(tx, device, now_ms=NOW),
    "revoke": lambda tx, device: lifecycle.revoke(tx, device, reason="stolen", now_ms=NOW),
    "retire": lambda tx, device: lifecycle.retire(tx, device, reason="scrapped"),
}
LEADS_TO = {"suspend": DeviceState.SUSPENDED, "revoke": DeviceState.REVOKED, "retire": DeviceState.RETIRED}


async def do(database: Database, verb: str, device: str) -> Move:
    return await database.write(lambda tx: _done(VERBS[verb](tx, device)))


async def _done(moving: Awaitable[Move]) -> Move:
    return await moving


async def state(database: Database, device: str) -> str:
    return str((await row(database, "SELECT state FROM device WHERE id = $1", device))["state"])


async def users(database: Database) -> list[str]:
    return [name for name, _ in (await database.read(devices.broker_users))[1]]


async def registered(database: Database, serial: str = "SBX-1") -> tuple[str, str]:
    return await database.write(
        lambda tx: devices.register(tx, serial_number=serial, vendor="native", model="sbx-1", now_ms=NOW)
    )


async def activate(database: Database, code: str, serial: str = "SBX-1") -> Activated | None:
    return await database.write(
        lambda tx: devices.activate(tx, code=code, serial_number=serial, hash_password=lambda _: "$7$x", now_ms=NOW)
    )


async def in_state(database: Database, shop: Shop, wanted: DeviceState) -> str:
    """A box that came to this state by the verbs."""
    if wanted is DeviceState.REGISTERED:
        return (await registered(database))[0]
    device = await shop.box()
    if wanted is DeviceState.ACTIVATED:
        await shop.unbind(device)
    if wanted is DeviceState.SUSPENDED:
        await do(database, "suspend", device)
    if wanted in (DeviceState.REVOKED, DeviceState.RETIRED):
        await do(database, "revoke", device)
    if wanted is DeviceState.RETIRED:
        await do(database, "retire", device)
    assert await state(database, device) == wanted
    return device


@pytest.mark.parametrize(("start", "verb"), list(product(DeviceState, LEADS_TO)))
async def test_a_verb_does_what_the_table_allows_and_nothing_else(
    database: Database, shop: Shop, start: DeviceState, verb: str
) -> None:
    device, wanted = await in_state(database, shop, start), LEADS_TO[verb]
    may = wanted in TRANSITIONS[start]

    if may or start is wanted:
        move = await do(database, verb, device)
        assert (move.before, move.after, move.changed) == (start, wanted, start is not wanted)
    else:
        with pytest.raises(IllegalTransition):
            await do(database, verb, device)
    assert await state(database, device) == (wanted if may else start)


@pytest.mark.parametrize("stood", [DeviceState.REGISTERED, DeviceState.ACTIVATED, DeviceState.BOUND])
async def test_a_resumed_box_is_back_where_it_stood(database: Database, shop: Shop, stood: DeviceState) -> None:
    device = await in_state(database, shop, stood)
    before = await users(database)
    await do(database, "suspend", device)
    assert device not in await users(database)

    move = await do(database, "resume", device)
    again = await do(database, "resume", device)

    assert (move.before, move.after) == (DeviceState.SUSPENDED, stood)
    assert not again.changed
    assert await users(database) == before


@pytest.mark.parametrize("gone", [DeviceState.REVOKED, DeviceState.RETIRED])
async def test_a_revoked_box_is_not_resumed(database: Database, shop: Shop, gone: DeviceState) -> None:
    device = await in_state(database, shop, gone)

    with pytest.raises(IllegalTransition):
        await do(database, "resume", device)


async def test_a_box_nobody_knows_makes_no_moves(database: Database) -> None:
    for verb in VERBS:
        with pytest.raises(NotFound):
            await do(database, verb, "dev_of_nobody")


async def test_revoked_means_no_token_no_password_no_code_and_no_place(database: Database, shop: Shop) -> None:
    device, token = await shop.box_with_token()
    issued = await database.write(lambda tx: credentials.issue(tx, device, hash_password=lambda _: "$7$x", now_ms=NOW))
    serial = (await row(database, "SELECT serial_number FROM device WHERE id = $1", device))["serial_number"]
    code = await database.write(lambda tx: devices.issue_new_code(tx, device, now_ms=NOW))
    before = await database.read(devices.credential_revision)

    await do(database, "revoke", device)

    hashes = [credentials.sha256(one) for one in (token, issued.device_token)]
    assert await database.write(lambda tx: credentials.known_tokens(tx, hashes, now_ms=NOW)) == {}
    assert await users(database) == []
    assert await activate(database, code, serial) is None
    assert await rows(database, "SELECT id FROM device_binding WHERE unbound_at_ms IS NULL") == []
    assert [one["state"] for one in await rows(database, "SELECT state FROM device_credential")] == ["revoked"] * 2
    assert await database.read(devices.credential_revision) == before + 1
    with pytest.raises(Conflict):
        await database.write(lambda tx: devices.issue_new_code(tx, device, now_ms=NOW))


async def test_a_code_issued_before_does_not_bring_a_suspended_box_back(database: Database) -> None:
    device, code = await registered(database)
    await do(database, "suspend", device)

    assert await activate(database, code) is None
    assert await state(database, device) == "suspended"


async def test_a_suspended_box_is_neither_bound_nor_resumed_by_unbinding(database: Database, shop: Shop) -> None:
    device = await in_state(database, shop, DeviceState.SUSPENDED)

    async with transaction(database) as session:
        with pytest.raises(Conflict, match="suspended"):
            await devices.bind(session, device_id=device, terminal_id=shop.terminal_id, now_ms=NOW)
    await shop.unbind(device)

    assert await state(database, device) == "suspended"
    assert (await do(database, "resume", device)).after is DeviceState.ACTIVATED


async def test_what_is_paid_while_the_box_is_suspended_is_shown_as_not_announced(
    database: Database, shop: Shop
) -> None:
    device = await shop.box()
    waiting, paid_meanwhile, paid_after = [await shop.payment(device) for _ in range(3)]
    await take(database, report(waiting))
    await do(database, "suspend", device)
    await take(database, report(paid_meanwhile))
    await do(database, "resume", device)
    await take(database, report(paid_after))

    said = [(await told(database, payment.payment_id))[0] for payment in (waiting, paid_meanwhile, paid_after)]

    assert [(one["state"], one["reason"], one["seq"]) for one in said] == [
        ("expired", "device_suspended", 1),
        ("suppressed", "device_suspended", None),
        ("queued", None, 2),  # offline until its next birth
    ]
    assert [one["recipient_id"] for one in said] == [device] * 3


async def test_a_healthy_box_beside_a_suspended_one_still_speaks(database: Database, shop: Shop) -> None:
    suspended, healthy = await shop.box(), await shop.box()
    await do(database, "suspend", suspended)
    payment = await shop.payment(healthy)

    await take(database, report(payment))

    said = {one["recipient_id"]: one["state"] for one in await told(database, payment.payment_id)}
    assert said == {suspended: "suppressed", healthy: "published"}


async def test_a_payment_at_the_place_of_a_revoked_box_finds_nobody(database: Database, shop: Shop) -> None:
    device = await shop.box()
    payment = await shop.payment(device)
    await do(database, "revoke", device)

    await take(database, report(payment))

    (said,) = await told(database, payment.payment_id)
    assert (said["state"], said["reason"]) == ("suppressed", "no_device")


async def test_a_revoked_boxs_serial_number_and_id_are_never_given_out_again(database: Database, shop: Shop) -> None:
    device = await in_state(database, shop, DeviceState.RETIRED)
    serial = (await row(database, "SELECT serial_number FROM device WHERE id = $1", device))["serial_number"]

    with pytest.raises(Conflict):
        await registered(database, serial)


async def test_revoked_while_it_activates_a_box_is_revoked(database: Database) -> None:
    """Whichever comes first, nothing that was handed out works afterwards."""
    for number in range(10):
        serial = f"SBX-{number}"
        device, code = await registered(database, serial)

        answers = await asyncio.gather(
            activate(database, code, serial), do(database, "revoke", device), return_exceptions=True
        )

        assert not [one for one in answers if isinstance(one, BaseException) and not isinstance(one, SoundboxError)]
        assert await state(database, device) == "revoked"
        assert await users(database) == []
