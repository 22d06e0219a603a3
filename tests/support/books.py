"""The ledger against an independent sum: a journal that sums to zero proves nothing by itself."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from support.shop import rows

from soundbox_server.db import Database

_FIRST = "FROM outbox_message WHERE kind = 'payment_success' AND original_id IS NULL"


@dataclass(frozen=True)
class Books:
    """What the books hold, once they were found to be right."""

    captured: Counter[str]  # payment id -> capture journals
    paid: int  # through providers
    suspense: int
    cash: int  # in merchants' drawers


async def check_books(database: Database) -> Books:
    """Every rule of the ledger and of announcements that holds at any moment. Raises AssertionError."""
    payments = {row["id"]: row for row in await rows(database, "SELECT * FROM payment")}
    providers = {
        row["payment_id"]: row["provider"]
        for row in await rows(database, "SELECT payment_id, provider FROM payment_attempt")
    }
    postings = await rows(
        database,
        "SELECT p.source, p.destination, p.amount, p.unit, j.kind, j.payment_id FROM posting p "
        "JOIN journal j ON j.id = p.journal_id",
    )
    captured = Counter(
        row["payment_id"] for row in await rows(database, "SELECT payment_id FROM journal WHERE kind = 'capture'")
    )
    suspense = await _suspense_by_provider(database)
    cash = [row for row in payments.values() if row["method"] == "cash"]
    paid = {key: row for key, row in payments.items() if row["state"] == "paid" and row not in cash}

    assert captured == Counter([*paid, *(row["id"] for row in cash)])
    assert all(row["fee_amount"] == _half_up(row["amount"], row["fee_bps"]) for row in paid.values())
    balances = _balances(postings)
    assert sum(balances.values()) == 0
    for provider in {*providers.values(), *suspense}:
        gross = [row for key, row in paid.items() if providers[key] == provider]
        assert -balances[f"provider_receivable:{provider}"] == _total(gross, "amount") + suspense[provider]
        assert balances[f"suspense:{provider}"] == suspense[provider]
        assert balances[f"fees:{provider}"] == _total(gross, "fee_amount")
    for merchant in {row["merchant_id"] for row in payments.values()}:
        its = [row for row in paid.values() if row["merchant_id"] == merchant]
        assert balances[f"merchant_payable:{merchant}"] == _total(its, "amount") - _total(its, "fee_amount")
        its_cash = _in_drawer(row for row in cash if row["merchant_id"] == merchant)
        assert (balances[f"cash_sales:{merchant}"], balances[f"cash_drawer:{merchant}"]) == (its_cash, -its_cash)
    await _check_announcements(database, paid)
    return Books(
        captured=captured,
        paid=_total(paid.values(), "amount"),
        suspense=sum(suspense.values()),
        cash=_in_drawer(cash),
    )


async def _check_announcements(database: Database, paid: dict[str, Any]) -> None:
    first = await rows(database, "SELECT subject_id, recipient_id, count(*) AS n " + _FIRST + " GROUP BY 1, 2")
    assert all(row["n"] == 1 for row in first)
    assert {row["subject_id"] for row in first} == set(paid)
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for row in await rows(
        database, "SELECT recipient_id, seq FROM outbox_message WHERE seq IS NOT NULL ORDER BY recipient_id, seq"
    ):
        numbers[row["recipient_id"]].append(row["seq"])
    for device in await rows(database, "SELECT id, last_seq FROM device"):
        assert numbers[device["id"]] == list(range(1, device["last_seq"] + 1))


async def _suspense_by_provider(database: Database) -> Counter[str]:
    """The rupiah that came and belonged to no payment, from the stored bytes of what providers said.

    A transfer is known by its retrieval reference, or else by its event, and counts once however often it is told.
    """
    aside: dict[tuple[str, str], int] = {}
    for row in await rows(
        database,
        "SELECT e.provider, e.body, p.rrn AS captured FROM provider_event e LEFT JOIN payment p ON p.id = e.payment_id "
        "WHERE e.outcome IN ('needs_review', 'orphan') ORDER BY e.received_at_ms, e.id",
    ):
        said = json.loads(bytes(row["body"]))
        rrn = said.get("rrn")
        if said["status"] == "paid" and said["currency"] == "IDR" and (rrn is None or rrn != row["captured"]):
            aside.setdefault((row["provider"], rrn or said["event_id"]), said["amount"])
    total: Counter[str] = Counter()
    for (provider, _), amount in aside.items():
        total[provider] += amount
    return total


def _balances(postings: Iterable[dict[str, Any]]) -> Counter[str]:
    balances: Counter[str] = Counter()
    for posting in postings:
        assert posting["unit"] == "IDR"
        balances[posting["source"]] -= posting["amount"]
        balances[posting["destination"]] += posting["amount"]
    return balances


def _in_drawer(cash: Iterable[dict[str, Any]]) -> int:
    """What was not given back of it, and did not leave with a sale that was taken back."""
    return sum(row["paid_amount"] - row["refunded_amount"] for row in cash if row["state"] != "reversed")


def _half_up(amount: int, bps: int) -> int:
    return int(Fraction(amount * bps, 10_000) + Fraction(1, 2))


def _total(found: Iterable[dict[str, Any]], column: str) -> int:
    return sum(row[column] for row in found)
