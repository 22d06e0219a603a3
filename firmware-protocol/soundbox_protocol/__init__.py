"""What a soundbox and the hub say to each other: topics, messages, signatures and speech. Nothing here does I/O."""

from soundbox_protocol.messages import MAX_PAYLOAD_BYTES as MAX_PAYLOAD_BYTES
from soundbox_protocol.messages import MalformedMessage as MalformedMessage
from soundbox_protocol.messages import merchant_name_for_wire as merchant_name_for_wire
from soundbox_protocol.signing import BadSignature as BadSignature
from soundbox_protocol.times import from_rfc3339 as from_rfc3339
from soundbox_protocol.times import to_rfc3339 as to_rfc3339
