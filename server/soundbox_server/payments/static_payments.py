"""QR that hang at terminals. Nobody asks for a payment first: a provider's word that money came makes it.

The same QR is paid by many customers at once, and each payment is told more than once, in different words. So a QR's
row is locked before anybody looks which of its payments are known, and a payment is known by every name that it was
ever told by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from soundbox_server.db import Row, Statements
from soundbox_server.ids import new_id
from soundbox_server.payments.received import Received
from soundbox_server.payments.state import StaticQrKind, StaticQrState
from soundbox_server.payments.timeline import insert_steps
from soundbox_server.providers.base import PaymentReport

EventKey = tuple[str, str, str]  # provider, event id, body's digest


@dataclass
class _Hanging:
    """A static QR under its row lock, with the payments that it is known to have brought."""

    id: str
    partner_reference: str
    provider_reference: str | None
    merchant_id: str
    outlet_id: str
    terminal_id: str
    transfer: bool
    active: bool
    known: dict[str, "_Known"] = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    payment_id: str
    reference: str  # of its attempt
    rrn: str | None


async def place(tx: Statements, reports: Sequence[Received], *, now_ms: int) -> dict[EventKey, str]:
    """The references of the attempts that stand for what these reports tell, as far as they are of static QR.

    Payments that nobody knew are made, unpaid yet. What is left out has no payment here: another reference, a retired
    QR, news of no money, and money that was put aside before its QR was known.
    """
    told = [received for received in reports if _tells_of_money(received.report)]
    hanging = await _lock(tx, told, now_ms=now_ms)
    told = [received for received in told if _place_of(received.report) in hanging]
    if not told:
        return {}
    await _look(tx, hanging, told)
    aside, settled = await _put_aside_before(tx, told), await _settled_events(tx, told)
    placed: dict[EventKey, str] = {}
    made = _Made()
    for received in told:
        report, qr = received.report, hanging[_place_of(received.report)]
        if event_key(report) in settled:
            continue
        known = _find(qr, report)
        if known is None and qr.active and _money_key(report) not in aside:
            known = made.payment(qr, received, now_ms=now_ms)
        if known is not None:
            made.names(qr, report, known)
            placed[event_key(report)] = known.reference
    await made.write(tx)
    return placed


def event_key(report: PaymentReport) -> EventKey:
    return report.provider, report.event_id, report.body_sha256


def renamed(received: Received, placed: Mapping[EventKey, str]) -> Received:
    """The report with the reference of its own payment's attempt, where it has one; else the same object."""
    reference = placed.get(event_key(received.report))
    if reference is None:
        return received
    return msgspec.structs.replace(
        received, report=msgspec.structs.replace(received.report, partner_reference=reference)
    )


def _tells_of_money(report: PaymentReport) -> bool:
    return report.status == "paid" and report.currency == "IDR" and report.amount_idr > 0


def _place_of(report: PaymentReport) -> tuple[str, str]:
    return report.provider, report.partner_reference


_LOCK = """
SELECT s.id, s.provider, s.partner_reference, s.provider_reference, s.kind, s.state, s.merchant_id, s.terminal_id,
       t.outlet_id
FROM static_qr s
JOIN terminal t ON t.id = s.terminal_id
JOIN merchant m ON m.id = s.merchant_id
JOIN fee_profile f ON f.id = m.fee_profile_id
WHERE s.provider = $1 AND s.partner_reference {among} ORDER BY s.id {lock}
"""


async def _lock(tx: Statements, told: Sequence[Received], *, now_ms: int) -> dict[tuple[str, str], _Hanging]:
    """By provider and reference, locked until the commit. A merchant without a fee profile never took payments."""
    found: dict[tuple[str, str], _Hanging] = {}
    for provider in sorted({received.report.provider for received in told}):
        asked = sorted({r.report.partner_reference for r in told if r.report.provider == provider})
        rows = await tx.fetch(_LOCK.format(among=tx.among(2), lock=tx.lock("s")), provider, asked)
        if len(rows) < len(asked) and await _take_over(tx, provider, asked, now_ms=now_ms):
            rows = await tx.fetch(_LOCK.format(among=tx.among(2), lock=tx.lock("s")), provider, asked)
        found |= {(provider, row["partner_reference"]): _hanging(row) for row in rows}
    return found


def _hanging(row: Row) -> _Hanging:
    return _Hanging(
        id=row["id"],
        partner_reference=row["partner_reference"],
        provider_reference=row["provider_reference"],
        merchant_id=row["merchant_id"],
        outlet_id=row["outlet_id"],
        terminal_id=row["terminal_id"],
        transfer=row["kind"] == StaticQrKind.TRANSFER,
        active=row["state"] == StaticQrState.ACTIVE,
    )


async def _take_over(tx: Statements, provider: str, references: Sequence[str], *, now_ms: int) -> bool:
    """Whether a terminal's own `partner_reference` is among these: then its QR is entered for this provider."""
    rows = await tx.fetch(
        f"SELECT id, merchant_id, partner_reference FROM terminal WHERE partner_reference {tx.among(1)}", references
    )
    await tx.many(
        "INSERT INTO static_qr (id, merchant_id, terminal_id, provider, partner_reference, kind, state, created_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, 'payment', 'active', $6) ON CONFLICT (provider, partner_reference) DO NOTHING",
        [
            (new_id("sqr"), row["merchant_id"], row["id"], provider, row["partner_reference"], now_ms)
            for row in sorted(rows, key=lambda row: str(row["partner_reference"]))  # one order in every process
        ],
    )
    return bool(rows)


