"""Messages that another server takes at its door, mail among them: sent when due, again by a table of their own, and
dead letters in the end. Boxes answer what they get; here the taking is the answer.
"""

from collections.abc import Sequence

from soundbox_server.db import Row, Statements
from soundbox_server.outbox import service
from soundbox_server.outbox.service import Message
from soundbox_server.outbox.state import Delivery

LEASE_MS = 120_000  # whoever claimed a letter and crashed holds it up no longer
_WAITING = "transport = $1 AND transport <> 'mqtt' AND state IN ('queued', 'published')"  # as the index says it


async def queue(tx: Statements, letter: Message, *, owner: str) -> None:
    """Record a letter in the transaction of what it tells of; it is due at once."""
    assert letter.state is Delivery.QUEUED
    assert letter.transport != "mqtt"
    await service.queue(tx, [letter], owner=owner)
    await tx.execute("UPDATE outbox_message SET due_at_ms = $2 WHERE id = $1", letter.id, letter.created_at_ms)


async def claim(tx: Statements, transport: str, *, now_ms: int, owner: str, limit: int) -> Sequence[Row]:
    """Claim what is due: id, address, body, kind, attempt. The attempt is the fence for `sent` and `failed`."""
    due = await tx.fetch(
        f"SELECT id FROM outbox_message WHERE {_WAITING} AND due_at_ms <= $2 "
        f"AND (expires_at_ms IS NULL OR expires_at_ms > $2) ORDER BY due_at_ms, id LIMIT $3 "
        f"{tx.lock('outbox_message', skip=True)}",
        transport,
        now_ms,
        limit,
    )
    return await tx.fetch(
        "UPDATE outbox_message SET state = 'published', attempt = attempt + 1, due_at_ms = $2, owner = $3 "
        f"WHERE id {tx.among(1)} RETURNING id, address, body, kind, attempt",
        [row["id"] for row in due],
        now_ms + LEASE_MS,
        owner,
    )


async def hold(tx: Statements, letter_id: str, *, attempt: int, now_ms: int) -> None:
    """Whoever claimed it is still at it: its lease begins anew."""
    await tx.execute(
        "UPDATE outbox_message SET due_at_ms = $3 WHERE id = $1 AND attempt = $2 AND state = 'published'",
        letter_id,
        attempt,
        now_ms + LEASE_MS,
    )


async def sent(tx: Statements, letter_id: str, *, attempt: int, now_ms: int) -> None:
    """The other server has it. What it said is forgotten here: the copy may hold a token."""
    await tx.execute(
        "UPDATE outbox_message SET state = 'sent', body = $4, due_at_ms = NULL, published_at_ms = $3, "
        "finished_at_ms = $3, reason = NULL WHERE id = $1 AND attempt = $2 AND state = 'published'",
        letter_id, attempt, now_ms, b"",
    )  # fmt: skip


async def failed(
    tx: Statements, letter_id: str, *, attempt: int, reason: str, now_ms: int, retry_after_s: Sequence[int]
) -> bool:
    """Not taken: due again by the table of delays, and a dead letter after the last. Whether it will be tried again."""
    again = attempt <= len(retry_after_s)
    due = now_ms + retry_after_s[attempt - 1] * 1000 if again else None
    await tx.execute(
        "UPDATE outbox_message SET state = $3, reason = $4, due_at_ms = $5, finished_at_ms = $6 "
        "WHERE id = $1 AND attempt = $2 AND state = 'published'",
        letter_id, attempt, "published" if again else "failed", reason, due, None if again else now_ms,
    )  # fmt: skip
    return again
