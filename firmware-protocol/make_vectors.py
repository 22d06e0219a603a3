"""Writes vectors/v1/*.json. It uses the standard library alone, so that the package is measured against something else.

    python firmware-protocol/make_vectors.py           write the files
    python firmware-protocol/make_vectors.py --check   fail when the committed files say something else

A vector that was released is never changed: boxes in the field were built on it. Add cases, do not edit them.
"""

import base64
import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "vectors" / "v1"
KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
DEVICE = "dev_01jz4q8w3v6n2m5k7r9t1x0abc"
OTHER_DEVICE = "dev_01jz4q8w3v6n2m5k7r9t1x0abd"
ANNOUNCEMENT = "ann_01jz4q9b7c8d9e0f1g2h3j4k5m"
REPLAY = "ann_01jz4qf0000000000000000000"
CREDENTIAL = "cred_01jz4q9d7c8d9e0f1g2h3j4k5q"
COMMAND = "cmd_01jz4q9c7c8d9e0f1g2h3j4k5p"
TRANSACTION = "txn_01jz4q97c8d9e0f1g2h3j4k5mn"
SHA256 = hashlib.sha256(b"voice pack").hexdigest()
CONFIG = (
    b'{"volume":70,"language":"id","template":"merchant",'
    b'"quiet_hours":{"start":"21:30","end":"06:00","volume":25},"heartbeat_s":60,"utc_offset_min":420}'
)
Case = dict[str, Any]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


CODE, NONCE, SERIAL = "K7QM29XW4T", "00112233445566778899aabbccddeeff", "SBX-2026-000001"
IV = bytes(range(0xA0, 0xAC))
TOKEN, PASSWORD = bytes(range(64, 96)), bytes(range(96, 128))


def _products() -> tuple[list[int], list[int]]:
    """AES's substitution box, and doubling in its field."""
    double = [(a << 1 ^ (0x1B if a & 0x80 else 0)) & 0xFF for a in range(256)]
    box, p, q = [0x63] * 256, 1, 1
    while True:
        p ^= double[p]  # p times three; q divided by three, so that p times q stays one
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q = (q ^ (0x09 if q & 0x80 else 0)) & 0xFF
        turned = q
        for by in range(1, 5):
            turned ^= (q << by | q >> (8 - by)) & 0xFF
        box[p] = turned ^ 0x63
        if p == 1:
            return box, double


BOX, DOUBLE = _products()


def aes256(key: bytes, block: bytes) -> bytes:
    """One block, encrypted (FIPS 197)."""
    words, round_constant = [key[at : at + 4] for at in range(0, 32, 4)], 1
    for number in range(8, 60):
        word = words[-1]
        if number % 8 == 0:
            word = bytes(BOX[b] for b in word[1:] + word[:1])
            word = bytes([word[0] ^ round_constant]) + word[1:]
            round_constant = DOUBLE[round_constant]
        elif number % 8 == 4:
            word = bytes(BOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[-8], word, strict=True)))
    keys = [b"".join(words[at : at + 4]) for at in range(0, 60, 4)]
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for number in range(1, 15):
        state = [BOX[state[(at + 4 * (at % 4)) % 16]] for at in range(16)]
        if number < 14:
            for column in range(0, 16, 4):
                a = state[column : column + 4]
                every = a[0] ^ a[1] ^ a[2] ^ a[3]
                state[column : column + 4] = [a[i] ^ every ^ DOUBLE[a[i] ^ a[(i + 1) % 4]] for i in range(4)]
        state = [a ^ b for a, b in zip(state, keys[number], strict=True)]
    return bytes(state)


