"""The API's own description: FastAPI's document, completed by what every door has in common.

FastAPI knows parameters, bodies and the answers a route declares. Added here: the doors that are answered without
routing, who may call (from the policy), the errors that follow from that, and one schema for all of them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from soundbox_server import errors, idempotency
from soundbox_server.access.auth import Access, Door, Policy
from soundbox_server.errors import SoundboxError
from soundbox_server.http import PROBLEM_JSON, STORABLE, ErrorForm, problems

Operation = dict[str, Any]

DESCRIPTION = """\
Payments that a soundbox on the counter announces: dynamic QR, callbacks of payment providers, and everything an
operator of soundboxes does.

* **Money** is whole rupiah. **Integers** are written without a fraction: `50000`, never `50000.0`.
* **Times** are RFC 3339 in UTC.
* **Text** of the format `visible-text` has something to see, and no control, direction or private characters.
* **Errors** are `application/problem+json` (RFC 9457) with a `code` to program against; at paths that serve another
  system's clients they have the form that these know.
* **Requests** may carry `X-Request-Id` (1 to 64 of `A-Z a-z 0-9 . _ -`); every answer has one, and so have our logs.
* **Lists** are paged by `limit` and `cursor`; `next_cursor` of one answer is the `cursor` of the next request.
* **Overload**: 429 and 503 say in `Retry-After` when to come again. Nothing was done then.
"""

TAGS = [
    {"name": "operators", "description": "Platform staff: the registry, the fleet, the books."},
    {"name": "devices", "description": "Soundboxes, by their own token."},
    {"name": "merchants", "description": "Merchants and their staff."},
    {"name": "pos", "description": "Points of sale, in the words of the system that they were written for."},
    {"name": "wallets", "description": "Organisations and their wallets, in the words of the system they come from."},
    {"name": "partners", "description": "Payment providers and integration partners."},
    {"name": "banks", "description": "Banks, about merchants that let them see something."},
    {"name": "checkout", "description": "Whoever pays, at an address that nobody else knows."},
    {"name": "health", "description": "For monitoring."},
]

_BY_PREFIX = {
    "/admin": "operators", "/device": "devices", "/merchant": "merchants", "/integrations": "partners",
}  # fmt: skip

_SCHEME_OF: dict[Access | None, tuple[str, ...]] = {Door.DEVICE: ("device",), Door.SIGNED: ("signature",)}
_SECURITY: dict[str, dict[str, str]] = {
    "person": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An access token of a login."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An organisation's API key."},
    "device": {"type": "http", "scheme": "bearer", "description": "The device_token handed over at activation."},
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Partner-Signature",
        "description": "v1= and the hex HMAC-SHA256 of the partner's secret over timestamp, a dot and the raw body.",
    },
}

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 and the contract's error envelope in one body.",
    "required": [
        "type", "title", "status", "detail", "instance", "code", "message", "details", "request_id", "timestamp"
    ],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "description": "What to program against."},
        "message": {"type": "string"},
        "details": {"type": "object"},
        "errors": {
            "type": "array",
            "description": "Each field that does not fit; of a file, each line with its column and its own code.",
            "items": {
                "type": "object",
                "required": ["message"],
                "properties": {
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                    "line": {"type": "integer", "minimum": 1},
                    "column": {"type": ["string", "null"]},
                    "code": {"type": "string"},
                },
                "anyOf": [{"required": ["field"]}, {"required": ["line", "column", "code"]}],
            },
        },
        "request_id": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
    },
}  # fmt: skip

_ENVELOPE: dict[str, Any] = {
    "type": "object",
    "title": "Envelope",
    "required": ["data", "request_id", "timestamp"],
    "properties": {
        "data": {"description": "The answer itself."},
        "request_id": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "next_cursor": {"type": ["string", "null"], "description": "Lists: where the next page begins."},
    },
}


def describe(
    app: FastAPI,
    *,
    lean: Mapping[str, Operation],
    plain: Mapping[str, Operation],
    policy: Policy,
    error_forms: Sequence[ErrorForm] = (),
    webhooks: Mapping[str, Any] | None = None,
) -> None:
    """Let `app.openapi()` answer with the completed document. By path, `lean` are the operations of POST doors, and
    `plain` those of GET pages, that are served beside the routers; `webhooks`, by event, what we send to others."""
    app.openapi = partial(_document, app, lean, plain, policy, error_forms, webhooks or {})  # type: ignore[method-assign]


def _document(
    app: FastAPI,
    lean: Mapping[str, Operation],
    plain: Mapping[str, Operation],
    policy: Policy,
    error_forms: Sequence[ErrorForm],
    webhooks: Mapping[str, Any],
) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS
        )
        paths = document.setdefault("paths", {})
        for path, operation in lean.items():
            paths.setdefault(path, {})["post"] = deepcopy(operation)
        for path, operation in plain.items():
            paths.setdefault(path, {})["get"] = deepcopy(operation)
        for path, method, operation in _operations(paths):
            _complete(operation, path, method, policy.get((method, path)))
            for form in error_forms:
                _in_form(operation, path, form)
        document["paths"] = dict(sorted(paths.items()))
        document["webhooks"] = deepcopy(dict(webhooks))
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas |= {"Problem": _PROBLEM, "Envelope": _ENVELOPE, "Storable": STORABLE}
        schemas |= {form.name: dict(form.schema) for form in error_forms}
        for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours is a Problem
            schemas.pop(unused, None)
        components["securitySchemes"] = _SECURITY
        app.openapi_schema = document
    return app.openapi_schema


def _operations(paths: Mapping[str, Any]) -> Iterable[tuple[str, str, Operation]]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _complete(operation: Operation, path: str, method: str, access: Access | None) -> None:
    operation["tags"] = operation.get("tags") or [_tag(path)]
    operation["security"], roles = _who(access)
    if roles:
        operation["x-roles"] = roles
    operation.setdefault("summary", f"{method} {path}")
    answers = operation.setdefault("responses", {})
    if "HTTPValidationError" in str(answers.get("422")):
        del answers["422"]
    for status, said in problems(*_errors_of(operation, path, method, access)).items():
        answers[str(status)] = _both(answers.get(str(status)), said)
    for status, said in answers.items():
        if status.startswith("2") and status != "204" and not said.get("content"):
            said["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}}}
        said.setdefault("headers", {})["X-Request-Id"] = {"schema": {"type": "string"}}
    operation["responses"] = dict(sorted(answers.items()))


def _tag(path: str) -> str:
    return next((tag for prefix, tag in _BY_PREFIX.items() if path.startswith(prefix)), "health")


def _who(access: Access | None) -> tuple[list[dict[str, list[str]]], list[str]]:
    if isinstance(access, frozenset):
        return [{"person": []}, {"apiKey": []}], sorted(access)
    return [{scheme: []} for scheme in _SCHEME_OF.get(access, ())], []


def _errors_of(operation: Operation, path: str, method: str, access: Access | None) -> list[type[SoundboxError]]:
    """What any door of this kind may answer, whatever it does."""
    found: list[type[SoundboxError]] = [errors.Overloaded, errors.RateLimited]
    if isinstance(access, frozenset):
        found += [errors.Unauthenticated, errors.Forbidden]
    elif access is Door.DEVICE:
        found += [errors.DeviceUnauthorized]
    elif access is Door.SIGNED:
        found += [errors.InvalidSignature]
    if "requestBody" in operation:
        found += [errors.BodyTooLarge, errors.UnsupportedMediaType]
    if "requestBody" in operation or operation.get("parameters") or re.search("{.*}", path):
        found += [errors.ValidationFailed]
    if "{" in path:
        found += [errors.NotFound]
    if any(parameter["name"] == idempotency.HEADER for parameter in operation.get("parameters", ())):
        found += [errors.DuplicateRequest, errors.IdempotencyKeyReused]
    return found


def _in_form(operation: Operation, path: str, form: ErrorForm) -> None:
    """The errors of an operation as this reference's clients read them."""
    for said in operation["responses"].values() if form.is_at(path) else ():
        if (problem := said.get("content", {}).pop(PROBLEM_JSON, None)) is not None:
            examples = {code: {"value": form.say(one["value"])} for code, one in problem["examples"].items()}
            schema = {"$ref": f"#/components/schemas/{form.name}"}
            said["content"]["application/json"] = {"schema": schema, "examples": examples}


def _both(declared: Operation | None, common: Operation) -> Operation:
    """What a route declares for a status and what all of its kind share: the examples of both."""
    if declared is None:
        return common
    if PROBLEM_JSON not in declared.get("content", {}):
        return {**common, **declared, "content": {**declared.get("content", {}), **common["content"]}}
    examples = {**common["content"][PROBLEM_JSON]["examples"], **declared["content"][PROBLEM_JSON]["examples"]}
    schema = common["content"][PROBLEM_JSON]["schema"]
    return {
        **declared,
        "description": " or ".join(examples),
        "content": {**declared["content"], PROBLEM_JSON: {"schema": schema, "examples": examples}},
    }
