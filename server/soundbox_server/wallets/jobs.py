"""What the worker does about withdrawals: ask banks."""

import asyncio
from collections.abc import Callable

import structlog

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.payouts.rails import IsOpen
from soundbox_server.payouts.service import Due, ask_bank
from soundbox_server.providers.banks import Bank
from soundbox_server.wallets import withdrawals

log = structlog.get_logger()

AT_ONCE = 16  # questions to the bank at the same time


class Withdrawer:
    """One for the process; any number of processes may have one."""

    def __init__(self, database: Database, bank: Callable[[], Bank | None], *, is_open: IsOpen) -> None:
        self._database = database
        self._bank = bank
        self._is_open = is_open

    async def tick(self) -> None:
        """Ask about those that are due."""
        claimed = await self._database.write(
            lambda tx: withdrawals.claim_due(tx, is_open=self._is_open, now_ms=clock.now_ms(), limit=AT_ONCE)
        )
        await asyncio.gather(*(self._ask(due) for due in claimed))

    async def _ask(self, due: Due) -> None:
        try:
            asked = await ask_bank(self._bank(), due)
            await self._database.write(lambda tx: withdrawals.record_answer(tx, asked, now_ms=clock.now_ms()))
        except Exception:  # the lease ends and it is resumed by query
            log.exception("withdrawal.answer_failed", withdrawal_id=due.id)
