"""Taking providers' word that money arrived. One transaction for a whole group: payment, journal and announcement
commit together or not at all.

Order of locks, the same in every process: payments by id, then boxes by id, then sums. Lock first, then look: what was
read before the lock may be a moment old. What PostgreSQL is told at once was looked at before the lock: the writes
carry the versions that were seen, and whatever is no longer so is done anew with locks (decision 0009).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from soundbox_server import failpoints
from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.announcements.service import (
    Announced,
    Telling,
    is_for_outlet,
    listeners_at,
    listeners_of,
    queue_for_listeners,
    queue_payment_announcement,
)
from soundbox_server.clock import jakarta_day
from soundbox_server.db import Query, Row, Statements
from soundbox_server.fees.service import terms_of
from soundbox_server.fees.terms import FREE, ROUNDING, Payee, Rate, Terms, fee
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.payments import figures, news, static_payments, suspense
from soundbox_server.payments.charging import promised_of
from soundbox_server.payments.received import Received as Received
from soundbox_server.payments.refunds import NewRefund, insert_refunds
from soundbox_server.payments.reports import kept_report
from soundbox_server.payments.state import (
    LATE,
    OPEN,
    TRANSITIONS,
    AttemptState,
    Outcome,
    PaymentState,
    before,
    require,
)
from soundbox_server.payments.timeline import insert_steps as insert_steps
from soundbox_server.providers.base import PaymentReport
from soundbox_server.revenue import service as revenue
from soundbox_server.webhooks.service import PAYMENT_HEARD

NOT_APPROVED = "merchant_not_approved"
NO_RATE = "fee_rule_missing"
# What is raised about merchants whose money had to be put aside: somebody must decide about them.
_ALERTS = {NOT_APPROVED: "merchant.paid_unapproved", NO_RATE: "merchant.paid_without_fee_rule"}
CLOCK_AHEAD_MS = 5 * 60_000  # a paid_at further ahead than this is the provider's clock, not the customer's


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a report led to; `payment_id` is None for an orphan."""

    outcome: Outcome
    payment_id: str | None


