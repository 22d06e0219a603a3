"""A new credential takes the old one's place in two phases, and tokens overlap for a while."""

import asyncio

import pytest
from support.shop import NOW, Shop, execute, row, rows

from soundbox_server.db import Database
from soundbox_server.devices import credentials
from soundbox_server.devices import service as devices
from soundbox_server.devices.credentials import OVERLAP_MS, Issued, Token, sha256
from soundbox_server.errors import Conflict, DeviceUnauthorized, NotFound

LATER = NOW + 1_000


async def issue(database: Database, device: str) -> Issued:
    return await database.write(
        lambda tx: credentials.issue(tx, device, hash_password=lambda password: f"$7${len(password)}", now_ms=NOW)
    )


async def confirm(database: Database, device: str, credential_id: str) -> bool:
    return await database.write(lambda tx: credentials.confirm(tx, device, credential_id, now_ms=NOW))


async def known(database: Database, token: str, *, now_ms: int = LATER) -> Token | None:
    hashed = sha256(token)
    return (await database.write(lambda tx: credentials.known_tokens(tx, [hashed], now_ms=now_ms))).get(hashed)


async def use(database: Database, token: str) -> None:
    proved = await known(database, token)
    assert proved is not None
    await database.write(lambda tx: credentials.note_first_use(tx, [proved.credential_id], now_ms=LATER))


async def in_force(database: Database, device: str) -> str:
    found = await row(database, "SELECT id FROM device_credential WHERE device_id = $1 AND state = 'active'", device)
    return str(found["id"])


async def test_a_token_belongs_to_a_box_in_service(database: Database, shop: Shop) -> None:
    device, token = await shop.box_with_token()

    proved = await known(database, token)
    await execute(database, "UPDATE device SET state = 'suspended' WHERE id = $1", device)
    suspended = await known(database, token)

    assert proved is not None
    assert (proved.device_id, proved.device_state, proved.first_use, proved.rotate) == (device, "bound", True, False)
    assert suspended is None
    assert await known(database, "of nobody") is None


async def test_an_issued_credential_changes_nothing_before_it_is_confirmed(database: Database, shop: Shop) -> None:
    device, old = await shop.box_with_token()
    before = await database.read(devices.broker_users)

    new = await issue(database, device)

    assert await database.read(devices.broker_users) == before
    assert await known(database, new.device_token) is None
    assert await known(database, old) is not None


async def test_a_confirmed_credential_takes_the_old_ones_place_at_the_broker(database: Database, shop: Shop) -> None:
    device = await shop.box()
    before, _ = await database.read(devices.broker_users)
    new = await issue(database, device)

    assert await confirm(database, device, new.credential_id) is True

    assert await database.read(devices.broker_users) == (before + 1, [(device, "$7$43")])
    assert await in_force(database, device) == new.credential_id


async def test_confirming_twice_is_confirming_once(database: Database, shop: Shop) -> None:
    device = await shop.box()
    new = await issue(database, device)
    await confirm(database, device, new.credential_id)
    before = await rows(database, "SELECT * FROM device_credential ORDER BY id"), await revision(database)

    assert await confirm(database, device, new.credential_id) is False

    assert (await rows(database, "SELECT * FROM device_credential ORDER BY id"), await revision(database)) == before


async def revision(database: Database) -> int:
    return await database.read(devices.credential_revision)


async def test_both_tokens_work_until_the_new_one_is_used(database: Database, shop: Shop) -> None:
    device, old = await shop.box_with_token()
    await use(database, old)
    new = await issue(database, device)
    await confirm(database, device, new.credential_id)

    overlapping = await known(database, old), await known(database, new.device_token)
    await use(database, new.device_token)

    assert [proved is not None and proved.state for proved in overlapping] == ["superseded", "active"]
    assert await known(database, old) is None
    assert await known(database, new.device_token) is not None


async def test_the_old_token_ends_after_a_day_though_the_new_one_was_never_used(database: Database, shop: Shop) -> None:
    device, old = await shop.box_with_token()
    new = await issue(database, device)
    await confirm(database, device, new.credential_id)

    assert await known(database, old, now_ms=NOW + OVERLAP_MS - 1) is not None
    assert await known(database, old, now_ms=NOW + OVERLAP_MS) is None
    assert await known(database, new.device_token, now_ms=NOW + OVERLAP_MS) is not None


