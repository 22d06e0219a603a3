"""What both processes are built from, made of settings once and handed on as arguments."""

import asyncio
import gc
import os
import socket
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from soundbox_server import migrate, seal
from soundbox_server.access.limits import MINUTE_MS, Limits
from soundbox_server.access.mails import Desk
from soundbox_server.access.passwords import Passwords
from soundbox_server.advice.asking import Endpoint
from soundbox_server.announcements.service import Telling
from soundbox_server.broker.passwords import hash_password
from soundbox_server.db import Database
from soundbox_server.devices.provisioning import Granting
from soundbox_server.diagnosis.jobs import Days
from soundbox_server.diagnosis.recorder import Kept, Recorder
from soundbox_server.diagnosis.silence import Patience
from soundbox_server.lending.service import banks_watching
from soundbox_server.mail.sinks import FileSink, Sink, SmtpSink
from soundbox_server.partners.licenses import charging_for
from soundbox_server.partners.topups import Tier
from soundbox_server.payments.methods import Lives
from soundbox_server.scoring.early_warning import Thresholds
from soundbox_server.scoring.state import WarningType
from soundbox_server.scoring.warnings import Hearing, nobody
from soundbox_server.settings import Settings
from soundbox_server.wallets.sessions import Terms
from soundbox_server.webhooks.addresses import Reach
from soundbox_server.webhooks.sender import Sender


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


def bonus_tiers(settings: Settings) -> Sequence[Tier]:
    """What comes besides tokens that are bought, the smallest tier first."""
    return [Tier(min_tokens=least, bonus_tokens=most) for least, most in sorted(settings.token_bonus_tiers.items())]


def wallet_terms(settings: Settings) -> Terms:
    """What a payment from wallet to wallet costs, and how long it may take."""
    return Terms(fee_percent=settings.wallet_fee_percent, session_ms=settings.wallet_session_s * 1000)


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


def webhook_reach(settings: Settings) -> Reach:
    return Reach(https_only=settings.environment == "production", loopback=settings.webhooks_may_loop_back)


def webhook_sender(settings: Settings) -> Sender:
    return Sender(reach=webhook_reach(settings), trust=httpx.create_ssl_context())


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


def warning_thresholds(settings: Settings) -> Thresholds:
    """From where on a merchant's trade is worth a warning."""
    return {
        WarningType.REVENUE_DROP: Fraction(str(settings.alert_revenue_drop_threshold)),
        WarningType.REFUND_SPIKE: Fraction(str(settings.alert_refund_spike_threshold)),
        WarningType.SETTLEMENT_DELAY: Fraction(str(settings.alert_settlement_delay_hours)) / 24,
        WarningType.TRANSACTION_DROP: Fraction(str(settings.alert_transaction_drop_threshold)),
        WarningType.SCORE_DROP: Fraction(str(settings.alert_score_drop_threshold)),
    }


def warning_hearing(settings: Settings) -> Hearing:
    """Who hears of a merchant's warnings besides itself."""
    return Hearing(banks=banks_watching, partners=charging_for if settings.warnings_to_partners else nobody)


def advice_endpoint(settings: Settings) -> Endpoint | None:
    """The language model that writes beside the built-in texts; None without a key. Without TLS the key stays in
    networks of our own."""
    if not settings.ai_api_key.get_secret_value():
        return None
    within, secure = settings.ai_private_network, settings.ai_base_url.startswith("https://")
    reach = Reach(https_only=secure, loopback=within, private=within, public=secure)
    return Endpoint(
        sender=Sender(reach=reach, trust=httpx.create_ssl_context(trust_env=False), timeout_s=settings.ai_timeout_s),
        url=f"{settings.ai_base_url}/chat/completions",
        model=settings.ai_model,
        most_tokens=settings.ai_most_tokens,
        key=settings.ai_api_key.get_secret_value(),
    )


def documents_folder(settings: Settings) -> Path:
    return settings.home / "documents"


def exports_folder(settings: Settings) -> Path:
    return settings.home / "exports"


def device_logs_folder(settings: Settings) -> Path:
    return settings.home / "device-logs"


def recorder(settings: Settings, database: Database) -> Recorder:
    """What writes down messages and log lines when there is time."""
    kept = Kept(
        mqtt_messages=settings.mqtt_log_per_device, logs=settings.device_log_lines, events=settings.device_events
    )
    return Recorder(database, kept=kept)


def days(settings: Settings) -> Days:
    """How long what boxes said is kept."""
    return Days(
        heartbeats=settings.keep_heartbeats_days,
        mqtt_messages=settings.keep_mqtt_log_days,
        logs=settings.keep_device_logs_days,
        events=settings.keep_device_events_days,
        presence=settings.keep_presence_days,
        command_payloads=settings.keep_command_payloads_days,
    )


def patience(settings: Settings) -> Patience:
    """How long a box may be told of payments and play none."""
    return Patience(minutes=settings.silent_speaker_minutes, payments=settings.silent_speaker_payments)


def settle_memory() -> None:
    """Leave what the start made out of the garbage collector's rounds."""
    gc.collect()
    gc.freeze()


def lock_folder(settings: Settings) -> Path:
    return settings.home / "locks"


async def require_migrated(database: Database) -> None:
    """Raises RuntimeError with the command that mends it when the database is older or newer than this code."""
    current, newest = await migrate.current(database), migrate.newest()
    if current != newest:
        raise RuntimeError(
            f"The database is at revision {current}, this program needs {newest}: run `soundbox migrate`."
        )


async def cancel(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """End background tasks and wait for them; their own failures were logged where they happened."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