@dataclass
class _Locked:
    """A payment under its row lock, as this group changes it; without locks its version must stand. `attempts` are
    those that reports speak of."""

    id: str
    version: int | None
    state: PaymentState
    amount: int
    merchant_id: str
    merchant_name: str
    merchant_approved: bool
    returns_fee: bool  # with what is refunded
    terminal_id: str
    terms: Terms
    payee: Payee
    fee_bps: int | None
    fee_version: str | None
    rrn: str | None
    trace_id: str
    qr_mode: str = "dynamic"
    late: bool = False
    review_reason: str | None = None
    paid_at_ms: int | None = None
    captured_at_ms: int | None = None
    fee_amount: int | None = None
    issuer: str | None = None
    paid_amount: int | None = None
    resolution: str | None = None
    late_policy: str = "accept"
    announcement_policy: str = "terminal"
    current_attempt_id: str | None = None
    changing: bool = False  # the payer chose another way, and what was shown is being withdrawn
    heard: bool = False  # by others, through webhooks
    promised: str | None = None
    credit_account: str | None = None
    attempts: dict[str, str] = field(default_factory=dict)  # their ids by provider and reference
    methods: dict[str, str | None] = field(default_factory=dict)  # their own, where the payer chose among several
    paid_by: str | None = None

    @classmethod
    def of(cls, row: Row, terms: Mapping[str, Terms]) -> "_Locked":
        return cls(
            id=row["id"],
            version=row["row_version"],
            state=PaymentState(row["state"]),
            amount=row["amount"],
            merchant_id=row["merchant_id"],
            merchant_name=row["brand_name"],
            merchant_approved=row["merchant_status"] == "approved",
            returns_fee=bool(row["refund_returns_fee"]),
            terminal_id=row["terminal_id"],
            terms=terms[row["version_id"]],
            payee=Payee(row["merchant_id"], row["fee_category"], row["criteria"]),
            fee_bps=row["fee_bps"],
            fee_version=row["fee_version"],
            rrn=row["rrn"],
            trace_id=row["trace_id"],
            qr_mode=row["qr_mode"],
            late=bool(row["late"]),
            review_reason=row["review_reason"],
            paid_at_ms=row["paid_at_ms"],
            captured_at_ms=row["captured_at_ms"],
            fee_amount=row["fee_amount"],
            issuer=row["issuer"],
            paid_amount=row["paid_amount"],
            resolution=row["resolution"],
            late_policy=row["late_policy"],
            announcement_policy=row["announcement_policy"],
            current_attempt_id=row["current_attempt_id"],
            changing=bool(row["changing"]),
            heard=bool(row["heard"]),
            promised=row["promised"],
            credit_account=row["credit_account"],
            methods={row["attempt_id"]: row["attempt_method"]},
        )

    @property
    def captured(self) -> bool:
        """Its money was booked as the merchant's, whatever became of it since."""
        return self.paid_at_ms is not None

    def rate(self, at_ms: int) -> Rate | None:
        """What it costs when it is paid at that moment: nothing, where the money is not its merchant's."""
        if self.credit_account is not None:
            return FREE
        return self.terms.rate(self.payee, day=jakarta_day(at_ms), amount=self.amount)

    def facts(self) -> news.Facts:
        """What this group may have changed of what others hear."""
        return ({"method": self.paid_by} if self.paid_by else {}) | {
            "late": self.late,
            "paid_amount": self.paid_amount,
            "fee_amount": self.fee_amount if self.captured else None,
            "issuer": self.issuer,
            "paid_at_ms": self.paid_at_ms,
        }

    def row(self) -> tuple[object, ...]:
        priced = (self.fee_amount, self.fee_bps, self.fee_version) if self.captured else (None,) * 3
        return (
            self.id, self.state.value, self.late, self.review_reason, *priced, self.issuer, self.rrn, self.paid_at_ms,
            self.captured_at_ms, self.paid_amount, self.current_attempt_id, ROUNDING if self.captured else None,
            self.paid_by,
        )  # fmt: skip


@dataclass
class _Group:
    """What one transaction has decided so far, in the order it was decided."""

    now_ms: int
    payments: dict[str, _Locked]
    taken: dict[tuple[str, str, str], Taken]
    heard: Mapping[str, news.Facts]  # the payments of which others hear
    events: list[tuple[object, ...]] = field(default_factory=list)
    orphans: list[tuple[tuple[object, ...], ledger.Journal | None]] = field(default_factory=list)
    journals: list[ledger.Journal] = field(default_factory=list)
    steps: list[tuple[object, ...]] = field(default_factory=list)
    announced: list[Announced] = field(default_factory=list)
    changed: dict[str, _Locked] = field(default_factory=dict)
    attempts: list[tuple[str, str, str]] = field(default_factory=list)
    refunds: list[NewRefund] = field(default_factory=list)
    earned: list[revenue.Entry] = field(default_factory=list)


async def take_reports(
    tx: Statements, reports: Sequence[Received], *, now_ms: int, telling: Telling, late_report_ms: int
) -> list[Taken]:
    """One outcome per report, in their order. A report seen before gets its stored outcome and changes nothing."""
    tx.independent_writes = True  # each table is written once; foreign keys are checked at the statement's end
    by_provider = defaultdict(list)
    for received in reports:
        by_provider[received.report.provider].append(received.report)
    look = _look if tx.at_once else _lock_and_look
    reports, payments, rows, listeners = await look(tx, reports, by_provider, now_ms=now_ms)
    failpoints.reached("callback.looked")
    taken = {_key(row): Taken(outcome=Outcome(row["outcome"]), payment_id=row["payment_id"]) for row in rows}
    heard = await news.facts_of(tx, {payment.id for payment in payments.values() if payment.heard})
    group = _Group(now_ms=now_ms, payments=payments, taken=taken, heard=heard)
    outcomes = [_take(group, received, late_report_ms) for received in reports]
    if not _only_captures(group):
        tx.require_locks()
    await _write(tx, group)
    await queue_for_listeners(tx, group.announced, listeners, telling=telling, now_ms=now_ms)
    await revenue.add(tx, group.earned)  # sums come last in the order of locks
    await _alert(tx, group)
    failpoints.reached("callback.applied")
    return outcomes


