"""Issuing and paying: the verbs of the acquirer, each inside the transaction that its caller opened."""

import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.errors import Conflict, TransactionNotFound, ValidationFailed
from soundbox_server.ids import new_id
from soundbox_server.providers.base import AdjustmentKind, MerchantIdentity, Method, ReportedStatus
from soundbox_server.sandbox import qr, static
from soundbox_server.sandbox.store import read_faults, take_fault

ISSUERS = ("Bank Contoh", "Dompet Uji", "Bank Sandbox")
REORDER_HOLD_MS = 500
# Nobody's numbers: no bank has given these out.
VA_PREFIXES: Mapping[Method, str] = {
    Method.VA_BCA: "99914", Method.VA_BNI: "99909", Method.VA_BRI: "99902", Method.VA_MANDIRI: "99908",
}  # fmt: skip
ADJUSTMENTS = ("refunded", "reversed", "disputed")

_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CANCELLED = "EXISTS (SELECT 1 FROM fate WHERE fate.reference = charge.reference AND kind = 'cancelled')"
_STATES = {
    "open": f"paid_at_ms IS NULL AND expires_at_ms > :now_ms AND NOT {_CANCELLED}",
    "expired": f"paid_at_ms IS NULL AND expires_at_ms <= :now_ms AND NOT {_CANCELLED}",
    "cancelled": f"paid_at_ms IS NULL AND {_CANCELLED}",
    "paid": "paid_at_ms IS NOT NULL",
    "all": "TRUE",
}
STATES = tuple(_STATES)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A charge somebody asks for: a QR, or by another method a number to transfer to or a wallet's page, from which
    the customer comes back to `return_url`."""

    reference: str
    amount_idr: int
    merchant: MerchantIdentity
    expires_at_ms: int
    callback_url: str
    method: Method = Method.QRIS_DYNAMIC
    return_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Paying:
    """What a customer does with a QR: None means the amount asked, any bank, now."""

    amount_idr: int | None = None
    issuer: str | None = None
    at_ms: int | None = None


def issue(
    connection: sqlite3.Connection, order: Order, *, now_ms: int, pays_itself_after_ms: int | None
) -> tuple[sqlite3.Row, bool]:
    """The charge, and whether it is new. A known reference answers as before; Conflict if the amount is another."""
    known = connection.execute("SELECT * FROM charge WHERE reference = ?", (order.reference,)).fetchone()
    if known is not None:
        if (known["amount_idr"], known["method"]) != (order.amount_idr, order.method):
            raise Conflict("This reference was used for another amount or method.", reference=order.reference)
        return known, False

    transaction_id = _new_transaction_id()
    payload = _paid_by(order, transaction_id)
    connection.execute(
        "INSERT INTO charge (reference, transaction_id, amount_idr, qr_payload, callback_url, created_at_ms,"
        " expires_at_ms, pays_itself_at_ms, method, return_url) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            order.reference,
            transaction_id,
            order.amount_idr,
            payload,
            order.callback_url,
            now_ms,
            order.expires_at_ms,
            None if pays_itself_after_ms is None else now_ms + pays_itself_after_ms,
            order.method.value,
            order.return_url,
        ),
    )
    return find(connection, order.reference), True


def _paid_by(order: Order, transaction_id: str) -> str:
    """What the customer pays by: a QR's text, a virtual account's number, or the name of a wallet's page."""
    if order.method is Method.QRIS_DYNAMIC:
        return qr.issue(order.merchant, amount_idr=order.amount_idr, transaction_id=transaction_id)
    if order.method in VA_PREFIXES:
        return f"{VA_PREFIXES[order.method]}{secrets.randbelow(10**11):011d}"
    return transaction_id


def _new_transaction_id() -> str:
    return "SB" + "".join(secrets.choice(_LETTERS) for _ in range(11))


def _new_rrn() -> str:
    return f"{secrets.randbelow(10**12):012d}"


def find(connection: sqlite3.Connection, reference: str) -> sqlite3.Row:
    return _one(connection, "reference", reference)


