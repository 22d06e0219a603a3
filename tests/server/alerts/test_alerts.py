"""What an operator must look at."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.hub import open_hub
from support.shop import NOW, execute, row, rows
from support.staff import Staff, audited

from soundbox_server.alerts import service
from soundbox_server.alerts.state import AlertState, Severity, require
from soundbox_server.db import Database
from soundbox_server.errors import IllegalTransition

BOX = ("device", "sbx_001")


@pytest.fixture
async def operator(database_url: str, tmp_path: Path) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield Staff(hub, "per_operator", "operator")


async def cloned(
    database: Database, *, severity: Severity = Severity.CRITICAL, at_ms: int = NOW, **facts: object
) -> str:
    return await database.write(
        lambda tx: service.raise_alert(tx, "device.cloned", BOX, severity=severity, facts=facts, now_ms=at_ms)
    )


async def test_the_same_trouble_counts_up_while_it_stands(database: Database) -> None:
    first = await cloned(database, epoch=4)
    second = await cloned(database, at_ms=NOW + 1_000, epoch=5)

    alert = await row(database, "SELECT * FROM alert")
    assert first == second == alert["id"]
    assert (alert["times"], alert["raised_at_ms"], alert["last_raised_at_ms"]) == (2, NOW, NOW + 1_000)
    assert json.loads(alert["facts"]) == {"epoch": 5}


async def test_an_alert_becomes_worse_and_never_milder(database: Database) -> None:
    severities = []
    for severity in (Severity.INFO, Severity.WARNING, Severity.INFO, Severity.CRITICAL, Severity.WARNING):
        await cloned(database, severity=severity)
        severities.append((await row(database, "SELECT severity FROM alert"))["severity"])

    assert severities == ["info", "warning", "warning", "critical", "critical"]


async def test_twenty_who_notice_at_once_raise_one_alert(database: Database) -> None:
    other = Database(database.url.render_as_string(hide_password=False))
    try:

        async def notice(where: Database) -> str:
            return await cloned(where)

        ids = await asyncio.gather(*(notice([database, other][n % 2]) for n in range(20)))
    finally:
        await other.close()

    assert len(set(ids)) == 1
    assert (await row(database, "SELECT times FROM alert"))["times"] == 20


async def test_when_the_cause_is_gone_the_alert_is_over_and_the_next_one_is_new(database: Database) -> None:
    first = await cloned(database)

    gone = await database.write(lambda tx: service.clear(tx, "device.cloned", BOX, now_ms=NOW + 1))
    again = await database.write(lambda tx: service.clear(tx, "device.cloned", BOX, now_ms=NOW + 2))
    second = await cloned(database)

    assert (gone, again) == (True, False)
    assert first != second
    old = await row(database, "SELECT state, resolved_at_ms, resolved_by FROM alert WHERE id = $1", first)
    assert old == {"state": "resolved", "resolved_at_ms": NOW + 1, "resolved_by": None}


def test_what_is_over_stays_over() -> None:
    for wanted in AlertState:
        with pytest.raises(IllegalTransition):
            require("resolved", wanted)


async def test_two_alerts_of_one_trouble_cannot_stand(database: Database) -> None:
    await cloned(database)

    with pytest.raises(Exception, match=r"(?i)unique"):
        await execute(
            database,
            "INSERT INTO alert (id, kind, severity, subject_kind, subject_id, state, facts, times, raised_at_ms, "
            "last_raised_at_ms) SELECT 'alr_x', kind, severity, subject_kind, subject_id, 'acknowledged', facts, 1, "
            "1, 1 FROM alert",
        )


async def test_an_operator_looks_into_it_and_ends_it(operator: Staff, database: Database) -> None:
    alert_id = await cloned(database)

    taken = await operator.post(f"/admin/alerts/{alert_id}/acknowledge", {"note": "calling the shop"})
    twice = await operator.refused("POST", f"/admin/alerts/{alert_id}/acknowledge", status=409)
    ended = await operator.post(f"/admin/alerts/{alert_id}/resolve")
    late = await operator.refused("POST", f"/admin/alerts/{alert_id}/resolve", {}, status=409)

    assert (taken["status"], taken["acknowledged_by"], taken["note"]) == (
        "acknowledged", "per_operator", "calling the shop",
    )  # fmt: skip
    assert (ended["status"], ended["resolved_by"], ended["note"]) == ("resolved", "per_operator", "calling the shop")
    assert twice["code"] == late["code"] == "CONFLICT"
    assert await operator.get(f"/admin/alerts/{alert_id}") == ended
    for action in ("alert.acknowledged", "alert.resolved"):
        (entry,) = await audited(database, action)
        assert (entry["actor_id"], entry["subject_id"]) == ("per_operator", alert_id)


async def test_the_list_is_filtered_and_paged(operator: Staff, database: Database) -> None:
    boxes = [("device", f"sbx_{number:03d}") for number in range(5)]
    for box in boxes:
        await database.write(
            lambda tx, box=box: service.raise_alert(  # type: ignore[misc]
                tx, "device.flapping", box, severity=Severity.WARNING, now_ms=NOW
            )
        )
    cloned_id = await cloned(database)
    await operator.post(f"/admin/alerts/{cloned_id}/resolve")

    pages = [page async for page in operator.pages("/admin/alerts", standing=True, limit=2)]
    seen = [alert["subject"]["id"] for page in pages for alert in page]
    assert seen == [box[1] for box in reversed(boxes)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [alert["id"] for alert in await operator.get("/admin/alerts", severity="critical")] == [cloned_id]
    assert [alert["id"] for alert in await operator.get("/admin/alerts", status="resolved")] == [cloned_id]
    of_one = await operator.get("/admin/alerts", subject_kind="device", subject_id="sbx_003", kind="device.flapping")
    assert len(of_one) == 1
    assert len(await rows(database, "SELECT id FROM alert")) == 6


async def test_an_unknown_filter_is_a_mistake_and_not_ignored(operator: Staff) -> None:
    refused = await operator.refused("GET", "/admin/alerts?statuss=open", status=400)
    too_old = await operator.refused("GET", "/admin/alerts?raised_from=1969-12-31T23:59:59Z", status=400)
    no_zone = await operator.refused("GET", "/admin/alerts?raised_from=2026-01-01T00:00:00", status=400)

    assert [error["field"] for error in refused["errors"]] == ["statuss"]
    assert [error["field"] for error in no_zone["errors"]] == ["raised_from"]
    assert [error["field"] for error in too_old["errors"]] == ["raised_from"]
    assert "zone" in no_zone["errors"][0]["message"]


async def test_an_alert_that_is_not_there_is_not_found(operator: Staff) -> None:
    assert (await operator.refused("GET", "/admin/alerts/alr_none", status=404))["code"] == "NOT_FOUND"
    assert (await operator.refused("POST", "/admin/alerts/alr_none/resolve", status=404))["code"] == "NOT_FOUND"
