"""License keys and tokens: at the partner's doors as its SDK calls them, and at staff's."""

import asyncio
import re
from typing import Any

import pytest
from support.hub import Hub
from support.partner import Partner, a_stranger, accounts, licensed
from support.shop import Shop, execute, row, rows
from support.staff import Staff, audited

from soundbox_server.access.service import sha256
from soundbox_server.db import Database
from soundbox_server.partners import licenses
from soundbox_server.partners.licenses import KEY, new_key
from soundbox_server.seal import unseal

NOBODYS = "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE"


@pytest.fixture
def operator(hub: Hub) -> Staff:
    return Staff(hub, "per_operator", "operator")


@pytest.fixture
def finance(hub: Hub) -> Staff:
    return Staff(hub, "per_finance", "finance")


def test_a_key_is_five_groups_of_five_that_nobody_reads_wrongly() -> None:
    made = {new_key() for _ in range(200)}

    assert len(made) == 200
    assert all(KEY.fullmatch(key) and not set(key) & set("ILOU01") for key in made)


async def test_whoever_knows_a_key_is_told_whether_it_is_good(hub: Hub, partner: Partner) -> None:
    good = (await hub.http.get(f"/api/license/validate/{partner.license_key.lower()}")).json()
    unknown = (await hub.http.get(f"/api/license/validate/{NOBODYS}")).json()

    told = good["data"]
    assert (good["success"], told["license_key"]) == (True, partner.license_key)
    assert told["exists"] is told["is_valid"] is told["valid"] is told["is_assigned"] is True
    assert (told["status"], told["token_balance"], told["price_per_token"]) == ("active", 3, 100)
    assert "organisation_id" not in told
    assert unknown["data"]["exists"] is unknown["data"]["is_valid"] is False
    assert unknown["data"]["status"] == "not_found"


async def test_of_somebody_elses_key_no_more_is_told_than_that(hub: Hub, partner: Partner) -> None:
    stranger, path = await a_stranger(hub), f"/api/license/validate-ownership/{partner.license_key}"

    own, theirs, unknown = (
        await partner.get(path), await stranger.get(path),
        await partner.get(f"/api/license/validate-ownership/{NOBODYS}"),
    )  # fmt: skip

    assert (own["is_owner"], own["exists"], own["is_valid"], own["token_balance"]) == (True, True, True, 3)
    assert own["owner_user_id"] == own["assigned_to_user_id"] is not None
    assert (theirs["is_owner"], theirs["exists"], theirs["owner_user_id"], theirs["token_balance"]) == (
        False, True, None, 0,
    )  # fmt: skip
    assert (unknown["is_owner"], unknown["exists"]) == (False, False)
    refused = await stranger.refused("GET", f"/api/license/key/{partner.license_key}", status=404)
    assert refused["code"] == "INVALID_LICENSE"


async def test_a_partner_takes_the_key_it_knows_once(hub: Hub, partner: Partner, operator: Staff) -> None:
    free = await operator.post("/admin/license-keys", {"price_per_token": 50}, status=201)
    stranger = await a_stranger(hub)

    taken = await partner.post("/api/user/assign-license", {"license_key": free["key"]})
    again = await partner.post("/api/user/assign-license", {"license_key": free["key"]})
    late = await stranger.refused("POST", "/api/user/assign-license", {"license_key": free["key"]}, status=404)
    profile = await partner.get("/api/user/profile")

    assert taken == again
    assert (taken["assigned_to"], taken["status"]) == ("per_test_partner", "active")
    assert late["code"] == "INVALID_LICENSE"
    assert (profile["id"], profile["role"]) == ("per_test_partner", "user")
    assert [one["key"] for one in profile["license_keys"]] == [partner.license_key, free["key"]]
    assert taken["id"] in {one["id"] for one in (await partner.get("/api/user/token-balance"))["license_keys"]}


async def test_of_two_partners_at_once_one_gets_the_key(hub: Hub, operator: Staff, partner: Partner) -> None:
    free = await operator.post("/admin/license-keys", {"price_per_token": 50}, status=201)
    body, stranger = {"license_key": free["key"]}, await a_stranger(hub)

    answers = await asyncio.gather(
        *(one.call("POST", "/api/user/assign-license", json=body) for one in (partner, stranger))
    )

    assert sorted(answer.status_code for answer in answers) == [200, 404]