def gcm(key: bytes, iv: bytes, plain: bytes, beside: bytes) -> bytes:
    """Ciphertext and tag (NIST SP 800-38D) with a nonce of 12 bytes."""

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 16)

    def times(x: int, y: int) -> int:
        product = 0
        for bit in range(127, -1, -1):
            if x >> bit & 1:
                product ^= y
            y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
        return product

    stream = b"".join(aes256(key, iv + counter.to_bytes(4, "big")) for counter in range(2, 2 + (len(plain) + 15) // 16))
    cipher = bytes(a ^ b for a, b in zip(plain, stream, strict=False))
    h, tag = int.from_bytes(aes256(key, bytes(16)), "big"), 0
    lengths = (len(beside) * 8).to_bytes(8, "big") + (len(cipher) * 8).to_bytes(8, "big")
    hashed = padded(beside) + padded(cipher) + lengths
    for at in range(0, len(hashed), 16):
        tag = times(tag ^ int.from_bytes(hashed[at : at + 16], "big"), h)
    mask = int.from_bytes(aes256(key, iv + b"\0\0\0\1"), "big")
    return cipher + (tag ^ mask).to_bytes(16, "big")


def hkdf(secret: bytes, salt: bytes, info: str) -> bytes:
    start = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(start, info.encode() + b"\1", hashlib.sha256).digest()


def sealed(key: bytes, topic: str, body: bytes, secrets: bytes) -> bytes:
    box = IV + gcm(key, IV, secrets, topic.encode() + b"\n" + body[:-1])
    return body[:-1] + b',"sealed":"' + base64.urlsafe_b64encode(box).rstrip(b"=") + b'"}'


def tlv(*objects: tuple[str, str]) -> str:
    return "".join(f"{tag}{len(value):02d}{value}" for tag, value in objects)


def crc(payload: str) -> str:
    """CRC-16/CCITT-FALSE, as at the end of every QR."""
    register = 0xFFFF
    for byte in payload.encode():
        register ^= byte << 8
        for _ in range(8):
            register = (register << 1 ^ (0x1021 if register & 0x8000 else 0)) & 0xFFFF
    return f"{register:04X}"


def qris() -> str:
    """A dynamic QR for Rp 50,000, of a merchant that does not exist."""
    acquirer = tlv(("00", "ID.CO.SANDBOX.WWW"), ("01", "936009990000000001"), ("02", "SBX0001"), ("03", "UMI"))
    switch = tlv(("00", "ID.CO.QRIS.WWW"), ("02", "ID1020000000001"), ("03", "UMI"))
    payload = tlv(
        ("00", "01"),
        ("01", "12"),
        ("26", acquirer),
        ("51", switch),
        ("52", "5812"),
        ("53", "360"),
        ("54", "50000"),
        ("58", "ID"),
        ("59", "WARUNG SARI"),
        ("60", "JAKARTA"),
        ("61", "10110"),
        ("62", tlv(("07", "T01"))),
    )
    return f"{payload}6304" + crc(f"{payload}6304")


def compact(**members: Any) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def signature(key: bytes, topic: str, body: bytes) -> str:
    mac = hmac.new(key, topic.encode() + b"\n" + body[:-1], hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def signed(key: bytes, topic: str, body: bytes) -> bytes:
    return body[:-1] + b',"sig":"' + signature(key, topic, body).encode() + b'"}'


def up(channel: str, device: str = DEVICE) -> str:
    return f"devices/{device}/uplink/{channel}"


def down(channel: str, device: str = DEVICE) -> str:
    return f"devices/{device}/downlink/{channel}"


def as_text(payload: bytes) -> dict[str, str]:
    """The bytes in hexadecimal, which decides, and as text where they are text, for the eye."""
    try:
        return {"payload": payload.decode(), "payload_hex": payload.hex()}
    except UnicodeDecodeError:
        return {"payload_hex": payload.hex()}


def said(name: str, meaning: str, topic: str, body: bytes, fields: dict[str, Any], *, written: bool = True) -> Case:
    """An uplink that is read. `written` when our own writer makes exactly these bytes of the fields."""
    return {"name": name, "meaning": meaning, "valid": True, "written": written, "topic": topic} | {
        **as_text(body),
        "fields": fields,
    }


def heard(name: str, meaning: str, topic: str, body: bytes, fields: dict[str, Any], *, written: bool = True) -> Case:
    """A downlink with its signature."""
    return {"name": name, "meaning": meaning, "valid": True, "written": written, "topic": topic} | {
        "key_hex": KEY.hex(),
        "body": body.decode(),
        "sig": signature(KEY, topic, body),
        **as_text(signed(KEY, topic, body)),
        "fields": fields,
    }


def refused(name: str, meaning: str, topic: str, payload: bytes, reason: str, *, key: bytes | None = None) -> Case:
    """`reason` is bad_signature or malformed, the latter with the member that is wrong where it is one."""
    refused_as, *member = reason.split()
    return {"name": name, "meaning": meaning, "valid": False, "refused_as": refused_as} | {
        **({"member": member[0]} if member else {}),
        "topic": topic,
        **({"key_hex": key.hex()} if key else {}),
        **as_text(payload),
    }


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def written(fields: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    return compact(**fields), fields


def status() -> list[Case]:
    topic = up("status")
    birth: dict[str, Any] = {
        "message_type": "status",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:00:00Z",
        "state": "online",
        "session_epoch": 7,
        "firmware_version": "1.0.3",
        "capabilities": {
            "max_payload_bytes": 1024,
            "tts": True,
            "clips": True,
            "url": False,
            "display": True,
            "mqtt5": False,
            "command_progress": True,
            "verify_signature": True,
        },
        "audio_pack": {"version": "id-2026.05", "sha256": SHA256},
        "last_announcement_seq": 41,
        "config_version": 3,
        "reset_reason": "power_on",
    }
    clockless = {
        "max_payload_bytes": 512,
        "tts": False,
        "clips": True,
        "url": False,
        "display": True,
        "mqtt5": False,
        "command_progress": False,
        "verify_signature": True,
        "clock": False,
        "digest": False,
    }
    will = {**dict(list(birth.items())[:3]), "state": "offline", "session_epoch": 7}
    smallest = {**will, "state": "online", "session_epoch": 1}
    later = {**smallest, "capabilities": {"max_payload_bytes": 512, "lamp": True}, "mood": "fine"}
    return [
        said("birth", "A box that came up, with everything it reports.", topic, *written(birth)),
        said("last-will", "What the broker says for a box that vanished.", topic, *written(will)),
        said("smallest-birth", "A box that says nothing of itself is a small one.", topic, *written(smallest)),
        said(
            "unknown-members",
            "Members of a later version, at any depth, are ignored.",
            topic,
            compact(**later),
            smallest,
            written=False,
        ),
        said(
            "configured",
            "It says by its hash which configuration is in force.",
            topic,
            *written(smallest | {"config_version": 4, "config_sha256": sha256(CONFIG)}),
        ),
        said(
            "no-clock",
            "It has to ask for the time after every start, and says no digests.",
            topic,
            *written(smallest | {"capabilities": clockless}),
        ),
        refused(
            "epoch-as-text",
            "Numbers are numbers.",
            topic,
            compact(**(will | {"session_epoch": "7"})),
            "malformed session_epoch",
        ),
        refused(
            "unknown-state", "There are two states.", topic, compact(**(will | {"state": "asleep"})), "malformed state"
        ),
        refused(
            "capability-as-number",
            "Wrong types are refused inside capabilities too.",
            topic,
            compact(**(smallest | {"capabilities": {"tts": 1}})),
            "malformed capabilities",
        ),
        refused(
            "somebody-else",
            "The broker vouches for the id in the topic; the message names another one.",
            topic,
            compact(**(will | {"device_id": OTHER_DEVICE})),
            "malformed device_id",
        ),
    ]


def heartbeat() -> list[Case]:
    topic = up("heartbeat")
    plain: dict[str, Any] = {
        "message_type": "heartbeat",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:00:30Z",
        "firmware_version": "1.0.3",
        "network_strength": 78,
        "battery_level": 92,
        "state": "idle",
    }
    full = plain | {
        "volume": 70,
        "queue_depth": 0,
        "clock_skew_ms": -120,
        "uptime_s": 86400,
        "bytes_today": 20480,
    }
    configured = plain | {"config_sha256": sha256(CONFIG)}
    mains = {key: value for key, value in plain.items() if key != "battery_level"}
    spaced = json.dumps(dict(reversed(plain.items())), indent=1).encode()
    fractional = plain | {"timestamp": "2026-05-23T10:00:30.250Z"}
    wrong: dict[str, tuple[str, dict[str, Any]]] = {
        "strength-over-100": ("Percentages end at 100.", {"network_strength": 101}),
        "battery-as-float": ("92.0 is not an integer here.", {"battery_level": 92.0}),
        "battery-as-bool": ("true is not 1.", {"battery_level": True}),
        "local-time": ("Times end in Z.", {"timestamp": "2026-05-23T17:00:30+07:00"}),
        "no-such-day": ("The calendar is checked.", {"timestamp": "2026-02-30T10:00:30Z"}),
        "reserved-id": ("Ids that begin with hub- belong to the hub.", {"device_id": "hub-shard-0"}),
        "bidi-override": ("Characters that turn a text around are refused.", {"firmware_version": "1.0\u202e3"}),
    }
    return [
        said("plain", "The members of the first contract.", topic, *written(plain)),
        said("full", "Everything a box can report.", topic, *written(full)),
        said("on-mains-power", "A box without a battery reports none.", topic, *written(mains)),
        said("fraction-of-a-second", "Uplinks may carry fractions.", topic, *written(fractional)),
        said("configured", "Which configuration is in force, by its hash.", topic, *written(configured)),
        said("other-order-and-spaces", "Order and white space mean nothing.", topic, spaced, plain, written=False),
        *(
            refused(name, meaning, topic, compact(**(plain | change)), f"malformed {next(iter(change))}")
            for name, (meaning, change) in wrong.items()
        ),
        refused("truncated", "Half a message.", topic, compact(**plain)[:-20], "malformed"),
        refused("empty", "No bytes at all.", topic, b"", "malformed"),
        refused("not-an-object", "A list is no message.", topic, b'["heartbeat"]', "malformed"),
        refused("not-utf8", "0xFF is not UTF-8.", topic, compact(**plain)[:-1] + b',"x":"\xff"}', "malformed"),
        refused("nan", "NaN is not JSON.", topic, compact(**plain)[:-1] + b',"x":NaN}', "malformed"),
        refused(
            "infinity", "A number too large for a float.", topic, compact(**plain)[:-1] + b',"x":1e999}', "malformed"
        ),
        refused(
            "half-a-surrogate-pair",
            "Also in a member that nobody knows.",
            topic,
            compact(**plain)[:-1] + b',"x":"\\ud83d"}',
            "malformed",
        ),
        refused("nul", "An escaped NUL.", topic, compact(**plain)[:-1] + b',"x":"\\u0000"}', "malformed"),
        refused(
            "key-twice",
            "Two readers may take different ones, so neither counts.",
            topic,
            compact(**plain)[:-1] + b',"state":"fault"}',
            "malformed",
        ),
        refused(
            "key-twice-inside",
            "The same at any depth.",
            topic,
            compact(**plain)[:-1] + b',"x":[{"a":1,"a":1}]}',
            "malformed",
        ),
        refused(
            "too-deep",
            "Nested deeper than 20.",
            topic,
            compact(**plain)[:-1] + b',"x":' + b"[" * 20 + b"]" * 20 + b"}",
            "malformed",
        ),
        refused(
            "too-long",
            "More than 4096 bytes.",
            topic,
            compact(**plain)[:-1] + b',"x":"' + b"x" * 4096 + b'"}',
            "malformed",
        ),
        refused(
            "another-message",
            "Not the message of this topic.",
            up("payment/ack"),
            compact(**plain),
            "malformed message_type",
        ),
        refused("unknown-channel", "No message travels here.", up("gossip"), compact(**plain), "malformed"),
        refused("a-downlink-topic", "Not a device's to say.", down("time"), compact(**plain), "malformed"),
    ]


def dynamic_qr_request() -> list[Case]:
    topic = up("dynamic-qr/request")
    request = {
        "message_type": "dynamic_qr_request",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:01:00Z",
        "request_id": "req_000123",
        "terminal_id": "trm_01jz4q8000000000000000abcd",
        "amount": 50000,
        "currency": "IDR",
        "created_at": "2026-05-23T10:01:00Z",
    }
    first_contract = {key: value for key, value in request.items() if key != "timestamp"}
    return [
        said("fifty-thousand", "Please show a QR for Rp 50,000.", topic, *written(request)),
        said("without-timestamp", "The first contract had created_at alone.", topic, *written(first_contract)),
        said(
            "zero",
            "Read, and answered with INVALID_AMOUNT: silence would leave the shopkeeper waiting.",
            topic,
            *written(request | {"amount": 0}),
        ),
        refused(
            "amount-as-float", "Money is whole.", topic, compact(**(request | {"amount": 50000.0})), "malformed amount"
        ),
        refused(
            "amount-as-text",
            "Money is a number.",
            topic,
            compact(**(request | {"amount": "50000"})),
            "malformed amount",
        ),
        refused("amount-too-large", "13 digits.", topic, compact(**(request | {"amount": 10**12})), "malformed amount"),
        refused(
            "currency-in-words",
            "Three letters.",
            topic,
            compact(**(request | {"currency": "rupiah"})),
            "malformed currency",
        ),
        refused(
            "request-id-too-long", "31.", topic, compact(**(request | {"request_id": "r" * 31})), "malformed request_id"
        ),
        refused(
            "no-request-id",
            "An answer would have nothing to refer to.",
            topic,
            compact(**{key: value for key, value in request.items() if key != "request_id"}),
            "malformed request_id",
        ),
    ]


def payment_ack() -> list[Case]:
    topic = up("payment/ack")
    received = {
        "message_type": "payment_ack",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:02:01Z",
        "event_id": ANNOUNCEMENT,
        "status": "received",
    }
    played = received | {
        "timestamp": "2026-05-23T10:02:04.500Z",
        "status": "played",
        "played_at": "2026-05-23T10:02:02Z",
    }
    duplicate = played | {"timestamp": "2026-05-23T10:02:09Z", "status": "duplicate"}
    failed = received | {"status": "failed", "reason": "interrupted"}
    return [
        said("received", "Journaled; the hub stops repeating.", topic, *written(received)),
        said("played", "Spoken, and when.", topic, *written(played)),
        said("duplicate", "Heard again, was spoken then.", topic, *written(duplicate)),
        said("failed", "The power went between journal and speaker.", topic, *written(failed)),
        said("stale", "It came too late to be spoken.", topic, *written(received | {"status": "stale_skipped"})),
        said("rejected", "Its signature or content was bad.", topic, *written(received | {"status": "rejected"})),
        refused("unknown-status", "Six words.", topic, compact(**(received | {"status": "ok"})), "malformed status"),
        refused("no-event", "Of what?", topic, compact(**(received | {"event_id": ""})), "malformed event_id"),
    ]


def payment_missing() -> list[Case]:
    topic = up("payment/missing")
    gap = {
        "message_type": "payment_missing",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:02:03Z",
        "from_seq": 43,
        "to_seq": 44,
    }
    return [
        said("two", "45 came, 43 and 44 did not.", topic, *written(gap)),
        said("one", "Both ends are included.", topic, *written(gap | {"to_seq": 43})),
        refused("seq-zero", "Counting begins at 1.", topic, compact(**(gap | {"from_seq": 0})), "malformed from_seq"),
        refused("seq-as-text", "A number.", topic, compact(**(gap | {"to_seq": "44"})), "malformed to_seq"),
        refused("backwards", "From the lower to the higher.", topic, compact(**(gap | {"to_seq": 42})), "malformed"),
    ]


def time_request() -> list[Case]:
    topic = up("time/request")
    asked = {
        "message_type": "time_request",
        "device_id": DEVICE,
        "timestamp": "1970-01-01T00:00:12Z",
        "nonce": "pY2m7QK0b4Xw",
    }
    return [
        said("no-clock", "A box that counts from 1970 asks for the time.", topic, *written(asked)),
        refused("no-nonce", "An old answer would fit.", topic, compact(**(asked | {"nonce": ""})), "malformed nonce"),
    ]


def event() -> list[Case]:
    topic = up("event")
    plain = {
        "message_type": "event",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:03:00Z",
        "code": "low_battery",
        "level": "warning",
        "detail": "9 %",
    }
    unlevelled = {key: value for key, value in plain.items() if key not in ("level", "detail")}
    return [
        said("low-battery", "Something an operator should see.", topic, *written(plain)),
        said(
            "no-level",
            "An event without a level is information.",
            topic,
            compact(**unlevelled),
            unlevelled,
            written=False,
        ),
        said(
            "button-replay",
            "Somebody at the till wants to hear the last payment once more.",
            topic,
            *written(plain | {"code": "button_replay", "level": "info"} | {"detail": "ann_01jz4q9b7c8d9e0f1g2h3j4k5m"}),
        ),
        said(
            "button-total",
            "The box has said its day's total: payments and rupiah.",
            topic,
            *written(plain | {"code": "button_total", "level": "info", "detail": "3 150000"}),
        ),
        said("new-code", "Codes are open: later boxes have more.", topic, *written(plain | {"code": "lid_opened"})),
        refused(
            "code-in-capitals",
            "Codes are lower case.",
            topic,
            compact(**(plain | {"code": "TAMPER"})),
            "malformed code",
        ),
        refused("detail-too-long", "256.", topic, compact(**(plain | {"detail": "x" * 256})), "malformed detail"),
        refused(
            "line-break", "Control characters.", topic, compact(**(plain | {"detail": "a\nb"})), "malformed detail"
        ),
    ]


def box_log() -> list[Case]:
    topic = up("log")
    line = {
        "message_type": "log",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:03:00.250Z",
        "level": "warning",
        "code": "audio_fault",
        "detail": "the speaker did not answer",
    }
    plain = {key: value for key, value in line.items() if key not in ("level", "code")}
    return [
        said("line", "A line of the log, while somebody listens.", topic, *written(line)),
        said("no-level", "A line without a level is information.", topic, compact(**plain), plain, written=False),
        refused("strange-level", "No such level.", topic, compact(**(line | {"level": "loud"})), "malformed level"),
        refused("nothing-said", "A line says something.", topic, compact(**{
            key: value for key, value in line.items() if key != "detail"
        }), "malformed detail"),
        refused("line-too-long", "256.", topic, compact(**(line | {"detail": "x" * 256})), "malformed detail"),
    ]  # fmt: skip


def dynamic_qr_response() -> list[Case]:
    topic = down("dynamic-qr/response")
    success = {
        "message_type": "dynamic_qr_response",
        "correlation_id": "req_000123",
        "transaction_id": TRANSACTION,
        "status": "success",
        "qr_payload": qris(),
        "expires_at": "2026-05-23T10:06:00Z",
    }
    failed = {
        "message_type": "dynamic_qr_response",
        "correlation_id": "req_000124",
        "status": "failed",
        "error_code": "INVALID_AMOUNT",
    }
    half = {key: value for key, value in success.items() if key != "qr_payload"}
    return [
        heard("success", "A QR to show until 10:06.", topic, *written(success)),
        heard("failed", "No QR, and why.", topic, *written(failed)),
        refused(
            "success-without-a-qr",
            "Signed, and still wrong.",
            topic,
            signed(KEY, topic, compact(**half)),
            "malformed",
            key=KEY,
        ),
        refused(
            "failed-without-a-reason",
            "Signed, and still wrong.",
            topic,
            signed(KEY, topic, compact(**{key: value for key, value in failed.items() if key != "error_code"})),
            "malformed",
            key=KEY,
        ),
    ]


def dynamic_qr_display() -> list[Case]:
    topic = down("dynamic-qr/display")
    show = {
        "message_type": "dynamic_qr_display",
        "transaction_id": TRANSACTION,
        "action": "show",
        "qr_payload": qris(),
        "amount": 50000,
        "expires_at": "2026-05-23T10:06:00Z",
    }
    paid = {"message_type": "dynamic_qr_display", "transaction_id": TRANSACTION, "action": "paid"}
    by_command = {"message_type": "dynamic_qr_display", "command_id": COMMAND} | without(
        show, "message_type", "transaction_id"
    )
    cleared = without(by_command, "qr_payload", "amount") | {"action": "clear"}
    return [
        heard("show", "A QR that was asked for elsewhere.", topic, *written(show)),
        heard("paid", "Take the QR away: it was paid.", topic, *written(paid)),
        heard("expired", "Take the QR away: nobody paid.", topic, *written(paid | {"action": "expired"})),
        heard("clear", "Take the QR away.", topic, *written(paid | {"action": "clear"})),
        heard("shown-by-command", "An operator's wish: acked as a command is.", topic, *written(by_command)),
        heard("cleared-by-command", "Whatever is shown goes.", topic, *written(cleared)),
        *(
            refused(name, meaning, topic, signed(KEY, topic, compact(**fields)), "malformed", key=KEY)
            for name, meaning, fields in (
                ("of-both", "Of a payment or of a command.", show | {"command_id": COMMAND}),
                ("of-neither", "Of what?", without(show, "transaction_id")),
                ("command-without-an-end", "It may come late.", without(by_command, "expires_at")),
                ("paid-by-command", "Only money says so.", cleared | {"action": "paid"}),
            )
        ),
        refused(
            "show-nothing",
            "There is no QR to show.",
            topic,
            signed(KEY, topic, compact(**(paid | {"action": "show"}))),
            "malformed",
            key=KEY,
        ),
    ]


def payment_success() -> list[Case]:
    topic = down("payment/success")
    paid = {
        "message_type": "payment_success",
        "event_id": ANNOUNCEMENT,
        "transaction_id": TRANSACTION,
        "seq": 42,
        "merchant_name": "Warung Sari",
        "amount": 50000,
        "currency": "IDR",
        "paid_at": "2026-05-23T10:02:00Z",
        "issued_at": "2026-05-23T10:02:00Z",
        "expires_at": "2026-05-23T10:03:00Z",
    }
    replay = paid | {"event_id": REPLAY, "seq": 43, "original_event_id": ANNOUNCEMENT}
    replay |= {"issued_at": "2026-05-23T10:09:00Z", "expires_at": "2026-05-23T10:10:00Z"}
    named = paid | {"merchant_name": 'Kopi "Café" \\ 🍜☕'}
    largest = paid | {
        "event_id": "e" * 30,
        "transaction_id": "t" * 30,
        "seq": 2**31 - 1,
        "merchant_name": '"\\' * 10,
        "amount": 999_999_999_999,
        "original_event_id": "o" * 30,
    }
    body = compact(**paid)
    good = signed(KEY, topic, body)
    mac = signature(KEY, topic, body)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same_bytes = mac[:-1] + alphabet[alphabet.index(mac[-1]) | 1]  # the last two bits carry nothing
    later = {**paid, "tip": 2000}

    def bad(name: str, meaning: str, payload: bytes, *, where: str = topic, key: bytes = KEY) -> Case:
        return refused(name, meaning, where, payload, "bad_signature", key=key)

    def wrong(name: str, meaning: str, **change: Any) -> Case:
        reason = f"malformed {next(iter(change))}"
        return refused(name, meaning, topic, signed(KEY, topic, compact(**(paid | change))), reason, key=KEY)

    return [
        heard("fifty-thousand", "Rp 50,000 arrived: say so once, not after 10:03.", topic, *written(paid)),
        heard("replay", "Say it again, as a replay of an earlier one.", topic, *written(replay)),
        heard("quotes-and-emoji", "Raw UTF-8; quotes and backslashes escaped.", topic, *written(named)),
        heard("largest", "The longest legal values.", topic, *written(largest)),
        heard(
            "unknown-member",
            "A later hub says more: ignored, but signed.",
            topic,
            compact(**later),
            paid,
            written=False,
        ),
        bad("amount-changed", "One digit more.", good.replace(b'"amount":50000', b'"amount":500000')),
        bad("one-bit-changed", "In the body.", good.replace(b"Warung", b"Xarung")),
        bad("sig-changed", "In the signature.", good[:-3] + (b"A" if good[-3:-2] != b"A" else b"Q") + good[-2:]),
        bad("other-key", "Signed for another box.", signed(OTHER_KEY, topic, body)),
        bad("wrong-topic", "A good message on another box's topic.", good, where=down("payment/success", OTHER_DEVICE)),
        bad("wrong-channel", "A good message on another channel.", good, where=down("dynamic-qr/display")),
        bad("no-sig", "Not signed at all.", body),
        bad("truncated", "The last byte is missing.", good[:-1]),
        bad("newline-after", "One byte too many.", good + b"\n"),
        bad("space-before-sig", "Signed bytes end right before the comma.", good.replace(b',"sig"', b', "sig"')),
        bad("sig-first", "The signature is the last member.", b'{"sig":"' + mac.encode() + b'",' + body[1:]),
        bad("sig-padded", "Base64 without padding.", body[:-1] + f',"sig":"{mac}="}}'.encode()),
        bad(
            "sig-in-hex",
            "Not base64url.",
            body[:-1] + b',"sig":"' + base64.b64decode(mac[:40], b"-_").hex().encode() + b'"}',
        ),
        bad(
            "sig-spelled-otherwise",
            "The same 32 bytes, unused bits set.",
            body[:-1] + f',"sig":"{same_bytes}"}}'.encode(),
        ),
        bad("only-a-sig", "Nothing was signed.", b'{"sig":"' + mac.encode() + b'"}'),
        bad("empty", "No bytes at all.", b""),
        refused(
            "key-twice",
            "Signed, and still ambiguous.",
            topic,
            signed(KEY, topic, body[:-1] + b',"amount":1}'),
            "malformed",
            key=KEY,
        ),
        wrong("amount-as-text", "Money is a number.", amount="50000"),
        wrong("amount-as-float", "Money is whole.", amount=50000.0),
        wrong("amount-zero", "Nothing arrived.", amount=0),
        wrong("name-too-long", "26 characters.", merchant_name="x" * 26),
        wrong("name-too-many-bytes", "11 characters, 44 bytes.", merchant_name="🍜" * 11),
        wrong("fraction-of-a-second", "Downlinks are whole seconds.", paid_at="2026-05-23T10:02:00.5Z"),
        wrong("seq-zero", "Counting begins at 1.", seq=0),
    ]


def payment_digest() -> list[Case]:
    topic = down("payment/digest")
    missed = {
        "message_type": "payment_digest",
        "event_id": ANNOUNCEMENT,
        "seq": 45,
        "count": 3,
        "amount": 150000,
        "from": "2026-05-23T09:40:00Z",
        "to": "2026-05-23T09:55:12Z",
        "issued_at": "2026-05-23T10:00:05Z",
        "expires_at": "2026-05-23T10:01:05Z",
    }
    largest = missed | {"event_id": "e" * 30, "seq": 2**31 - 1, "count": 2**31 - 1, "amount": 999_999_999_999}
    good = signed(KEY, topic, compact(**missed))

    def wrong(name: str, meaning: str, **change: Any) -> Case:
        reason = f"malformed {next(iter(change))}"
        return refused(name, meaning, topic, signed(KEY, topic, compact(**(missed | change))), reason, key=KEY)

    return [
        heard("three", "Three payments were never heard: say so once, not after 10:01:05.", topic, *written(missed)),
        heard("largest", "The longest legal values.", topic, *written(largest)),
        heard("unknown-member", "Ignored, but signed.", topic, compact(**missed, late=1), missed, written=False),
        refused("amount-changed", "One digit more.", topic, good.replace(b":150000", b":1500000"), "bad_signature",
                key=KEY),
        refused("as-a-payment", "A good digest on another channel.", down("payment/success"), good, "bad_signature",
                key=KEY),
        refused("unsigned", "Anybody could say so.", topic, compact(**missed), "bad_signature", key=KEY),
        wrong("nothing-missed", "Then there is nothing to say.", count=0),
        wrong("count-as-text", "A number.", count="3"),
        wrong("amount-as-float", "Money is whole.", amount=150000.0),
        wrong("fraction-of-a-second", "Downlinks are whole seconds.", to="2026-05-23T09:55:12.5Z"),
        wrong("seq-zero", "Counting begins at 1.", seq=0),
    ]  # fmt: skip


def payment_skip() -> list[Case]:
    topic = down("payment/skip")
    gone = {"message_type": "payment_skip", "from_seq": 43, "to_seq": 44}
    largest = gone | {"from_seq": 2**31 - 1, "to_seq": 2**31 - 1}

    def wrong(name: str, meaning: str, reason: str, **change: Any) -> Case:
        return refused(name, meaning, topic, signed(KEY, topic, compact(**(gone | change))), reason, key=KEY)

    return [
        heard("two", "Neither 43 nor 44 will come.", topic, *written(gone)),
        heard("one", "Both ends are included.", topic, *written(gone | {"to_seq": 43})),
        heard("largest", "The longest legal values.", topic, *written(largest)),
        refused("unsigned", "Anybody could silence a box so.", topic, compact(**gone), "bad_signature", key=KEY),
        refused("range-changed", "One digit more.", topic,
                signed(KEY, topic, compact(**gone)).replace(b'"to_seq":44', b'"to_seq":440'), "bad_signature", key=KEY),
        wrong("seq-zero", "Counting begins at 1.", "malformed from_seq", from_seq=0),
        wrong("backwards", "From the lower to the higher.", "malformed", to_seq=42),
    ]  # fmt: skip


def time() -> list[Case]:
    topic = down("time")
    answer = {"message_type": "time", "server_time": "2026-05-23T10:00:01Z", "nonce": "pY2m7QK0b4Xw"}
    return [
        heard("answer", "The time, for the nonce that asked.", topic, *written(answer)),
        heard("another-nonce", "Read, and refused by whoever asked with another nonce: it is an old answer.", topic,
              *written(answer | {"nonce": "an-older-one"})),
        refused("time-changed", "One digit.", topic,
                signed(KEY, topic, compact(**answer)).replace(b"10:00:01", b"11:00:01"), "bad_signature", key=KEY),
        refused("other-key", "Signed for another box.", topic, signed(OTHER_KEY, topic, compact(**answer)),
                "bad_signature", key=KEY),
        refused("unsigned", "Anybody could say so.", topic, compact(**answer), "bad_signature", key=KEY),
    ]  # fmt: skip


COMMANDS: list[tuple[str, str, dict[str, Any]]] = [
    ("rotate_credential", "Get a new credential over MQTT.", {}),
    ("set_volume", "So loud from now on.", {"volume": 45}),
    ("play_test", "Say something.", {}),
    ("identify", "Say that it is you.", {}),
    ("daily_total", "Say what came in today.", {"count": 3, "amount": 150000}),
    ("reboot", "Begin anew.", {}),
    ("upload_log", "The last twenty lines of the log, in the ack.", {"lines": 20}),
    ("tail_log", "Five minutes of whatever is at least a warning.", {"level": "warning", "for_s": 300}),
    ("factory_reset", "Forget every setting.", {}),
    ("refresh_config", "Take in the retained configuration again.", {}),
]


def command() -> list[Case]:
    topic = down("command")
    speak = {
        "message_type": "command",
        "command_id": COMMAND,
        "command_name": "speak_code",
        "payload": {"code": "1234"},
        "issued_at": "2026-05-23T10:04:00Z",
        "expires_at": "2026-05-23T10:09:00Z",
    }
    later = speak | {"command_name": "dance", "payload": {"steps": [1, 2, {"left": True}], "tune": None}}
    nothing = speak | {"command_name": "blink", "payload": {}}
    longest = speak | {"command_id": "c" * 30, "command_name": "n" * 32, "payload": {"x": "y" * 232}}

    def wrong(name: str, meaning: str, **change: Any) -> Case:
        reason = f"malformed {next(iter(change))}"
        return refused(name, meaning, topic, signed(KEY, topic, compact(**(speak | change))), reason, key=KEY)

    return [
        heard("speak-code", "Say these digits one by one.", topic, *written(speak)),
        heard(
            "a-command-of-later", "Read, and answered with rejected: the box does not know it.", topic, *written(later)
        ),
        heard("nothing-to-add", "A command that needs no payload has an empty one.", topic, *written(nothing)),
        *(
            heard(name.replace("_", "-"), meaning, topic, *written(speak | {"command_name": name, "payload": payload}))
            for name, meaning, payload in COMMANDS
        ),
        heard("largest", "The longest legal values.", topic, *written(longest)),
        heard(
            "unknown-member",
            "A later hub says more: ignored, but signed.",
            topic,
            compact(**speak, urgent=True),
            speak,
            written=False,
        ),
        refused(
            "code-changed",
            "One digit.",
            topic,
            signed(KEY, topic, compact(**speak)).replace(b"1234", b"1235"),
            "bad_signature",
            key=KEY,
        ),
        refused("unsigned", "Anybody could say so.", topic, compact(**speak), "bad_signature", key=KEY),
        wrong("payload-as-text", "An object.", payload='{"code":"1234"}'),
        wrong("name-in-capitals", "Names are lower case.", command_name="SpeakCode"),
        wrong("payload-too-long", "241 bytes as encoded.", payload={"x": "y" * 233}),
        wrong("fraction-of-a-second", "Downlinks are whole seconds.", expires_at="2026-05-23T10:09:00.5Z"),
    ]


def config_push() -> list[Case]:
    topic = down("config/push")

    def push(config: bytes, **change: Any) -> tuple[bytes, dict[str, Any]]:
        """The hash covers the bytes as they are sent, whatever stands in them."""
        head = compact(message_type="config_push", config_version=4)
        tail = compact(sha256=sha256(config))
        body = head[:-1] + b',"config":' + config + b"," + tail[1:]
        return body, json.loads(body) | change

    full, fields = push(CONFIG)
    empty = push(b"{}")
    later = push(b'{"volume":40,"lamp":{"colour":"red"}}')
    longest = push(compact(x="y" * 292))
    spaced = push(b'{ "volume" : 40 }')

    def wrong(name: str, meaning: str, **change: Any) -> Case:
        reason = f"malformed {next(iter(change))}"
        return refused(name, meaning, topic, signed(KEY, topic, compact(**(fields | change))), reason, key=KEY)

    return [
        heard("full", "Everything that this edition configures.", topic, full, fields),
        heard("nothing", "Everything as it left the factory.", topic, *empty),
        heard("a-setting-of-later", "Members that the box does not know are hashed and ignored.", topic, *later),
        heard("largest", "300 bytes as encoded.", topic, *longest),
        heard("other-spacing", "Hash what was received.", topic, *spaced, written=False),
        refused(
            "volume-changed", "One digit.", topic, signed(KEY, topic, full).replace(b":70", b":99"), "bad_signature",
            key=KEY,
        ),
        refused("unsigned", "Anybody could say so.", topic, full, "bad_signature", key=KEY),
        wrong("config-as-text", "An object.", config="{}"),
        wrong("config-too-long", "301 bytes as encoded.", config={"x": "y" * 293}),
        wrong("version-nought", "Versions begin with 1.", config_version=0),
        wrong("hash-in-capitals", "Lower case.", sha256=sha256(CONFIG).upper()),
    ]  # fmt: skip


def config_ack() -> list[Case]:
    topic = up("config/ack")
    applied = {
        "message_type": "config_ack",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:00:01Z",
        "config_version": 4,
        "status": "applied",
        "sha256": sha256(CONFIG),
    }
    rejected = applied | {"status": "rejected", "errors": ["template: not one of this box", "heartbeat_s: too often"]}
    http = {key: value for key, value in applied.items() if key not in ("timestamp", "sha256")}
    return [
        said("applied", "In force from now on.", topic, *written(applied)),
        said("rejected", "Nothing of it is in force, and why.", topic, *written(rejected)),
        said("shortest", "A box that says no more than it must.", topic, *written(http)),
        refused("version-as-text", "A number.", topic, compact(**(applied | {"config_version": "4"})),
                "malformed config_version"),
        refused("half-applied", "All or nothing.", topic, compact(**(applied | {"status": "partly"})),
                "malformed status"),
        refused("errors-as-text", "A list.", topic, compact(**(rejected | {"errors": "no"})), "malformed errors"),
        refused("too-many-errors", "Eight at most.", topic, compact(**(rejected | {"errors": ["no"] * 9})),
                "malformed errors"),
    ]  # fmt: skip


def command_ack() -> list[Case]:
    topic = up("command/ack")
    delivered = {
        "message_type": "command_ack",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:04:01Z",
        "command_id": COMMAND,
        "status": "delivered",
    }
    succeeded = delivered | {"timestamp": "2026-05-23T10:04:04.250Z", "status": "succeeded"}
    contract = {
        "message_type": "command_ack",
        "device_id": DEVICE,
        "command_id": COMMAND,
        "status": "delivered",
        "reason": "ok",
        "result_payload": {"payment_result": "ok"},
    }
    return [
        said("delivered", "The box has it; the hub stops repeating.", topic, *written(delivered)),
        said("succeeded", "Done.", topic, *written(succeeded)),
        said(
            "rejected",
            "It will not be done.",
            topic,
            *written(delivered | {"status": "rejected", "reason": "unsupported"}),
        ),
        said("failed", "It was tried.", topic, *written(delivered | {"status": "failed", "reason": "audio_fault"})),
        said(
            "progress",
            "On its way.",
            topic,
            *written(delivered | {"status": "progress", "result_payload": {"percent": 40}}),
        ),
        said("as-in-the-first-contract", "It had no timestamp.", topic, *written(contract)),
        refused("unknown-status", "Six words.", topic, compact(**(delivered | {"status": "ok"})), "malformed status"),
        refused("no-command", "Of what?", topic, compact(**(delivered | {"command_id": ""})), "malformed command_id"),
        refused(
            "result-as-text",
            "An object.",
            topic,
            compact(**(delivered | {"result_payload": "ok"})),
            "malformed result_payload",
        ),
    ]


def credential_request() -> list[Case]:
    topic = up("credential/request")
    asked = {
        "message_type": "credential_request",
        "device_id": DEVICE,
        "timestamp": "2026-05-23T10:10:00Z",
        "request_id": "rot_1",
    }
    confirmed = asked | {"request_id": "rot_2", "confirm": CREDENTIAL}
    return [
        said("ask", "A new credential, please.", topic, *written(asked)),
        said("confirm", "It is stored: let it take effect.", topic, *written(confirmed)),
        refused(
            "no-request-id",
            "The answer needs one.",
            topic,
            compact(**(asked | {"request_id": ""})),
            "malformed request_id",
        ),
        refused("confirm-nothing", "Which?", topic, compact(**(confirmed | {"confirm": ""})), "malformed confirm"),
    ]


def credential_response() -> list[Case]:
    topic = down("credential/response")
    key = hkdf(KEY, b"", "soundbox/credential/v1/response")
    head = {
        "message_type": "credential_response",
        "correlation_id": "rot_1",
        "status": "issued",
        "credential_id": CREDENTIAL,
    }
    body = sealed(key, topic, compact(**head), TOKEN + PASSWORD)
    issued = json.loads(body)
    confirmed = head | {"correlation_id": "rot_2", "status": "confirmed"}
    failed = {
        "message_type": "credential_response",
        "correlation_id": "rot_2",
        "status": "failed",
        "error_code": "CONFLICT",
    }
    opened = {"seal_key_hex": key.hex(), "secrets_hex": (TOKEN + PASSWORD).hex()}

    def wrong(name: str, meaning: str, content: bytes, reason: str = "malformed") -> Case:
        return refused(name, meaning, topic, signed(KEY, topic, content), reason, key=KEY)

    return [
        heard("issued", "A token and a password, 32 bytes each, sealed.", topic, body, issued) | opened,
        heard("confirmed", "It is in force; the one before it ends.", topic, *written(confirmed)),
        heard("failed", "Ask for a new one.", topic, *written(failed)),
        wrong("issued-without-secrets", "Signed, and still wrong.", compact(**head)),
        wrong(
            "failed-without-a-reason",
            "Signed, and still wrong.",
            compact(**{key: value for key, value in failed.items() if key != "error_code"}),
        ),
        wrong("confirmed-what", "Which one?", compact(**{k: v for k, v in confirmed.items() if k != "credential_id"})),
        refused("unsigned", "Anybody could say so.", topic, body, "bad_signature", key=KEY),
    ]


def provision_request() -> list[Case]:
    topic = f"provision/{NONCE}/request"
    key = hkdf(hashlib.sha256(CODE.encode()).digest(), bytes.fromhex(NONCE), "soundbox/provision/v1/request")
    asked = {"message_type": "provision_request", "serial_number": SERIAL}
    given = {"activation_code": CODE, "nonce": NONCE}

    def answered(case: Case) -> Case:
        return case | given | {"key_hex": key.hex()}

    body = compact(**asked)
    return [
        answered({"name": "ask", "meaning": "Who am I?", "valid": True, "written": True, "topic": topic})
        | {
            "body": body.decode(),
            "sig": signature(key, topic, body),
            **as_text(signed(key, topic, body)),
            "fields": asked,
        },
        answered(refused("unsigned", "Anybody could ask.", topic, body, "bad_signature")),
        answered(
            refused("other-code", "Not the code of this box.", topic, signed(OTHER_KEY, topic, body), "bad_signature")
        ),
        answered(
            refused(
                "other-nonce",
                "A good request, sent again on another topic.",
                f"provision/{'f' * 32}/request",
                signed(key, topic, body),
                "bad_signature",
            )
        ),
        answered(
            refused(
                "no-serial",
                "Which code is meant?",
                topic,
                signed(key, topic, compact(message_type="provision_request", serial_number="")),
                "malformed serial_number",
            )
        ),
    ]


def provision_response() -> list[Case]:
    topic = f"provision/{NONCE}/response"
    key = hkdf(hashlib.sha256(CODE.encode()).digest(), bytes.fromhex(NONCE), "soundbox/provision/v1/response")
    success: dict[str, Any] = {
        "message_type": "provision_response",
        "status": "success",
        "device_id": DEVICE,
        "key_version": 1,
        "host": "mqtt.example.com",
        "port": 8883,
        "tls": True,
        "server_time": "2026-05-23T10:00:01Z",
        "retry_after_s": 5,
    }
    failed = {"message_type": "provision_response", "status": "failed", "error_code": "UNAUTHENTICATED"}
    secrets = KEY + TOKEN + PASSWORD
    body = compact(**success)
    good = sealed(key, topic, body, secrets)
    given = {"activation_code": CODE, "nonce": NONCE, "key_hex": key.hex()}

    def bad(name: str, meaning: str, payload: bytes, *, where: str = topic) -> Case:
        return refused(name, meaning, where, payload, "cannot_open") | given

    return [
        {
            "name": "success",
            "meaning": "A name, a place and three secrets.",
            "valid": True,
            "written": True,
            "topic": topic,
        }
        | given
        | {"body": body.decode(), "iv_hex": IV.hex(), "secrets_hex": secrets.hex(), **as_text(good), "fields": success},
        {"name": "failed", "meaning": "Code and serial do not fit.", "valid": True, "written": True, "topic": topic}
        | given
        | {"body": compact(**failed).decode(), **as_text(compact(**failed)), "fields": failed},
        bad("host-changed", "What is readable is authenticated too.", good.replace(b"mqtt.", b"evil.")),
        bad("one-bit-changed", "In what is sealed.", good[:-3] + (b"A" if good[-3:-2] != b"A" else b"Q") + good[-2:]),
        bad("other-topic", "An answer to somebody else.", good, where=f"provision/{'f' * 32}/response"),
        bad("other-code", "Sealed with another key.", sealed(OTHER_KEY, topic, body, secrets)),
        bad("nothing-sealed", "A name without its secrets.", body),
    ]


def topics() -> list[dict[str, Any]]:
    good = [
        (up("status"), ["uplink", DEVICE, "status"]),
        (up("dynamic-qr/request"), ["uplink", DEVICE, "dynamic-qr/request"]),
        (up("a/channel/of-version-2"), ["uplink", DEVICE, "a/channel/of-version-2"]),
        (down("payment/success"), ["downlink", DEVICE, "payment/success"]),
        ("devices/abc/uplink/status", ["uplink", "abc", "status"]),
        (f"devices/{'a' * 32}/downlink/time", ["downlink", "a" * 32, "time"]),
    ]
    bad = [
        "devices/ab/uplink/status",
        f"devices/{'a' * 33}/uplink/status",
        "devices/DEV_1/uplink/status",
        "devices/_abc/uplink/status",
        "devices/hub-shard-0/uplink/status",
        "devices/+/uplink/#",
        "devices/abc/uplink/",
        "devices/abc/uplink",
        "devices/abc/uplink/status\n",
        "devices/abc\n/uplink/status",
        "devices/abc/uplink//status",
        "devices/abc/uplink/+",
        "devices/abc/sideways/status",
        "/devices/abc/uplink/status",
        "$SYS/broker/uptime",
        "",
    ]
    return [{"topic": topic, "parsed": parsed} for topic, parsed in good] + [{"topic": t, "parsed": None} for t in bad]


def merchant_names() -> list[dict[str, str]]:
    names = [
        ("Warung Sari", "Warung Sari", "as it is"),
        ("Toko Kelontong Bu Siti Aminah", "Toko Kelontong Bu Siti Am", "25 characters"),
        ("Warung Makan Ibu Kartini Jakarta", "Warung Makan Ibu Kartini", "no space at the end of a cut"),
        ("🍜" * 12, "🍜" * 10, "40 bytes, never half a character"),
        ('"' * 25, '"' * 20, "escapes count: a quote takes two bytes"),
        ("\\" * 25, "\\" * 20, "a backslash too"),
        ("Kopi\tdan\r\nTeh", "Kopi dan Teh", "control characters become one space"),
        ("  Dua   Spasi  ", "Dua Spasi", "runs of spaces"),
        ("Toko\u202egnutaW", "TokognutaW", "nothing may turn the text around"),
        ("Cafe\u0301", "Café", "composed"),
        ("", "", "no name"),
    ]
    return [{"name": name, "wire": wire, "meaning": meaning} for name, wire, meaning in names]


AMOUNTS = [
    (0, "nol", "zero"),
    (1, "satu", "one"),
    (9, "sembilan", "nine"),
    (10, "sepuluh", "ten"),
    (11, "sebelas", "eleven"),
    (12, "dua belas", "twelve"),
    (19, "sembilan belas", "nineteen"),
    (20, "dua puluh", "twenty"),
    (21, "dua puluh satu", "twenty one"),
    (99, "sembilan puluh sembilan", "ninety nine"),
    (100, "seratus", "one hundred"),
    (101, "seratus satu", "one hundred one"),
    (110, "seratus sepuluh", "one hundred ten"),
    (111, "seratus sebelas", "one hundred eleven"),
    (200, "dua ratus", "two hundred"),
    (999, "sembilan ratus sembilan puluh sembilan", "nine hundred ninety nine"),
    (1_000, "seribu", "one thousand"),
    (1_001, "seribu satu", "one thousand one"),
    (1_100, "seribu seratus", "one thousand one hundred"),
    (1_999, "seribu sembilan ratus sembilan puluh sembilan", "one thousand nine hundred ninety nine"),
    (2_000, "dua ribu", "two thousand"),
    (10_000, "sepuluh ribu", "ten thousand"),
    (11_000, "sebelas ribu", "eleven thousand"),
    (12_500, "dua belas ribu lima ratus", "twelve thousand five hundred"),
    (21_000, "dua puluh satu ribu", "twenty one thousand"),
    (50_000, "lima puluh ribu", "fifty thousand"),
    (100_000, "seratus ribu", "one hundred thousand"),
    (101_000, "seratus satu ribu", "one hundred one thousand"),
    (111_111, "seratus sebelas ribu seratus sebelas", "one hundred eleven thousand one hundred eleven"),
    (1_000_000, "satu juta", "one million"),
    (1_000_001, "satu juta satu", "one million one"),
    (1_001_000, "satu juta seribu", "one million one thousand"),
    (1_500_000, "satu juta lima ratus ribu", "one million five hundred thousand"),
    (10_000_000, "sepuluh juta", "ten million"),
    (100_000_000, "seratus juta", "one hundred million"),
    (1_000_000_000, "satu miliar", "one billion"),
    (1_001_001_001, "satu miliar satu juta seribu satu", "one billion one million one thousand one"),
    (
        999_999_999_999,
        "sembilan ratus sembilan puluh sembilan miliar sembilan ratus sembilan puluh sembilan juta "
        "sembilan ratus sembilan puluh sembilan ribu sembilan ratus sembilan puluh sembilan",
        "nine hundred ninety nine billion nine hundred ninety nine million "
        "nine hundred ninety nine thousand nine hundred ninety nine",
    ),
]


def amounts() -> list[dict[str, Any]]:
    return [
        {"amount": amount}
        | {
            language: {"words": words, "clips": [f"{language}/{word}" for word in words.split()]}
            for language, words in (("id", indonesian), ("en", english))
        }
        for amount, indonesian, english in AMOUNTS
    ]


def sentences() -> list[dict[str, Any]]:
    fifty = {
        "id": ["id/pembayaran-diterima", "id/lima", "id/puluh", "id/ribu", "id/rupiah"],
        "en": ["en/payment-received", "en/fifty", "en/thousand", "en/rupiah"],
    }
    said = [
        ("id", None, False, "Pembayaran diterima, lima puluh ribu rupiah"),
        ("en", None, False, "Payment received, fifty thousand rupiah"),
        ("id", "Warung Sari", False, "Warung Sari, pembayaran diterima, lima puluh ribu rupiah"),
        ("en", "Warung Sari", False, "Warung Sari, payment received, fifty thousand rupiah"),
        ("id", None, True, "Ulangan: pembayaran diterima, lima puluh ribu rupiah"),
        ("en", None, True, "Replay: payment received, fifty thousand rupiah"),
        ("id", "Warung Sari", True, "Ulangan: Warung Sari, pembayaran diterima, lima puluh ribu rupiah"),
        ("en", "Warung Sari", True, "Replay: Warung Sari, payment received, fifty thousand rupiah"),
    ]
    opening = {"id": ["id/ulangan"], "en": ["en/replay"]}
    return [
        {"amount": 50_000, "language": language, "merchant_name": name, "replay": replay}
        | {"sentence": sentence, "clips": (opening[language] if replay else []) + fifty[language]}
        for language, name, replay, sentence in said
    ]


def totals() -> list[dict[str, Any]]:
    said = [
        (3, 150_000, "Total hari ini: tiga pembayaran, seratus lima puluh ribu rupiah",
         "Total today: three payments, one hundred fifty thousand rupiah"),
        (0, 0, "Total hari ini: nol pembayaran, nol rupiah", "Total today: zero payments, zero rupiah"),
    ]  # fmt: skip
    heads = {"id": ("total hari ini", "total-hari-ini"), "en": ("total today", "total-today")}

    def clips(sentence: str, language: str) -> list[str]:
        words = sentence.lower().replace(":", "").replace(",", "").replace(*heads[language]).split()
        return [f"{language}/{word}" for word in words]

    return [
        {"count": count, "amount": amount}
        | {language: {"sentence": text, "clips": clips(text, language)} for language, text in (("id", id_), ("en", en))}
        for count, amount, id_, en in said
    ]


def digests() -> list[dict[str, Any]]:
    said = [
        (3, 150_000, "Tiga pembayaran terlewat, total seratus lima puluh ribu rupiah",
         "Three missed payments, total one hundred fifty thousand rupiah"),
        (1, 12_500, "Satu pembayaran terlewat, total dua belas ribu lima ratus rupiah",
         "One missed payment, total twelve thousand five hundred rupiah"),
    ]  # fmt: skip
    phrases = ("pembayaran terlewat", "missed payments", "missed payment")

    def clips(sentence: str, language: str) -> list[str]:
        told = sentence.lower().replace(",", "")
        for phrase in phrases:
            told = told.replace(phrase, phrase.replace(" ", "-"))
        return [f"{language}/{word}" for word in told.split()]

    return [
        {"count": count, "amount": amount}
        | {language: {"sentence": text, "clips": clips(text, language)} for language, text in (("id", id_), ("en", en))}
        for count, amount, id_, en in said
    ]


def notices() -> list[dict[str, Any]]:
    return [
        {
            "name": "sound_test",
            "id": {"sentence": "Tes suara: satu dua tiga", "clips": ["id/tes-suara", "id/satu", "id/dua", "id/tiga"]},
            "en": {"sentence": "Sound test: one two three",
                   "clips": ["en/sound-test", "en/one", "en/two", "en/three"]},
        },
        {
            "name": "here",
            "id": {"sentence": "Saya di sini", "clips": ["id/saya-di-sini"]},
            "en": {"sentence": "Here I am", "clips": ["en/here-i-am"]},
        },
    ]  # fmt: skip


CODES = [
    ("1234", "Kode: satu dua tiga empat", "Code: one two three four"),
    ("0070", "Kode: nol nol tujuh nol", "Code: zero zero seven zero"),
    (
        "56789012",
        "Kode: lima enam tujuh delapan sembilan nol satu dua",
        "Code: five six seven eight nine zero one two",
    ),
]


def codes() -> list[dict[str, Any]]:
    return [
        {"code": code}
        | {
            language: {"sentence": said, "clips": [f"{language}/{w}" for w in said.lower().replace(":", "").split()]}
            for language, said in (("id", indonesian), ("en", english))
        }
        for code, indonesian, english in CODES
    ]


def files() -> dict[str, str]:
    messages = {
        "status": status(),
        "heartbeat": heartbeat(),
        "dynamic-qr-request": dynamic_qr_request(),
        "payment-ack": payment_ack(),
        "payment-missing": payment_missing(),
        "time-request": time_request(),
        "event": event(),
        "command-ack": command_ack(),
        "credential-request": credential_request(),
        "config-ack": config_ack(),
        "log": box_log(),
        "config-push": config_push(),
        "dynamic-qr-response": dynamic_qr_response(),
        "dynamic-qr-display": dynamic_qr_display(),
        "payment-success": payment_success(),
        "payment-digest": payment_digest(),
        "payment-skip": payment_skip(),
        "time": time(),
        "command": command(),
        "credential-response": credential_response(),
        "provision-request": provision_request(),
        "provision-response": provision_response(),
    }
    others = {
        "topics": topics(),
        "merchant-names": merchant_names(),
        "amounts": amounts(),
        "sentences": sentences(),
        "codes": codes(),
        "totals": totals(),
        "digests": digests(),
        "notices": notices(),
    }
    return {f"{name}.json": _document(cases) for name, cases in (messages | others).items()}


def _document(cases: list[Any]) -> str:
    # The override that turns text around must not turn this file around in an editor.
    return json.dumps(cases, indent=1, ensure_ascii=False).replace("\u202e", "\\u202e") + "\n"


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
        changed = sorted(name for name in files().keys() | found.keys() if files().get(name) != found.get(name))
        print("\n".join(f"{name} differs" for name in changed), end="\n" if changed else "", file=sys.stderr)
        return 1 if changed else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
