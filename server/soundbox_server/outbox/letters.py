"""Messages that another server takes at its door, mail among them: sent when due, again by a table of their own, and
dead letters in the end. Boxes answer what they get; here the taking is the answer.
"""

from collections.abc import Sequence

from soundbox_server.db import Row, Statements
from soundbox_server.outbox import service
from soundbox_server.outbox.service import Message
from soundbox_server.outbox.state import Delivery

MOST_ADDRESSES = 64  # looked at in one go
LEASE_MS = 120_000  # whoever claimed a letter and crashed holds it up no longer
_WAITING = "transport = $1 AND transport <> 'mqtt' AND state IN ('queued', 'published')"  # as the index says it


async def queue(tx: Statements, *letters: Message, owner: str) -> None:
    """Record letters in the transaction of what they tell of; they are due at once."""
    assert all(letter.state is Delivery.QUEUED and letter.transport != "mqtt" for letter in letters)
    await service.queue(tx, letters, owner=owner)
    await tx.many(
        "UPDATE outbox_message SET due_at_ms = $2 WHERE id = $1",
        [(letter.id, letter.created_at_ms) for letter in letters],
    )


async def recipients(tx: Statements, transport: str, *, now_ms: int) -> list[str]:
    """For whom something is due. From one to the next by the index: one with thousands of letters costs no more."""
    step = f"SELECT min(recipient_id) FROM outbox_message WHERE {_WAITING}"
    due = f"SELECT 1 FROM outbox_message o WHERE {_WAITING} AND o.recipient_id = one.id AND o.due_at_ms <= $2"
    rows = await tx.fetch(
        f"WITH RECURSIVE one(id) AS (SELECT ({step}) UNION ALL "
        f"SELECT ({step} AND recipient_id > one.id) FROM one WHERE one.id IS NOT NULL) "
        f"SELECT id FROM one WHERE id IS NOT NULL AND EXISTS ({due})",
        transport,
        now_ms,
    )
    return [row["id"] for row in rows]


async def addresses(tx: Statements, transport: str, recipient_id: str, *, now_ms: int) -> list[str]:
    """Where something is due for a recipient that has several addresses; those that waited longest."""
    rows = await tx.fetch(
        f"SELECT address FROM outbox_message WHERE {_WAITING} AND recipient_id = $2 AND due_at_ms <= $3 "
        f"GROUP BY address ORDER BY min(due_at_ms), address LIMIT {MOST_ADDRESSES}",
        transport,
        recipient_id,
        now_ms,
    )
    return [row["address"] for row in rows]


async def claim(
    tx: Statements,
    transport: str,
    *,
    now_ms: int,
    owner: str,
    limit: int,
    recipient_id: str | None = None,
    address: str | None = None,
) -> Sequence[Row]:
    """Claim what is due, for everybody, one recipient or one of its addresses: id, address, body, kind, attempt,
    recipient_id, subject_id. The attempt is the fence for `sent` and `failed`."""
    theirs = "" if recipient_id is None else " AND recipient_id = $4"
    theirs += "" if address is None else " AND address = $5"
    due = await tx.fetch(
        f"SELECT id FROM outbox_message WHERE {_WAITING}{theirs} AND due_at_ms <= $2 "
        f"AND (expires_at_ms IS NULL OR expires_at_ms > $2) ORDER BY due_at_ms, id LIMIT $3 "
        f"{tx.lock('outbox_message', skip=True)}",
        transport,
        now_ms,
        limit,
        *(one for one in (recipient_id, address) if one is not None),
    )
    return await tx.fetch(
        "UPDATE outbox_message SET state = 'published', attempt = attempt + 1, due_at_ms = $2, owner = $3 "
        f"WHERE id {tx.among(1)} RETURNING id, address, body, kind, attempt, recipient_id, subject_id",
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


async def sent(tx: Statements, letter_id: str, *, attempt: int, now_ms: int, keep: bool = False) -> None:
    """The other server has it. What it said is forgotten here, for the copy may hold a token; or kept, to be looked at
    and sent once more."""
    await tx.execute(
        "UPDATE outbox_message SET state = 'sent', body = CASE WHEN $5 THEN body ELSE $4 END, due_at_ms = NULL, "
        "published_at_ms = $3, finished_at_ms = $3, reason = NULL "
        "WHERE id = $1 AND attempt = $2 AND state = 'published'",
        letter_id, attempt, now_ms, b"", keep,
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


async def drop(tx: Statements, transport: str, recipient_id: str, *, reason: str, now_ms: int) -> None:
    """Whatever still waits for this recipient is a dead letter: nobody sends there any more."""
    await tx.execute(
        "UPDATE outbox_message SET state = 'failed', reason = $3, due_at_ms = NULL, finished_at_ms = $4 "
        f"WHERE {_WAITING} AND recipient_id = $2",
        transport, recipient_id, reason, now_ms,
    )  # fmt: skip
