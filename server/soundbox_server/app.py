"""The HTTP process, put together in one place."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import Depends, FastAPI
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from soundbox_server import broker_parts, documentation, guard, health, http, logs, migrate, openapi, parts, seal
from soundbox_server.access.admin_routes import router as access
from soundbox_server.access.auth import authorise
from soundbox_server.access.routes import admin_account, merchant_account
from soundbox_server.access.service import public_keys
from soundbox_server.alerts.routes import router as alerts
from soundbox_server.audit.routes import router as audit
from soundbox_server.broker.passwords import hash_password
from soundbox_server.broker.publisher import Publisher, keep_connected
from soundbox_server.calling_back import callback_desk
from soundbox_server.checkout.routes import router as checkout
from soundbox_server.commands.batch_routes import router as command_batches
from soundbox_server.commands.routes import router as commands
from soundbox_server.db import Database
from soundbox_server.device_config import service as device_config
from soundbox_server.device_config.routes import router as configuration
from soundbox_server.devices.bulk_routes import LARGEST_FILE as LARGEST_LIST
from soundbox_server.devices.bulk_routes import router as bulk
from soundbox_server.devices.makers_routes import ERRORS as MAKERS_ERRORS
from soundbox_server.devices.makers_routes import router as makers
from soundbox_server.devices.presence_routes import router as presence
from soundbox_server.devices.provisioning_routes import router as provisioning
from soundbox_server.devices.routes import HEARTBEAT_OPERATION, HeartbeatDesk, heartbeat
from soundbox_server.devices.routes import router as devices
from soundbox_server.diagnosis.routes import router as diagnosis
from soundbox_server.diagnosis.tail import Tails
from soundbox_server.diagnosis.verdict_routes import router as verdicts
from soundbox_server.exportable import EXPORTABLE
from soundbox_server.exports.routes import asking
from soundbox_server.exports.routes import router as exports
from soundbox_server.facades import (
    accounts,
    kgiton,
    kgiton_topup,
    mstore,
    mstore_offline,
    paybaba,
    paybaba_bank,
    paybaba_merchant,
    payment_service,
)
from soundbox_server.fees.routes import router as fees
from soundbox_server.gateways import (
    MIDTRANS_WEBHOOK,
    PAYLABS_WEBHOOK,
    PAYOUT_CALLBACK,
    SNAP_NOTIFY,
    SNAP_TOKEN,
    XENDIT_WEBHOOK,
    open_bank,
    open_gateways,
    snap_token_key,
)
from soundbox_server.ledger.routes import router as ledger
from soundbox_server.lending.owner_routes import router as consents
from soundbox_server.lending.routes import account as bank_account
from soundbox_server.lending.routes import router as lending
from soundbox_server.lending.staff_routes import router as lending_watched
from soundbox_server.mail.routes import router as mails
from soundbox_server.merchants.document_routes import router as documents
from soundbox_server.merchants.documents import LARGEST_FILE as LARGEST_DOCUMENT
from soundbox_server.merchants.place_routes import router as places
from soundbox_server.merchants.routes import router as merchants
from soundbox_server.pages import checkout as checkout_page
from soundbox_server.pages import paper
from soundbox_server.pages import password as password_page
from soundbox_server.partners.routes import router as license_keys
from soundbox_server.payments import notify_routes as notify
from soundbox_server.payments.admin_routes import router as transactions
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.payments.qr_routes import router as qrs
from soundbox_server.payments.review_routes import router as review
from soundbox_server.payments.routes import CALLBACK_OPERATION, qris_callback
from soundbox_server.payments.routes import router as payments
from soundbox_server.payouts.routes import CALLBACK_OPERATION as PAYOUT_OPERATION
from soundbox_server.payouts.routes import payout_callback
from soundbox_server.payouts.routes import router as payouts
from soundbox_server.policy import EXPORT_SCOPES, EXPORTS, OPEN_WITHOUT_TOTP, POLICY, SCOPES
from soundbox_server.portal.export_routes import router as their_files
from soundbox_server.portal.routes import router as portal
from soundbox_server.privacy.routes import operators as erasures
from soundbox_server.privacy.routes import owners as their_erasures
from soundbox_server.providers.base import StaticIssuer
from soundbox_server.providers.registry import Gateways, asked_for
from soundbox_server.providers.routes import router as providers
from soundbox_server.reconciliation.routes import LARGEST_FILE as LARGEST_STATEMENT
from soundbox_server.reconciliation.routes import router as reconciliation
from soundbox_server.revenue.routes import router as revenue
from soundbox_server.scoring.routes import banks as their_warning_thresholds
from soundbox_server.scoring.routes import operators as warning_thresholds
from soundbox_server.scoring.state import Model
from soundbox_server.seed import router as seed
from soundbox_server.settings import Settings
from soundbox_server.settlements.calendar import read_calendar
from soundbox_server.settlements.routes import router as settlements
from soundbox_server.wallets.routes import router as invoices
from soundbox_server.wallets.withdrawals import take_report as take_withdrawal_report
from soundbox_server.webhooks import kinds as webhook_kinds
from soundbox_server.webhooks.routes import operators as webhooks
from soundbox_server.webhooks.routes import owners as their_webhooks

log = structlog.get_logger()

# Most of the traffic, answered before routing: each with what the API's description says of it.
LEAN = {
    "/integrations/qris/callback": (qris_callback, CALLBACK_OPERATION),
    "/device/heartbeat": (heartbeat, HEARTBEAT_OPERATION),
    PAYOUT_CALLBACK: (payout_callback, PAYOUT_OPERATION),
    XENDIT_WEBHOOK: (notify.xendit_webhook, notify.XENDIT_OPERATION),
    MIDTRANS_WEBHOOK: (notify.midtrans_webhook, notify.MIDTRANS_OPERATION),
    PAYLABS_WEBHOOK: (notify.paylabs_webhook, notify.PAYLABS_OPERATION),
}
SNAP = {
    SNAP_NOTIFY: (notify.snap_door, notify.SNAP_NOTIFY_OPERATION),
    SNAP_TOKEN: (notify.snap_door, notify.SNAP_TOKEN_OPERATION),
}
# Errors at the references' own paths, as their clients read them.
ERROR_FORMS = (mstore.ERRORS, paybaba.ERRORS, MAKERS_ERRORS, accounts.ERRORS, kgiton.ERRORS, payment_service.ERRORS)
DAY_MS = 24 * 3_600_000
_NO_SUCH_DOOR: Scope = {"type": "http", "method": "GET", "path": "/no/such/door", "root_path": "", "headers": []}
LARGER_BODIES = {
    "/admin/merchants/{merchant_id}/documents/file": LARGEST_DOCUMENT,
    "/admin/devices/bulk": LARGEST_LIST,
    "/admin/reconciliation/statements": LARGEST_STATEMENT,
    mstore_offline.SYNC: mstore_offline.LARGEST_BATCH,
}


def create_app(settings: Settings | None = None, *, own_process: bool = False) -> FastAPI:
    """The API. Without settings they come from the environment, which is what uvicorn's factory wants. `own_process`:
    nothing else lives in this one, so its memory may be settled for good."""
    settings = settings or Settings()
    logs.configure(process="api", form=settings.log_format, level=settings.log_level)
    app = http.LeanApp(
        title="QRIS Soundbox Platform", version="1", lifespan=_lifespan, docs_url=None, redoc_url=None,
        default_response_class=Response, dependencies=[Depends(authorise)],
    )  # fmt: skip
    app.state.settings = settings
    app.state.own_process = own_process
    app.state.streams = []  # what goes on answering until it is closed (`end_streams`)
    app.state.policy = POLICY
    app.state.scopes = SCOPES
    app.state.open_without_totp = OPEN_WITHOUT_TOTP
    app.router.redirect_slashes = False  # a path is served as it is written, or it is a 404
    http.install(
        app, lean={path: door for path, (door, _) in LEAN.items()}, lean_below={notify.SNAP_PREFIX: notify.snap_door},
        larger_bodies=LARGER_BODIES, error_forms=ERROR_FORMS,
    )  # fmt: skip
    # As routes too: another method at their paths is answered 405, and whoever lists the routes sees them.
    app.router.routes[:0] = [Route(path, door, methods=["POST"]) for path, (door, _) in (LEAN | SNAP).items()]
    for router in (
        admin_account, merchant_account, access, audit, alerts, asking(EXPORTABLE), exports, mails, ledger,
        merchants, places, documents, devices, provisioning, bulk, presence, configuration, commands, command_batches,
        makers, diagnosis, verdicts,
        payments, transactions, review, qrs, providers, fees, settlements, payouts, reconciliation, revenue, portal,
        their_files, mstore.router, mstore_offline.router, paybaba.router, paybaba_merchant.router, health.router,
        webhooks, their_webhooks, accounts.router, license_keys, kgiton.router, kgiton_topup.router, checkout,
        payment_service.router, invoices, bank_account, lending, consents, lending_watched, paybaba_bank.router,
        erasures, their_erasures,
        warning_thresholds, their_warning_thresholds,
    ):  # fmt: skip
        app.include_router(router)
    if settings.environment != "production":
        app.include_router(seed)
        app.include_router(mstore.testing)
    openapi.describe(
        app, lean={path: operation for path, (_, operation) in (LEAN | SNAP).items()}, plain=health.OPERATIONS,
        policy=POLICY, error_forms=ERROR_FORMS, webhooks=webhook_kinds.described(),
    )  # fmt: skip
    app.router.routes += [*documentation.routes(app), paper.FILES, *checkout_page.ROUTES, *password_page.ROUTES]
    guard.refuse_demo_doors(settings, lambda: app.openapi()["paths"])
    return app


def resolve_routes(app: FastAPI) -> None:
    """FastAPI looks into its routes as the first request passes them, which takes most of a second: no callback shall
    wait for that."""
    for route in app.router.routes:
        route.matches(_NO_SUCH_DOOR)


def end_streams(app: FastAPI) -> None:
    """Before a server waits for its connections to end: these end by being told."""
    for feed in app.state.streams:
        feed.close()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    database = Database(settings.database_url)
    try:
        guard.refuse_unsafe(settings)
        await parts.require_migrated(database)
        await guard.refuse_unsafe_database(settings, database)
        async with _running(app, settings, database):
            yield
    finally:
        await database.close()


@asynccontextmanager
async def _running(app: FastAPI, settings: Settings, database: Database) -> AsyncIterator[None]:
    owner = parts.owner_name("api")
    gateways = open_gateways(settings)
    await gateways.refresh(database, settings.sealing_ring)
    recorder = parts.recorder(settings, database)
    publisher = Publisher(recorder.sent)
    desk = callback_desk(settings, database, owner=owner, publish=publisher.publish)
    heartbeats = HeartbeatDesk(database, also=device_config.take_vitals)
    state = app.state
    state.database = database
    state.sealing_ring = settings.sealing_ring
    state.token_key = settings.token_keys[0]
    state.token_keys = public_keys(settings.token_keys)
    state.access_life_s = settings.access_token_minutes * 60
    state.refresh_life_ms = settings.refresh_token_days * DAY_MS
    state.require_totp = settings.totp_required
    state.passwords = parts.passwords(settings)
    state.limits = parts.limits(settings)
    state.trusted_proxies = settings.trusted_proxies
    state.public_url = settings.public_url
    state.bonus_tiers = parts.bonus_tiers(settings)
    state.mail_desk = parts.mail_desk(settings, owner=owner)
    state.documents_folder = parts.documents_folder(settings)
    state.exports_folder = parts.exports_folder(settings)
    state.device_logs_folder = parts.device_logs_folder(settings)
    state.device_log_file_days = settings.keep_device_logs_days
    state.log_tails = Tails()
    state.exportable, state.export_roles, state.export_scopes = EXPORTABLE, EXPORTS, EXPORT_SCOPES
    state.webhook_reach = parts.webhook_reach(settings)
    state.telling = parts.telling(settings, owner=owner)
    state.possession_check = settings.possession_check == "on"
    state.possession_key = seal.derive(settings.master, "soundbox/possession/v1")
    state.hash_broker_password = hash_password
    state.probe_login = partial(broker_parts.broker_lets_in, settings.broker_host, settings.broker_port)
    state.broker_address = await asyncio.to_thread(broker_parts.broker_address, settings)
    state.makers_broker = broker_parts.makers_broker(settings)
    state.publisher = publisher
    state.callback_desk = desk
    state.heartbeat_desk = heartbeats
    state.gateways = gateways
    state.snap_token_key = snap_token_key(settings)
    state.charge_desk = ChargeDesk(database, gateways, desk.take, lives=parts.lives(settings))
    state.static_issuer = next((one for one in gateways.accounts.values() if isinstance(one, StaticIssuer)), None)
    state.simulator = gateways.accounts.get("sandbox")
    state.calendar = read_calendar(settings.settlement_calendar)
    state.scoring_model = Model(settings.scoring_model)
    state.warning_thresholds = parts.warning_thresholds(settings)
    state.warning_hearing = parts.warning_hearing(settings)
    state.shows_advice = bool(settings.ai_api_key.get_secret_value())
    bank = open_bank(settings)
    state.bank_name = None if bank is None else bank.name
    state.bank_callbacks = {} if bank is None else {bank.name: bank}
    state.other_transfers = take_withdrawal_report
    state.wallet_terms = parts.wallet_terms(settings)
    state.late_report_ms = settings.late_report_s * 1000
    state.payment_gateways = lambda: gateways.accounts
    state.inquiry = Inquiry(database, state.payment_gateways, desk.take)
    state.checkout_key = seal.derive(settings.master, "soundbox/checkout-form/v1")
    state.checkout_feed = checkout_page.open_feed(database)
    app.state.streams[:] = [state.checkout_feed, state.log_tails]
    state.looks = _looks(settings, database, gateways, publisher)
    health_routes = _health_routes(state.looks, database, publisher, gateways)
    app.router.routes += health_routes
    fresh = asyncio.create_task(gateways.keep_fresh(database, settings.sealing_ring))
    connecting = asyncio.create_task(
        keep_connected(
            publisher,
            database,
            host=settings.broker_host,
            port=settings.broker_port,
            master=settings.master,
            folder=parts.lock_folder(settings),
        )
    )
    recording = asyncio.create_task(recorder.run())
    if state.own_process:
        resolve_routes(app)
        parts.settle_memory()
    log.info("api.ready", url=settings.public_url)
    try:
        yield
    finally:
        await state.checkout_feed.aclose()
        app.state.streams.clear()
        for route in health_routes:  # they speak of the parts of this run
            app.router.routes.remove(route)
        await desk.drain()
        await heartbeats.drain()
        await parts.cancel([connecting, fresh, recording])
        await recorder.write()
        await gateways.aclose()
        if bank is not None:
            await bank.aclose()
        log.info("api.stopped")


def _looks(
    settings: Settings, database: Database, gateways: Gateways, publisher: Publisher
) -> Mapping[str, health.Look]:
    """Every part whose health is asked for."""

    async def look_at_broker() -> health.Part:
        return health.Part(state="up" if publisher.connected else "down", facts={"connected": publisher.connected})

    async def look_at_provider() -> health.Part:
        circuits = await gateways.circuits()
        state: health.State = "up" if circuits else "down"
        if any(circuit != "closed" for circuit in circuits.values()):
            state = "degraded"
        return health.Part(state=state, facts={"circuits": circuits})

    async def look_at_migrations() -> health.Part:
        current, newest = await migrate.current(database), migrate.newest()
        return health.Part(state="up" if current == newest else "down", facts={"current": current, "newest": newest})

    return {
        "database": partial(health.look_at_database, database),
        "migrations": look_at_migrations,
        "broker": look_at_broker,
        "worker": partial(health.look_at_workers, database),
        "outbox": partial(health.look_at_outbox, database),
        "provider": look_at_provider,
        "disk": partial(health.look_at_disk, settings.home),
    }


def _health_routes(
    looks: Mapping[str, health.Look], database: Database, publisher: Publisher, gateways: Gateways
) -> Sequence[BaseRoute]:
    async def broker_connected() -> bool:
        return publisher.connected

    database_answers = partial(health.database_answers, database)
    checks: dict[str, health.Check] = {
        "database": database_answers, "broker": broker_connected, "provider": partial(asked_for, gateways),
    }  # fmt: skip
    ready = health.readyz(checks, can_do_without={"broker", "provider"})
    return [
        Route("/healthz", health.healthz),
        Route("/health", health.healthz),
        Route("/health/deep", health.deep(looks)),
        Route("/readyz", ready),
        Route("/metrics", health.metrics_page(database, gateways.show)),
    ]
