"""Three shops with half a year's trade: whole books, true scores, and a story that the scores tell."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from support.hub import CHEAP_ARGON2, open_hub
from support.shop import NOW, execute, rows

from soundbox_server import seed
from soundbox_server.clock import DAY_MS, now_ms
from soundbox_server.db import Database, Statements
from soundbox_server.errors import Forbidden
from soundbox_server.fees.terms import Rule, Terms, Version, Window
from soundbox_server.reconciliation.books import check
from soundbox_server.revenue.service import differences
from soundbox_server.scoring.facts import jakarta_number
from soundbox_server.scoring.service import compute_again
from soundbox_server.settings import Settings
from soundbox_server.settlements import planning, service
from soundbox_server.settlements.calendar import read_calendar
from soundbox_server.synthetic import demo
from soundbox_server.synthetic.books import Books

CALENDAR = read_calendar()
TERMS = Terms("fee_basic", (Version(1, "1970-01-01", (Rule(bps=70),), (Window("daily", "23:59", 1),)),))
DOORS = (
    "merchant/dashboard", "merchant/product-insights", "merchant/loan-timing", "merchant/credit-detail",
    "merchant/alerts", "transactions",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(home=tmp_path, database_url=database_url, master_key=SecretStr("A" * 43), **CHEAP_ARGON2)


async def planted(database: Database, settings: Settings, *, nights: int = 1, now_ms: int = NOW) -> Mapping[str, Any]:
    await seed.plant(database, settings, now_ms=now_ms, boxes=0)
    return await demo.plant(database, settings, now_ms=now_ms, nights=nights)


def books(number: int, *, now_ms: int = NOW) -> Books:
    shop = demo.shops(jakarta_number(NOW))[2]
    made, _ = demo.books_of(shop, TERMS, CALENDAR, returns_fee=False, seed=number, now_ms=now_ms)
    return made


def test_the_same_seed_and_moment_are_the_same_trade() -> None:
    once, again, other = books(7), books(7), books(8)

    assert once.rows == again.rows
    assert once.earned == again.earned
    assert len(once.rows["payment"]) > 1_500
    assert {row[0] for row in once.rows["payment"]}.isdisjoint(row[0] for row in other.rows["payment"])


def test_nothing_happens_after_now() -> None:
    made = books(7)

    for table, at in (("payment_event", 2), ("journal", 4), ("settlement", -1), ("payout", -1), ("refund", -1)):
        assert max(int(str(row[at])) for row in made.rows[table]) <= NOW, table


async def test_the_books_are_whole_and_stay_so_when_it_is_planted_again_and_settled_on(
    database: Database, settings: Settings
) -> None:
    first = await planted(database, settings)
    clean = [await database.read_at_leisure(look) for look in (check, differences, compute_again)]
    before = await counts(database)
    await execute(database, "DELETE FROM person WHERE id = 'per_trade_a'")  # as if a planting had been ended here

    again = await planted(database, settings, now_ms=NOW + 3 * DAY_MS)
    after = await counts(database)
    await settle_what_is_due(database, now_ms=NOW + 5 * DAY_MS)

    assert clean == [[], [], {"scores": 6, "differences": []}]
    assert (again, after) == (first, before)
    assert await database.read_at_leisure(check) == []
    unsettled = await rows(
        database,
        "SELECT count(*) AS n, (SELECT count(*) FROM settlement_item) AS settled FROM journal j JOIN payment p "
        "ON p.id = j.payment_id WHERE j.kind IN ('capture', 'refund') AND p.method <> 'cash' "
        "AND NOT EXISTS (SELECT 1 FROM settlement_item i WHERE i.journal_id = j.id)",
    )
    assert unsettled[0]["n"] == 0
    assert unsettled[0]["settled"] > 5_000


async def settle_what_is_due(database: Database, *, now_ms: int) -> None:
    for wanted in await database.read(lambda tx: planning.due_now(tx, CALENDAR, by=None, now_ms=now_ms)):

        async def begin(tx: Statements, wanted: service.Wanted = wanted) -> None:
            await service.begin(tx, wanted, now_ms=now_ms)

        async def advance(tx: Statements, wanted: service.Wanted = wanted) -> bool:
            return await service.advance(tx, wanted, now_ms=now_ms)

        await database.write(begin)
        while not await database.write(advance):
            pass


async def counts(database: Database) -> Mapping[str, int]:
    (found,) = await rows(
        database,
        "SELECT (SELECT count(*) FROM payment) AS payments, (SELECT count(*) FROM posting) AS postings, "
        "(SELECT count(*) FROM credit_score) AS scores, (SELECT count(*) FROM person) AS people, "
        "(SELECT count(*) FROM bank_consent_event) AS consents, (SELECT count(*) FROM loan_application) AS loans",
    )
    return found


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_shops_log_in_as_the_reference_has_it_and_see_how_they_do(
    database: Database, database_url: str, settings: Settings, tmp_path: Path
) -> None:
    told = await planted(database, settings, nights=3, now_ms=now_ms())

    seen, banks = {}, {}
    async with open_hub(database_url, tmp_path / "home") as hub:
        for user in told["users"]:
            asked = {"email": user["email"], "password": user["password"]}
            answer = (await hub.http.post("/api/auth/login", json=asked)).json()
            assert answer["success"], answer
            bearer = {"authorization": f"Bearer {answer['data']['accessToken']}"}
            if user["role"] == "bank":
                found = (await hub.http.get("/api/bank/merchants/all", headers=bearer)).json()
                banks[user["email"]] = {one["companyName"] for one in found["data"]["merchants"]}
            else:
                seen[user["email"]] = {
                    door: (await hub.http.get(f"/api/{door}", headers=bearer)).json()["data"] for door in DOORS
                }

    growing, steady, failing = (seen[f"merchant.{letter}@example.com"] for letter in "abc")
    dashboards = [one["merchant/dashboard"] for one in (growing, steady, failing)]
    scores = [one["currentCreditScore"] for one in dashboards]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 75 > 65 > scores[2]
    assert all(len(one["scoreHistory"]) == 3 and one["monthlyCashVolume"] > 0 for one in dashboards)
    assert dashboards[0]["monthlyGrowth"] > dashboards[1]["monthlyGrowth"] > dashboards[2]["monthlyGrowth"]
    assert len(growing["merchant/product-insights"]["top_trending_products"]) == 5
    assert growing["merchant/loan-timing"]["date_range"] or growing["merchant/loan-timing"]["confidence"] == 0
    assert "Transaction Drop" in {one["type"] for one in failing["merchant/alerts"]["alerts"]}
    assert failing["merchant/credit-detail"]["components"]["growthTrend"]["score"] == 0
    assert all(one["productInfo"] for one in growing["transactions"])
    assert banks == {
        "bank1@bca.com": {"Kopi Senja", "Warung Bu Tini", "Toko Busana Maju"},
        "bank2@mandiri.com": {"Kopi Senja", "Warung Bu Tini"}, "bank3@bni.com": {"Kopi Senja", "Toko Busana Maju"},
    }  # fmt: skip
    loans = await rows(database, "SELECT state, score, risk_band FROM loan_application ORDER BY merchant_id")
    assert [one["state"] for one in loans] == ["disbursed", "submitted", "rejected"]
    assert [one["score"] for one in loans] == scores
    # Of warnings of a past that never was, nobody hears.
    assert await rows(database, "SELECT id FROM outbox_message WHERE kind = 'early_warning'") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_it_is_refused_in_production(database: Database, settings: Settings) -> None:
    with pytest.raises(Forbidden):
        await demo.plant(database, settings.model_copy(update={"environment": "production"}), now_ms=NOW)

    assert await rows(database, "SELECT id FROM merchant WHERE id LIKE 'mer_trade%'") == []
