"""What a box missed, told in one sentence after its birth.

Counted is only what nobody can have heard: the box says up to which number it took announcements in, acks that it kept
are waited for, and so are copies that the broker may still hand out to a box whose clock is half a minute behind.
Order of locks: boxes by id, then their digests, then messages by id.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from soundbox_protocol.messages import MAX_AMOUNT
from soundbox_protocol.signing import sign
from soundbox_protocol.times import to_rfc3339
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.announcements.service import Telling
from soundbox_server.db import Row, Statements
from soundbox_server.devices.presence import who_began
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox

AFTER_BIRTH_MS = 5_000  # until the acks that the box kept are in
PATIENCE_MS = 60_000  # no copy is waited for longer than this after the birth
# In one transaction: acks lock messages of many boxes by id, and box after box would be another order.
MOST_BOXES = 1
MOST_COUNTED = 2_000  # for one digest; what is left is told after the next birth

# As the index `outbox_untold` says it.
_UNTOLD = (
    "m.kind IN ('payment_success', 'payment_digest') AND m.state IN ('expired', 'stale_skipped') "
    "AND m.original_id IS NULL"
)


@dataclass(frozen=True, kw_only=True)
class Birth:
    """A box is back. `above_seq` is the highest number it says it took in, None where it does not say."""

    device_id: str
    session_epoch: int
    above_seq: int | None


async def await_acks(tx: Statements, births: Sequence[Birth], *, now_ms: int) -> list[str]:
    """Five seconds after these births it is looked what their boxes missed: whose they are. Births that began no
    session are none."""
    last = {birth.device_id: birth for birth in births}
    epochs = {birth.device_id: birth.session_epoch for birth in last.values()}
    began = [last[device_id] for device_id in sorted(await who_began(tx, epochs, at_ms=now_ms))]
    await tx.many(
        "INSERT INTO announcement_digest (device_id, above_seq, born_at_ms, due_at_ms) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (device_id) DO UPDATE SET above_seq = excluded.above_seq, born_at_ms = excluded.born_at_ms, "
        "due_at_ms = excluded.due_at_ms",
        [(birth.device_id, birth.above_seq, now_ms, now_ms + AFTER_BIRTH_MS) for birth in began],
    )
    return [birth.device_id for birth in began]


async def any_due(tx: Statements, *, now_ms: int) -> bool:
    return bool(await tx.fetch("SELECT 1 FROM announcement_digest WHERE due_at_ms <= $1 LIMIT 1", now_ms))


async def forget_who_missed_nothing(tx: Statements, *, now_ms: int) -> None:
    """Most boxes that come back have heard everything."""
    await tx.execute(
        "DELETE FROM announcement_digest WHERE due_at_ms <= $1 AND NOT EXISTS "
        f"(SELECT 1 FROM outbox_message m WHERE m.recipient_id = announcement_digest.device_id AND {_UNTOLD})",
        now_ms,
    )


_BOXES = """
SELECT d.id, d.key_version, d.last_seq, d.state, d.activated_at_ms, b.bound_at_ms, p.online, p.takes_digests, c.config
FROM device d
LEFT JOIN device_binding b ON b.device_id = d.id AND b.unbound_at_ms IS NULL
LEFT JOIN device_presence p ON p.device_id = d.id
LEFT JOIN device_config c ON c.device_id = d.id
WHERE d.id {among} ORDER BY d.id {lock}
"""


async def tell_some(tx: Statements, *, telling: Telling, now_ms: int) -> int:
    """Tell the next boxes what they missed. Returns how many were looked at: none, when none is due."""
    due = await tx.fetch(
        "SELECT device_id FROM announcement_digest WHERE due_at_ms <= $1 ORDER BY due_at_ms, device_id LIMIT $2",
        now_ms,
        MOST_BOXES,
    )
    ids = sorted(row["device_id"] for row in due)
    boxes = await tx.fetch(_BOXES.format(among=tx.among(1), lock=tx.lock("d")), ids)
    # Looked at again under the box's lock: it may have been born anew, or another worker was quicker.
    digests = await tx.fetch(
        "SELECT device_id, above_seq, born_at_ms FROM announcement_digest "
        f"WHERE device_id {tx.among(1)} AND due_at_ms <= $2 ORDER BY device_id {tx.lock('announcement_digest')}",
        ids,
        now_ms,
    )
    by_id = {row["id"]: row for row in boxes}
    for digest in digests:
        await _tell(tx, by_id[digest["device_id"]], digest, telling, now_ms)
    return len(digests)


async def _tell(tx: Statements, box: Row, digest: Row, telling: Telling, now_ms: int) -> None:
    missed = await _missed(tx, box, digest) if _takes_digests(box) else []
    unsettled = [row for row in missed if _settled_at_ms(row) > now_ms]
    if unsettled and digest["born_at_ms"] is not None and now_ms < (until := digest["born_at_ms"] + PATIENCE_MS):
        at_ms = min(until, max(_settled_at_ms(row) for row in unsettled))
        await tx.execute("UPDATE announcement_digest SET due_at_ms = $2 WHERE device_id = $1", box["id"], at_ms)
        return
    await tx.execute("DELETE FROM announcement_digest WHERE device_id = $1", box["id"])
    counted = _sum([row for row in missed if row not in unsettled], box["id"])
    if counted is not None:
        await _queue(tx, box, counted, telling, now_ms)


def _takes_digests(box: Row) -> bool:
    """A box that has gone again, or stands nowhere, is asked at its next birth."""
    configured = json.loads(box["config"] or "{}").get("digest", True)
    return bool(box["state"] == "bound" and box["online"] and box["takes_digests"] and configured)


async def _missed(tx: Statements, box: Row, digest: Row) -> list[Row]:
    """What was never heard since the box stands where it stands and has the key it has, oldest first. Money that was
    given back is no news, as it is none for a replay."""
    expired, above = _unheard_when_expired(digest)
    rows = await tx.fetch(
        f"SELECT m.id, m.kind, m.address, m.body, m.state, m.attempt, m.expires_at_ms FROM outbox_message m "
        "LEFT JOIN payment p ON p.id = m.subject_id "
        f"WHERE m.recipient_id = $1 AND {_UNTOLD} AND m.created_at_ms >= $2 "
        "AND (m.kind = 'payment_digest' OR p.state = 'paid') "
        f"AND (m.state = 'stale_skipped' OR m.reason = 'reported_late' OR {expired}) "
        f"ORDER BY m.id LIMIT $3 {tx.lock('m')}",
        box["id"],
        max(box["bound_at_ms"] or 0, box["activated_at_ms"] or 0),
        MOST_COUNTED,
        *above,
    )
    again = await _replayed(tx, box["id"], rows)
    return [row for row in rows if row["id"] not in again]


def _unheard_when_expired(digest: Row) -> tuple[str, Sequence[object]]:
    """What of the expired ones nobody can have heard, beside those that the box skipped by its own word and those that
    were never to be said."""
    if digest["born_at_ms"] is None:
        return "1 = 0", ()
    if digest["above_seq"] is None:
        return "m.attempt = 0", ()
    return "m.seq > $4", (digest["above_seq"],)


async def _replayed(tx: Statements, device_id: str, rows: Sequence[Row]) -> set[str]:
    """Those of these that were said by a replay, or still may be."""
    if not rows:
        return set()
    found = await tx.fetch(
        "SELECT original_id FROM outbox_message WHERE recipient_id = $1 AND id > $2 "
        f"AND original_id {tx.among(3)} AND state IN ('queued', 'published', 'received', 'played')",
        device_id,
        rows[0]["id"],
        [row["id"] for row in rows],
    )
    return {row["original_id"] for row in found}


def _settled_at_ms(row: Row) -> int:
    """From when on no copy of it can be spoken any more."""
    was_sent = row["attempt"] > 0 and row["state"] == "expired"
    return int(row["expires_at_ms"]) + outbox.SKEW_MS if was_sent else 0


@dataclass(frozen=True, kw_only=True)
class _Counted:
    ids: Sequence[str]
    count: int
    amount: int
    first: str
    last: str


def _sum(rows: Sequence[Row], device_id: str) -> _Counted | None:
    """As much of it as one sentence can say. An earlier digest that nobody heard counts for what it had counted."""
    ids: list[str] = []
    payments, amount, times = 0, 0, []
    for row in rows:
        said = _said(row, device_id)
        if said is None:
            continue
        if amount + said["amount"] > MAX_AMOUNT:
            break
        ids.append(row["id"])
        payments, amount = payments + said.get("count", 1), amount + said["amount"]
        times += [said[name] for name in ("paid_at", "from", "to") if name in said]
    return _Counted(ids=ids, count=payments, amount=amount, first=min(times), last=max(times)) if ids else None


def _said(row: Row, device_id: str) -> Mapping[str, Any] | None:
    """The message as it was to be said; None for one in another protocol's words."""
    channel = Downlink.PAYMENT_SUCCESS if row["kind"] == "payment_success" else Downlink.PAYMENT_DIGEST
    said: Mapping[str, Any] | None = (
        orjson.loads(row["body"]) if row["address"] == downlink(device_id, channel) else None
    )
    return said


