"""Whether boxes can be reached: births and last wills, boxes that fall silent, and names that more than one box uses.

The broker's word (a birth, a will) opens and closes a box's time online; three missed heartbeats close it too, because
a will may be lost with its broker. Whatever decides is looked at under the lock of the box's row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Literal

import structlog

from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.db import Row, Statements
from soundbox_server.devices.news import Change, tell_changes
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox

log = structlog.get_logger()

STALE_AFTER, SILENT_AFTER = 2, 3  # heartbeats that did not come
GRACE_MS = 5_000
HEARTBEAT_S = 60  # expected of a box that nobody told otherwise
WINDOW_MS = 600_000
CLONED_AT = 2  # births in the window that cannot be this box's
FLAPPING_AT = 20  # births in the window: a session lasts less than half a minute, so hardly anything reaches it
CALM_MS = 300_000
Quarantine = Literal["cloned", "flapping"]
_ALERTS: dict[Quarantine, tuple[str, Severity]] = {
    "cloned": ("device.cloned", Severity.CRITICAL),
    "flapping": ("device.flapping", Severity.WARNING),
}


class Reach(StrEnum):
    CONNECTING = "connecting"  # born, and not one heartbeat yet
    ONLINE = "online"
    STALE = "stale"  # two heartbeats are missing
    OFFLINE = "offline"


class Clock(StrEnum):
    """Where a box has the time from. Without it it cannot tell what is too late, and says nothing."""

    OWN = "own"
    HUB = "hub"  # it has asked
    NONE = "none"  # and has not asked yet


@dataclass(frozen=True, kw_only=True)
class Session:
    """A birth or a last will. The epoch grows with each birth, so an old will cannot end a new session. `said_at_ms`
    is the box's own time: what the broker kept and says again still has the old one."""

    device_id: str
    online: bool
    epoch: int
    at_ms: int
    said_at_ms: int | None = None
    firmware_version: str | None = None
    max_payload_bytes: int = 512
    verifies_signatures: bool = True
    command_progress: bool = False
    has_clock: bool = True
    takes_digests: bool = True
    has_display: bool = True


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known of a box's sessions, and what a birth or will makes of it."""

    online: bool
    silent: bool  # not online, and nobody has said that it went
    epoch: int
    said_at_ms: int | None
    window_began_ms: int
    births: int
    strays: int
    stray: tuple[int | None, int | None]  # the epoch and time of the last one
    quarantine: Quarantine | None

    @classmethod
    def of(cls, row: Row) -> "Standing":
        return cls(
            online=bool(row["online"]),
            silent=not row["online"] and row["offline_reason"] == "silent",
            epoch=row["session_epoch"],
            said_at_ms=row["said_at_ms"],
            window_began_ms=row["window_began_ms"],
            births=row["births"],
            strays=row["strays"],
            stray=(row["stray_epoch"], row["stray_said_at_ms"]),
            quarantine=row["quarantine"],
        )

    @property
    def counted(self) -> tuple[object, ...]:
        return self.window_began_ms, self.births, self.strays, *self.stray, self.quarantine

    def is_ended_by(self, will: Session) -> bool:
        """A will that belongs to an earlier birth says nothing of this one."""
        return self.online and will.epoch == self.epoch

    def takes(self, birth: Session) -> bool:
        """A birth begins a session when it is newer than the last one, or when that one has ended. One that fell silent
        is not back because the broker says its last birth again, nor is one that was activated anew because it says
        one of the life before."""
        if birth.said_at_ms is not None and _told_by(birth) == self.stray:
            return False
        if birth.epoch != self.epoch:
            return birth.epoch > self.epoch
        return not self.online and not (self.silent and birth.said_at_ms == self.said_at_ms)

    def is_stray(self, birth: Session) -> bool:
        """Made after the last birth and yet not counted on from it: another box has this one's name and journal. The
        broker's copy of one, said again to a worker that starts, is the same one."""
        if birth.said_at_ms is None or self.said_at_ms is None or not self.epoch or _told_by(birth) == self.stray:
            return False
        return birth.epoch <= self.epoch and birth.said_at_ms > self.said_at_ms

    def after(self, birth: Session) -> "Standing":
        """Counted, and in quarantine when there are too many. A whole window in which there were not is its end for one
        that flapped: no other box is asked for more."""
        fresh = birth.at_ms - self.window_began_ms > WINDOW_MS
        births, strays = (0, 0) if fresh else (self.births, self.strays)
        taken, stray = self.takes(birth), self.is_stray(birth)
        births, strays = births + taken, strays + stray
        quarantine: Quarantine | None = self.quarantine
        if fresh and quarantine == "flapping" and self.births < FLAPPING_AT:
            quarantine = None
        if strays >= CLONED_AT:
            quarantine = "cloned"
        elif births >= FLAPPING_AT and quarantine is None:
            quarantine = "flapping"
        return replace(
            self,
            online=(taken or self.online) and quarantine is None,
            silent=self.silent and not taken,
            epoch=birth.epoch if taken else self.epoch,
            said_at_ms=birth.said_at_ms if taken and birth.said_at_ms is not None else self.said_at_ms,
            window_began_ms=birth.at_ms if fresh else self.window_began_ms,
            births=births,
            strays=strays,
            stray=_told_by(birth) if stray else self.stray,
            quarantine=quarantine,
        )


