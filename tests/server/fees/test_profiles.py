"""Fee profiles at their doors: versions are added for days to come, and what was agreed stays as it was."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.books import check_books
from support.hub import Hub, open_hub
from support.registry import WHOLE
from support.shop import Shop, execute, open_shop, payment_row, report, row, rows, take
from support.staff import Staff, audited

from soundbox_server.clock import DAY_MS, jakarta_day, jakarta_ms, now_ms
from soundbox_server.db import Database

PROFILES = "/admin/fees/profiles"


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def finance(hub: Hub) -> Staff:
    return Staff(hub, "per_finance", "finance")


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


def tomorrow() -> str:
    return jakarta_day(now_ms() + DAY_MS)


async def test_another_processs_version_prices_what_is_paid_from_its_day_on(
    finance: Staff, database: Database, shop: Shop
) -> None:
    """The payment's lock tells this process that there is a version it has not seen."""
    device = await shop.box()
    before, after = await shop.payment(device), await shop.payment(device)
    day = tomorrow()
    begins = jakarta_ms(day)
    await take(database, report(before, paid_at_ms=begins - 1), now_ms=begins - 1)
    late = await shop.payment(device)

    agreed = {"effective_from": day, "rules": [{"bps": 100}], "reason": "agreed by letter"}
    await finance.post(f"{PROFILES}/{shop.fee_profile_id}/versions", agreed, status=201)
    await take(database, report(after, paid_at_ms=begins), now_ms=begins)
    await take(database, report(late, paid_at_ms=begins - 1), now_ms=begins + 1)

    told = [await payment_row(database, one.payment_id) for one in (before, after, late)]
    assert [(one["fee_amount"], one["fee_bps"], one["fee_version"], one["fee_rounding"]) for one in told] == [
        (350, 70, f"{shop.fee_profile_id}/1", "half_up"),
        (500, 100, f"{shop.fee_profile_id}/2", "half_up"),
        (350, 70, f"{shop.fee_profile_id}/1", "half_up"),
    ]
    await check_books(database)


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({"effective_from": "2020-01-01"}, 400, "VALIDATION_FAILED"),
        ({"effective_from": "today"}, 400, "VALIDATION_FAILED"),
        ({"rules": []}, 400, "VALIDATION_FAILED"),
        ({"rules": [{"bps": 70, "tiers": [{"bps": 1}]}]}, 400, "VALIDATION_FAILED"),
        ({"rules": [{}]}, 400, "VALIDATION_FAILED"),
        ({"rules": [{"tiers": [{"bps": 1, "max": 5}]}]}, 400, "VALIDATION_FAILED"),
        ({"rules": [{"tiers": [{"bps": 1, "max": 5}, {"bps": 2, "max": 5}, {"bps": 3}]}]}, 400, "VALIDATION_FAILED"),
        ({"rules": [{"bps": 1}, {"bps": 2}]}, 400, "VALIDATION_FAILED"),
        (
            {"rules": [{"criteria": ["UMI"], "bps": 1}, {"criteria": ["UMI", "UKE"], "bps": 2}]},
            400,
            "VALIDATION_FAILED",
        ),
        ({"rules": [{"criteria": ["UMI"], "category": ["SPBU"], "bps": 1}]}, 400, "VALIDATION_FAILED"),
        ({"rules": [{"criteria": ["UKE"], "bps": 70}]}, 409, "FEE_RULE_MISSING"),  # the shop is UMI
        ({"windows": [{"name": "a", "cutoff": "24:00", "settle_after_days": 1}]}, 400, "VALIDATION_FAILED"),
        ({"windows": [{"name": "a", "cutoff": "12:00", "settle_after_days": 1}] * 2}, 400, "VALIDATION_FAILED"),
    ],
)
async def test_terms_that_cannot_hold_are_refused(
    finance: Staff, database: Database, shop: Shop, wanted: dict[str, Any], status: int, code: str
) -> None:
    body = {"effective_from": tomorrow(), "rules": [{"bps": 70}]} | wanted
    if body["effective_from"] == "today":
        body["effective_from"] = jakarta_day(now_ms())

    refused = await finance.refused("POST", f"{PROFILES}/{shop.fee_profile_id}/versions", body, status=status)

    assert refused["code"] == code
    assert (await row(database, "SELECT version FROM fee_profile WHERE id = $1", shop.fee_profile_id))["version"] == 1


async def test_a_version_does_not_begin_before_one_that_was_added(finance: Staff, shop: Shop) -> None:
    path = f"{PROFILES}/{shop.fee_profile_id}/versions"
    await finance.post(path, {"effective_from": "2099-02-01", "rules": [{"bps": 50}]}, status=201)

    await finance.refused("POST", path, {"effective_from": "2099-01-31", "rules": [{"bps": 60}]}, status=400)
    mended = await finance.post(path, {"effective_from": "2099-02-01", "rules": [{"bps": 60}]}, status=201)

    assert [one["version"] for one in mended["versions"]] == [3, 2, 1]


async def test_what_was_agreed_cannot_be_changed_in_the_database_either(database: Database, shop: Shop) -> None:
    for sql in ("UPDATE fee_version SET rules = '[]'", "DELETE FROM fee_version"):
        with pytest.raises(Exception, match="what was agreed"):
            await execute(database, sql)


async def test_a_new_profile_is_given_to_a_merchant_that_it_speaks_of(finance: Staff, database: Database) -> None:
    operator = finance.another("per_operator", "operator")
    wanted = {"id": "fee_schools", "name": "Schools", "effective_from": "2020-01-01",
              "rules": [{"category": ["education"], "bps": 60}]}  # fmt: skip
    await finance.post(PROFILES, wanted, status=201)
    await finance.refused("POST", PROFILES, wanted, status=409)
    merchant = await operator.post("/admin/merchants", WHOLE | {"fee_profile_id": "fee_schools"}, status=201)
    one = f"/admin/merchants/{merchant['id']}"

    assert (await operator.refused("POST", f"{one}/approve", status=409))["code"] == "FEE_RULE_MISSING"
    await operator.patch(one, {"fee_category": "education"})
    assert (await operator.post(f"{one}/approve"))["fee_category"] == "education"
    assert (await operator.refused("PATCH", one, {"fee_category": None}, status=409))["code"] == "FEE_RULE_MISSING"
    assert len(await audited(database, "fee_profile.added")) == 1


async def test_money_that_no_rule_prices_is_kept_apart(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await execute(database, "UPDATE merchant SET fee_profile_id = 'fee_basic' WHERE id = $1", shop.merchant_id)
    long_ago = jakarta_ms("2023-06-30")  # before UMI had a rate

    await take(database, report(payment, paid_at_ms=long_ago))

    stored = await payment_row(database, payment.payment_id)
    assert (stored["state"], stored["review_reason"], stored["fee_amount"]) == (
        "needs_review",
        "fee_rule_missing",
        None,
    )
    assert [one["kind"] for one in await rows(database, "SELECT kind FROM alert")] == ["merchant.paid_without_fee_rule"]
    assert (await check_books(database)).suspense == 50_000
