"""Telemetry goes when its days are over; what money and auditors rest on stays."""

from pathlib import Path

import pytest
from support.shop import NOW, Shop, execute, report, rows, take
from support.staff import Staff

from soundbox_server.broker.leases import try_lease
from soundbox_server.clock import DAY_MS, now_ms
from soundbox_server.db import Database, Statements
from soundbox_server.diagnosis import jobs
from soundbox_server.diagnosis.jobs import TOGETHER, Caretaker, Days
from soundbox_server.diagnosis.silence import Patience
from soundbox_server.ids import lowest_id, new_id

TABLES = {"device_heartbeat": "hbt", "mqtt_message": "mqm", "device_log": "dlg", "device_event": "dve"}
_INSERTS = {
    "device_heartbeat": "(id, device_id, received_at_ms, source, payload) VALUES ($1, $2, $3, 'mqtt', '{}')",
    "mqtt_message": "(id, device_id, at_ms, direction, topic, outcome, payload, size_bytes) "
    "VALUES ($1, $2, $3, 'up', 't', 'read', '{}', 2)",
    "device_log": "(id, device_id, received_at_ms, said_at_ms, level, detail) VALUES ($1, $2, $3, $3, 'info', 'x')",
    "device_event": "(id, device_id, received_at_ms, said_at_ms, level, code) VALUES ($1, $2, $3, $3, 'info', 'x')",
}  # fmt: skip


def aged(prefix: str, at_ms: int) -> str:
    """An id of that time."""
    return lowest_id(prefix, at_ms)[:-10] + new_id(prefix)[-10:]


@pytest.mark.parametrize("table", TABLES)
async def test_rows_older_than_their_days_go_in_groups_and_younger_ones_stay(
    database: Database, shop: Shop, table: str
) -> None:
    box, days = await shop.box(), Days(heartbeats=3, mqtt_messages=3, logs=3, events=3)
    old_ms, young_ms = now_ms() - 3 * DAY_MS - 60_000, now_ms() - 3 * DAY_MS + 60_000
    old = [(aged(TABLES[table], old_ms), box, old_ms) for _ in range(TOGETHER + 5)]
    young = [(aged(TABLES[table], young_ms), box, young_ms) for _ in range(3)]
    insert = _INSERTS[table].replace("'{}')", "$4)") if table == "device_heartbeat" else _INSERTS[table]
    more = (b"{}",) if table == "device_heartbeat" else ()
    await database.write(lambda tx: tx.many(f"INSERT INTO {table} {insert}", [(*row, *more) for row in old + young]))

    await jobs.forget(database, days)

    kept = await rows(database, f"SELECT id FROM {table} ORDER BY id")
    assert [one["id"] for one in kept] == sorted(row[0] for row in young)


async def test_answers_that_no_box_acknowledges_go_and_what_has_an_end_of_its_own_stays(
    database: Database, shop: Shop
) -> None:
    box, long_ago = await shop.box(), now_ms() - 3 * DAY_MS - 60_000
    kinds = {"tim": "sent", "qrr": "sent", "crr": "sent", "skp": "sent", "ann": "sent", "cmd": "sent", "tiw": "queued"}
    old = [(aged(prefix, long_ago), box, state, long_ago) for prefix, state in kinds.items()]
    fresh = (aged("tim", now_ms()), box, "sent", now_ms())
    await database.write(
        lambda tx: tx.many(
            "INSERT INTO outbox_message (id, transport, kind, recipient_id, address, body, state, attempt, "
            "created_at_ms, trace_id) VALUES ($1, 'mqtt', 'time', $2, 't', $5, $3, 1, $4, 't')",
            [(*row, b"") for row in (*old, fresh)],
        )
    )

    await jobs.forget(database, Days(mqtt_messages=3))

    kept = {one["id"] for one in await rows(database, "SELECT id FROM outbox_message WHERE transport = 'mqtt'")}
    assert kept == {fresh[0], *(row[0] for row in old if row[0][:3] in ("ann", "cmd", "tiw"))}


