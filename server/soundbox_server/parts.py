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
from soundbox_server.announcements.service import Telling
from soundbox_server.broker import probe
from soundbox_server.db import Database
from soundbox_server.errors import PaymentsClosed
from soundbox_server.payments.routes import CallbackDesk, CallbackReader
from soundbox_server.providers.base import PaymentReport, Provider
from soundbox_server.providers.hmac_scheme import read_callback
from soundbox_server.providers.sandbox import SandboxProvider
from soundbox_server.settings import Settings


@dataclass(frozen=True)
class GenericPartner:
    """A partner that only sends callbacks, by the generic HMAC scheme."""

    name: str
    secrets: Sequence[bytes]

    def read_callback(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> PaymentReport:
        return read_callback(headers, body, partner_id=self.name, secrets=self.secrets, now_ms=now_ms)


def owner_name(process: str) -> str:
    """Who sent a message: process, machine and pid."""
    return f"{process}@{socket.gethostname()}:{os.getpid()}"


def telling(settings: Settings, *, owner: str) -> Telling:
    return Telling(
        key_of=partial(seal.announcement_key, settings.master), owner=owner, life_ms=settings.announcement_life_s * 1000
    )


def open_provider(settings: Settings) -> Provider:
    """The provider that issues dynamic QR."""
    if settings.provider != "sandbox":
        raise PaymentsClosed(f"SOUNDBOX_PROVIDER={settings.provider}: no such provider. Known: sandbox.")
    return SandboxProvider(
        base_url=settings.sandbox_url,
        api_key=settings.sandbox_api_key,
        secrets=settings.secrets_of("sandbox"),
        callback_url=f"{settings.public_url}/integrations/qris/callback",
    )


def callback_readers(settings: Settings, provider: Provider) -> dict[str, CallbackReader]:
    """Every partner whose callbacks we can verify, by the id it names itself with."""
    readers: dict[str, CallbackReader] = {
        name: GenericPartner(name, settings.secrets_of(name)) for name in settings.partner_secrets
    }
    return {**readers, provider.name: provider}


def callback_desk(
    settings: Settings, database: Database, provider: Provider, *, owner: str, publish: Callable[[Sequence[Any]], None]
) -> CallbackDesk:
    return CallbackDesk(
        database,
        callback_readers(settings, provider),
        telling=telling(settings, owner=owner),
        late_report_ms=settings.late_report_s * 1000,
        publish=publish,
        most=settings.callback_most,
        waiting=settings.callback_waiting,
    )


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
