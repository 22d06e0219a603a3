"""Settings for a box that can prove nothing: the QF100's config call, which only knows the numbers printed on a box.

It is answered only in a window that an operator opened, while somebody stands beside the box. The first call in it pins
IMEI and ICCID, unless the operator named them; a later one with others is refused and counted. Each call that is
answered gives a new password, and the one before is worth nothing from then on.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.codecs.choice import CODECS, QF100
from soundbox_server.db import Row, Statements
from soundbox_server.devices import service
from soundbox_server.devices.state import MAY_ACTIVATE
from soundbox_server.errors import CapabilityNotSupported, Conflict, NotFound

SHORTEST_S, LONGEST_S, USUAL_S = 60, 3_600, 900
MOST_FAILURES = 5
ALERT = "device.config_call_refused"
_MAY_ACTIVATE = ", ".join(f"'{state}'" for state in MAY_ACTIVATE)


@dataclass(frozen=True, kw_only=True)
class MakersBroker:
    """Where such boxes go on air, and whether a name and password get in there right now."""

    host: str
    port: int
    lets_in: Callable[[str, str], Awaitable[bool]]


@dataclass(frozen=True, kw_only=True)
class Window:
    """`imei` and `iccid` are what the box is recognised by; None until the first call, or an operator, says them."""

    device_id: str
    opened_at_ms: int
    closes_at_ms: int
    opened_by: str | None
    imei: str | None
    iccid: str | None
    failures: int
    grants: int
    granted_at_ms: int | None

    @classmethod
    def of(cls, row: Row) -> "Window":
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    def is_open(self, now_ms: int) -> bool:
        return now_ms < self.closes_at_ms and self.failures < MOST_FAILURES


_OPEN = """
INSERT INTO config_window (device_id, opened_at_ms, closes_at_ms, opened_by, imei, iccid, failures, grants)
VALUES ($1, $2, $3, $4, $5, $6, 0, 0)
ON CONFLICT (device_id) DO UPDATE SET
  opened_at_ms = excluded.opened_at_ms, closes_at_ms = excluded.closes_at_ms, opened_by = excluded.opened_by,
  imei = CASE WHEN $7 THEN excluded.imei ELSE coalesce(excluded.imei, config_window.imei) END,
  iccid = CASE WHEN $7 THEN excluded.iccid ELSE coalesce(excluded.iccid, config_window.iccid) END,
  failures = 0
"""
_WINDOW = """
SELECT device_id, opened_at_ms, closes_at_ms, opened_by, imei, iccid, failures, grants, granted_at_ms
FROM config_window WHERE device_id = $1
"""


async def open_window(
    tx: Statements,
    device_id: str,
    *,
    for_s: int,
    imei: str | None,
    iccid: str | None,
    forget_pins: bool,
    by: str | None,
    now_ms: int,
) -> Window:
    """From now on the box is answered; one that is open already begins anew. Numbers that are named replace those that
    were pinned, and `forget_pins` has the next call pin its own: another SIM, another module.

    Raises NotFound, Conflict for a box out of service, and CapabilityNotSupported for one that makes no such calls.
    """
    rows = await tx.fetch("SELECT state, codec FROM device WHERE id = $1 " + tx.lock("device"), device_id)
    if not rows:
        raise NotFound("No such device.", device_id=device_id)
    if CODECS[rows[0]["codec"]] is not QF100:
        raise CapabilityNotSupported("A box of this model has an activation code.", codec=rows[0]["codec"])
    if rows[0]["state"] not in MAY_ACTIVATE:
        raise Conflict("This device is out of service.", state=rows[0]["state"])
    await tx.execute(_OPEN, device_id, now_ms, now_ms + for_s * 1000, by, imei, iccid, forget_pins)
    await clear(tx, ALERT, ("device", device_id), now_ms=now_ms)
    window = await window_of(tx, device_id)
    assert window is not None
    return window


async def close_window(tx: Statements, device_id: str, *, now_ms: int) -> bool:
    """Whether this call closed it. Raises NotFound where there never was one."""
    rows = await tx.fetch("SELECT id FROM device WHERE id = $1 " + tx.lock("device"), device_id)
    window = await window_of(tx, device_id) if rows else None
    if window is None:
        raise NotFound("No config window was ever opened for this device.", device_id=device_id)
    await tx.execute(
        "UPDATE config_window SET closes_at_ms = $2 WHERE device_id = $1 AND closes_at_ms > $2", device_id, now_ms
    )
    return window.closes_at_ms > now_ms


async def window_of(tx: Statements, device_id: str) -> Window | None:
    rows = await tx.fetch(_WINDOW, device_id)
    return Window.of(rows[0]) if rows else None


@dataclass(frozen=True, kw_only=True)
class Granted:
    """What the box takes home, shown once. `first`: it has just been recognised by these numbers."""

    device_id: str
    password: str
    first: bool


async def take_call(
    tx: Statements, *, serial_number: str, imei: str, iccid: str, hash_password: Callable[[str], str], now_ms: int
) -> Granted | None:
    """New credentials for the box that says these numbers, or None: no such box, no window, or other numbers than
    those that were pinned. A refusal is a result, so that the failure it counts is committed."""
    rows = await tx.fetch(
        f"SELECT id FROM device WHERE serial_number = $1 AND codec = $2 AND state IN ({_MAY_ACTIVATE}) "
        + tx.lock("device"),
        serial_number,
        QF100.name,
    )
    window = await window_of(tx, rows[0]["id"]) if rows else None
    if window is None or not window.is_open(now_ms):
        return None
    if window.imei not in (None, imei) or window.iccid not in (None, iccid):
        await _refuse(tx, window, now_ms=now_ms)
        return None
    await tx.execute(
        "UPDATE config_window SET imei = $2, iccid = $3, granted_at_ms = $4, grants = grants + 1 WHERE device_id = $1",
        window.device_id,
        imei,
        iccid,
        now_ms,
    )
    activated = await service.hand_out(tx, window.device_id, hash_password=hash_password, now_ms=now_ms)
    first = window.imei is None or window.iccid is None
    return Granted(device_id=window.device_id, password=activated.broker_password, first=first)


async def _refuse(tx: Statements, window: Window, *, now_ms: int) -> None:
    """Somebody says this box's serial number with other numbers. Five of them close the window."""
    await tx.execute("UPDATE config_window SET failures = failures + 1 WHERE device_id = $1", window.device_id)
    await raise_alert(
        tx, ALERT, ("device", window.device_id), severity=Severity.WARNING, now_ms=now_ms,
        facts={"failures": window.failures + 1, "closed": window.failures + 1 >= MOST_FAILURES},
    )  # fmt: skip
