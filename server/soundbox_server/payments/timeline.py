"""A payment's own log."""

from collections.abc import Sequence

from soundbox_server.db import Statements
from soundbox_server.ids import new_id


async def insert_steps(tx: Statements, steps: Sequence[Sequence[object]]) -> None:
    """Rows of (id, payment_id, at_ms, kind, state, source, detail) for the payments' own logs."""
    await tx.many(
        "INSERT INTO payment_event (id, payment_id, at_ms, kind, state, source, detail) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        steps,
    )


async def step(
    tx: Statements, payment_id: str, kind: str, state: str, *, source: str, detail: str | None = None, now_ms: int
) -> None:
    """One more line of a payment's log: `kind` is `payment.what` or `refund.what`, `state` the payment's afterwards."""
    await insert_steps(tx, [(new_id("pev"), payment_id, now_ms, kind, state, source, detail)])
