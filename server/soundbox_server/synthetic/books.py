"""What shops sold, as the rows that a real sale leaves behind: payment, charge, the provider's word, log, journals,
refunds, batches and payouts. All at once, with ids of their own time, so that the same trade is the same rows.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from soundbox_server.clock import jakarta_day, rfc3339
from soundbox_server.db import Statements
from soundbox_server.fees.terms import ROUNDING, Payee, Terms, fee
from soundbox_server.ids import id_of
from soundbox_server.ledger import service as ledger
from soundbox_server.payouts.rails import choose
from soundbox_server.revenue import service as revenue
from soundbox_server.settlements.calendar import Calendar
from soundbox_server.settlements.state import SettlementState
from soundbox_server.synthetic.settling import Batch, Moved
from soundbox_server.synthetic.shops import Sale

PROVIDER = "sandbox"
QR_LIFE_MS = 300_000
ISSUED_MS, TOLD_MS, REFUNDED_MS = 350, 400, 25 * 60_000  # after it was asked for, paid, and paid again

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "payment": (
        "id", "merchant_id", "outlet_id", "terminal_id", "source", "method", "order_code", "qr_mode", "amount",
        "currency", "state", "late", "fee_amount", "fee_bps", "fee_version", "fee_rounding", "issuer", "rrn",
        "expires_at_ms", "paid_at_ms", "captured_at_ms", "created_at_ms", "trace_id", "paid_amount", "refunded_amount",
    ),
    "payment_attempt": (
        "id", "payment_id", "number", "provider", "reference", "provider_reference", "state", "lease_until_ms",
        "created_at_ms", "answered_at_ms",
    ),
    "provider_event": (
        "id", "provider", "event_key", "body_sha256", "body", "outcome", "payment_id", "reference", "request_id",
        "received_at_ms",
    ),
    "sale": ("merchant_id", "order_code", "product_name", "items", "created_at_ms"),
    "payment_event": ("id", "payment_id", "at_ms", "kind", "state", "source", "detail"),
    "journal": ("id", "kind", "payment_id", "provider_event_id", "booked_at_ms", "money_key"),
    "posting": ("journal_id", "position", "source", "destination", "unit", "amount"),
    "refund": (
        "id", "payment_id", "attempt_id", "provider", "reference", "provider_refund_id", "origin", "amount",
        "fee_returned", "returns_fee", "from_suspense", "state", "reason", "requested_by", "asks", "lease_until_ms",
        "created_at_ms", "submitted_at_ms", "finished_at_ms",
    ),
    "settlement": (
        "id", "merchant_id", "fee_profile_id", "day", "window_name", "opens_at_ms", "closes_at_ms", "settles_on",
        "state", "payout_mode", "payments", "adjustments", "gross_amount", "fee_amount", "adjustment_amount",
        "carried_in", "carried_out", "net_amount", "created_at_ms", "calculated_at_ms", "changed_at_ms",
    ),
    "settlement_share": (
        "settlement_id", "provider", "merchant_id", "payments", "adjustments", "gross_amount", "fee_amount",
        "adjustment_amount", "carried_in", "carried_out", "net_amount", "carried_to",
    ),
    "settlement_item": (
        "settlement_id", "journal_id", "payment_id", "kind", "provider", "gross_amount", "fee_amount", "at_ms",
    ),
    "payout": (
        "id", "settlement_id", "merchant_id", "number", "mode", "bank", "rail", "reference", "bank_payout_id", "amount",
        "account_reference", "account_type", "state", "error_code", "requested_by", "asks", "lease_until_ms",
        "created_at_ms", "submitted_at_ms", "finished_at_ms",
    ),
}  # fmt: skip
_ISSUERS = ("GoPay", "DANA", "OVO", "BCA", "ShopeePay", "Mandiri")
_WHY_BACK = ("Pesanan keliru", "Barang habis", "Pelanggan membatalkan")


@dataclass(frozen=True, kw_only=True)
class Seller:
    """Whose books these are, and what its payments cost."""

    merchant_id: str
    outlet_id: str
    terminal_id: str
    account: str
    payee: Payee
    terms: Terms
    returns_fee: bool
    by: str  # who gives money back, and has a refused payout tried again


@dataclass
class Books:
    """Rows by table, what they add to the sums of days, and what is to be settled."""

    seller: Seller
    chances: random.Random
    rows: dict[str, list[tuple[object, ...]]] = field(default_factory=lambda: {table: [] for table in _COLUMNS})
    earned: list[revenue.Entry] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)

    def id(self, prefix: str, at_ms: int) -> str:
        return id_of(prefix, at_ms, self.chances.getrandbits(80))

    def add(self, table: str, *row: object) -> None:
        self.rows[table].append(row)

    def step(self, payment_id: str, at_ms: int, kind: str, state: str, source: str, detail: str | None = None) -> None:
        self.add("payment_event", self.id("pev", at_ms), payment_id, at_ms, kind, state, source, detail)

    def post(self, journal: ledger.Journal, at_ms: int) -> str:
        journal_id = self.id("jrn", at_ms)
        self.add(
            "journal",
            journal_id, journal.kind, journal.payment_id, journal.provider_event_id, at_ms, journal.money_key,
        )  # fmt: skip
        for position, one in enumerate(journal.postings):
            self.add("posting", journal_id, position, one.source, one.destination, one.unit, one.amount)
        return journal_id

    def earn(self, at_ms: int, provider: str, **sums: int) -> None:
        till, merchant = self.seller.terminal_id, self.seller.merchant_id
        self.earned.append(
            revenue.Entry(at_ms=at_ms, terminal_id=till, provider=provider, merchant_id=merchant, **sums)
        )


def keep(books: Books, sales: Iterable[Sale], *, now_ms: int) -> None:
    """Everything that these sales left behind up to now."""
    for sale in sales:
        if sale.at_ms + QR_LIFE_MS + REFUNDED_MS > now_ms:  # what is still going on is for real shops
            continue
        if sale.is_cash:
            _cash(books, sale)
        elif sale.paid_at_ms is None:
            _unpaid(books, sale)
        else:
            _paid(books, sale, sale.paid_at_ms)


async def write(tx: Statements, books: Books) -> None:
    for table, columns in _COLUMNS.items():
        values = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"
        await tx.many(sql, books.rows[table])
    await revenue.add(tx, books.earned)


def _sold(books: Books, sale: Sale, *, method: str, state: str, source: str, **other: object) -> str:
    """The payment's row, what was sold, and the first line of its log; returns its id. `other` fills what only paid
    ones have."""
    seller, payment_id = books.seller, books.id("txn", sale.at_ms)
    order_code = books.id("ord", sale.at_ms)
    is_qr = method != "cash"
    books.add(
        "payment",
        payment_id, seller.merchant_id, seller.outlet_id, seller.terminal_id, source, method, order_code,
        "dynamic" if is_qr else "none", sale.amount, "IDR", state, False,
        *(other.get(name) for name in ("fee_amount", "fee_bps", "fee_version", "fee_rounding", "issuer", "rrn")),
        sale.at_ms + (QR_LIFE_MS if is_qr else 0), other.get("paid_at_ms"), other.get("captured_at_ms"), sale.at_ms,
        books.id("trc", sale.at_ms), None if sale.paid_at_ms is None else sale.amount, sale.refunded_idr,
    )  # fmt: skip
    items = [
        {"name": line.product.name, "quantity": line.quantity, "unitPrice": line.product.price_idr}
        for line in sale.lines
    ]
    if items:
        books.add(
            "sale",
            seller.merchant_id, order_code, items[0]["name"], orjson.dumps(items).decode(), sale.at_ms,
        )  # fmt: skip
    books.step(payment_id, sale.at_ms, "payment.created", "created", source)
    return payment_id


def _cash(books: Books, sale: Sale) -> None:
    merchant_id = books.seller.merchant_id
    payment_id = _sold(
        books, sale, method="cash", state="paid", source="api", fee_amount=0, fee_bps=0, fee_version="cash",
        paid_at_ms=sale.at_ms, captured_at_ms=sale.at_ms,
    )  # fmt: skip
    books.step(payment_id, sale.at_ms, "payment.paid", "paid", "api")
    books.post(ledger.cash(payment_id=payment_id, merchant_id=merchant_id, amount=sale.amount), sale.at_ms)
    books.earn(sale.at_ms, revenue.CASH, payments=1, gross_amount=sale.amount)


def _unpaid(books: Books, sale: Sale) -> None:
    payment_id = _sold(books, sale, method="qris_dynamic", state="expired", source="api")
    _charge(books, sale, payment_id, state="expired")
    books.step(payment_id, sale.at_ms + QR_LIFE_MS, "payment.expired", "expired", "clock")


def _charge(books: Books, sale: Sale, payment_id: str, *, state: str) -> tuple[str, str, str]:
    """Its id, our reference, and the provider's."""
    at_ms = sale.at_ms
    found = (books.id("att", at_ms), books.id("ref", at_ms), books.id("ptx", at_ms + ISSUED_MS))
    books.add(
        "payment_attempt",
        found[0], payment_id, 1, PROVIDER, found[1], found[2], state, 0, at_ms, at_ms + ISSUED_MS,
    )  # fmt: skip
    books.step(payment_id, at_ms + ISSUED_MS, "payment.qr_issued", "awaiting_payment", PROVIDER)
    return found


