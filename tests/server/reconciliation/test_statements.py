"""Statements at their doors: imported whole and once, matched, and what is left over settled by somebody."""

import asyncio
from typing import Any

import httpx
import pytest
from support.acquirer import adjustment
from support.books import check_books
from support.hub import Hub
from support.shop import NOW, Shop, adjust, execute, report, rows, static_report, take
from support.staff import Staff, audited

from soundbox_server.clock import DAY_MS
from soundbox_server.db import Database
from soundbox_server.ids import new_id
from soundbox_server.payments.charging import Pending

COLUMNS = {
    "amount": "Gross", "reference": "Order", "provider_reference": "ID", "rrn": "RRN", "fee": "Fee", "at": "At",
    "kind": "Type", "payments": ["PAYMENT"], "refunds": ["REFUND"], "ignored": ["PAYOUT"],
}  # fmt: skip
HEAD = "Order,ID,RRN,Gross,Fee,At,Type\n"
DAY = "2026-05-23"


def line(reference: str, amount: int, *, kind: str = "PAYMENT", fee: object = "", id_: str = "", rrn: str = "") -> str:
    return f"{reference},{id_},{rrn},{amount},{fee},2026-05-23T10:00:00Z,{kind}\n"


async def upload(finance: Staff, text: str, *, day: str = DAY, **other: str) -> httpx.Response:
    await finance.call("PUT", "/admin/reconciliation/mappings/sandbox", json=COLUMNS)
    return await finance.call(
        "POST", "/admin/reconciliation/statements", params={"provider": "sandbox", "day_from": day, **other},
        content=text.encode(), headers={"content-type": "text/csv"},
    )  # fmt: skip


async def imported(finance: Staff, *lines: str, **other: str) -> dict[str, Any]:
    answer = await upload(finance, HEAD + "".join(lines), **other)
    assert answer.status_code == 201, answer.text
    return dict(answer.json()["data"])


async def differences(finance: Staff, **asked: object) -> list[dict[str, Any]]:
    return list(await finance.get("/admin/reconciliation/differences", **asked))


async def paid(shop: Shop, amount: int = 50_000, **other: Any) -> Pending:
    payment = await shop.payment(await shop.box(), amount)
    await take(shop.database, report(payment, **other))
    return payment


