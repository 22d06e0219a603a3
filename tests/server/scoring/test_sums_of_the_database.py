"""What the database sums up is what the same payments add up to one by one."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from support.shop import NOW, execute, open_shop, rows
from support.trading import WORDS, Past, noon, plant, steady

from soundbox_server.clock import DAY_MS, jakarta_day
from soundbox_server.db import Database
from soundbox_server.scoring import collecting, service
from soundbox_server.scoring.facts import Trade, jakarta_number, paybaba_facts, soundbox_facts
from soundbox_server.scoring.state import Model

TODAY = jakarta_number(NOW)


def a_world(seed: int) -> list[Past]:
    """A hundred payments of all kinds, around the edges of the window too."""
    chance = random.Random(seed)
    trade = []
    for _ in range(120):
        at_ms = NOW - chance.randrange(-DAY_MS, 100 * DAY_MS)
        method = chance.choice(["qris_dynamic", "qris_dynamic", "ovo", "cash"])
        state = chance.choice(["paid", "paid", "paid", "refunded", "awaiting_payment", "expired"])
        settles = method != "cash" and state in ("paid", "refunded") and chance.random() < 0.7
        trade.append(
            Past(
                at_ms=at_ms, amount=chance.choice([1, 999, 1_000, chance.randrange(1_000, 3_000_000)]), method=method,
                state=state, settled_at_ms=at_ms + chance.randrange(12 * DAY_MS) if settles else None,
            )
        )  # fmt: skip
    return trade


def told(trade: list[Past], daily: list[dict[str, Any]] | None = None) -> Trade:
    """The same, as a file tells it."""
    transactions = [
        {
            "at": _rfc3339(one.at_ms), "amount": one.amount, "type": "CASH" if one.method == "cash" else "QRIS",
            "status": WORDS[one.state],
            "settled_at": _rfc3339(one.at_ms) if one.method == "cash" and one.is_paid
            else None if one.settled_at_ms is None else _rfc3339(one.settled_at_ms),
        }
        for one in trade
    ]  # fmt: skip
    return Trade.model_validate(
        {"transactions": transactions} | ({"daily_revenue": daily} if daily is not None else {})
    )


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


async def test_the_facts_of_random_worlds_are_the_same_either_way(database: Database) -> None:
    worlds = {(await open_shop(database)): a_world(seed) for seed in range(8)}
    for shop, trade in worlds.items():
        await plant(database, shop, trade)

    ours = await database.read(lambda tx: collecting.soundbox_facts(tx, as_of_ms=NOW))
    theirs = await database.read(lambda tx: collecting.paybaba_facts(tx, as_of_ms=NOW))

    kept = await rows(
        database, "SELECT merchant_id, day, CAST(sum(gross_amount) AS BIGINT) AS idr FROM daily_revenue GROUP BY 1, 2"
    )
    for shop, trade in worlds.items():
        assert ours[shop.merchant_id] == soundbox_facts(told(trade), as_of_ms=NOW)
        daily = [{"date": one["day"], "revenue": one["idr"]} for one in kept if one["merchant_id"] == shop.merchant_id]
        expected = paybaba_facts(told(trade, daily), as_of_ms=NOW, timezone="Asia/Jakarta")
        assert theirs[shop.merchant_id] == expected


async def test_one_merchants_facts_are_those_it_has_among_all(database: Database) -> None:
    one, other = await open_shop(database), await open_shop(database)
    for shop, seed in ((one, 1), (other, 2)):
        await plant(database, shop, a_world(seed))

    for model in Model:
        everybody = await database.read(lambda tx, model=model: service.facts_of(tx, model, as_of_ms=NOW))
        alone = await database.read(
            lambda tx, model=model: service.facts_of(tx, model, as_of_ms=NOW, merchant_ids=[one.merchant_id])
        )

        assert dict(alone) == {one.merchant_id: everybody[one.merchant_id]}


async def test_money_that_went_back_counts_where_it_came_from(database: Database) -> None:
    shop = await open_shop(database)
    await plant(database, shop, [Past(at_ms=noon(TODAY - 40), amount=100_000), *steady(TODAY, days=30, a_day=1)])
    await execute(
        database,
        "UPDATE payment SET state = 'partially_refunded', refunded_amount = 30000 WHERE amount = 100000",
    )

    facts = (await database.read(lambda tx: collecting.soundbox_facts(tx, as_of_ms=NOW)))[shop.merchant_id]

    assert (facts.paid_idr, facts.refunded_idr) == (100_000 + 30 * 50_000, 30_000)
    assert facts.signs.first_half == (0, 0)  # the second half of the window began 45 days ago
    assert facts.signs.second_half == (facts.paid_idr, 30_000)


async def test_a_score_is_kept_with_what_it_rests_on_and_is_the_same_again(database: Database) -> None:
    shop, silent = await open_shop(database), await open_shop(database)
    await plant(database, shop, steady(TODAY))

    for model in Model:
        facts = await database.read(lambda tx, model=model: service.facts_of(tx, model, as_of_ms=NOW))
        for _ in range(2):  # a night's work begun again
            await database.write(lambda tx, facts=facts: service.keep(tx, facts, as_of_ms=NOW, now_ms=NOW))

    stored = await rows(database, "SELECT * FROM credit_score ORDER BY model")
    assert [(one["model"], one["version"], one["merchant_id"]) for one in stored] == [
        ("paybaba-v1", 1, shop.merchant_id), ("soundbox-v2", 1, shop.merchant_id),
    ]  # fmt: skip
    assert [one["score"] for one in stored][1] == 81
    assert silent.merchant_id not in {one["merchant_id"] for one in stored}
    again = await database.read(service.compute_again)
    assert again == {"scores": 2, "differences": []}


async def test_a_score_that_was_tampered_with_is_found(database: Database) -> None:
    shop = await open_shop(database)
    await plant(database, shop, steady(TODAY))
    facts = await database.read(lambda tx: service.facts_of(tx, Model.SOUNDBOX_V2, as_of_ms=NOW))
    await database.write(lambda tx: service.keep(tx, facts, as_of_ms=NOW, now_ms=NOW))
    await execute(
        database,
        "INSERT INTO credit_score SELECT 'crs_forged', merchant_id, model, version, scored_at_ms + 1, 99, risk_band, "
        "min_limit_idr, max_limit_idr, inputs, metrics, reasons, created_at_ms FROM credit_score",
    )

    again = await database.read(service.compute_again)

    (difference,) = again["differences"]
    assert difference["id"] == "crs_forged"
    assert (difference["stored"]["score"], difference["computed"]["score"]) == (99, 81)


@pytest.mark.parametrize("deed", ["UPDATE credit_score SET score = 100", "DELETE FROM credit_score"])
async def test_a_score_that_was_given_stays(database: Database, deed: str) -> None:
    shop = await open_shop(database)
    await plant(database, shop, steady(TODAY))
    facts = await database.read(lambda tx: service.facts_of(tx, Model.SOUNDBOX_V2, as_of_ms=NOW))
    await database.write(lambda tx: service.keep(tx, facts, as_of_ms=NOW, now_ms=NOW))

    with pytest.raises(Exception, match="append-only"):
        await execute(database, deed)

    assert [one["score"] for one in await rows(database, "SELECT score FROM credit_score")] == [81]


async def test_a_shop_that_fell_silent_has_no_score_any_more(database: Database) -> None:
    shop = await open_shop(database)
    await plant(database, shop, steady(TODAY))
    later = NOW + 200 * DAY_MS

    for at_ms in (NOW, later, later + DAY_MS):
        facts = await database.read(lambda tx, at_ms=at_ms: service.facts_of(tx, Model.SOUNDBOX_V2, as_of_ms=at_ms))
        await database.write(lambda tx, facts=facts, at_ms=at_ms: service.keep(tx, facts, as_of_ms=at_ms, now_ms=at_ms))

    stored = await rows(database, "SELECT score, scored_at_ms FROM credit_score ORDER BY scored_at_ms")
    assert [(one["score"], one["scored_at_ms"]) for one in stored] == [(81, NOW), (None, later)]
    assert jakarta_day(NOW) == "2026-05-23"
