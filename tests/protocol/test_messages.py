import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from soundbox_protocol import MAX_PAYLOAD_BYTES, merchant_name_for_wire
from soundbox_protocol.configuration import config_bytes, read_config
from soundbox_protocol.messages import (
    COMMAND_BYTES,
    COMMANDS,
    CONFIG_BYTES,
    MAX_AMOUNT,
    MAX_COUNT,
    MAX_DEPTH,
    MAX_MESSAGE_BYTES,
    MESSAGES,
    PROVISIONING,
    QUIETEST,
    BoxConfig,
    Capabilities,
    Command,
    ConfigPush,
    CredentialResponse,
    DynamicQrDisplay,
    DynamicQrResponse,
    Heartbeat,
    MalformedMessage,
    Message,
    PaymentAck,
    PaymentDigest,
    PaymentSkip,
    PaymentSuccess,
    ProvisionResponse,
    QuietHours,
    SpeakCode,
    Status,
    Time,
    decode,
    decode_uplink,
    encode,
    read_payload,
)
from soundbox_protocol.provisioning import Secrets
from soundbox_protocol.sealing import seal
from soundbox_protocol.signing import sign
from soundbox_protocol.topics import Downlink, Uplink, downlink, provision_response

DEVICE = "dev_1"
SECOND = "2026-05-23T10:00:00Z"
ACK: dict[str, Any] = {
    "message_type": "payment_ack",
    "device_id": DEVICE,
    "timestamp": SECOND,
    "event_id": "ann_1",
    "status": "received",
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.text(max_size=40) | st.text(alphabet='"\\🍜é \n\u202e\u200d', max_size=40)


def as_json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def payment(**changes: Any) -> PaymentSuccess:
    fields: dict[str, Any] = {
        "event_id": "ann_1",
        "transaction_id": "txn_1",
        "seq": 1,
        "merchant_name": "Warung Sari",
        "amount": 50_000,
        "currency": "IDR",
        "paid_at": SECOND,
        "issued_at": SECOND,
        "expires_at": SECOND,
    }
    return PaymentSuccess.model_validate(fields | changes)


# --- reading never raises anything but MalformedMessage -------------------------------------------------------------


@given(st.sampled_from(list(MESSAGES.values())), st.binary(max_size=600))
def test_any_bytes_are_a_message_or_malformed(model: type[Message], payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(model, payload)


@given(st.sampled_from(list(MESSAGES.values())), json_values)
def test_any_json_is_a_message_or_malformed(model: type[Message], document: Any) -> None:
    with pytest.raises(MalformedMessage):
        decode(model, as_json(document))


@settings(max_examples=300)
@given(st.sampled_from(list(MESSAGES.values())), st.data())
def test_any_values_in_known_members_are_a_message_or_malformed(model: type[Message], data: st.DataObject) -> None:
    members = st.sampled_from(sorted(model.model_fields.keys() - {"message_type"}))
    chosen = data.draw(st.dictionaries(members, json_values))
    document = {"message_type": model.model_fields["message_type"].default} | chosen

    try:
        message = decode(model, as_json(document))
    except MalformedMessage:
        return
    assert decode(model, encode(message)) == message


@given(st.integers(min_value=0), st.binary(min_size=1, max_size=4))
def test_a_damaged_message_is_a_message_or_malformed(place: int, junk: bytes) -> None:
    good = as_json(ACK)
    place %= len(good)

    try:
        message = decode(PaymentAck, good[:place] + junk + good[place + len(junk) :])
    except MalformedMessage:
        return
    assert decode(PaymentAck, encode(message)) == message


@given(st.text(max_size=60), json_values)
def test_any_topic_and_payload_are_an_uplink_or_malformed(topic: str, document: Any) -> None:
    for where in (topic, f"devices/{DEVICE}/uplink/{topic}", f"devices/{DEVICE}/uplink/status"):
        with pytest.raises(MalformedMessage):
            decode_uplink(where, as_json(document))


def test_a_device_cannot_say_what_only_the_hub_says() -> None:
    for channel in Downlink:
        with pytest.raises(MalformedMessage, match="no such uplink"):
            decode_uplink(f"devices/{DEVICE}/uplink/{channel}", as_json({"message_type": "time"}))


def test_an_integer_of_thousands_of_digits_is_malformed_where_it_is_read() -> None:
    digits = b"9" * 3500

    assert decode(PaymentAck, as_json(ACK)[:-1] + b',"x":' + digits + b"}").event_id == "ann_1"
    with pytest.raises(MalformedMessage, match="seq"):
        decode(PaymentSuccess, encode(payment()).replace(b'"seq":1', b'"seq":' + digits))


@pytest.mark.parametrize(("depth", "malformed"), [(MAX_DEPTH, False), (MAX_DEPTH + 1, True), (1500, True)])
def test_depth_is_counted_before_parsing(depth: int, malformed: bool) -> None:
    payload = as_json(ACK)[:-1] + b',"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    if malformed:
        with pytest.raises(MalformedMessage, match="nested deeper"):
            decode(PaymentAck, payload)
    else:
        assert decode(PaymentAck, payload).event_id == "ann_1"


def test_brackets_inside_texts_and_side_by_side_are_no_depth() -> None:
    quoted = as_json(ACK | {"x": '[{"\\' * 100, "y": [[]] * 100})

    assert decode(PaymentAck, quoted) == decode(PaymentAck, as_json(ACK))


def test_a_message_may_be_as_long_as_the_limit_and_no_longer() -> None:
    room = MAX_MESSAGE_BYTES - len(as_json(ACK | {"x": ""}))

    assert decode(PaymentAck, as_json(ACK | {"x": "x" * room})).event_id == "ann_1"
    with pytest.raises(MalformedMessage, match="longer than"):
        decode(PaymentAck, as_json(ACK | {"x": "x" * (room + 1)}))


def test_an_escaped_surrogate_pair_is_one_character() -> None:
    heartbeat = {"message_type": "heartbeat", "device_id": DEVICE, "timestamp": SECOND, "state": "idle"}

    payload = json.dumps(heartbeat | {"firmware_version": "1.0 🍜"}).encode()

    assert b"\\ud83c" in payload
    assert decode(Heartbeat, payload).firmware_version == "1.0 🍜"


def test_a_backslash_before_u0000_is_not_a_nul() -> None:
    assert decode(PaymentAck, as_json(ACK | {"reason": r"\u0000"})).reason == r"\u0000"


def test_a_memoryview_is_read_like_bytes() -> None:
    assert decode(PaymentAck, memoryview(as_json(ACK))) == decode(PaymentAck, as_json(ACK))


def test_the_wire_must_name_the_message_type() -> None:
    with pytest.raises(MalformedMessage, match="message_type"):
        decode(PaymentAck, as_json({key: value for key, value in ACK.items() if key != "message_type"}))


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode(PaymentAck, as_json(ACK | {"status": "4111111111111111"}))

    assert "4111111111111111" not in str(refusal.value)


# --- the smallest box can take in everything -------------------------------------------------------------------------

LONGEST_ID = "x" * 30
LONGEST_QR = "9" * 251
# Four-byte characters, quotes and backslashes: whichever fills the 40 bytes.
LONGEST_PAYLOADS: list[dict[str, Any]] = [
    {"x": "y" * (COMMAND_BYTES - 8)},
    {"x": "🍜" * ((COMMAND_BYTES - 8) // 4)},
    {"x": '"' * ((COMMAND_BYTES - 8) // 2)},
    {"x": [1] * ((COMMAND_BYTES - 7) // 2)},
]
LONGEST_NAMES = [merchant_name_for_wire(text * 40) for text in ("🍜", '"', "\\", '🍜"', "x", "é")]


def largest_downlinks() -> list[Message]:
    payments = [
        payment(
            event_id=LONGEST_ID,
            transaction_id=LONGEST_ID,
            seq=MAX_COUNT,
            merchant_name=name,
            amount=MAX_AMOUNT,
            original_event_id=LONGEST_ID,
        )
        for name in LONGEST_NAMES
    ]
    qr = DynamicQrResponse(
        correlation_id=LONGEST_ID,
        transaction_id=LONGEST_ID,
        status="success",
        qr_payload=LONGEST_QR,
        expires_at=SECOND,
    )
    no_qr = DynamicQrResponse(
        correlation_id=LONGEST_ID, transaction_id=LONGEST_ID, status="failed", expires_at=SECOND, error_code="X" * 48
    )
    display = DynamicQrDisplay(
        transaction_id=LONGEST_ID, action="show", qr_payload=LONGEST_QR, amount=MAX_AMOUNT, expires_at=SECOND
    )
    commands = [
        Command(command_id=LONGEST_ID, command_name="x" * 32, payload=payload, issued_at=SECOND, expires_at=SECOND)
        for payload in LONGEST_PAYLOADS
    ]
    credential = CredentialResponse(
        correlation_id=LONGEST_ID, status="issued", credential_id="x" * 36, sealed="x" * 123
    )
    config = ConfigPush(config_version=MAX_COUNT, config={"x": "y" * (CONFIG_BYTES - 8)}, sha256="f" * 64)
    by_command = DynamicQrDisplay(
        command_id=LONGEST_ID, action="show", qr_payload=LONGEST_QR, amount=MAX_AMOUNT, expires_at=SECOND
    )
    digest = PaymentDigest.model_validate(
        {
            "event_id": LONGEST_ID, "seq": MAX_COUNT, "count": MAX_COUNT, "amount": MAX_AMOUNT, "from": SECOND,
            "to": SECOND, "issued_at": SECOND, "expires_at": SECOND,
        }
    )  # fmt: skip
    skip = PaymentSkip(from_seq=MAX_COUNT, to_seq=MAX_COUNT)
    asked = [*payments, digest, skip, qr, no_qr, display, by_command, Time(server_time=SECOND, nonce=LONGEST_ID)]
    return [*asked, *commands, credential, config]


@pytest.mark.parametrize("message", largest_downlinks(), ids=lambda message: type(message).__name__)
def test_every_downlink_fits_the_smallest_box_in_its_worst_case(message: Message) -> None:
    channel = next(channel for channel, model in MESSAGES.items() if isinstance(message, model))
    assert isinstance(channel, Downlink)

    payload = sign(bytes(32), downlink(DEVICE, channel), encode(message))

    assert len(payload) <= MAX_PAYLOAD_BYTES


def test_the_answer_to_a_nameless_box_fits_the_smallest_one_too() -> None:
    largest = ProvisionResponse(
        status="success",
        device_id="x" * 32,
        key_version=MAX_COUNT,
        host="x" * 64,
        port=65_535,
        tls=False,
        server_time=SECOND,
        retry_after_s=3_600,
    )
    secrets = Secrets(announcement_key=bytes(32), device_token="x" * 42 + "w", broker_password="x" * 42 + "w")

    payload = seal(bytes(32), provision_response("f" * 32), encode(largest), secrets.packed())

    assert len(payload) <= MAX_PAYLOAD_BYTES


@given(st.sampled_from(list(PROVISIONING.values())), st.binary(max_size=300), json_values)
def test_any_bytes_of_a_nameless_box_are_a_message_or_malformed(
    model: type[Message], raw: bytes, document: Any
) -> None:
    for payload in (raw, as_json(document)):
        with pytest.raises(MalformedMessage):
            decode(model, payload)


def test_every_setting_at_its_longest_fits_a_configuration() -> None:
    longest = BoxConfig(
        volume=100,
        language="id",
        template="x" * 24,
        quiet_hours=QuietHours(start="21:30", end="06:00", volume=100),
        heartbeat_s=3_600,
        utc_offset_min=-720,
        digest=False,
    )

    assert set(longest.model_fields_set) == set(BoxConfig.model_fields)
    assert len(config_bytes(longest)) <= CONFIG_BYTES


@pytest.mark.parametrize(
    ("member", "wrong"),
    [
        ("volume", 101), ("volume", "70"), ("language", "jv"), ("template", "A B"), ("heartbeat_s", 4),
        ("utc_offset_min", 900), ("quiet_hours", {"start": "22:00", "end": "06:00", "volume": QUIETEST - 1}),
        ("quiet_hours", {"start": "24:00", "end": "06:00", "volume": 20}),
    ],
)  # fmt: skip
def test_a_setting_that_no_box_can_have_is_named(member: str, wrong: object) -> None:
    push = ConfigPush(config_version=1, config={member: wrong}, sha256="f" * 64)

    with pytest.raises(MalformedMessage, match=f"^{member}"):
        read_config(push)


def test_the_worst_case_is_built_for_every_downlink() -> None:
    built = {type(message) for message in largest_downlinks()}

    assert built == {MESSAGES[channel] for channel in Downlink}
    assert max(len(json.dumps(name, ensure_ascii=False).encode()) - 2 for name in LONGEST_NAMES) == 40


@pytest.mark.parametrize("field", ["event_id", "transaction_id", "original_event_id"])
def test_an_id_longer_than_the_worst_case_cannot_be_written(field: str) -> None:
    with pytest.raises(ValidationError):
        payment(**{field: LONGEST_ID + "x"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", MAX_COUNT + 1),
        ("amount", MAX_AMOUNT + 1),
        ("amount", -1),
        ("amount", True),
        ("currency", "IDRX"),
        ("paid_at", "2026-05-23T10:00:00.000Z"),
        ("expires_at", "10000-01-01T00:00:00Z"),
        ("merchant_name", "x" * 26),
        ("merchant_name", "a\nb"),
        ("merchant_name", "a\u2066b"),
        ("merchant_name", '"' * 21),
    ],
)
def test_a_value_beyond_the_worst_case_cannot_be_written(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        payment(**{field: value})


def command(payload: Any) -> Command:
    fields = {"command_id": "cmd_1", "command_name": "speak_code", "issued_at": SECOND, "expires_at": SECOND}
    return Command.model_validate(fields | {"payload": payload})


@pytest.mark.parametrize("payload", [{"x": "y" * (COMMAND_BYTES - 7)}, {"x": "é" * 117}, [], "{}", None])
def test_a_payload_beyond_the_worst_case_cannot_be_written(payload: object) -> None:
    with pytest.raises(ValidationError):
        command(payload)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_what_is_read_as_a_payload_is_written_again_within_its_bytes(payload: dict[str, Any]) -> None:
    document = {"message_type": "command", "command_id": "cmd_1", "command_name": "x"}

    try:
        read = decode(Command, as_json(document | {"payload": payload, "issued_at": SECOND, "expires_at": SECOND}))
    except MalformedMessage:
        return
    assert decode(Command, encode(read)) == read
    assert len(encode(read)) <= len(encode(command({}))) + COMMAND_BYTES


@pytest.mark.parametrize("code", ["123", "123456789", "12a4", "", 1234, None])
def test_a_code_is_four_to_eight_digits(code: object) -> None:
    with pytest.raises(MalformedMessage, match=r"^code: "):
        read_payload(COMMANDS["speak_code"], {"code": code})


def test_a_payload_is_read_with_the_model_of_its_command() -> None:
    assert read_payload(COMMANDS["speak_code"], {"code": "0123", "later": True}) == SpeakCode(code="0123")


# --- names ------------------------------------------------------------------------------------------------------------


@given(names)
def test_any_name_fits_the_wire_and_stays_when_it_comes_again(name: str) -> None:
    wire = merchant_name_for_wire(name)

    assert len(wire) <= 25
    assert len(json.dumps(wire, ensure_ascii=False).encode()) - 2 <= 40
    assert merchant_name_for_wire(wire) == wire
    assert decode(PaymentSuccess, encode(payment(merchant_name=wire))).merchant_name == wire


# --- writing ----------------------------------------------------------------------------------------------------------


def test_other_scripts_are_written_as_they_are() -> None:
    assert '"merchant_name":"Kopi Café 🍜"'.encode() in encode(payment(merchant_name="Kopi Café 🍜"))


def test_the_members_are_written_in_the_order_of_the_spec() -> None:
    assert list(json.loads(encode(payment(original_event_id="ann_0")))) == [
        *("message_type", "event_id", "transaction_id", "seq", "merchant_name", "amount", "currency"),
        *("paid_at", "issued_at", "expires_at", "original_event_id"),
    ]


def test_what_is_none_is_left_out() -> None:
    assert b"null" not in encode(payment())
    assert b"original_event_id" not in encode(payment())


def test_a_box_that_offers_nothing_special_does_not_say_so() -> None:
    status = Status(device_id=DEVICE, timestamp=SECOND, state="online", session_epoch=1)

    assert b"capabilities" not in encode(status)
    assert decode(Status, encode(status)).capabilities == Capabilities()


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        payment().amount = 1


def test_every_channel_has_its_message() -> None:
    assert MESSAGES.keys() == {*Uplink, *Downlink}
    assert len({model.model_fields["message_type"].default for model in MESSAGES.values()}) == len(MESSAGES)
