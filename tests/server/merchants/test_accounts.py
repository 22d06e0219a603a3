"""Where a merchant is paid: two people and a day's hold, once money may be waiting."""

import asyncio
import json

import pytest
from support.hub import Hub, person_of
from support.registry import WHOLE
from support.shop import execute, row, rows
from support.staff import Staff, audited
from support.wallets import open_holder

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.merchants import accounts
from soundbox_server.merchants.accounts import HOLD_MS
from soundbox_server.merchants.jobs import apply_account_changes

NEW = {"settlement_account_reference": "bank:1111111111"}


@pytest.fixture
async def merchant(operator: Staff) -> str:
    """The id of an approved merchant."""
    created = await operator.post("/admin/merchants", WHOLE, status=201)
    await operator.post(f"/admin/merchants/{created['id']}/approve")
    return str(created["id"])


async def account(database: Database, merchant_id: str) -> str:
    found = await row(database, "SELECT settlement_account_reference FROM merchant WHERE id = $1", merchant_id)
    return str(found["settlement_account_reference"])


async def asked_for(operator: Staff, merchant: str) -> str:
    changed = await operator.patch(f"/admin/merchants/{merchant}", NEW)
    return str(changed["pending_account_change"]["id"])


async def test_a_merchant_never_approved_is_simply_changed(operator: Staff, database: Database) -> None:
    created = await operator.post("/admin/merchants", WHOLE, status=201)

    changed = await operator.patch(f"/admin/merchants/{created['id']}", NEW)

    assert changed["settlement_account_reference"] == "bank:1111111111"
    assert changed["pending_account_change"] is None


async def test_a_merchant_never_approved_whose_wallet_holds_money_takes_two_people_too(
    hub: Hub, operator: Staff, finance: Staff, database: Database
) -> None:
    holder = await open_holder(hub, database, balance=50_000)
    await holder.shop.set_status("pending")
    await execute(database, "UPDATE merchant SET approved_at_ms = NULL WHERE id = $1", holder.shop.merchant_id)

    changed = await operator.patch(f"/admin/merchants/{holder.shop.merchant_id}", NEW)

    change = changed["pending_account_change"]
    assert (changed["settlement_account_reference"], change["status"]) == (None, "requested")
    approved = await finance.post(f"/admin/merchants/{holder.shop.merchant_id}/account-changes/{change['id']}/approve")
    assert approved["status"] == "approved"


async def test_it_takes_a_second_person_and_a_day(
    operator: Staff, finance: Staff, database: Database, merchant: str
) -> None:
    changed = await operator.patch(f"/admin/merchants/{merchant}", NEW | {"brand_name": "Toko Baru"})
    change = changed["pending_account_change"]
    path = f"/admin/merchants/{merchant}/account-changes/{change['id']}/approve"
    itself = await operator.another("per_operator", "finance").refused("POST", path, status=403)
    approved = await finance.post(path)
    await apply_account_changes(database)
    early = await account(database, merchant)
    await database.write(lambda tx: accounts.apply_due(tx, now_ms=clock.now_ms() + HOLD_MS + 1_000))

    assert (changed["brand_name"], changed["settlement_account_reference"]) == ("Toko Baru", "bank:9876543210")
    assert itself["code"] == "FORBIDDEN"
    assert (approved["status"], approved["requested_by"], approved["decided_by"]) == (
        "approved", "per_operator", "per_finance",
    )  # fmt: skip
    assert early == "bank:9876543210"
    assert await account(database, merchant) == "bank:1111111111"
    (asked,) = await audited(database, "merchant.account_change_requested")
    assert json.loads(asked["details"])["before"]["settlement_account_reference"] == "bank:9876543210"
    assert len(await audited(database, "merchant.account_change_approved")) == 1


