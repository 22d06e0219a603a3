"""What HTTP doors share: request ids, errors as problem+json, envelopes, sessions, and a limit on every body.

Middleware is plain ASGI: Starlette's BaseHTTPMiddleware costs four times as much and breaks contextvars.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
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
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundbox_server import clock, db
from soundbox_server.errors import BodyTooLarge, Overloaded, SoundboxError, UnsupportedMediaType, ValidationFailed
from soundbox_server.ids import REQUEST_ID, new_id

BODY_LIMIT = 64 * 1024
PROBLEM_JSON = "application/problem+json"
log = structlog.get_logger()
_PARAMETER = re.compile(r"\{[a-z_]+\}")


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with db.transaction(request.app.state.database) as session:
        yield session


async def _reader(request: Request) -> AsyncIterator[AsyncSession]:
    async with db.reading(request.app.state.database) as session:
        yield session


# scope="function": commit before the response leaves. FastAPI's default commits after a 200 is already sent.
Session = Annotated[AsyncSession, Depends(_session, scope="function")]
Reader = Annotated[AsyncSession, Depends(_reader, scope="function")]


def envelope(
    request: Request, data: object, *, status: int = 200, headers: Mapping[str, str] | None = None, **beside: object
) -> Response:
    """`{data, request_id, timestamp}`: the operators' and merchants' answer."""
    body = {"data": data, **beside, "request_id": request_id(request), "timestamp": clock.rfc3339(clock.now_ms())}
    return answer(body, status, headers)


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


_NO_NUL = {"type": "string", "pattern": r"^[^\x00]*$"}
# JSON of any shape as it can be stored, for the description; members are texts too.
STORABLE: dict[str, Any] = {
    "title": "Storable",
    "description": "Any JSON without a NUL in its texts.",
    "anyOf": [
        {"type": ["null", "boolean", "number"]},
        _NO_NUL,
        {"type": "array", "items": {"$ref": "#/components/schemas/Storable"}},
        {
            "type": "object",
            "propertyNames": _NO_NUL,
            "additionalProperties": {"$ref": "#/components/schemas/Storable"},
        },
    ],
}


def storable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An object whose unknown members are ignored and yet read, for the description."""
    return {**schema, "propertyNames": _NO_NUL, "additionalProperties": {"$ref": "#/components/schemas/Storable"}}


# What every reference's error says besides: its schema's properties.
BESIDE_THE_ERROR: dict[str, Any] = {
    "errors": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["field", "message"],
            "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
        },
    },
    "request_id": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
}


@dataclass(frozen=True, kw_only=True)
class ErrorForm:
    """How a reference's own clients read errors at its paths: `say` makes their body of our problem.

    `name` and `schema` are the form's in the API's description; `paths` are whole paths or beginnings of them.
    """

    name: str
    paths: tuple[str, ...]
    schema: Mapping[str, Any]
    say: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    def is_at(self, path: str) -> bool:
        return any(path == ours or path.startswith(f"{ours}/") for ours in self.paths)


def problems(*kinds: type[SoundboxError]) -> dict[int | str, dict[str, Any]]:
    """The errors a route may answer, for its description: `responses=problems(Conflict, NotFound)`."""
    said: dict[int | str, dict[str, Any]] = {}
    for kind in sorted(kinds, key=lambda kind: (kind.status, kind.code)):
        answer = said.setdefault(kind.status, {"description": "", "content": {PROBLEM_JSON: {"examples": {}}}})
        content = answer["content"][PROBLEM_JSON]
        content["schema"] = {"$ref": "#/components/schemas/Problem"}
        content["examples"][kind.code] = {"value": _example(kind)}
        answer["description"] = " or ".join(content["examples"])
    return said


