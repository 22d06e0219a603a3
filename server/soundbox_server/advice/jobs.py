"""Texts by a machine, written after the scores are there: one call at a time, and nobody ever waits for one."""

from dataclasses import dataclass, field
from functools import partial

import orjson
import structlog

from soundbox_server import clock, metrics
from soundbox_server.advice import prompts, service
from soundbox_server.advice.asking import Endpoint, Reply, ask
from soundbox_server.advice.facts import Facts, from_input
from soundbox_server.advice.judging import Judged, judge
from soundbox_server.advice.service import Claimed
from soundbox_server.advice.state import Verdict
from soundbox_server.db import Database, reading
from soundbox_server.scoring.state import Model

log = structlog.get_logger()

LOOK_EVERY_MS = 60_000
MERCHANTS_A_LOOK = 10
FAILURES_TO_OPEN = 3
REST_MS, LONGEST_REST_MS = 60_000, 30 * 60_000


@dataclass
class Circuit:
    """Whether the model is asked at all: after failures in a row it is left in peace, longer each time."""

    failures: int = 0
    closed_from_ms: int = 0

    def is_open(self, now_ms: int) -> bool:
        return now_ms < self.closed_from_ms

    def count(self, reply: Reply, *, now_ms: int) -> None:
        if reply.content is not None or reply.failure == "cut_off":
            self.failures = 0
            return
        self.failures += 1
        rest_ms = 0
        if self.failures >= FAILURES_TO_OPEN:
            rest_ms = min(REST_MS << min(self.failures - FAILURES_TO_OPEN, 10), LONGEST_REST_MS)
        self.closed_from_ms = now_ms + max(rest_ms, 1000 * (reply.retry_after_s or 0))


@dataclass(kw_only=True)
class Adviser:
    """Looks for what there is to write about, and has it written. Several may work at the same wishes."""

    database: Database
    endpoint: Endpoint
    scoring_model: Model
    calls_a_day: int
    circuit: Circuit = field(default_factory=Circuit)
    look_again_ms: int = 0

    async def tick(self) -> None:
        await self.look()
        while await self.write_one():
            pass

    async def look(self) -> None:
        """Wish for the texts of merchants that were scored anew."""
        now_ms = clock.now_ms()
        if now_ms < self.look_again_ms:
            return
        self.look_again_ms = now_ms + LOOK_EVERY_MS
        found = await self.database.read_at_leisure(
            lambda tx: service.due_for_a_look(tx, self.scoring_model, limit=MERCHANTS_A_LOOK, now_ms=now_ms)
        )
        for merchant_id, score_id in found:
            async with reading(self.database) as session:
                wanted = await service.worth_telling(session, merchant_id, self.scoring_model, now_ms=now_ms)
            await self.database.write(
                partial(service.want, merchant_id=merchant_id, wanted=wanted, score_id=score_id, now_ms=now_ms)
            )
        if len(found) == MERCHANTS_A_LOOK:
            self.look_again_ms = now_ms

    async def write_one(self) -> bool:
        """Ask for the next text; whether there may be another to ask for."""
        now_ms = clock.now_ms()
        if self.circuit.is_open(now_ms) or not await self.database.read(
            partial(service.anything_due, calls_a_day=self.calls_a_day, now_ms=now_ms)
        ):
            return False
        claimed = await self.database.write(lambda tx: service.claim(tx, calls_a_day=self.calls_a_day, now_ms=now_ms))
        if claimed is None:
            return False
        facts = from_input(claimed.use, orjson.loads(claimed.input))
        reply = await ask(self.endpoint, prompts.messages(facts))
        self.circuit.count(reply, now_ms=clock.now_ms())
        await self._keep(claimed, facts, reply)
        return True

    async def _keep(self, claimed: Claimed, facts: Facts, reply: Reply) -> None:
        judged: Judged | None = None if reply.content is None else judge(reply.content, facts)
        verdict = await self.database.write(
            lambda tx: service.settle(tx, claimed, reply, judged, model=self.endpoint.model, now_ms=clock.now_ms())
        )
        reason = reply.failure if judged is None else judged.reason
        metrics.labelled(metrics.advice, claimed.use.value, verdict.value).inc()
        metrics.advice_seconds.observe(reply.took_ms / 1000)
        if verdict is not Verdict.ACCEPTED:
            metrics.labelled(metrics.advice_unfit, reason or "").inc()
            log.warning("advice.unfit", use=claimed.use.value, reason=reason, tries=claimed.tries)
