"""Commands for many boxes at once."""

from typing import Any, get_args

import pytest
from support.hub import Hub
from support.shop import MASTER, NOW, Shop, execute, open_shop, row, rows
from support.staff import Staff, audited

from soundbox_server import seal
from soundbox_server.commands import batches, service
from soundbox_server.commands.batch_routes import NewBatch
from soundbox_server.commands.batches import DECIDE_WITHIN_MS, MANY, TOGETHER
from soundbox_server.commands.jobs import follow_batches
from soundbox_server.commands.kinds import IN_BULK, KINDS
from soundbox_server.commands.service import Answer
from soundbox_server.commands.state import BATCH_TRANSITIONS, BatchState
from soundbox_server.db import Database

BATCHES = "/admin/command-batches"


def key_of(device_id: str, key_version: int) -> bytes:
    return seal.announcement_key(MASTER, device_id, key_version)


@pytest.fixture
def operator(hub: Hub) -> Staff:
    return Staff(hub, "per_operator", "operator")


@pytest.fixture
def colleague(operator: Staff) -> Staff:
    return operator.another("per_colleague")


async def run(database: Database) -> list[str]:
    """The worker's round; whom it sent something."""
    sent: list[Any] = []
    await follow_batches(database, key_of=key_of, owner="test", publish=sent.extend)
    return [one.recipient_id for one in sent]


def louder(count: int | None = None, **wanted: str) -> dict[str, Any]:
    return {"command_name": "set_volume", "payload": {"volume": 40}, "filter": wanted, "count": count}


async def many_boxes(database: Database, shop: Shop, count: int) -> None:
    """Boxes in service beside the ones a test makes one by one."""

    async def plant(tx: Any) -> None:
        for number in range(count):
            device_id = f"dev_many_{number:03}"
            await tx.execute(
                "INSERT INTO device (id, serial_number, vendor, model, state, key_version, last_seq, created_at_ms) "
                "VALUES ($1, $1, 'acme', 'a1', 'activated', 1, 0, $2)",
                device_id, NOW,
            )  # fmt: skip

    await database.write(plant)


def test_the_door_offers_what_can_be_given_in_bulk() -> None:
    assert get_args(NewBatch.model_fields["command_name"].annotation) == IN_BULK
    assert {"speak_code", "factory_reset", "show_qr", "rotate_credential"}.isdisjoint(IN_BULK)


def test_every_end_is_an_end() -> None:
    assert {state for state in BatchState if not BATCH_TRANSITIONS[state]} == {
        BatchState.DONE, BatchState.REFUSED, BatchState.LAPSED, BatchState.STOPPED,
    }  # fmt: skip


async def test_boxes_are_found_by_what_they_are_and_where_they_stand(
    operator: Staff, shop: Shop, database: Database
) -> None:
    here, spare = await shop.box(), await shop.box(online=False)
    there = await (await open_shop(database, brand_name="Toko Lain")).box()
    await execute(database, "UPDATE merchant SET city = 'Bandung' WHERE id <> $1", shop.merchant_id)
    await execute(database, "UPDATE device SET vendor = 'acme', model = 'a1' WHERE id = $1", spare)
    await execute(database, "UPDATE device_presence SET firmware_version = '2.0' WHERE device_id = $1", there)
    await operator.patch(f"/admin/devices/{here}", {"tags": ["pilot-2", "east"]})
    await operator.patch(f"/admin/devices/{there}", {"tags": ["pilot"]})

    async def found(**wanted: str) -> set[str]:
        batch = await operator.post(BATCHES, louder(**wanted), status=201)
        listed = await operator.get(f"{BATCHES}/{batch['batch_id']}/devices")
        assert batch["total"] == len(listed)
        return {one["device_id"] for one in listed}

    assert await found(city="jakarta") == {here, spare}
    assert await found(city="Bandung") == {there}
    assert await found(vendor="acme") == await found(model="a1") == {spare}
    assert await found(firmware="2.0") == {there}
    assert await found(tag="pilot") == {there}
    assert await found(tag="east", merchant_id=shop.merchant_id, outlet_id=shop.outlet_id) == {here}
    refused = await operator.refused("POST", BATCHES, louder(vendor="nobody"), status=409)
    assert "no box" in refused["detail"]