def told(found: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    return {(one["kind"], one["reason"], one["our_amount"], one["their_amount"]) for one in found}


async def test_a_statement_that_says_what_we_say_leaves_nothing_open(finance: Staff, shop: Shop) -> None:
    one, other = await paid(shop), await paid(shop, 20_000, transaction_id="SB1")
    await adjust(shop.database, adjustment(one, "refunded", amount=5_000, refund_reference="R1"))
    (refund,) = await rows(shop.database, "SELECT provider_refund_id FROM refund")

    statement = await imported(
        finance, line(one.reference, 50_000, fee=350), line("", 20_000, id_=await _named(shop, other)),
        line("", 5_000, kind="REFUND", id_=refund["provider_refund_id"]), line("x", 1, kind="PAYOUT"),
        file_name="a.csv",
    )  # fmt: skip

    assert (statement["payments"], statement["paid_amount"], statement["fee_amount"]) == (2, 70_000, 350)
    assert (statement["refunds"], statement["refunded_amount"], statement["matched"]) == (1, 5_000, 3)
    assert statement["differences"] == []
    assert await rows(shop.database, "SELECT id FROM alert") == []
    day = await finance.get("/admin/reconciliation/report", day=DAY)
    assert (day["status"], day["providers"][0]["gross_amount"], day["providers"][0]["statements"]) == (
        "settled", 70_000, [statement["id"]],
    )  # fmt: skip


async def _named(shop: Shop, payment: Pending) -> str:
    (found,) = await rows(
        shop.database, "SELECT provider_reference FROM payment_attempt WHERE payment_id = $1", payment.payment_id
    )
    return str(found["provider_reference"])


async def test_whatever_disagrees_is_listed_with_its_reason(finance: Staff, shop: Shop) -> None:
    missing, wrong, fee, twice = [await paid(shop, 10_000 * n) for n in range(1, 5)]
    unpaid = await shop.payment(await shop.box(), 60_000)
    aside = await shop.payment(await shop.box(), 70_000)
    await take(shop.database, report(aside, amount=1))
    refunded = await paid(shop, 80_000)
    await adjust(shop.database, adjustment(refunded, "refunded", amount=3_000))

    statement = await imported(
        finance, line(wrong.reference, 20_001), line(fee.reference, 30_000, fee=1), line(twice.reference, 40_000),
        line(twice.reference, 40_000), line("nobody", 99), line(unpaid.reference, 60_000), line(aside.reference, 1),
        line(refunded.reference, 80_000), line("no-refund", 7, kind="REFUND"),
    )  # fmt: skip

    found = await differences(finance, statement_id=statement["id"])
    assert told(found) == {
        ("missing", "not_in_statement", 10_000, None), ("missing", "not_in_statement", 3_000, None),
        ("different", "amount", 20_000, 20_001), ("different", "fee", 210, 1),
        ("extra", "twice_in_statement", 40_000, 40_000), ("extra", "reference_unknown", None, 99),
        ("extra", "reference_unknown", None, 7), ("different", "not_paid", None, 60_000),
        ("different", "kept_apart", None, 1),
    }  # fmt: skip
    assert {one["transaction_id"] for one in found if one["our_amount"] == 10_000} == {missing.payment_id}
    assert {one["line"] for one in found if one["kind"] == "extra"} == {5, 6, 10}
    assert statement["matched"] == 2
    (alert,) = await rows(shop.database, "SELECT kind, subject_id FROM alert WHERE kind LIKE 'reconciliation%'")
    assert alert["subject_id"] == statement["id"]
    await check_books(shop.database)


async def test_a_payment_by_a_sticker_is_known_by_its_retrieval_reference(finance: Staff, shop: Shop) -> None:
    await shop.static_qr()
    await take(shop.database, static_report(15_000, rrn="614210000123"), static_report(15_000, rrn="614210000124"))

    statement = await imported(
        finance, line("sticker-1", 15_000, rrn="614210000123"), line("sticker-1", 15_000, rrn="614210000124")
    )

    assert (statement["matched"], statement["differences"]) == (2, [])


async def test_money_of_another_provider_is_not_this_ones(finance: Staff, shop: Shop) -> None:
    elsewhere = await shop.payment(await shop.box(), provider="acme")
    await take(shop.database, report(elsewhere))

    await imported(finance, line(elsewhere.reference, 50_000))

    assert told(await differences(finance)) == {("extra", "reference_unknown", None, 50_000)}


async def test_the_same_file_is_one_import_also_when_two_send_it_at_once(finance: Staff, shop: Shop) -> None:
    payment = await paid(shop)
    text = HEAD + line(payment.reference, 50_000) + line("nobody", 5)
    await upload(finance, HEAD + line("another", 5))

    answers = await asyncio.gather(*(upload(finance, text) for _ in range(4)))

    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["data"]["id"] for answer in answers}) == 1
    assert [one["reference"] for one in await differences(finance)] == ["nobody", payment.reference, "another"]
    assert len(await audited(shop.database, "statement.imported")) == 2


async def test_a_file_with_a_mistake_is_not_imported_at_all(finance: Staff, shop: Shop) -> None:
    text = HEAD + "".join(line(f"ref_{n}", 10) for n in range(5_000)) + line("two words", 0)

    answer = await upload(finance, text)

    assert (answer.status_code, answer.json()["code"]) == (422, "FILE_REFUSED")
    assert [(one["line"], one["column"]) for one in answer.json()["errors"]] == [(5_002, "Gross"), (5_002, "Order")]
    for table in ("provider_statement", "provider_statement_line", "reconciliation_difference"):
        assert await rows(shop.database, f"SELECT 1 AS one FROM {table}") == []


async def test_what_a_later_statement_has_is_cleared(finance: Staff, shop: Shop) -> None:
    """Paid a moment before midnight by our clock, and after it by the provider's."""
    payment, other = await paid(shop), await paid(shop, 7_000)
    await imported(finance, line(other.reference, 7_000))
    assert told(await differences(finance, status="open")) == {("missing", "not_in_statement", 50_000, None)}

    await imported(finance, line(payment.reference, 50_000), day="2026-05-24")

    assert await differences(finance, status="open") == []
    (cleared,) = await differences(finance, status="cleared")
    assert (cleared["transaction_id"], cleared["ended_at"] is not None) == (payment.payment_id, True)
    assert (await finance.get("/admin/reconciliation/report", day=DAY))["status"] == "settled"


