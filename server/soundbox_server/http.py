"""What HTTP doors share: request ids, errors as problem+json, envelopes, sessions, and a limit on every body.

Middleware is plain ASGI: Starlette's BaseHTTPMiddleware costs four times as much and breaks contextvars.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any

import asyncpg
import orjson
import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundbox_server import clock, db
from soundbox_server.errors import BodyTooLarge, Overloaded, SoundboxError, ValidationFailed
from soundbox_server.ids import REQUEST_ID, new_id

BODY_LIMIT = 64 * 1024
log = structlog.get_logger()


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with db.transaction(request.app.state.database) as session:
        yield session


async def _reader(request: Request) -> AsyncIterator[AsyncSession]:
    async with db.reading(request.app.state.database) as session:
        yield session


# scope="function": commit before the response leaves. FastAPI's default commits after a 200 is already sent.
Session = Annotated[AsyncSession, Depends(_session, scope="function")]
Reader = Annotated[AsyncSession, Depends(_reader, scope="function")]


def envelope(request: Request, data: object, *, status: int = 200, **beside: object) -> Response:
    """`{data, request_id, timestamp}`: the operators' and merchants' answer."""
    return answer(
        {"data": data, **beside, "request_id": request_id(request), "timestamp": clock.rfc3339(clock.now_ms())}, status
    )


def answer(body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, dict(headers or {}), media_type="application/json")


def request_id(request: Request) -> str:
    return str(request.scope["soundbox.request_id"])


async def read_body(request: Request, *, limit: int = BODY_LIMIT) -> bytes:
    """The raw body, refused as soon as it is too long: before it is read, where its length was announced."""
    if _announced_bytes(request.scope) > limit:
        raise BodyTooLarge(f"The body is longer than {limit} bytes.")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"The body is longer than {limit} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


def _announced_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


class RequestContext:
    """Every request gets an id (its own X-Request-Id when that is one) that the answer and all log lines carry."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["soundbox.request_id"] = asked = _wanted_id(scope) or new_id("req")
        structlog.contextvars.bind_contextvars(request_id=asked)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", asked.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)


def _wanted_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if REQUEST_ID.fullmatch(text) else None
    return None


class BodyLimit:
    """Bodies longer than the limit are refused before anybody reads them."""

    def __init__(self, app: ASGIApp, limit: int = BODY_LIMIT) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        if _announced_bytes(scope) > self._limit:
            await _problem(Request(scope), BodyTooLarge(f"The body is longer than {self._limit} bytes."))(
                scope, receive, send
            )
            return
        left = self._limit

        async def receive_some() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise BodyTooLarge(f"The body is longer than {self._limit} bytes.")
            return message

        await self._app(scope, receive_some, send)


Door = Callable[[Request], Awaitable[Response]]


class LeanApp(FastAPI):
    """Answers the paths that get most of the traffic before all layers of FastAPI: they cost as much as a door.

    Only POST: another method at such a path goes on to the app. What the layers do for the other paths is done here:
    the request id, and errors as answers. The limit on the body is `read_body`'s, which every door calls.
    """

    lean: Mapping[str, Door]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        door = self.lean.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if door is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        scope["soundbox.request_id"] = asked = _wanted_id(scope) or new_id("req")
        structlog.contextvars.bind_contextvars(request_id=asked)
        request = Request(scope, receive)
        try:
            response = await door(request)
        except SoundboxError as error:
            response = await _say_soundbox_error(request, error)
        except ClientDisconnect:  # nobody is left to be answered
            return
        except Exception as error:
            response = await _say_internal(request, error)
        response.raw_headers.append((b"x-request-id", asked.encode()))
        await response(scope, receive, send)


_TITLES = re.compile(r"(?<!^)(?=[A-Z])")


def _problem(request: Request, error: SoundboxError, *, headers: Mapping[str, str] | None = None) -> Response:
    """RFC 9457 and the contract's error envelope in one body."""
    title = _TITLES.sub(" ", type(error).__name__).capitalize()
    return _problem_body(request, error.status, error.code, title, error.message, error.facts, headers=headers)


def _problem_body(
    request: Request,
    status: int,
    code: str,
    title: str,
    message: str,
    details: Mapping[str, object],
    *,
    errors: list[dict[str, object]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body: dict[str, object] = {
        "type": f"urn:soundbox:error:{code}",
        "title": title,
        "status": status,
        "detail": message,
        "instance": request.url.path,
        "code": code,
        "message": message,
        "details": dict(details),
        "request_id": request_id(request),
        "timestamp": clock.rfc3339(clock.now_ms()),
    }
    if errors is not None:
        body["errors"] = errors
    return Response(orjson.dumps(body, default=str), status, dict(headers or {}), media_type="application/problem+json")


async def _say_soundbox_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SoundboxError)
    if error.status >= 500:
        log.warning("request.failed", code=error.code, detail=error.message, path=request.url.path)
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _problem(request, error, headers=headers)


_HTTP_CODES = {400: "VALIDATION_FAILED", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND"}


async def _say_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, error.detail.upper().replace(" ", "_"))
    return _problem_body(request, error.status_code, code, error.detail, error.detail, {}, headers=error.headers)


async def _say_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors: list[dict[str, object]] = [
        {"field": ".".join(str(part) for part in e["loc"]), "message": e["msg"]} for e in error.errors()
    ]
    return _problem_body(
        request, 400, "VALIDATION_FAILED", "Validation failed", "The request does not fit.", {}, errors=errors
    )


async def _say_internal(request: Request, error: Exception) -> Response:
    if db.will_pass(db.root_cause(error)):
        log.warning("request.database_away", path=request.url.path, error=repr(error))
        return await _say_soundbox_error(request, Overloaded("The database does not answer. Try again in a moment."))
    if isinstance(db.root_cause(error), asyncpg.DataError):  # a NUL, most of the time
        return await _say_soundbox_error(request, ValidationFailed("A value holds what cannot be stored."))
    log.error("request.crashed", path=request.url.path, exc_info=error)
    return _problem_body(request, 500, "INTERNAL", "Internal error", "Something went wrong on our side.", {})


async def _say_internal_outside(request: Request, error: Exception) -> Response:
    """This answer leaves outside the middleware that adds the id to all others."""
    response = await _say_internal(request, error)
    response.headers["x-request-id"] = request_id(request)
    return response


def install(app: LeanApp, *, lean: Mapping[str, Door]) -> None:
    """Request ids, body limit and error answers for this app; `lean` are the POST paths answered without routing."""
    app.lean = lean
    handlers: dict[Any, Any] = {
        SoundboxError: _say_soundbox_error,
        HTTPException: _say_http_error,
        RequestValidationError: _say_invalid,
        Exception: _say_internal_outside,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestContext)
