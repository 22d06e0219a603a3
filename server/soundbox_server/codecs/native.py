"""Our own protocol: signed, answered, and described in `firmware-protocol/`."""

from collections.abc import Mapping
from typing import Any

import orjson

from soundbox_protocol.messages import (
    Command,
    ConfigPush,
    DynamicQrDisplay,
    Heartbeat,
    MalformedMessage,
    decode,
    encode,
)
from soundbox_protocol.signing import sign
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.codecs.base import Addressee, Condition, KeyOf, Traits, Written

_CHANNELS = {
    Command: Downlink.COMMAND,
    DynamicQrDisplay: Downlink.DYNAMIC_QR_DISPLAY,
    ConfigPush: Downlink.CONFIG_PUSH,
}


class Native:
    name = "native"
    traits = Traits()

    def payment(self, to: Addressee, said: Mapping[str, Any], *, key_of: KeyOf) -> Written:
        return _signed(to, Downlink.PAYMENT_SUCCESS, orjson.dumps(said), key_of)

    def message(
        self, to: Addressee, said: Command | DynamicQrDisplay | ConfigPush, *, key_of: KeyOf, now_ms: int
    ) -> Written:
        return _signed(to, _CHANNELS[type(said)], encode(said), key_of)

    def heartbeat(self, payload: bytes) -> Condition:
        try:
            said = decode(Heartbeat, payload, message_type_optional=True)
        except MalformedMessage:
            return Condition()
        return Condition(
            sent_at=said.timestamp,
            firmware_version=said.firmware_version,
            network_strength=said.network_strength,
            battery_level=said.battery_level,
            state=said.state,
            volume=said.volume,
        )


def _signed(to: Addressee, channel: Downlink, body: bytes, key_of: KeyOf) -> Written:
    topic = downlink(to.device_id, channel)
    return Written(topic=topic, body=sign(key_of(to.device_id, to.key_version), topic, body))