def _example(kind: type[SoundboxError]) -> dict[str, object]:
    title = _title(kind)
    return {
        "type": f"urn:soundbox:error:{kind.code}", "title": title, "status": kind.status, "detail": f"{title}.",
        "instance": "/path/of/the/request", "code": kind.code, "message": f"{title}.", "details": {},
        "request_id": "req_01k9x3m8z6f1q4v7c2b5n0t8rj", "timestamp": "2026-05-24T00:00:00Z",
    }  # fmt: skip


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
    """Bodies longer than the limit are refused before anybody reads them.

    `larger` are the doors that take files: path template → bytes.
    """

    def __init__(self, app: ASGIApp, larger: Mapping[str, int]) -> None:
        self._app = app
        self._larger = [(re.compile(_PARAMETER.sub("[^/]+", path)), limit) for path, limit in larger.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        limit = next((most for path, most in self._larger if path.fullmatch(scope["path"])), BODY_LIMIT)
        if _announced_bytes(scope) > limit:
            refusal = BodyTooLarge(f"The body is longer than {limit} bytes.")
            await _problem(Request(scope), refusal)(scope, receive, send)
            return
        left = limit

        async def receive_some() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise BodyTooLarge(f"The body is longer than {limit} bytes.")
            return message

        await self._app(scope, receive_some, send)


Door = Callable[[Request], Awaitable[Response]]


class LeanApp(FastAPI):
    """Answers the paths that get most of the traffic before all layers of FastAPI: they cost as much as a door.

    Only POST: another method at such a path goes on to the app. What the layers do for the other paths is done here:
    the request id, and errors as answers. The limit on the body is `read_body`'s, which every door calls.
    """

    lean: Mapping[str, Door]
    lean_below: Mapping[str, Door]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        door = self._door(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
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

    def _door(self, path: str) -> Door | None:
        if (door := self.lean.get(path)) is not None:
            return door
        return next((door for prefix, door in self.lean_below.items() if path.startswith(prefix)), None)


_TITLES = re.compile(r"(?<!^)(?=[A-Z])")


def _problem(request: Request, error: SoundboxError, *, headers: Mapping[str, str] | None = None) -> Response:
    """RFC 9457 and the contract's error envelope in one body."""
    return _problem_body(
        request,
        error.status,
        error.code,
        _title(type(error)),
        error.message,
        error.facts,
        errors=error.errors,
        headers=headers,
    )  # fmt: skip


def _title(kind: type[SoundboxError]) -> str:
    return _TITLES.sub(" ", kind.__name__).capitalize()


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
    forms: Sequence[ErrorForm] = request.app.state.error_forms
    form = next((form for form in forms if form.is_at(request.scope["path"])), None)
    said, media_type = (body, PROBLEM_JSON) if form is None else (form.say(body), "application/json")
    return Response(orjson.dumps(said, default=str), status, dict(headers or {}), media_type=media_type)


async def _say_soundbox_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SoundboxError)
    if error.status >= 500:
        log.warning("request.failed", code=error.code, detail=error.message, path=request.url.path)
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _problem(request, error, headers=headers | error.headers)


_HTTP_CODES = {400: "VALIDATION_FAILED", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 404: "NOT_FOUND"}


async def _say_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, SoundboxError):  # FastAPI wraps what goes wrong while it reads a body
        return await _say_soundbox_error(request, error.__cause__)
    code = _HTTP_CODES.get(error.status_code, error.detail.upper().replace(" ", "_"))
    headers = dict(error.headers or {})
    if error.status_code == 405:  # the router names the methods of the first route at this path, and there may be more
        headers["Allow"] = ", ".join(_methods_at(request.app.state.policy, request.scope["path"])) or headers["Allow"]
    return _problem_body(request, error.status_code, code, error.detail, error.detail, {}, headers=headers)


def _methods_at(policy: Mapping[tuple[str, str], object], path: str) -> list[str]:
    """Of the templates with fewest parameters: `/documents/file` is no document."""
    found = [(method, template) for method, template in policy if compile_path(template)[0].match(path)]
    fewest = min((template.count("{") for _, template in found), default=0)
    return sorted({method for method, template in found if template.count("{") == fewest})


async def _say_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if request.headers.get("content-type", "") and not _is_json(request) and _body_was_not_read(error):
        return _problem(request, UnsupportedMediaType("Send the body as application/json."))
    errors: list[dict[str, object]] = [
        {"field": _field(e["loc"]), "message": e["msg"].removeprefix("Value error, ")} for e in error.errors()
    ]
    return _problem_body(
        request, 400, "VALIDATION_FAILED", "Validation failed", "The request does not fit.", {}, errors=errors
    )


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _body_was_not_read(error: RequestValidationError) -> bool:
    return any(tuple(e["loc"]) == ("body",) for e in error.errors())


def _field(loc: Sequence[int | str]) -> str:
    """The field's own path: where it was sent (body, query, path) is plain to whoever sent it."""
    within = loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc
    return ".".join(str(part) for part in within) or "body"


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


def install(
    app: LeanApp,
    *,
    lean: Mapping[str, Door],
    lean_below: Mapping[str, Door],
    larger_bodies: Mapping[str, int],
    error_forms: Sequence[ErrorForm] = (),
) -> None:
    """Request ids, body limits and error answers for this app; `lean` are the POST paths answered without routing, and
    `lean_below` those that begin so."""
    app.lean = lean
    app.lean_below = lean_below
    app.state.error_forms = error_forms
    handlers: dict[Any, Any] = {
        SoundboxError: _say_soundbox_error,
        HTTPException: _say_http_error,
        RequestValidationError: _say_invalid,
        Exception: _say_internal_outside,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(BodyLimit, larger=larger_bodies)
    app.add_middleware(RequestContext)
