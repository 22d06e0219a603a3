"""All that is kept of a merchant, as a file for whoever it is about."""

import json
from pathlib import Path

import pytest
from support.hub import Hub
from support.merchant import Merchant, a_stranger
from support.shop import Shop, execute, report, take

from soundbox_server.db import Database
from soundbox_server.exportable import EXPORTABLE
from soundbox_server.exports.jobs import Exporter
from soundbox_server.portal.scope import files_of
from soundbox_server.privacy.report import SECTIONS

ASKED = {"kind": "personal_data", "format": "jsonl"}

_REFUND = (
    "INSERT INTO refund (id, payment_id, provider, reference, origin, amount, fee_returned, returns_fee, "
    "from_suspense, state, reason, asks, lease_until_ms, raw_response, created_at_ms, finished_at_ms) "
    "VALUES ('rfn_1', $1, 'sandbox', 'ref-1', 'person', 100, 0, false, false, 'done', 'damaged', 1, 1, $2, 1, 2)"
)
_WARNING = (
    "INSERT INTO early_warning (id, merchant_id, type, severity, state, metric, value_hundredths, "
    "threshold_hundredths, deviation_hundredths, detected_at_ms, seen_at_ms, judged_for) "
    "VALUES ($1, $2, 'revenue_drop', 'Low', 'open', 'x', 1, 1, 1, 1, 1, $3)"
)


async def test_an_owner_takes_along_all_that_is_kept_and_no_secret(
    hub: Hub, owner: Merchant, shop: Shop, database: Database
) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))
    await execute(database, "UPDATE payment SET description = 'untuk Bu Sri' WHERE id = $1", payment.payment_id)
    await execute(database, "UPDATE person SET password_hash = 'argon2-secret' WHERE id = 'per_test_merchant_owner'")
    await execute(database, _REFUND, payment.payment_id, b"\xff what the provider wrote")
    for judged_for in ("", "org_test_bank"):
        await execute(database, _WARNING, f"ewr_{judged_for}", shop.merchant_id, judged_for)
    exporter = Exporter(database, EXPORTABLE, theirs=files_of, folder=hub.app.state.exports_folder, owner="test")

    export = (
        await owner.post("/merchant/exports", ASKED | {"filters": {"merchant_id": shop.merchant_id}}, status=202)
    )["data"]
    await exporter.tick()
    done = (await owner.get(f"/merchant/exports/{export['id']}"))["data"]
    file = await owner.call("GET", f"/merchant/exports/{export['id']}/file")

    assert (done["status"], done["failure"]) == ("done", None)
    lines = [json.loads(line) for line in file.content.splitlines()]
    sections = {line["section"] for line in lines}
    assert {"merchant", "organisation", "person", "login_session", "outlet", "terminal", "payment"} <= sections
    assert sections <= {*SECTIONS, "payment"}
    (paid,) = [line for line in lines if line["section"] == "payment"]
    assert (paid["id"], paid["description"]) == (payment.payment_id, "untuk Bu Sri")
    (refund,) = [line for line in lines if line["section"] == "refund"]
    assert (refund["reason"], refund["amount"]) == ("damaged", 100)
    assert [line["id"] for line in lines if line["section"] == "early_warning"] == ["ewr_"]
    assert {line["email"] for line in lines if line["section"] == "person"} == {
        "merchant_owner@shop.test", "merchant_staff@shop.test",
    }  # fmt: skip
    assert b"argon2-secret" not in file.content


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_nobody_takes_along_what_is_anothers(hub: Hub, owner: Merchant, shop: Shop, tmp_path: Path) -> None:
    stranger = await a_stranger(hub)
    wanted = ASKED | {"filters": {"merchant_id": shop.merchant_id}}

    await stranger.post("/merchant/exports", wanted, status=404)
    unnamed = await owner.post("/merchant/exports", ASKED, status=400)

    assert unnamed["code"] == "VALIDATION_FAILED"