def _paid(books: Books, sale: Sale, paid_at_ms: int) -> None:
    seller, told_ms = books.seller, paid_at_ms + TOLD_MS
    rate = seller.terms.rate(seller.payee, day=jakarta_day(paid_at_ms), amount=sale.amount)
    assert rate is not None  # the rule book has a rate for everybody
    charged = fee(sale.amount, rate.bps)
    state = "paid"
    if sale.refunded_idr:
        state = "refunded" if sale.refunded_idr == sale.amount else "partially_refunded"
    issuer = _ISSUERS[books.chances.randrange(len(_ISSUERS))]
    rrn = str(books.chances.randrange(10**11, 10**12))
    payment_id = _sold(
        books, sale, method="qris_dynamic", state=state, source="api", fee_amount=charged, fee_bps=rate.bps,
        fee_version=rate.version, fee_rounding=ROUNDING, issuer=issuer, rrn=rrn, paid_at_ms=paid_at_ms,
        captured_at_ms=told_ms,
    )  # fmt: skip
    attempt_id, reference, transaction_id = _charge(books, sale, payment_id, state="succeeded")
    event_id = _told(books, sale, payment_id, reference, transaction_id, issuer, rrn, paid_at_ms)
    books.step(payment_id, told_ms, "payment.paid", "paid", PROVIDER)
    capture = ledger.capture(
        payment_id=payment_id, provider_event_id=event_id, provider=PROVIDER, merchant_id=seller.merchant_id,
        gross=sale.amount, fee=charged,
    )  # fmt: skip
    journal_id = books.post(capture, told_ms)
    books.earn(paid_at_ms, PROVIDER, payments=1, gross_amount=sale.amount, fee_amount=charged)
    books.moved.append(
        Moved(
            journal_id=journal_id, payment_id=payment_id, kind="payment", gross=sale.amount, fee=charged,
            at_ms=paid_at_ms,
        )
    )  # fmt: skip
    if sale.refunded_idr:
        _given_back(books, sale, payment_id, attempt_id, state, capture, charged, told_ms + REFUNDED_MS)


