"""A box's whole log comes in pieces, may be cut off anywhere, and is fetched by operators."""

import hashlib
from typing import Any

import httpx
import pytest
from support.shop import Shop, execute
from support.staff import Staff, audited

from soundbox_server.clock import now_ms
from soundbox_server.db import Database
from soundbox_server.diagnosis import jobs
from soundbox_server.diagnosis.jobs import DAY_MS
from soundbox_server.diagnosis.log_files import LARGEST_LOG, LARGEST_PIECE
from soundbox_sim.rotation import Keyring
from soundbox_sim.upload import send_log

LOG = "".join(f"2026-05-23T10:00:{second:02} tock\n" for second in range(60)).encode() * 20


class Box:
    """A box that was asked for its log, and its own client."""

    def __init__(self, operator: Staff, device_id: str, token: str) -> None:
        self.id, self.token, self._operator = device_id, token, operator
        self.command_id = ""

    async def asked(self, **payload: Any) -> "Box":
        wanted = {"command_name": "upload_log", "payload": payload or {"whole": True}}
        self.command_id = (await self._operator.post(f"/admin/devices/{self.id}/commands", wanted, status=201))[
            "command_id"
        ]
        return self

    async def send(self, content: bytes, offset: int = 0, whole: bytes = LOG, **other: Any) -> httpx.Response:
        named = {"command_id": self.command_id, "offset": offset, "size": len(whole), "sha256": _sha256(whole)} | other
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/octet-stream"}
        return await self._operator.hub.http.post("/device/logs", params=named, content=content, headers=headers)

    async def files(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._operator.get(f"/admin/devices/{self.id}/log-files")
        return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
async def box(shop: Shop, operator: Staff) -> Box:
    return await Box(operator, *await shop.box_with_token()).asked()


async def test_a_log_in_pieces_is_whole_in_the_end_and_who_fetches_it_is_written_down(
    box: Box, operator: Staff, database: Database
) -> None:
    for offset in range(0, len(LOG), 10_000):
        answer = await box.send(LOG[offset : offset + 10_000], offset)
        assert answer.status_code == 200, answer.text

    assert answer.json()["data"] == {"command_id": box.command_id, "status": "whole", "received_bytes": len(LOG)}
    (file,) = await box.files()
    path = f"/admin/devices/{box.id}/log-files/{file['id']}/file"
    fetched = await operator.call("GET", path)
    assert (file["status"], file["sha256"]) == ("whole", _sha256(LOG))
    assert fetched.content == LOG
    assert "attachment" in fetched.headers["content-disposition"]
    assert [one["actor_id"] for one in await audited(database, "device.log_fetched")] == ["per_operator"]
    await operator.another("per_support", "support").refused("GET", path, status=403)
    await operator.refused("GET", f"/admin/devices/sbx_nowhere/log-files/{file['id']}/file", status=404)


async def test_a_repeated_piece_changes_nothing_and_one_from_elsewhere_is_told_where_to_go_on(box: Box) -> None:
    first = await box.send(LOG[:5_000])
    again = await box.send(LOG[:5_000])
    ahead = await box.send(LOG[9_000:12_000], 9_000)

    assert first.json()["data"] == again.json()["data"]
    assert ahead.status_code == 409
    assert ahead.json()["details"]["received_bytes"] == 5_000
    assert (await box.files())[0]["received_bytes"] == 5_000


async def test_a_log_that_is_not_what_it_was_said_to_be_is_damaged(box: Box, operator: Staff) -> None:
    answer = await box.send(b"x" * 100, whole=b"y" * 100)

    assert answer.json()["data"]["status"] == "damaged"
    (file,) = await box.files()
    await operator.refused("GET", f"/admin/devices/{box.id}/log-files/{file['id']}/file", status=409)


async def test_nobody_sends_what_was_not_asked_for(box: Box, shop: Shop, operator: Staff) -> None:
    other = Box(operator, *await shop.box_with_token())
    lines = await Box(operator, *await shop.box_with_token()).asked(lines=5)
    other.command_id = box.command_id

    assert (await other.send(LOG[:100])).status_code == 404
    assert (await lines.send(LOG[:100])).status_code == 404
    assert (await box.send(LOG[:100], command_id="../../etc/passwd")).status_code == 400
    assert (await box.send(b"")).status_code == 409
    assert (await box.send(LOG[:100], whole=LOG[:50])).status_code == 409
    assert (await box.send(LOG[:100], size=LARGEST_LOG + 1)).status_code == 400
    assert (await box.send(b"x" * (LARGEST_PIECE + 1), whole=b"x" * LARGEST_LOG)).status_code == 413
    assert (await box.send(LOG[:100])).status_code == 200
    assert (await box.send(LOG[100:200], 100, whole=LOG + b"more")).status_code == 409


async def test_the_simulated_box_goes_on_where_the_hub_is(box: Box, operator: Staff) -> None:
    class Held(Keyring):
        def __init__(self) -> None: ...

        server = "http://hub"
        tokens = (box.token,)

    await box.send(LOG[:20_000])  # and then the power was cut

    assert await send_log(Held(), operator.hub.http, box.command_id, LOG) is None
    assert [one["status"] for one in await box.files()] == ["whole"]
    assert await send_log(Held(), operator.hub.http, "cmd_unknown", LOG) == "the hub answers 404"


async def test_a_log_is_forgotten_when_its_days_are_over(box: Box, operator: Staff, database: Database) -> None:
    await box.send(LOG[:32_768])
    await box.send(LOG[32_768:], 32_768)
    folder = operator.hub.app.state.device_logs_folder
    assert [path.name for path in folder.iterdir()] == [box.command_id]
    await execute(database, "UPDATE device_log_file SET expires_at_ms = $1", now_ms() + DAY_MS)
    await jobs.forget_log_files(database, folder=folder)
    kept = list(folder.iterdir())
    await execute(database, "UPDATE device_log_file SET expires_at_ms = $1", now_ms() - 1)
    await jobs.forget_log_files(database, folder=folder)

    assert len(kept) == 1
    assert list(folder.iterdir()) == []
    (file,) = await box.files()
    assert (file["status"], file["expires_at"]) == ("expired", None)
    await operator.refused("GET", f"/admin/devices/{box.id}/log-files/{file['id']}/file", status=409)
