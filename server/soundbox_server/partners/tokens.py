"""Tokens: what a license pays with, counted by the ledger in a unit of their own.

token_issue → license → reserved → token_used, or back from reserved to the license. What may be taken is looked at
under the license's lock, so that of many who want the last token one gets it. Order of locks: licenses, then payments,
then uses; using up what was reserved needs no license.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import DAY_MS, JAKARTA_AHEAD_MS
from soundbox_server.db import Row, Statements
from soundbox_server.errors import InsufficientTokens
from soundbox_server.ids import lowest_id, new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.partners.licenses import License, lock
from soundbox_server.partners.state import TokenState

UNIT = "TOKEN"
PAYMENT_TOKENS = 1  # what a payment costs
DAYS_OF_WEEK = 7


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Tokens that left a balance."""

    id: str
    license_key: str
    previous_balance: int
    new_balance: int
    tokens: int


def issue(license_id: str, tokens: int) -> ledger.Posting:
    """Tokens that come to be."""
    return ledger.Posting("token_issue", f"license:{license_id}", tokens, UNIT)


async def add(tx: Statements, license_id: str, tokens: int, *, reason: str, actor: Actor, now_ms: int) -> License:
    """Staff give tokens. Raises NotFound."""
    license = await lock(tx, license_id)
    given = ledger.Journal(kind="token", postings=(issue(license_id, tokens),))
    await ledger.post(tx, [given], now_ms=now_ms)
    details = {"tokens": tokens, "reason": reason, "balance_before": license.balance}
    await record(tx, actor, "license.tokens_added", ("license", license_id), details=details)
    return await lock(tx, license_id)


async def reserve(tx: Statements, license: License, *, payment_id: str, purpose: str, now_ms: int) -> Taken:
    """Set aside what a payment costs; the license is locked. Raises InsufficientTokens."""
    taken = await _take(
        tx, license, PAYMENT_TOKENS, state=TokenState.RESERVED, payment_id=payment_id, purpose=purpose, facts=None,
        now_ms=now_ms,
    )  # fmt: skip
    move = ledger.Posting(f"license:{license.id}", f"reserved:{license.id}", taken.tokens, UNIT)
    await _book(tx, move, f"reserve:{taken.id}", payment_id=payment_id, now_ms=now_ms)
    return taken


async def use_now(
    tx: Statements, license: License, *, purpose: str, facts: Mapping[str, Any] | None, now_ms: int
) -> Taken:
    """Use one token for whatever the partner says; the license is locked. Raises InsufficientTokens."""
    taken = await _take(
        tx, license, 1, state=TokenState.USED, payment_id=None, purpose=purpose, facts=facts, now_ms=now_ms
    )
    move = ledger.Posting(f"license:{license.id}", "token_used", taken.tokens, UNIT)
    await _book(tx, move, f"use:{taken.id}", payment_id=None, now_ms=now_ms)
    return taken


async def _take(
    tx: Statements,
    license: License,
    tokens: int,
    *,
    state: TokenState,
    payment_id: str | None,
    purpose: str,
    facts: Mapping[str, Any] | None,
    now_ms: int,
) -> Taken:
    if license.balance < tokens:
        raise InsufficientTokens(
            "This license has not enough tokens. Top it up.", balance=license.balance, required=tokens
        )
    taken = Taken(
        id=new_id("tku"),
        license_key=license.key,
        previous_balance=license.balance,
        new_balance=license.balance - tokens,
        tokens=tokens,
    )
    await tx.execute("UPDATE license SET tokens_taken = tokens_taken + $2 WHERE id = $1", license.id, tokens)
    await tx.execute(
        "INSERT INTO token_use (id, license_id, payment_id, tokens, previous_balance, new_balance, purpose, facts, "
        "state, created_at_ms, ended_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        taken.id, license.id, payment_id, tokens, taken.previous_balance, taken.new_balance, purpose,
        orjson.dumps(facts).decode() if facts else None, state.value, now_ms,
        None if state is TokenState.RESERVED else now_ms,
    )  # fmt: skip
    return taken


