"""A name for a box that cannot speak HTTPS: the same codes, the same verb, and an answer that only the box can open."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from soundbox_protocol.messages import MalformedMessage, ProvisionRequest, ProvisionResponse, decode, encode
from soundbox_protocol.provisioning import Secrets, request_key, response_key
from soundbox_protocol.sealing import CannotOpen, seal, unseal
from soundbox_protocol.signing import BadSignature, verify
from soundbox_protocol.times import to_rfc3339
from soundbox_protocol.topics import provision_request, provision_response
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Statements
from soundbox_server.devices import service
from soundbox_server.errors import Unauthenticated

ANSWER_LIFE_MS = 600_000
BROKER_KNOWS_AFTER_S = 5  # its password file is written a moment after our commit
REFUSAL = encode(ProvisionResponse(status="failed", error_code=Unauthenticated.code))


@dataclass(frozen=True, kw_only=True)
class Granting:
    """What this process answers with: where boxes go on air, their announcement keys, and the key that an answer is
    kept under until it is forgotten."""

    host: str
    port: int
    tls: bool
    key_of: Callable[[str, int], bytes]
    hash_password: Callable[[str], str]
    kept_under: bytes


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The bytes to send back; `device_id` is there when this request activated the box."""

    payload: bytes
    device_id: str | None = None


async def answer(tx: Statements, granting: Granting, *, nonce: str, payload: bytes, now_ms: int) -> Answered:
    """Activate the box that proves to know its code, once; the same request again gets the same answer for ten
    minutes. Whatever does not fit gets one and the same refusal, and counts against the code."""
    hashed = hashlib.sha256(payload).hexdigest()
    kept = await tx.fetch(
        "SELECT request_sha256, answer FROM provision_answer WHERE nonce = $1 AND expires_at_ms > $2", nonce, now_ms
    )
    if kept:
        same = kept[0]["request_sha256"] == hashed
        return Answered(payload=_taken_out(granting, nonce, kept[0]["answer"]) if same else REFUSAL)
    try:
        serial_number = decode(ProvisionRequest, payload).serial_number
    except MalformedMessage:
        return Answered(payload=REFUSAL)
    code_hash = await _proven_code(tx, nonce, payload, serial_number, now_ms=now_ms)
    if code_hash is None:
        await service.count_failure(tx, serial_number)
        return Answered(payload=REFUSAL)
    activated = await service.activate_by_hash(
        tx, code_hash=code_hash, serial_number=serial_number, hash_password=granting.hash_password, now_ms=now_ms
    )
    if activated is None:
        return Answered(payload=REFUSAL)
    details = {"key_version": activated.key_version, "door": "mqtt"}
    await record(
        tx, Actor(kind="device", id=activated.device_id), "device.activated", ("device", activated.device_id),
        details=details,
    )  # fmt: skip
    sealed = _granted(granting, activated, nonce, code_hash, now_ms)
    await tx.execute("DELETE FROM provision_answer WHERE nonce = $1", nonce)
    await tx.execute(
        "INSERT INTO provision_answer (nonce, request_sha256, answer, expires_at_ms) VALUES ($1, $2, $3, $4)",
        nonce,
        hashed,
        _put_away(granting, nonce, sealed),
        now_ms + ANSWER_LIFE_MS,
    )
    return Answered(payload=sealed, device_id=activated.device_id)


_CODES = """
SELECT a.code_sha256 FROM activation_code a JOIN device d ON d.id = a.device_id
WHERE d.serial_number = $1 AND a.consumed_at_ms IS NULL AND a.expires_at_ms > $2 AND a.failures < $3
"""


async def _proven_code(tx: Statements, nonce: str, payload: bytes, serial_number: str, *, now_ms: int) -> str | None:
    """The hash of the code that signed this request, if one did."""
    for row in await tx.fetch(_CODES, serial_number, now_ms, service.CODE_FAILURES):
        key = request_key(bytes.fromhex(row["code_sha256"]), nonce)
        try:
            verify(key, provision_request(nonce), payload)
        except BadSignature:
            continue
        return str(row["code_sha256"])
    return None


def _granted(granting: Granting, activated: service.Activated, nonce: str, code_hash: str, now_ms: int) -> bytes:
    message = ProvisionResponse(
        status="success",
        device_id=activated.device_id,
        key_version=activated.key_version,
        host=granting.host,
        port=granting.port,
        tls=granting.tls,
        server_time=to_rfc3339(now_ms),
        retry_after_s=BROKER_KNOWS_AFTER_S,
    )
    secrets = Secrets(
        announcement_key=granting.key_of(activated.device_id, activated.key_version),
        device_token=activated.device_token,
        broker_password=activated.broker_password,
    )
    key = response_key(bytes.fromhex(code_hash), nonce)
    return seal(key, provision_response(nonce), encode(message), secrets.packed())


async def forget(tx: Statements, *, now_ms: int) -> None:
    """Answers that nobody may ask for any more."""
    await tx.execute("DELETE FROM provision_answer WHERE expires_at_ms <= $1", now_ms)


def _put_away(granting: Granting, nonce: str, answer: bytes) -> bytes:
    return seal(granting.kept_under, nonce, b'{"kept":1}', answer)


def _taken_out(granting: Granting, nonce: str, kept: bytes) -> bytes:
    try:
        return unseal(granting.kept_under, nonce, bytes(kept))[1]
    except CannotOpen:  # the master key was changed since
        return REFUSAL
