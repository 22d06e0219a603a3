"""Money that came and fits no payment as it stands: how much of it there is, and how it leaves."""

from collections import Counter

from soundbox_server.db import Statements
from soundbox_server.ledger import service as ledger

_CAME = """
SELECT e.provider, p.amount FROM provider_event e
JOIN journal j ON j.provider_event_id = e.id AND j.kind = 'suspense' JOIN posting p ON p.journal_id = j.id
WHERE e.payment_id = $1
"""
_WENT = """
SELECT p.source, p.amount FROM journal j JOIN posting p ON p.journal_id = j.id
WHERE j.payment_id = $1 AND j.kind NOT IN ('capture', 'suspense') AND p.source LIKE 'suspense:%'
"""


async def held(tx: Statements, payment_id: str) -> dict[str, int]:
    """Rupiah kept apart for a payment, by provider."""
    total: Counter[str] = Counter()
    for row in await tx.fetch(_CAME, payment_id):
        total[row["provider"]] += row["amount"]
    for row in await tx.fetch(_WENT, payment_id):
        total[row["source"].removeprefix("suspense:")] -= row["amount"]
    return {provider: amount for provider, amount in sorted(total.items()) if amount}


async def brought_by(tx: Statements, event_id: str) -> int:
    """Rupiah that were put aside when this report came; 0 where another one had told of the same transfer."""
    rows = await tx.fetch(
        "SELECT coalesce(sum(p.amount), 0) AS amount FROM journal j JOIN posting p ON p.journal_id = j.id "
        "WHERE j.provider_event_id = $1 AND j.kind = 'suspense'",
        event_id,
    )
    return int(rows[0]["amount"])


async def release(tx: Statements, payment_id: str, *, provider: str, amount: int, key: str, now_ms: int) -> None:
    """Book so much of it as no longer kept apart; `key` names the decision, which is booked once."""
    journal = ledger.release(
        payment_id=payment_id, provider_event_id=None, provider=provider, amount=amount, key=f"{key}:{provider}"
    )
    await ledger.post(tx, [journal], now_ms=now_ms)
