"""Reference 000's merchant doors: what a shop is told of itself."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from support.hub import Hub, open_hub, person_of
from support.merchant import Merchant, a_stranger
from support.shop import Shop, execute, rows
from support.staff import audited
from support.trading import Past, noon, plant, steady

from soundbox_server.access.service import sha256
from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.clock import now_ms
from soundbox_server.db import Database
from soundbox_server.ids import new_id
from soundbox_server.scoring.facts import jakarta_number

DOORS = "/api/merchant"
SCORED = ("currentCreditScore", "riskBand", "estimatedMinLimit", "estimatedMaxLimit", "scoreHistory")


@pytest.fixture
async def hub(database_url: str, tmp_path: Path) -> AsyncIterator[Hub]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield hub


def today() -> int:
    return jakarta_number(now_ms())


async def test_a_shop_is_scored_when_it_asks_and_reads_why(owner: Merchant, shop: Shop, database: Database) -> None:
    await plant(database, shop, [*steady(today()), Past(at_ms=noon(today() - 1), amount=70_000, method="cash")])

    said = await owner.post(f"{DOORS}/recalculate", {})
    detail = (await owner.get(f"{DOORS}/credit-detail"))["data"]
    dashboard = (await owner.get(f"{DOORS}/dashboard"))["data"]

    assert (said["success"], said["data"]["creditScore"], said["data"]["riskBand"]) == (True, 81, "Low")
    assert {name: (one["score"], one["weight"]) for name, one in detail["components"].items()} == {
        "transactionVolume": (65, 25), "revenueConsistency": (100, 25), "growthTrend": (50, 20),
        "refundRate": (100, 10), "settlementTime": (100, 20),
    }  # fmt: skip
    assert detail["calculatedAt"] == said["data"]["calculatedAt"]
    assert detail["metrics"]["transactionCount3m"] == 270
    assert detail["explanation"].startswith("Skor 81 dari 100, risiko rendah.")
    assert detail["recommendation"].startswith("Omzet empat minggu terakhir")
    assert (dashboard["currentCreditScore"], [one["score"] for one in dashboard["scoreHistory"]]) == (81, [81])
    # Thirty days up to today, on which nothing was sold yet.
    assert (dashboard["monthlyTransactionVolume"], dashboard["monthlyCashVolume"]) == (29 * 150_000, 70_000)
    assert (dashboard["totalTransactions"], dashboard["avgDailyTransaction"]) == (271, 2.93)
    (entry,) = await audited(database, "score.recalculated")
    assert json.loads(entry["details"]) == {"model": "soundbox-v2", "score": 81}


async def test_it_is_told_in_english_to_whoever_prefers_it(owner: Merchant, shop: Shop, database: Database) -> None:
    await plant(database, shop, steady(today()))
    await owner.post(f"{DOORS}/recalculate", {})

    headers = owner.hub.as_role("merchant_owner") | {"accept-language": "en-GB,id;q=0.5"}
    detail = (await owner.hub.http.get(f"{DOORS}/credit-detail", headers=headers)).json()["data"]

    assert detail["explanation"].startswith("Score 81 of 100, low risk.")
    assert detail["components"]["transactionVolume"]["value"] == "270 transactions in three months"


async def test_without_enough_history_there_is_an_honest_answer(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    nothing = await owner.post(f"{DOORS}/recalculate", {}, status=404)
    await plant(database, shop, [Past(at_ms=noon(today() - 3), amount=50_000)])

    said = await owner.post(f"{DOORS}/recalculate", {})
    refused = await owner.get(f"{DOORS}/credit-detail", status=404)

    assert (nothing["success"], nothing["code"]) == (False, "NOT_FOUND")
    assert (said["data"]["creditScore"], said["data"]["riskBand"]) == (None, None)
    assert said["message"] == refused["message"] == (
        "Riwayat belum cukup untuk dinilai: riwayat 3 hari, perlu 30 hari, 1 pembayaran terkonfirmasi, perlu 20."
    )  # fmt: skip
    assert (await owner.get(f"{DOORS}/loan-timing"))["data"]["recommended_week"] is None
    assert (await owner.get(f"{DOORS}/product-insights"))["data"]["top_trending_products"] == []


async def test_asked_twice_with_one_key_it_is_scored_once(owner: Merchant, shop: Shop, database: Database) -> None:
    await plant(database, shop, steady(today()))

    first = await owner.call("POST", f"{DOORS}/recalculate", key="again-1")
    second = await owner.call("POST", f"{DOORS}/recalculate", key="again-1")

    assert (first.status_code, first.content) == (200, second.content)
    assert len(await rows(database, "SELECT id FROM credit_score")) == 1


async def test_warnings_and_silent_boxes_are_listed_while_they_stand(
    owner: Merchant, shop: Shop, database: Database
) -> None:
    falling = [one for one in steady(today()) if one.at_ms < noon(today() - 10)]
    falling += [Past(at_ms=noon(day), amount=25_000) for day in range(today() - 10, today())]
    await plant(database, shop, falling)
    box = await shop.box()
    await database.write(
        lambda tx: raise_alert(tx, "device.silent_speaker", ("device", box), severity=Severity.WARNING, now_ms=now_ms())
    )
    await owner.post(f"{DOORS}/recalculate", {})

    told = (await owner.get(f"{DOORS}/alerts"))["data"]

    assert (told["totalAlerts"], told["criticalCount"], told["mediumCount"], told["lowCount"]) == (3, 2, 1, 0)
    assert {one["type"]: (one["severity"], one["currentValue"]) for one in told["alerts"]} == {
        "Revenue Drop": ("Critical", 83.33), "Transaction Drop": ("Critical", 66.67),
        "Silent Soundbox": ("Medium", None),
    }  # fmt: skip
    mails = await rows(database, "SELECT address FROM outbox_message WHERE kind = 'early_warning'")
    assert [one["address"] for one in mails] == ["merchant_owner@shop.test"]


async def test_whoever_sells_in_a_shop_sees_its_trade_and_not_its_score(
    owner: Merchant, shop: Shop, hub: Hub, database: Database
) -> None:
    await plant(database, shop, steady(today()))
    await owner.post(f"{DOORS}/recalculate", {})
    await _warn_of_its_score(database, shop)
    key = await plant_key(database, "shop:read")
    both = await plant_key(database, "shop:read", "scores:read")

    seen = {}
    for name, who in {
        "owner": owner, "cashier": Merchant(hub, "merchant_staff"),
        "key": Merchant(hub, headers=key), "key for scores": Merchant(hub, headers=both),
    }.items():  # fmt: skip
        dashboard = (await who.get(f"{DOORS}/dashboard"))["data"]
        warnings = (await who.get(f"{DOORS}/alerts"))["data"]["alerts"]
        seen[name] = ([dashboard[field] is None for field in SCORED], [one["type"] for one in warnings])
        assert dashboard["monthlyTransactionVolume"] == 29 * 150_000

    assert seen["owner"] == seen["key for scores"] == ([False] * 5, ["Score Drop"])
    assert seen["cashier"] == seen["key"] == ([True] * 5, [])


async def test_a_shop_is_scored_ten_times_an_hour_at_most(owner: Merchant, shop: Shop, database: Database) -> None:
    await plant(database, shop, steady(today(), days=2))

    answers = [await owner.call("POST", f"{DOORS}/recalculate", key=f"again-{number}") for number in range(11)]
    repeated = await owner.call("POST", f"{DOORS}/recalculate", key="again-3")

    assert [one.status_code for one in answers] == [200] * 10 + [429]
    assert 3_500 < int(answers[-1].headers["retry-after"]) <= 3_600
    assert repeated.content == answers[3].content


async def test_what_sells_is_told_from_what_was_sold(owner: Merchant, shop: Shop, database: Database) -> None:
    lines = [{"name": "Kopi", "quantity": 15, "unitPrice": 3_000}, {"name": "Teh", "quantity": 5, "unitPrice": 1_000}]
    await owner.post("/api/transactions/create", {"type": "CASH", "amount": 50_000, "productInfo": lines}, status=201)

    told = (await owner.get(f"{DOORS}/product-insights"))["data"]

    assert [one["name"] for one in told["top_trending_products"]] == ["Kopi", "Teh"]
    assert told["performance_summary"] == "20 barang terjual dalam tiga bulan; terlaris Kopi dengan 15."
    assert told["confidence"] == 0.1


async def test_a_profile_tells_who_asks_and_for_which_shop(owner: Merchant, shop: Shop) -> None:
    told = (await owner.get(f"{DOORS}/profile"))["data"]

    assert (told["user"]["email"], told["user"]["city"]) == ("merchant_owner@shop.test", "JAKARTA")
    assert (told["merchant"]["merchantId"], told["merchant"]["businessScale"]) == (shop.merchant_id, "Micro")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_another_organisations_shop_is_nobodys_business(
    owner: Merchant, shop: Shop, hub: Hub, database: Database
) -> None:
    stranger = await a_stranger(hub)
    reads = ("profile", "dashboard", "credit-detail", "loan-timing", "product-insights", "alerts")

    for door in reads:
        await stranger.get(f"{DOORS}/{door}", {"merchantId": shop.merchant_id}, status=404)
    asked = await stranger.call("POST", f"{DOORS}/recalculate", params={"merchantId": shop.merchant_id})

    assert asked.status_code == 404


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_organisation_of_several_shops_says_which(owner: Merchant, shop: Shop, database: Database) -> None:
    await _second_shop(database, shop)

    unsaid = await owner.get(f"{DOORS}/profile", status=409)
    said = await owner.get(f"{DOORS}/profile", {"merchantId": shop.merchant_id})

    assert unsaid["code"] == "CONFLICT"
    assert said["data"]["merchant"]["merchantId"] == shop.merchant_id


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("days", [0, 90, 400])
async def test_every_answer_is_what_the_description_says(
    owner: Merchant, shop: Shop, hub: Hub, database: Database, days: int
) -> None:
    document = _closed(hub.app.openapi())
    if days:
        await plant(database, shop, [*steady(today(), days=days, a_day=1), Past(at_ms=now_ms() - 1, amount=9_000_000)])
        await owner.post(f"{DOORS}/recalculate", {})

    for door in (
        "profile",
        "dashboard",
        "loan-timing",
        "product-insights",
        "alerts",
        *(["credit-detail"] * (days > 0)),
    ):
        told = document["paths"][f"{DOORS}/{door}"]["get"]["responses"]["200"]["content"]["application/json"]
        whole = {**told["schema"], "components": document["components"]}
        wrong = [
            f"{error.json_path}: {error.message}"
            for error in OAS31Validator(whole).iter_errors(await owner.get(f"{DOORS}/{door}"))
        ]

        assert wrong == [], door


def _closed(schema: Any) -> Any:
    """The same, with no member but those it names."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _closed(part) for name, part in schema.items()}
    return inner | ({"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {})


async def plant_key(database: Database, *scopes: str) -> dict[str, str]:
    """Headers of a key of the owner's with these scopes."""
    name = "+".join(scopes)
    await execute(
        database,
        "INSERT INTO api_key (id, organisation_id, organisation_kind, name, role, scopes, key_sha256, created_by, "
        "created_at_ms) VALUES ($1, 'org_test_merchant', 'merchant', $1, 'merchant_owner', $2, $3, $4, 1)",
        f"key_{name}", " ".join(scopes), sha256(f"sbk_{name}"), person_of("merchant_owner"),
    )  # fmt: skip
    return {"x-api-key": f"sbk_{name}"}


async def _warn_of_its_score(database: Database, shop: Shop) -> None:
    await execute(
        database,
        "INSERT INTO early_warning (id, merchant_id, type, severity, state, metric, value_hundredths, "
        "threshold_hundredths, deviation_hundredths, detected_at_ms, seen_at_ms) "
        "VALUES ('ewn_1', $1, 'score_drop', 'Low', 'open', 'score_drop_points', 1600, 1500, 700, 1, 1)",
        shop.merchant_id,
    )


async def _second_shop(database: Database, shop: Shop) -> None:
    columns: Any = "legal_name, brand_name, city, postal_code, mcc, nmid, criteria, fee_profile_id, payout_mode, status"
    await execute(
        database,
        f"INSERT INTO merchant (id, organisation_id, merchant_code, {columns}, created_at_ms) "
        f"SELECT $1, organisation_id, $1, {columns}, created_at_ms FROM merchant WHERE id = $2",
        new_id("mer"), shop.merchant_id,
    )  # fmt: skip
