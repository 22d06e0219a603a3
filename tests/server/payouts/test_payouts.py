"""Merchants' money on its way: one question at a time, nothing sent twice, and the books right at every moment."""

import asyncio
from typing import Any

import pytest
from support.bank import ACCOUNT, Bank, payouts, settlement, state_of, told
from support.shop import NOW, Shop, execute, open_shop, row, rows

from soundbox_server import failpoints
from soundbox_server.clock import jakarta_ms
from soundbox_server.db import Database
from soundbox_server.errors import IllegalTransition, MerchantPayoutNotConfigured
from soundbox_server.ledger.service import balance
from soundbox_server.payouts import reports, service
from soundbox_server.payouts.jobs import Payer
from soundbox_server.payouts.service import ASK_AFTER_S, LEASE_MS, STUCK_AFTER
from soundbox_server.reconciliation import books

NET = 49_650  # of 50,000 at 70 bps


class Died(BaseException):
    """The process ended here: nothing after it was done."""


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ms = NOW
        monkeypatch.setattr("soundbox_server.clock.now_ms", lambda: self.ms)

    def moves(self, ms: int) -> None:
        self.ms += ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def payer(database: Database, bank: Bank | None) -> Payer:
    return Payer(database, lambda: bank, is_open=lambda day: True)


async def retry(database: Database, settlement_id: str, *, now_ms: int = NOW) -> str:
    return await database.write(lambda tx: service.retry(tx, settlement_id, bank="sandbox", by="per_1", now_ms=now_ms))


async def says(database: Database, reference: str, state: str, amount: int = NET, **other: Any) -> str:
    said = told(reference, state, amount, **other)
    outcome, _ = await database.write(lambda tx: reports.take(tx, said, request_id="req_1", now_ms=NOW))
    return outcome.value


async def has_account(shop: Shop, reference: str) -> None:
    await execute(
        shop.database,
        "UPDATE merchant SET settlement_account_reference = $2 WHERE id = $1",
        shop.merchant_id,
        reference,
    )


async def clearing(database: Database, settlement_id: str) -> int:
    return await database.read(lambda tx: balance(tx, f"clearing:{settlement_id}"))


async def right(database: Database) -> bool:
    return await database.read_at_leisure(books.check) == []


