"""Every topic on the broker, built and parsed in one place.

A device speaks under `devices/{device_id}/uplink/` and listens under `devices/{device_id}/downlink/`. Its id is also
its MQTT username and its client id, so that the broker's access list is one pattern.
"""

import re
from enum import StrEnum

# Anchored with \A and \Z because `$` lets a trailing newline through. `hub-` is kept for the hub's own broker users and
# `provision` for boxes without a name: the access list's patterns would otherwise hand such a device another's name.
DEVICE_ID_PATTERN = re.compile(r"\A(?!hub-|provision\Z)[a-z0-9][a-z0-9_-]{2,31}\Z")
UPLINK_FILTER = "devices/+/uplink/#"

PROVISION_FILTER = "provision/+/request"

NONCE_PATTERN = re.compile(r"\A[0-9a-f]{32}\Z")  # 128 random bits, and the client id of whoever asks with it
_TOPIC = re.compile(r"devices/(?P<device_id>[^/]+)/(?P<way>uplink|downlink)/(?P<channel>[a-z0-9-]+(?:/[a-z0-9-]+)*)")


class Uplink(StrEnum):
    """What a device may say."""

    STATUS = "status"
    HEARTBEAT = "heartbeat"
    DYNAMIC_QR_REQUEST = "dynamic-qr/request"
    PAYMENT_ACK = "payment/ack"
    PAYMENT_MISSING = "payment/missing"
    TIME_REQUEST = "time/request"
    EVENT = "event"
    COMMAND_ACK = "command/ack"
    CREDENTIAL_REQUEST = "credential/request"
    CONFIG_ACK = "config/ack"
    LOG = "log"


class Downlink(StrEnum):
    """What a device may hear."""

    DYNAMIC_QR_RESPONSE = "dynamic-qr/response"
    DYNAMIC_QR_DISPLAY = "dynamic-qr/display"
    PAYMENT_SUCCESS = "payment/success"
    PAYMENT_DIGEST = "payment/digest"
    PAYMENT_SKIP = "payment/skip"
    TIME = "time"
    COMMAND = "command"
    CREDENTIAL_RESPONSE = "credential/response"
    CONFIG_PUSH = "config/push"


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


def provision_request(nonce: str) -> str:
    """Where a box without a name asks; ValueError when the nonce is none."""
    return f"provision/{_checked_nonce(nonce)}/request"


def provision_response(nonce: str) -> str:
    """Where it is answered, and nobody else can listen; ValueError when the nonce is none."""
    return f"provision/{_checked_nonce(nonce)}/response"


def parse_provision_request(topic: str) -> str | None:
    """The nonce of a request's topic, else None."""
    way, _, rest = topic.partition("/")
    nonce, _, end = rest.partition("/")
    return nonce if way == "provision" and end == "request" and NONCE_PATTERN.match(nonce) else None


def _checked_nonce(nonce: str) -> str:
    if not NONCE_PATTERN.match(nonce):
        raise ValueError("not a nonce")
    return nonce


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
