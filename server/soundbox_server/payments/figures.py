"""What monitoring is told of payments, once it is true: counted after the commit."""

from collections.abc import Mapping, Sequence

from soundbox_server import metrics
from soundbox_server.db import Statements


def count_steps(steps: Sequence[Sequence[object]], qr_modes: Mapping[str, str]) -> None:
    """The steps that a provider's word led to; `qr_modes` by payment."""
    for _, payment_id, _, kind, _, provider, _ in steps:
        if str(kind).startswith("payment."):
            outcome = str(kind).removeprefix("payment.")
            metrics.labelled(metrics.payments, provider, qr_modes[str(payment_id)], outcome).inc()


def count_answer(provider: str, *, issued: bool, unknown: bool) -> None:
    outcome = "issued" if issued else "unknown" if unknown else "failed"
    metrics.labelled(metrics.charges, provider, outcome).inc()


async def count_waiting(tx: Statements) -> int:
    rows = await tx.fetch("SELECT count(*) AS n FROM payment WHERE state IN ('created', 'awaiting_payment')")
    return int(rows[0]["n"])