def find_by_transaction(connection: sqlite3.Connection, transaction_id: str) -> sqlite3.Row:
    return _one(connection, "transaction_id", transaction_id)


def listed(connection: sqlite3.Connection, state: str, *, now_ms: int, limit: int) -> list[dict[str, Any]]:
    """The newest charges in a state of STATES."""
    found = connection.execute(
        f"SELECT * FROM charge WHERE {_STATES[state]} ORDER BY created_at_ms DESC, reference DESC LIMIT :limit",
        {"now_ms": now_ms, "limit": limit},
    )
    return [shown(connection, row, now_ms=now_ms) for row in found.fetchall()]


def pay(connection: sqlite3.Connection, reference: str, paying: Paying, *, now_ms: int) -> sqlite3.Row:
    """The customer pays: once for each QR, also after its expiry, and perhaps another amount than was asked."""
    charge = find(connection, reference)
    if charge["paid_at_ms"] is not None:
        raise Conflict("This QR has been paid.", reference=reference)
    if _has_fate(connection, reference, "cancelled"):
        raise Conflict("This QR was withdrawn.", reference=reference)
    connection.execute(
        "UPDATE charge SET paid_at_ms = ?, paid_amount_idr = ?, issuer = ?, rrn = ? WHERE reference = ?",
        (
            now_ms if paying.at_ms is None else paying.at_ms,
            paying.amount_idr or charge["amount_idr"],
            paying.issuer or secrets.choice(ISSUERS),
            _new_rrn(),
            reference,
        ),
    )
    paid = find(connection, reference)
    _report(connection, paid, now_ms=now_ms)
    return paid


def pay_static(connection: sqlite3.Connection, reference: str, paying: Paying, *, now_ms: int) -> sqlite3.Row:
    """A customer pays by a QR that hangs somewhere: a charge of its own each time. Raises ValidationFailed without an
    amount, TransactionNotFound."""
    hanging = static.find(connection, reference)
    if paying.amount_idr is None:
        raise ValidationFailed("A static QR names no amount: say what the customer pays.")
    rrn, transaction_id = _new_rrn(), _new_transaction_id()
    paid_reference = static.paid_reference(reference, rrn)
    connection.execute(
        "INSERT INTO charge (reference, transaction_id, amount_idr, qr_payload, callback_url, created_at_ms,"
        " expires_at_ms, paid_at_ms, paid_amount_idr, issuer, rrn) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            paid_reference,
            transaction_id,
            paying.amount_idr,
            f"{hanging['qr_payload']} {transaction_id}",  # a charge's own, as every charge's is
            hanging["callback_url"],
            now_ms,
            now_ms,
            now_ms if paying.at_ms is None else paying.at_ms,
            paying.amount_idr,
            paying.issuer or secrets.choice(ISSUERS),
            rrn,
        ),
    )
    paid = find(connection, paid_reference)
    _report(connection, paid, now_ms=now_ms)
    return paid


def pay_what_pays_itself(connection: sqlite3.Connection, *, now_ms: int) -> None:
    due = connection.execute(
        "SELECT reference FROM charge WHERE paid_at_ms IS NULL AND pays_itself_at_ms <= ? "
        f"AND NOT {_CANCELLED} LIMIT 64",
        (now_ms,),
    )
    for row in due.fetchall():
        pay(connection, row["reference"], Paying(), now_ms=now_ms)


def shown(connection: sqlite3.Connection, charge: sqlite3.Row, *, now_ms: int) -> dict[str, Any]:
    """A charge as the API answers it. `event` is the paid event's exact text, so that a query and a callback agree;
    `adjustments` are the texts of what became of the money since."""
    events = connection.execute(
        "SELECT * FROM callback WHERE reference = ? ORDER BY created_at_ms, due_at_ms", (charge["reference"],)
    ).fetchall()
    return {
        "reference": charge["reference"],
        "transaction_id": charge["transaction_id"],
        "status": state_of(connection, charge, now_ms=now_ms),
        "amount": charge["amount_idr"],
        "currency": "IDR",
        "method": charge["method"],
        "qr_payload": charge["qr_payload"] if charge["method"] == Method.QRIS_DYNAMIC else "",
        "va_number": charge["qr_payload"] if charge["method"] in VA_PREFIXES else None,
        "created_at": rfc3339(charge["created_at_ms"]),
        "expires_at": rfc3339(charge["expires_at_ms"]),
        "paid_at": rfc3339_or_none(charge["paid_at_ms"]),
        "event": next((event["body"].decode() for event in events if event["status"] == "paid"), None),
        "adjustments": [event["body"].decode() for event in events if event["status"] in ADJUSTMENTS],
        "callbacks": [_callback_shown(event) for event in events],
    }