async def test_a_token_is_used_each_time_it_is_asked_for_and_with_a_key_once(
    partner: Partner, database: Database
) -> None:
    path = f"/api/user/license-keys/{partner.license_key}/use-token"

    first = await partner.post(path, {})
    second = [
        await partner.call("POST", path, json={"purpose": "receipt", "metadata": {"no": 7}}, key="k") for _ in range(2)
    ]
    third = await partner.post(path)
    empty = await partner.refused("POST", path, {}, status=402)
    usage = await partner.get(f"/api/user/license/{partner.license_key}/usage", limit=2)

    assert first == {
        "license_key": partner.license_key, "previous_balance": 3, "new_balance": 2, "tokens_used": 1,
    }  # fmt: skip
    assert second[0].content == second[1].content
    assert (third["previous_balance"], third["new_balance"]) == (1, 0)
    assert (empty["code"], empty["details"]["balance"]) == ("INSUFFICIENT_TOKENS", 0)
    assert usage["pagination"] == {"page": 1, "limit": 2, "total": 3, "totalPages": 2}
    assert usage["data"]["usage_history"] == usage["usage_history"]
    assert usage["success"] is True
    told = usage["usage_history"][1]
    assert (told["purpose"], told["metadata"], told["previous_balance"], told["new_balance"]) == (
        "receipt", {"no": 7}, 2, 1,
    )  # fmt: skip
    assert await accounts(database) == {"token_issue": -3, "token_used": 3}


async def test_of_fifty_uses_at_once_as_many_succeed_as_there_are_tokens(partner: Partner) -> None:
    path = f"/api/user/license-keys/{partner.license_key}/use-token"

    answers = await asyncio.gather(*(partner.call("POST", path, json={}) for _ in range(50)))

    left = [answer.json()["data"]["new_balance"] for answer in answers if answer.status_code == 200]
    assert sorted(left) == [0, 1, 2]
    assert {answer.status_code for answer in answers} == {200, 402}


async def test_the_week_counts_in_jakarta_from_monday_on(partner: Partner, database: Database) -> None:
    await partner.post(f"/api/user/license-keys/{partner.license_key}/use-token", {})

    stats = await partner.get("/api/user/token-usage-stats")

    assert stats["weekly_labels"] == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    assert (len(stats["weekly_usage"]), sum(stats["weekly_usage"]), stats["total_this_week"]) == (7, 1, 1)
    assert stats["avg_daily_usage"] > 0
    assert stats["est_days_remaining"] >= 2


async def test_a_key_of_the_sdks_form_is_shown_once_and_ends_the_one_before(
    hub: Hub, partner: Partner, database: Database
) -> None:
    ring = hub.app.state.sealing_ring
    first, second = [await partner.post("/api/user/regenerate-api-key") for _ in range(2)]
    old, new = Partner(hub, headers={"x-api-key": first["api_key"]}), Partner(
        hub, headers={"x-api-key": second["api_key"]}
    )  # fmt: skip

    assert re.fullmatch(r"kgiton_[0-9A-Za-z]{32}", second["api_key"])
    assert (await old.refused("GET", "/api/user/profile", status=401))["code"] == "UNAUTHENTICATED"
    assert (await new.get("/api/user/profile"))["api_key"] is None
    assert (await new.get("/api/user/token-balance"))["total_balance"] == 3
    stored = await row(database, "SELECT key_sha256 FROM api_key WHERE revoked_at_ms IS NULL")
    assert stored["key_sha256"] == sha256(second["api_key"])
    (sealed,) = await rows(database, "SELECT id, sealed FROM webhook_secret WHERE expires_at_ms IS NULL")
    assert second["webhook_secret"] not in sealed["sealed"]
    assert unseal(ring, sealed["id"], sealed["sealed"]).decode() == second["webhook_secret"]
    assert second["webhook_secret"] != first["webhook_secret"]

    assert (await new.post("/api/user/revoke-api-key"))["revoked"] == 1
    await new.refused("GET", "/api/user/profile", status=401)
    assert (await partner.post("/api/user/revoke-api-key"))["revoked"] == 0


# Staff's doors