_ByProvider = Mapping[str, Sequence[PaymentReport]]
_Looked = tuple[Sequence[Received], dict[str, _Locked], Sequence[Row], Sequence[Row]]


async def _lock_and_look(
    tx: Statements, reports: Sequence[Received], by_provider: _ByProvider, *, now_ms: int
) -> _Looked:
    """The reports, the payments they speak of, what was seen before, the boxes to tell; payments and boxes locked."""
    payments: dict[str, _Locked] = {}
    if len(by_provider) > 1:
        await _lock_in_order(tx, by_provider)
    for provider in sorted(by_provider):
        await _lock_payments(tx, provider, by_provider[provider], payments)
    reports = await _of_static_qr(tx, reports, payments, now_ms=now_ms)
    # Boxes at the tills of what may now be paid, in the journey that looks for reports seen before.
    rows, listeners = await tx.fetch_all(_seen(tx, by_provider), _listening(tx, payments))
    return reports, payments, rows, listeners


async def _lock_in_order(tx: Statements, by_provider: _ByProvider) -> None:
    """Payments of several providers by their ids, as everybody locks: a payment may be charged at two of them."""
    ids: set[str] = set()
    for provider, reports in by_provider.items():
        found = await tx.fetch(
            f"SELECT payment_id FROM payment_attempt WHERE provider = $1 AND reference {tx.among(2)}",
            provider, sorted({report.partner_reference for report in reports}),
        )  # fmt: skip
        ids |= {row["payment_id"] for row in found}
    await tx.fetch(f"SELECT id FROM payment WHERE id {tx.among(1)} ORDER BY id {tx.lock('payment')}", sorted(ids))


async def _look(tx: Statements, reports: Sequence[Received], by_provider: _ByProvider, *, now_ms: int) -> _Looked:
    """The same in one journey, with nothing locked."""
    if len(by_provider) > 1:
        tx.require_locks()
    ((provider, spoken_of),) = by_provider.items()
    asked = _payments(tx, provider, spoken_of)
    found, rows, listeners = await tx.fetch_all(asked, _seen(tx, by_provider), listeners_of(tx, "q0"))
    payments: dict[str, _Locked] = {}
    await _add(tx, payments, provider, found)
    if any(f"{provider}:{report.partner_reference}" not in payments for report in spoken_of):
        tx.require_locks()  # static QR's, whose payment is made first, or nobody's
    if any(is_for_outlet(payment.announcement_policy) for payment in payments.values()):
        sql, args = _listening(tx, payments)
        listeners = await tx.fetch(sql, *args)
    return reports, payments, rows, listeners


def _listening(tx: Statements, payments: Mapping[str, _Locked]) -> Query:
    """The boxes that hear of what may now be paid, or more."""
    unpaid = [payment for payment in payments.values() if not payment.captured]
    outlets = any(is_for_outlet(payment.announcement_policy) for payment in unpaid)
    return listeners_at(tx, {payment.terminal_id for payment in unpaid}, outlets=outlets)


def _only_captures(group: _Group) -> bool:
    """Whoever took one of these reports while we decided has paid its payment: the payment's version tells. Where a
    report pays nothing, its payment's version says nothing."""
    return not group.orphans and len(group.events) == len(group.announced) == len(group.changed)


