"""A box asks for announcements that it has not got: those that still live are sent again, the others will not come."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from soundbox_protocol.messages import PaymentSkip, encode
from soundbox_protocol.signing import sign
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.announcements.service import Telling
from soundbox_server.db import Row, Statements
from soundbox_server.ids import lowest_id, new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import WAITING, Delivery

WINDOW = 32  # what a box's journal holds: it takes in nothing older
MOST_TOGETHER = 4  # of one box's questions that come together
SLACK_MS = 120_000  # between the clocks of two machines of ours
_WAITING = ", ".join(f"'{state}'" for state in WAITING)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Numbers that did not come, both ends included."""

    device_id: str
    from_seq: int
    to_seq: int


async def answer(tx: Statements, asked: Sequence[Gap], *, telling: Telling, now_ms: int) -> None:
    """An answer to each gap: what lives is due, the rest is skipped. However wide the question, it costs one look and a
    message for each hole among its last 32 numbers. Of more gaps than a few the highest are answered: a box waits no
    longer than its two seconds for the others."""
    gaps: defaultdict[str, list[Gap]] = defaultdict(list)
    for gap in asked:
        gaps[gap.device_id].append(gap)
    boxes = await tx.fetch(f"SELECT id, key_version, last_seq FROM device WHERE id {tx.among(1)}", sorted(gaps))
    alive = await _alive(tx, sorted(gaps), telling.life_ms, now_ms)
    skips: list[outbox.Message] = []
    for box in boxes:
        living = [row for row in alive if row["recipient_id"] == box["id"]]
        for gap in _apart(gaps[box["id"]])[-MOST_TOGETHER:]:
            skips += await _answer_one(tx, box, gap, living, telling, now_ms)
    await outbox.queue(tx, skips, owner=telling.owner)


def _apart(gaps: Iterable[Gap]) -> list[Gap]:
    """In the order of their numbers; those that overlap are one."""
    apart: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: gap.from_seq):
        if apart and gap.from_seq <= apart[-1].to_seq:
            apart[-1] = replace(apart[-1], to_seq=max(apart[-1].to_seq, gap.to_seq))
        else:
            apart.append(gap)
    return apart


async def _answer_one(
    tx: Statements, box: Row, gap: Gap, alive: Sequence[Row], telling: Telling, now_ms: int
) -> list[outbox.Message]:
    """What lives of it is due; returns what is said of the rest."""
    to_seq = min(gap.to_seq, box["last_seq"])  # of what was never numbered nothing is said
    first = max(gap.from_seq, to_seq - WINDOW + 1)
    coming = {row["seq"]: row["id"] for row in alive if first <= row["seq"] <= to_seq}
    await tx.many("UPDATE outbox_message SET due_at_ms = $2 WHERE id = $1", [(i, now_ms) for i in coming.values()])
    return [_skip(box, *hole, telling, now_ms) for hole in _holes(gap.from_seq, to_seq, sorted(coming))]


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
