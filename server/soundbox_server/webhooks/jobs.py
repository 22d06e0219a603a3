"""Sending what is due. Each address has lanes of its own, so that a slow one is waited for by nobody else."""

import asyncio
import random
from collections import Counter, defaultdict
from functools import partial

import structlog

from soundbox_server import clock, metrics
from soundbox_server.db import Database, Statements
from soundbox_server.outbox import letters
from soundbox_server.seal import Ring
from soundbox_server.webhooks import deliveries
from soundbox_server.webhooks.deliveries import Claimed, Lane
from soundbox_server.webhooks.sender import Answer, Sender
from soundbox_server.webhooks.service import TRANSPORT

log = structlog.get_logger()

LANES = 4  # tries under way at once to one address; one while it fails
SECOND_LANES = 64  # nobody gets a second one while so many are under way
MOST_LANES = 400
MOST_OF_AN_ENDPOINT = 16  # lanes, where each letter may bring an address of its own
LETTERS_A_TURN = 50  # of one lane, where others wait


class Courier:
    """Turns events into letters and takes them where they go. Several may work at the same outbox."""

    def __init__(self, database: Database, sender: Sender, *, ring: Ring, owner: str) -> None:
        self._database = database
        self._sender = sender
        self._ring = ring
        self._owner = owner
        self._under_way: defaultdict[Lane, set[asyncio.Task[None]]] = defaultdict(set)

    async def tick(self) -> None:
        """Write what happened to whom it concerns, and begin to send what is due. Nobody is waited for here."""
        while await self._database.read(deliveries.anything):
            if await self._database.write(self._route) == 0:  # somebody else is at them
                break
        now_ms = clock.now_ms()
        due = await self._database.read(lambda tx: letters.recipients(tx, TRANSPORT, now_ms=now_ms))
        if not due:
            return
        failing = await self._database.read(lambda tx: deliveries.failing(tx, due))
        lanes = await self._database.read(lambda tx: deliveries.lanes(tx, due, now_ms=now_ms))
        random.shuffle(lanes)  # nobody is always the first
        busy = Counter({lane: len(tasks) for lane, tasks in self._under_way.items()})
        of_endpoint, open_lanes = Counter[str](), busy.total()
        for lane, count in busy.items():
            of_endpoint[lane.endpoint_id] += count
        for n in range(LANES):
            for lane in lanes:
                if busy[lane] > n or (n > 0 and lane.endpoint_id in failing):
                    continue
                if lane.address is not None and of_endpoint[lane.endpoint_id] >= MOST_OF_AN_ENDPOINT:
                    continue
                if open_lanes >= (MOST_LANES if n == 0 else SECOND_LANES):
                    break
                self._open_lane(lane)
                busy[lane] += 1
                open_lanes += 1
                of_endpoint[lane.endpoint_id] += 1

    async def drain(self) -> None:
        """Wait until nothing that was due is under way any more."""
        while tasks := [task for lanes in self._under_way.values() for task in lanes]:
            await asyncio.wait(tasks)

    async def end(self) -> None:
        """Stop in the middle: whatever was under way is tried again when its lease ends."""
        tasks = [task for lanes in self._under_way.values() for task in lanes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def forget(self) -> None:
        """Forget deliveries that nobody will ask about."""
        while (
            await self._database.write(lambda tx: deliveries.forget(tx, now_ms=clock.now_ms()))
            == deliveries.FORGET_LIMIT
        ):
            pass

    async def _route(self, tx: Statements) -> int:
        return await deliveries.route(tx, owner=self._owner, now_ms=clock.now_ms())

    def _open_lane(self, lane: Lane) -> None:
        task = asyncio.create_task(self._work_through(lane))
        self._under_way[lane].add(task)
        task.add_done_callback(partial(self._close_lane, lane))

    def _close_lane(self, lane: Lane, task: asyncio.Task[None]) -> None:
        lanes = self._under_way[lane]
        lanes.discard(task)
        if not lanes:
            del self._under_way[lane]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("webhook.lane_failed", endpoint_id=lane.endpoint_id, error=repr(error))

    async def _work_through(self, lane: Lane) -> None:
        """One letter after the other, until nothing is due there, a try fails or enough were sent: then the others have
        their turn."""
        for _ in range(LETTERS_A_TURN):
            letter = await self._database.write(partial(self._claim, lane))
            if letter is None or await self._deliver(letter) != "delivered":
                return

    async def _claim(self, lane: Lane, tx: Statements) -> Claimed | None:
        return await deliveries.claim(tx, lane, ring=self._ring, owner=self._owner, now_ms=clock.now_ms())

    async def _send(self, letter: Claimed, *, at_s: int) -> tuple[dict[str, str], Answer]:
        if not letter.secrets:
            return {}, Answer(duration_ms=0, error="secret_unreadable")
        headers = letter.headers(at_s=at_s)
        return headers, await self._sender.post(letter.url, headers=headers, body=letter.body)

    async def _deliver(self, letter: Claimed) -> str:
        began_ms = clock.now_ms()
        headers, answer = await self._send(letter, at_s=began_ms // 1000)
        luck = random.random()  # noqa: S311 - it spreads load, and guards nothing
        became = await self._database.write(
            lambda tx: deliveries.settle(
                tx, letter, answer, began_ms=began_ms, headers=headers, now_ms=clock.now_ms(), luck=luck
            )
        )
        metrics.labelled(metrics.webhooks, became).inc()
        metrics.webhook_seconds.observe(answer.duration_ms / 1000)
        say = {"delivered": log.info, "put_off": log.warning}.get(became, log.error)
        say(
            f"webhook.{became}", delivery_id=letter.id, endpoint_id=letter.endpoint_id, kind=letter.kind,
            attempt=letter.attempt, status=answer.status, reason=None if answer.taken else answer.reason,
            ms=answer.duration_ms,
        )  # fmt: skip
        return became
