"""A box without HTTPS changes its credential over MQTT: the same two phases, its secrets hidden from the broker."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from soundbox_protocol.messages import CredentialRequest, CredentialResponse, encode
from soundbox_protocol.provisioning import credential_key, packed_credential
from soundbox_protocol.sealing import seal
from soundbox_protocol.signing import sign
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Statements
from soundbox_server.devices import service
from soundbox_server.devices.credentials import Issued
from soundbox_server.errors import SoundboxError
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import Delivery
from soundbox_server.uplinks import Uplink

log = structlog.get_logger()

Issue = Callable[..., Awaitable[Issued]]  # (tx, device_id, *, hash_password, now_ms)
Confirm = Callable[..., Awaitable[bool]]  # (tx, device_id, credential_id, *, now_ms)


@dataclass(frozen=True, kw_only=True)
class CredentialRequests:
    """Answers each request in the transaction that does what it asks. An answer that is lost is asked for again."""

    issue: Issue
    confirm: Confirm
    hash_password: Callable[[str], str]
    key_of: Callable[[str, int], bytes]
    owner: str

    async def __call__(self, tx: Statements, uplinks: Sequence[Uplink[CredentialRequest]]) -> None:
        # Boxes in their order, because each request locks its box; each box's own order stays.
        for uplink in sorted(uplinks, key=lambda uplink: uplink.device_id):
            await self._take(tx, uplink)

    async def _take(self, tx: Statements, uplink: Uplink[CredentialRequest]) -> None:
        wanted, device_id, now_ms = uplink.message, uplink.device_id, uplink.received_at_ms
        versions = await service.key_versions(tx, [device_id])
        key, topic = self.key_of(device_id, versions[device_id]), downlink(device_id, Downlink.CREDENTIAL_RESPONSE)
        try:
            if wanted.confirm is None:
                body = await self._issued(tx, uplink, key, topic)
            else:
                if await self.confirm(tx, device_id, wanted.confirm, now_ms=now_ms):
                    await record(
                        tx, Actor(kind="device", id=device_id), "device.credential_rotated", ("device", device_id),
                        details={"credential_id": wanted.confirm, "door": "mqtt"},
                    )  # fmt: skip
                body = _body(wanted, status="confirmed", credential_id=wanted.confirm)
        except SoundboxError as error:  # raised before anything was written
            log.info("credential.refused", device_id=device_id, code=error.code, request=wanted.request_id)
            body = _body(wanted, status="failed", error_code=error.code)
        answer = outbox.Message(
            id=new_id("crr"),
            kind="credential_response",
            recipient_id=device_id,
            address=topic,
            body=sign(key, topic, body),
            created_at_ms=now_ms,
            expires_at_ms=None,
            trace_id=new_id("trc"),
            state=Delivery.SENT,
        )
        await outbox.queue(tx, [answer], owner=self.owner)

    async def _issued(self, tx: Statements, uplink: Uplink[CredentialRequest], key: bytes, topic: str) -> bytes:
        issued = await self.issue(tx, uplink.device_id, hash_password=self.hash_password, now_ms=uplink.received_at_ms)
        body = _body(uplink.message, status="issued", credential_id=issued.credential_id)
        return seal(credential_key(key), topic, body, packed_credential(issued.device_token, issued.broker_password))


def _body(request: CredentialRequest, **fields: Any) -> bytes:
    """Unchecked: what is sealed is added to the bytes, and our own records fit."""
    message = {"message_type": "credential_response", "correlation_id": request.request_id, **fields}
    return encode(CredentialResponse.model_construct(**message))
