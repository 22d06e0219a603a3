"""Messages on their way, whatever carries them. Rows are written in the transaction of what they tell of.

A row whose recipient can hear now is *born claimed*: published, attempt 1, due again in 5 s. The process that commits
it sends it straight after the commit, and no answer can beat its record. A sweep sends again what stays unanswered.
`published_at_ms` is therefore the moment of the first claim: what was handed over is not written a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from soundbox_server.db import Row, Statements
from soundbox_server.outbox.state import WAITING, Delivery, may_follow

RESEND_AFTER_S = (5, 5, 10, 10, 10, 10)  # after each attempt; the last one repeats until the message expires
NO_PLAY_REPORT_MS = 60_000
SKEW_MS = 30_000  # so long after its end a box may still speak what it is handed: protocol
CONFIG = "config"
RETAINED = frozenset({CONFIG})  # kinds that the broker keeps for whoever subscribes later

_BORN_CLAIMED = (Delivery.PUBLISHED, Delivery.SENT)
_WAITING = ", ".join(f"'{state}'" for state in WAITING)
_UNFINISHED = "state IN ('queued', 'published', 'received') AND finished_at_ms IS NULL"  # the words of an index


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `address` is a topic, `body` the exact bytes; without `expires_at_ms` it never expires."""

    id: str
    kind: str
    recipient_id: str
    address: str
    body: bytes
    created_at_ms: int
    expires_at_ms: int | None
    trace_id: str
    transport: str = "mqtt"
    subject_id: str | None = None
    original_id: str | None = None
    seq: int | None = None
    state: Delivery = Delivery.PUBLISHED
    reason: str | None = None
    attempt: int = 1
    unsigned: bool = False
    unconfirmed: bool = False  # born queued: the sweep hands it over once, and that is the end of it


_INSERT = """
INSERT INTO outbox_message (id, transport, kind, recipient_id, subject_id, original_id, seq, address, body, state,
                            reason, owner, attempt, due_at_ms, expires_at_ms, created_at_ms, trace_id,
                            published_at_ms, unsigned, unconfirmed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
"""


async def queue(tx: Statements, messages: Sequence[Message], *, owner: str) -> None:
    """Record the messages; those born published or sent are handed to the door through `tx.queued`."""
    await tx.many(_INSERT, [_row(message, owner) for message in messages])
    tx.queued.extend(message for message in messages if message.state in _BORN_CLAIMED)


def _row(m: Message, owner: str) -> tuple[object, ...]:
    sent = m.state in _BORN_CLAIMED
    due = m.created_at_ms + RESEND_AFTER_S[0] * 1000 if m.state is Delivery.PUBLISHED else None
    return (
        m.id, m.transport, m.kind, m.recipient_id, m.subject_id, m.original_id, m.seq, m.address, m.body, m.state.value,
        m.reason, owner if sent else None, 1 if sent else 0, due, m.expires_at_ms, m.created_at_ms, m.trace_id,
        m.created_at_ms if sent else None, m.unsigned, m.unconfirmed,
    )  # fmt: skip


_DUE = f"""
SELECT id, transport, kind, recipient_id, subject_id, original_id, seq, address, body, attempt, expires_at_ms,
       created_at_ms, trace_id, unsigned, unconfirmed
FROM outbox_message
WHERE transport = 'mqtt' AND state IN ({_WAITING}) AND finished_at_ms IS NULL AND due_at_ms <= $1
  AND (expires_at_ms IS NULL OR expires_at_ms > $1)
ORDER BY due_at_ms, id LIMIT $2
"""
_CLAIM = f"""
UPDATE outbox_message SET state = 'published', attempt = attempt + 1, due_at_ms = $2, owner = $3,
                          published_at_ms = coalesce(published_at_ms, $5),
                          finished_at_ms = CASE WHEN unconfirmed THEN $5 ELSE finished_at_ms END
WHERE id = $1 AND attempt = $4 AND state IN ({_WAITING})
"""


async def claim_due(tx: Statements, *, now_ms: int, owner: str, limit: int = 200) -> None:
    """Claim what is due: the attempt each row was seen with is the fence, so two sweeps never send the same attempt.

    The claimed messages are handed to the door through `tx.queued`. Those that no box confirms are done with that: a
    crash before they are handed over loses them, because a second copy would be spoken as another payment.
    """
    due = await tx.fetch(_DUE + tx.lock("outbox_message", skip=True), now_ms, limit)
    await tx.many(_CLAIM, [_claimed(row, owner, now_ms) for row in due])
    tx.queued.extend(_message(row) for row in due)


