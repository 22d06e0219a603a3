"""Nightly scoring and the warnings that follow it, on both databases."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from support.shop import NOW, Shop, execute, open_shop, row, rows
from support.trading import Past, noon, plant, steady

from soundbox_server import seal
from soundbox_server.access.mails import Desk
from soundbox_server.clock import DAY_MS, jakarta_day, jakarta_ms
from soundbox_server.db import Database
from soundbox_server.mail.service import written
from soundbox_server.scoring import jobs
from soundbox_server.scoring.early_warning import DEFAULTS
from soundbox_server.scoring.facts import jakarta_number
from soundbox_server.scoring.jobs import Scorer
from soundbox_server.scoring.state import Model, WarningType
from soundbox_server.scoring.thresholds import thresholds_of

TODAY = jakarta_number(NOW)
MIDNIGHT = jakarta_ms("2026-05-23")
RING = seal.ring(bytes(range(32)), sealing_keys=[], previous_masters=[])


def scorer(database: Database, **other: Any) -> Scorer:
    desk = Desk(public_url="http://hub", ring=RING, owner="test")
    given = {"model": Model.SOUNDBOX_V2, "thresholds": DEFAULTS, "desk": desk} | other
    return Scorer(database=database, **given)


async def an_owner(database: Database, shop: Shop, *, language: str = "id") -> None:
    found = await row(database, "SELECT organisation_id FROM merchant WHERE id = $1", shop.merchant_id)
    await execute(
        database,
        "INSERT INTO person (id, organisation_id, organisation_kind, email, name, role, state, language, "
        "password_hash, created_at_ms) VALUES ('per_sari', $1, 'merchant', 'sari@shop.test', 'Sari', 'merchant_owner', "
        "'active', $2, 'x', 1)",
        found["organisation_id"], language,
    )  # fmt: skip


def falling(today: int) -> list[Past]:
    """Three sales a day, and for the last ten days one of half the amount."""
    before = [one for one in steady(today) if one.at_ms < noon(today - 10)]
    return before + [Past(at_ms=noon(day), amount=25_000) for day in range(today - 10, today)]


async def standing(database: Database) -> Sequence[dict[str, Any]]:
    return await rows(
        database,
        "SELECT type, severity, state, value_hundredths, detected_at_ms FROM early_warning ORDER BY type, id",
    )


async def test_a_fall_is_warned_of_once_and_ends_by_itself(database: Database) -> None:
    shop = await open_shop(database)
    await an_owner(database, shop)
    await plant(database, shop, falling(TODAY))

    for at_ms in (MIDNIGHT, MIDNIGHT + 1):
        await scorer(database).score_everybody(as_of_ms=at_ms)
    first = await standing(database)
    mails = await rows(database, "SELECT id, address, body FROM outbox_message WHERE kind = 'early_warning'")
    await scorer(database).score_everybody(as_of_ms=MIDNIGHT + 120 * DAY_MS)
    later = await standing(database)

    # 150,000 a day became 25,000, and three sales a day one.
    assert [(one["type"], one["severity"], one["state"], one["value_hundredths"]) for one in first] == [
        ("revenue_drop", "Critical", "open", 8333), ("transaction_drop", "Critical", "open", 6667),
    ]  # fmt: skip
    assert [one["state"] for one in later] == ["resolved", "resolved"]
    (mail,) = mails
    told = written(mail["id"], to=mail["address"], body=bytes(mail["body"]), sender="no-reply@hub.test", ring=RING)
    assert (mail["address"], told["Subject"]) == ("sari@shop.test", "Peringatan dini untuk Warung Sari")
    assert "Pendapatan harian turun 83,33 % (batas 30 %)." in told.get_content()


async def test_a_score_that_fell_is_warned_of(database: Database) -> None:
    shop = await open_shop(database)
    await plant(database, shop, steady(TODAY))
    await scorer(database).score_everybody(as_of_ms=MIDNIGHT)

    await scorer(database).score_everybody(as_of_ms=MIDNIGHT + 27 * DAY_MS)

    scores = [one["score"] for one in await rows(database, "SELECT score FROM credit_score ORDER BY scored_at_ms")]
    (warning,) = [one for one in await standing(database) if one["type"] == "score_drop"]
    assert warning["value_hundredths"] == 100 * (scores[0] - scores[1])


async def test_asking_again_on_the_same_day_does_not_end_the_warning(database: Database) -> None:
    shop = await open_shop(database)
    await plant(database, shop, steady(TODAY))
    days = (MIDNIGHT, MIDNIGHT + 27 * DAY_MS, MIDNIGHT + 27 * DAY_MS + 3_600_000, MIDNIGHT + 28 * DAY_MS)

    stood = []
    for at_ms in days:
        await scorer(database).score_everybody(as_of_ms=at_ms)
        stood.append([one["state"] for one in await standing(database) if one["type"] == "score_drop"])

    assert stood == [[], ["open"], ["open"], ["resolved"]]


async def test_thresholds_decide(database: Database) -> None:
    shop = await open_shop(database)
    await plant(database, shop, falling(TODAY))
    patient = {WarningType.REVENUE_DROP: Fraction(90), WarningType.TRANSACTION_DROP: Fraction(90)}

    await scorer(database, thresholds=patient).score_everybody(as_of_ms=MIDNIGHT)

    assert await standing(database) == []


async def test_a_bank_has_thresholds_of_its_own(database: Database) -> None:
    await execute(
        database, "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ('org_bank', 'bank', 'Bank', 1)"
    )
    await execute(
        database,
        "INSERT INTO early_warning_threshold (organisation_id, type, hundredths) VALUES ('org_bank', $1, 1250)",
        "score_drop",
    )

    theirs = await database.read(lambda tx: thresholds_of(tx, "org_bank", default=DEFAULTS))

    assert dict(theirs) == DEFAULTS | {WarningType.SCORE_DROP: Fraction(25, 2)}


async def test_a_night_is_scored_once_and_taken_over_from_whoever_died(database: Database) -> None:
    model = Model.SOUNDBOX_V2
    three = MIDNIGHT + 3 * 3_600_000

    async def claimed(at_ms: int) -> str | None:
        return await database.write(lambda tx: jobs.claim(tx, model, now_ms=at_ms))

    async def due(at_ms: int) -> bool:
        return await database.read(lambda tx: jobs.is_due(tx, model, now_ms=at_ms))

    assert [await due(three - 1), await due(three)] == [False, True]
    assert [await claimed(three), await claimed(three + 1)] == ["2026-05-23", None]
    assert await claimed(three + jobs.LEASE_MS) == "2026-05-23"
    await database.write(lambda tx: jobs.finish(tx, model, "2026-05-23", 7, now_ms=three))
    assert [await due(three + 1), await claimed(three + 2 * jobs.LEASE_MS)] == [False, None]
    assert await due(three + DAY_MS)


async def test_the_clock_scores_as_of_the_beginning_of_the_day(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await open_shop(database)
    await plant(database, shop, steady(TODAY))
    monkeypatch.setattr("soundbox_server.clock.now_ms", lambda: NOW)

    for _ in range(2):
        await scorer(database).tick()

    (score,) = await rows(database, "SELECT merchant_id, score, scored_at_ms FROM credit_score")
    (run,) = await rows(database, "SELECT day, model, merchants, finished_at_ms FROM scoring_run")
    assert score == {"merchant_id": shop.merchant_id, "score": 81, "scored_at_ms": MIDNIGHT}
    assert run == {"day": jakarta_day(NOW), "model": "soundbox-v2", "merchants": 1, "finished_at_ms": NOW}
