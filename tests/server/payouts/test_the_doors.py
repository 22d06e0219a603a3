"""Payouts at their doors: operators try again and mark what they paid, and the bank's callback is signed and lean."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.bank import ACCOUNT, Bank, payouts, settlement, state_of
from support.hub import Hub
from support.shop import NOW, Shop, execute, row, rows
from support.staff import Staff, audited

from soundbox_server.clock import now_ms
from soundbox_server.db import Database
from soundbox_server.exportable import EXPORTABLE
from soundbox_server.exports.jobs import Exporter
from soundbox_server.ids import new_id
from soundbox_server.ledger.service import balance
from soundbox_server.merchants import accounts
from soundbox_server.merchants.accounts import HOLD_MS
from soundbox_server.payouts.jobs import Payer
from soundbox_server.reconciliation import books

CALLBACK = "/integrations/bank/payout-callback"
NET = 49_650


def payer(database: Database, bank: Bank | None) -> Payer:
    return Payer(database, lambda: bank, is_open=lambda day: True)


async def sent(shop: Shop, bank: Bank) -> dict[str, Any]:
    """A payout that its bank has taken on and not ended."""
    await settlement(shop)
    bank.faults.append("slow")
    await payer(shop.database, bank).tick()
    (payout,) = await payouts(shop.database)
    return payout


def body(payout: dict[str, Any], status: str = "succeeded", **other: Any) -> bytes:
    said = {
        "event_id": new_id("evt"), "payout_reference": payout["reference"], "payout_id": "TRF1", "status": status,
        "amount": payout["amount"], "currency": "IDR",
    }  # fmt: skip
    return json.dumps(said | other).encode()


async def call_back(hub: Hub, said: bytes, **signing: Any) -> httpx.Response:
    return await hub.http.post(CALLBACK, content=said, headers=hub.signed(said, **signing))


async def test_a_signed_report_is_booked_before_it_is_answered(hub: Hub, shop: Shop, bank: Bank) -> None:
    payout = await sent(shop, bank)
    said = body(payout)

    first, again = await call_back(hub, said), await call_back(hub, said)

    assert [answer.status_code for answer in (first, again)] == [200, 200]
    assert first.json()["data"] | {"event_id": ""} == {"event_id": "", "payout_id": payout["id"], "outcome": "applied"}
    assert (await row(shop.database, "SELECT state FROM payout"))["state"] == "succeeded"
    assert len(await rows(shop.database, "SELECT id FROM journal WHERE kind = 'payout'")) == 1
    assert await shop.database.read_at_leisure(books.check) == []


@pytest.mark.parametrize(
    ("signing", "status"),
    [({"secret": "another"}, 401), ({"at_s": 1}, 401), ({"partner": "acme"}, 401)],
)
async def test_a_report_that_no_bank_of_ours_signed_changes_nothing(
    hub: Hub, shop: Shop, bank: Bank, signing: dict[str, Any], status: int
) -> None:
    payout = await sent(shop, bank)

    answer = await call_back(hub, body(payout), **signing)

    assert (answer.status_code, answer.json()["code"]) == (status, "INVALID_SIGNATURE")
    assert await rows(shop.database, "SELECT id FROM payout_event") == []
    assert (await row(shop.database, "SELECT state FROM payout"))["state"] == "submitted"


@pytest.mark.parametrize(
    "said",
    [b"", b"{", b"[]", b'{"event_id": "e"}', b"\xff", b'{"status": "paid"}'],
)
async def test_what_cannot_be_read_is_a_problem_and_never_a_crash(hub: Hub, said: bytes) -> None:
    assert (await call_back(hub, said)).status_code == 400
    assert (await hub.http.post(CALLBACK, content=said)).status_code == 401
    assert (await hub.http.get(CALLBACK)).status_code == 405


async def test_fields_that_we_do_not_know_are_the_banks_own_affair(hub: Hub, shop: Shop, bank: Bank) -> None:
    payout = await sent(shop, bank)

    assert (await call_back(hub, body(payout, "pending", note="x"))).json()["data"]["outcome"] == "ignored"
    assert (await call_back(hub, body(payout, payout_reference="nobody"))).json()["data"] | {"event_id": ""} == {
        "event_id": "", "payout_id": None, "outcome": "orphan",
    }  # fmt: skip


async def test_somebody_tries_again_once_per_key(finance: Staff, shop: Shop, bank: Bank) -> None:
    batch = await settlement(shop)
    bank.faults.append("refuse")
    await payer(shop.database, bank).tick()
    path = f"/admin/settlements/{batch}/retry-payout"

    made = await finance.post(path, status=202, key="again")
    same = await finance.post(path, status=202, key="again")
    refused = await finance.refused("POST", path, status=409)

    assert made == same
    assert (made["status"], made["number"], made["amount"], made["requested_by"]) == ("created", 2, NET, "per_finance")
    assert refused["code"] == "CONFLICT"
    (entry,) = await audited(shop.database, "payout.requested")
    assert (entry["actor_id"], entry["subject_id"]) == ("per_finance", batch)
    await finance.refused("POST", "/admin/settlements/stl_nowhere/retry-payout", status=404)
    await finance.another("per_operator", "operator").refused("POST", path, status=403)


async def test_a_merchant_that_nobody_can_pay_is_named_so(finance: Staff, shop: Shop) -> None:
    batch = await settlement(shop, account=None)

    refused = await finance.refused("POST", f"/admin/settlements/{batch}/retry-payout", status=409)

    assert refused["code"] == "MERCHANT_PAYOUT_NOT_CONFIGURED"
    assert await state_of(shop.database, batch) == "calculated"


async def test_while_a_bank_may_be_paying_nobody_else_pays(finance: Staff, shop: Shop, bank: Bank) -> None:
    payout = await sent(shop, bank)
    slip = {"reference": "FT1", "reason": "Paid at the counter."}
    for path, sent_body in (("retry-payout", None), ("mark-paid", slip)):
        refused = await finance.refused(
            "POST", f"/admin/settlements/{payout['settlement_id']}/{path}", sent_body, status=409
        )
        assert refused["code"] == "CONFLICT"

    (asked,) = await payouts(shop.database)
    assert asked["ask_at_ms"] < payout["ask_at_ms"]  # it is asked at once how it stands


async def test_what_somebody_paid_by_hand_is_booked_as_theirs(finance: Staff, shop: Shop) -> None:
    batch = await settlement(shop, mode="manual", acme=20_000)
    await payer(shop.database, Bank()).tick()
    (waiting,) = await payouts(shop.database)
    assert (waiting["mode"], waiting["state"], waiting["bank"]) == ("manual", "created", None)
    path = f"/admin/settlements/{batch}/mark-paid"
    slip = {"reference": "FT26143ABC", "reason": "Paid through the bank's own screen."}

    paid = await finance.post(path, slip, key="slip")
    same = await finance.post(path, slip, key="slip")
    await finance.refused("POST", path, slip, status=409)

    assert paid == same
    assert (paid["id"], paid["status"], paid["paid_reference"], paid["marked_by"]) == (
        waiting["id"], "succeeded", "FT26143ABC", "per_finance",
    )  # fmt: skip
    assert await state_of(shop.database, batch) == "paid"
    assert await shop.database.read(lambda tx: balance(tx, "manual_payout")) == paid["amount"] == 69_510
    assert await shop.database.read_at_leisure(books.check) == []
    (entry,) = await audited(shop.database, "payout.marked_paid")
    assert json.loads(entry["details"])["reference"] == "FT26143ABC"


async def test_what_came_back_by_hand_waits_to_be_paid_again(finance: Staff, shop: Shop) -> None:
    batch = await settlement(shop, mode="manual")
    slip = {"reference": "FT1", "reason": "By hand."}
    paid = await finance.post(f"/admin/settlements/{batch}/mark-paid", slip)  # before the clock had begun it

    back = await finance.post(f"/admin/payouts/{paid['id']}/mark-returned", {"reason": "Account closed."})
    again = await finance.post(f"/admin/settlements/{batch}/mark-paid", slip)

    assert (back["status"], back["note"]) == ("reversed", "Account closed.")
    assert (again["number"], await state_of(shop.database, batch)) == (2, "paid")
    assert await shop.database.read(lambda tx: balance(tx, "manual_payout")) == NET
    assert await shop.database.read_at_leisure(books.check) == []


async def test_a_banks_payout_does_not_come_back_by_hand(finance: Staff, shop: Shop, bank: Bank) -> None:
    await settlement(shop)
    await payer(shop.database, bank).tick()
    (payout,) = await payouts(shop.database)

    refused = await finance.refused("POST", f"/admin/payouts/{payout['id']}/mark-returned", {"reason": "x"}, status=409)

    assert refused["code"] == "CONFLICT"
    assert (await payouts(shop.database))[0]["state"] == "succeeded"


async def test_payouts_are_listed_by_what_is_asked_for(finance: Staff, hub: Hub, shop: Shop, bank: Bank) -> None:
    payout = await sent(shop, bank)
    await call_back(hub, body(payout))
    await settlement(shop, mode="manual")
    await payer(shop.database, bank).tick()

    by_hand = await finance.get("/admin/payouts", mode="manual")
    done = await finance.get("/admin/payouts", status="succeeded", settlement_id=payout["settlement_id"])
    one = await finance.get(f"/admin/payouts/{payout['id']}")

    assert [len(await finance.get("/admin/payouts")), len(by_hand), len(done)] == [2, 1, 1]
    assert (one["status"], one["rail"], one["account_reference"]) == ("succeeded", "bi_fast", ACCOUNT)
    assert [report["outcome"] for report in one["reports"]] == ["applied"]


async def test_a_transfer_file_names_what_is_to_be_paid_by_hand_and_runs_nothing(
    finance: Staff, shop: Shop, tmp_path: Path
) -> None:
    await execute(shop.database, "UPDATE merchant SET legal_name = '=cmd|calc' WHERE id = $1", shop.merchant_id)
    await settlement(shop, mode="manual", account="+62bank")
    await payer(shop.database, None).tick()
    export = await finance.post("/admin/exports", {"kind": "transfers", "format": "csv"}, status=202)
    folder = finance.hub.app.state.exports_folder
    await Exporter(shop.database, EXPORTABLE, folder=folder, owner="test").tick()

    file = await finance.call("GET", f"/admin/exports/{export['id']}/file")

    (line,) = csv.DictReader(io.StringIO(file.content.decode("utf-8-sig")))
    assert (line["beneficiary"], line["account_reference"], line["amount"]) == ("'=cmd|calc", "'+62bank", str(NET))
    assert line["reference"] == (await payouts(shop.database))[0]["reference"]


async def test_during_the_hold_of_a_new_account_the_old_one_is_paid(finance: Staff, shop: Shop, bank: Bank) -> None:
    await settlement(shop)
    await execute(shop.database, "UPDATE merchant SET approved_at_ms = $2 WHERE id = $1", shop.merchant_id, NOW)
    operator = finance.another("per_operator", "operator")
    wanted = {"settlement_account_reference": "bank:666"}
    changed = await operator.patch(f"/admin/merchants/{shop.merchant_id}", wanted)
    change = changed["pending_account_change"]["id"]
    await finance.post(f"/admin/merchants/{shop.merchant_id}/account-changes/{change}/approve")

    await payer(shop.database, bank).tick()
    after_hold = now_ms() + HOLD_MS + 1_000
    await shop.database.write(lambda tx: accounts.apply_due(tx, now_ms=after_hold))
    await settlement(shop, account="bank:666", day="2026-05-21")
    await payer(shop.database, bank).tick()

    assert [one.account for one in bank.sent] == [ACCOUNT, "bank:666"]