def _told_by(birth: Session) -> tuple[int, int | None]:
    """What tells one birth from another, however often it is heard."""
    return birth.epoch, birth.said_at_ms


_KNOWN = """
INSERT INTO device_presence (device_id, online, session_epoch, last_seen_at_ms, changed_at_ms, max_payload_bytes,
                             verifies_signatures)
VALUES ($1, $2, 0, $3, $3, 512, $4) ON CONFLICT (device_id) DO NOTHING
"""
_LOOK = """
SELECT device_id, online, offline_reason, session_epoch, said_at_ms, window_began_ms, births, strays, stray_epoch,
  stray_said_at_ms, quarantine
FROM device_presence WHERE device_id {among} ORDER BY device_id {lock}
"""


async def take_sessions(tx: Statements, sessions: Sequence[Session]) -> list[str]:
    """Births and wills, each box's in the order they came. Returns whose session began."""
    ids = sorted({session.device_id for session in sessions})
    seen = {session.device_id: session.at_ms for session in sessions if session.online}
    await tx.many(_KNOWN, [(one, False, seen[one], True) for one in ids if one in seen])
    rows = await tx.fetch(_LOOK.format(among=tx.among(1), lock=tx.lock("device_presence")), ids)
    standing = {row["device_id"]: Standing.of(row) for row in rows}
    began: list[str] = []
    changes: list[Change] = []
    for session in sorted(sessions, key=lambda session: session.device_id):  # stable: each box's own order stays
        before = standing.get(session.device_id)
        if before is None:
            continue
        if session.online:
            standing[session.device_id] = after = before.after(session)
            await _record_birth(tx, session, before, after)
            began += [session.device_id] if before.takes(session) and after.online else []
            if after.online != before.online:
                why = None if after.online else "quarantine"
                changes.append(
                    Change(device_id=session.device_id, online=after.online, at_ms=session.at_ms, reason=why)
                )
        elif before.is_ended_by(session):
            standing[session.device_id] = replace(before, online=False)
            await go_offline(tx, [session.device_id], reason="will", at_ms=session.at_ms)
            changes.append(Change(device_id=session.device_id, online=False, at_ms=session.at_ms, reason="will"))
        elif before.epoch == session.epoch:
            standing[session.device_id] = replace(before, silent=False)
            await _confirm_silence(tx, session.device_id)
    await tell_changes(tx, changes)
    return began


async def _confirm_silence(tx: Statements, device_id: str) -> None:
    """It fell silent, and now the broker says so too: a heartbeat that was delayed brings it back no more."""
    await tx.execute(
        "UPDATE device_presence SET offline_reason = 'will' WHERE device_id = $1 AND offline_reason = 'silent'",
        device_id,
    )


_COUNTED = """
UPDATE device_presence SET window_began_ms = $2, births = $3, strays = $4, stray_epoch = $5, stray_said_at_ms = $6,
  quarantine = $7
WHERE device_id = $1
"""
_BORN = """
UPDATE device_presence SET online = $2, session_epoch = $3, last_seen_at_ms = $4, session_at_ms = $4,
  changed_at_ms = CASE WHEN online = $2 THEN changed_at_ms ELSE $4 END,
  said_at_ms = $5, firmware_version = coalesce($6, firmware_version), max_payload_bytes = $7, verifies_signatures = $8,
  command_progress = $9, has_clock = $10, takes_digests = $11, has_display = $12,
  offline_reason = CASE WHEN $2 THEN NULL ELSE 'quarantine' END
WHERE device_id = $1
"""