async def test_a_settlement_is_paid_through_each_provider_its_share(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    batch = await settlement(shop, 50_000, 20_000, acme=30_000)
    assert await clearing(database, batch) == 99_300
    assert await right(database)

    await payer(database, bank).tick()

    (payout,) = await payouts(database)
    (sent,) = bank.sent
    assert (sent.amount_idr, sent.account, sent.rail, sent.beneficiary) == (99_300, ACCOUNT, "bi_fast", "Warung Sari")
    assert (payout["state"], payout["reference"], payout["bank_payout_id"]) == ("succeeded", sent.reference, "TRF1")
    assert (await state_of(database, batch), await clearing(database, batch)) == ("paid", 0)
    for provider in ("sandbox", "acme"):  # what they still owe is the fee
        owed = await database.read(lambda tx, p=provider: balance(tx, f"provider_receivable:{p}"))
        assert -owed == await database.read(lambda tx, p=provider: balance(tx, f"fees:{p}")) > 0
    assert await right(database)


async def test_only_what_is_due_is_begun(database: Database, shop: Shop, bank: Bank, clock: Clock) -> None:
    tomorrow = await settlement(shop, day="2026-05-24")
    await payer(database, bank).tick()
    assert await payouts(database) == []

    clock.ms = jakarta_ms("2026-05-24")
    await payer(database, bank).tick()

    assert await state_of(database, tomorrow) == "paid"


@pytest.mark.parametrize("begun", [False, True])
async def test_money_of_a_suspended_merchant_waits(
    begun: bool, database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    await settlement(shop, 50_000)
    if begun:
        await database.write(lambda tx: service.begin_due(tx, bank="sandbox", now_ms=clock.ms, limit=10))
    await shop.set_status("suspended")
    await payer(database, bank).tick()
    sent = len(bank.sent)

    await shop.set_status("approved")
    await payer(database, bank).tick()

    assert (sent, len(bank.sent)) == (0, 1)
    assert await right(database)


async def test_twenty_jobs_at_once_pay_once(database: Database, shop: Shop, bank: Bank, clock: Clock) -> None:
    batches = [await settlement(shop, 10_000 * n) for n in range(1, 4)]
    nets = [await clearing(database, batch) for batch in batches]
    bank.faults.extend(["lost", "slow"])

    await asyncio.gather(*(payer(database, bank).tick() for _ in range(20)))
    clock.moves(ASK_AFTER_S[0] * 1_000)
    for request in bank.sent:
        bank.becomes(request.reference, "succeeded")
    await asyncio.gather(*(payer(database, bank).tick() for _ in range(20)))

    assert len({request.reference for request in bank.sent}) == len(bank.sent) == 3
    assert bank.paid == sum(nets)
    assert [payout["state"] for payout in await payouts(database)] == ["succeeded"] * 3
    assert [await clearing(database, batch) for batch in batches] == [0, 0, 0]
    assert await right(database)


async def test_a_lost_answer_is_queried_and_never_sent_again(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    batch = await settlement(shop)
    bank.faults.extend(["lost", "silent"])
    await payer(database, bank).tick()
    assert (await payouts(database))[0]["state"] == "unknown"

    await payer(database, bank).tick()  # not before its time
    clock.moves(2_000)
    await payer(database, bank).tick()
    clock.moves(5_000)
    await payer(database, bank).tick()

    assert (len(bank.sent), len(bank.queried)) == (1, 2)
    assert await state_of(database, batch) == "paid"
    assert await right(database)


async def test_what_never_arrived_is_sent_again_by_the_same_name(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    await settlement(shop)
    bank.faults.extend(["silent", "unreachable"])

    for pause_s in (0, *ASK_AFTER_S[:2]):
        clock.moves(pause_s * 1_000)
        await payer(database, bank).tick()

    (payout,) = await payouts(database)
    assert (payout["state"], [one.reference for one in bank.sent]) == ("succeeded", [payout["reference"]])


@pytest.mark.parametrize("point", ["payout.claimed", "payout.answered"])
async def test_a_crash_around_the_question_pays_once(
    database: Database, shop: Shop, bank: Bank, clock: Clock, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    batch = await settlement(shop)

    def dies(name: str) -> None:
        if name == point:
            raise Died

    monkeypatch.setattr(failpoints, "reached", dies)
    with pytest.raises(Died):
        await payer(database, bank).tick()
    monkeypatch.undo()
    assert (await payouts(database))[0]["state"] == "submitted"

    for ms in (NOW + LEASE_MS - 1, NOW + LEASE_MS):
        monkeypatch.setattr("soundbox_server.clock.now_ms", lambda ms=ms: ms)
        await payer(database, bank).tick()

    assert (len(bank.sent), len(bank.queried)) == (1, 1)
    assert await state_of(database, batch) == "paid"
    assert await right(database)


@pytest.mark.parametrize("fault", ["refuse", "fail"])
async def test_a_failed_payout_leaves_the_money_in_clearing_until_somebody_tries_again(
    database: Database, shop: Shop, bank: Bank, clock: Clock, fault: str
) -> None:
    batch = await settlement(shop)
    bank.faults.append(fault)
    await payer(database, bank).tick()
    await payer(database, bank).tick()  # nobody tries again by itself
    assert (await state_of(database, batch), await clearing(database, batch)) == ("failed", NET)
    (alert,) = await rows(database, "SELECT kind, subject_id FROM alert WHERE state <> 'resolved'")
    assert alert == {"kind": "payout.failed", "subject_id": batch}
    assert await right(database)

    await retry(database, batch)
    await payer(database, bank).tick()

    assert [(one["number"], one["state"]) for one in await payouts(database)] == [(1, "failed"), (2, "succeeded")]
    assert (await state_of(database, batch), await clearing(database, batch)) == ("paid", 0)
    assert await rows(database, "SELECT id FROM alert WHERE state <> 'resolved'") == []
    assert await right(database)


@pytest.mark.parametrize("fault", ["lost", "slow"])
async def test_a_payout_that_may_be_paid_blocks_another(
    database: Database, shop: Shop, bank: Bank, clock: Clock, fault: str
) -> None:
    batch = await settlement(shop)
    bank.faults.append(fault)
    await payer(database, bank).tick()

    with pytest.raises(IllegalTransition):
        await retry(database, batch)
    assert await database.write(lambda tx: service.ask_now(tx, batch, now_ms=NOW))
    (payout,) = await payouts(database)
    bank.becomes(payout["reference"], "succeeded")
    await payer(database, bank).tick()  # at once: somebody wanted to know

    assert (len(bank.sent), await state_of(database, batch)) == (1, "paid")
    with pytest.raises(IllegalTransition):
        await retry(database, batch)


async def test_the_table_itself_refuses_a_second_payout(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    batch = await settlement(shop)
    await payer(database, bank).tick()

    with pytest.raises(Exception, match=r"(?i)unique"):
        await execute(
            database, "INSERT INTO payout (id, settlement_id, merchant_id, number, mode, bank, reference, amount, "
            "state, asks, lease_until_ms, created_at_ms) VALUES ('p', $1, $2, 9, 'merchant_direct', 'b', 'r', 1, "
            "'created', 0, 0, 0)", batch, shop.merchant_id,
        )  # fmt: skip


@pytest.mark.parametrize("by_callback", [True, False])
async def test_money_that_comes_back_is_in_clearing_again(
    database: Database, shop: Shop, bank: Bank, clock: Clock, by_callback: bool
) -> None:
    batch = await settlement(shop)
    bank.faults.extend([] if by_callback else ["reversed"])
    await payer(database, bank).tick()
    if by_callback:
        assert await says(database, bank.sent[0].reference, "reversed") == "applied"

    (payout,) = await payouts(database)
    assert (payout["state"], await state_of(database, batch)) == ("reversed", "failed")
    assert await clearing(database, batch) == NET
    (alert,) = await rows(database, "SELECT severity FROM alert WHERE kind = 'payout.failed'")
    assert alert["severity"] == "critical"
    assert await right(database)

    await retry(database, batch)
    await payer(database, bank).tick()
    assert (await clearing(database, batch), await right(database)) == (0, True)


async def test_reports_count_once_in_whatever_order_they_come(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    batch = await settlement(shop)
    bank.faults.append("slow")
    await payer(database, bank).tick()
    reference = bank.sent[0].reference

    outcomes = [
        await says(database, reference, "pending"),
        await says(database, reference, "reversed", event_id="back"),  # before it is told that it was paid
        await says(database, reference, "reversed", event_id="back"),
        await says(database, reference, "reversed"),
        await says(database, reference, "succeeded"),
        await says(database, reference, "failed"),
    ]

    assert outcomes == ["ignored", "applied", "applied", "duplicate", "ignored", "needs_review"]
    assert (await payouts(database))[0]["state"] == "reversed"
    assert await clearing(database, batch) == NET
    assert len(await rows(database, "SELECT id FROM payout_event")) == 5
    assert await right(database)


async def test_fifty_copies_of_a_report_at_once_book_once(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    batch = await settlement(shop)
    bank.faults.append("slow")
    await payer(database, bank).tick()
    reference = bank.sent[0].reference

    same = [says(database, reference, "succeeded", event_id="evt_1") for _ in range(25)]
    others = [says(database, reference, "succeeded") for _ in range(25)]
    outcomes = await asyncio.gather(*same, *others)

    assert set(outcomes) <= {"applied", "duplicate"}
    assert len(await rows(database, "SELECT id FROM journal WHERE kind = 'payout'")) == 1
    assert (await clearing(database, batch), await right(database)) == (0, True)


async def test_a_callback_that_is_faster_than_the_answer_books_once(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    await settlement(shop)
    await database.write(lambda tx: service.begin_due(tx, bank="sandbox", now_ms=NOW, limit=9))
    (due,) = await database.write(lambda tx: service.claim_due(tx, is_open=lambda day: True, now_ms=NOW, limit=9))
    asked = await service.ask_bank(bank, due)

    assert await says(database, due.request.reference, "succeeded") == "applied"
    await database.write(lambda tx: service.record_answer(tx, asked, now_ms=NOW))

    assert len(await rows(database, "SELECT id FROM journal WHERE kind = 'payout'")) == 1
    assert await right(database)


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"amount_idr": NET - 1}, "amount_mismatch"), ({"currency": "USD"}, "amount_mismatch")],
)
async def test_another_amount_is_remembered_and_not_booked(
    database: Database, shop: Shop, bank: Bank, clock: Clock, other: dict[str, Any], reason: str
) -> None:
    batch = await settlement(shop)
    bank.faults.append("slow")
    await payer(database, bank).tick()

    assert await says(database, bank.sent[0].reference, "succeeded", **other) == "needs_review"

    assert (await row(database, "SELECT reason FROM payout_event"))["reason"] == reason
    assert (await payouts(database))[0]["state"] == "submitted"
    assert await clearing(database, batch) == NET
    (alert,) = await rows(database, "SELECT kind, severity FROM alert")
    assert alert == {"kind": "payout.contradicted", "severity": "critical"}


async def test_a_bank_that_said_no_and_paid_all_the_same_is_believed_unless_it_was_paid_again(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    batches = [await settlement(shop), await settlement(shop)]
    bank.faults.extend(["fail", "fail"])
    await payer(database, bank).tick()
    first, second = bank.sent
    by_reference = {one["reference"]: one["settlement_id"] for one in await payouts(database)}

    assert await says(database, first.reference, "succeeded") == "applied"
    await retry(database, by_reference[second.reference])
    await payer(database, bank).tick()
    assert await says(database, second.reference, "succeeded") == "needs_review"

    assert [await state_of(database, batch) for batch in batches] == ["paid", "paid"]
    assert (await row(database, "SELECT reason FROM payout_event WHERE outcome = 'needs_review'"))["reason"] == (
        "paid_twice"
    )
    assert await right(database)


async def test_an_unknown_reference_is_kept_as_an_orphan(database: Database) -> None:
    assert await says(database, "nobody", "succeeded") == "orphan"
    assert (await row(database, "SELECT kind FROM alert"))["kind"] == "payout.orphan"


async def test_a_merchant_without_account_waits_and_is_named(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    batch = await settlement(shop, account=None)
    await payer(database, bank).tick()
    with pytest.raises(MerchantPayoutNotConfigured):
        await retry(database, batch)
    (alert,) = await rows(database, "SELECT kind, subject_id FROM alert WHERE state <> 'resolved'")
    assert alert == {"kind": "payout.not_configured", "subject_id": shop.merchant_id}
    assert await payouts(database) == []

    await execute(
        database, "UPDATE merchant SET settlement_account_reference = 'bank:1' WHERE id = $1", shop.merchant_id
    )
    await payer(database, bank).tick()

    assert [one.account for one in bank.sent] == ["bank:1"]
    assert await rows(database, "SELECT id FROM alert WHERE state <> 'resolved'") == []


async def test_without_a_bank_only_people_pay(database: Database, shop: Shop, clock: Clock) -> None:
    direct = await settlement(shop)
    by_hand = await settlement(await open_shop(database), mode="manual")

    await payer(database, None).tick()

    assert [await state_of(database, batch) for batch in (direct, by_hand)] == ["calculated", "paying"]
    assert [one["mode"] for one in await payouts(database)] == ["manual"]
    with pytest.raises(MerchantPayoutNotConfigured):
        await database.write(lambda tx: service.retry(tx, direct, bank=None, by="per_1", now_ms=NOW))


async def test_a_payout_goes_to_the_account_of_the_moment_it_is_sent(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    await settlement(shop)
    await database.write(lambda tx: service.begin_due(tx, bank="sandbox", now_ms=NOW, limit=9))
    await execute(
        database, "UPDATE merchant SET settlement_account_reference = 'bank:2' WHERE id = $1", shop.merchant_id
    )
    bank.faults.append("silent")

    await payer(database, bank).tick()
    await execute(
        database, "UPDATE merchant SET settlement_account_reference = 'bank:3' WHERE id = $1", shop.merchant_id
    )
    clock.moves(2_000)
    await payer(database, bank).tick()  # what may have been sent to an account is sent to no other

    assert [one.account for one in bank.sent] == ["bank:2"]
    assert (await payouts(database))[0]["account_reference"] == "bank:2"


async def test_a_large_payout_waits_for_a_rail_that_carries_it(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    clock.ms = jakarta_ms("2026-05-23") + 17 * 3_600_000
    await settlement(shop, *[9_000_000] * 40)

    await payer(database, bank).tick()
    assert (await payouts(database))[0]["ask_at_ms"] == jakarta_ms("2026-05-24") + 23_400_000
    assert bank.sent == []
    clock.ms = jakarta_ms("2026-05-24") + 23_400_000
    await payer(database, bank).tick()

    assert [(one.rail, one.amount_idr) for one in bank.sent] == [("skn", 357_480_000)]


async def test_somebody_is_told_of_a_payout_that_finds_no_end(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    await settlement(shop)
    bank.faults.extend(["lost"] + ["silent"] * 20)
    for _ in range(STUCK_AFTER):
        assert await rows(database, "SELECT id FROM alert") == []
        await payer(database, bank).tick()
        clock.moves(ASK_AFTER_S[-1] * 1_000)

    assert [one["kind"] for one in await rows(database, "SELECT kind FROM alert")] == ["payout.stuck"]
    bank.faults.clear()
    await payer(database, bank).tick()
    assert await rows(database, "SELECT id FROM alert WHERE state <> 'resolved'") == []


async def test_a_bank_that_is_gone_leaves_what_it_may_have_paid_open(
    database: Database, shop: Shop, bank: Bank, clock: Clock
) -> None:
    batch = await settlement(shop)
    bank.faults.append("lost")
    await payer(database, bank).tick()
    clock.moves(2_000)

    await payer(database, None).tick()

    assert ((await payouts(database))[0]["state"], await state_of(database, batch)) == ("unknown", "paying")


def test_nothing_is_unpaid_but_by_a_reversal() -> None:
    from soundbox_server.payouts.state import LIVE, TRANSITIONS, PayoutState

    assert TRANSITIONS[PayoutState.SUCCEEDED] == {PayoutState.REVERSED}
    assert TRANSITIONS[PayoutState.REVERSED] == frozenset()
    assert set(LIVE) == set(PayoutState) - {PayoutState.FAILED, PayoutState.REVERSED}
