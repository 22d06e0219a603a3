"""Reference 000's bank doors: a bank sees who lets it, and cannot tell the others from nobody."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from sqlalchemy import event
from support.banks import BANK, Banker, a_bank, let_see
from support.hub import Hub
from support.merchant import Merchant
from support.shop import Shop, execute, open_shop, report, rows, take
from support.trading import plant, steady

from soundbox_server.audit.service import SYSTEM
from soundbox_server.clock import jakarta_day, now_ms
from soundbox_server.db import Database, Statements
from soundbox_server.lending.service import withdraw
from soundbox_server.lending.state import ConsentScope
from soundbox_server.policy import POLICY
from soundbox_server.scoring.facts import jakarta_number

DOORS = "/api/bank"
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def banker(hub: Hub) -> Banker:
    return Banker(hub)


async def scored(database: Database, merchant_id: str, score: int, *, band: str = "Low", at_ms: int = 1) -> None:
    """A score as the nightly run would have left it."""
    await execute(
        database,
        "INSERT INTO credit_score (id, merchant_id, model, version, scored_at_ms, score, risk_band, min_limit_idr, "
        "max_limit_idr, inputs, metrics, reasons, created_at_ms) VALUES ($1, $2, 'soundbox-v2', 1, $3, $4, $5, 1000, "
        "2000, '{}', '{}', '{\"components\": {}}', $3)",
        f"crs_{merchant_id}_{at_ms}", merchant_id, at_ms, score, band,
    )  # fmt: skip


def fits(hub: Hub, method: str, path: str, body: Any, status: str = "200") -> list[str]:
    """What of an answer is not as it is described."""
    document = hub.app.openapi()
    told = document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
    whole = {**told, "components": document["components"]}
    return [f"{error.json_path}: {error.message}" for error in OAS31Validator(whole).iter_errors(body)]


async def test_a_bank_reads_all_of_a_merchant_that_lets_it(
    hub: Hub, banker: Banker, owner: Merchant, shop: Shop, database: Database
) -> None:
    await plant(database, shop, steady(jakarta_number(now_ms())))
    await owner.post("/api/merchant/recalculate", {})
    await let_see(database, shop.merchant_id)
    one = f"{DOORS}/merchants/{shop.merchant_id}"

    listed = await banker.get(f"{DOORS}/merchants/all")
    profile = await banker.get(one)
    credit = await banker.get(f"{one}/credit")
    alerts = await banker.get(f"{one}/alerts")
    past = await banker.get(f"{DOORS}/alerts/{shop.merchant_id}", resolved="true")
    batch = await banker.post(f"{DOORS}/batch-assessment", {"merchantIds": [shop.merchant_id, "mer_nobody"]})

    (row,) = listed["data"]["merchants"]
    assert (row["merchantId"], row["creditScore"], row["riskBand"]) == (shop.merchant_id, 81, "Low")
    assert (row["monthlyRevenue"], row["businessScale"]) == (29 * 150_000, "Micro")
    told = profile["data"]
    assert (told["email"], told["address"]) == ("merchant_owner@shop.test", "Jl. Contoh 1")
    assert (told["loanEligibility"]["isEligible"], told["loanEligibility"]["canBorrow"]) == (True, True)
    assert [one["score"] for one in told["scoreHistory"]] == [81]
    assert (credit["data"]["score"], credit["data"]["components"]["refundRate"]["score"]) == (81, 100)
    assert (alerts["data"]["totalAlerts"], past["data"]["count"]) == (0, 0)
    assert [(one["found"], one["creditScore"]) for one in batch["data"]["results"]] == [(True, 81), (False, None)]
    shapes = {
        f"{DOORS}/merchants/all": listed, f"{DOORS}/merchants/{{merchant_id}}": profile,
        f"{DOORS}/merchants/{{merchant_id}}/credit": credit, f"{DOORS}/merchants/{{merchant_id}}/alerts": alerts,
        f"{DOORS}/alerts/{{merchant_id}}": past,
    }  # fmt: skip
    assert {path: wrong for path, body in shapes.items() if (wrong := fits(hub, "get", path, body))} == {}
    assert fits(hub, "post", f"{DOORS}/batch-assessment", batch) == []
    looked = await rows(database, "SELECT what, actor_id, merchant_id FROM bank_look ORDER BY id")
    assert [look["what"] for look in looked] == ["list", "profile", "credit", "alerts", "alerts", "assessment"]
    assert {(look["actor_id"], look["merchant_id"]) for look in looked} == {("per_test_bank", shop.merchant_id)}


async def test_who_does_not_let_it_is_as_unknown_as_nobody(banker: Banker, shop: Shop, database: Database) -> None:
    await let_see(database, shop.merchant_id, await a_bank(database))  # another bank's business
    await scored(database, shop.merchant_id, 90)
    reads = ("merchants/{}", "merchants/{}/credit", "merchants/{}/alerts", "alerts/{}", "loan-applications/{}")
    wish = {"amount": 1_000_000, "tenor": 12}

    for door in reads:
        theirs = await banker.get(f"{DOORS}/{door}".format(shop.merchant_id), status=404)
        nobodys = await banker.get(f"{DOORS}/{door}".format("mer_nobody"), status=404)
        assert same_but_for_the_request(theirs, nobodys)
    asked = [
        await banker.post(f"{DOORS}/loan-applications", wish | {"merchantId": one}, status=404)
        for one in (shop.merchant_id, "mer_nobody")
    ]
    listed = (await banker.get(f"{DOORS}/merchants/all"))["data"]
    found = (await banker.post(f"{DOORS}/merchants/search", {"minCreditScore": 90}))["data"]
    batch = (await banker.post(f"{DOORS}/batch-assessment", {"merchantIds": [shop.merchant_id, "mer_x"]}))["data"]

    assert same_but_for_the_request(*asked)
    assert (listed["count"], listed["merchants"], found["count"], batch["found"]) == (0, [], 0, 0)
    first, second = ({name: value for name, value in one.items() if name != "merchantId"} for one in batch["results"])
    assert first == second
    assert await rows(database, "SELECT id FROM bank_look") == []


def same_but_for_the_request(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = ("success", "message", "code")
    return {name: one[name] for name in names} == {name: other[name] for name in names} and one.keys() == other.keys()


async def test_a_consent_to_the_score_shows_score_and_neither_money_nor_contact(
    hub: Hub, banker: Banker, owner: Merchant, shop: Shop, database: Database
) -> None:
    await let_see(database, shop.merchant_id, scope=ConsentScope.SCORE)
    await plant(database, shop, steady(jakarta_number(now_ms())))
    await owner.post("/api/merchant/recalculate", {})
    credit_door = f"{DOORS}/merchants/{{merchant_id}}/credit"

    (row,) = (await banker.get(f"{DOORS}/merchants/all"))["data"]["merchants"]
    by_money = (await banker.post(f"{DOORS}/merchants/search", {"minMonthlyRevenue": 0}))["data"]
    for door in (f"merchants/{shop.merchant_id}", f"merchants/{shop.merchant_id}/alerts", f"alerts/{shop.merchant_id}"):
        await banker.get(f"{DOORS}/{door}", status=404)

    credit = await banker.get(credit_door.format(merchant_id=shop.merchant_id))

    assert (row["creditScore"], row["monthlyRevenue"], by_money["count"]) == (81, None, 0)
    metrics = credit["data"]["metrics"]
    assert (credit["data"]["score"], metrics["refundRatePercentage"]) == (81, 0)
    money = ("avgMonthlyRevenue", "growthPercentageMoM", "transactionCount3m")
    assert [metrics[name] for name in money] == [None, None, None]
    told = {name: one["value"] for name, one in credit["data"]["components"].items()}
    assert [name for name, value in told.items() if value is None] == ["transactionVolume", "growthTrend"]
    assert fits(hub, "get", credit_door, credit) == []


async def test_why_there_is_no_score_is_told_to_whom_may_see_how_they_trade(
    hub: Hub, banker: Banker, owner: Merchant, shop: Shop, database: Database
) -> None:
    await let_see(database, shop.merchant_id, scope=ConsentScope.SCORE)
    await take(database, report(await shop.payment(await shop.box())), now_ms=now_ms())
    await owner.post("/api/merchant/recalculate", {})
    door = f"{DOORS}/merchants/{shop.merchant_id}/credit"

    reserved = await banker.get(door, status=404)
    await execute(database, "UPDATE bank_consent SET scope = 'full'")
    told = await banker.get(door, status=404)

    assert reserved["message"] == "There is no score yet."
    assert "perlu" in told["message"]


async def shops_of(database: Database, *scores: int | None) -> list[str]:
    """Merchants that let the test bank see everything, with these scores; by id."""
    made = []
    for n, score in enumerate(scores):
        one = await open_shop(database, brand_name=f"Toko {n}")
        await let_see(database, one.merchant_id)
        if score is not None:
            await scored(database, one.merchant_id, score, band="Low" if score >= 80 else "Medium")
        made.append(one.merchant_id)
    return sorted(made)


@ON_SQLITE
async def test_a_search_finds_by_score_band_category_city_and_revenue(banker: Banker, database: Database) -> None:
    ids = await shops_of(database, 90, 80, 60, None)
    await scored(database, ids[0], 65, band="Medium", at_ms=2)  # the newest is what counts
    await execute(database, "UPDATE merchant SET city = 'BANDUNG' WHERE id = $1", ids[1])

    async def found(**asked: Any) -> list[str]:
        data = (await banker.post(f"{DOORS}/merchants/search", asked))["data"]
        return [one["merchantId"] for one in data["merchants"]]

    assert await found() == ids
    assert await found(minCreditScore=65, maxCreditScore=80) == ids[:2]
    assert await found(riskBand="Medium") == [ids[0], ids[2]]
    assert await found(city="bandung") == [ids[1]]
    assert await found(businessCategory="5812", minCreditScore=0) == ids[:3]
    assert await found(businessCategory="9999") == []
    assert await found(maxMonthlyRevenue=0) == ids
    assert await found(minMonthlyRevenue=1) == []
    till = await rows(database, "SELECT id FROM terminal WHERE merchant_id = $1", ids[2])
    await execute(database, _REVENUE, jakarta_day(now_ms()), till[0]["id"], ids[2])
    assert await found(minMonthlyRevenue=70_000, maxMonthlyRevenue=70_000) == [ids[2]]
    assert await found(maxMonthlyRevenue=69_999) == [one for one in ids if one != ids[2]]
    await banker.post(f"{DOORS}/merchants/search", {"minCreditScore": 101}, status=400)


_REVENUE = (
    "INSERT INTO daily_revenue (day, terminal_id, provider, merchant_id, payments, gross_amount, fee_amount, refunds, "
    "refunded_amount, reversals, reversed_amount, fee_returned) "
    "VALUES ($1, $2, 'sandbox', $3, 1, 70000, 0, 0, 0, 0, 0, 0)"
)


@ON_SQLITE
async def test_pages_go_by_offset_or_by_the_last_merchant(banker: Banker, database: Database) -> None:
    ids = await shops_of(database, 10, 20, 30, 40, 50)

    by_offset = [(await banker.get(f"{DOORS}/merchants/all", limit=2, offset=at))["data"] for at in (0, 2, 4)]
    first = (await banker.get(f"{DOORS}/merchants/all", limit=2))["data"]
    second = (await banker.get(f"{DOORS}/merchants/all", limit=2, after=first["nextAfter"]))["data"]

    assert [one["merchantId"] for page in by_offset for one in page["merchants"]] == ids
    assert [page["count"] for page in by_offset] == [2, 2, 1]
    assert [one["merchantId"] for one in second["merchants"]] == ids[2:4]
    assert by_offset[2]["nextAfter"] is None


@ON_SQLITE
async def test_the_list_is_a_file_too_and_everybody_in_it_was_looked_at(
    banker: Banker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundbox_server.lending.routes.TOGETHER", 2)
    monkeypatch.setattr("soundbox_server.lending.routes.MOST_IN_A_FILE", 4)
    ids = await shops_of(database, 10, 20, 30, 40)
    await execute(database, "UPDATE merchant SET brand_name = '=1+1' WHERE id = $1", ids[0])

    whole = await banker.call("GET", "/lending/merchants/file")
    some = await banker.call("GET", "/lending/merchants/file", params={"min_score": 35})
    await shops_of(database, 50)
    too_many = await banker.get("/lending/merchants/file", status=409)

    assert (whole.headers["content-type"], too_many["code"]) == ("text/csv; charset=utf-8", "CONFLICT")
    told = list(csv.DictReader(io.StringIO(whole.text)))
    assert [one["merchant_id"] for one in told] == ids
    assert (told[0]["name"], len(some.text.splitlines())) == ("'=1+1", 2)
    looked = await rows(database, "SELECT merchant_id FROM bank_look WHERE what = 'file' ORDER BY id LIMIT 4")
    assert [one["merchant_id"] for one in looked] == ids


@pytest.fixture
async def read_statements(hub: Hub) -> AsyncIterator[list[str]]:
    """What is asked of the database by those who read."""
    asked: list[str] = []

    def take(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    engine = hub.app.state.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", take)
    yield asked
    event.remove(engine, "before_cursor_execute", take)


async def test_a_page_is_one_statement_however_many_merchants_are_on_it(
    banker: Banker, database: Database, read_statements: list[str]
) -> None:
    await shops_of(database, 10, 20, 30, 40)
    await banker.get(f"{DOORS}/merchants/all")  # and who asks is looked up

    counts = []
    for limit in (1, 4):
        read_statements.clear()
        await banker.get(f"{DOORS}/merchants/all", limit=limit)
        counts.append(len([one for one in read_statements if "bank_consent" in one]))

    assert counts == [1, 1]


async def test_nothing_is_seen_after_the_withdrawal_was_answered(
    hub: Hub, banker: Banker, shop: Shop, database: Database
) -> None:
    """Twenty searches run while the merchant withdraws: those that begin later see nothing."""
    consent = await let_see(database, shop.merchant_id)
    answered_at: list[float] = []
    seen_by: list[tuple[float, int]] = []
    loop = asyncio.get_running_loop()

    async def look(after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        began = loop.time()
        data = (await banker.get(f"{DOORS}/merchants/all"))["data"]
        seen_by.append((began, data["count"]))

    async def end() -> None:
        await database.write(lambda tx: withdraw(tx, consent, actor=SYSTEM, now_ms=now_ms()))
        answered_at.append(loop.time())

    await banker.get(f"{DOORS}/merchants/all")
    await asyncio.gather(*(look(n) for n in range(10)), end(), *(look(10 * n) for n in range(10)))
    last = (await banker.get(f"{DOORS}/merchants/all"))["data"]

    assert last["count"] == 0
    assert all(count == 0 for began, count in seen_by if began >= answered_at[0])
    looked = await rows(database, "SELECT id FROM bank_look")
    assert len(looked) == 1 + sum(count for _, count in seen_by)


async def test_what_was_read_before_a_withdrawal_is_not_shown_after_it(
    hub: Hub, banker: Banker, shop: Shop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consent ends between the reading and the look's commit."""
    consent = await let_see(database, shop.merchant_id)
    write = hub.app.state.database.write

    async def withdrawn_first(work: Any, **how: Any) -> Any:
        async def both(tx: Statements) -> Any:
            if work.__qualname__.startswith("note."):
                await withdraw(tx, consent, actor=SYSTEM, now_ms=now_ms())
            return await work(tx)

        return await write(both, **how)

    headers = await hub.admit(banker.name, "bank")
    monkeypatch.setattr(hub.app.state.database, "write", withdrawn_first)
    profile = await hub.http.get(f"{DOORS}/merchants/{shop.merchant_id}", headers=headers)

    assert profile.status_code == 404
    assert await rows(database, "SELECT id FROM bank_look") == []


