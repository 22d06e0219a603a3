"""Boxes without a name ask over MQTT. They are answered one at a time, beside the uplinks of those that have one."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from soundbox_protocol.topics import PROVISION_FILTER, parse_provision_request, provision_response
from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.devices import provisioning
from soundbox_server.devices.provisioning import ANSWER_LIFE_MS, Answered, Granting
from soundbox_server.errors import SoundboxError
from soundbox_server.ids import new_id
from soundbox_server.outbox.service import Message
from soundbox_server.outbox.state import Delivery
from soundbox_server.uplinks import Aside

log = structlog.get_logger()

WAITING = 200
PER_NONCE = 20  # in the life of an answer
NONCES = 10_000
FORGET_EVERY_S = 60.0
AFTER_A_REFUSAL_S = 0.05  # nobody guesses faster than twenty times a second


class ProvisionDesk:
    """Takes requests as they come, at most so many, and `run` answers them. What is dropped is asked again."""

    def __init__(self, database: Database, granting: Granting, *, publish: Callable[[Sequence[Any]], None]) -> None:
        self._database = database
        self._granting = granting
        self._publish = publish
        self._waiting: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(WAITING)
        self._asked: OrderedDict[str, tuple[int, int]] = OrderedDict()  # nonce -> since when, how often

    @property
    def aside(self) -> Aside:
        return Aside(topic_filter=PROVISION_FILTER, take=self.take)

    def take(self, topic: str, payload: bytes) -> bool:
        """Whether this came to the desk's topics. What is malformed or too much is dropped without a word."""
        if not topic.startswith("provision/"):
            return False
        nonce = parse_provision_request(topic)
        if nonce is None or not self._may_ask(nonce, clock.now_ms()) or self._waiting.full():
            log.warning("provision.dropped", size=len(payload), waiting=self._waiting.qsize())
        else:
            self._waiting.put_nowait((nonce, payload))
        return True

    async def run(self) -> None:
        """Answer what waits; ends only by being cancelled."""
        while True:
            try:
                async with asyncio.timeout(FORGET_EVERY_S):
                    nonce, payload = await self._waiting.get()
            except TimeoutError:
                await self._forget()
                continue
            if await self._answer(nonce, payload):
                await asyncio.sleep(AFTER_A_REFUSAL_S)

    def _may_ask(self, nonce: str, now_ms: int) -> bool:
        since_ms, times = self._asked.get(nonce, (now_ms, 0))
        if now_ms - since_ms > ANSWER_LIFE_MS:
            since_ms, times = now_ms, 0
        self._asked[nonce] = (since_ms, times + 1)
        if len(self._asked) > NONCES:
            self._asked.popitem(last=False)
        return times < PER_NONCE

    async def _answer(self, nonce: str, payload: bytes) -> bool:
        """Whether it was refused."""
        try:
            answered = await self._database.write(
                lambda tx: provisioning.answer(tx, self._granting, nonce=nonce, payload=payload, now_ms=clock.now_ms())
            )
        except SoundboxError as error:  # a box out of service: told no more than anybody else
            log.warning("provision.refused", code=error.code)
            answered = Answered(payload=provisioning.REFUSAL)
        except Exception:  # the database is away: the box asks again
            log.exception("provision.not_answered")
            return False
        if answered.device_id is not None:
            log.info("device.activated", device_id=answered.device_id, door="mqtt")
        self._publish([_message(nonce, answered.payload)])
        return answered.payload == provisioning.REFUSAL

    async def _forget(self) -> None:
        try:
            await self._database.write(lambda tx: provisioning.forget(tx, now_ms=clock.now_ms()))
        except Exception:  # next time
            log.exception("provision.not_forgotten")


def _message(nonce: str, payload: bytes) -> Message:
    """Sent and not recorded: whoever did not get it asks again."""
    return Message(
        id=new_id("prv"),
        kind="provision_response",
        recipient_id="",
        address=provision_response(nonce),
        body=payload,
        created_at_ms=clock.now_ms(),
        expires_at_ms=None,
        trace_id=new_id("trc"),
        state=Delivery.SENT,
    )