async def test_it_runs_to_its_end_and_says_how_far_it_is(operator: Staff, shop: Shop, database: Database) -> None:
    online, offline = await shop.box(), await shop.box(online=False)
    full = await shop.box(online=False)
    for _ in range(service.MOST_OPEN):
        order = service.Order(device_id=full, kind=KINDS["play_test"], payload={}, requested_by=None, trace_id="trc")
        await database.write(lambda tx, order=order: service.give(tx, order, key_of=key_of, owner="t", now_ms=NOW))  # type: ignore[misc]
    batch = await operator.post(BATCHES, louder(merchant_id=shop.merchant_id), status=201)
    path = f"{BATCHES}/{batch['batch_id']}"

    sent = await run(database)
    under_way = await operator.get(path)
    for target in await operator.get(f"{path}/devices", status="given"):
        said = Answer(
            command_id=target["command_id"], device_id=target["device_id"], status="succeeded", reason=None,
            result=None, source="mqtt",
        )  # fmt: skip
        await database.write(lambda tx, said=said: service.take_answers(tx, [said], now_ms=NOW))  # type: ignore[misc]
    await run(database)
    done = await operator.get(path)

    assert (batch["status"], batch["fleet_wide"], batch["progress"]) == ("running", False, {"waiting": 3})
    assert sent == [online]
    assert under_way["progress"] == {"sent": 1, "queued": 1, "refused": 1}
    (refused,) = await operator.get(f"{path}/devices", status="refused")
    assert (refused["device_id"], refused["command_id"]) == (full, None)
    assert "too many" in refused["reason"]
    assert (done["status"], done["progress"]) == ("done", {"succeeded": 2, "refused": 1})
    assert {one["device_id"] for one in await operator.get(f"{path}/devices", status="given")} == {online, offline}


async def test_many_boxes_need_their_number_and_go_in_groups(operator: Staff, shop: Shop, database: Database) -> None:
    await many_boxes(database, shop, 2 * TOGETHER + 20)
    await execute(database, "UPDATE device SET vendor = 'other' WHERE id >= 'dev_many_060'")

    unsaid = await operator.refused("POST", BATCHES, louder(vendor="acme"), status=409)
    wrong = await operator.refused("POST", BATCHES, louder(vendor="acme", count=59), status=409)
    batch = await operator.post(BATCHES, louder(vendor="acme", count=60), status=201)

    async def give_a_group(tx: Any) -> int:
        return await batches.give_some(tx, key_of=key_of, owner="test", now_ms=NOW)

    groups = [await database.write(give_a_group) for _ in range(3)]

    assert (unsaid["details"], wrong["details"]) == ({"count": 60}, {"count": 60})
    assert (batch["total"], batch["fleet_wide"]) == (60, False)
    assert groups == [TOGETHER, 60 - TOGETHER, 0]


@pytest.mark.parametrize("wanted", [{}, {"vendor": "acme"}])
async def test_the_fleet_takes_a_second_person(
    operator: Staff, colleague: Staff, shop: Shop, database: Database, wanted: dict[str, str]
) -> None:
    await many_boxes(database, shop, MANY + 5)
    batch = await operator.post(BATCHES, louder(count=MANY + 5, **wanted), status=201)
    path = f"{BATCHES}/{batch['batch_id']}"

    nothing = await run(database)
    alone = await operator.refused("POST", f"{path}/approve", status=403)
    approved = await colleague.post(f"{path}/approve")
    again = await colleague.refused("POST", f"{path}/approve", status=409)
    await run(database)

    assert (batch["status"], batch["fleet_wide"], nothing) == ("waiting", True, [])
    assert "other than" in alone["detail"]
    assert (approved["status"], approved["decided_by"], again["code"]) == ("running", "per_colleague", "CONFLICT")
    assert (await operator.get(path))["progress"] == {"queued": MANY + 5}
    assert [one["actor_id"] for one in await audited(database, "command_batch.approved")] == ["per_colleague"]


async def test_no_row_of_the_fleet_runs_without_two_people(operator: Staff, shop: Shop, database: Database) -> None:
    await shop.box()
    await operator.post(BATCHES, louder(), status=201)

    for decided_by in (None, "per_operator"):
        with pytest.raises(Exception, match="command_batch_by_two_people"):
            await execute(database, "UPDATE command_batch SET state = 'running', decided_by = $1", decided_by)


async def test_whoever_asked_by_key_is_no_second_person(operator: Staff, shop: Shop, database: Database) -> None:
    await shop.box()
    await operator.post(BATCHES, louder(), status=201)
    await execute(database, "UPDATE command_batch SET requested_by = 'key_1'")
    (batch,) = await operator.get(BATCHES, status="waiting")

    await operator.refused("POST", f"{BATCHES}/{batch['batch_id']}/approve", status=403)