async def use_reserved(tx: Statements, payment_id: str, *, now_ms: int) -> bool:
    """What was set aside for this payment is used; False where nothing is set aside any more."""
    return await _end(tx, payment_id, TokenState.USED, now_ms=now_ms)


async def void_reserved(tx: Statements, payment_id: str, *, now_ms: int) -> bool:
    """What was set aside for this payment goes back; its license is locked. False where nothing is any more."""
    return await _end(tx, payment_id, TokenState.VOIDED, now_ms=now_ms)


async def _end(tx: Statements, payment_id: str, state: TokenState, *, now_ms: int) -> bool:
    rows = await tx.fetch(
        "UPDATE token_use SET state = $2, ended_at_ms = $3 WHERE payment_id = $1 AND state = 'reserved' "
        "RETURNING id, license_id, tokens",
        payment_id, state.value, now_ms,
    )  # fmt: skip
    if not rows:
        return False
    use_id, license_id, tokens = rows[0]["id"], rows[0]["license_id"], rows[0]["tokens"]
    reserved, back = f"reserved:{license_id}", state is TokenState.VOIDED
    if back:
        await tx.execute("UPDATE license SET tokens_taken = tokens_taken - $2 WHERE id = $1", license_id, tokens)
    move = ledger.Posting(reserved, f"license:{license_id}" if back else "token_used", tokens, UNIT)
    await _book(tx, move, f"{'void' if back else 'use'}:{use_id}", payment_id=payment_id, now_ms=now_ms)
    return True


async def _book(tx: Statements, move: ledger.Posting, key: str, *, payment_id: str | None, now_ms: int) -> None:
    journal = ledger.Journal(kind="token", postings=(move,), payment_id=payment_id, money_key=f"token:{key}")
    await ledger.post(tx, [journal], now_ms=now_ms)


# What became of them


@dataclass(frozen=True, kw_only=True)
class Week:
    """Tokens used on each day of this week in Jakarta, Monday first."""

    days: Sequence[int]
    today: int  # 0 is Monday

    @property
    def total(self) -> int:
        return sum(self.days)

    @property
    def average(self) -> float:
        """Per day that there was so far."""
        return round(self.total / (self.today + 1), 2)

    def days_left(self, balance: int) -> int | None:
        """How long a balance lasts at this pace; None while nothing is used."""
        return int(balance / self.average) if self.average else None


async def week_of(tx: Statements, license_ids: Sequence[str], *, now_ms: int) -> Week:
    """Reserved ones count as used: they come back only where nothing was issued."""
    day = (now_ms + JAKARTA_AHEAD_MS) // DAY_MS
    today = (day + 3) % DAYS_OF_WEEK  # day 0 was a Thursday
    monday_ms = (day - today) * DAY_MS - JAKARTA_AHEAD_MS
    rows = await tx.fetch(
        f"SELECT (created_at_ms - $2) / {DAY_MS} AS day, sum(tokens) AS tokens FROM token_use "
        f"WHERE license_id {tx.among(1)} AND id >= $3 AND created_at_ms >= $2 AND state <> 'voided' "
        "GROUP BY 1",
        list(license_ids), monday_ms, lowest_id("tku", monday_ms - 600_000),
    )  # fmt: skip
    used = {int(row["day"]): int(row["tokens"]) for row in rows}
    return Week(days=[used.get(at, 0) for at in range(DAYS_OF_WEEK)], today=today)


async def history(tx: Statements, license_id: str, *, page: int, limit: int) -> tuple[Sequence[Row], int]:
    """A page of what a license's tokens were used for, the newest first, and how many there are."""
    rows = await tx.fetch(
        "SELECT id, tokens, previous_balance, new_balance, purpose, facts, created_at_ms FROM token_use "
        "WHERE license_id = $1 AND state <> 'voided' ORDER BY id DESC LIMIT $2 OFFSET $3",
        license_id, limit, (page - 1) * limit,
    )  # fmt: skip
    (counted,) = await tx.fetch(
        "SELECT count(*) AS total FROM token_use WHERE license_id = $1 AND state <> 'voided'", license_id
    )
    return rows, int(counted["total"])
