"""What the worker does about payments on its own: ask providers for boxes' QR, for refunds and how charges stand, find
out whose orphans are, and end what nobody paid."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog

from soundbox_server import clock, failpoints
from soundbox_server.announcements.service import KeyOf, Telling
from soundbox_server.db import Database, Statements
from soundbox_server.errors import Conflict, PartnerTimeout
from soundbox_server.payments import asking, charging, choosing, dynamic_qr, orphans, refunds, service
from soundbox_server.payments.charging import Answered, Pending
from soundbox_server.payments.inquiry import Gateways as ByAccount
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.providers.base import ProviderRefused, ProviderUnknown
from soundbox_server.providers.registry import Gateways

log = structlog.get_logger()

AT_ONCE = 16  # questions to the provider at the same time


class QrIssuer:
    """Asks the provider for every question that came over MQTT and stores the answer, at most 16 at a time.

    The questions wait in the database: a crash loses none, and what was asked before is resumed by query.
    """

    def __init__(
        self,
        database: Database,
        gateways: Gateways,
        *,
        key_of: KeyOf,
        owner: str,
        publish: Callable[[Sequence[Any]], None],
        take_report: Callable[[Any], Any],
    ) -> None:
        self._database = database
        self._gateways = gateways
        self._key_of = key_of
        self._owner = owner
        self._publish = publish
        self._take_report = take_report
        self._running: set[asyncio.Task[None]] = set()
        self._inherits = True

    def take_over(self) -> None:
        """The shard is ours from now on: whoever was asking before has stopped, so nobody waits for their leases."""
        self._inherits = True

    async def tick(self) -> None:
        """Start on what waits, as far as there is room."""
        room = AT_ONCE - len(self._running)
        if room <= 0:
            return
        claimed = await self._database.write(lambda tx: self._claim(tx, room))
        self._inherits = False
        for pending in claimed:
            task = asyncio.create_task(self._answer(pending))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def end(self, *, within_s: float) -> None:
        """Let what runs finish within so many seconds; what does not is stopped, and resumed by query later."""
        if self._running:
            await asyncio.wait(self._running, timeout=within_s)
        unfinished = list(self._running)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    async def _claim(self, tx: Statements, room: int) -> list[Pending]:
        now_ms = clock.now_ms()
        if self._inherits:
            await dynamic_qr.end_leases(tx, now_ms=now_ms)
        return await dynamic_qr.claim_unanswered(tx, now_ms=now_ms, limit=room)

    async def _answer(self, pending: Pending) -> None:
        try:
            while (following := await self._answer_once(pending)) is not None:
                pending = following  # the provider before definitely did nothing: the next one is asked
        except Exception:  # the lease ends and somebody resumes; nothing is lost but time
            log.exception("qr.answer_failed", payment_id=pending.payment_id)

    async def _answer_once(self, pending: Pending) -> Pending | None:
        """Ask and record; the attempt that is to be asked next, if there is one."""
        answered = await self._ask(pending)
        if answered.report is not None:
            await self._take_report(answered.report)
        candidates = await charging.candidates_for(self._gateways, pending)
        following, queued = await self._database.write(lambda tx: self._record(tx, answered, candidates))
        failpoints.reached("qr.answer_committed")
        self._publish(queued)
        return following

    async def _ask(self, pending: Pending) -> Answered:
        if clock.now_ms() - pending.created_at_ms > dynamic_qr.REQUEST_LIFE_MS:
            late = PartnerTimeout("The provider's answer would come too late for the box.")
            return Answered(pending=pending, error=late)
        answered = await charging.ask(self._gateways, pending)
        failpoints.reached("qr.created_at_provider")
        return answered

    async def _record(
        self, tx: Statements, answered: Answered, candidates: Sequence[str]
    ) -> tuple[Pending | None, list[Any]]:
        now_ms = clock.now_ms()
        found = await charging.record_answer(tx, answered, now_ms=now_ms, candidates=candidates)
        asked_again = found.attempt_id != answered.pending.attempt_id
        if not answered.unknown and not asked_again:
            await dynamic_qr.answer_box(tx, found, key_of=self._key_of, owner=self._owner, now_ms=now_ms)
        failpoints.reached("qr.before_answer_commit")
        return found if asked_again else None, tx.queued


class Refunder:
    """Asks providers for the refunds that wait, and how those stand that they did not answer about."""

    def __init__(self, database: Database, gateways: ByAccount) -> None:
        self._database = database
        self._gateways = gateways

    async def tick(self) -> None:
        """One round of what is due, at most 16 at a time."""
        claimed = await self._database.write(lambda tx: refunds.claim_due(tx, now_ms=clock.now_ms(), limit=AT_ONCE))
        failpoints.reached("refund.claimed")
        await asyncio.gather(*(self._ask(due) for due in claimed))

    async def _ask(self, due: refunds.Due) -> None:
        try:
            asked = await refunds.ask_provider(self._gateways().get(due.provider), due)
            failpoints.reached("refund.answered")
            now_ms = clock.now_ms()
            await self._database.write(lambda tx: refunds.record_answer(tx, asked, now_ms=now_ms))
        except Exception:  # the lease ends and it is resumed by query
            log.exception("refund.answer_failed", refund_id=due.id)


class Inquirer:
    """Asks providers about charges that are due: live ones, those that nobody answered about, and a while after."""

    def __init__(self, database: Database, inquiry: Inquiry) -> None:
        self._database = database
        self._inquiry = inquiry

    async def tick(self) -> None:
        """One round of what is due, at most 16 at a time."""
        claimed = await self._database.write(lambda tx: asking.claim_due(tx, now_ms=clock.now_ms(), limit=AT_ONCE))
        await asyncio.gather(*(self._ask(question) for question in claimed))

    async def _ask(self, question: asking.Question) -> None:
        try:
            if question.aside:
                await choosing.settle(self._database, self._inquiry, question)
            else:
                await self._inquiry.ask(question)
        except (
            ProviderRefused,
            ProviderUnknown,
            Conflict,
        ) as error:  # there is another time, or none is needed
            log.info("charge.not_answered", payment_id=question.payment_id, code=error.code)
        except Exception:
            log.exception("charge.inquiry_failed", payment_id=question.payment_id)


class Matcher:
    """Finds out whose the orphans are once their payments appear."""

    def __init__(
        self,
        database: Database,
        *,
        telling: Telling,
        late_report_ms: int,
        publish: Callable[[Sequence[Any]], None],
    ) -> None:
        self._database = database
        self._telling = telling
        self._late_report_ms = late_report_ms
        self._publish = publish

    async def tick(self) -> None:
        """Each in a transaction of its own: one that cannot be taken holds up no other."""
        found = await self._database.read(lambda tx: orphans.matches(tx, limit=AT_ONCE))
        for one in found:
            try:
                self._publish(await self._database.write(partial(self._match, one=one)))
            except Exception:
                log.exception("orphan.not_matched", event_id=one.event_id)

    async def _match(self, tx: Statements, one: orphans.Match) -> list[Any]:
        await orphans.match(
            tx, [one], telling=self._telling, late_report_ms=self._late_report_ms, now_ms=clock.now_ms()
        )
        return tx.queued


async def end_unpaid(database: Database) -> None:
    """Payments whose QR has ended become expired; money that still comes is recorded as late."""
    while ended := await database.write(lambda tx: service.expire_unpaid(tx, now_ms=clock.now_ms())):
        log.info("payments.expired", count=ended)
