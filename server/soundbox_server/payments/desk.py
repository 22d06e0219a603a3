"""Issuing charges for whoever asks over HTTP: store, ask the provider, store its answer."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.responses import Response

from soundbox_server import clock, failpoints
from soundbox_server.db import Database, Statements
from soundbox_server.idempotency import Once, begin, keep, release
from soundbox_server.ids import new_id
from soundbox_server.payments import charging
from soundbox_server.payments.charging import Answered, Order, Pending
from soundbox_server.payments.methods import Lives
from soundbox_server.providers.base import PaymentReport, Provider

TakeReport = Callable[..., Awaitable[Any]]  # (report: PaymentReport, *, asked: str)


class ChargeDesk:
    """One for the process. `take_report` takes the word of a provider that answers that the money is there already."""

    def __init__(self, database: Database, provider: Provider, take_report: TakeReport, *, lives: Lives) -> None:
        self._database = database
        self._provider = provider
        self._take_report = take_report
        self._lives = lives

    async def issue(
        self, order_of: Callable[[Statements], Awaitable[Order]], *, once: Once, show: Callable[[Pending], Response]
    ) -> Response:
        """The payment with its charge, as `show` renders it.

        `order_of(tx)` says what is to be paid, in the transaction that stores it. Raises PartnerTimeout (ask again with
        the same request or order), GatewayError, and whatever `order_of` and `open_charge` raise.
        """
        opened = await self._database.write(lambda tx: self._open(tx, order_of, once, show))
        failpoints.reached("qr.stored")
        if isinstance(opened, Response):
            return opened
        answered = await charging.ask_provider(self._provider, opened)
        failpoints.reached("qr.created_at_provider")
        if answered.report is not None:
            await self._take(answered.report)
        response = await self._database.write(lambda tx: self._record(tx, answered, once, show))
        failpoints.reached("qr.answer_committed")
        if answered.error is not None:
            raise answered.error
        return response

    async def _take(self, report: PaymentReport) -> None:
        await self._take_report(report, asked=new_id("qry"))

    async def _open(
        self,
        tx: Statements,
        order_of: Callable[[Statements], Awaitable[Order]],
        once: Once,
        show: Callable[[Pending], Response],
    ) -> Response | Pending:
        """What was answered before, or the payment that the provider is still to be asked about."""
        now_ms = clock.now_ms()
        if (stored := await begin(tx, once, now_ms=now_ms, lease_ms=charging.LEASE_MS)) is not None:
            return stored
        order = await order_of(tx)
        pending = await charging.open_charge(
            tx, order, provider=self._provider.name, life_ms=self._lives.of(order.method), now_ms=now_ms
        )
        if pending.answered:
            await keep(tx, once, response := show(pending))
            return response
        if pending.ended:
            raise charging.stored_failure(pending)
        return pending

    async def _record(
        self, tx: Statements, answered: Answered, once: Once, show: Callable[[Pending], Response]
    ) -> Response:
        found = await charging.record_answer(tx, answered, now_ms=clock.now_ms())
        response = show(found)
        if answered.error is None:
            await keep(tx, once, response)
        else:
            await release(tx, once)
        failpoints.reached("qr.before_answer_commit")
        return response
