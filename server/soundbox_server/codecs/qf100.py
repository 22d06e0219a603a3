"""The QF100, a box of another maker: JSON with a category, on one topic, unsigned and unanswered.

Seen in its published contract: the topics, the envelope, that category 1 announces a payment and takes a shown QR away,
category 4 shows a QR (`qr-url`, `amount`, `expire-seconds`), category 5 with `reboot` restarts it, that amounts are
whole rupiah, and that it calls itself QF100 or, later, EDOTF1.

Not seen, and therefore assumed here and nowhere else:
- category 1 names its amount `amount`, as category 4 does, and needs no other member;
- a heartbeat is a JSON object with members like those in `_NAMES`; whatever else it is still proves that the box lives;
- it repeats its heartbeat at least once a minute;
- it neither tells a repeated message from a new one nor answers any.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from soundbox_protocol.messages import Command, ConfigPush, DynamicQrDisplay
from soundbox_protocol.times import from_rfc3339
from soundbox_server.codecs.base import Addressee, Condition, KeyOf, Traits, Written
from soundbox_server.errors import CapabilityNotSupported

MODELS = frozenset({"QF100", "EDOTF1"})
SERIAL_PATTERN = re.compile(r"[A-Z0-9][A-Z0-9._-]{2,31}")  # it is a level of its topics, and its name at the broker
HEARTBEAT_FILTER = "soundbox/+/down/heartbeat"
HEARTBEAT_BYTES = 2_048
KEEPALIVE_S = 60
_PAYMENT, _QR, _COMMAND = 1, 4, 5
_HEARTBEAT = re.compile(r"soundbox/([^/]+)/down/heartbeat")
# The first that is there, after dashes became underscores.
_NAMES = {
    "firmware_version": ("fw_version", "firmware_version", "version"),
    "battery_level": ("battery_level", "battery_percent", "battery"),
    "network_strength": ("network_strength", "signal_percent", "signal_level"),
    "dbm": ("dbm", "signal_dbm", "rssi", "signal"),
    "volume": ("volume", "vol"),
    "sent_at": ("timestamp", "time"),
}
_WEAKEST_DBM, _STRONGEST_DBM = -113, -51  # what modules call no signal and full signal


def subscribe_topic(serial_number: str) -> str:
    """The one topic it listens to."""
    return f"soundbox/{serial_number}/down"


def heartbeat_sender(topic: str) -> str | None:
    """The serial number in a heartbeat's topic, else None."""
    found = _HEARTBEAT.fullmatch(topic)
    return found[1] if found is not None and SERIAL_PATTERN.fullmatch(found[1]) else None


class Qf100:
    name = "qf100"
    traits = Traits(
        commands=frozenset({"reboot", "show_qr"}),
        unsigned=True,
        unconfirmed=True,
        is_configured=False,
        tells_replays=False,
        activates_by_code=False,
    )

    def payment(self, to: Addressee, said: Mapping[str, Any], *, key_of: KeyOf) -> Written:
        return _written(to, _PAYMENT, {"amount": said["amount"]})

    def message(
        self, to: Addressee, said: Command | DynamicQrDisplay | ConfigPush, *, key_of: KeyOf, now_ms: int
    ) -> Written:
        if isinstance(said, DynamicQrDisplay) and said.action == "show" and said.qr_payload is not None:
            return _written(to, _QR, _shown(said, now_ms))
        if isinstance(said, Command) and said.command_name == "reboot":
            return _written(to, _COMMAND, {"command": "reboot"})
        raise CapabilityNotSupported("A box of this model cannot do that.", codec=self.name)

    def heartbeat(self, payload: bytes) -> Condition:
        said = _members(payload)
        strength = _percent(said.get("network_strength"))
        return Condition(
            sent_at=_text(said.get("sent_at")),
            firmware_version=_text(said.get("firmware_version")),
            network_strength=_from_dbm(said.get("dbm")) if strength is None else strength,
            battery_level=_percent(said.get("battery_level")),
            volume=_percent(said.get("volume")),
        )


def _shown(said: DynamicQrDisplay, now_ms: int) -> dict[str, object]:
    """For as long as is left: the box counts seconds from when it gets it."""
    if said.amount is None:
        raise CapabilityNotSupported("A box of this model shows a QR only with its amount.", field="amount")
    data: dict[str, object] = {"qr-url": said.qr_payload, "amount": said.amount}
    if said.expires_at is not None:
        data["expire-seconds"] = max(1, (from_rfc3339(said.expires_at) - now_ms) // 1000)
    return data


def _written(to: Addressee, category: int, data: Mapping[str, object]) -> Written:
    body = orjson.dumps({"header": {"category": category}, "data": data})
    return Written(topic=subscribe_topic(to.serial_number), body=body)


def _members(payload: bytes) -> dict[str, Any]:
    """What a heartbeat says, by our own names; its members may be wrapped in `data`."""
    try:
        said = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(said, dict) and isinstance(said.get("data"), dict):
        said = said["data"]
    if not isinstance(said, dict):
        return {}
    flat = {name.replace("-", "_").lower(): value for name, value in said.items()}
    return {
        ours: next(flat[theirs] for theirs in names if theirs in flat)
        for ours, names in _NAMES.items()
        if any(theirs in flat for theirs in names)
    }


def _text(value: object) -> str | None:
    """Cut to what a native box may say, without what a database cannot hold."""
    return value.replace("\x00", "")[:64] if isinstance(value, str) and value else None


def _percent(value: object) -> int | None:
    """0 to 100, also as text; anything else was measured in something else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}%?", value):
        value = int(value.rstrip("%"))
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100 else None


def _from_dbm(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"-[0-9]{1,3}( ?dBm)?", value):
        value = int(value.split("d")[0])
    if not isinstance(value, int) or isinstance(value, bool) or not -150 <= value < 0:
        return None
    share = (value - _WEAKEST_DBM) / (_STRONGEST_DBM - _WEAKEST_DBM)
    return round(100 * min(1.0, max(0.0, share)))