async def _queue(tx: Statements, box: Row, counted: _Counted, telling: Telling, now_ms: int) -> None:
    event_id, topic, seq = new_id("ann"), downlink(box["id"], Downlink.PAYMENT_DIGEST), box["last_seq"] + 1
    said = {  # PaymentDigest, in its order
        "message_type": "payment_digest",
        "event_id": event_id,
        "seq": seq,
        "count": counted.count,
        "amount": counted.amount,
        "from": counted.first,
        "to": counted.last,
        "issued_at": to_rfc3339(now_ms),
        "expires_at": to_rfc3339(now_ms + telling.life_ms),
    }
    message = outbox.Message(
        id=event_id,
        kind="payment_digest",
        recipient_id=box["id"],
        address=topic,
        body=sign(telling.key_of(box["id"], box["key_version"]), topic, orjson.dumps(said)),
        created_at_ms=now_ms,
        expires_at_ms=now_ms + telling.life_ms,
        trace_id=new_id("trc"),
        seq=seq,
    )
    await tx.execute("UPDATE device SET last_seq = $2 WHERE id = $1", box["id"], seq)
    await tx.many(
        "UPDATE outbox_message SET state = 'digested', digest_id = $2 WHERE id = $1",
        [(one, event_id) for one in counted.ids],
        locked=True,
    )
    await outbox.queue(tx, [message], owner=telling.owner)
