"""A hub that was restored from a backup numbers on above what its boxes have taken in.

Otherwise a box takes new payments for ones that are older than its journal can remember, and rejects them unheard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.db import Row, Statements
from soundbox_server.uplinks import HIGHEST_BELIEVED

log = structlog.get_logger()

ALERT = "device.ahead_of_hub"


@dataclass(frozen=True, kw_only=True)
class Word:
    """The highest number that a box says at its birth it took in."""

    device_id: str
    session_epoch: int
    last_seq: int
    said_at_ms: int | None = None


_NUMBERED = """
SELECT d.id, d.last_seq, coalesce(p.session_epoch, 0) AS session_epoch, p.online, p.stray_epoch,
  p.stray_said_at_ms
FROM device d LEFT JOIN device_presence p ON p.device_id = d.id WHERE d.id {among} ORDER BY d.id {lock}
"""


async def go_on_above(tx: Statements, words: Sequence[Word], *, now_ms: int) -> None:
    """Boxes whose births begin a session and that are ahead of us get their next number above theirs, and somebody is
    told. One that says more than can be is left as it is."""
    latest = {word.device_id: word for word in words}
    known = await tx.fetch(_NUMBERED.format(among=tx.among(1), lock=""), sorted(latest))
    ahead = [row["id"] for row in known if _is_ahead(row, latest[row["id"]])]
    if not ahead:
        return
    # Looked at again under the box's lock: an activation begins its numbers anew.
    for row in await tx.fetch(_NUMBERED.format(among=tx.among(1), lock=tx.lock("d")), ahead):
        if _is_ahead(row, latest[row["id"]]):
            await _follow(tx, row, latest[row["id"]], now_ms)


def _is_ahead(row: Row, word: Word) -> bool:
    """A broker repeats the last birth of every box to whoever subscribes anew; that one says nothing new."""
    if (word.session_epoch, word.said_at_ms) == (row["stray_epoch"], row["stray_said_at_ms"]):
        return False  # of its life before it was activated anew
    begins = word.session_epoch > row["session_epoch"] or (
        word.session_epoch == row["session_epoch"] and not row["online"]
    )
    return begins and word.last_seq > row["last_seq"]


async def _follow(tx: Statements, row: Row, word: Word, now_ms: int) -> None:
    believed = word.last_seq <= HIGHEST_BELIEVED
    if believed:
        await tx.execute(
            "UPDATE device SET last_seq = $2 WHERE id = $1 AND last_seq < $2", word.device_id, word.last_seq
        )
    facts = {"last_seq": row["last_seq"], "reported_seq": word.last_seq, "believed": believed}
    await raise_alert(tx, ALERT, ("device", word.device_id), severity=Severity.WARNING, facts=facts, now_ms=now_ms)
    tx.after_commit.append(partial(log.warning, "announcement.box_is_ahead", device_id=word.device_id, **facts))
