"""Named places where a test may kill the process, as a power cut would.

`SOUNDBOX_FAILPOINT=name` or `name:3` (the third time it is reached) arms one. The process ends at once with status 137:
no handler runs, no buffer is flushed. Production refuses to start with one armed (guard.py).
"""

import os

NAMES = (
    "callback.verified",
    "callback.locked",
    "callback.applied",
    "callback.before_commit",
    "callback.committed",
    "callback.published",
    "callback.answered",
    "qr.stored",
    "qr.created_at_provider",
    "qr.before_answer_commit",
    "qr.answer_committed",
    "uplink.handled",
    "uplink.committed",
    "uplink.acknowledged",
    "sweep.claimed",
    "sweep.published",
    "refresh.issued",
    "refresh.confirmed",
    "settlement.collected",
    "settlement.calculated",
)

_armed, _, _count = os.environ.get("SOUNDBOX_FAILPOINT", "").partition(":")
_left = int(_count or 1)
if _armed and _armed not in NAMES:
    raise ValueError(f"SOUNDBOX_FAILPOINT={_armed}: no such failpoint. Known: {', '.join(NAMES)}")


def reached(name: str) -> None:
    global _left  # noqa: PLW0603 - one process, one countdown
    if name != _armed:
        return
    _left -= 1
    if _left == 0:
        os._exit(137)


def armed() -> bool:
    return bool(_armed)
