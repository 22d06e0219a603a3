"""A box asks for a dynamic QR over MQTT. Here the question is only stored; `jobs.py` asks the provider."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from soundbox_protocol.messages import DynamicQrRequest
from soundbox_protocol.times import from_rfc3339
from soundbox_server.announcements.service import KeyOf
from soundbox_server.db import Statements
from soundbox_server.errors import DuplicateRequest, PartnerTimeout, SoundboxError
from soundbox_server.ids import new_id
from soundbox_server.payments import charging, dynamic_qr
from soundbox_server.providers.registry import Gateways
from soundbox_server.uplinks import Uplink

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class QrRequests:
    """Takes questions, and refuses what makes no payment."""

    gateways: Gateways
    qr_life_ms: int
    key_of: KeyOf
    owner: str

    async def __call__(self, tx: Statements, uplinks: Sequence[Uplink[DynamicQrRequest]]) -> None:
        for uplink in uplinks:
            await self._take(tx, uplink)

    async def _take(self, tx: Statements, uplink: Uplink[DynamicQrRequest]) -> None:
        ask, now_ms = _ask(uplink), uplink.received_at_ms
        try:
            if now_ms - from_rfc3339(uplink.message.created_at) > dynamic_qr.REQUEST_LIFE_MS:
                raise PartnerTimeout("The question was too old when it arrived.")
            order = await dynamic_qr.order_of(tx, ask)
            first = charging.first_provider(self.gateways, order, resting=())
            pending = await charging.open_charge(tx, order, provider=first, life_ms=self.qr_life_ms, now_ms=now_ms)
        except DuplicateRequest:
            return  # the answer is under way
        except SoundboxError as error:
            log.info("qr.refused", device_id=ask.device_id, code=error.code, request=ask.request_id)
            await dynamic_qr.refuse_box(tx, ask, error, key_of=self.key_of, owner=self.owner, now_ms=now_ms)
            return
        if pending.qr_payload is not None or pending.ended:
            await dynamic_qr.answer_box(tx, pending, key_of=self.key_of, owner=self.owner, now_ms=now_ms)


def _ask(uplink: Uplink[DynamicQrRequest]) -> dynamic_qr.Ask:
    said = uplink.message
    return dynamic_qr.Ask(
        device_id=uplink.device_id,
        terminal_id=said.terminal_id,
        amount=said.amount,
        currency=said.currency,
        request_id=said.request_id,
        door="mqtt",
        trace_id=new_id("trc"),
    )
