"""A box asks for announcements that it has not got: those that still live are sent again, the others will not come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soundbox_protocol.messages import PaymentSkip, encode
from soundbox_protocol.signing import sign
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.announcements.service import Telling
from soundbox_server.db import Row, Statements
from soundbox_server.ids import lowest_id, new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import WAITING, Delivery

WINDOW = 32  # what a box's journal holds: it takes in nothing older
SLACK_MS = 120_000  # between the clocks of two machines of ours
_WAITING = ", ".join(f"'{state}'" for state in WAITING)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Numbers that did not come, both ends included."""

    device_id: str
    from_seq: int
    to_seq: int


async def answer(tx: Statements, asked: Sequence[Gap], *, telling: Telling, now_ms: int) -> None:
    """One answer for each box, to the last of its questions: what lives is due, the rest is skipped. However wide the
    question, it costs one look and a message for each hole among the last 32 numbers."""
    gaps = {gap.device_id: gap for gap in asked}
    boxes = await tx.fetch(f"SELECT id, key_version, last_seq FROM device WHERE id {tx.among(1)}", sorted(gaps))
    alive = await _alive(tx, sorted(gaps), telling.life_ms, now_ms)
    skips: list[outbox.Message] = []
    for box in boxes:
        gap = gaps[box["id"]]
        to_seq = min(gap.to_seq, box["last_seq"])  # of what was never numbered nothing is said
        coming = {
            row["seq"]: row["id"]
            for row in alive
            if row["recipient_id"] == box["id"] and max(gap.from_seq, to_seq - WINDOW + 1) <= row["seq"] <= to_seq
        }
        await tx.many("UPDATE outbox_message SET due_at_ms = $2 WHERE id = $1", [(i, now_ms) for i in coming.values()])
        skips += [_skip(box, *hole, telling, now_ms) for hole in _holes(gap.from_seq, to_seq, sorted(coming))]
    await outbox.queue(tx, skips, owner=telling.owner)


async def _alive(tx: Statements, device_ids: Sequence[str], life_ms: int, now_ms: int) -> Sequence[Row]:
    """Announcements on their way to these boxes, by id. Their ids tell how old they are, so the boxes' past is not
    read."""
    return await tx.fetch(
        f"SELECT id, recipient_id, seq FROM outbox_message WHERE recipient_id {tx.among(1)} AND id >= $2 "
        f"AND state IN ({_WAITING}) AND seq IS NOT NULL AND expires_at_ms > $3 ORDER BY id {tx.lock('outbox_message')}",
        device_ids,
        lowest_id("ann", now_ms - life_ms - SLACK_MS),
        now_ms,
    )


def _holes(first: int, last: int, coming: Sequence[int]) -> Iterator[tuple[int, int]]:
    """What of first … last is not coming, as ranges."""
    for seq in coming:
        if first < seq:
            yield first, seq - 1
        first = seq + 1
    if first <= last:
        yield first, last


def _skip(box: Row, from_seq: int, to_seq: int, telling: Telling, now_ms: int) -> outbox.Message:
    topic = downlink(box["id"], Downlink.PAYMENT_SKIP)
    body = encode(PaymentSkip(from_seq=from_seq, to_seq=to_seq))
    return outbox.Message(
        id=new_id("skp"),
        kind="payment_skip",
        recipient_id=box["id"],
        address=topic,
        body=sign(telling.key_of(box["id"], box["key_version"]), topic, body),
        created_at_ms=now_ms,
        expires_at_ms=None,
        trace_id=new_id("trc"),
        state=Delivery.SENT,
    )
