"""Boxes as operators find, name and follow them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.hub import open_hub
from support.shop import NOW, Shop
from support.staff import Staff, audited

from soundbox_server.clock import now_ms, rfc3339
from soundbox_server.db import Database
from soundbox_server.devices import service as devices
from soundbox_server.devices.service import Vitals


@pytest.fixture
async def operator(database_url: str, tmp_path: Path) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield Staff(hub, "per_operator", "operator")


async def test_a_box_is_found_by_what_is_known_of_it(operator: Staff, shop: Shop, database: Database) -> None:
    here, away = await shop.box(), await (await shop.another_terminal()).box(online=False)
    await operator.post(
        "/admin/devices", {"serial_number": "ZZ-9", "vendor": "qf", "model": "QF100", "label": "Kasir"}, status=201
    )
    (shelved,) = [box["id"] for box in await operator.get("/admin/devices", status="registered")]

    async def found(**filters: object) -> set[str]:
        return {box["id"] for box in await operator.get("/admin/devices", **filters)}

    assert await found() == {here, away, shelved}
    assert await found(online=True) == {here}
    assert await found(online=False) == {away, shelved}
    assert await found(merchant_id=shop.merchant_id) == {here, away}
    assert await found(outlet_id=shop.outlet_id, terminal_id=shop.terminal_id) == {here}
    assert await found(vendor="qf") == await found(model="QF100") == await found(q="zz-") == {shelved}
    assert await found(q="kas") == {shelved}
    assert await found(last_seen_before="2026-05-23T10:00:00Z") == {away, shelved}
    assert await found(last_seen_before="2026-05-23T10:00:01Z") == {here, away, shelved}
    assert await found(status="bound", q=here) == {here}


async def test_a_box_is_found_by_its_tags_as_they_are_written(operator: Staff, shop: Shop) -> None:
    first, second = await shop.box(), await shop.box()
    tagged = await operator.patch(f"/admin/devices/{first}", {"tags": ["pilot-2", "east", "east"]})
    await operator.patch(f"/admin/devices/{second}", {"tags": ["pilot"]})

    async def found(tag: str) -> set[str]:
        return {box["id"] for box in await operator.get("/admin/devices", tag=tag)}

    assert tagged["tags"] == ["east", "pilot-2"]
    assert (await found("pilot"), await found("east"), await found("pilo")) == ({second}, {first}, set())
    assert (await operator.patch(f"/admin/devices/{first}", {"tags": []}))["tags"] == []
    await operator.refused("PATCH", f"/admin/devices/{first}", {"tags": ["two words"]}, status=400)


async def test_every_box_is_on_one_page_of_the_list(operator: Staff) -> None:
    for number in range(5):
        await operator.post("/admin/devices", {"serial_number": f"SBX-{number}"}, status=201)

    pages = [page async for page in operator.pages("/admin/devices", limit=2)]

    ids = [box["id"] for page in pages for box in page]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert ids == sorted(set(ids))


async def test_names_are_changed_and_both_sides_are_written_down(operator: Staff, database: Database) -> None:
    body = {"serial_number": "SBX-1", "device_id": "sbx_001"}
    await operator.post("/admin/devices", body, status=201)

    changed = await operator.patch("/admin/devices/sbx_001", {"label": "Kasir 1", "model": "sbx-1"})
    again = await operator.patch("/admin/devices/sbx_001", {"label": "Kasir 1"})
    refused = await operator.refused("PATCH", "/admin/devices/sbx_001", {"status": "retired"}, status=400)

    assert (changed["label"], changed["model"], changed["notes"]) == ("Kasir 1", "sbx-1", None)
    assert again == changed
    assert [error["field"] for error in refused["errors"]] == ["status"]
    (entry,) = await audited(database, "device.changed")
    assert json.loads(entry["details"]) == {"before": {"label": None}, "after": {"label": "Kasir 1"}}
    (entry,) = await audited(database, "device.registered")
    assert (entry["actor_id"], entry["subject_id"]) == ("per_operator", "sbx_001")
    assert "activation_code" not in entry["details"]


def beat(device_id: str, payload: bytes, at_ms: int) -> Vitals:
    return Vitals(
        device_id=device_id, payload=payload, source="mqtt", received_at_ms=at_ms, firmware_version=None,
        network_strength=None, battery_level=None, state=None, volume=None,
    )  # fmt: skip


async def test_heartbeats_are_read_and_kept_word_for_word(operator: Staff, shop: Shop, database: Database) -> None:
    device_id = await shop.box()
    said = {
        "device_id": device_id, "timestamp": "2026-05-23T10:00:00Z", "firmware_version": "1.0.3",
        "network_strength": 78, "battery_level": 92, "state": "idle",
    }  # fmt: skip
    word_for_word = json.dumps(said, indent=1).encode()
    beats = [beat(device_id, payload, NOW) for payload in (word_for_word, b"\xffnot JSON", word_for_word)]
    await database.write(lambda tx: devices.take_heartbeats(tx, beats))

    newest, strange, _ = await operator.get(f"/admin/devices/{device_id}/heartbeats")
    pages = [page async for page in operator.pages(f"/admin/devices/{device_id}/heartbeats", limit=2)]

    assert said.items() - {("timestamp", said["timestamp"])} <= newest.items()
    assert (newest["sent_at"], newest["payload"]) == (said["timestamp"], word_for_word.decode())
    assert (strange["payload"], strange["battery_level"]) == ("\ufffdnot JSON", None)
    assert [len(page) for page in pages] == [2, 1]


async def test_heartbeats_of_a_time(operator: Staff, shop: Shop, database: Database) -> None:
    device_id, now = await shop.box(), now_ms()
    await database.write(lambda tx: devices.take_heartbeats(tx, [beat(device_id, b"{}", now)]))
    path = f"/admin/devices/{device_id}/heartbeats"

    async def count(**filters: Any) -> int:
        return len(await operator.get(path, **filters))

    assert await count(received_from=rfc3339(now), received_to=rfc3339(now + 1)) == 1
    assert await count(received_from=rfc3339(now + 1)) == 0
    assert await count(received_to=rfc3339(now)) == 0


async def test_a_box_that_is_not_there_is_not_found(operator: Staff) -> None:
    for path in ("", "/heartbeats", "/notifications"):
        assert (await operator.refused("GET", f"/admin/devices/sbx_none{path}", status=404))["code"] == "NOT_FOUND"
    assert (await operator.refused("PATCH", "/admin/devices/sbx_none", {}, status=404))["code"] == "NOT_FOUND"


async def test_a_cursor_of_another_list_is_refused(operator: Staff) -> None:
    for cursor in ("x", "WzFd", "~", "~sbx_1~0", "~a b", "~%00", "~sbx_1%0A"):
        refused = await operator.refused("GET", f"/admin/devices?cursor={cursor}", status=400)
        assert [error["field"] for error in refused["errors"]] == ["cursor"]
