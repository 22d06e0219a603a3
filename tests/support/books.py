"""The ledger against an independent sum: a journal that sums to zero proves nothing by itself."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from support.shop import rows

from soundbox_server.db import Database
from soundbox_server.revenue.service import differences

_FIRST = "FROM outbox_message WHERE kind = 'payment_success' AND original_id IS NULL"


@dataclass(frozen=True)
class Books:
    """What the books hold, once they were found to be right."""

    captured: Counter[str]  # payment id -> capture journals
    paid: int  # through providers
    suspense: int
    cash: int  # in merchants' drawers


async def check_books(database: Database) -> Books:
    """Every rule of the ledger, of refunds, of revenue and of announcements that holds at any moment. Raises
    AssertionError."""
    payments = {row["id"]: row for row in await rows(database, "SELECT * FROM payment")}
    providers = {
        row["payment_id"]: row["provider"]
        for row in await rows(
            database,
            "SELECT payment_id, provider FROM payment_attempt ORDER BY CASE state WHEN 'succeeded' THEN 1 ELSE 0 END",
        )
    }
    refunds = await rows(database, "SELECT * FROM refund")
    postings = await rows(
        database,
        "SELECT p.source, p.destination, p.amount, p.unit, j.kind, j.payment_id FROM posting p "
        "JOIN journal j ON j.id = p.journal_id",
    )
    captured = Counter(
        row["payment_id"] for row in await rows(database, "SELECT payment_id FROM journal WHERE kind = 'capture'")
    )
    came = await _suspense_by_provider(database)
    cash = {key: row for key, row in payments.items() if row["method"] == "cash" and row["paid_at_ms"] is not None}
    transfers = {
        key: row for key, row in payments.items() if row["method"] == "wallet" and row["paid_at_ms"] is not None
    }
    without_provider = {**cash, **transfers}
    paid = {key: row for key, row in payments.items() if row["paid_at_ms"] is not None and key not in without_provider}
    went = _went(postings)

    assert captured == Counter([*paid, *cash, *transfers])
    assert all(row["fee_amount"] == _half_up(row["paid_amount"], row["fee_bps"]) for row in paid.values())
    _check_refunds(payments, refunds)
    balances = _balances(postings)
    assert sum(balances.values()) == 0
    settled = await _check_settlements(database, payments, refunds, balances)
    paid_out = await _check_payouts(database, balances)
    paid_out += await _check_wallets(database, payments, refunds, balances)
    done = [refund for refund in refunds if refund["state"] == "done" and not refund["from_suspense"]]
    suspense: Counter[str] = Counter()
    for provider in {*providers.values(), *came}:
        gross = [row for key, row in paid.items() if providers[key] == provider]
        back = [refund for refund in done if refund["provider"] == provider]
        suspense[provider] = came[provider] - went["suspense", provider]
        assert suspense[provider] >= 0
        assert balances[f"suspense:{provider}"] == suspense[provider]
        receivable = _total(gross, "paid_amount") - _total(back, "amount") - went["reversal", provider]
        receivable -= paid_out[provider]
        assert -balances[f"provider_receivable:{provider}"] == receivable + suspense[provider]
        fees = _total(gross, "fee_amount") - _total(back, "fee_returned") - went["reversed_fee", provider]
        assert balances[f"fees:{provider}"] == fees
    for merchant in {row["merchant_id"] for row in payments.values()}:
        its = [row for row in paid.values() if row["merchant_id"] == merchant]
        into_wallets = _total((row for row in its if row["credit_account"] is not None), "paid_amount")
        back = [
            refund for refund in done
            if refund["payment_id"] not in without_provider
            and payments[refund["payment_id"]]["merchant_id"] == merchant
        ]  # fmt: skip
        kept = _total(its, "paid_amount") - _total(its, "fee_amount")
        returned = _total(back, "amount") - _total(back, "fee_returned")
        owed = kept - returned - went["reversed_net", merchant]
        assert balances[f"merchant_payable:{merchant}"] == owed - into_wallets - settled[merchant]
        its_cash = _in_drawer(row for row in cash.values() if row["merchant_id"] == merchant)
        assert (balances[f"cash_sales:{merchant}"], balances[f"cash_drawer:{merchant}"]) == (its_cash, -its_cash)
    unsaid = {refund["payment_id"] for refund in refunds if refund["origin"] == "late_policy"}
    await _check_announcements(database, (paid.keys() | transfers.keys()) - unsaid)
    assert await database.read(differences) == []
    return Books(
        captured=captured,
        paid=_total(paid.values(), "paid_amount"),
        suspense=sum(suspense.values()),
        cash=_in_drawer(cash.values()),
    )


async def _check_settlements(
    database: Database, payments: dict[str, Any], refunds: Iterable[dict[str, Any]], balances: Counter[str]
) -> Counter[str]:
    """Batches say what their items' payments, refunds and reversals say themselves. Returns what was paid out of each
    merchant's."""
    batches = {row["id"]: row for row in await rows(database, "SELECT * FROM settlement")}
    items = await rows(
        database,
        "SELECT i.*, j.kind AS booked_as, j.money_key, j.payment_id AS booked_for FROM settlement_item i "
        "JOIN journal j ON j.id = i.journal_id",
    )
    moved: Counter[str] = Counter()
    by_refund = {f"refund:{refund['id']}": refund for refund in refunds}
    back = Counter(one["payment_id"] for one in by_refund.values())
    for item in items:
        payment, batch = payments[item["payment_id"]], batches[item["settlement_id"]]
        assert item["booked_for"] == item["payment_id"]
        assert (payment["merchant_id"], payment["method"] == "cash") == (batch["merchant_id"], False)
        assert item["at_ms"] < batch["closes_at_ms"]
        assert item["booked_as"] == {"payment": "capture"}.get(item["kind"], item["kind"])
        said = (item["gross_amount"], item["fee_amount"])
        if item["kind"] == "payment":
            assert said == (payment["paid_amount"], payment["fee_amount"])
        elif item["kind"] == "refund":
            refund = by_refund[item["money_key"]]
            assert said == (-refund["amount"], -refund["fee_returned"])
        elif not back[payment["id"]]:
            assert said == (-payment["paid_amount"], -payment["fee_amount"])
        moved[item["settlement_id"]] += said[0] - said[1]
    assert len({item["journal_id"] for item in items}) == len(items)
    payments_in = Counter(item["payment_id"] for item in items if item["kind"] == "payment")
    assert all(times == 1 for times in payments_in.values())
    settled: Counter[str] = Counter()
    carried: Counter[str] = Counter()
    for key, batch in batches.items():
        if batch["state"] == "open":
            continue
        assert moved[key] == batch["gross_amount"] - batch["fee_amount"] + batch["adjustment_amount"]
        assert moved[key] + batch["carried_in"] == batch["net_amount"] + batch["carried_out"]
        settled[batch["merchant_id"]] += batch["net_amount"]
        carried[batch["merchant_id"]] += batch["carried_out"] - batch["carried_in"]
        if batch["state"] == "calculated":
            assert balances[f"clearing:{key}"] == batch["net_amount"]
    shares = await rows(database, "SELECT * FROM settlement_share")
    for name in ("gross_amount", "fee_amount", "adjustment_amount", "carried_in", "carried_out", "net_amount"):
        parts: Counter[str] = Counter()
        for share in shares:
            parts[share["settlement_id"]] += share[name]
        assert all(parts[key] == batch[name] for key, batch in batches.items() if batch["state"] != "open")
    waiting: Counter[str] = Counter()
    for share in shares:
        if share["carried_to"] is None:
            waiting[share["merchant_id"]] += share["carried_out"]
    assert +carried == +waiting
    assert -carried == -waiting
    return settled


