"""Early warnings as events, to whom they may be told, and by a bank's own thresholds; on both databases."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from support.banks import Banker, let_see
from support.hub import Hub
from support.merchant import Merchant
from support.shop import NOW, Shop, execute, open_shop, row, rows
from support.staff import Staff, audited
from support.trading import Past, noon, plant, steady

from soundbox_server import parts, seal
from soundbox_server.access.mails import Desk
from soundbox_server.audit.service import SYSTEM
from soundbox_server.clock import DAY_MS, jakarta_ms, now_ms
from soundbox_server.db import Database, Statements, reading
from soundbox_server.lending.service import banks_watching, grant
from soundbox_server.partners.licenses import charging_for
from soundbox_server.scoring import looks, thresholds
from soundbox_server.scoring.early_warning import DEFAULTS
from soundbox_server.scoring.facts import jakarta_number
from soundbox_server.scoring.jobs import Scorer
from soundbox_server.scoring.service import facts_of, keep
from soundbox_server.scoring.state import Model, WarningType
from soundbox_server.scoring.warnings import Hearing, Watching, nobody
from soundbox_server.settings import Settings
from soundbox_server.webhooks import deliveries

T = WarningType
TODAY = jakarta_number(NOW)
MIDNIGHT = jakarta_ms("2026-05-23")
RING = seal.ring(bytes(range(32)), sealing_keys=[], previous_masters=[])
DOOR = "/lending/warning-thresholds"


class Lets:
    """Whom every merchant lets hear of it, as the test says."""

    def __init__(self, *organisations: str) -> None:
        self.organisations = list(organisations)

    async def __call__(
        self, tx: Statements, merchant_ids: Sequence[str], *, now_ms: int
    ) -> Mapping[str, Sequence[str]]:
        return {merchant_id: self.organisations for merchant_id in merchant_ids if self.organisations}


def scorer(database: Database, banks: Watching | None = None, partners: Watching | None = None) -> Scorer:
    hearing = Hearing(banks=banks or Lets(), partners=partners or Lets())
    desk = Desk(public_url="http://hub", ring=RING, owner="test")
    return Scorer(database=database, model=Model.SOUNDBOX_V2, thresholds=DEFAULTS, desk=desk, hearing=hearing)


async def listening(database: Database, *organisations: tuple[str, str]) -> None:
    """These organisations, by id and kind, each with an address that hears of everything."""
    for organisation_id, kind in organisations:
        await execute(
            database,
            "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, $2, $1, 1) ON CONFLICT DO NOTHING",
            organisation_id, kind,
        )  # fmt: skip
        await execute(
            database,
            "INSERT INTO webhook_endpoint (id, organisation_id, profile, url, events, state, last_seq, created_at_ms) "
            "VALUES ($1, $2, 'standard', 'https://hooks.test/', '*', 'active', 0, 1)",
            f"whk_{organisation_id}", organisation_id,
        )  # fmt: skip


async def a_shop_that_falls(database: Database) -> tuple[Shop, str]:
    """A shop whose revenue and transactions fell by 83 % and 67 %, and the organisation it belongs to."""
    shop = await open_shop(database)
    before = [one for one in steady(TODAY) if one.at_ms < noon(TODAY - 10)]
    await plant(database, shop, before + [Past(at_ms=noon(day), amount=25_000) for day in range(TODAY - 10, TODAY)])
    found = await row(database, "SELECT organisation_id FROM merchant WHERE id = $1", shop.merchant_id)
    return shop, found["organisation_id"]


async def heard(database: Database, organisation_id: str) -> list[tuple[str, str, float]]:
    """What one organisation was told: the event, of which warning, beyond which threshold."""
    events = await rows(
        database, "SELECT type, data FROM webhook_event WHERE organisation_id = $1 ORDER BY id", organisation_id
    )
    told = [(one["type"], json.loads(one["data"])) for one in events]
    return sorted((kind, data["warning"], data["threshold"]) for kind, data in told)


async def say(database: Database, bank: str, version: int = 0, **said: int) -> None:
    wanted = {WarningType(kind): hundredths for kind, hundredths in said.items()}
    await database.write(
        lambda tx: thresholds.change(tx, bank, wanted, version=version, actor=SYSTEM, now_ms=NOW + version)
    )


async def test_a_warning_is_told_once_when_it_opens_and_once_when_it_ends(database: Database) -> None:
    shop, owner = await a_shop_that_falls(database)
    await listening(database, (owner, "merchant"))

    for at_ms in (MIDNIGHT, MIDNIGHT + 1):
        await asyncio.gather(*(scorer(database).score_everybody(as_of_ms=at_ms) for _ in range(2)))
    opened = await rows(database, "SELECT type, merchant_id, data FROM webhook_event ORDER BY id")
    for at_ms in (MIDNIGHT + 120 * DAY_MS, MIDNIGHT + 121 * DAY_MS):
        await asyncio.gather(*(scorer(database).score_everybody(as_of_ms=at_ms) for _ in range(2)))

    assert [one["type"] for one in opened] == ["warning.opened"] * 2
    (told,) = [said for one in opened if (said := json.loads(one["data"]))["warning"] == "revenue_drop"]
    warning = await row(database, "SELECT id, detected_at_ms FROM early_warning WHERE type = 'revenue_drop'")
    assert told == {
        "warning_id": warning["id"], "merchant_id": shop.merchant_id, "warning": "revenue_drop",
        "severity": "Critical", "status": "open", "metric": "revenue_drop_percent", "value": 83.33, "threshold": 30.0,
        "detected_at": told["detected_at"], "resolved_at": None,
    }  # fmt: skip
    assert await heard(database, owner) == [
        ("warning.opened", "revenue_drop", 30.0), ("warning.opened", "transaction_drop", 25.0),
        ("warning.resolved", "revenue_drop", 30.0), ("warning.resolved", "transaction_drop", 25.0),
    ]  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_nothing_is_written_where_nobody_listens(database: Database) -> None:
    await a_shop_that_falls(database)

    await scorer(database, banks=Lets("org_bank")).score_everybody(as_of_ms=MIDNIGHT)

    assert await rows(database, "SELECT id FROM webhook_event") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_partner_hears_of_trade_and_not_of_the_score(database: Database) -> None:
    shop = await open_shop(database)
    await plant(database, shop, steady(TODAY))
    await listening(database, ("org_partner", "partner"), ("org_bank", "bank"))
    watching = scorer(database, banks=Lets("org_bank"), partners=Lets("org_partner"))

    for at_ms in (MIDNIGHT, MIDNIGHT + 27 * DAY_MS):
        await watching.score_everybody(as_of_ms=at_ms)

    kinds = {kind for _, kind, _ in await heard(database, "org_bank")}
    assert "score_drop" in kinds
    assert {kind for _, kind, _ in await heard(database, "org_partner")} == kinds - {"score_drop"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_whoever_may_not_hear_any_more_does_not_hear_of_the_end(database: Database) -> None:
    await a_shop_that_falls(database)
    await listening(database, ("org_bank", "bank"), ("org_own", "bank"))
    await say(database, "org_own", revenue_drop=2_000)
    lets = Lets("org_bank", "org_own")
    await scorer(database, banks=lets).score_everybody(as_of_ms=MIDNIGHT)

    lets.organisations.clear()
    await scorer(database, banks=lets).score_everybody(as_of_ms=MIDNIGHT + 1)
    standing = await rows(database, "SELECT judged_for FROM early_warning WHERE state = 'open'")
    await scorer(database, banks=lets).score_everybody(as_of_ms=MIDNIGHT + 120 * DAY_MS)

    assert {one["judged_for"] for one in standing} == {""}  # a bank's own ended with its right to them
    for bank in ("org_bank", "org_own"):
        assert {kind for kind, _, _ in await heard(database, bank)} == {"warning.opened"}


async def test_a_bank_hears_of_what_is_a_warning_by_its_own_thresholds(database: Database) -> None:
    shop, owner = await a_shop_that_falls(database)
    banks = ("org_patient", "org_strict", "org_strict_too", "org_usual")
    await listening(database, (owner, "merchant"), *((bank, "bank") for bank in banks))
    await say(database, "org_patient", revenue_drop=9_000, transaction_drop=7_000)
    for bank in ("org_strict", "org_strict_too"):
        await say(database, bank, revenue_drop=1_250)

    await scorer(database, banks=Lets(*banks)).score_everybody(as_of_ms=MIDNIGHT)

    usual = [("warning.opened", "revenue_drop", 30.0), ("warning.opened", "transaction_drop", 25.0)]
    strict = [("warning.opened", "revenue_drop", 12.5), ("warning.opened", "transaction_drop", 25.0)]
    assert await heard(database, owner) == await heard(database, "org_usual") == usual
    assert await heard(database, "org_strict") == await heard(database, "org_strict_too") == strict
    assert await heard(database, "org_patient") == []
    seen = {}
    for bank in banks:
        judged_for = await database.read(lambda tx, bank=bank: thresholds.judged_for(tx, bank))
        async with reading(database) as session:
            warnings = await looks.standing_warnings(session, shop.merchant_id, judged_for=judged_for)
        seen[bank] = {one.threshold_hundredths for one in warnings}
    assert seen == {
        "org_patient": set(), "org_usual": {3_000, 2_500},
        "org_strict": {1_250, 2_500}, "org_strict_too": {1_250, 2_500},
    }  # fmt: skip


async def test_a_change_is_brought_to_what_stands(database: Database) -> None:
    await a_shop_that_falls(database)
    await listening(database, ("org_bank", "bank"))
    working = scorer(database, banks=Lets("org_bank"))
    await working.score_everybody(as_of_ms=MIDNIGHT)
    await execute(database, "DELETE FROM webhook_event")

    await say(database, "org_bank", revenue_drop=2_000)
    await asyncio.gather(working.judge_for_banks(), working.judge_for_banks())
    first = await heard(database, "org_bank")
    await say(database, "org_bank", 1, revenue_drop=9_000)
    await working.judge_for_banks()
    await working.judge_for_banks()
    second = await heard(database, "org_bank")

    assert first == [("warning.opened", "revenue_drop", 20.0), ("warning.opened", "transaction_drop", 25.0)]
    assert second == [*first, ("warning.resolved", "revenue_drop", 20.0)]
    assert await rows(database, "SELECT id FROM early_warning_threshold_change WHERE judged_at_ms IS NULL") == []


async def test_a_merchant_that_lets_a_bank_see_it_is_judged_for_the_bank_anew(database: Database) -> None:
    shop, _ = await a_shop_that_falls(database)
    await listening(database, ("org_bank", "bank"), ("org_usual", "bank"))
    await scorer(database).score_everybody(as_of_ms=MIDNIGHT)
    await say(database, "org_bank", revenue_drop=2_000)
    await scorer(database).judge_for_banks()
    before = await database.read(thresholds.unjudged)
    for bank in ("org_bank", "org_usual"):
        wanted = partial(grant, merchant_id=shop.merchant_id, bank_id=bank, actor=SYSTEM, now_ms=now_ms())
        await database.write(wanted)
    after = await database.read(thresholds.unjudged)
    await scorer(database, banks=banks_watching).judge_for_banks()

    assert (before, after) == ([], [("org_bank", 1)])
    assert await heard(database, "org_bank") == [
        ("warning.opened", "revenue_drop", 20.0), ("warning.opened", "transaction_drop", 25.0),
    ]  # fmt: skip
    assert await database.read(thresholds.unjudged) == []


async def test_who_is_erased_while_everybody_is_scored_gets_no_score(database: Database) -> None:
    shop, owner = await a_shop_that_falls(database)
    await listening(database, (owner, "merchant"))
    facts = await database.read(lambda tx: facts_of(tx, Model.SOUNDBOX_V2, as_of_ms=MIDNIGHT))
    await execute(database, "UPDATE merchant SET erased_at_ms = 1 WHERE id = $1", shop.merchant_id)

    kept = await database.write(lambda tx: keep(tx, facts, as_of_ms=MIDNIGHT, now_ms=now_ms()))

    assert shop.merchant_id in facts
    assert kept == ({}, {})
    assert await rows(database, "SELECT id FROM credit_score") == []


def test_equal_thresholds_are_judged_by_once() -> None:
    strict = DEFAULTS | {T.SCORE_DROP: Fraction(5)}
    own = {"org_a": strict, "org_b": dict(reversed(strict.items())), "org_c": DEFAULTS}

    assert [(dict(values), banks) for values, banks in thresholds.sharing(own)] == [
        (strict, {"org_a", "org_b"}), (DEFAULTS, {"org_c"})
    ]  # fmt: skip


# --- the doors ----------------------------------------------------------------------------------------------------


async def test_a_bank_says_from_where_on_it_is_a_warning(hub: Hub, database: Database) -> None:
    bank, operator = Staff(hub, "per_test_bank", "bank"), Staff(hub, "per_test_operator", "operator")

    at_first = await bank.get(DOOR)
    said = await _put(bank, {"version": 0, "revenue_drop": 12.5, "settlement_delay": 2})
    of_staff = await _put(operator, {"version": 1, "score_drop": 8}, "/admin/organisations/org_test_bank")

    assert (at_first["version"], at_first["changed_at"]) == (0, None)
    assert at_first["thresholds"]["revenue_drop"] == {
        "value": 30.0, "own": False, "unit": "percent", "least": 1.0, "most": 100.0
    }  # fmt: skip
    assert _figures(said) == {"revenue_drop": 12.5, "settlement_delay": 2.0}
    assert (said["version"], said["thresholds"]["score_drop"]["value"]) == (1, 15.0)
    assert await bank.get(DOOR) == of_staff
    assert (of_staff["version"], _figures(of_staff)) == (2, {"score_drop": 8.0})
    details = [json.loads(one["details"]) for one in await audited(database, "warning_thresholds.changed")]
    assert details == [
        {"version": 1, "hundredths": {"revenue_drop": 1_250, "settlement_delay": 200}},
        {"version": 2, "hundredths": {"score_drop": 800}},
    ]
    kept = await rows(
        database, "SELECT version, thresholds, changed_by FROM early_warning_threshold_change ORDER BY version"
    )
    assert [(one["version"], one["changed_by"]) for one in kept] == [(1, "per_test_bank"), (2, "per_test_operator")]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_who_may_not_say_it_and_what_may_not_be_said(hub: Hub, owner: Merchant) -> None:
    bank, operator = Staff(hub, "per_test_bank", "bank"), Staff(hub, "per_test_operator", "operator")
    await _put(bank, {"version": 0})

    refused = [
        await bank.refused("PUT", DOOR, {"version": 0, "score_drop": 8}, status=409),
        await bank.refused("PUT", DOOR, {"version": 1, "score_drop": 0.5}, status=400),
        await bank.refused("PUT", DOOR, {"version": 1, "settlement_delay": 31}, status=400),
        await bank.refused("PUT", DOOR, {"version": 1, "silence": 3}, status=400),
        await operator.refused("GET", "/admin/organisations/org_test_merchant/warning-thresholds", status=404),
    ]
    as_owner = await owner.call("GET", DOOR)

    assert [one["code"] for one in refused] == [
        "CONFLICT", "VALIDATION_FAILED", "VALIDATION_FAILED", "VALIDATION_FAILED", "NOT_FOUND"
    ]  # fmt: skip
    assert as_owner.status_code == 403


async def test_a_bank_hears_and_sees_what_a_merchant_lets_it_by_its_own_thresholds(
    hub: Hub, owner: Merchant, shop: Shop, database: Database
) -> None:
    """From the owner's consent to the event and the bank's page, all at the doors."""
    bank, today = Banker(hub), jakarta_number(now_ms())
    fell = [one for one in steady(today) if one.at_ms < noon(today - 10)]
    await plant(database, shop, fell + [Past(at_ms=noon(day), amount=25_000) for day in range(today - 10, today)])
    await listening(database, ("org_test_bank", "bank"), ("org_unseeing", "bank"))
    await let_see(database, shop.merchant_id)
    await _put(Staff(hub, "per_test_bank", "bank"), {"version": 0, "revenue_drop": 90, "transaction_drop": 12.5})

    await owner.post("/api/merchant/recalculate", {})
    theirs = (await bank.get(f"/api/bank/merchants/{shop.merchant_id}/alerts"))["data"]["alerts"]
    past = (await bank.get(f"/api/bank/alerts/{shop.merchant_id}"))["data"]["alerts"]
    profile = (await bank.get(f"/api/bank/merchants/{shop.merchant_id}"))["data"]
    own = (await owner.get("/api/merchant/alerts"))["data"]["alerts"]

    assert await heard(database, "org_test_bank") == [("warning.opened", "transaction_drop", 12.5)]
    assert await heard(database, "org_unseeing") == []
    assert [one["type"] for one in theirs] == [one["type"] for one in past] == profile["riskFlags"]
    assert profile["riskFlags"] == ["Transaction Drop"]
    assert past[0]["thresholdValue"] == 12.5
    assert {one["type"] for one in own} == {"Revenue Drop", "Transaction Drop"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_partners_with_a_license_that_holds_are_told_where_the_platform_says_so(database: Database) -> None:
    shop, _ = await a_shop_that_falls(database)
    await listening(database, *((f"org_{name}", "partner") for name in ("holds", "over", "revoked", "elsewhere")))
    at_ms = now_ms()
    for name, state, ends in (
        ("holds", "active", at_ms + 60_000), ("over", "active", at_ms), ("revoked", "revoked", None),
    ):  # fmt: skip
        await execute(
            database,
            "INSERT INTO license (id, key, organisation_id, merchant_id, price_per_token, state, expires_at_ms, "
            "created_at_ms) VALUES ($1, $1, $2, $3, 100, $4, $5, 1)",
            f"lic_{name}", f"org_{name}", shop.merchant_id, state, ends,
        )  # fmt: skip

    told = await database.read(lambda tx: charging_for(tx, [shop.merchant_id], now_ms=at_ms))

    assert told == {shop.merchant_id: ["org_holds"]}
    assert parts.warning_hearing(Settings(warnings_to_partners=True)).partners is charging_for
    assert parts.warning_hearing(Settings()).partners is nobody
    assert parts.warning_hearing(Settings()).banks is banks_watching


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_banks_address_hears_of_a_warning_under_a_number_of_its_own(hub: Hub, database: Database) -> None:
    operator = Staff(hub, "per_test_operator", "operator")
    wanted = {"organisation_id": "org_test_bank", "url": "https://bank.example/hooks", "events": ["warning.opened"]}
    webhook = await operator.post("/admin/webhooks", wanted, status=201)
    await a_shop_that_falls(database)

    await scorer(database, banks=Lets("org_test_bank")).score_everybody(as_of_ms=MIDNIGHT)
    from_now = await database.write(_route)
    letters = await rows(
        database, "SELECT kind, seq, body FROM outbox_message WHERE recipient_id = $1 ORDER BY seq", webhook["id"]
    )

    assert from_now == 2
    assert [(one["kind"], one["seq"]) for one in letters] == [("warning.opened", 1), ("warning.opened", 2)]
    body: dict[str, Any] = json.loads(bytes(letters[0]["body"]))
    assert set(body) == {"id", "type", "timestamp", "sequence", "data"}


async def _route(tx: Statements) -> int:
    return await deliveries.route(tx, owner="test", now_ms=NOW)


async def _put(who: Staff, body: Any, prefix: str = "/lending") -> Any:
    answer = await who.call("PUT", f"{prefix}/warning-thresholds", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def _figures(view: Any) -> dict[str, float]:
    return {kind: one["value"] for kind, one in view["thresholds"].items() if one["own"]}
