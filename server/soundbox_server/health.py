"""Liveness, readiness, each part's health, and figures: what an operator's monitoring asks of a process."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from soundbox_server import clock, metrics
from soundbox_server.answers import TypedDict, answers
from soundbox_server.broker import beats
from soundbox_server.db import Database, Statements
from soundbox_server.devices.service import count_online
from soundbox_server.http import envelope
from soundbox_server.outbox.service import depth, oldest_overdue_ms
from soundbox_server.payments.figures import count_waiting
from soundbox_server.webhooks.deliveries import waiting as webhooks_waiting

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


def metrics_page(
    database: Database, *figures: Callable[[], Awaitable[None]]
) -> Callable[[Request], Awaitable[Response]]:
    """`figures` are set in the moment they are asked for."""

    async def answer(_request: Request) -> Response:
        for refresh in figures:
            await refresh()

        async def look(tx: Statements) -> tuple[dict[str, int], int, int, int]:
            return await depth(tx), await count_online(tx), await count_waiting(tx), await webhooks_waiting(tx)

        try:
            waiting, online, unpaid, untold = await asyncio.wait_for(database.read(look), CHECK_TIMEOUT_S)
        except Exception as error:  # the other figures matter most when the database is away
            log.warning("metrics.database_away", error=repr(error))
        else:
            for state, count in waiting.items():
                metrics.outbox_depth.labels(state).set(count)
            metrics.devices_online.set(online)
            metrics.payments_waiting.set(unpaid)
            metrics.webhooks_waiting.set(untold)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return answer


State = Literal["up", "degraded", "down"]
OVERDUE_MS = 60_000  # a message this late says that nobody sends
LEAST_FREE_BYTES = 512 * 1024 * 1024
LEAST_FREE_PERCENT = 5

router = APIRouter(tags=["operators"])
_WITHOUT_DATABASE: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "Failing",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}}},
    }
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """How one part is doing, with the figures that say so. Figures are for staff."""

    state: State
    facts: Mapping[str, Any]


Look = Callable[[], Awaitable[Part]]


@dataclass(frozen=True, kw_only=True)
class Examined:
    """All parts together: failing without its database, degraded when any other part is not up."""

    status: Literal["ok", "degraded", "failing"]
    parts: Mapping[str, Part]

    @property
    def http_status(self) -> int:
        return 503 if self.status == "failing" else 200


async def examine(looks: Mapping[str, Look]) -> Examined:
    """Look at every part at once; one that does not answer in time is down."""
    found = dict(zip(looks, await asyncio.gather(*(_look(look) for look in looks.values())), strict=True))
    if found["database"].state == "down":
        return Examined(status="failing", parts=found)
    whole = all(part.state == "up" for part in found.values())
    return Examined(status="ok" if whole else "degraded", parts=found)


async def _look(look: Look) -> Part:
    try:
        return await asyncio.wait_for(look(), CHECK_TIMEOUT_S)
    except Exception as error:  # whatever the reason, it is down
        return Part(state="down", facts={"error": type(error).__name__})


def deep(looks: Mapping[str, Look]) -> Callable[[Request], Awaitable[Response]]:
    """`/health/deep`, open to all: which parts are up, and nothing of how they are built."""

    async def answer(_request: Request) -> Response:
        examined = await examine(looks)
        told = {"status": examined.status, "parts": {name: part.state for name, part in examined.parts.items()}}
        return JSONResponse(told, examined.http_status)

    return answer


class HealthView(TypedDict):
    status: str


class DeepHealthView(HealthView):
    parts: dict[str, dict[str, Any]]


def _says(summary: str, shape: dict[str, Any] | None = None, *, may_fail: bool = False) -> dict[str, Any]:
    """One operation of these, for the API's description; the failing answer has the same shape."""
    content = {"application/json": {"schema": shape}} if shape else {"text/plain": {"schema": {"type": "string"}}}
    answers = {"200": {"description": "OK", "content": content}}
    if may_fail:
        answers["503"] = {"description": "Failing", "content": content}
    return {"summary": summary, "tags": ["health"], "responses": answers}


def _shape(part: str, *states: str) -> dict[str, Any]:
    """A status, and each part's own."""
    status = {"type": "string", "enum": ["ok", "degraded", "failing"]}
    parts = {"type": "object", "additionalProperties": {"type": "string", "enum": list(states)}}
    return {"type": "object", "required": ["status", part], "properties": {"status": status, part: parts}}


_ALIVE = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}
# What is served beside the routers, by path: all of it is asked for with GET.
OPERATIONS: dict[str, dict[str, Any]] = {
    "/healthz": _says("Alive: the event loop turns", _ALIVE),
    "/health": _says("The same, by the name that clients of a reference know", _ALIVE),
    "/health/deep": _says("Which parts are up", _shape("parts", "up", "degraded", "down"), may_fail=True),
    "/readyz": _says("Whether requests can be answered", _shape("checks", "ok", "failing"), may_fail=True),
    "/metrics": _says("Figures for Prometheus"),
}


@router.get("/admin/health", responses=answers(HealthView))
async def admin_health(request: Request) -> Response:
    """Alive, and what time it is here."""
    return envelope(request, {"status": "ok"})


@router.get("/admin/health/deep", responses=answers(DeepHealthView) | _WITHOUT_DATABASE)
async def admin_health_deep(request: Request) -> Response:
    """Every part with its figures. 503 without the database."""
    examined = await examine(request.app.state.looks)
    parts = {name: {"status": part.state, **part.facts} for name, part in examined.parts.items()}
    return envelope(request, {"status": examined.status, "parts": parts}, status=examined.http_status)


async def look_at_database(database: Database) -> Part:
    started = time.perf_counter()
    await database_answers(database)
    took_ms = round((time.perf_counter() - started) * 1000, 1)
    return Part(state="up", facts={"dialect": database.dialect, "answered_in_ms": took_ms})


async def look_at_outbox(database: Database) -> Part:
    now_ms = clock.now_ms()

    async def look(tx: Statements) -> tuple[dict[str, int], int]:
        return await depth(tx), await oldest_overdue_ms(tx, now_ms=now_ms)

    waiting, overdue_ms = await database.read(look)
    facts = {"waiting": waiting, "oldest_overdue_s": overdue_ms // 1000}
    return Part(state="degraded" if overdue_ms > OVERDUE_MS else "up", facts=facts)


async def look_at_workers(database: Database) -> Part:
    now_ms = clock.now_ms()
    shards = [
        {"shard": row["shard"], "owner": row["owner"], "silent_s": (now_ms - row["at_ms"]) // 1000}
        for row in await database.read(beats.beats)
    ]
    silent = [shard for shard in shards if shard["silent_s"] * 1000 > beats.STALE_AFTER_MS]
    state: State = "down" if len(silent) == len(shards) else "degraded" if silent else "up"
    return Part(state=state, facts={"shards": shards})


async def look_at_disk(folder: Path) -> Part:
    usage = await asyncio.to_thread(shutil.disk_usage, folder)
    free_percent = usage.free * 100 // usage.total
    short = usage.free < LEAST_FREE_BYTES or free_percent < LEAST_FREE_PERCENT
    facts = {"free_bytes": usage.free, "free_percent": free_percent}
    return Part(state="degraded" if short else "up", facts=facts)
