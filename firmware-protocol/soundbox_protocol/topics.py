"""Every topic on the broker, built and parsed in one place.

A device speaks under `devices/{device_id}/uplink/` and listens under `devices/{device_id}/downlink/`. Its id is also
its MQTT username and its client id, so that the broker's access list is one pattern.
"""

import re
from enum import StrEnum

# Anchored with \A and \Z because `$` lets a trailing newline through. `hub-` is kept for the hub's own broker users:
# the access list's patterns would otherwise hand such a device the hub's name.
DEVICE_ID_PATTERN = re.compile(r"\A(?!hub-)[a-z0-9][a-z0-9_-]{2,31}\Z")
UPLINK_FILTER = "devices/+/uplink/#"

_TOPIC = re.compile(r"devices/(?P<device_id>[^/]+)/(?P<way>uplink|downlink)/(?P<channel>[a-z0-9-]+(?:/[a-z0-9-]+)*)")


class Uplink(StrEnum):
    """What a device may say."""

    STATUS = "status"
    HEARTBEAT = "heartbeat"
    DYNAMIC_QR_REQUEST = "dynamic-qr/request"
    PAYMENT_ACK = "payment/ack"
    TIME_REQUEST = "time/request"
    EVENT = "event"
    COMMAND_ACK = "command/ack"


class Downlink(StrEnum):
    """What a device may hear."""

    DYNAMIC_QR_RESPONSE = "dynamic-qr/response"
    DYNAMIC_QR_DISPLAY = "dynamic-qr/display"
    PAYMENT_SUCCESS = "payment/success"
    TIME = "time"
    COMMAND = "command"


def uplink(device_id: str, channel: Uplink) -> str:
    """`devices/{device_id}/uplink/{channel}`; ValueError when the id is not one."""
    return f"devices/{_checked(device_id)}/uplink/{channel.value}"


def downlink(device_id: str, channel: Downlink) -> str:
    """`devices/{device_id}/downlink/{channel}`; ValueError when the id is not one."""
    return f"devices/{_checked(device_id)}/downlink/{channel.value}"


def downlink_filter(device_id: str) -> str:
    """The one subscription of a device; ValueError when the id is not one."""
    return f"devices/{_checked(device_id)}/downlink/#"


def parse_uplink(topic: str) -> tuple[str, str] | None:
    """(device_id, channel) of an uplink topic, else None. The channel may be one this version does not know."""
    return _parse(topic, "uplink")


def parse_downlink(topic: str) -> tuple[str, str] | None:
    """(device_id, channel) of a downlink topic, else None. The channel may be one this version does not know."""
    return _parse(topic, "downlink")


def _checked(device_id: str) -> str:
    # A wildcard or a slash in an id would address somebody else's topics.
    if not DEVICE_ID_PATTERN.match(device_id):
        raise ValueError("not a device id")
    return device_id


def _parse(topic: str, way: str) -> tuple[str, str] | None:
    found = _TOPIC.fullmatch(topic)
    if found is None or found["way"] != way or not DEVICE_ID_PATTERN.match(found["device_id"]):
        return None
    return found["device_id"], found["channel"]