_LOCKED = f"""
SELECT p.id, {{version}} AS row_version, p.state, p.amount, p.merchant_id, p.terminal_id, p.rrn, p.trace_id, p.late,
       p.review_reason, p.paid_at_ms, p.captured_at_ms, p.fee_amount, p.fee_bps, p.fee_version, p.issuer, p.qr_mode,
       p.paid_amount, p.resolution, p.current_attempt_id, p.promised, p.credit_account, a.id AS attempt_id, a.reference,
       p.current_attempt_id IS NOT NULL AND EXISTS (
           SELECT 1 FROM payment_attempt o
           WHERE o.payment_id = p.id AND o.number < 0 AND o.state NOT IN ('succeeded', 'failed', 'expired')
       ) AS changing, a.method AS attempt_method, m.brand_name,
       m.status AS merchant_status, m.late_policy, m.announcement_policy, m.criteria, m.fee_category,
       f.version_id, f.refund_returns_fee, {PAYMENT_HEARD} AS heard
FROM payment_attempt a
JOIN payment p ON p.id = a.payment_id
JOIN merchant m ON m.id = p.merchant_id
JOIN fee_profile f ON f.id = m.fee_profile_id
WHERE a.provider = $1 AND """
_LOCK = _LOCKED + "a.reference {among} {lock}"
_LOCK_FOUND = _LOCKED + "p.id = $2 ORDER BY a.number DESC LIMIT 1 {lock}"


def _payments(tx: Statements, provider: str, reports: Sequence[PaymentReport]) -> Query:
    """The payments these reports speak of, each locked until the commit unless all is done at once."""
    references = sorted({report.partner_reference for report in reports})
    lock = "" if tx.at_once else f"ORDER BY p.id {tx.lock('p')}"
    return _LOCK.format(version=tx.version("p"), among=tx.among(2), lock=lock), [provider, references]


async def _lock_payments(
    tx: Statements, provider: str, reports: Sequence[PaymentReport], payments: dict[str, _Locked]
) -> None:
    """Add the payments these reports speak of, by provider and reference, each locked until the commit."""
    sql, args = _payments(tx, provider, reports)
    await _add(tx, payments, provider, await tx.fetch(sql, *args))


async def _add(tx: Statements, payments: dict[str, _Locked], provider: str, rows: Sequence[Row]) -> None:
    """One that was asked for twice, at two providers say, is one payment under two references."""
    terms = await terms_of(tx, {row["version_id"] for row in rows})
    known = {payment.id: payment for payment in payments.values()}
    for row in rows:
        payment = known.setdefault(row["id"], _Locked.of(row, terms))
        key = f"{provider}:{row['reference']}"
        payment.attempts[key] = row["attempt_id"]
        payment.methods[row["attempt_id"]] = row["attempt_method"]
        payments[key] = payment


async def _of_static_qr(
    tx: Statements, reports: Sequence[Received], payments: dict[str, _Locked], *, now_ms: int
) -> Sequence[Received]:
    """The same reports; those of static QR now name the payment that stands for their money, which joins `payments`."""
    strangers = [r for r in reports if f"{r.report.provider}:{r.report.partner_reference}" not in payments]
    placed = await static_payments.place(tx, strangers, now_ms=now_ms) if strangers else {}
    if not placed:
        return reports
    named = [static_payments.renamed(received, placed) for received in reports]
    for provider in sorted({provider for provider, _, _ in placed}):
        ours = [now.report for now, was in zip(named, reports, strict=True) if now is not was]
        await _lock_payments(tx, provider, [report for report in ours if report.provider == provider], payments)
    return named


