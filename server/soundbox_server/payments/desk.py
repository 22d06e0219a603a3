"""Issuing charges for whoever asks over HTTP: store, ask the provider, store its answer."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from fastapi.responses import Response

from soundbox_server import clock, failpoints
from soundbox_server.db import Database, Statements
from soundbox_server.idempotency import Once, begin, keep, release
from soundbox_server.ids import new_id
from soundbox_server.payments import charging
from soundbox_server.payments.charging import Answered, Order, Pending
from soundbox_server.payments.methods import Lives
from soundbox_server.providers.base import PaymentReport
from soundbox_server.providers.registry import Gateways

TakeReport = Callable[..., Awaitable[Any]]  # (report: PaymentReport, *, asked: str)


class ChargeDesk:
    """One for the process. `take_report` takes the word of a provider that answers that the money is there already."""

    def __init__(self, database: Database, gateways: Gateways, take_report: TakeReport, *, lives: Lives) -> None:
        self._database = database
        self._gateways = gateways
        self._take_report = take_report
        self._lives = lives

    async def issue(
        self, order_of: Callable[[Statements], Awaitable[Order]], *, once: Once, show: Callable[[Pending], Response]
    ) -> Response:
        """The payment with its charge, as `show` renders it.

        `order_of(tx)` says what is to be paid, in the transaction that stores it. Raises PartnerTimeout (ask again with
        the same request or order), GatewayError, and whatever `order_of` and `open_charge` raise.
        """
        resting = await self._gateways.resting()
        opened = await self._database.write(lambda tx: self._open(tx, order_of, once, show, resting))
        failpoints.reached("qr.stored")
        if isinstance(opened, Response):
            return opened
        while True:
            answered, found, response = await self._ask(opened, once, show)
            if found.attempt_id == opened.attempt_id:
                break
            opened = found  # the first provider definitely did nothing: the next one is asked
        if answered.error is not None:
            raise answered.error
        return response

    async def _ask(
        self, pending: Pending, once: Once, show: Callable[[Pending], Response]
    ) -> tuple[Answered, Pending, Response]:
        """One provider's answer, and the payment as it stands with it."""
        answered = await charging.ask(self._gateways, pending)
        failpoints.reached("qr.created_at_provider")
        if answered.report is not None:
            await self._take(answered.report)
        candidates = await charging.candidates_for(self._gateways, pending)
        found, response = await self._database.write(lambda tx: self._record(tx, answered, once, show, candidates))
        failpoints.reached("qr.answer_committed")
        return answered, found, response

    async def _take(self, report: PaymentReport) -> None:
        await self._take_report(report, asked=new_id("qry"))

    async def _open(
        self,
        tx: Statements,
        order_of: Callable[[Statements], Awaitable[Order]],
        once: Once,
        show: Callable[[Pending], Response],
        resting: Collection[str],
    ) -> Response | Pending:
        """What was answered before, or the payment that the provider is still to be asked about."""
        now_ms = clock.now_ms()
        if (stored := await begin(tx, once, now_ms=now_ms, lease_ms=charging.LEASE_MS)) is not None:
            return stored
        order = await order_of(tx)
        first = charging.first_provider(self._gateways, order, resting=resting)
        pending = await charging.open_charge(
            tx, order, provider=first, life_ms=self._lives.of(order.method), now_ms=now_ms
        )
        if pending.answered:
            await keep(tx, once, response := show(pending))
            return response
        if pending.ended:
            raise charging.stored_failure(pending)
        return pending

    async def _record(
        self,
        tx: Statements,
        answered: Answered,
        once: Once,
        show: Callable[[Pending], Response],
        candidates: Sequence[str],
    ) -> tuple[Pending, Response]:
        found = await charging.record_answer(tx, answered, now_ms=clock.now_ms(), candidates=candidates)
        response = show(found)
        if answered.error is None:
            await keep(tx, once, response)
        elif found.attempt_id == answered.pending.attempt_id:
            await release(tx, once)
        failpoints.reached("qr.before_answer_commit")
        return found, response