async def test_staff_make_give_change_and_revoke_a_license(
    hub: Hub, shop: Shop, operator: Staff, finance: Staff, database: Database
) -> None:
    made = await operator.post("/admin/license-keys", {"price_per_token": 50, "device_name": "Timbangan"}, status=201)
    path = f"/admin/license-keys/{made['id']}"
    place = {"merchant_id": shop.merchant_id, "terminal_id": shop.terminal_id}

    assigned = await operator.post(f"{path}/assign", {"organisation_id": "org_test_partner", **place})
    given = await finance.post(f"{path}/tokens", {"tokens": 5, "reason": "contract"})
    changed = await operator.patch(path, {"price_per_token": 75, "status": "inactive", "device_notes": "broken"})
    theirs = (await operator.call("GET", f"/api/admin/license-keys/{made['id']}")).json()["data"]
    revoked = await operator.post(f"{path}/revoke")
    again = await operator.post(f"{path}/revoke")

    assert (made["organisation_id"], made["status"], made["token_balance"]) == (None, "active", 0)
    assert (assigned["organisation_id"], assigned["terminal_id"]) == ("org_test_partner", shop.terminal_id)
    assert given["token_balance"] == 5
    assert (changed["price_per_token"], changed["status"], changed["device_name"]) == (75, "inactive", "Timbangan")
    assert (theirs["key"], theirs["status"], theirs["token_balance"]) == (made["key"], "inactive", 5)
    assert revoked["status"] == again["status"] == "revoked"
    for deed in ("created", "assigned", "tokens_added", "changed", "revoked"):
        assert len(await audited(database, f"license.{deed}")) == 1, deed
    listed = await operator.get("/admin/license-keys", organisation_id="org_test_partner", status="revoked")
    assert listed == [revoked]


async def test_tokens_given_twice_with_a_key_are_given_once(partner: Partner, finance: Staff) -> None:
    path, body = f"/admin/license-keys/{partner.license_id}/tokens", {"tokens": 5, "reason": "contract"}

    answers = [await finance.post(path, body, key="k") for _ in range(2)]

    assert [one["token_balance"] for one in answers] == [8, 8]
    assert await partner.balance() == 8


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"price_per_token": 0}, 400),
        ({"price_per_token": 50, "merchant_id": "mer_nowhere"}, 404),
        ({"price_per_token": 50, "terminal_id": "term_nowhere"}, 409),
        ({"price_per_token": 50, "organisation_id": "org_nowhere"}, 404),
        ({"price_per_token": 50, "organisation_id": "org_test_merchant"}, 409),
    ],
)
async def test_a_license_for_what_there_is_not_is_not_made(
    operator: Staff, database: Database, body: dict[str, Any], status: int
) -> None:
    await operator.refused("POST", "/admin/license-keys", body, status=status)

    assert await rows(database, "SELECT id FROM license") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_terminal_of_another_merchant_and_a_revoked_license_are_refused(
    hub: Hub, shop: Shop, platform: Shop, partner: Partner, operator: Staff
) -> None:
    path = f"/admin/license-keys/{partner.license_id}"
    elsewhere = {"merchant_id": shop.merchant_id, "terminal_id": platform.terminal_id}

    await operator.refused("POST", f"{path}/assign", {"organisation_id": "org_test_partner"} | elsewhere, status=404)
    await operator.refused("PATCH", path, {"status": "trial"}, status=409)
    await operator.post(f"{path}/revoke")
    await operator.refused("PATCH", path, {"status": "active"}, status=409)
    await operator.refused("POST", f"{path}/assign", {"organisation_id": "org_test_partner"}, status=409)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_database_itself_refuses_what_would_be_wrong(partner: Partner, database: Database) -> None:
    wrong = [
        "UPDATE license SET tokens_taken = -1",
        "UPDATE license SET terminal_id = 'term', merchant_id = NULL",
        "UPDATE license SET state = 'trial', trial_expires_at_ms = NULL",
        "INSERT INTO token_use (id, license_id, tokens, previous_balance, new_balance, purpose, state, created_at_ms, "
        f"ended_at_ms) VALUES ('tku', '{partner.license_id}', 2, 1, -1, 'x', 'used', 1, 1)",
    ]
    for sql in wrong:
        with pytest.raises(Exception, match="constraint"):
            await execute(database, sql)


async def test_the_balance_is_what_the_ledger_holds_whatever_was_done(
    hub: Hub, shop: Shop, partner: Partner, database: Database
) -> None:
    other = await licensed(hub, shop, tokens=7)
    await partner.generate()
    await other.post(f"/api/user/license-keys/{other.license_key}/use-token", {})
    await other.generate("T-2")

    held = await accounts(database)

    for one in (partner, other):
        license = await database.read(lambda tx, one=one: licenses.get(tx, one.license_id))
        assert license.balance == held[f"license:{one.license_id}"]
    assert await partner.balance() == 2 + 5