async def take_found(
    tx: Statements,
    received: Received,
    *,
    event_id: str,
    payment_id: str,
    telling: Telling,
    late_report_ms: int,
    now_ms: int,
) -> tuple[Outcome, str | None]:
    """A stored report whose payment was found by now: taken as if it had just come, only that its money is there
    already, kept apart. The outcome and why."""
    sql = _LOCK_FOUND.format(version=tx.version("p"), lock=tx.lock("p"))
    rows = await tx.fetch(sql, received.report.provider, payment_id)
    payment = _Locked.of(rows[0], await terms_of(tx, {rows[0]["version_id"]}))
    heard = await news.facts_of(tx, [payment.id] if payment.heard else [])
    group = _Group(now_ms=now_ms, payments={}, taken={}, heard=heard)
    attempt_id = rows[0]["attempt_id"]
    outcome, reason = _decide(payment, attempt_id, received.report, now_ms)
    kept = (await suspense.held(tx, payment_id)).get(received.report.provider, 0)
    if outcome is Outcome.DUPLICATE and (brought := min(kept, await suspense.brought_by(tx, event_id))):
        if payment.rrn is None or payment.rrn != received.report.rrn:
            outcome, reason = Outcome.NEEDS_REVIEW, "paid_twice"
        else:  # the transfer that was captured, told under two names
            await suspense.release(
                tx, payment_id, provider=received.report.provider, amount=brought, key=f"told_twice:{event_id}",
                now_ms=now_ms,
            )  # fmt: skip
    _apply(group, payment, attempt_id, received, event_id, outcome, reason, late_report_ms)
    group.journals = [journal for journal in group.journals if journal.kind != "suspense"]
    if group.journals and (amount := min(kept, payment.amount)):
        await suspense.release(
            tx, payment_id, provider=received.report.provider, amount=amount, key=f"matched:{payment_id}",
            now_ms=now_ms,
        )  # fmt: skip
    await _write(tx, group)
    await queue_payment_announcement(tx, group.announced, telling=telling, now_ms=now_ms)
    await revenue.add(tx, group.earned)
    await _alert(tx, group)
    return outcome, reason


def _seen(tx: Statements, by_provider: _ByProvider) -> Query:
    """What is known of these events. Another provider's event with the same key may come along: nobody asks for it."""
    keys = sorted({report.event_id for reports in by_provider.values() for report in reports})
    return (
        "SELECT provider, event_key, body_sha256, outcome, payment_id FROM provider_event "
        f"WHERE provider {tx.among(1)} AND event_key {tx.among(2)}",
        [sorted(by_provider), keys],
    )


def _key(row: Row) -> tuple[str, str, str]:
    return row["provider"], row["event_key"], row["body_sha256"]


def _take(group: _Group, received: Received, late_report_ms: int) -> Taken:
    report = received.report
    key = (report.provider, report.event_id, report.body_sha256)
    if seen := group.taken.get(key):
        return seen
    event_id = new_id("evt")
    spoken_of = f"{report.provider}:{report.partner_reference}"
    payment = group.payments.get(spoken_of)
    if payment is None:
        taken = Taken(outcome=Outcome.ORPHAN, payment_id=None)
        group.orphans.append(
            (_event_row(event_id, received, taken, "reference_unknown", kept=True), _found(report, event_id, None))
        )
    else:
        attempt_id = payment.attempts[spoken_of]
        outcome, reason = _decide(payment, attempt_id, report, group.now_ms)
        taken = Taken(outcome=outcome, payment_id=payment.id)
        kept = outcome is Outcome.NEEDS_REVIEW
        group.events.append(_event_row(event_id, received, taken, reason, kept=kept))
        _apply(group, payment, attempt_id, received, event_id, outcome, reason, late_report_ms)
    group.taken[key] = taken
    return taken


