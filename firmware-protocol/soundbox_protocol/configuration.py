"""A configuration's exact bytes, and the hash over them.

Nobody needs a canonical form: the hub stores the bytes it sends, the box hashes the bytes it received.
"""

import hashlib

from pydantic_core import to_json

from soundbox_protocol.messages import BoxConfig, ConfigPush, MalformedMessage, decode, read_payload

TEMPLATES = ("amount", "merchant")  # what a payment is announced with: the amount alone, or the shop's name before it
_HEAD, _TAIL = b',"config":', b',"sha256":"'
_TAIL_BYTES = len(_TAIL) + 64 + len(b'"}')


def config_bytes(config: BoxConfig) -> bytes:
    """Compact JSON in the order of the fields, as it is sent."""
    return to_json(config, exclude_none=True)


def sha256_of(raw: bytes) -> str:
    """Lower-case hex."""
    return hashlib.sha256(raw).hexdigest()


def pushed_config(body: bytes) -> tuple[ConfigPush, bytes]:
    """A push whose signature was verified, and the exact bytes of its `config`. Raises MalformedMessage, also when
    `sha256` is not last or says something else than the bytes."""
    push = decode(ConfigPush, body)
    begin = body.find(_HEAD) + len(_HEAD)
    raw, tail = body[begin:-_TAIL_BYTES], body[-_TAIL_BYTES:]
    if begin < len(_HEAD) or not tail.startswith(_TAIL):
        raise MalformedMessage("sha256: not the last member")
    if sha256_of(raw) != push.sha256:
        raise MalformedMessage("sha256: not that of the configuration")
    return push, raw


def read_config(push: ConfigPush) -> BoxConfig:
    """What the configuration says. Raises MalformedMessage, which names the member that is wrong."""
    return read_payload(BoxConfig, push.config)
