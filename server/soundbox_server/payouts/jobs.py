"""What the worker does about payouts: begin those whose day has come, ask banks, and say who cannot be paid."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from soundbox_server import clock, failpoints
from soundbox_server.db import Database
from soundbox_server.payouts import service
from soundbox_server.payouts.rails import IsOpen
from soundbox_server.providers.banks import Bank

log = structlog.get_logger()

AT_ONCE = 16  # questions to the bank at the same time
BEGIN_AT_ONCE = 200
BEGIN_EVERY_MS = 10_000


class Payer:
    """One for the process; any number of processes may have one. `bank` is None where nobody pays but people."""

    def __init__(self, database: Database, bank: Callable[[], Bank | None], *, is_open: IsOpen) -> None:
        self._database = database
        self._bank = bank
        self._is_open = is_open
        self._begins_at_ms = 0

    async def tick(self) -> None:
        """One round: payouts that are due begin, now and then, and those whose bank is to be asked are asked, 16 at a
        time."""
        now_ms = clock.now_ms()
        if now_ms >= self._begins_at_ms:
            self._begins_at_ms = now_ms + BEGIN_EVERY_MS
            try:
                await self._begin()
                await self._database.write(lambda tx: service.say_who_cannot_be_paid(tx, now_ms=now_ms))
            except Exception:  # what is on its way already is asked about all the same
                log.exception("payouts.not_begun")
        await self.ask()

    async def _begin(self) -> None:
        bank = self._bank()
        name = None if bank is None else bank.name
        begun = [""]
        while begun:
            begin = partial(service.begin_due, bank=name, after=begun[-1], now_ms=clock.now_ms(), limit=BEGIN_AT_ONCE)
            begun = await self._database.write(begin)

    async def ask(self) -> int:
        """Ask about those that are due; how many there were."""
        claimed = await self._database.write(
            lambda tx: service.claim_due(tx, is_open=self._is_open, now_ms=clock.now_ms(), limit=AT_ONCE)
        )
        failpoints.reached("payout.claimed")
        await asyncio.gather(*(self._ask(due) for due in claimed))
        return len(claimed)

    async def _ask(self, due: service.Due) -> None:
        try:
            asked = await service.ask_bank(self._bank(), due)
            failpoints.reached("payout.answered")
            now_ms = clock.now_ms()
            await self._database.write(lambda tx: service.record_answer(tx, asked, now_ms=now_ms))
        except Exception:  # the lease ends and it is resumed by query
            log.exception("payout.answer_failed", payout_id=due.id)