async def _record_birth(tx: Statements, birth: Session, before: Standing, after: Standing) -> None:
    caught = after.quarantine if after.quarantine != before.quarantine else None
    if caught is not None:
        await _say_quarantined(tx, birth, after, caught)
    elif before.quarantine != after.quarantine:
        await release(tx, birth.device_id, now_ms=birth.at_ms)
        tx.after_commit.append(partial(log.info, "device.calm_again", device_id=birth.device_id))
    if after.counted != before.counted:
        await tx.execute(_COUNTED, birth.device_id, *after.counted)
    if before.takes(birth):
        await _end_interval(tx, birth.device_id, reason="replaced", at_ms=birth.at_ms)
        await tx.execute(
            _BORN, birth.device_id, after.online, birth.epoch, birth.at_ms, after.said_at_ms, birth.firmware_version,
            birth.max_payload_bytes, birth.verifies_signatures, birth.command_progress, birth.has_clock,
            birth.takes_digests, birth.has_display,
        )  # fmt: skip
        if after.online:
            await _begin_interval(tx, birth.device_id, at_ms=birth.at_ms)


async def _say_quarantined(tx: Statements, birth: Session, after: Standing, why: Quarantine) -> None:
    """Nothing is sent to a box in quarantine: of two with one name nobody knows which one would hear it, and what is
    sent to one that never stays is sent in vain, each time again."""
    await go_offline(tx, [birth.device_id], reason="quarantine", at_ms=birth.at_ms)
    kind, severity = _ALERTS[why]
    facts = {"births": after.births, "strays": after.strays, "session_epoch": birth.epoch}
    await raise_alert(tx, kind, ("device", birth.device_id), severity=severity, facts=facts, now_ms=birth.at_ms)
    tx.after_commit.append(partial(log.warning, "device.quarantined", device_id=birth.device_id, why=why, **facts))


async def go_offline(tx: Statements, device_ids: Sequence[str], *, reason: str, at_ms: int) -> None:
    """Their sessions end: reason `will`, `silent`, `quarantine`, `out_of_service` or `activated_again`."""
    for device_id in device_ids:
        await tx.execute(
            "UPDATE device_presence SET online = $2, changed_at_ms = $3, offline_reason = $4 "
            "WHERE device_id = $1 AND online",
            device_id, False, at_ms, reason,
        )  # fmt: skip
        await _end_interval(tx, device_id, reason=reason, at_ms=at_ms)


async def return_to_service(tx: Statements, device_id: str) -> None:
    """Its next heartbeat brings it online: a box that was resumed before the broker dropped it is connected still, and
    sends no birth."""
    await tx.execute(
        "UPDATE device_presence SET offline_reason = 'silent' WHERE device_id = $1 AND NOT online "
        "AND offline_reason = 'out_of_service'",
        device_id,
    )


async def begin_anew(tx: Statements, device_id: str, *, at_ms: int) -> None:
    """Another activation: epochs begin anew, and whoever had the old credentials is out."""
    await go_offline(tx, [device_id], reason="activated_again", at_ms=at_ms)
    await tx.execute(
        "UPDATE device_presence SET session_epoch = 0, said_at_ms = NULL, births = 0, strays = 0, "
        "stray_epoch = CASE WHEN session_epoch > 0 THEN session_epoch ELSE stray_epoch END, "
        "stray_said_at_ms = CASE WHEN session_epoch > 0 THEN said_at_ms ELSE stray_said_at_ms END, "
        "quarantine = NULL WHERE device_id = $1",
        device_id,
    )
    for kind, _ in _ALERTS.values():
        await clear(tx, kind, ("device", device_id), now_ms=at_ms)


async def _begin_interval(tx: Statements, device_id: str, *, at_ms: int) -> None:
    await tx.execute(
        "INSERT INTO device_online (id, device_id, began_at_ms) VALUES ($1, $2, $3)", new_id("onl"), device_id, at_ms
    )


async def _end_interval(tx: Statements, device_id: str, *, reason: str, at_ms: int) -> None:
    await tx.execute(
        "UPDATE device_online SET ended_at_ms = CASE WHEN began_at_ms > $2 THEN began_at_ms ELSE $2 END, "
        "end_reason = $3 WHERE device_id = $1 AND ended_at_ms IS NULL",
        device_id, at_ms, reason,
    )  # fmt: skip


