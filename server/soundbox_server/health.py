"""Liveness, readiness and figures: what an operator's monitoring asks of a process."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from soundbox_server import metrics
from soundbox_server.db import Database, Statements
from soundbox_server.devices.service import count_online
from soundbox_server.outbox.service import depth

log = structlog.get_logger()

CHECK_TIMEOUT_S = 2.0
Check = Callable[[], Awaitable[bool]]


async def healthz(_request: Request) -> Response:
    """Alive: the event loop turns."""
    return JSONResponse({"status": "ok"})


def readyz(
    checks: Mapping[str, Check], *, can_do_without: Collection[str] = ()
) -> Callable[[Request], Awaitable[Response]]:
    """Ready: 200 when each check holds, else 503; the body names each.

    What it can do without makes it degraded, and still ready: callbacks are stored while the broker is away.
    """

    async def answer(_request: Request) -> Response:
        held = await asyncio.gather(*(_holds(check) for check in checks.values()))
        results = {name: "ok" if ok else "failing" for name, ok in zip(checks, held, strict=True)}
        ready = all(ok for name, ok in zip(checks, held, strict=True) if name not in can_do_without)
        status = "ok" if all(held) else "degraded" if ready else "failing"
        return JSONResponse({"status": status, "checks": results}, 200 if ready else 503)

    return answer


async def _holds(check: Check) -> bool:
    try:
        return await asyncio.wait_for(check(), CHECK_TIMEOUT_S)
    except Exception:  # whatever the reason, not ready is the answer
        return False


async def database_answers(database: Database) -> bool:
    async def look(tx: Statements) -> bool:
        return len(await tx.fetch("SELECT 1 AS one")) == 1

    return await database.read(look)


def metrics_page(database: Database) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_request: Request) -> Response:
        async def look(tx: Statements) -> tuple[dict[str, int], int]:
            return await depth(tx), await count_online(tx)

        try:
            waiting, online = await asyncio.wait_for(database.read(look), CHECK_TIMEOUT_S)
        except Exception as error:  # the other figures matter most when the database is away
            log.warning("metrics.database_away", error=repr(error))
        else:
            for state, count in waiting.items():
                metrics.outbox_depth.labels(state).set(count)
            metrics.devices_online.set(online)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return answer
