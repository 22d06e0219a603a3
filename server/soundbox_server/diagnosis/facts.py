"""What is known of a box and of a payment's way to it, gathered for `verdict.diagnose`."""

from typing import Any

from soundbox_protocol.messages import Heartbeat, MalformedMessage, decode
from soundbox_server.db import Row, Statements
from soundbox_server.devices.presence import reach
from soundbox_server.diagnosis.silence import ALERT
from soundbox_server.diagnosis.state import Seen
from soundbox_server.diagnosis.verdict import AnnouncementFacts, BoxFacts, Facts, PaymentFacts, ThenFacts
from soundbox_server.errors import NotFound, TransactionNotFound
from soundbox_server.ids import lowest_id
from soundbox_server.outbox.state import Delivery

LATELY_MS = 3_600_000
BOOKED_MS = 600_000  # an id and its time are made moments apart
AFTER_MS = 30_000  # complaints come a little later than what they are about

_BOX = """
SELECT d.id, d.state, b.terminal_id, p.device_id AS known, p.online, p.offline_reason, p.quarantine, p.changed_at_ms,
       p.heartbeat_at_ms, p.heartbeat_s, p.session_at_ms, p.volume, p.state AS speaker, p.battery_level,
       p.verifies_signatures,
       (SELECT count(*) FROM alert a WHERE a.kind = '{alert}' AND a.subject_kind = 'device' AND a.subject_id = d.id
        AND a.state <> 'resolved') AS silent,
       (SELECT max(m.played_at_ms) FROM outbox_message m WHERE m.recipient_id = d.id AND m.id >= $2
        AND m.kind = 'payment_success') AS heard_at_ms,
       (SELECT max(m.received_at_ms) FROM outbox_message m WHERE m.recipient_id = d.id AND m.id >= $2
        AND m.kind IN ('payment_success', 'payment_digest')) AS took_in_at_ms,
       (SELECT c.acked_at_ms FROM device_config c WHERE c.device_id = d.id AND c.acked_status = 'applied')
         AS configured_at_ms
FROM device d LEFT JOIN device_binding b ON b.device_id = d.id AND b.unbound_at_ms IS NULL
LEFT JOIN device_presence p ON p.device_id = d.id
WHERE d.id = $1
"""


async def of_box(tx: Statements, device_id: str, *, now_ms: int) -> Facts:
    """The box as it is now. Raises NotFound."""
    return Facts(now_ms=now_ms, box=await _box(tx, device_id, now_ms))


async def of_payment(tx: Statements, device_id: str, payment_id: str, *, now_ms: int) -> Facts:
    """A payment's way to this box. Raises NotFound and TransactionNotFound."""
    box = await _box(tx, device_id, now_ms)
    rows = await tx.fetch(
        "SELECT id, terminal_id, state, amount, review_reason, late, paid_at_ms, captured_at_ms, created_at_ms "
        "FROM payment WHERE id = $1",
        payment_id,
    )
    if not rows:
        raise TransactionNotFound("No such transaction.", transaction_id=payment_id)
    payment, at_ms = rows[0], rows[0]["captured_at_ms"] or rows[0]["created_at_ms"]
    others = await tx.fetch(
        "SELECT recipient_id, reason FROM outbox_message WHERE subject_id = $1 AND kind = 'payment_success' "
        "AND original_id IS NULL AND recipient_id <> $2",
        payment_id,
        device_id,
    )
    announcement = await _announcement(tx, device_id, payment_id, at_ms)
    begin_ms = announcement.created_at_ms if announcement else at_ms
    ends = (announcement.finished_at_ms or announcement.expires_at_ms) if announcement else None
    return Facts(
        now_ms=now_ms,
        box=box,
        payment=PaymentFacts(
            id=payment["id"], state=payment["state"], amount=payment["amount"],
            review_reason=payment["review_reason"], late=bool(payment["late"]), paid_at_ms=payment["paid_at_ms"],
            captured_at_ms=payment["captured_at_ms"],
            told_elsewhere=sum(row["reason"] != "no_device" for row in others),
            told_nobody=any(row["reason"] == "no_device" for row in others),
        ),
        then=await _then(tx, device_id, payment["terminal_id"], begin_ms, min(ends or now_ms, now_ms)),
        announcement=announcement,
    )  # fmt: skip


async def _box(tx: Statements, device_id: str, now_ms: int) -> BoxFacts:
    lately = lowest_id("ann", now_ms - 24 * LATELY_MS)
    rows = await tx.fetch(_BOX.format(alert=ALERT), device_id, lately)
    if not rows:
        raise NotFound("No such device.", device_id=device_id)
    row = rows[0]
    beat = await _heartbeat(tx, device_id, until_ms=now_ms)
    # What it believed since shows that it has the right key: a broker may first have handed it something older.
    believed_at_ms = max(row["took_in_at_ms"] or 0, row["configured_at_ms"] or 0)
    complaints = await _events(tx, device_id, max(now_ms - LATELY_MS, believed_at_ms), now_ms)
    return BoxFacts(
        id=device_id,
        state=row["state"],
        bound=row["terminal_id"] is not None,
        reach=None if row["known"] is None else reach(
            online=bool(row["online"]), session_at_ms=row["session_at_ms"], heartbeat_at_ms=row["heartbeat_at_ms"],
            every_s=row["heartbeat_s"], now_ms=now_ms,
        ),
        offline_reason=row["offline_reason"],
        quarantine=row["quarantine"],
        changed_at_ms=row["changed_at_ms"],
        heartbeat_at_ms=row["heartbeat_at_ms"],
        heard_at_ms=row["heard_at_ms"],
        volume=row["volume"],
        speaker_fault=row["speaker"] == "fault",
        clock_skew_ms=beat.clock_skew_ms if beat else None,
        battery_level=row["battery_level"],
        verifies_signatures=row["known"] is None or bool(row["verifies_signatures"]),
        silent_speaker=row["silent"] > 0,
        refused_signatures="bad_signature" in complaints,
    )  # fmt: skip