async def test_asked_again_the_unconfirmed_credential_before_is_forgotten(database: Database, shop: Shop) -> None:
    device = await shop.box()
    first, second = await issue(database, device), await issue(database, device)

    with pytest.raises(NotFound):
        await confirm(database, device, first.credential_id)
    assert await confirm(database, device, second.credential_id) is True


async def test_a_credential_that_had_its_time_is_not_confirmed_again(database: Database, shop: Shop) -> None:
    device = await shop.box()
    first_in_force = await in_force(database, device)
    new = await issue(database, device)
    await confirm(database, device, new.credential_id)

    with pytest.raises(Conflict):
        await confirm(database, device, first_in_force)


async def test_another_boxes_credential_is_not_found(database: Database, shop: Shop) -> None:
    device, other = await shop.box(), await shop.box()
    new = await issue(database, other)

    with pytest.raises(NotFound):
        await confirm(database, device, new.credential_id)


async def test_a_box_out_of_service_gets_no_credential_and_confirms_none(database: Database, shop: Shop) -> None:
    device = await shop.box()
    new = await issue(database, device)
    await execute(database, "UPDATE device SET state = 'suspended' WHERE id = $1", device)

    with pytest.raises(DeviceUnauthorized):
        await issue(database, device)
    with pytest.raises(DeviceUnauthorized):
        await confirm(database, device, new.credential_id)


async def test_ten_questions_at_once_leave_one_unconfirmed_credential(database: Database, shop: Shop) -> None:
    device = await shop.box()

    asked = await asyncio.gather(*(issue(database, device) for _ in range(10)))

    (left,) = await rows(database, "SELECT id FROM device_credential WHERE state = 'issued'")
    assert left["id"] in {one.credential_id for one in asked}


async def test_an_issued_token_opens_the_refresh_door_for_its_own_confirmation_only(
    database: Database, shop: Shop
) -> None:
    device = await shop.box()
    new = await issue(database, device)

    async def at_the_door(confirms: str | None) -> str:
        hashed = sha256(new.device_token)
        return await database.write(
            lambda tx: credentials.device_refreshing(tx, hashed, confirms=confirms, now_ms=LATER)
        )

    assert await at_the_door(new.credential_id) == device
    for other in (None, await in_force(database, device)):
        with pytest.raises(DeviceUnauthorized):
            await at_the_door(other)


async def ask_rotation(database: Database, device: str, *, by_ms: int | None = None) -> None:
    await database.write(lambda tx: credentials.ask_rotation(tx, device, by_ms=by_ms, now_ms=NOW))


async def test_a_wish_to_rotate_is_told_with_the_token_and_ends_with_it(database: Database, shop: Shop) -> None:
    device, old = await shop.box_with_token()
    await ask_rotation(database, device)
    asked = await known(database, old)

    new = await issue(database, device)
    await confirm(database, device, new.credential_id)

    fresh = await known(database, new.device_token)
    assert asked is not None
    assert fresh is not None
    assert (asked.rotate, fresh.rotate) == (True, False)


async def test_what_was_not_rotated_in_time_is_revoked_and_the_rest_is_not(database: Database, shop: Shop) -> None:
    late, patient, unasked = await shop.box(), await shop.box(), await shop.box()
    await ask_rotation(database, late, by_ms=NOW + 60_000)
    await ask_rotation(database, patient)
    held = await in_force(database, late)

    too_early = await database.write(lambda tx: credentials.revoke_overdue(tx, now_ms=NOW + 59_999))
    ended = await database.write(lambda tx: credentials.revoke_overdue(tx, now_ms=NOW + 60_000))

    assert (too_early, ended) == ([], [(late, held)])
    _, users = await database.read(devices.broker_users)
    assert [name for name, _ in users] == sorted([patient, unasked])
    assert (await row(database, "SELECT state FROM device WHERE id = $1", late))["state"] == "bound"


async def test_a_box_without_a_credential_cannot_rotate_one(database: Database, shop: Shop) -> None:
    device_id, _ = await database.write(
        lambda tx: devices.register(tx, serial_number="SBX-1", vendor="native", model="sbx-1", now_ms=NOW)
    )

    with pytest.raises(Conflict, match="activation code"):
        await ask_rotation(database, device_id)
    with pytest.raises(NotFound):
        await ask_rotation(database, "dev_of_nobody")
