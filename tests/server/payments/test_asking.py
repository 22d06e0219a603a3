"""Asking providers where charges stand: bounded, never twice at once, and nothing false comes of it."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.acquirer import Acquirer, adjustment
from support.books import check_books
from support.hub import open_hub
from support.shop import (
    LATE_REPORT_MS,
    NOW,
    QR_LIFE_MS,
    TELLING,
    Shop,
    execute,
    payment_row,
    report,
    row,
    rows,
    take,
    told,
)
from support.staff import Staff, audited

from soundbox_server.db import Database
from soundbox_server.payments.asking import ASK_AFTER_S, Question, claim_due
from soundbox_server.payments.charging import Pending
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.payments.routes import CallbackDesk
from soundbox_server.payments.service import expire_unpaid

DAY_MS = 86_400_000


@pytest.fixture
def acquirer() -> Acquirer:
    return Acquirer()


@pytest.fixture
def inquiry(database: Database, acquirer: Acquirer) -> Inquiry:
    desk = CallbackDesk(database, {}, telling=TELLING, late_report_ms=LATE_REPORT_MS, publish=lambda queued: None)
    return Inquiry(database, lambda: {"sandbox": acquirer}, desk.take)


async def due(database: Database, at_ms: int) -> list[Question]:
    return await database.write(lambda tx: claim_due(tx, now_ms=at_ms, limit=16))


async def attempt(database: Database, payment: Pending) -> dict[str, Any]:
    return await row(database, "SELECT * FROM payment_attempt WHERE id = $1", payment.attempt_id)


async def test_a_live_qr_is_asked_about_further_and_further_apart_and_then_no_more(
    database: Database, shop: Shop
) -> None:
    payment = await shop.payment(await shop.box())
    times, at_ms = [], NOW
    while (watched := await rows(database, "SELECT ask_at_ms FROM charge_watch")) and at_ms < NOW + 3 * DAY_MS:
        at_ms = watched[0]["ask_at_ms"]
        assert await due(database, at_ms - 1) == []
        times += [(question.reference, (at_ms - NOW) // 1_000) for question in await due(database, at_ms)]

    gaps = [after - before for (_, before), (_, after) in itertools.pairwise(times)]
    assert times[0] == (payment.reference, ASK_AFTER_S[0])
    assert gaps[: len(ASK_AFTER_S) - 1] == list(ASK_AFTER_S[1:])
    assert len(times) < 12
    assert await rows(database, "SELECT attempt_id FROM charge_watch") == []


async def test_nobody_asks_about_what_is_paid(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))

    assert await due(database, NOW + DAY_MS) == []

    assert await rows(database, "SELECT attempt_id FROM charge_watch") == []


async def test_a_callback_that_got_lost_is_found_and_announced(
    database: Database, shop: Shop, acquirer: Acquirer, inquiry: Inquiry
) -> None:
    payment = await shop.payment(await shop.box())
    acquirer.says(payment, "paid", report=report(payment))

    (question,) = await due(database, NOW + 30_000)
    await inquiry.ask(question)

    assert (await payment_row(database, payment.payment_id))["state"] == "paid"
    assert len(await told(database, payment.payment_id)) == 1
    assert await due(database, NOW + DAY_MS) == []
    await check_books(database)


async def test_money_for_an_expired_qr_is_found_too(
    database: Database, shop: Shop, acquirer: Acquirer, inquiry: Inquiry
) -> None:
    payment = await shop.payment(await shop.box())
    await database.write(lambda tx: expire_unpaid(tx, now_ms=NOW + QR_LIFE_MS))
    acquirer.says(payment, "paid", report=report(payment))

    (question,) = await due(database, NOW + QR_LIFE_MS)
    await inquiry.ask(question)

    stored = await payment_row(database, payment.payment_id)
    assert (stored["state"], stored["late"]) == ("paid", True)
    await check_books(database)


@pytest.mark.parametrize("ended", ["failed", "expired", "cancelled"])
async def test_a_charge_that_ended_at_the_provider_ends_here(
    database: Database, shop: Shop, acquirer: Acquirer, inquiry: Inquiry, ended: Any
) -> None:
    payment = await shop.payment(await shop.box())
    acquirer.says(payment, ended)

    (question,) = await due(database, NOW + 30_000)
    await inquiry.ask(question)

    assert (await payment_row(database, payment.payment_id))["state"] == ended
    assert len(await due(database, NOW + DAY_MS)) == (1 if ended == "expired" else 0)
    steps = await rows(database, "SELECT kind, detail FROM payment_event WHERE kind = $1", f"payment.{ended}")
    assert steps == [{"kind": f"payment.{ended}", "detail": "said_when_asked"}]


@pytest.mark.parametrize(
    ("said", "state", "tried"),
    [("not_found", "failed", "failed"), ("open", "awaiting_payment", "active")],
)
async def test_an_attempt_that_nobody_answered_about_is_cleared_up(
    database: Database, shop: Shop, acquirer: Acquirer, inquiry: Inquiry, said: Any, state: str, tried: str
) -> None:
    payment = await shop.payment(await shop.box())
    await execute(database, "UPDATE payment SET state = 'created' WHERE id = $1", payment.payment_id)
    await execute(database, "UPDATE payment_attempt SET state = 'unknown', lease_until_ms = 0")
    acquirer.says(payment, said)

    (question,) = await due(database, NOW + 30_000)
    await inquiry.ask(question)

    assert (await payment_row(database, payment.payment_id))["state"] == state
    assert (await attempt(database, payment))["state"] == tried


async def test_whoever_is_still_being_answered_is_left_alone(database: Database, shop: Shop) -> None:
    await shop.payment(await shop.box())
    await execute(database, "UPDATE payment_attempt SET state = 'submitted', lease_until_ms = $1", NOW + 45_000)

    assert await due(database, NOW + 30_000) == []
    assert len(await due(database, NOW + 45_000)) == 1


async def test_unsigned_news_is_believed_once_the_provider_says_it_when_asked(
    database: Database, shop: Shop, acquirer: Acquirer, inquiry: Inquiry
) -> None:
    payment = await shop.payment(await shop.box())
    await take(database, report(payment))
    unsigned = replace(adjustment(payment, "refunded", refund_reference="theirs"), confirmed=False)
    await inquiry._take_word(unsigned, asked="req_1")
    acquirer.says(payment, "paid", report=report(payment), adjustments=(unsigned,))

    (question,) = await due(database, NOW + 365 * DAY_MS)
    await inquiry.ask(question)
    await inquiry.ask(question)

    assert (await payment_row(database, payment.payment_id))["state"] == "refunded"
    await check_books(database)


@pytest.fixture
async def operator(database_url: str, tmp_path: Path, acquirer: Acquirer) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        state = hub.app.state
        state.payment_gateways = lambda: {"sandbox": acquirer}
        state.inquiry = Inquiry(state.database, state.payment_gateways, state.callback_desk.take)
        yield Staff(hub, "per_operator", "operator")


async def test_an_operator_asks_and_the_answer_counts_like_a_callback(
    operator: Staff, database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await shop.payment(await shop.box())
    path = f"/admin/transactions/{payment.payment_id}/check-status"
    acquirer.says(payment, "open")

    still = await operator.post(path)
    acquirer.says(payment, "paid", report=report(payment))
    paid = await operator.post(path)
    acquirer.faults.append("silent")
    unknown = await operator.refused("POST", path, status=504)
    nobodys = await operator.refused("POST", "/admin/transactions/txn_none/check-status", status=404)

    assert [(one["status"], one["providers"][0]["status"]) for one in (still, paid)] == [
        ("awaiting_payment", "open"), ("paid", "paid"),
    ]  # fmt: skip
    assert (unknown["code"], nobodys["code"]) == ("PARTNER_TIMEOUT", "TRANSACTION_NOT_FOUND")
    assert len(await told(database, payment.payment_id)) == 1
    assert len(await audited(database, "transaction.status_checked")) == 2
    await check_books(database)


async def test_a_withdrawn_payment_is_withdrawn_at_the_provider_first(
    operator: Staff, database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await shop.payment(await shop.box())
    await execute(database, "UPDATE payment SET expires_at_ms = $1", 4_000_000_000_000)
    path = f"/admin/transactions/{payment.payment_id}/cancel"

    acquirer.faults.append("lost")
    unknown = await operator.refused("POST", path, status=504)
    stands = await payment_row(database, payment.payment_id)
    acquirer.faults.append("refuse")
    refused = await operator.refused("POST", path, status=502)
    shown = await operator.post(path)
    again = await operator.refused("POST", path, status=409)

    assert [one["code"] for one in (unknown, refused, again)] == ["PARTNER_TIMEOUT", "GATEWAY_ERROR", "CONFLICT"]
    assert (stands["state"], shown["status"]) == ("awaiting_payment", "cancelled")
    assert acquirer.cancelled == [payment.reference] * 2
    assert (await attempt(database, payment))["state"] == "failed"
    await take(database, report(payment))
    assert (await payment_row(database, payment.payment_id))["late"]
    await check_books(database)


async def test_what_its_provider_cannot_withdraw_stays(
    operator: Staff, database: Database, shop: Shop, acquirer: Acquirer
) -> None:
    payment = await shop.payment(await shop.box())
    acquirer.can_cancel = False

    refused = await operator.refused("POST", f"/admin/transactions/{payment.payment_id}/cancel", status=409)

    assert refused["code"] == "CONFLICT"
    assert (await payment_row(database, payment.payment_id))["state"] == "awaiting_payment"
