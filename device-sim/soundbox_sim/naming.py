"""How a box without HTTPS gets its name and its keys: once, over MQTT, with the code from its sticker.

The code never leaves the box. Its nonce is on the disk before it is used: the hub spends the code with its first
answer, and only who asks with the same nonce gets that answer again.
"""

import asyncio
import contextlib
import json
import secrets
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiomqtt

from soundbox_protocol.messages import MalformedMessage, ProvisionRequest, ProvisionResponse, decode, encode
from soundbox_protocol.provisioning import Secrets, code_secret, request_key, response_key
from soundbox_protocol.sealing import CannotOpen, unseal
from soundbox_protocol.signing import sign
from soundbox_protocol.topics import provision_request, provision_response
from soundbox_sim.activation import (
    ActivationRefused,
    BrokerAddress,
    Credentials,
    base64url,
    code_sha256,
    fits,
    load_credentials,
    store_credentials,
    write_durably,
)

FILE_NAME = "nonce.json"
USER = PASSWORD = "provision"  # noqa: S105 - every box has them, and they open nothing
PORTS = {"mqtt": 1883, "mqtts": 8884}
NONCE_LIFE_S = 540.0  # a little less than the hub keeps an answer
ANSWER_S = 5.0
ATTEMPTS = 12


def is_mqtt(server: str) -> bool:
    """Whether a server's address says that the box is to ask over MQTT: mqtt://host:port or mqtts://host:port."""
    return urlsplit(server).scheme in PORTS


async def credentials_over_mqtt(
    home: Path,
    *,
    server: str,
    serial_number: str,
    activation_code: str | None,
    tls: ssl.SSLContext | None = None,
    answer_s: float = ANSWER_S,
) -> Credentials:
    """Those of the last start, unless the server, the serial number or the code is another one. Raises
    ActivationRefused."""
    stored = load_credentials(home)
    if stored is not None and fits(stored, server, serial_number, activation_code):
        return stored
    if not activation_code:
        raise ActivationRefused(f"{home} holds no credentials for {serial_number} at {server}, and no code was given")
    question = _Question(_nonce(home, activation_code), serial_number, activation_code)
    fresh = await _ask(question, server=server, tls=tls, answer_s=answer_s)
    store_credentials(home, fresh)
    (home / FILE_NAME).unlink()
    return fresh


@dataclass(frozen=True, slots=True)
class _Question:
    nonce: str
    serial_number: str
    code: str

    @property
    def payload(self) -> bytes:
        body = encode(ProvisionRequest(serial_number=self.serial_number))
        return sign(request_key(code_secret(self.code), self.nonce), provision_request(self.nonce), body)


def _nonce(home: Path, activation_code: str) -> str:
    """The one that was begun with, while the hub still knows it; else a fresh one, written down first."""
    path, now_s = home / FILE_NAME, time.time()
    if path.exists():
        begun = json.loads(path.read_bytes())
        if begun["code_sha256"] == code_sha256(activation_code) and 0 <= now_s - begun["at_s"] < NONCE_LIFE_S:
            return str(begun["nonce"])
    nonce = secrets.token_hex(16)
    begun = {"nonce": nonce, "code_sha256": code_sha256(activation_code), "at_s": now_s}
    write_durably(path, json.dumps(begun).encode())
    return nonce


async def _ask(question: _Question, *, server: str, tls: ssl.SSLContext | None, answer_s: float) -> Credentials:
    problem = ""
    for attempt in range(ATTEMPTS):
        try:
            async with asyncio.timeout(answer_s * 2), _client(question, server, tls) as client:
                await client.subscribe(provision_response(question.nonce), qos=1)
                await client.publish(provision_request(question.nonce), question.payload, qos=1)
                return await _answer(client, question, server, answer_s)
        except (aiomqtt.MqttError, TimeoutError, OSError) as error:
            problem = str(error) or "no answer"
        if attempt + 1 < ATTEMPTS:
            await asyncio.sleep(min(answer_s / 5 * 2.0**attempt, 30.0))
    raise ActivationRefused(f"{problem}, after {ATTEMPTS} attempts")


async def _answer(client: aiomqtt.Client, question: _Question, server: str, answer_s: float) -> Credentials:
    """The first answer that can be believed. Raises TimeoutError."""
    async with asyncio.timeout(answer_s):
        async for message in client.messages:
            if not isinstance(message.payload, bytes):
                raise TypeError("paho hands over bytes")
            with contextlib.suppress(MalformedMessage, CannotOpen, ValueError):  # Somebody else's words.
                return _read(question, message.topic.value, message.payload, server)
    raise aiomqtt.MqttError("the connection ended before an answer came")


def _read(question: _Question, topic: str, payload: bytes, server: str) -> Credentials:
    said = decode(ProvisionResponse, payload)
    if said.status == "failed":
        raise ActivationRefused(str(said.error_code))
    body, opened = unseal(response_key(code_secret(question.code), question.nonce), topic, payload)
    granted, secret = decode(ProvisionResponse, body), Secrets.unpacked(opened)
    if granted.device_id is None or granted.host is None or granted.port is None or granted.key_version is None:
        raise MalformedMessage("success needs device_id, key_version, host and port")
    broker = BrokerAddress(
        host=granted.host,
        port=granted.port,
        username=granted.device_id,
        password=secret.broker_password,
        tls=bool(granted.tls),
    )
    return Credentials(
        device_id=granted.device_id,
        device_token=secret.device_token,
        broker=broker,
        announcement_key=base64url(secret.announcement_key),
        key_version=granted.key_version,
        server=server,
        serial_number=question.serial_number,
        code_sha256=code_sha256(question.code),
    )


def _client(question: _Question, server: str, tls: ssl.SSLContext | None) -> aiomqtt.Client:
    address = urlsplit(server)
    return aiomqtt.Client(
        address.hostname or "",
        address.port or PORTS[address.scheme],
        identifier=question.nonce,
        username=USER,
        password=PASSWORD,
        clean_session=True,
        tls_context=(tls or ssl.create_default_context()) if address.scheme == "mqtts" else None,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
