"""A loan application from its draft to the money: who may do what, in which order, and who wins at once."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.banks import BANK, Banker, a_bank, let_see
from support.hub import Hub
from support.merchant import Merchant
from support.shop import NOW, Shop, execute, open_shop, row, rows
from support.staff import Staff, audited

from soundbox_server import clock
from soundbox_server.audit.service import Actor
from soundbox_server.clock import DAY_MS
from soundbox_server.db import Database
from soundbox_server.errors import Conflict, Forbidden, IllegalTransition, NotFound
from soundbox_server.lending import applications
from soundbox_server.lending.applications import Disbursement, NewApplication, Offer
from soundbox_server.lending.state import TRANSITIONS, LoanState, Side, require
from soundbox_server.scoring.state import Model

OURS, THEIRS = "/lending/loan-applications", "/merchant/loan-applications"
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def banker(hub: Hub) -> Banker:
    return Banker(hub)


def wish(shop: Shop, **other: Any) -> dict[str, Any]:
    return {"merchant_id": shop.merchant_id, "bank_id": BANK, "amount_idr": 20_000_000, "tenor_months": 12} | other


async def handed_in(owner: Merchant, shop: Shop) -> str:
    """By the merchant; its id."""
    made = (await owner.post(THEIRS, wish(shop), status=201))["data"]["id"]
    await owner.post(f"{THEIRS}/{made}/submit", None)
    return str(made)


async def test_from_a_merchants_wish_to_the_money_in_hand(
    hub: Hub, owner: Merchant, banker: Banker, shop: Shop, database: Database
) -> None:
    await let_see(database, shop.merchant_id)
    made = (await owner.post(THEIRS, wish(shop), status=201))["data"]
    before = (await banker.get(OURS))["data"]
    await owner.post(f"{THEIRS}/{made['id']}/submit", None)
    one = f"{OURS}/{made['id']}"

    await banker.post(f"{one}/review")
    approved = (
        await banker.post(f"{one}/approve", {"reason": "steady trade", "amount_idr": 15_000_000, "interest_bps": 1_100})
    )["data"]
    too_much = await banker.post(
        f"{one}/disburse", {"reference": "trf-1", "on": "2025-05-23", "amount_idr": 15_000_001}, status=400
    )
    paid = (await banker.post(f"{one}/disburse", {"reference": "trf-1", "on": "2025-05-23", "amount_idr": 15_000_000}))[
        "data"
    ]

    assert (made["status"], made["made_by_side"], before) == ("draft", "merchant", [])
    assert approved["decision"]["approved_amount_idr"] == 15_000_000
    assert (approved["decision"]["by"], approved["interest_bps"]) == ("per_test_bank", 1_100)
    assert too_much["code"] == "INVALID_AMOUNT"
    assert (paid["status"], paid["disbursement"]["reference"]) == ("disbursed", "trf-1")
    assert (await owner.get(f"{THEIRS}/{made['id']}"))["data"] == paid
    steps = await rows(database, "SELECT action FROM audit_entry WHERE subject_kind = 'loan_application' ORDER BY id")
    assert [step["action"].removeprefix("loan_application.") for step in steps] == [
        "made", "submitted", "under_review", "approved", "disbursed",
    ]  # fmt: skip
    looked = await rows(database, "SELECT what FROM bank_look")
    assert [look["what"] for look in looked] == ["applications"] * 3  # one for each answer that showed it


async def test_money_is_not_written_down_before_its_day_has_come(
    hub: Hub, owner: Merchant, banker: Banker, shop: Shop, database: Database
) -> None:
    await let_see(database, shop.merchant_id)
    one = f"{OURS}/{await handed_in(owner, shop)}"
    await banker.post(f"{one}/review")
    await banker.post(f"{one}/approve", {"reason": "steady trade", "interest_bps": 1_100})
    today, tomorrow = clock.jakarta_day(clock.now_ms()), clock.jakarta_day(clock.now_ms() + DAY_MS)
    paid = {"reference": "trf-1", "amount_idr": 20_000_000}

    early = [await banker.post(f"{one}/disburse", paid | {"on": day}, status=400) for day in (tomorrow, "2999-12-31")]
    done = await banker.post(f"{one}/disburse", paid | {"on": today})

    assert [(said["code"], said["details"]["field"]) for said in early] == [("VALIDATION_FAILED", "on")] * 2
    assert done["data"]["disbursement"]["on"] == today


async def test_nobody_decides_on_what_they_made_or_handed_in(banker: Banker, shop: Shop, database: Database) -> None:
    await let_see(database, shop.merchant_id)
    offer = {name: value for name, value in wish(shop, interest_bps=900).items() if name != "bank_id"}
    one = f"{OURS}/{(await banker.post(OURS, offer, status=201))['data']['id']}"
    colleague, third = banker.another(), banker.another("per_third_banker")
    await colleague.post(f"{one}/submit")
    await banker.post(f"{one}/review")

    refused = [await who.post(f"{one}/approve", {"reason": "mine"}, status=403) for who in (banker, colleague)]
    refused.append(await banker.post(f"{one}/reject", {"reason": "mine"}, status=403))
    decided = await third.post(f"{one}/approve", {"reason": "sound"})

    assert {one["code"] for one in refused} == {"FORBIDDEN"}
    assert (decided["data"]["status"], decided["data"]["decision"]["by"]) == ("approved", "per_third_banker")
    with pytest.raises(Exception, match="loan_application_decided_by_another"):
        await execute(database, "UPDATE loan_application SET decided_by = made_by")


async def test_of_two_who_decide_at_once_one_does(
    owner: Merchant, banker: Banker, shop: Shop, database: Database
) -> None:
    await let_see(database, shop.merchant_id)
    one = f"{OURS}/{await handed_in(owner, shop)}"
    await banker.post(f"{one}/review")
    colleague = banker.another()
    await colleague.get(one)

    answers = await asyncio.gather(
        *(
            who.call("POST", f"{one}/{verb}", json={"reason": verb} | more)
            for who, verb, more in ((banker, "approve", {"interest_bps": 900}), (colleague, "reject", {})) * 3
        )
    )

    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409, 409]
    (winner,) = [answer.json()["data"] for answer in answers if answer.status_code == 200]
    stored = await row(database, "SELECT state, decision_reason FROM loan_application")
    assert stored["state"] == winner["status"]
    assert {"approve": "approved", "reject": "rejected"}[stored["decision_reason"]] == stored["state"]
    assert len(await audited(database, "loan_application.approved")) + len(
        await audited(database, "loan_application.rejected")
    ) == 1  # fmt: skip


async def test_without_consent_nothing_is_decided_and_nothing_is_there(
    owner: Merchant, banker: Banker, shop: Shop, database: Database
) -> None:
    consent = await let_see(database, shop.merchant_id)
    one = f"{OURS}/{await handed_in(owner, shop)}"
    await banker.post(f"{one}/review")
    await owner.post(f"/merchant/consents/{consent}/withdraw", None)

    for verb, body in (("approve", {"reason": "x", "interest_bps": 1}), ("reject", {"reason": "x"}), ("review", None)):
        await banker.post(f"{one}/{verb}", body, status=404)
    await banker.get(one, status=404)
    again = await owner.post(THEIRS, wish(shop), status=409)

    assert (await banker.get(OURS))["data"] == []
    assert again["code"] == "CONFLICT"
    assert (await row(database, "SELECT state FROM loan_application"))["state"] == "under_review"


@ON_SQLITE
async def test_a_merchant_takes_it_back_and_a_bank_takes_back_only_its_own(
    owner: Merchant, banker: Banker, shop: Shop, database: Database
) -> None:
    await let_see(database, shop.merchant_id)
    asked = await handed_in(owner, shop)
    offer = {name: value for name, value in wish(shop).items() if name != "bank_id"}
    offered = (await banker.post(OURS, offer, status=201))["data"]["id"]

    hidden = await owner.get(f"{THEIRS}/{offered}", status=404)
    refused = await banker.post(f"{OURS}/{asked}/withdraw", status=403)
    await banker.post(f"{OURS}/{offered}/withdraw")
    taken_back = await owner.post(f"{THEIRS}/{asked}/withdraw", None)
    late = await banker.post(f"{OURS}/{asked}/review", status=409)

    assert (hidden["code"], refused["code"]) == ("NOT_FOUND", "FORBIDDEN")
    assert taken_back["data"]["status"] == "withdrawn"
    assert (late["code"], late["details"]["status"]) == ("CONFLICT", "withdrawn")
    assert [one["id"] for one in (await owner.get(THEIRS))["data"]] == [asked]


@ON_SQLITE
async def test_another_banks_and_another_owners_applications_are_not_there(
    hub: Hub, owner: Merchant, banker: Banker, shop: Shop, database: Database
) -> None:
    other = await a_bank(database)
    await let_see(database, shop.merchant_id, other)
    await let_see(database, shop.merchant_id)
    elsewhere = (await owner.post(THEIRS, wish(shop, bank_id=other), status=201))["data"]["id"]
    await owner.post(f"{THEIRS}/{elsewhere}/submit", None)
    stranger = await open_shop(database)

    assert (await banker.get(OURS))["data"] == []
    await banker.get(f"{OURS}/{elsewhere}", status=404)
    await owner.post(THEIRS, wish(stranger), status=404)
    listed = await Staff(hub, "per_support", "support").get("/admin/loan-applications")
    assert [one["id"] for one in listed] == [elsewhere]


@pytest.mark.parametrize("wanted", LoanState)
@pytest.mark.parametrize("current", LoanState)
def test_a_step_that_is_not_in_the_table_is_refused(current: LoanState, wanted: LoanState) -> None:
    if wanted in TRANSITIONS[current]:
        assert require(current, wanted) is wanted
        return
    with pytest.raises(IllegalTransition) as refusal:
        require(current, wanted)
    assert (refusal.value.status, refusal.value.code) == (409, "CONFLICT")


# Any order of any verbs by anybody: the stored row follows the table, and every step has its facts.

OWNER = Actor(kind="person", id="per_owner", role="merchant_owner")
BANKERS = [Actor(kind="person", id=f"per_banker_{n}", role="bank") for n in range(2)]
VERBS = ("submit", "submit_theirs", "review", "approve", "reject", "disburse", "withdraw", "withdraw_theirs", "consent")
REACHES = {
    "submit": LoanState.SUBMITTED, "submit_theirs": LoanState.SUBMITTED, "review": LoanState.UNDER_REVIEW,
    "approve": LoanState.APPROVED, "reject": LoanState.REJECTED, "disburse": LoanState.DISBURSED,
    "withdraw": LoanState.WITHDRAWN, "withdraw_theirs": LoanState.WITHDRAWN,
}  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 1)), max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(side=st.sampled_from(Side), steps=STEPS)
async def test_whatever_is_tried_in_whatever_order_follows_the_table(
    database: Database, side: Side, steps: list[tuple[str, int]]
) -> None:
    shop, bank = await open_shop(database), await a_bank(database)
    theirs = (await row(database, "SELECT organisation_id AS id FROM merchant WHERE id = $1", shop.merchant_id))["id"]
    owner = Actor(kind="person", id=OWNER.id, organisation_id=theirs)
    bankers = [Actor(kind="person", id=one.id, organisation_id=bank) for one in BANKERS]
    consent_until = NOW + DAY_MS
    await let_see(database, shop.merchant_id, bank, at_ms=NOW)
    new = NewApplication(merchant_id=shop.merchant_id, bank_id=bank, amount_idr=100, tenor_months=1, interest_bps=900)
    maker = owner if side is Side.MERCHANT else bankers[0]
    made = await database.write(lambda tx: applications.make(tx, new, side=side, actor=maker, now_ms=NOW))
    state, makers, at_ms = LoanState.DRAFT, {maker.id}, NOW

    for verb, who in steps:
        if verb == "consent":
            at_ms = consent_until  # over: from now on the bank meets nothing
            continue
        banker = bankers[who]
        may = allowed(verb, state, side, banker, makers, at_ms < consent_until)
        done = await tried(database, partial(act, verb=verb, made=made, owner=owner, banker=banker, now_ms=at_ms))
        assert done == may, (verb, state)
        if done:
            state = REACHES[verb]
        if done and state is LoanState.SUBMITTED:
            makers.add(banker.id if verb == "submit" else owner.id)
        stored = await row(database, "SELECT state FROM loan_application WHERE id = $1", made)
        assert stored["state"] == state


async def tried(database: Database, deed: Callable[[Any], Coroutine[Any, Any, None]]) -> bool:
    """Whether it was done; what refuses it is one of these."""
    try:
        await database.write(deed)
    except (IllegalTransition, Forbidden, NotFound, Conflict):
        return False
    return True


def allowed(verb: str, state: LoanState, side: Side, banker: Actor, makers: set[str | None], consented: bool) -> bool:
    by_merchant = verb.endswith("_theirs")
    sees = side is (Side.MERCHANT if by_merchant else Side.BANK) or state is not LoanState.DRAFT
    if state is LoanState.WITHDRAWN or REACHES[verb] not in TRANSITIONS[state] or not sees:
        return False
    if (not by_merchant or verb == "submit_theirs") and not consented:
        return False
    if verb == "withdraw" and side is Side.MERCHANT:
        return False
    return verb not in ("approve", "reject") or banker.id not in makers


async def act(tx: Any, *, verb: str, made: str, owner: Actor, banker: Actor, now_ms: int) -> None:
    side = Side.MERCHANT if verb.endswith("_theirs") else Side.BANK
    actor = owner if side is Side.MERCHANT else banker
    if verb.startswith("submit"):
        await applications.submit(tx, made, side=side, model=Model.SOUNDBOX_V2, actor=actor, now_ms=now_ms)
    elif verb.startswith("withdraw"):
        await applications.withdraw(tx, made, side=side, actor=actor, now_ms=now_ms)
    elif verb == "approve":
        await applications.approve(tx, made, Offer(), reason="sound", actor=banker, now_ms=now_ms)
    elif verb == "reject":
        await applications.reject(tx, made, reason="unsound", actor=banker, now_ms=now_ms)
    elif verb == "disburse":
        paid = Disbursement(reference="trf", on="2026-05-23", amount_idr=100)
        await applications.disburse(tx, made, paid, actor=banker, now_ms=now_ms)
    else:
        await applications.review(tx, made, actor=banker, now_ms=now_ms)
