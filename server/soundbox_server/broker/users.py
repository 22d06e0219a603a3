"""Who may log in at the broker besides the devices: the hub's own processes, each by a name of its own.

One name means one session: two processes that share a name evict each other for ever.
"""

from soundbox_protocol.topics import DEVICE_ID_PATTERN
from soundbox_server.codecs.qf100 import SERIAL_PATTERN
from soundbox_server.seal import base64url, derive

RESERVED_PREFIX = "hub-"
PUBLISHER_SLOTS = 32
PROBE_USER = "hub-probe"  # reads the broker's figures
SUPERVISOR_USER = "hub-supervisor"  # only logs in, to see that the broker answers
BRIDGE_USER = "hub-provision"  # carries what nameless boxes ask and are answered
LEGACY_BRIDGE_USER = "hub-legacy"  # carries what other makers' boxes are told, and their heartbeats
# At the second broker, and only there: what every box is delivered with. It opens nothing and is no secret.
PROVISION_USER = "provision"
PROVISION_PASSWORD = "provision"  # noqa: S105


def shard_user(shard: int) -> str:
    """Reads what all devices of one broker say. One at a time: whoever holds the shard's lock."""
    return f"{RESERVED_PREFIX}shard-{shard}"


def publisher_user(slot: int) -> str:
    """Publishes to devices. The slots exist in advance, so a new process needs no reload: it leases a free one."""
    if not 0 <= slot < PUBLISHER_SLOTS:
        raise ValueError(f"publisher slots run from 0 to {PUBLISHER_SLOTS - 1}, not {slot}")
    return f"{RESERVED_PREFIX}pub-{slot}"


def hub_users(shards: int) -> list[str]:
    """Every name the hub itself uses, in the order of the files."""
    return [
        *(shard_user(shard) for shard in range(shards)),
        *(publisher_user(slot) for slot in range(PUBLISHER_SLOTS)),
        PROBE_USER,
        SUPERVISOR_USER,
        BRIDGE_USER,
        LEGACY_BRIDGE_USER,
    ]


def hub_password(master_key: bytes, user: str) -> str:
    """The password of one of the hub's users, derived alike by every process, so that it is stored nowhere."""
    return base64url(derive(master_key, f"soundbox/broker-user/v1/{user}"))


def is_device_user(name: str) -> bool:
    """Whether a device may carry this name at the broker. A device named like the hub would be the hub."""
    return DEVICE_ID_PATTERN.fullmatch(name) is not None and not name.startswith(RESERVED_PREFIX)


def is_legacy_user(name: str) -> bool:
    """Whether another maker's box may carry this name, its serial number, at the broker it has to itself."""
    return SERIAL_PATTERN.fullmatch(name) is not None
