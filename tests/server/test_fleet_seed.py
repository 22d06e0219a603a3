import hashlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from support.shop import execute, rows

from soundbox_server import clock, fleet_seed
from soundbox_server.broker.passwords import verify
from soundbox_server.db import Database
from soundbox_server.devices import service as devices
from soundbox_server.errors import Forbidden, ValidationFailed
from soundbox_server.settings import Settings

BOXES = fleet_seed.TILLS_PER_MERCHANT + 1


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(home=tmp_path, database_url=database_url, master_key=SecretStr("A" * 43))


async def plant(database: Database, settings: Settings, boxes: int = BOXES) -> dict[str, Any]:
    return await fleet_seed.plant(database, settings, boxes=boxes, now_ms=clock.now_ms())


async def test_every_box_of_the_roster_is_in_service_with_what_the_roster_says(
    database: Database, settings: Settings
) -> None:
    roster = await plant(database, settings)

    known = await rows(
        database,
        "SELECT d.id, d.state, b.terminal_id, b.merchant_id, c.token_sha256, c.broker_hash, q.partner_reference "
        "FROM device d JOIN device_binding b ON b.device_id = d.id JOIN device_credential c ON c.device_id = d.id "
        "JOIN static_qr q ON q.terminal_id = b.terminal_id ORDER BY d.id",
    )
    assert [row["id"] for row in known] == [member["device_id"] for member in roster["devices"]]
    assert len(known) == BOXES
    assert len({row["merchant_id"] for row in known}) == 2
    for row, member in zip(known, roster["devices"], strict=True):
        assert (row["state"], row["terminal_id"]) == ("bound", member["terminal_id"])
        assert row["partner_reference"] == member["static_reference"]
        assert row["token_sha256"] == hashlib.sha256(member["token"].encode()).hexdigest()
    assert verify(roster["devices"][0]["password"], known[0]["broker_hash"])


async def test_planting_again_activates_the_same_boxes_anew(database: Database, settings: Settings) -> None:
    first = await plant(database, settings, 3)
    await database.write(
        lambda tx: devices.take_sessions(tx, [devices.Session(device_id="flt_00001", online=True, epoch=9, at_ms=1)])
    )
    await execute(database, "UPDATE device SET last_seq = 40 WHERE id = $1", "flt_00001")

    second = await plant(database, settings, 3)

    for name in ("password", "token", "announcement_key"):
        assert {one[name] for one in first["devices"]}.isdisjoint(one[name] for one in second["devices"])
    active = await rows(database, "SELECT device_id FROM device_credential WHERE state = 'active' ORDER BY device_id")
    assert [row["device_id"] for row in active] == ["flt_00001", "flt_00002", "flt_00003"]
    (box,) = await rows(
        database,
        "SELECT d.key_version, d.last_seq, p.online, p.session_epoch FROM device d "
        "JOIN device_presence p ON p.device_id = d.id WHERE d.id = 'flt_00001'",
    )
    assert (box["key_version"], box["last_seq"], bool(box["online"]), box["session_epoch"]) == (2, 0, False, 0)


async def test_a_fleet_is_not_planted_in_production_nor_without_end(database: Database, settings: Settings) -> None:
    settings.environment = "production"
    with pytest.raises(Forbidden):
        await plant(database, settings)

    settings.environment = "development"
    with pytest.raises(ValidationFailed):
        await plant(database, settings, fleet_seed.MOST + 1)
    assert await rows(database, "SELECT id FROM device") == []