def _claimed(row: Row, owner: str, now_ms: int) -> tuple[object, ...]:
    again = None if row["unconfirmed"] else _due_after(row["attempt"], now_ms)
    return row["id"], again, owner, row["attempt"], now_ms


async def put_back(tx: Statements, messages: Sequence[Message], *, now_ms: int) -> None:
    """These were claimed and could not be handed over after all: those that are sent only once are due again."""
    await tx.many(
        "UPDATE outbox_message SET state = 'queued', due_at_ms = $3, finished_at_ms = NULL, published_at_ms = NULL "
        "WHERE id = $1 AND attempt = $2 AND unconfirmed AND state = 'published'",
        [(message.id, message.attempt, now_ms) for message in messages if message.unconfirmed],
    )


def _due_after(attempt: int, now_ms: int) -> int:
    return now_ms + RESEND_AFTER_S[min(attempt, len(RESEND_AFTER_S) - 1)] * 1000


def _message(row: Row) -> Message:
    return Message(
        id=row["id"],
        kind=row["kind"],
        recipient_id=row["recipient_id"],
        address=row["address"],
        body=row["body"],
        created_at_ms=row["created_at_ms"],
        expires_at_ms=row["expires_at_ms"],
        trace_id=row["trace_id"],
        transport=row["transport"],
        subject_id=row["subject_id"],
        original_id=row["original_id"],
        seq=row["seq"],
        attempt=row["attempt"] + 1,
        unsigned=bool(row["unsigned"]),
        unconfirmed=bool(row["unconfirmed"]),
    )


async def make_due(tx: Statements, *, recipients: Sequence[str], now_ms: int) -> None:
    """A box is back: what still waits for it goes out with the next sweep."""
    # SQLite would read all that the box was ever sent; what waits for any box is little.
    by_index = "INDEXED BY outbox_due" if tx.dialect == "sqlite" else ""
    waiting = await tx.fetch(
        f"SELECT id FROM outbox_message {by_index} WHERE recipient_id {tx.among(1)} AND transport = 'mqtt' "
        f"AND state IN ({_WAITING}) AND finished_at_ms IS NULL "
        f"AND (expires_at_ms IS NULL OR expires_at_ms > $2) ORDER BY id {tx.lock('outbox_message')}",
        list(recipients),
        now_ms,
    )
    await tx.many("UPDATE outbox_message SET due_at_ms = $2 WHERE id = $1", [(row["id"], now_ms) for row in waiting])


# By the index `outbox_expiring`, whose words these are. The concatenation keeps a database from reading all that the
# box was ever sent.
_UNREPORTED = f"""
SELECT id, transport, kind, recipient_id, subject_id, original_id, seq, address, body, attempt, expires_at_ms,
       created_at_ms, trace_id, unsigned, unconfirmed
FROM outbox_message
WHERE {_UNFINISHED} AND state = 'received' AND expires_at_ms > $1 AND recipient_id || '' {{among}}
  AND kind IN ('payment_success', 'payment_digest') ORDER BY id
"""


async def ask_again(tx: Statements, *, recipients: Sequence[str], now_ms: int) -> None:
    """What these boxes received and never reported played goes to them once more, straight after the commit.

    A broker that was killed takes acks and loses them. A box says no message twice: it answers that it is a duplicate,
    and when it was played. Nothing is written, so nothing follows if no answer comes.
    """
    found = await tx.fetch(_UNREPORTED.format(among=tx.among(2)), now_ms - NO_PLAY_REPORT_MS, list(recipients))
    tx.queued.extend(_message(row) for row in found)


async def end_announcements(tx: Statements, recipient_id: str, *, reason: str, now_ms: int) -> None:
    """What this box was still to say of payments will never be sent. Commands and its configuration are its own,
    wherever it stands."""
    waiting = await tx.fetch(
        f"SELECT id FROM outbox_message WHERE {_UNFINISHED} AND state <> 'received' AND recipient_id || '' = $1 "
        f"AND kind IN ('payment_success', 'payment_digest') ORDER BY id {tx.lock('outbox_message')}",
        recipient_id,
    )
    await tx.many(
        "UPDATE outbox_message SET state = 'expired', reason = $3, due_at_ms = NULL, finished_at_ms = $2 WHERE id = $1",
        [(row["id"], now_ms, reason) for row in waiting],
    )


