"""The sandbox's QR that hang at terminals. A payment by one is a charge of its own, named after the QR."""

import secrets
import sqlite3
from dataclasses import dataclass
from typing import Any

from soundbox_server.clock import rfc3339
from soundbox_server.errors import TransactionNotFound
from soundbox_server.providers.base import MerchantIdentity
from soundbox_server.sandbox import qr

_BETWEEN = ":rrn:"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A static QR somebody asks for."""

    reference: str
    merchant: MerchantIdentity
    callback_url: str


def issue(connection: sqlite3.Connection, order: Order, *, now_ms: int) -> tuple[dict[str, Any], bool]:
    """The QR, and whether it is new. A known reference answers as before."""
    known = connection.execute("SELECT * FROM static_qr WHERE reference = ?", (order.reference,)).fetchone()
    if known is not None:
        return shown(known), False
    payload = qr.issue_static(order.merchant, number=f"SB{secrets.randbelow(10**11):011d}")
    connection.execute(
        "INSERT INTO static_qr (reference, qr_payload, callback_url, created_at_ms) VALUES (?, ?, ?, ?)",
        (order.reference, payload, order.callback_url, now_ms),
    )
    return shown(find(connection, order.reference)), True


def find(connection: sqlite3.Connection, reference: str) -> sqlite3.Row:
    return _one(connection, "reference", reference)


def find_by_payload(connection: sqlite3.Connection, payload: str) -> sqlite3.Row:
    return _one(connection, "qr_payload", payload)


def shown(hanging: sqlite3.Row) -> dict[str, Any]:
    return {
        "reference": hanging["reference"],
        "qr_payload": hanging["qr_payload"],
        "created_at": rfc3339(hanging["created_at_ms"]),
    }


def paid_reference(reference: str, rrn: str) -> str:
    """The reference of one payment by this QR, which queries and refunds of that payment name."""
    return f"{reference}{_BETWEEN}{rrn}"


def called(reference: str) -> str:
    """What the callback calls a charge: of a payment by a static QR, the QR."""
    return reference.partition(_BETWEEN)[0]


def _one(connection: sqlite3.Connection, column: str, value: str) -> sqlite3.Row:
    found: sqlite3.Row | None = connection.execute(f"SELECT * FROM static_qr WHERE {column} = ?", (value,)).fetchone()
    if found is None:
        raise TransactionNotFound("No static QR was issued for this.", **{column: value})
    return found