def _decide(payment: _Locked, attempt_id: str, report: PaymentReport, now_ms: int) -> tuple[Outcome, str | None]:
    """The outcome and why, without changing anything."""
    another = payment.current_attempt_id is not None and payment.current_attempt_id != attempt_id
    if report.status == "pending":
        return Outcome.IGNORED, "pending_says_nothing"
    if report.status in ("failed", "expired"):
        if another or payment.changing:  # the payment was asked for again, elsewhere or anew, or is about to be
            return Outcome.IGNORED, "attempt_superseded"
        return (Outcome.APPLIED, None) if payment.state in OPEN else (Outcome.IGNORED, f"already_{payment.state}")
    if report.amount_idr != (payment.paid_amount or payment.amount) or report.currency != "IDR":
        return Outcome.NEEDS_REVIEW, "amount_mismatch" if report.currency == "IDR" else "currency_mismatch"
    if payment.captured:
        twice = another or _another_payment(payment, report)
        return (Outcome.NEEDS_REVIEW, "paid_twice") if twice else (Outcome.DUPLICATE, None)
    if payment.state is PaymentState.NEEDS_REVIEW:
        return Outcome.NEEDS_REVIEW, "in_review"
    if payment.resolution is not None:  # its money was refused or sent back: what comes now is for a person to judge
        return Outcome.NEEDS_REVIEW, f"already_{payment.resolution}"
    if payment.qr_mode == "transfer":  # no sale, so no box says it
        return Outcome.NEEDS_REVIEW, "qris_transfer"
    if not payment.merchant_approved:
        return Outcome.NEEDS_REVIEW, NOT_APPROVED
    if payment.rate(paid_at(report, now_ms)[0]) is None:
        return Outcome.NEEDS_REVIEW, NO_RATE
    return Outcome.APPLIED, None


def _another_payment(payment: _Locked, report: PaymentReport) -> bool:
    """Two retrieval references for one QR: the customer's bank moved money twice."""
    return payment.rrn is not None and report.rrn is not None and payment.rrn != report.rrn


def _apply(
    group: _Group,
    payment: _Locked,
    attempt_id: str,
    received: Received,
    event_id: str,
    outcome: Outcome,
    reason: str | None,
    late_report_ms: int,
) -> None:
    report = received.report
    if outcome is Outcome.NEEDS_REVIEW:
        _put_aside(group, payment, report, event_id, reason or "")
    elif outcome is Outcome.APPLIED and report.status == "paid":
        _pay(group, payment, attempt_id, report, event_id, late_report_ms)
    elif outcome is Outcome.APPLIED:
        payment.state = require(payment.state, PaymentState(report.status))
        group.attempts.append((attempt_id, report.status, ""))
        group.changed[payment.id] = payment
        _step(group, payment, f"payment.{report.status}", report.provider)
    else:
        _step(group, payment, f"report.{outcome}", report.provider, reason)


def _pay(
    group: _Group, payment: _Locked, attempt_id: str, report: PaymentReport, event_id: str, late_report_ms: int
) -> None:
    payment.late = payment.state in LATE
    payment.state = require(payment.state, PaymentState.PAID)
    payment.paid_at_ms, clock_note = paid_at(report, group.now_ms)
    payment.captured_at_ms = group.now_ms
    payment.paid_amount = payment.amount
    rate = payment.rate(payment.paid_at_ms)
    assert rate is not None  # or it would have been put aside
    payment.fee_bps, payment.fee_version = rate.bps, rate.version
    payment.fee_amount = fee(payment.amount, rate.bps)
    payment.issuer, payment.rrn = report.issuer, report.rrn
    group.changed[payment.id] = payment
    if payment.current_attempt_id is not None:
        payment.current_attempt_id = attempt_id  # the one that was paid, though another was asked for since
        payment.paid_by = payment.methods.get(attempt_id)
    group.attempts.append((attempt_id, "succeeded", report.provider_transaction_id or ""))
    group.journals.append(
        ledger.capture(
            payment_id=payment.id,
            provider_event_id=event_id,
            provider=report.provider,
            merchant_id=payment.merchant_id,
            gross=payment.amount,
            fee=payment.fee_amount,
            credit=payment.credit_account,
        )
    )
    if payment.promised is not None:
        group.journals.append(ledger.promised(promised_of(payment.promised), payment_id=payment.id))
    group.earned.append(
        revenue.Entry(
            at_ms=payment.paid_at_ms,
            terminal_id=payment.terminal_id,
            provider=report.provider,
            merchant_id=payment.merchant_id,
            payments=1,
            gross_amount=payment.amount,
            fee_amount=payment.fee_amount,
            wallet_amount=0 if payment.credit_account is None else payment.amount,
        )
    )
    _step(group, payment, "payment.paid_late" if payment.late else "payment.paid", report.provider, clock_note)
    # It was the merchant's for a moment, and is never said. What is somebody else's is not for the merchant to refuse.
    somebody_elses = payment.credit_account is not None or payment.promised is not None
    if payment.late and payment.late_policy == "refund" and not somebody_elses:
        group.refunds.append(_given_back(payment, attempt_id, report))
        _step(group, payment, "refund.requested", "late_policy", str(payment.amount))
        return
    group.announced.append(
        Announced(
            payment_id=payment.id,
            terminal_id=payment.terminal_id,
            merchant_name=payment.merchant_name,
            amount=payment.amount,
            paid_at_ms=payment.paid_at_ms,
            trace_id=payment.trace_id,
            too_late_to_say=group.now_ms - payment.paid_at_ms > late_report_ms,
            policy=payment.announcement_policy,
        )
    )