# --- heartbeats ---------------------------------------------------------------------------------------------------


async def heard_of(tx: Statements, device_ids: Sequence[str], *, at_ms: int) -> None:
    """Heartbeats came, by whichever door: a box that only fell silent is back, and what waits for it goes out with the
    next sweep, for no birth will come. One whose will has been heard is not: its heartbeat is older than its will, or
    came over HTTP while its MQTT is away."""
    silent = await tx.fetch(
        f"SELECT device_id FROM device_presence WHERE device_id {tx.among(1)} AND NOT online "
        f"AND offline_reason = 'silent' AND quarantine IS NULL ORDER BY device_id {tx.lock('device_presence')}",
        sorted(set(device_ids)),
    )
    for row in silent:
        await tx.execute(
            "UPDATE device_presence SET online = $2, changed_at_ms = $3, offline_reason = NULL WHERE device_id = $1",
            row["device_id"], True, at_ms,
        )  # fmt: skip
        await _begin_interval(tx, row["device_id"], at_ms=at_ms)
    if silent:
        await outbox.make_due(tx, recipients=[row["device_id"] for row in silent], now_ms=at_ms)
        await tell_changes(tx, [Change(device_id=row["device_id"], online=True, at_ms=at_ms) for row in silent])


async def who_began(tx: Statements, births: Mapping[str, int], *, at_ms: int) -> set[str]:
    """Whose births, heard at this moment, began a session: box → epoch. A broker repeats the last birth of every box to
    whoever subscribes anew, and a box in quarantine has no session."""
    rows = await tx.fetch(
        f"SELECT device_id, session_epoch FROM device_presence WHERE device_id {tx.among(1)} AND online "
        "AND session_at_ms = $2 ORDER BY device_id",
        sorted(births),
        at_ms,
    )
    return {row["device_id"] for row in rows if row["session_epoch"] == births[row["device_id"]]}


async def note_time_asked(tx: Statements, device_ids: Sequence[str], *, at_ms: int) -> None:
    """These boxes asked what time it is, and are answered."""
    rows = [(device_id, at_ms) for device_id in sorted(set(device_ids))]
    await tx.many("UPDATE device_presence SET time_asked_at_ms = $2 WHERE device_id = $1", rows)


async def come_alive(tx: Statements, device_ids: Sequence[str], *, at_ms: int) -> list[str]:
    """Heartbeats of boxes that never tell their births: whoever was offline is online, unless it is in quarantine, and
    what waits for it goes out with the next sweep. Returns who they were."""
    away = await tx.fetch(
        f"SELECT device_id FROM device_presence WHERE device_id {tx.among(1)} AND NOT online AND quarantine IS NULL "
        f"ORDER BY device_id {tx.lock('device_presence')}",
        sorted(set(device_ids)),
    )
    came = [row["device_id"] for row in away]
    for device_id in came:
        await tx.execute(
            "UPDATE device_presence SET online = $2, session_at_ms = $3, changed_at_ms = $3, offline_reason = NULL "
            "WHERE device_id = $1",
            device_id, True, at_ms,
        )  # fmt: skip
        await _begin_interval(tx, device_id, at_ms=at_ms)
    if came:
        await outbox.make_due(tx, recipients=came, now_ms=at_ms)
        await tell_changes(tx, [Change(device_id=device_id, online=True, at_ms=at_ms) for device_id in came])
    return came


async def expect_heartbeats(tx: Statements, device_id: str, every_s: int | None, *, now_ms: int) -> None:
    """How often this box says that it sends one from now on; None: as all others. Its word is a sign of life, too, so
    that those missing are counted from it and not from a heartbeat of the interval before."""
    await tx.execute(
        "UPDATE device_presence SET heartbeat_s = $2, last_seen_at_ms = $4 "
        "WHERE device_id = $1 AND coalesce(heartbeat_s, 0) <> $3",
        device_id, every_s, every_s or 0, now_ms,
    )  # fmt: skip


_PATIENCE = f"coalesce(heartbeat_s, {HEARTBEAT_S}) * {SILENT_AFTER * 1000} + {GRACE_MS}"
_LAST_SIGN = "CASE WHEN last_seen_at_ms > $2 THEN last_seen_at_ms ELSE $2 END"
_SILENT = f"online AND {_LAST_SIGN} + {_PATIENCE} <= $1"