async def test_payments_of_other_days_are_not_missed(finance: Staff, shop: Shop) -> None:
    await paid(shop, paid_at="2026-05-22T16:59:59Z")  # a second before midnight in Jakarta
    of_the_day = await paid(shop, 20_000, paid_at="2026-05-22T17:00:00Z")
    await take(
        shop.database, report(await shop.payment(await shop.box()), paid_at_ms=NOW + DAY_MS), now_ms=NOW + DAY_MS
    )

    await imported(finance, line("nobody", 1))

    missing = await differences(finance, kind="missing")
    assert [one["transaction_id"] for one in missing] == [of_the_day.payment_id]


async def test_a_difference_is_settled_once_by_somebody_with_a_reason(finance: Staff, shop: Shop) -> None:
    await imported(finance, line("nobody", 99))
    (found,) = await differences(finance)
    path = f"/admin/reconciliation/differences/{found['id']}/settle"

    settled = await finance.post(path, {"settlement": "corrected_by_provider", "reason": "Theirs, by mistake."})

    assert (settled["status"], settled["settlement"], settled["settled_by"]) == (
        "settled", "corrected_by_provider", "per_finance",
    )  # fmt: skip
    assert (await finance.refused("POST", path, {"settlement": "written_off", "reason": "x"}, status=409))["code"]
    await finance.refused("POST", path, {"settlement": "written_off"}, status=400)
    (entry,) = await audited(shop.database, "difference.settled")
    assert (entry["actor_id"], entry["subject_id"]) == ("per_finance", found["id"])
    assert await rows(shop.database, "SELECT id FROM alert WHERE state <> 'resolved'") == []


async def test_the_report_of_a_day_tells_what_is_still_to_do(finance: Staff, shop: Shop, database: Database) -> None:
    await paid(shop)
    assert (await finance.get("/admin/reconciliation/report", day=DAY))["status"] == "no_statement"
    await imported(finance, line("nobody", 99))
    await execute(
        database, "INSERT INTO ledger_check (day, started_at_ms, finished_at_ms, findings, report) "
        "VALUES ('2026-05-24', 1, 2, 0, '[]')",
    )  # fmt: skip

    day = await finance.get("/admin/reconciliation/report", day=DAY)

    (provider,) = day["providers"]
    assert (day["status"], day["ledger_findings"]) == ("differences", 0)
    assert (provider["provider"], provider["payments"], provider["gross_amount"], provider["fee_amount"]) == (
        "sandbox", 1, 50_000, 350,
    )  # fmt: skip
    assert [provider[kind] for kind in ("missing", "extra", "different", "open")] == [1, 1, 0, 2]


async def test_totals_are_by_day_provider_and_merchant(finance: Staff, shop: Shop) -> None:
    till = await shop.another_terminal()
    for place, amount in ((shop, 10_000), (till, 20_000)):
        await take(shop.database, report(await place.payment(await place.box(), amount)))
    await take(shop.database, report(await shop.payment(await shop.box(), 5_000, provider="acme")))

    pages = [row async for page in finance.pages("/admin/reconciliation/totals", limit=1) for row in page]

    assert [(row["day"], row["provider"], row["payments"], row["gross_amount"]) for row in pages] == [
        (DAY, "sandbox", 2, 30_000), (DAY, "acme", 1, 5_000),
    ]  # fmt: skip


async def test_a_provider_without_a_mapping_is_named(finance: Staff, hub: Hub) -> None:
    answer = await finance.call(
        "POST", "/admin/reconciliation/statements", params={"provider": "acme", "day_from": DAY}, content=b"x"
    )

    assert (answer.status_code, answer.json()["details"]) == (404, {"provider": "acme"})


async def test_what_cannot_be_a_mapping_or_a_day_is_refused(finance: Staff) -> None:
    refused = await finance.refused("PUT", "/admin/reconciliation/mappings/acme", {"amount": "Gross"}, status=400)
    assert refused["code"] == "VALIDATION_FAILED"
    for day in ("2026-02-29", "2026-04-31", "2026-13-01", "yesterday"):
        assert (await upload(finance, HEAD, day=day)).status_code == 400
    assert (await upload(finance, HEAD, day="2028-02-29")).status_code == 422
    assert (await upload(finance, HEAD, day_to="2026-05-22")).status_code == 400


async def test_a_statement_too_long_is_refused(finance: Staff, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundbox_server.reconciliation.routes.LARGEST_FILE", 100)

    assert (await upload(finance, HEAD + line(new_id("ref"), 1) * 5)).status_code == 413
