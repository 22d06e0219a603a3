"""Asking providers where a payment stands, and taking what they say as if they had called: for the worker, and for an
operator who does not want to wait. Asked outside any transaction; every word is stored in one of its own."""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.ids import new_id
from soundbox_server.payments.asking import Question, record_status
from soundbox_server.payments.service import Taken
from soundbox_server.providers.base import (
    AdjustmentReport,
    ChargeStatus,
    Gateway,
    PaymentReport,
    ProviderRefused,
)

Gateways = Callable[[], Mapping[str, Gateway]]  # those that are set up just now, by name
TakeWord = Callable[..., Awaitable[Taken]]  # (report: PaymentReport | AdjustmentReport, *, asked: str)


class Inquiry:
    """One for the process. `take_word` takes a provider's word as its callback's door does."""

    def __init__(self, database: Database, gateways: Gateways, take_word: TakeWord) -> None:
        self._database = database
        self._gateways = gateways
        self._take_word = take_word

    def gateway(self, provider: str) -> Gateway:
        """Raises ProviderRefused for one that is not set up: nobody was asked."""
        found = self._gateways().get(provider)
        if found is None:
            raise ProviderRefused("This provider is not set up.", provider=provider)
        return found

    async def ask(self, question: Question) -> ChargeStatus:
        """Where this attempt stands, which is stored by then. Raises ProviderRefused or ProviderUnknown."""
        status = await self.gateway(question.provider).query(
            question.reference, method=question.method, provider_transaction_id=question.provider_reference
        )
        said: list[PaymentReport | AdjustmentReport] = [] if status.report is None else [status.report]
        for word in [*said, *map(_confirmed, status.adjustments)]:
            await self._take_word(word, asked=new_id("qry"))
        now_ms = clock.now_ms()
        await self._database.write(lambda tx: record_status(tx, question, status, now_ms=now_ms))
        return status


def _confirmed(said: AdjustmentReport) -> AdjustmentReport:
    """Whoever answers our own question over a connection of ours need not sign it. A name of its own, so that it is not
    taken for the unconfirmed one that may have come before."""
    if said.confirmed:
        return said
    return dataclasses.replace(said, confirmed=True, event_id=f"{said.event_id}:asked")
