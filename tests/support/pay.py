"""A till whose payments are presented on a page."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from support.hub import Hub
from support.shop import Shop, open_shop

from soundbox_server import clock
from soundbox_server.checkout.service import Presentation, open_session
from soundbox_server.payments.charging import Pending

TWO_HOURS_MS = 7_200_000


@dataclass(frozen=True)
class Presented:
    """A payment, and the page where it is paid."""

    payment: Pending
    session_id: str

    @property
    def path(self) -> str:
        return f"/pay/{self.session_id}"


@dataclass(frozen=True)
class Till:
    hub: Hub
    shop: Shop
    device_id: str

    async def present(
        self, amount: int = 50_000, *, now_ms: int | None = None, payer_chooses: bool = False, **shown: Any
    ) -> Presented:
        """A payment that waits, with a page; `shown` are what a Presentation has."""
        now_ms = clock.now_ms() if now_ms is None else now_ms
        payment = await self.shop.payment(self.device_id, amount, now_ms=now_ms)
        (merchant,) = await self.fetch("SELECT organisation_id FROM merchant WHERE id = $1", self.shop.merchant_id)
        session_id = await self.hub.app.state.database.write(
            partial(
                open_session, payment_id=payment.payment_id, organisation_id=merchant["organisation_id"],
                presentation=Presentation(**shown), expires_at_ms=now_ms + TWO_HOURS_MS, now_ms=now_ms,
                payer_chooses=payer_chooses,
            )
        )  # fmt: skip
        return Presented(payment, session_id)

    async def pay(self, presented: Presented, **other: Any) -> None:
        answer = await self.hub.call_back(self.hub.said(presented.payment, **other))
        assert answer.status_code == 200, answer.text

    async def set_state(self, presented: Presented, state: str) -> None:
        await self.execute("UPDATE payment SET state = $2 WHERE id = $1", presented.payment.payment_id, state)

    async def fetch(self, sql: str, *args: object) -> Any:
        return await self.hub.app.state.database.read(lambda tx: tx.fetch(sql, *args))

    async def execute(self, sql: str, *args: object) -> None:
        await self.hub.app.state.database.write(lambda tx: tx.execute(sql, *args))


async def open_till(hub: Hub) -> Till:
    shop = await open_shop(hub.app.state.database, brand_name="Warung Bu Sari")
    return Till(hub, shop, await shop.box())
