"""Who may say and hear what at the broker. What is not granted here is denied."""

from collections.abc import Iterator

from soundbox_server.broker.users import (
    BRIDGE_USER,
    LEGACY_BRIDGE_USER,
    PROBE_USER,
    PUBLISHER_SLOTS,
    publisher_user,
    shard_user,
)


def acl_text(*, shards: int = 1) -> str:
    """Mosquitto's ACL file. It names no device, so it never changes while devices come and go."""
    return "\n".join(_lines(shards)) + "\n"


def provisioning_acl_text() -> str:
    """The second broker's: each client by its own id, which is the nonce of its request."""
    return """\
# Made by `soundbox broker`. What is not granted here is denied.

# %c is the client id. A box chooses 32 random hex digits; only who knows them can hear what is answered to them.
pattern write provision/%c/request
pattern read provision/%c/response
"""


def legacy_acl_text() -> str:
    """The third broker's: each box by its serial number, which is its name there."""
    return """\
# Made by `soundbox broker`. What is not granted here is denied.

# %u is the serial number a box logged in with. It hears what it is told, and says that it lives.
pattern read soundbox/%u/down
pattern write soundbox/%u/down/heartbeat
"""


def _lines(shards: int) -> Iterator[str]:
    yield "# Made by `soundbox broker`. What is not granted here is denied."
    yield ""
    yield "# The worker that owns a shard hears all its devices and those that ask for a name, and answers them."
    for shard in range(shards):
        yield f"user {shard_user(shard)}"
        yield "topic read devices/+/uplink/#"
        yield "topic write devices/+/downlink/#"
        yield "topic read provision/+/request"
        yield "topic write provision/+/response"
        yield "topic read soundbox/+/down/heartbeat"
        yield "topic write soundbox/+/down"
    yield ""
    yield "# The second broker, for boxes without a name, brings their requests and fetches the answers."
    yield f"user {BRIDGE_USER}"
    yield "topic write provision/+/request"
    yield "topic read provision/+/response"
    yield ""
    yield "# The third broker, for other makers' boxes, fetches what they are told and brings their heartbeats."
    yield f"user {LEGACY_BRIDGE_USER}"
    yield "topic read soundbox/+/down"
    yield "topic write soundbox/+/down/heartbeat"
    yield ""
    yield "# Processes that only tell devices something: they need not hear any."
    for slot in range(PUBLISHER_SLOTS):
        yield f"user {publisher_user(slot)}"
        yield "topic write devices/+/downlink/#"
    yield ""
    yield "# Metrics: the broker's own figures, no device's words. (hub-supervisor only logs in: nothing is granted.)"
    yield f"user {PROBE_USER}"
    yield "topic read $SYS/#"
    yield ""
    yield "# Devices: %u is the name a client logged in with, and its client id is forced to the same. Patterns apply"
    yield "# to every user, the hub's too, so no device may be named like one (the hub- prefix is refused)."
    yield "pattern write devices/%u/uplink/#"
    yield "pattern read devices/%u/downlink/#"