async def silent(tx: Statements, *, now_ms: int, listening_since_ms: int = 0, limit: int = 500) -> list[str]:
    """Boxes of which three heartbeats are missing. What they said while nobody listened is nowhere, so only those are
    missing that could have been heard."""
    rows = await tx.fetch(
        f"SELECT device_id FROM device_presence WHERE {_SILENT} ORDER BY device_id LIMIT $3",
        now_ms,
        listening_since_ms,
        limit,
    )
    return [row["device_id"] for row in rows]


async def end_silent(
    tx: Statements, device_ids: Sequence[str], *, now_ms: int, listening_since_ms: int = 0
) -> list[str]:
    """Those of these of which three heartbeats are missing are offline, whatever the broker believes. Looked at again
    under their locks: a heartbeat may have come. Returns who they were."""
    rows = await tx.fetch(
        f"SELECT device_id FROM device_presence WHERE {_SILENT} AND device_id {tx.among(3)} ORDER BY device_id "
        + tx.lock("device_presence", skip=True),
        now_ms,
        listening_since_ms,
        sorted(device_ids),
    )
    ended = [row["device_id"] for row in rows]
    await go_offline(tx, ended, reason="silent", at_ms=now_ms)
    await tell_changes(tx, [Change(device_id=one, online=False, at_ms=now_ms, reason="silent") for one in ended])
    return ended


async def release(tx: Statements, device_id: str, *, now_ms: int) -> Quarantine | None:
    """Out of quarantine; the next heartbeat or birth brings it online. None when it was in none."""
    rows = await tx.fetch(
        "SELECT quarantine FROM device_presence WHERE device_id = $1 " + tx.lock("device_presence"), device_id
    )
    why: Quarantine | None = rows[0]["quarantine"] if rows else None
    if why is None:
        return None
    await tx.execute(
        "UPDATE device_presence SET quarantine = NULL, births = 0, strays = 0, window_began_ms = $2, "
        "offline_reason = 'silent' WHERE device_id = $1",
        device_id,
        now_ms,
    )
    await clear(tx, _ALERTS[why][0], ("device", device_id), now_ms=now_ms)
    return why


_CALM = "SELECT device_id FROM device_presence WHERE quarantine = 'flapping' AND session_at_ms <= $1 "


async def any_calm(tx: Statements, *, now_ms: int) -> bool:
    return bool(await tx.fetch(_CALM + "LIMIT 1", now_ms - CALM_MS))


async def release_calm(tx: Statements, *, now_ms: int) -> list[str]:
    """Boxes that flapped and have kept a session for five minutes. A cloned one waits for an operator."""
    rows = await tx.fetch(
        f"{_CALM} ORDER BY device_id LIMIT 100 {tx.lock('device_presence', skip=True)}", now_ms - CALM_MS
    )
    for row in rows:
        await release(tx, row["device_id"], now_ms=now_ms)
    return [row["device_id"] for row in rows]


# --- what is shown ------------------------------------------------------------------------------------------------


def reach(
    *, online: bool, session_at_ms: int | None, heartbeat_at_ms: int | None, every_s: int | None, now_ms: int
) -> Reach:
    """A box that never sent a heartbeat in its session is never online."""
    if not online:
        return Reach.OFFLINE
    if heartbeat_at_ms is None or (session_at_ms is not None and heartbeat_at_ms < session_at_ms):
        return Reach.CONNECTING
    missing = now_ms - heartbeat_at_ms > (every_s or HEARTBEAT_S) * STALE_AFTER * 1000 + GRACE_MS
    return Reach.STALE if missing else Reach.ONLINE


def clock_of(*, has_clock: bool, time_asked_at_ms: int | None, session_at_ms: int | None) -> Clock:
    """A box without a clock of its own knows the time once it has asked for it in its session."""
    if has_clock:
        return Clock.OWN
    return Clock.HUB if time_asked_at_ms is not None and time_asked_at_ms >= (session_at_ms or 0) else Clock.NONE


def can_speak(*, volume: int | None, state: str | None, clock: Clock = Clock.OWN) -> bool | None:
    """None: it has not said."""
    if clock is Clock.NONE:
        return False
    if volume is None and state is None:
        return None
    return volume != 0 and state != "fault"