async def test_nobody_is_two_people_with_a_key_of_their_own(
    operator: Staff, finance: Staff, database: Database, merchant: str
) -> None:
    change_id = await asked_for(operator, merchant)
    await execute(
        database,
        "INSERT INTO api_key (id, organisation_id, organisation_kind, name, role, scopes, key_sha256, created_by, "
        "created_at_ms) SELECT 'key_1', organisation_id, organisation_kind, 'script', 'operator', 'merchants:write', "
        "'x', id, 1 FROM person WHERE role = 'finance'",
    )
    await execute(database, "UPDATE merchant_account_change SET requested_by = 'key_1'")
    path = f"/admin/merchants/{merchant}/account-changes/{change_id}/approve"

    alone = await finance.another(person_of("finance")).refused("POST", path, status=403)
    colleague = await finance.post(path)

    assert (alone["code"], colleague["status"]) == ("FORBIDDEN", "approved")


async def test_the_job_applies_what_is_due_once_and_writes_it_down(
    operator: Staff, finance: Staff, database: Database, merchant: str
) -> None:
    change_id = await asked_for(operator, merchant)
    await finance.post(f"/admin/merchants/{merchant}/account-changes/{change_id}/approve")
    await execute(database, "UPDATE merchant_account_change SET effective_at_ms = 1")

    await asyncio.gather(*(apply_account_changes(database) for _ in range(5)))

    assert await account(database, merchant) == "bank:1111111111"
    (entry,) = await audited(database, "merchant.account_changed")
    assert (entry["actor_id"], entry["subject_id"]) == (None, merchant)


async def test_rejecting_a_merchant_first_is_no_way_around(operator: Staff, database: Database, merchant: str) -> None:
    await operator.post(f"/admin/merchants/{merchant}/reject", {"reason": "a trick"})
    await operator.patch(f"/admin/merchants/{merchant}", NEW)
    await operator.post(f"/admin/merchants/{merchant}/resubmit")
    await operator.post(f"/admin/merchants/{merchant}/approve")

    assert await account(database, merchant) == "bank:9876543210"


async def test_one_change_waits_at_a_time(operator: Staff, merchant: str) -> None:
    await asked_for(operator, merchant)

    second = await operator.refused(
        "PATCH", f"/admin/merchants/{merchant}", {"settlement_account_reference": "bank:2"}, status=409
    )

    assert second["code"] == "CONFLICT"


async def test_a_change_can_be_stopped_during_the_hold(
    operator: Staff, finance: Staff, database: Database, merchant: str
) -> None:
    change_id = await asked_for(operator, merchant)
    path = f"/admin/merchants/{merchant}/account-changes/{change_id}"
    await finance.post(f"{path}/approve")

    refused = await operator.post(f"{path}/refuse", {"reason": "the letter was forged"})
    await database.write(lambda tx: accounts.apply_due(tx, now_ms=clock.now_ms() + 2 * HOLD_MS))
    late = await finance.refused("POST", f"{path}/approve", status=409)

    assert refused["status"] == "refused"
    assert late["code"] == "CONFLICT"
    assert await account(database, merchant) == "bank:9876543210"
    (listed,) = await operator.get("/admin/account-changes", status="refused", merchant_id=merchant)
    assert (listed["id"], listed["reason"]) == (change_id, "the letter was forged")


async def test_the_database_itself_wants_two_people(operator: Staff, database: Database, merchant: str) -> None:
    await asked_for(operator, merchant)

    with pytest.raises(Exception, match="account_change_by_two_people"):
        await execute(
            database,
            "UPDATE merchant_account_change SET state = 'approved', decided_by = requested_by, effective_at_ms = 1",
        )


async def test_another_merchants_change_is_not_found(operator: Staff, finance: Staff, merchant: str) -> None:
    change_id = await asked_for(operator, merchant)
    other = await operator.post("/admin/merchants", WHOLE, status=201)

    refused = await finance.refused(
        "POST", f"/admin/merchants/{other['id']}/account-changes/{change_id}/approve", status=404
    )

    assert refused["code"] == "NOT_FOUND"


async def test_approved_by_ten_at_once_it_is_approved_once(
    operator: Staff, finance: Staff, database: Database, merchant: str
) -> None:
    change_id = await asked_for(operator, merchant)
    path = f"/admin/merchants/{merchant}/account-changes/{change_id}/approve"

    answers = await asyncio.gather(*(finance.another(f"per_{n}").call("POST", path) for n in range(10)))

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    assert len(await audited(database, "merchant.account_change_approved")) == 1
    assert len(await rows(database, "SELECT id FROM merchant_account_change WHERE state = 'approved'")) == 1
