import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_protocol.signing import TAIL_BYTES, BadSignature, sign, signed_length, verify

KEY = bytes(range(32))
TOPIC = "devices/dev_1/downlink/time"

keys = st.binary(min_size=32, max_size=32)
bodies = st.dictionaries(st.text(min_size=1), st.integers() | st.text(), min_size=1).map(
    lambda members: json.dumps(members, separators=(",", ":")).encode()
)


@given(keys, st.text(), bodies)
def test_what_was_signed_is_what_is_verified(key: bytes, topic: str, body: bytes) -> None:
    payload = sign(key, topic, body)

    assert verify(key, topic, payload) == body
    assert len(payload) == signed_length(body) == len(body) - 1 + 53
    assert json.loads(payload).keys() - json.loads(body).keys() <= {"sig"}


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_one_flipped_bit_anywhere_is_seen(place: int, bit: int) -> None:
    payload = bytearray(sign(KEY, TOPIC, b'{"message_type":"time","nonce":"abc"}'))
    payload[place % len(payload)] ^= 1 << bit

    with pytest.raises(BadSignature):
        verify(KEY, TOPIC, bytes(payload))


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(payload: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(KEY, TOPIC, payload)


def test_every_shorter_piece_is_refused() -> None:
    payload = sign(KEY, TOPIC, b'{"a":1}')

    for length in range(len(payload)):
        with pytest.raises(BadSignature):
            verify(KEY, TOPIC, payload[:length])


def test_a_signature_over_nothing_is_refused_even_when_it_fits() -> None:
    # The key's owner never makes one, because sign() refuses; a brace alone would become an empty object.
    with pytest.raises(ValueError, match="compact JSON object"):
        sign(KEY, TOPIC, b"{}")
    longer = sign(KEY, f"{TOPIC}\n" + '{"a":1', b'{"b":2}')
    with pytest.raises(BadSignature):
        verify(KEY, TOPIC, longer)


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[1]", b'{ "a":1}', b'{"a":1} ', b'"a"'])
def test_only_a_compact_object_can_be_signed(body: bytes) -> None:
    with pytest.raises(ValueError, match="compact JSON object"):
        sign(KEY, TOPIC, body)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_of_another_length_is_a_mistake_of_the_caller(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sign(bytes(length), TOPIC, b'{"a":1}')


def test_the_tail_is_53_bytes() -> None:
    assert TAIL_BYTES == 53
