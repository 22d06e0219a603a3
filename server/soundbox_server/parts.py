"""What both processes are built from, made of settings once and handed on as arguments."""

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soundbox_server import migrate, seal
from soundbox_server.access.limits import MINUTE_MS, Limits
from soundbox_server.access.mails import Desk
from soundbox_server.access.passwords import Passwords
from soundbox_server.announcements.service import Telling
from soundbox_server.audit.routes import AUDIT_LOGS
from soundbox_server.broker import probe
from soundbox_server.broker.mosquitto import TlsListener
from soundbox_server.broker.passwords import hash_password
from soundbox_server.broker.tls import TlsSetup, development_authority
from soundbox_server.db import Database
from soundbox_server.devices.listings import DEVICES, HEARTBEATS
from soundbox_server.devices.provisioning import Granting
from soundbox_server.ledger.routes import LEDGER_ENTRIES
from soundbox_server.mail.sinks import FileSink, Sink, SmtpSink
from soundbox_server.merchants.place_routes import OUTLETS, TERMINALS
from soundbox_server.merchants.routes import MERCHANTS
from soundbox_server.paging import Listing
from soundbox_server.payments.listings import TRANSACTIONS
from soundbox_server.payments.methods import Lives
from soundbox_server.payments.review_routes import REFUNDS
from soundbox_server.payments.routes import CallbackDesk, CallbackReader
from soundbox_server.payouts.routes import PAYOUTS, TRANSFERS
from soundbox_server.providers.base import AdjustmentReport, PaymentReport
from soundbox_server.providers.hmac_scheme import read_callback
from soundbox_server.reconciliation.routes import DIFFERENCES, TOTALS
from soundbox_server.settings import Settings
from soundbox_server.settlements.listings import SETTLEMENT_ITEMS, SETTLEMENTS

# Every list that may leave as a file, by the name it is asked for; `policy.EXPORTS` says by whom.
EXPORTABLE: Mapping[str, Listing[Any]] = {
    "transactions": TRANSACTIONS,
    "refunds": REFUNDS,
    "ledger_entries": LEDGER_ENTRIES,
    "settlements": SETTLEMENTS,
    "settlement_items": SETTLEMENT_ITEMS,
    "payouts": PAYOUTS,
    "transfers": TRANSFERS,
    "differences": DIFFERENCES,
    "daily_totals": TOTALS,
    "merchants": MERCHANTS,
    "outlets": OUTLETS,
    "terminals": TERMINALS,
    "devices": DEVICES,
    "heartbeats": HEARTBEATS,
    "audit_logs": AUDIT_LOGS,
}


@dataclass(frozen=True)
class GenericPartner:
    """A partner that only sends callbacks, by the generic HMAC scheme."""

    name: str
    secrets: Sequence[bytes]

    def read_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> PaymentReport | AdjustmentReport:
        return read_callback(headers, body, partner_id=self.name, secrets=self.secrets, now_ms=now_ms)


def owner_name(process: str) -> str:
    """Who sent a message: process, machine and pid."""
    return f"{process}@{socket.gethostname()}:{os.getpid()}"


def telling(settings: Settings, *, owner: str) -> Telling:
    return Telling(
        key_of=partial(seal.announcement_key, settings.master), owner=owner, life_ms=settings.announcement_life_s * 1000
    )


def lives(settings: Settings) -> Lives:
    """How long payers have."""
    return Lives(
        qr_ms=settings.qr_life_s * 1000,
        wallet_ms=settings.wallet_life_s * 1000,
        va_ms=settings.va_life_s * 1000,
        card_ms=settings.card_life_s * 1000,
    )


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


def passwords(settings: Settings) -> Passwords:
    return Passwords(
        memory_kib=settings.argon2_memory_kib,
        time_cost=settings.argon2_time_cost,
        parallelism=settings.argon2_parallelism,
    )


def limits(settings: Settings) -> Limits:
    return Limits(
        logins_per_minute=settings.logins_per_minute,
        login_failures=settings.login_failures,
        login_window_ms=settings.login_failure_minutes * MINUTE_MS,
        login_delay_ms=settings.login_delay_s * 1000,
        activation_failures_per_minute=settings.activation_failures_per_minute,
        resets_per_hour=settings.password_resets_per_hour,
    )


def mail_desk(settings: Settings, *, owner: str) -> Desk:
    return Desk(public_url=settings.public_url, ring=settings.sealing_ring, owner=owner)


def mail_sink(settings: Settings) -> Sink:
    """An SMTP server where one is named, else a folder."""
    if not settings.smtp_host:
        return FileSink(settings.home / "mail")
    return SmtpSink(
        host=settings.smtp_host,
        port=settings.smtp_port,
        security=settings.smtp_security,
        user=settings.smtp_user,
        password=settings.smtp_password.get_secret_value(),
        cafile=settings.smtp_ca_file or None,
    )


def granting(settings: Settings) -> Granting:
    """What boxes get that ask for their name over MQTT."""
    return Granting(
        host=settings.broker_public_host,
        port=settings.broker_public_port,
        tls=settings.boxes_use_tls,
        key_of=partial(seal.announcement_key, settings.master),
        hash_password=hash_password,
        kept_under=seal.derive(settings.master, "soundbox/provision-answer/v1"),
    )


def documents_folder(settings: Settings) -> Path:
    return settings.home / "documents"


def exports_folder(settings: Settings) -> Path:
    return settings.home / "exports"


def settle_memory() -> None:
    """Leave what the start made out of the garbage collector's rounds, and let them come more seldom: the payment path
    makes many short-lived objects and hardly a cycle."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def lock_folder(settings: Settings) -> Path:
    return settings.home / "locks"


async def require_migrated(database: Database) -> None:
    """Raises RuntimeError with the command that mends it when the database is older or newer than this code."""
    current, newest = await migrate.current(database), migrate.newest()
    if current != newest:
        raise RuntimeError(
            f"The database is at revision {current}, this program needs {newest}: run `soundbox migrate`."
        )


def broker_address(settings: Settings) -> dict[str, Any]:
    """Where boxes are sent at activation: host, port, tls, and ca_pem where they have to trust a CA of our own."""
    address = {"host": settings.broker_public_host, "port": settings.broker_public_port, "tls": settings.boxes_use_tls}
    if settings.boxes_use_tls and settings.broker_tls_certificate is None:
        return address | {"ca_pem": development_authority(settings.home)}
    if settings.boxes_use_tls and settings.broker_tls_ca is not None:
        return address | {"ca_pem": settings.broker_tls_ca.read_text()}
    return address


def tls_setup(settings: Settings) -> TlsSetup | None:
    """The broker's listeners for boxes from elsewhere; None when there are none."""
    if not settings.broker_tls_port:
        return None
    return TlsSetup(
        listener=TlsListener(settings.broker_tls_host, settings.broker_tls_port, settings.broker_connections),
        names=settings.broker_names,
        provision_port=settings.broker_provision_port,
        certificate=settings.broker_tls_certificate,
        key=settings.broker_tls_key,
    )


async def broker_lets_in(host: str, port: int, user: str, password: str) -> bool:
    """Whether a login with these works right now; False also while there is no broker."""
    try:
        return await probe.login(host, port, user=user, password=password)
    except OSError:
        return False


async def cancel(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """End background tasks and wait for them; their own failures were logged where they happened."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