async def _look(tx: Statements, hanging: Mapping[tuple[str, str], _Hanging], told: Sequence[Received]) -> None:
    """Which of the payments that are told of are known already."""
    by_id = {qr.id: qr for qr in hanging.values()}
    names = {name for r in told for name in _names(hanging[_place_of(r.report)], r.report)}
    rows = await tx.fetch(
        "SELECT x.static_qr_id, x.name, x.rrn, x.payment_id, a.reference FROM static_transfer x "
        "JOIN payment_attempt a ON a.payment_id = x.payment_id AND a.number = 1 "
        f"WHERE x.static_qr_id {tx.among(1)} AND x.name {tx.among(2)}",
        sorted(by_id),
        sorted(names),
    )
    for row in rows:
        by_id[row["static_qr_id"]].known[row["name"]] = _Known(row["payment_id"], row["reference"], row["rrn"])


def _names(qr: _Hanging, report: PaymentReport) -> list[str]:
    """Every name that the payment may be known by, the surest first."""
    transaction_id = report.provider_transaction_id
    return [
        *([f"rrn:{report.rrn}"] if report.rrn else []),
        *([f"tx:{transaction_id}"] if transaction_id and transaction_id != qr.provider_reference else []),
        f"event:{report.event_id}",
    ]


def _find(qr: _Hanging, report: PaymentReport) -> _Known | None:
    """The payment by one of its names. Two retrieval references under one transaction are two payments."""
    for name in _names(qr, report):
        known = qr.known.get(name)
        if known and (not name.startswith("tx:") or None in (known.rrn, report.rrn) or known.rrn == report.rrn):
            return known
    return None


async def _settled_events(tx: Statements, told: Sequence[Received]) -> set[EventKey]:
    """Events that led to something before: they lead to nothing more."""
    rows = await tx.fetch(
        "SELECT provider, event_key, body_sha256 FROM provider_event "
        f"WHERE provider {tx.among(1)} AND event_key {tx.among(2)}",
        sorted({received.report.provider for received in told}),
        sorted({received.report.event_id for received in told}),
    )
    return {(row["provider"], row["event_key"], row["body_sha256"]) for row in rows}


async def _put_aside_before(tx: Statements, told: Sequence[Received]) -> set[str]:
    """Transfers whose money is in suspense already: they were told before their QR was put up."""
    rows = await tx.fetch(
        f"SELECT money_key FROM journal WHERE money_key {tx.among(1)}",
        sorted({_money_key(received.report) for received in told}),
    )
    return {row["money_key"] for row in rows}


def _money_key(report: PaymentReport) -> str:
    """As suspense is booked under."""
    return f"{report.provider}:{'rrn' if report.rrn else 'event'}:{report.rrn or report.event_id}"


class _Made:
    """What is to be written, in the order it was decided."""

    def __init__(self) -> None:
        self._payments: list[tuple[object, ...]] = []
        self._attempts: list[tuple[object, ...]] = []
        self._names: list[tuple[object, ...]] = []
        self._steps: list[tuple[object, ...]] = []

    def payment(self, qr: _Hanging, received: Received, *, now_ms: int) -> _Known:
        """A payment of what came. Its attempt's reference is the QR's with the payment's surest name."""
        report = received.report
        known = _Known(new_id("txn"), f"{qr.partner_reference}:{_names(qr, report)[0]}", report.rrn)
        self._payments.append(
            (
                known.payment_id, qr.merchant_id, qr.outlet_id, qr.terminal_id,
                "transfer" if qr.transfer else "static", report.amount_idr, now_ms, received.request_id,
            )
        )  # fmt: skip
        self._attempts.append((new_id("att"), known.payment_id, report.provider, known.reference, now_ms))
        self._steps.append((new_id("pev"), known.payment_id, now_ms, "payment.created", "created", "callback", qr.id))
        return known

    def names(self, qr: _Hanging, report: PaymentReport, known: _Known) -> None:
        for name in _names(qr, report):
            if name not in qr.known:
                qr.known[name] = known
                self._names.append((qr.id, name, known.payment_id, report.rrn or known.rrn))

    async def write(self, tx: Statements) -> None:
        await tx.many(
            "INSERT INTO payment (id, merchant_id, outlet_id, terminal_id, source, method, qr_mode, amount, currency, "
            "state, late, expires_at_ms, created_at_ms, trace_id) VALUES ($1, $2, $3, $4, 'callback', 'qris_static', "
            "$5, $6, 'IDR', 'created', false, $7, $7, $8)",
            self._payments,
        )
        await tx.many(
            "INSERT INTO payment_attempt (id, payment_id, number, provider, reference, state, lease_until_ms, "
            "created_at_ms) VALUES ($1, $2, 1, $3, $4, 'active', 0, $5)",
            self._attempts,
        )
        await tx.many(
            "INSERT INTO static_transfer (static_qr_id, name, payment_id, rrn) VALUES ($1, $2, $3, $4)", self._names
        )
        await insert_steps(tx, self._steps)