async def ask_no_more(tx: Statements, recipient_id: str, *, reason: str, now_ms: int) -> None:
    """What this box received and never reported played has failed: it would not know the question again."""
    await tx.execute(
        "UPDATE outbox_message SET state = 'failed', reason = $3, finished_at_ms = $2 "
        f"WHERE {_UNFINISHED} AND state = 'received' AND recipient_id || '' = $1 "
        "AND kind IN ('payment_success', 'payment_digest')",
        recipient_id,
        now_ms,
        reason,
    )


async def waiting_for_birth(tx: Statements, *, now_ms: int) -> list[str]:
    """Recipients of messages that wait for a birth and are still alive."""
    rows = await tx.fetch(
        f"SELECT DISTINCT recipient_id FROM outbox_message WHERE transport = 'mqtt' AND state IN ({_WAITING}) "
        "AND finished_at_ms IS NULL AND state = 'queued' AND due_at_ms IS NULL "
        "AND (expires_at_ms IS NULL OR expires_at_ms > $1)",
        now_ms,
    )
    return [row["recipient_id"] for row in rows]


async def expire(tx: Statements, *, now_ms: int) -> None:
    """What nobody answered in time will not be said; what was received but never reported played has failed."""
    await tx.execute(
        "UPDATE outbox_message SET state = 'expired', due_at_ms = NULL, finished_at_ms = $1 WHERE id IN ("
        f"SELECT id FROM outbox_message WHERE {_UNFINISHED} AND state <> 'received' AND expires_at_ms <= $1 "
        f"ORDER BY expires_at_ms {tx.lock('outbox_message', skip=True)})",
        now_ms,
    )
    await tx.execute(
        "UPDATE outbox_message SET state = 'failed', reason = 'no_play_report', finished_at_ms = $1 WHERE id IN ("
        f"SELECT id FROM outbox_message WHERE {_UNFINISHED} AND state = 'received' "
        "AND kind IN ('payment_success', 'payment_digest') AND expires_at_ms <= $2 "
        f"ORDER BY expires_at_ms {tx.lock('outbox_message', skip=True)})",
        now_ms,
        now_ms - NO_PLAY_REPORT_MS,
    )


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a box says became of a message. `played_at_ms` is the box's own word."""

    message_id: str
    recipient_id: str
    status: str  # received, played, duplicate, stale_skipped, rejected, failed
    played_at_ms: int | None = None
    reason: str | None = None


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a message that an answer just proved: for logs and latency."""

    message_id: str
    recipient_id: str
    subject_id: str | None
    trace_id: str
    state: Delivery
    ms_since_created: int
    ms_until_played: int | None = None  # by the box's own word, where that can be believed


_ANSWERED = """
SELECT id, {version} AS row_version, recipient_id, subject_id, state, trace_id, created_at_ms, expires_at_ms,
       received_at_ms, played_at_ms
FROM outbox_message
WHERE id {among} ORDER BY id {lock}
"""
_RECORD = """
UPDATE outbox_message SET state = $2, reason = $3, received_at_ms = $4, played_at_ms = $5, finished_at_ms = $6,
                          due_at_ms = NULL