def cancel(connection: sqlite3.Connection, reference: str, *, now_ms: int) -> sqlite3.Row:
    """Nobody can pay this QR any more. Conflict once it was paid."""
    charge = find(connection, reference)
    if charge["paid_at_ms"] is not None:
        raise Conflict("This QR has been paid.", reference=reference)
    _meet_fate(connection, reference, "cancelled", now_ms=now_ms)
    return charge


def take_back(
    connection: sqlite3.Connection, reference: str, kind: Literal["reversed", "disputed"], *, now_ms: int
) -> None:
    """The customer's bank takes the money back, or asks whether it should. Conflict for what was not paid."""
    charge = _paid(connection, reference)
    if _meet_fate(connection, reference, kind, now_ms=now_ms):
        _queue(connection, charge, kind, charge["paid_amount_idr"], now_ms=now_ms, due_at_ms=now_ms)


def refund(
    connection: sqlite3.Connection, reference: str, refund_reference: str, *, amount_idr: int, reason: str, now_ms: int
) -> tuple[dict[str, Any], bool]:
    """Give a part or all of a payment back: the refund, and whether it is new. A known refund_reference answers as
    before; Conflict if the amount is another, or more than is left."""
    charge = _paid(connection, reference)
    known = connection.execute("SELECT * FROM refund WHERE refund_reference = ?", (refund_reference,)).fetchone()
    if known is not None:
        if (known["reference"], known["amount_idr"]) != (reference, amount_idr):
            raise Conflict("This refund_reference was used for another refund.", refund_reference=refund_reference)
        return refund_shown(known), False
    (gone,) = connection.execute(
        "SELECT coalesce(sum(amount_idr), 0) FROM refund WHERE reference = ?", (reference,)
    ).fetchone()
    faults = read_faults(connection)
    if faults.refuse_refunds or gone + amount_idr > charge["paid_amount_idr"]:
        raise Conflict("This cannot be given back.", reference=reference, refunded=gone)
    status = "pending" if faults.slow_refunds else "succeeded"
    connection.execute(
        "INSERT INTO refund (refund_reference, refund_id, reference, amount_idr, reason, status, created_at_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (refund_reference, new_id("srf"), reference, amount_idr, reason, status, now_ms),
    )
    made = _refund_row(connection, refund_reference)
    if status == "succeeded":
        _tell_refund(connection, made, now_ms=now_ms)
    return refund_shown(made), True


def find_refund(connection: sqlite3.Connection, refund_reference: str, *, now_ms: int) -> dict[str, Any]:
    """A refund as it stands; a pending one is done as soon as refunds are not slow any more."""
    found = _refund_row(connection, refund_reference)
    if found["status"] == "pending" and not read_faults(connection).slow_refunds:
        connection.execute("UPDATE refund SET status = 'succeeded' WHERE refund_reference = ?", (refund_reference,))
        found = _refund_row(connection, refund_reference)
        _tell_refund(connection, found, now_ms=now_ms)
    return refund_shown(found)


def refund_shown(found: sqlite3.Row) -> dict[str, Any]:
    return {
        "refund_reference": found["refund_reference"],
        "refund_id": found["refund_id"],
        "reference": found["reference"],
        "amount": found["amount_idr"],
        "status": found["status"],
    }


def _refund_row(connection: sqlite3.Connection, refund_reference: str) -> sqlite3.Row:
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM refund WHERE refund_reference = ?", (refund_reference,)
    ).fetchone()
    if found is None:
        raise TransactionNotFound("No such refund.", refund_reference=refund_reference)
    return found