def _told(
    books: Books, sale: Sale, payment_id: str, reference: str, transaction_id: str, issuer: str, rrn: str,
    paid_at_ms: int,
) -> str:  # fmt: skip
    """The provider's own word that it was paid, as the sandbox writes it."""
    at_ms = paid_at_ms + TOLD_MS
    key = books.id("sev", at_ms)
    body = orjson.dumps(
        {
            "event_id": key, "partner_reference": reference, "transaction_id": transaction_id, "status": "paid",
            "amount": sale.amount, "currency": "IDR", "paid_at": rfc3339(paid_at_ms), "issuer": issuer, "rrn": rrn,
        }
    )  # fmt: skip
    event_id = books.id("evt", at_ms)
    books.add(
        "provider_event",
        event_id, PROVIDER, key, hashlib.sha256(body).hexdigest(), body, "applied", payment_id, reference,
        books.id("req", at_ms), at_ms,
    )  # fmt: skip
    return event_id


def _given_back(
    books: Books, sale: Sale, payment_id: str, attempt_id: str, state: str, capture: ledger.Journal, charged: int,
    at_ms: int,
) -> None:  # fmt: skip
    seller, refund_id, amount = books.seller, books.id("rfd", at_ms), sale.refunded_idr
    returned = (2 * charged * amount + sale.amount) // (2 * sale.amount) if seller.returns_fee else 0
    asked_ms = at_ms - 2_000
    books.add(
        "refund",
        refund_id, payment_id, attempt_id, PROVIDER, books.id("ref", at_ms), books.id("prf", at_ms), "person", amount,
        returned, seller.returns_fee, False, "done", _WHY_BACK[books.chances.randrange(len(_WHY_BACK))], seller.by, 1,
        0, asked_ms, asked_ms + 500, at_ms,
    )  # fmt: skip
    books.step(payment_id, asked_ms, "refund.requested", "paid", seller.by, str(amount))
    books.step(payment_id, at_ms, "refund.done", state, PROVIDER, str(amount))
    journal = ledger.refund(
        capture.postings, payment_id=payment_id, refund_id=refund_id, amount=amount, fee_returned=returned
    )
    journal_id = books.post(journal, at_ms)
    books.earn(at_ms, PROVIDER, refunds=1, refunded_amount=amount, fee_returned=returned)
    books.moved.append(
        Moved(
            journal_id=journal_id, payment_id=payment_id, kind="refund", gross=-amount, fee=-returned, at_ms=at_ms
        )
    )  # fmt: skip