@ON_SQLITE
async def test_a_consent_narrowed_since_the_reading_shows_no_revenue(
    hub: Hub, banker: Banker, shop: Shop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await let_see(database, shop.merchant_id)
    headers = await hub.admit(banker.name, "bank")
    write = hub.app.state.database.write

    async def narrowed_first(work: Any, **how: Any) -> Any:
        async def both(tx: Statements) -> Any:
            await tx.execute("UPDATE bank_consent SET scope = $1", "score")
            return await work(tx)

        return await write(both, **how)

    async def told(path: str) -> Any:
        await execute(database, "UPDATE bank_consent SET scope = 'full'")
        with monkeypatch.context() as patch:
            patch.setattr(hub.app.state.database, "write", narrowed_first)
            return await hub.http.get(path, headers=headers)

    (row,) = (await told("/lending/merchants")).json()["data"]
    (line,) = csv.DictReader(io.StringIO((await told("/lending/merchants/file")).text))
    (theirs,) = (await told(f"{DOORS}/merchants/all")).json()["data"]["merchants"]

    assert (row["consent_scope"], row["revenue_30d_idr"], theirs["monthlyRevenue"]) == ("score", None, None)
    assert (line["consent_scope"], line["revenue_30d_idr"]) == ("score", "")


@ON_SQLITE
async def test_a_bank_hands_in_an_application_with_the_score_of_that_moment(
    hub: Hub, banker: Banker, shop: Shop, database: Database
) -> None:
    await let_see(database, shop.merchant_id)
    await scored(database, shop.merchant_id, 72, band="Medium")
    wish = {"merchantId": shop.merchant_id, "amount": 30_000_000, "tenor": 12, "interestRate": 12.5, "bankId": BANK}

    made = await banker.post(f"{DOORS}/loan-applications", wish | {"status": "Submitted"}, status=201)
    await banker.post(f"{DOORS}/loan-applications", wish | {"status": "Approved"}, status=400)
    await banker.post(f"{DOORS}/loan-applications", wish | {"bankId": "org_other"}, status=403)
    await scored(database, shop.merchant_id, 20, band="High", at_ms=2)
    listed = await banker.get(f"{DOORS}/loan-applications/{shop.merchant_id}")

    assert fits(hub, "post", f"{DOORS}/loan-applications", made, "201") == []
    (row,) = listed["data"]["applications"]
    assert (row["status"], row["creditScore"], row["riskBand"], row["scoreModel"]) == (
        "Submitted", 72, "Medium", "soundbox-v2",
    )  # fmt: skip
    assert (row["amount"], row["tenor"], row["interestRate"]) == (30_000_000, 12, 12.5)


@ON_SQLITE
async def test_asked_twice_with_one_key_one_application_is_made(banker: Banker, shop: Shop, database: Database) -> None:
    await let_see(database, shop.merchant_id)
    wish = {"merchantId": shop.merchant_id, "amount": 1_000_000, "tenor": 6}

    answers = [await banker.call("POST", f"{DOORS}/loan-applications", json=wish, key="k") for _ in range(2)]

    assert [one.status_code for one in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    assert len(await rows(database, "SELECT id FROM loan_application")) == 1


@ON_SQLITE
@pytest.mark.parametrize(
    ("role", "elsewhere"),
    [
        ("merchant_owner", ("/api/bank/", "/lending/")),
        ("merchant_staff", ("/api/bank/", "/lending/")),
        ("bank", ("/admin/", "/merchant/", "/api/merchant/", "/api/transactions", "/api/v1/")),
    ],
)
async def test_neither_gets_in_at_the_others_doors(hub: Hub, role: str, elsewhere: tuple[str, ...]) -> None:
    closed = [
        route for route, let_in in POLICY.items() if isinstance(let_in, frozenset) and route[1].startswith(elsewhere)
    ]
    for method, path in closed:
        answer = await hub.http.request(method, path.replace("{", "").replace("}", ""), headers=hub.as_role(role))

        assert answer.status_code == 403, (method, path, role, answer.text)
    assert len(closed) > 20