async def test_times_online_go_when_they_ended_long_ago_and_one_that_goes_on_stays(
    database: Database, shop: Shop
) -> None:
    box, other = await shop.box(online=False), await shop.box(online=False)
    long_ago = now_ms() - 500 * DAY_MS

    async def plant(tx: Statements) -> None:
        for device_id, ended_ms in ((box, long_ago + 1), (box, now_ms() - DAY_MS), (other, None)):
            await tx.execute(
                "INSERT INTO device_online (id, device_id, began_at_ms, ended_at_ms) VALUES ($1, $2, $3, $4)",
                aged("onl", long_ago), device_id, long_ago, ended_ms,
            )  # fmt: skip

    await database.write(plant)
    await jobs.forget(database, Days(presence=400))

    kept = await rows(database, "SELECT device_id FROM device_online ORDER BY ended_at_ms IS NULL")
    assert [one["device_id"] for one in kept] == [box, other]


async def test_what_ended_commands_said_goes_and_that_they_were_given_stays(
    database: Database, shop: Shop, operator: Staff
) -> None:
    box = await shop.box()
    ended = await _command(operator, database, box, {"lines": 7})
    open_one = await _command(operator, database, box, {"lines": 8}, ended=False)
    behind = await _command(operator, database, box, {"lines": 9})
    await jobs.forget(database, Days(command_payloads=90))
    await jobs.forget(database, Days(command_payloads=90))

    kept = await rows(database, "SELECT id, payload, state, requested_by FROM device_command ORDER BY id")
    bodies = await rows(database, "SELECT id, body FROM outbox_message WHERE kind = 'command' ORDER BY id")
    assert [(one["id"], one["payload"]) for one in kept] == [
        (ended, "{}"), (open_one, '{"lines":8}'), (behind, '{"lines":9}'),
    ]  # fmt: skip
    assert kept[0]["requested_by"] == "per_operator"
    assert [len(one["body"]) > 0 for one in bodies] == [False, True, True]
    await execute(database, "UPDATE device_command SET finished_at_ms = $2 WHERE id = $1", open_one, NOW - 400 * DAY_MS)
    await jobs.forget(database, Days(command_payloads=90))
    payloads = await rows(database, "SELECT payload FROM device_command")
    assert {one["payload"] for one in payloads} == {"{}"}


async def _command(
    operator: Staff, database: Database, box: str, payload: dict[str, int], *, ended: bool = True
) -> str:
    """A command of long ago: its id says so."""
    given = await operator.post(
        f"/admin/devices/{box}/commands", {"command_name": "upload_log", "payload": payload}, status=201
    )
    old_id, long_ago = aged("cmd", now_ms() - 100 * DAY_MS + payload["lines"]), now_ms() - 95 * DAY_MS
    for table in ("outbox_message", "device_command"):
        await execute(database, f"UPDATE {table} SET id = $2 WHERE id = $1", given["command_id"], old_id)
    await execute(
        database, "UPDATE device_command SET state = $2, finished_at_ms = $3 WHERE id = $1", old_id,
        "succeeded" if ended else "delivered", long_ago if ended else None,
    )  # fmt: skip
    return old_id


async def test_payments_postings_announcements_and_the_audit_log_stay(
    database: Database, shop: Shop, operator: Staff, tmp_path: Path
) -> None:
    box = await shop.box()
    await take(database, report(await shop.payment(box)))
    await operator.post(f"/admin/devices/{box}/commands", {"command_name": "identify"}, status=201)
    tables = ("payment", "posting", "outbox_message", "audit_entry", "device_command", "provider_event")
    before = {table: await rows(database, f"SELECT * FROM {table} ORDER BY 1") for table in tables}
    assert all(before.values())

    await jobs.forget(database, Days(**dict.fromkeys(Days.__dataclass_fields__, 1)))

    assert {table: await rows(database, f"SELECT * FROM {table} ORDER BY 1") for table in tables} == before


async def test_only_who_holds_the_lease_forgets(database: Database, shop: Shop, tmp_path: Path) -> None:
    box, at_ms = await shop.box(), now_ms() - 90 * DAY_MS
    await execute(database, f"INSERT INTO mqtt_message {_INSERTS['mqtt_message']}", aged("mqm", at_ms), box, at_ms)
    caretaker = Caretaker(
        database, days=Days(), speakers=Patience(), logs_folder=tmp_path / "logs", lock_folder=tmp_path / "locks"
    )
    lease = await try_lease(database, "retention", folder=tmp_path / "locks")
    assert lease is not None
    await caretaker.forget()
    kept = await rows(database, "SELECT id FROM mqtt_message")
    await lease.release()
    await caretaker.forget()

    assert len(kept) == 1
    assert await rows(database, "SELECT id FROM mqtt_message") == []