def _given_back(payment: _Locked, attempt_id: str, report: PaymentReport) -> NewRefund:
    return NewRefund(
        payment_id=payment.id,
        attempt_id=attempt_id,
        provider=report.provider,
        origin="late_policy",
        amount=payment.amount,
        reason="Paid after the QR had ended.",
        returns_fee=payment.returns_fee,
    )


def paid_at(report: PaymentReport, now_ms: int) -> tuple[int, str | None]:
    """When the customer paid, and what is odd about what the provider says of it."""
    if report.paid_at_ms is None:
        return now_ms, "paid_at_missing"
    if report.paid_at_ms > now_ms + CLOCK_AHEAD_MS:
        return now_ms, "paid_at_ahead_of_our_clock"
    return report.paid_at_ms, None


def _put_aside(group: _Group, payment: _Locked, report: PaymentReport, event_id: str, reason: str) -> None:
    """The money that came goes to suspense. A payment that was paid stays paid; an unpaid one waits for an operator."""
    payment.review_reason = payment.review_reason or reason
    booked_before = payment.rrn is not None and payment.rrn == report.rrn  # this very transfer was captured
    if PaymentState.NEEDS_REVIEW in TRANSITIONS[payment.state]:
        payment.state = PaymentState.NEEDS_REVIEW
    group.changed[payment.id] = payment
    if not booked_before and (journal := _found(report, event_id, payment.id)):
        group.journals.append(journal)
    _step(group, payment, "payment.needs_review", report.provider, reason)


def _found(report: PaymentReport, event_id: str, payment_id: str | None) -> ledger.Journal | None:
    """Rupiah that arrived without a payment to belong to. Other currencies and other news move no money of ours."""
    if report.status != "paid" or report.currency != "IDR" or report.amount_idr <= 0:
        return None
    return ledger.suspense(
        payment_id=payment_id,
        provider_event_id=event_id,
        provider=report.provider,
        amount=report.amount_idr,
        money_key=f"{report.provider}:{'rrn' if report.rrn else 'event'}:{report.rrn or report.event_id}",
    )


def _step(group: _Group, payment: _Locked, kind: str, source: str, detail: str | None = None) -> None:
    group.steps.append((new_id("pev"), payment.id, group.now_ms, kind, payment.state.value, source, detail))


def _event_row(
    event_id: str, received: Received, taken: Taken, reason: str | None, *, kept: bool = False
) -> tuple[object, ...]:
    """`kept`: what was read is needed again when somebody finds out whose it is."""
    report = received.report
    return (
        event_id, report.provider, report.event_id, report.body_sha256, report.body, taken.outcome.value, reason,
        taken.payment_id, report.partner_reference, received.request_id, received.received_at_ms,
        kept_report(report) if kept else None,
    )  # fmt: skip


