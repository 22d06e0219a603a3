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
Beside = Callable[[Statements, Pending], Awaitable[None]]


class ChargeDesk:
    """One for the process. `take_report` takes the word of a provider that answers that the money is there already."""

    def __init__(self, database: Database, gateways: Gateways, take_report: TakeReport, *, lives: Lives) -> None:
        self._database = database
        self._gateways = gateways
        self._take_report = take_report
        self._lives = lives

    async def issue(
        self,
        order_of: Callable[[Statements], Awaitable[Order]],
        *,
        once: Once,
        show: Callable[[Pending], Response],
        opened: Beside | None = None,
        issued: Beside | None = None,
    ) -> Response:
        """The payment with its charge, as `show` renders it.

        `order_of(tx)` says what is to be paid, in the transaction that stores it. What the door books beside it is
        committed with it: `opened` with its first row, or when it is found again, and `issued` with the charge. Raises
        PartnerTimeout (ask again with the same request or order), GatewayError, and whatever `order_of` and
        `open_charge` raise.
        """
        resting = await self._gateways.resting()
        pending = await self._database.write(lambda tx: self._open(tx, order_of, once, show, opened, resting))
        failpoints.reached("qr.stored")
        if isinstance(pending, Response):
            return pending
        while True:
            answered, found, response = await self._ask(pending, once, show, issued)
            if found.attempt_id == pending.attempt_id:
                break
            pending = found  # the first provider definitely did nothing: the next one is asked
        if answered.error is not None:
            raise answered.error
        return response

    async def _ask(
        self, pending: Pending, once: Once, show: Callable[[Pending], Response], issued: Beside | None
    ) -> tuple[Answered, Pending, Response]:
        """One provider's answer, and the payment as it stands with it."""
        answered = await charging.ask(self._gateways, pending)
        failpoints.reached("qr.created_at_provider")
        if answered.report is not None:
            await self._take(answered.report)
        candidates = await charging.candidates_for(self._gateways, pending)
        found, response = await self._database.write(
            lambda tx: self._record(tx, answered, once, show, issued, candidates)
        )
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
        opened: Beside | None,
        resting: Collection[str],
    ) -> Response | Pending:
        """What was answered before, or the payment that the provider is still to be asked about."""
        now_ms = clock.now_ms()
        if (stored := await begin(tx, once, now_ms=now_ms, lease_ms=charging.LEASE_MS)) is not None:
            return stored
        order = await order_of(tx)
        first = charging.first_provider(self._gateways, order, resting=resting)
        life_ms = order.life_ms or self._lives.of(order.method)
        pending = await charging.open_charge(tx, order, provider=first, life_ms=life_ms, now_ms=now_ms)
        if opened is not None:
            await opened(tx, pending)
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
        issued: Beside | None,
        candidates: Sequence[str],
    ) -> tuple[Pending, Response]:
        found = await charging.record_answer(tx, answered, now_ms=clock.now_ms(), candidates=candidates)
        response = show(found)
        if answered.error is None and issued is not None:
            await issued(tx, found)
        if answered.error is None:
            await keep(tx, once, response)
        elif found.attempt_id == answered.pending.attempt_id:
            await release(tx, once)
        failpoints.reached("qr.before_answer_commit")
        return found, response
