"""The HTTP process, put together in one place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog
from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Route

from soundbox_server import health, http, logs, parts, seal
from soundbox_server.access.routes import router as access
from soundbox_server.broker.passwords import hash_password
from soundbox_server.broker.publisher import Publisher, keep_connected
from soundbox_server.db import Database
from soundbox_server.devices.routes import HeartbeatDesk, heartbeat
from soundbox_server.devices.routes import router as devices
from soundbox_server.payments.admin_routes import router as transactions
from soundbox_server.payments.routes import QrDesk, qris_callback
from soundbox_server.payments.routes import router as payments
from soundbox_server.settings import Settings

log = structlog.get_logger()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API. Without settings they come from the environment, which is what uvicorn's factory wants."""
    settings = settings or Settings()
    logs.configure(process="api", form=settings.log_format, level=settings.log_level)
    app = http.LeanApp(
        title="QRIS Soundbox Platform", version="1", lifespan=_lifespan, docs_url=None, redoc_url=None,
        default_response_class=Response,
    )  # fmt: skip
    app.state.settings = settings
    lean = {"/integrations/qris/callback": qris_callback, "/device/heartbeat": heartbeat}
    http.install(app, lean=lean)
    # As routes too: another method at their paths is answered 405, and whoever lists the routes sees them.
    app.router.routes[:0] = [Route(path, door, methods=["POST"]) for path, door in lean.items()]
    for router in (access, devices, payments, transactions):
        app.include_router(router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    database = Database(settings.database_url)
    try:
        await parts.require_migrated(database)
        async with _running(app, settings, database):
            yield
    finally:
        await database.close()


@asynccontextmanager
async def _running(app: FastAPI, settings: Settings, database: Database) -> AsyncIterator[None]:
    owner = parts.owner_name("api")
    provider = parts.open_provider(settings)
    publisher = Publisher()
    desk = parts.callback_desk(settings, database, provider, owner=owner, publish=publisher.publish)
    heartbeats = HeartbeatDesk(database)
    state = app.state
    state.database = database
    state.token_key = seal.token_signing_key(settings.master)
    state.telling = parts.telling(settings, owner=owner)
    state.hash_broker_password = hash_password
    state.probe_login = partial(parts.broker_lets_in, settings.broker_host, settings.broker_port)
    state.broker_address = {"host": settings.broker_public_host, "port": settings.broker_port, "tls": False}
    state.publisher = publisher
    state.callback_desk = desk
    state.heartbeat_desk = heartbeats
    state.qr_desk = QrDesk(database, provider, desk, qr_life_ms=settings.qr_life_s * 1000)
    _add_health_routes(app, database, publisher)
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
    parts.settle_memory()
    log.info("api.ready", url=settings.public_url)
    try:
        yield
    finally:
        await desk.drain()
        await heartbeats.drain()
        await parts.cancel([connecting])
        await provider.aclose()
        log.info("api.stopped")


def _add_health_routes(app: FastAPI, database: Database, publisher: Publisher) -> None:
    async def broker_connected() -> bool:
        return publisher.connected

    database_answers = partial(health.database_answers, database)
    checks: dict[str, health.Check] = {"database": database_answers, "broker": broker_connected}
    ready = health.readyz(checks, can_do_without={"broker"})
    app.router.routes += [
        Route("/healthz", health.healthz),
        Route("/health", health.healthz),
        Route("/readyz", ready),
        Route("/metrics", health.metrics_page(database)),
    ]