WHERE id = $1
"""


async def acknowledge(tx: Statements, answers: Sequence[Answer], *, now_ms: int) -> list[Hop]:
    """Record what boxes say. Repeats, late ones and those of other boxes change nothing. Returns what moved."""
    ids = sorted({answer.message_id for answer in answers})
    version, lock = tx.version("outbox_message"), tx.lock("outbox_message")
    rows = await tx.fetch(_ANSWERED.format(version=version, among=tx.among(1), lock=lock), ids)
    known = {row["id"]: _Record.of(row) for row in rows}
    hops = [hop for answer in answers if (hop := _apply(known.get(answer.message_id), answer, now_ms))]
    changed = {hop.message_id for hop in hops}
    records = [known[message_id] for message_id in sorted(changed)]
    versions = [record.version for record in records]
    await tx.many(_RECORD, [record.row() for record in records], locked=True, versions=versions)
    return hops


@dataclass
class _Record:
    id: str
    version: int | None
    recipient_id: str
    subject_id: str | None
    trace_id: str
    state: Delivery
    created_at_ms: int
    expires_at_ms: int | None
    received_at_ms: int | None
    played_at_ms: int | None
    reason: str | None = None
    finished_at_ms: int | None = None

    @classmethod
    def of(cls, row: Row) -> "_Record":
        return cls(
            id=row["id"],
            version=row["row_version"],
            recipient_id=row["recipient_id"],
            subject_id=row["subject_id"],
            trace_id=row["trace_id"],
            state=Delivery(row["state"]),
            created_at_ms=row["created_at_ms"],
            expires_at_ms=row["expires_at_ms"],
            received_at_ms=row["received_at_ms"],
            played_at_ms=row["played_at_ms"],
        )

    def row(self) -> tuple[object, ...]:
        return (self.id, self.state.value, self.reason, self.received_at_ms, self.played_at_ms, self.finished_at_ms)


def _apply(record: _Record | None, answer: Answer, now_ms: int) -> Hop | None:
    if record is None or record.recipient_id != answer.recipient_id:
        return None
    wanted = _proved(answer)
    if not may_follow(record.state, wanted) or _says_too_late(record, answer, wanted):
        return None
    record.state, record.reason = wanted, answer.reason
    if wanted in (Delivery.RECEIVED, Delivery.PLAYED) and record.received_at_ms is None:
        record.received_at_ms = now_ms
    if wanted is Delivery.PLAYED:
        record.played_at_ms = _believable(answer.played_at_ms, record.created_at_ms, now_ms)
    if wanted is not Delivery.RECEIVED:
        record.finished_at_ms = now_ms
    return Hop(
        message_id=record.id,
        recipient_id=record.recipient_id,
        subject_id=record.subject_id,
        trace_id=record.trace_id,
        state=wanted,
        ms_since_created=now_ms - record.created_at_ms,
        ms_until_played=None if record.played_at_ms is None else record.played_at_ms - record.created_at_ms,
    )


def _says_too_late(record: _Record, answer: Answer, wanted: Delivery) -> bool:
    """What has expired is turned into played only by proof that it was spoken in time."""
    if record.state is not Delivery.EXPIRED or wanted is not Delivery.PLAYED or record.expires_at_ms is None:
        return False
    return answer.played_at_ms is None or answer.played_at_ms > record.expires_at_ms + SKEW_MS


def _proved(answer: Answer) -> Delivery:
    """A repeat that the box had played before proves the playing; otherwise it proves that the box has it."""
    if answer.status == "duplicate":
        return Delivery.RECEIVED if answer.played_at_ms is None else Delivery.PLAYED
    return Delivery(answer.status)


def _believable(played_at_ms: int | None, created_at_ms: int, now_ms: int) -> int:
    """The box's clock where it fits between our own two times, else the moment its word arrived."""
    if played_at_ms is not None and created_at_ms <= played_at_ms <= now_ms:
        return played_at_ms
    return now_ms


# Ours to send. A webhook waits for its receiver, and is counted by itself (webhooks/deliveries.py).
_OURS = (
    f"transport = 'mqtt' AND state IN ({_WAITING}) AND finished_at_ms IS NULL",
    f"transport = 'mail' AND transport <> 'mqtt' AND state IN ({_WAITING})",
)


async def depth(tx: Statements) -> dict[str, int]:
    """How many messages to boxes and how many mails still have somewhere to go, by state. What was handed to a box that
    acknowledges nothing goes nowhere any more."""
    counts = {state.value: 0 for state in WAITING}
    for ours in _OURS:
        for row in await tx.fetch(
            f"SELECT state, count(*) AS n FROM outbox_message WHERE {ours} AND finished_at_ms IS NULL GROUP BY state"
        ):
            counts[row["state"]] += int(row["n"])
    return counts


async def oldest_overdue_ms(tx: Statements, *, now_ms: int) -> int:
    """How long the one of them that waits longest for its sending has been due; 0 when none is."""
    found = [await tx.fetch(f"SELECT min(due_at_ms) AS due FROM outbox_message WHERE {ours}") for ours in _OURS]
    due = [int(rows[0]["due"]) for rows in found if rows[0]["due"] is not None]
    return max(0, now_ms - min(due)) if due else 0
