"""A payment's own log, and what others hear of it."""

from collections.abc import Mapping, Sequence

from soundbox_server.db import Statements
from soundbox_server.ids import new_id
from soundbox_server.payments.news import Facts, tell_steps


async def insert_steps(
    tx: Statements, steps: Sequence[Sequence[object]], *, heard: Mapping[str, Facts] | None = None
) -> None:
    """Rows of (id, payment_id, at_ms, kind, state, source, detail) for the payments' own logs, once the payments are as
    the rows say. `heard`: the payments of which others hear, where the caller has looked (news.py)."""
    await tx.many(
        "INSERT INTO payment_event (id, payment_id, at_ms, kind, state, source, detail) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        steps,
    )
    await tell_steps(tx, steps, heard)


async def step(
    tx: Statements, payment_id: str, kind: str, state: str, *, source: str, detail: str | None = None, now_ms: int
) -> None:
    """One more line of a payment's log: `kind` is `payment.what` or `refund.what`, `state` the payment's afterwards."""
    await insert_steps(tx, [(new_id("pev"), payment_id, now_ms, kind, state, source, detail)])
