"""Scoring by the clock: everybody, once a night, by whichever worker is first, and by another where that one died."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import structlog

from soundbox_server import clock
from soundbox_server.access.mails import Desk
from soundbox_server.clock import JAKARTA_AHEAD_MS, jakarta_day, jakarta_ms
from soundbox_server.db import Database, Statements
from soundbox_server.ids import new_id
from soundbox_server.scoring import thresholds
from soundbox_server.scoring.early_warning import Thresholds
from soundbox_server.scoring.service import Facts, facts_of, measured_last, merchants_scored, rescore
from soundbox_server.scoring.state import Model
from soundbox_server.scoring.warnings import ITSELF, Hearing, follow

log = structlog.get_logger()

FROM_HOUR = 3  # in Jakarta: yesterday's late callbacks have come, and the books were looked at
LEASE_MS = 3_600_000
TOGETHER = 250  # merchants a commit: payments that wait for it wait a moment


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores everybody by one model, as of the beginning of the day in Jakarta."""

    database: Database
    model: Model
    thresholds: Thresholds
    desk: Desk
    hearing: Hearing = ITSELF

    async def tick(self) -> None:
        now_ms = clock.now_ms()
        if not await self.database.read(lambda tx: is_due(tx, self.model, now_ms=now_ms)):
            return
        day = await self.database.write(lambda tx: claim(tx, self.model, now_ms=now_ms))
        if day is None:
            return
        merchants = await self.score_everybody(as_of_ms=jakarta_ms(day))
        await self.database.write(lambda tx: finish(tx, self.model, day, merchants, now_ms=clock.now_ms()))
        log.info("scoring.done", day=day, model=self.model.value, merchants=merchants)

    async def score_everybody(self, *, as_of_ms: int) -> int:
        """Score whoever trades; returns how many that were. What stands there already stays."""
        facts = await self.database.read_at_leisure(lambda tx: facts_of(tx, self.model, as_of_ms=as_of_ms))
        left = iter(sorted(facts.items()))
        trace_id = new_id("trc")
        while some := dict(islice(left, TOGETHER)):
            await self._keep(some, as_of_ms=as_of_ms, trace_id=trace_id)
        return len(facts)

    async def _keep(self, facts: Mapping[str, Facts], *, as_of_ms: int, trace_id: str) -> None:
        await self.database.write(
            lambda tx: rescore(
                tx, facts, thresholds=self.thresholds, desk=self.desk, hearing=self.hearing, as_of_ms=as_of_ms,
                trace_id=trace_id, now_ms=clock.now_ms(),
            )
        )  # fmt: skip

    async def judge_for_banks(self) -> None:
        """Bring warnings in line with thresholds that banks changed, from what merchants were last scored by. Whoever
        begins it again, or beside us, finds it done."""
        for bank, version in await self.database.read(thresholds.unjudged):
            # Said before it is done: a merchant that lets the bank see it meanwhile has it done again.
            await self.database.write(
                partial(thresholds.judged, organisation_id=bank, version=version, now_ms=clock.now_ms())
            )
            try:
                await self._judge_for(bank)
            except BaseException:
                await self.database.write(partial(thresholds.judge_again, organisation_id=bank))
                raise

    async def _judge_for(self, bank: str) -> None:
        everybody = iter(await self.database.read_at_leisure(lambda tx: merchants_scored(tx, self.model)))
        while some := list(islice(everybody, TOGETHER)):
            await self.database.write(partial(self._judge, bank=bank, merchant_ids=some))

    async def _judge(self, tx: Statements, *, bank: str, merchant_ids: list[str]) -> None:
        now_ms = clock.now_ms()
        watched = await self.hearing.banks(tx, merchant_ids, now_ms=now_ms)
        theirs = [merchant_id for merchant_id in merchant_ids if bank in watched.get(merchant_id, ())]
        await follow(
            tx, await measured_last(tx, self.model, theirs), thresholds=self.thresholds, desk=self.desk,
            hearing=self.hearing, trace_id=new_id("trc"), now_ms=now_ms,
        )  # fmt: skip


async def is_due(tx: Statements, model: Model, *, now_ms: int) -> bool:
    """A look before the claim, which locks: nearly always there is nothing to do."""
    if (now_ms + JAKARTA_AHEAD_MS) // 3_600_000 % 24 < FROM_HOUR:
        return False
    rows = await tx.fetch(
        "SELECT finished_at_ms FROM scoring_run WHERE day = $1 AND model = $2", jakarta_day(now_ms), model.value
    )
    return not rows or rows[0]["finished_at_ms"] is None


async def claim(tx: Statements, model: Model, *, now_ms: int) -> str | None:
    """The day whose scoring is ours to do; None while somebody else does it."""
    day = jakarta_day(now_ms)
    rows = await tx.fetch(
        "INSERT INTO scoring_run (day, model, started_at_ms) VALUES ($1, $2, $3) ON CONFLICT (day, model) DO UPDATE "
        "SET started_at_ms = excluded.started_at_ms WHERE scoring_run.finished_at_ms IS NULL "
        "AND scoring_run.started_at_ms <= $4 RETURNING day",
        day, model.value, now_ms, now_ms - LEASE_MS,
    )  # fmt: skip
    return day if rows else None


async def finish(tx: Statements, model: Model, day: str, merchants: int, *, now_ms: int) -> None:
    await tx.execute(
        "UPDATE scoring_run SET finished_at_ms = $3, merchants = $4 WHERE day = $1 AND model = $2",
        day, model.value, now_ms, merchants,
    )  # fmt: skip