def settle(books: Books, batches: Sequence[Batch], *, calendar: Calendar) -> None:
    """The batches with their items, what was paid out of them, and what was carried on."""
    carried_from: str | None = None
    for batch in batches:
        settlement_id = books.id("stl", batch.runs_at_ms)
        if carried_from is not None and batch.share.carried_in:
            _carry(books, carried_from, settlement_id)
        _batch(books, batch, settlement_id)
        if batch.share.net_amount:
            _pay_out(books, batch, settlement_id, is_open=calendar.is_open)
        carried_from = settlement_id if batch.share.carried_out else None


def _carry(books: Books, of: str, to: str) -> None:
    shares = books.rows["settlement_share"]
    shares[-1] = (*shares[-1][:-1], to)
    assert shares[-1][0] == of


def _batch(books: Books, batch: Batch, settlement_id: str) -> None:
    seller, window, net = books.seller, batch.window, batch.share.net_amount
    state = SettlementState.PAID if net else SettlementState.CARRIED
    books.add(
        "settlement",
        settlement_id, seller.merchant_id, seller.terms.profile_id, window.day, window.name, window.opens_at_ms,
        window.closes_at_ms, window.settles_on, state.value, "merchant_direct", *batch.share.row(), batch.runs_at_ms,
        batch.runs_at_ms, batch.paid_at_ms if net else batch.runs_at_ms,
    )  # fmt: skip
    books.add("settlement_share", settlement_id, PROVIDER, seller.merchant_id, *batch.share.row(), None)
    for one in batch.moved:
        books.add(
            "settlement_item",
            settlement_id, one.journal_id, one.payment_id, one.kind, PROVIDER, one.gross, one.fee, one.at_ms,
        )  # fmt: skip
    if net:
        leaves = ledger.settlement(settlement_id=settlement_id, merchant_id=seller.merchant_id, net=net)
        books.post(leaves, batch.runs_at_ms)


def _pay_out(books: Books, batch: Batch, settlement_id: str, *, is_open: Callable[[str], bool]) -> None:
    seller, net = books.seller, batch.share.net_amount
    tries = [(batch.refused_at_ms, "failed", "PAYOUT_FAILED")] if batch.refused_at_ms is not None else []
    for number, (ended_ms, state, code) in enumerate([*tries, (batch.paid_at_ms, "succeeded", None)], 1):
        at_ms = batch.runs_at_ms + 60_000 if number == 1 else ended_ms - 60_000
        payout_id = books.id("pyt", at_ms)
        books.add(
            "payout",
            payout_id, settlement_id, seller.merchant_id, number, "merchant_direct", PROVIDER,
            _rail(net, ended_ms, is_open), books.id("pay", at_ms), books.id("bnk", at_ms), net,
            seller.account, "merchant_bank_account", state, code, None if number == 1 else seller.by, 1, 0, at_ms,
            ended_ms - 1_000, ended_ms,
        )  # fmt: skip
    reached = ledger.payout(settlement_id, {PROVIDER: net}, payout_id=payout_id, by_hand=False)
    books.post(reached, batch.paid_at_ms)


def _rail(amount: int, at_ms: int, is_open: Callable[[str], bool]) -> str | None:
    rail = choose(amount, at_ms=at_ms, is_open=is_open)
    return None if rail is None else rail.value