def _key_of_orphan(orphan: tuple[tuple[object, ...], ledger.Journal | None]) -> tuple[str, ...]:
    _, provider, event_key, body_sha256, *_ = orphan[0]
    return str(provider), str(event_key), str(body_sha256)


INSERT_EVENT = """
INSERT INTO provider_event (id, provider, event_key, body_sha256, body, outcome, reason, payment_id, reference,
                            request_id, received_at_ms, report)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (provider, event_key, body_sha256) DO NOTHING
"""
_UPDATE_PAYMENT = """
UPDATE payment SET state = $2, late = $3, review_reason = $4, fee_amount = $5, fee_bps = $6, fee_version = $7,
                   issuer = $8, rrn = $9, paid_at_ms = $10, captured_at_ms = $11, paid_amount = $12,
                   current_attempt_id = $13, fee_rounding = $14, method = coalesce($15, method)
WHERE id = $1
"""


async def _write(tx: Statements, group: _Group) -> None:
    modes = {payment.id: payment.qr_mode for payment in group.changed.values()}
    tx.after_commit.append(partial(figures.count_steps, group.steps, modes))
    await tx.many(INSERT_EVENT, group.events)
    # No payment to lock: two processes may hold the same orphans. Only the one whose row stands books it, and both
    # write them in the same order, or each would wait for the other.
    for row, journal in sorted(group.orphans, key=_key_of_orphan):
        stands = await tx.fetch(INSERT_EVENT + " RETURNING id", *row)
        if stands and journal:
            group.journals.append(journal)
    changed = group.changed.values()
    versions = [payment.version for payment in changed]
    await tx.many(_UPDATE_PAYMENT, [payment.row() for payment in changed], locked=True, versions=versions)
    await tx.many(
        "UPDATE payment_attempt SET state = $2, "
        "provider_reference = coalesce(provider_reference, nullif($3, '')) WHERE id = $1",
        list({attempt[0]: attempt for attempt in group.attempts}.values()),
        locked=True,  # with its payment
    )
    await ledger.post(tx, group.journals, now_ms=group.now_ms)
    await insert_refunds(tx, group.refunds, now_ms=group.now_ms)
    heard = {one: {**facts, **group.changed[one].facts()} for one, facts in group.heard.items() if one in group.changed}
    await insert_steps(tx, group.steps, heard=heard)


async def _alert(tx: Statements, group: _Group) -> None:
    """Money came for merchants that may not take any: somebody must decide about them."""
    found = {(p.merchant_id, _ALERTS[p.review_reason]) for p in group.changed.values() if p.review_reason in _ALERTS}
    for merchant_id, kind in sorted(found):
        await raise_alert(tx, kind, ("merchant", merchant_id), severity=Severity.WARNING, now_ms=group.now_ms)


_EXPIRE = """
UPDATE payment SET state = 'expired' WHERE id IN (
  SELECT id FROM payment WHERE state IN ('created', 'awaiting_payment') AND expires_at_ms <= $1
  ORDER BY expires_at_ms LIMIT $2 {lock})
RETURNING id
"""


async def expire_unpaid(tx: Statements, *, now_ms: int, limit: int = 500) -> int:
    """Payments whose QR has ended. Money that still comes makes them paid, marked late. Returns how many ended."""
    rows = await tx.fetch(_EXPIRE.format(lock=tx.lock("payment", skip=True)), now_ms, limit)
    ended = [row["id"] for row in rows]
    if ended:
        await tx.execute(
            "UPDATE payment_attempt SET state = 'expired' "
            f"WHERE payment_id {tx.among(1)} AND state IN ({before(AttemptState.EXPIRED)})",
            ended,
        )
    await insert_steps(
        tx, [(new_id("pev"), payment_id, now_ms, "payment.expired", "expired", "clock", None) for payment_id in ended]
    )
    return len(ended)
