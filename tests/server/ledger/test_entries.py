"""The ledger as staff read it: every posting once, seen from the account that was asked for."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.hub import open_hub
from support.shop import Shop, open_shop, report, rows, take
from support.staff import Staff

from soundbox_server.clock import now_ms, rfc3339
from soundbox_server.db import Database


@pytest.fixture
async def finance(database_url: str, tmp_path: Path) -> AsyncIterator[Staff]:
    async with open_hub(database_url, tmp_path / "home") as hub:
        yield Staff(hub, "per_finance", "finance")


async def paid(shop: Shop, *amounts: int) -> list[str]:
    device_id, ids = await shop.box(), []
    for amount in amounts:
        payment = await shop.payment(device_id, amount)
        await take(shop.database, report(payment), now_ms=now_ms())
        ids.append(payment.payment_id)
    return ids


async def test_a_payment_is_two_entries_of_its_merchant(finance: Staff, database: Database) -> None:
    shop = await open_shop(database)
    (transaction_id,) = await paid(shop, 50_000)

    fee, payment = await finance.get("/admin/ledger-entries")

    account = f"merchant_payable:{shop.merchant_id}"
    wanted = ("entry_type", "direction", "amount", "balance_effect", "account", "merchant_id", "transaction_id", "unit")
    assert [payment[name] for name in wanted] == [
        "payment", "credit", 50_000, 50_000, account, shop.merchant_id, transaction_id, "IDR",
    ]  # fmt: skip
    assert [fee[name] for name in wanted] == [
        "fee", "debit", 350, -350, account, shop.merchant_id, transaction_id, "IDR",
    ]  # fmt: skip


async def test_the_entries_of_an_account_add_up_to_its_balance(finance: Staff, database: Database) -> None:
    ours, theirs = await open_shop(database), await open_shop(database)
    await paid(ours, 50_000, 20_000)
    await paid(theirs, 7_000)

    async def effects(account: str) -> list[int]:
        return [one["balance_effect"] for one in await finance.get("/admin/ledger-entries", account=account)]

    assert sum(await effects(f"merchant_payable:{ours.merchant_id}")) == 70_000 - 490
    assert sum(await effects(f"merchant_payable:{theirs.merchant_id}")) == 7_000 - 49
    assert sum(await effects("provider_receivable:sandbox")) == -77_000
    assert sum(await effects("fees:sandbox")) == 539
    assert await effects("suspense:sandbox") == []


async def test_money_that_fits_nothing_is_seen_in_suspense(finance: Staff, database: Database) -> None:
    shop = await open_shop(database)
    payment = await shop.payment(await shop.box(), 50_000)
    await take(database, report(payment, amount=40_000), now_ms=now_ms())

    (entry,) = await finance.get("/admin/ledger-entries", account="suspense:sandbox")
    (of_merchant,) = await finance.get("/admin/ledger-entries", merchant_id=shop.merchant_id)

    assert (entry["entry_type"], entry["balance_effect"], entry["kind"]) == ("suspense", 40_000, "suspense")
    assert of_merchant["id"] == entry["id"]


async def test_every_posting_is_on_one_page(finance: Staff, database: Database) -> None:
    await paid(await open_shop(database), 50_000, 20_000, 10_000)

    pages = [page async for page in finance.pages("/admin/ledger-entries", limit=1)]

    stored = await rows(database, "SELECT journal_id, position FROM posting ORDER BY journal_id DESC, position DESC")
    assert [one["id"] for page in pages for one in page] == [f"{p['journal_id']}:{p['position']}" for p in stored]
    assert len(pages) == 6


async def test_the_entries_are_filtered(finance: Staff, database: Database) -> None:
    shop, other, began = await open_shop(database), await open_shop(database), now_ms()
    first, _second = await paid(shop, 50_000, 20_000)
    await paid(other, 7_000)

    async def count(**filters: Any) -> int:
        return len(await finance.get("/admin/ledger-entries", **filters))

    assert await count(merchant_id=shop.merchant_id) == 4
    assert await count(transaction_id=first) == 2
    assert await count(merchant_id=other.merchant_id, transaction_id=first) == 0
    assert (await count(kind="capture"), await count(kind="suspense")) == (6, 0)
    assert await count(booked_from=rfc3339(began)) == 6
    assert await count(booked_to=rfc3339(began)) == 0


async def test_a_merchants_entries_are_found_without_reading_the_whole_ledger(database: Database) -> None:
    """The plans name the indexes they walk: a million journals of others cost nothing."""
    from soundbox_server.ledger.routes import LEDGER_ENTRIES, LedgerFilters

    query = LEDGER_ENTRIES.select(LedgerFilters(merchant_id="mer_1")).limit(20)
    compiled = str(query.compile(database.engine, compile_kwargs={"literal_binds": True}))
    if database.dialect == "sqlite":
        plan = [row["detail"] for row in await rows(database, f"EXPLAIN QUERY PLAN {compiled}")]
        assert any("journal_captured_once" in line for line in plan), plan
        assert any("payment_merchant" in line for line in plan), plan
        assert not any(line.startswith(("SCAN journal", "SCAN posting", "SCAN payment")) for line in plan), plan