async def _check_payouts(database: Database, balances: Counter[str]) -> Counter[str]:
    """A batch is paid by one payout or by none, and clearing holds it as long as it is not; what went through each
    provider."""
    found = await rows(database, "SELECT id, settlement_id, mode, amount, state FROM payout")
    paid = {row["settlement_id"]: row for row in found if row["state"] == "succeeded"}
    assert len(paid) == sum(row["state"] == "succeeded" for row in found)
    for batch in await rows(database, "SELECT id, state, net_amount FROM settlement"):
        by = paid.get(batch["id"])
        assert (batch["state"] == "paid") == (by is not None)
        assert balances[f"clearing:{batch['id']}"] == (0 if by else batch["net_amount"])
        assert by is None or by["amount"] == batch["net_amount"]
    assert balances["manual_payout"] == sum(row["amount"] for row in paid.values() if row["mode"] == "manual")
    through: Counter[str] = Counter()
    for share in await rows(database, "SELECT settlement_id, provider, net_amount FROM settlement_share"):
        if share["settlement_id"] in paid and paid[share["settlement_id"]]["mode"] == "merchant_direct":
            through[share["provider"]] += share["net_amount"]
    return through


async def _check_wallets(
    database: Database, payments: dict[str, Any], refunds: Iterable[dict[str, Any]], balances: Counter[str]
) -> Counter[str]:
    """Each wallet holds what was put into it and paid to it, less what it paid and what was taken out, and never less
    than nothing; what is on its way out waits in clearing. Returns what left through each bank."""
    held: Counter[str] = Counter()
    fees = 0
    back = Counter[str]()
    for refund in refunds:
        back[refund["payment_id"]] += refund["amount"] if refund["state"] == "done" else 0
    payer_of = {
        row["payment_id"]: row["payer_wallet_id"]
        for row in await rows(
            database, "SELECT payment_id, payer_wallet_id FROM wallet_session WHERE state = 'success'"
        )
    }
    for key, row in payments.items():
        if row["paid_at_ms"] is None or row["credit_account"] is None:
            continue
        if row["method"] != "wallet":
            held[row["credit_account"]] += row["paid_amount"]
            continue
        held[row["credit_account"]] += row["paid_amount"] - row["fee_amount"] - back[key]
        held[f"wallet:{payer_of.pop(key)}"] -= row["paid_amount"] - back[key]
        fees += row["fee_amount"]
    assert not payer_of
    through: Counter[str] = Counter()
    for one in await rows(database, "SELECT id, wallet_id, bank, amount, state FROM wallet_withdrawal"):
        out = one["state"] not in ("failed", "reversed")
        held[f"wallet:{one['wallet_id']}"] -= one["amount"] if out else 0
        on_its_way = one["amount"] if out and one["state"] != "succeeded" else 0
        assert balances[f"clearing:{one['id']}"] == on_its_way
        through[one["bank"]] += one["amount"] if one["state"] == "succeeded" else 0
    wallets = {f"wallet:{row['id']}" for row in await rows(database, "SELECT id FROM wallet")}
    assert held.keys() <= wallets
    assert {one: balances[one] for one in wallets} == {one: held[one] for one in wallets}
    assert all(balances[one] >= 0 for one in wallets)
    assert balances["fees:wallet"] == fees
    return through