def _tell_refund(connection: sqlite3.Connection, made: sqlite3.Row, *, now_ms: int) -> None:
    dropped = take_fault(connection, "drop_callbacks")
    _queue(
        connection, find(connection, made["reference"]), "refunded", made["amount_idr"], now_ms=now_ms,
        due_at_ms=None if dropped else now_ms, refund_reference=made["refund_reference"],
    )  # fmt: skip


def _paid(connection: sqlite3.Connection, reference: str) -> sqlite3.Row:
    charge = find(connection, reference)
    if charge["paid_at_ms"] is None:
        raise Conflict("This QR was not paid.", reference=reference)
    return charge


def _has_fate(connection: sqlite3.Connection, reference: str, kind: str) -> bool:
    found = connection.execute("SELECT 1 FROM fate WHERE reference = ? AND kind = ?", (reference, kind)).fetchone()
    return found is not None


def _meet_fate(connection: sqlite3.Connection, reference: str, kind: str, *, now_ms: int) -> bool:
    """Whether it is the first time."""
    if _has_fate(connection, reference, kind):
        return False
    connection.execute("INSERT INTO fate (reference, kind, at_ms) VALUES (?, ?, ?)", (reference, kind, now_ms))
    return True


def state_of(connection: sqlite3.Connection, charge: sqlite3.Row, *, now_ms: int) -> str:
    if charge["paid_at_ms"] is not None:
        return "paid"
    if _has_fate(connection, charge["reference"], "cancelled"):
        return "cancelled"
    return "open" if now_ms < charge["expires_at_ms"] else "expired"


def _one(connection: sqlite3.Connection, column: str, value: str) -> sqlite3.Row:
    found: sqlite3.Row | None = connection.execute(f"SELECT * FROM charge WHERE {column} = ?", (value,)).fetchone()
    if found is None:
        raise TransactionNotFound("No QR was issued for this.", **{column: value})
    return found


def _report(connection: sqlite3.Connection, charge: sqlite3.Row, *, now_ms: int) -> None:
    """Queue what the hub will be told about a payment, with whatever faults are switched on."""
    faults = read_faults(connection)
    dropped = take_fault(connection, "drop_callbacks")
    due_at_ms = None if dropped else now_ms + faults.callback_delay_ms + REORDER_HOLD_MS * faults.reorder
    amount_idr = max(1, charge["paid_amount_idr"] + faults.wrong_amount)
    _queue(connection, charge, "paid", amount_idr, now_ms=now_ms, due_at_ms=due_at_ms)
    if faults.contradict is not None:
        # One millisecond later, so that it is sent later too.
        later_ms = None if due_at_ms is None else due_at_ms + 1
        _queue(connection, charge, faults.contradict, amount_idr, now_ms=now_ms, due_at_ms=later_ms)


def _queue(
    connection: sqlite3.Connection,
    charge: sqlite3.Row,
    status: ReportedStatus | AdjustmentKind,
    amount_idr: int,
    *,
    now_ms: int,
    due_at_ms: int | None,
    refund_reference: str | None = None,
) -> None:
    event_id = new_id("evt")
    body = {
        "event_id": event_id,
        "partner_reference": static.called(charge["reference"]) if status == "paid" else charge["reference"],
        "transaction_id": charge["transaction_id"],
        "status": status,
        "amount": amount_idr,
        "currency": "IDR",
        "paid_at": rfc3339(charge["paid_at_ms"]),
        "issuer": charge["issuer"],
        "rrn": charge["rrn"],
    }
    if refund_reference is not None:
        body["refund_reference"] = refund_reference
    connection.execute(
        "INSERT INTO callback (event_id, reference, status, body, created_at_ms, due_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (event_id, charge["reference"], status, orjson.dumps(body), now_ms, due_at_ms),
    )


def _callback_shown(event: sqlite3.Row) -> dict[str, Any]:
    return {
        "event_id": event["event_id"],
        "status": event["status"],
        "attempts": event["attempts"],
        "last_answer": event["last_answer"],
        "delivered_at": rfc3339_or_none(event["delivered_at_ms"]),
    }
