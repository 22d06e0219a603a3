"""The sandbox as a bank: transfers to merchants' accounts, with misbehaviours of its own. Each verb inside the
transaction that its caller opened."""

import secrets
import sqlite3
from dataclasses import dataclass
from typing import Any

import orjson

from soundbox_server.clock import rfc3339
from soundbox_server.errors import Conflict, TransactionNotFound
from soundbox_server.ids import new_id
from soundbox_server.sandbox.charges import REORDER_HOLD_MS
from soundbox_server.sandbox.store import read_faults, take_fault


@dataclass(frozen=True, kw_only=True)
class Order:
    """A transfer somebody asks for."""

    reference: str
    amount_idr: int
    account: str
    account_type: str | None
    beneficiary: str
    rail: str
    callback_url: str


def send(connection: sqlite3.Connection, order: Order, *, now_ms: int) -> tuple[dict[str, Any], bool]:
    """The transfer, and whether it is new. A known reference is answered again; Conflict for another amount or account,
    and while transfers are to be refused."""
    known = connection.execute("SELECT * FROM transfer WHERE reference = ?", (order.reference,)).fetchone()
    if known is not None:
        if (known["amount_idr"], known["account"]) != (order.amount_idr, order.account):
            raise Conflict("This reference was used for another transfer.", reference=order.reference)
        return shown(known), False
    faults = read_faults(connection)
    if faults.refuse_transfers:
        raise Conflict("The account does not exist, as the bank was told to say.", reference=order.reference)
    connection.execute(
        "INSERT INTO transfer (reference, transfer_id, amount_idr, account, account_type, beneficiary, rail, "
        "callback_url, status, created_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)",
        (
            order.reference, f"TRF{secrets.randbelow(10**10):010d}", order.amount_idr, order.account,
            order.account_type, order.beneficiary, order.rail, order.callback_url, now_ms,
        ),
    )  # fmt: skip
    if not faults.slow_transfers:
        _end(connection, order.reference, now_ms=now_ms)
    return shown(_one(connection, order.reference)), True


def find(connection: sqlite3.Connection, reference: str, *, now_ms: int) -> dict[str, Any]:
    """A pending one ends when it is asked about after the bank was told to be quick again."""
    if _one(connection, reference)["status"] == "pending" and not read_faults(connection).slow_transfers:
        _end(connection, reference, now_ms=now_ms)
    return shown(_one(connection, reference))


def give_back(connection: sqlite3.Connection, reference: str, *, now_ms: int) -> dict[str, Any]:
    """The receiving bank sends the money back. Conflict for what was never paid."""
    transfer = _one(connection, reference)
    if transfer["status"] not in ("succeeded", "reversed"):
        raise Conflict("This transfer was not paid.", reference=reference)
    if transfer["status"] == "succeeded":
        _become(connection, reference, "reversed", now_ms=now_ms)
    return shown(_one(connection, reference))


def shown(transfer: sqlite3.Row) -> dict[str, Any]:
    return {
        "reference": transfer["reference"],
        "transfer_id": transfer["transfer_id"],
        "amount": transfer["amount_idr"],
        "currency": "IDR",
        "account": transfer["account"],
        "rail": transfer["rail"],
        "status": transfer["status"],
        "created_at": rfc3339(transfer["created_at_ms"]),
    }


def _end(connection: sqlite3.Connection, reference: str, *, now_ms: int) -> None:
    _become(connection, reference, "failed" if read_faults(connection).fail_transfers else "succeeded", now_ms=now_ms)


def _become(connection: sqlite3.Connection, reference: str, status: str, *, now_ms: int) -> None:
    """Change its state and queue what the hub will be told, with whatever faults are switched on."""
    connection.execute("UPDATE transfer SET status = ? WHERE reference = ?", (status, reference))
    transfer, faults = _one(connection, reference), read_faults(connection)
    dropped = take_fault(connection, "drop_callbacks")
    event_id = new_id("evt")
    body = {
        "event_id": event_id,
        "payout_reference": reference,
        "payout_id": transfer["transfer_id"],
        "status": status,
        "amount": max(1, transfer["amount_idr"] + faults.wrong_amount),
        "currency": "IDR",
    }
    due_at_ms = None if dropped else now_ms + faults.callback_delay_ms + REORDER_HOLD_MS * faults.reorder
    connection.execute(
        "INSERT INTO transfer_event (event_id, reference, status, body, created_at_ms, due_at_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (event_id, reference, status, orjson.dumps(body), now_ms, due_at_ms),
    )


def _one(connection: sqlite3.Connection, reference: str) -> sqlite3.Row:
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM transfer WHERE reference = ?", (reference,)
    ).fetchone()
    if found is None:
        raise TransactionNotFound("No such transfer.", reference=reference)
    return found