def _went(postings: Iterable[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """What left suspense, and what reversals took back: of a provider, and net of a merchant."""
    went: Counter[tuple[str, str]] = Counter()
    for posting in postings:
        source, _, whose = posting["source"].partition(":")
        if source == "cash_sales":  # back out of the drawer: no provider and no fee has to do with it
            continue
        if posting["kind"] in ("release", "refund") and source == "suspense":
            went["suspense", whose] += posting["amount"]
        elif posting["kind"] == "reversal" and source == "fees":
            went["reversed_fee", whose] += posting["amount"]
            went["reversed_net", posting["destination"].partition(":")[2]] -= posting["amount"]
        elif posting["kind"] == "reversal":
            went["reversal", posting["destination"].partition(":")[2]] += posting["amount"]
            went["reversed_net", whose] += posting["amount"]
    return went


def _check_refunds(payments: dict[str, Any], refunds: Iterable[dict[str, Any]]) -> None:
    """What is pending and what is done together never exceed what was paid, and states tell how much went back."""
    done: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    for refund in refunds:
        if not refund["from_suspense"]:
            (pending if refund["state"] in ("requested", "submitted", "unknown") else done)[refund["payment_id"]] += (
                0 if refund["state"] == "failed" else refund["amount"]
            )
    for key, payment in payments.items():
        whole, gone = payment["paid_amount"] or 0, payment["refunded_amount"]
        assert gone == done[key]
        assert gone + pending[key] <= whole
        if payment["state"] == "paid":
            assert gone == 0
        if payment["state"] == "partially_refunded":
            assert 0 < gone < whole
        if payment["state"] == "refunded":
            assert gone == whole


async def _check_announcements(database: Database, paid: Iterable[str]) -> None:
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
    """The rupiah that came and belonged to no payment at first, from the stored bytes of what providers said.

    A transfer is known by its retrieval reference, or else by its event, and counts once however often it is told.
    """
    decided = await rows(database, "SELECT payment_id FROM payment_event WHERE kind = 'payment.accepted'")
    accepted = {row["payment_id"] for row in decided}
    aside: dict[tuple[str, str], int] = {}
    for row in await rows(
        database,
        "SELECT e.provider, e.body, e.outcome, e.payment_id, p.rrn AS captured FROM provider_event e "
        "LEFT JOIN payment p ON p.id = e.payment_id WHERE e.report IS NOT NULL ORDER BY e.received_at_ms, e.id",
    ):
        said = json.loads(bytes(row["body"]))
        rrn = said.get("rrn")
        # Captured by itself, unless it was kept apart first: as an orphan, or until an operator accepted it.
        booked = rrn is not None and rrn == row["captured"] and row["outcome"] == "needs_review"
        if said["status"] == "paid" and said["currency"] == "IDR" and (not booked or row["payment_id"] in accepted):
            aside.setdefault((row["provider"], rrn or said["event_id"]), said["amount"])
    total: Counter[str] = Counter()
    for (provider, _), amount in aside.items():
        total[provider] += amount
    return total


def _balances(postings: Iterable[dict[str, Any]]) -> Counter[str]:
    balances: Counter[str] = Counter()
    for posting in postings:
        if posting["unit"] == "TOKEN":  # counted for themselves: support/partner.py
            continue
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
