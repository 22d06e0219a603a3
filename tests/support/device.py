"""A box driven by hand: real credentials, a real connection, and no box logic of its own."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiomqtt
import httpx
from support.stack import Stack

from soundbox_protocol.messages import MESSAGES, Message, Status, decode, encode
from soundbox_protocol.signing import verify
from soundbox_protocol.times import to_rfc3339
from soundbox_protocol.topics import Downlink, Uplink, downlink_filter, parse_downlink, uplink
from soundbox_server import clock


@dataclass(frozen=True)
class Credentials:
    device_id: str
    terminal_id: str
    token: str
    username: str
    password: str
    key: bytes

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


async def activate(stack: Stack, number: int = 0, *, bound: bool = True) -> Credentials:
    """Activate the world's box and, unless told otherwise, bind it to its terminal."""
    device = stack.world["devices"][number]
    async with httpx.AsyncClient(base_url=stack.url, timeout=20) as client:
        asked = {"activation_code": device["activation_code"], "serial_number": device["serial_number"]}
        answer = await client.post("/device/provision/activate", json=asked)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert "retry_after_s" not in data, data
        if bound:
            path = f"/admin/devices/{device['device_id']}/bind"
            put = await client.post(path, json={"terminal_id": device["terminal_id"]}, headers=await stack.login())
            assert put.status_code == 200, put.text
    return Credentials(
        device_id=data["device_id"],
        terminal_id=device["terminal_id"],
        token=data["device_token"],
        username=data["broker"]["username"],
        password=data["broker"]["password"],
        key=base64.urlsafe_b64decode(data["announcement_key"] + "="),
    )


class Line:
    """The box's connection: says what it is told to say and keeps what it hears, verified."""

    def __init__(self, client: aiomqtt.Client, credentials: Credentials) -> None:
        self._client = client
        self._credentials = credentials

    async def say(self, channel: Uplink, message: Message | bytes, *, qos: int = 1, retain: bool = False) -> None:
        payload = message if isinstance(message, bytes) else encode(message)
        await self._client.publish(uplink(self._credentials.device_id, channel), payload, qos, retain)

    async def birth(self, epoch: int, *, state: str = "online") -> None:
        status: dict[str, Any] = {"device_id": self._credentials.device_id, "timestamp": to_rfc3339(clock.now_ms())}
        await self.say(Uplink.STATUS, Status(**status, state=state, session_epoch=epoch), retain=True)

    async def hear(self, *, within_s: float = 30.0) -> tuple[Downlink, Any]:
        """The next downlink, its signature checked and the message read."""
        message = await asyncio.wait_for(anext(self._client.messages), within_s)
        topic, payload = str(message.topic), bytes(message.payload)
        named = parse_downlink(topic)
        assert named is not None
        assert named[0] == self._credentials.device_id
        channel = Downlink(named[1])
        return channel, decode(MESSAGES[channel], verify(self._credentials.key, topic, payload))


@contextlib.asynccontextmanager
async def line(stack: Stack, credentials: Credentials) -> AsyncIterator[Line]:
    async with aiomqtt.Client(
        "127.0.0.1", stack.broker_port, username=credentials.username, password=credentials.password,
        identifier=credentials.username,
    ) as client:  # fmt: skip
        await client.subscribe(downlink_filter(credentials.device_id), qos=1)
        yield Line(client, credentials)
