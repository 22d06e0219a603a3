"""Who may say and hear what at the broker. What is not granted here is denied."""

from collections.abc import Iterator

from soundbox_server.broker.users import PROBE_USER, PUBLISHER_SLOTS, publisher_user, shard_user


def acl_text(*, shards: int = 1) -> str:
    """Mosquitto's ACL file. It names no device, so it never changes while devices come and go."""
    return "\n".join(_lines(shards)) + "\n"


def _lines(shards: int) -> Iterator[str]:
    yield "# Made by `soundbox broker`. What is not granted here is denied."
    yield ""
    yield "# The worker that owns a shard hears all its devices, and answers them."
    for shard in range(shards):
        yield f"user {shard_user(shard)}"
        yield "topic read devices/+/uplink/#"
        yield "topic write devices/+/downlink/#"
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
