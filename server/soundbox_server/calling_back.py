"""The desk where callbacks are taken, put together from the settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soundbox_server.db import Database
from soundbox_server.parts import telling
from soundbox_server.payments.routes import CallbackDesk, CallbackReader
from soundbox_server.providers.base import AdjustmentReport, PaymentReport
from soundbox_server.providers.hmac_scheme import read_callback
from soundbox_server.settings import Settings


@dataclass(frozen=True)
class GenericPartner:
    """A partner that only sends callbacks, by the generic HMAC scheme."""

    name: str
    secrets: Sequence[bytes]

    def read_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> PaymentReport | AdjustmentReport:
        return read_callback(headers, body, partner_id=self.name, secrets=self.secrets, now_ms=now_ms)


def callback_readers(settings: Settings) -> dict[str, CallbackReader]:
    """Every partner whose generic callbacks we can verify, by the id it names itself with."""
    names = {*settings.partner_secrets, "sandbox"}
    return {name: GenericPartner(name, secrets) for name in names if (secrets := settings.secrets_of(name))}


def callback_desk(
    settings: Settings, database: Database, *, owner: str, publish: Callable[[Sequence[Any]], None]
) -> CallbackDesk:
    return CallbackDesk(
        database,
        callback_readers(settings),
        telling=telling(settings, owner=owner),
        late_report_ms=settings.late_report_s * 1000,
        publish=publish,
        most=settings.callback_most,
        waiting=settings.callback_waiting,
    )
