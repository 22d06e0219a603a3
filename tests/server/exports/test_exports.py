"""Lists as files: made in the background, whole or not there, fetched by who may."""

import asyncio
import csv
import hashlib
import io
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.acquirer import adjustment
from support.bank import settlement
from support.hub import open_hub
from support.registry import WHOLE
from support.settled import settled
from support.shop import NOW, adjust, execute, open_shop, report, row, rows, take
from support.staff import Staff, audited

from soundbox_server import clock, policy
from soundbox_server.db import Database
from soundbox_server.errors import IllegalTransition
from soundbox_server.exportable import EXPORTABLE
from soundbox_server.exports import jobs, service
from soundbox_server.exports.jobs import Exporter
from soundbox_server.exports.kinds import formats_of
from soundbox_server.exports.service import ATTEMPTS, KEPT_MS, LEASE_MS, WAITING_PER_PERSON
from soundbox_server.exports.state import TRANSITIONS, ExportState, require
from soundbox_server.exports.writing import beginning, lines
from soundbox_server.payouts.service import begin_due


@pytest.fixture
async def operator(database_url: str, tmp_path: Path) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield Staff(hub, "per_operator", "operator")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the hub of these tests looks for the files."""
    return tmp_path / "home" / "exports"


@pytest.fixture
def exporter(database: Database, folder: Path) -> Exporter:
    return Exporter(database, EXPORTABLE, folder=folder, owner="test")


async def ask(staff: Staff, **wanted: Any) -> str:
    return str((await staff.post("/admin/exports", wanted, status=202))["id"])


async def fetched(staff: Staff, export_id: str) -> bytes:
    answer = await staff.call("GET", f"/admin/exports/{export_id}/file")
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_a_list_becomes_a_file(operator: Staff, exporter: Exporter, database: Database, folder: Path) -> None:
    for number in range(3):
        await operator.post("/admin/devices", {"serial_number": f"SBX-{number}", "label": "Kasir"}, status=201)
    queued = await operator.post("/admin/exports", {"kind": "devices"}, status=202)

    await exporter.tick()

    done = await operator.get(f"/admin/exports/{queued['id']}")
    answer = await operator.call("GET", f"/admin/exports/{queued['id']}/file")
    table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    listed = await operator.get("/admin/devices")
    assert (queued["status"], queued["percent"], queued["sha256"]) == ("queued", 0, None)
    assert (done["status"], done["rows"], done["percent"]) == ("done", 3, 100)
    assert (done["sha256"], done["size_bytes"]) == (hashlib.sha256(answer.content).hexdigest(), len(answer.content))
    assert [line["id"] for line in table] == [box["id"] for box in listed]
    assert [line["serial_number"] for line in table] == ["SBX-0", "SBX-1", "SBX-2"]
    assert {line["binding_terminal_id"] for line in table} == {""}
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="devices-{queued["id"]}.csv"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    (stored,) = folder.iterdir()
    assert stored.stat().st_mode & 0o777 == 0o600
    for action in ("export.asked", "export.fetched"):
        (entry,) = await audited(database, action)
        assert (entry["actor_id"], entry["subject_id"]) == ("per_operator", queued["id"])


async def test_json_lines_are_the_lists_own_rows(operator: Staff, exporter: Exporter) -> None:
    await operator.post("/admin/merchants", WHOLE, status=201)
    await operator.post("/admin/merchants", WHOLE | {"payout_mode": "manual"}, status=201)
    filters = {"payout_mode": "manual", "status": None}
    export_id = await ask(operator, kind="merchants", format="jsonl", filters=filters)

    await exporter.tick()

    (line,) = (await fetched(operator, export_id)).splitlines()
    assert [json.loads(line)] == await operator.get("/admin/merchants", payout_mode="manual")


def test_a_key_needs_the_scope_that_reads_the_list_it_exports() -> None:
    assert policy.EXPORT_SCOPES.keys() == policy.EXPORTS.keys()
    assert set(policy.EXPORT_SCOPES.values()) <= policy.SCOPES.keys()


async def test_a_key_exports_what_it_may_read_and_fetches_nothing_else(
    operator: Staff, exporter: Exporter, database: Database
) -> None:
    async def call(key: str, method: str, path: str, **sent: Any) -> httpx.Response:
        return await operator.hub.http.request(method, path, headers={"x-api-key": key}, **sent)

    async def key_for(*scopes: str) -> str:
        wanted = {"organisation_id": "org_test_platform", "name": "books", "role": "operator", "scopes": list(scopes)}
        return str((await operator.post("/admin/api-keys", wanted, status=201))["api_key"])

    whole, narrow = await key_for("devices:read", "exports:read", "exports:write"), await key_for("exports:write")
    asked = await call(whole, "POST", "/admin/exports", json={"kind": "devices"})
    await exporter.tick()
    await execute(database, "UPDATE api_key SET scopes = 'exports:read' WHERE scopes = 'exports:write'")
    path = f"/admin/exports/{asked.json()['data']['id']}/file"

    assert asked.status_code == 202
    assert (await call(whole, "GET", path)).status_code == 200
    assert (await call(narrow, "GET", path)).status_code == 403
    for kind, scope in (("merchants", "merchants:read"), ("transactions", "transactions:read")):
        refused = await call(whole, "POST", "/admin/exports", json={"kind": kind})
        assert (refused.status_code, refused.json()["details"]) == (403, {"kind": kind, "scope": scope})


async def test_every_kind_can_be_written_both_ways(operator: Staff, exporter: Exporter, database: Database) -> None:
    admin = operator.another("per_admin", "platform_admin")
    shop = await open_shop(database)
    payment = await shop.payment(await shop.box())
    await take(database, report(payment), now_ms=clock.now_ms())
    await adjust(database, adjustment(payment, "refunded", amount=1_000), now_ms=clock.now_ms())
    await operator.post("/admin/merchants", WHOLE, status=201)
    box = {"device_id": payment.device_id}
    await execute(
        database,
        "INSERT INTO device_heartbeat (id, device_id, received_at_ms, source, payload) "
        "VALUES ('hbt_1', $1, 1, 'mqtt', $2)",
        payment.device_id, json.dumps(box).encode(),
    )  # fmt: skip

    filters = {
        "statements": {"settlement_id": await settled(database, shop)},
        "personal_data": {"merchant_id": shop.merchant_id},
    }
    await settlement(shop, mode="manual")
    await database.write(lambda tx: begin_due(tx, bank=None, now_ms=NOW, limit=1))
    await differ(database, payment.payment_id)

    for kind, exported in EXPORTABLE.items():
        for format_ in formats_of(exported):
            export_id = await ask(admin, kind=kind, format=format_, filters=filters.get(kind, {}))
            await exporter.tick()
            done = await admin.get(f"/admin/exports/{export_id}")
            content = await fetched(admin, export_id)
            assert (done["status"], done["failure"]) == ("done", None), kind
            assert done["rows"] > 0, kind
            if format_ == "pdf":
                assert content.startswith(b"%PDF-"), kind
                continue
            written = list(csv.reader(io.StringIO(content.decode(), newline=""))) if format_ == "csv" else []
            beside = 1 if kind == "statements" else 0  # its sum
            if kind == "personal_data":  # everything else that is kept
                beside = sum(b'"section":"payment"' not in line for line in content.splitlines())
            assert len(written or content.splitlines()) == done["rows"] + bool(written) + beside, kind
            assert len({len(line) for line in written}) <= 1, kind


async def differ(database: Database, payment_id: str) -> None:
    """A statement that lacks a payment."""
    await execute(
        database,
        "INSERT INTO provider_statement (id, provider, day_from, day_to, sha256, size_bytes, columns, payments, "
        "paid_amount, refunds, refunded_amount, matched, imported_by, imported_at_ms) VALUES ('sta_1', 'sandbox', "
        "'2026-05-23', '2026-05-23', 'x', 1, '{}', 0, 0, 0, 0, 0, 'per_1', 1)",
    )
    await execute(
        database,
        "INSERT INTO reconciliation_difference (id, statement_id, provider, day, kind, reason, payment_id, state, "
        "created_at_ms) VALUES ('dif_1', 'sta_1', 'sandbox', '2026-05-23', 'missing', 'not_in_statement', $1, 'open', "
        "1)",
        payment_id,
    )


def test_whoever_may_export_is_said_of_every_kind() -> None:
    assert EXPORTABLE.keys() == policy.EXPORTS.keys()


async def test_many_pieces_hold_every_row_once(
    operator: Staff, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "TOGETHER", 3)
    for number in range(9):
        await operator.post("/admin/devices", {"serial_number": f"SBX-{number}"}, status=201)
    export_id = await ask(operator, kind="devices", format="jsonl")

    await exporter.tick()

    serials = [json.loads(line)["serial_number"] for line in (await fetched(operator, export_id)).splitlines()]
    assert serials == [f"SBX-{number}" for number in range(9)]


def test_a_cell_is_text_and_no_formula() -> None:
    rows = [
        {"a": text, "at": "2026-05-23T20:00:00.000Z", "n": -350, "b": True, "x": {"y": [1]}, "none": None}
        for text in ("=1+1", "+62", "-1", "@x", "\tx", "\rx", "plain", 'say "hi", Ibu\nAni')
    ]

    written = beginning("csv", ["a", "at", "n", "b", "x", "x.y", "none"], with_bom=True)
    written += lines("csv", ["a", "at", "n", "b", "x", "x.y", "none"], rows)

    assert written.startswith(b"\xef\xbb\xbfa,at,at_jakarta,n,b,x,x_y,none\r\n")
    table = list(csv.reader(io.StringIO(written.decode("utf-8-sig"), newline="")))[1:]
    assert [line[0] for line in table] == [
        "'=1+1", "'+62", "'-1", "'@x", "'\tx", "'\rx", "plain", 'say "hi", Ibu\nAni',
    ]  # fmt: skip
    assert table[0][1:] == [
        "2026-05-23T20:00:00.000Z", "2026-05-24 03:00:00", "-350", "true", '{"y":[1]}', "[1]", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"kind": "secrets"}, "kind"),
        ({"kind": "devices", "filters": {"status": "flying"}}, "filters.status"),
        ({"kind": "devices", "filters": {"statuss": "bound"}}, "filters.statuss"),
        ({"kind": "devices", "filters": {"limit": 5}}, "filters.limit"),
        ({"kind": "devices", "filters": {"online": "true"}}, "filters.online"),
        ({"kind": "devices", "filters": {"last_seen_before": "yesterday"}}, "filters.last_seen_before"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_cannot_be_exported_is_named(operator: Staff, wanted: dict[str, Any], field: str) -> None:
    refused = await operator.refused("POST", "/admin/exports", wanted, status=400)

    assert (refused["code"], refused["details"]["field"]) == ("VALIDATION_FAILED", field)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_filter_that_nothing_can_hold_is_refused(operator: Staff) -> None:
    wanted = {"kind": "transactions", "filters": {"merchant_id": 2**64}}

    assert (await operator.refused("POST", "/admin/exports", wanted, status=400))["code"] == "VALIDATION_FAILED"


async def test_only_who_may_asks_and_only_who_asked_fetches(operator: Staff, exporter: Exporter) -> None:
    finance = operator.another("per_finance", "finance")
    not_theirs = await operator.refused("POST", "/admin/exports", {"kind": "audit_logs"}, status=403)
    export_id = await ask(operator, kind="merchants")
    early = await operator.refused("GET", f"/admin/exports/{export_id}/file", status=409)
    await exporter.tick()

    others = await finance.refused("GET", f"/admin/exports/{export_id}/file", status=403)
    cancelled = await finance.refused("POST", f"/admin/exports/{export_id}/cancel", status=403)
    admins = await operator.another("per_admin", "platform_admin").call("GET", f"/admin/exports/{export_id}/file")
    demoted = await operator.another("per_operator", "support").call("GET", f"/admin/exports/{export_id}/file")

    assert not_theirs["code"] == others["code"] == cancelled["code"] == "FORBIDDEN"
    assert early["details"] == {"status": "queued"}
    assert (admins.status_code, demoted.status_code) == (200, 403)


async def test_a_cancelled_export_leaves_nothing(
    operator: Staff, exporter: Exporter, database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await operator.post("/admin/devices", {"serial_number": "SBX-1"}, status=201)
    waiting, running = await ask(operator, kind="devices"), await ask(operator, kind="devices")
    await operator.post(f"/admin/exports/{waiting}/cancel")
    going_on = service.go_on

    async def cancelled_meanwhile(tx: Any, job: Any, **more: Any) -> bool:
        await tx.execute("UPDATE export_job SET state = 'cancelled' WHERE id = $1", job.id)
        return await going_on(tx, job, **more)

    monkeypatch.setattr(service, "go_on", cancelled_meanwhile)
    await exporter.tick()

    states = {one["id"]: one["status"] for one in await operator.get("/admin/exports")}
    assert states == {waiting: "cancelled", running: "cancelled"}
    assert list(folder.iterdir()) == []
    twice = await operator.refused("POST", f"/admin/exports/{waiting}/cancel", status=409)
    assert twice["code"] == "CONFLICT"


async def test_an_export_whose_writer_died_begins_again_and_the_dead_ones_file_is_not_taken(
    operator: Staff, exporter: Exporter, database: Database
) -> None:
    await operator.post("/admin/devices", {"serial_number": "SBX-1"}, status=201)
    export_id = await ask(operator, kind="devices")
    now_ms = clock.now_ms()
    dead = await database.write(lambda tx: service.claim(tx, owner="dead", now_ms=now_ms - LEASE_MS))
    assert dead is not None

    await exporter.tick()
    late = await database.write(
        lambda tx: service.finish(tx, dead, rows_done=0, size_bytes=0, sha256="0" * 64, now_ms=now_ms)
    )

    assert late is False
    done = await operator.get(f"/admin/exports/{export_id}")
    assert (done["status"], done["rows"]) == ("done", 1)
    assert b"SBX-1" in await fetched(operator, export_id)


async def test_while_its_writer_lives_nobody_else_takes_it(operator: Staff, database: Database) -> None:
    await ask(operator, kind="devices")
    other = Database(database.url.render_as_string(hide_password=False))
    now_ms = clock.now_ms()
    try:
        claimed = await asyncio.gather(
            *([database, other][n % 2].write(lambda tx: service.claim(tx, owner="w", now_ms=now_ms)) for n in range(10))
        )
    finally:
        await other.close()

    assert len([job for job in claimed if job is not None]) == 1


async def test_an_export_that_kills_its_writers_is_given_up(operator: Staff, database: Database) -> None:
    export_id = await ask(operator, kind="devices")

    claims = []
    for _ in range(ATTEMPTS + 1):
        claims.append(await database.write(lambda tx: service.claim(tx, owner="w", now_ms=clock.now_ms())))
        await execute(database, "UPDATE export_job SET lease_until_ms = 0")

    assert [job is not None for job in claims] == [True] * ATTEMPTS + [False]
    assert (await operator.get(f"/admin/exports/{export_id}"))["status"] == "failed"


async def test_what_cannot_be_written_fails_and_says_so(operator: Staff, database: Database, folder: Path) -> None:
    export_id = await ask(operator, kind="devices")
    await execute(database, "UPDATE export_job SET filters = $1", '{"status": "flying"}')

    await Exporter(database, EXPORTABLE, folder=folder, owner="test").tick()

    failed = await operator.get(f"/admin/exports/{export_id}")
    assert (failed["status"], failed["failure"]) == ("failed", "ValidationError")
    assert list(folder.iterdir()) == []


async def test_a_week_later_the_file_is_gone(
    operator: Staff, exporter: Exporter, database: Database, folder: Path
) -> None:
    export_id = await ask(operator, kind="devices")
    await exporter.tick()
    left_behind = folder / "exp_dead-1.csv.part"
    left_behind.touch()
    os.utime(left_behind, (time.time() - 90_000,) * 2)
    stored = await row(database, "SELECT finished_at_ms, expires_at_ms FROM export_job")
    await exporter.purge()
    kept = len(list(folder.iterdir()))
    await execute(database, "UPDATE export_job SET expires_at_ms = 1")

    await exporter.purge()

    assert stored["expires_at_ms"] - stored["finished_at_ms"] == KEPT_MS
    assert (kept, list(folder.iterdir())) == (1, [])
    refused = await operator.refused("GET", f"/admin/exports/{export_id}/file", status=409)
    assert refused["details"] == {"status": "expired"}


async def test_nobody_queues_without_end(operator: Staff, database: Database) -> None:
    for _ in range(WAITING_PER_PERSON):
        await ask(operator, kind="devices")

    refused = await operator.refused("POST", "/admin/exports", {"kind": "devices"}, status=429)
    await ask(operator.another("per_other"), kind="devices")

    assert refused["code"] == "RATE_LIMITED"
    assert len(await rows(database, "SELECT id FROM export_job")) == WAITING_PER_PERSON + 1


@pytest.mark.parametrize("ended", [state for state in ExportState if not TRANSITIONS[state]])
def test_what_has_ended_stays_ended(ended: ExportState) -> None:
    for wanted in ExportState:
        with pytest.raises(IllegalTransition):
            require(ended, wanted)