async def _announcement(tx: Statements, device_id: str, payment_id: str, at_ms: int) -> AnnouncementFacts | None:
    """The newest, so a replay counts for what it repeats."""
    rows = await tx.fetch(
        "SELECT id, state, reason, attempt, created_at_ms, published_at_ms, received_at_ms, played_at_ms, "
        "finished_at_ms, expires_at_ms, unconfirmed FROM outbox_message WHERE recipient_id = $1 AND subject_id = $2 "
        "AND id >= $3 AND kind = 'payment_success' ORDER BY id DESC LIMIT 1",
        device_id,
        payment_id,
        lowest_id("ann", at_ms - BOOKED_MS),
    )
    if not rows:
        return None
    row = rows[0]
    times = ("created_at_ms", "published_at_ms", "received_at_ms", "played_at_ms", "finished_at_ms", "expires_at_ms")
    known: dict[str, Any] = {name: row[name] for name in ("id", "state", "reason", *times)}
    if row["unconfirmed"] and row["state"] == Delivery.PUBLISHED:  # handed over, and nobody will say more
        known["state"] = Delivery.SENT.value
    return AnnouncementFacts(**known, attempts=row["attempt"], broker_took=await _broker_took(tx, device_id, row["id"]))


async def _broker_took(tx: Statements, device_id: str, message_id: str) -> bool | None:
    rows = await tx.fetch(
        "SELECT outcome FROM mqtt_message WHERE device_id = $1 AND message_id = $2", device_id, message_id
    )
    return any(row["outcome"] == Seen.SENT for row in rows) if rows else None


async def _then(tx: Statements, device_id: str, terminal_id: str, begin_ms: int, end_ms: int) -> ThenFacts:
    stood = await tx.fetch(
        "SELECT terminal_id FROM device_binding WHERE device_id = $1 AND bound_at_ms <= $2 "
        "AND (unbound_at_ms IS NULL OR unbound_at_ms > $2)",
        device_id,
        begin_ms,
    )
    online = await tx.fetch(
        "SELECT began_at_ms, ended_at_ms, end_reason FROM device_online WHERE device_id = $1 AND began_at_ms <= $2 "
        "ORDER BY began_at_ms DESC LIMIT 1",
        device_id,
        end_ms,
    )
    was_online = bool(online) and (online[0]["ended_at_ms"] is None or online[0]["ended_at_ms"] > begin_ms)
    beat = await _heartbeat(tx, device_id, until_ms=end_ms)
    return ThenFacts(
        stood_at_terminal=any(row["terminal_id"] == terminal_id for row in stood),
        stood_elsewhere=any(row["terminal_id"] != terminal_id for row in stood),
        online=was_online,
        quarantined=not was_online and bool(online) and online[0]["end_reason"] == "quarantine",
        volume=beat.volume if beat else None,
        clock_skew_ms=beat.clock_skew_ms if beat else None,
        events=frozenset(await _events(tx, device_id, begin_ms, end_ms + AFTER_MS)),
    )


async def _heartbeat(tx: Statements, device_id: str, *, until_ms: int) -> Heartbeat | None:
    """What the box last said of itself by then, if that was within the hour."""
    rows: list[Row] = list(
        await tx.fetch(
            "SELECT payload FROM device_heartbeat WHERE device_id = $1 AND id >= $2 AND id < $3 "
            "AND received_at_ms BETWEEN $4 AND $5 ORDER BY id DESC LIMIT 1",
            device_id, lowest_id("hbt", until_ms - LATELY_MS - BOOKED_MS), lowest_id("hbt", until_ms + BOOKED_MS),
            until_ms - LATELY_MS, until_ms,
        )
    )  # fmt: skip
    if not rows:
        return None
    try:
        return decode(Heartbeat, rows[0]["payload"], message_type_optional=True)
    except MalformedMessage:  # stored word for word, whatever it was
        return None


async def _events(tx: Statements, device_id: str, from_ms: int, to_ms: int) -> list[str]:
    rows = await tx.fetch(
        "SELECT DISTINCT code FROM device_event WHERE device_id = $1 AND id >= $2 AND id < $3 "
        "AND received_at_ms BETWEEN $4 AND $5",
        device_id, lowest_id("dve", from_ms - BOOKED_MS), lowest_id("dve", to_ms + BOOKED_MS), from_ms, to_ms,
    )  # fmt: skip
    return [row["code"] for row in rows]