async def test_what_is_refused_or_not_decided_within_a_day_never_runs(
    operator: Staff, colleague: Staff, shop: Shop, database: Database
) -> None:
    await shop.box()
    refused = await operator.post(BATCHES, louder(), status=201)
    shown = await colleague.post(f"{BATCHES}/{refused['batch_id']}/refuse", {"reason": "Not on a Friday."})
    lapsed = await operator.post(BATCHES, louder(), status=201)
    await execute(
        database, "UPDATE command_batch SET decide_by_ms = created_at_ms - $1 WHERE id = $2", DECIDE_WITHIN_MS,
        lapsed["batch_id"],
    )  # fmt: skip
    too_late = await colleague.refused("POST", f"{BATCHES}/{lapsed['batch_id']}/approve", status=409)

    assert await run(database) == []
    assert (shown["status"], shown["reason"], shown["progress"]) == ("refused", "Not on a Friday.", {"stopped": 1})
    assert "within a day" in too_late["detail"]
    assert (await operator.get(f"{BATCHES}/{lapsed['batch_id']}"))["status"] == "lapsed"
    assert await rows(database, "SELECT id FROM device_command") == []


async def test_a_stop_reaches_whoever_has_not_got_it_yet(operator: Staff, shop: Shop, database: Database) -> None:
    await many_boxes(database, shop, 3 * TOGETHER)
    await execute(database, "UPDATE device SET vendor = 'other' WHERE id >= 'dev_many_060'")
    batch = await operator.post(BATCHES, louder(vendor="acme", count=60), status=201)
    path = f"{BATCHES}/{batch['batch_id']}"

    async def give_a_group(tx: Any) -> int:
        return await batches.give_some(tx, key_of=key_of, owner="test", now_ms=NOW)

    await database.write(give_a_group)
    stopped = await operator.post(f"{path}/stop", {"reason": "Too loud."})

    assert await run(database) == []
    assert (stopped["status"], stopped["progress"]) == ("stopped", {"cancelled": TOGETHER, "stopped": 60 - TOGETHER})


async def test_a_stop_takes_back_what_was_never_sent_and_nothing_else(
    operator: Staff, shop: Shop, database: Database
) -> None:
    online, offline, just_sent = await shop.box(), await shop.box(online=False), await shop.box(online=False)
    batch = await operator.post(BATCHES, louder(merchant_id=shop.merchant_id), status=201)
    path = f"{BATCHES}/{batch['batch_id']}"
    await run(database)
    order = service.Order(device_id=offline, kind=KINDS["play_test"], payload={}, requested_by=None, trace_id="trc")
    own = await database.write(lambda tx: service.give(tx, order, key_of=key_of, owner="t", now_ms=NOW))
    await execute(
        database, "UPDATE outbox_message SET attempt = 1, state = 'published' WHERE recipient_id = $1", just_sent
    )

    stopped = await operator.post(f"{path}/stop", {"reason": "Too loud."})

    given = {one["device_id"]: one["command_id"] for one in await operator.get(f"{path}/devices", status="given")}
    messages = await rows(database, "SELECT id, state, reason FROM outbox_message WHERE kind = 'command'")
    assert stopped["progress"] == {"sent": 1, "queued": 1, "cancelled": 1}
    assert {one["id"]: (one["state"], one["reason"]) for one in messages} == {
        given[online]: ("published", None),
        given[offline]: ("expired", "cancelled"),
        given[just_sent]: ("published", None),
        own: ("queued", None),
    }


async def test_asked_twice_with_one_key_it_is_one_batch(operator: Staff, shop: Shop, database: Database) -> None:
    await shop.box()

    first = await operator.post(BATCHES, louder(city="Jakarta"), status=201, key="k1")
    second = await operator.post(BATCHES, louder(city="Jakarta"), status=201, key="k1")

    assert first == second
    assert (await row(database, "SELECT count(*) AS n FROM command_batch"))["n"] == 1


@pytest.mark.parametrize(
    "change",
    [{"command_name": "factory_reset"}, {"command_name": "set_volume", "payload": {}}, {"filter": {"colour": "red"}},
     {"filter": {"tag": "a b"}}, {"count": 0}],
)  # fmt: skip
async def test_what_cannot_be_asked_of_many_is_refused(operator: Staff, shop: Shop, change: dict[str, Any]) -> None:
    await operator.refused("POST", BATCHES, louder() | change, status=400)
