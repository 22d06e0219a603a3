"""Where providers notify us in their own ways: verified over the raw bytes, applied in groups like any callback, and
answered as each of them expects, only after the commit."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import structlog
from fastapi import Request
from fastapi.responses import Response

from soundbox_server import clock, failpoints, metrics
from soundbox_server.db import root_cause, will_pass
from soundbox_server.errors import Conflict, InvalidSignature, NotFound, Overloaded, SoundboxError
from soundbox_server.http import problems, read_body, request_id
from soundbox_server.idempotency import Once, is_same
from soundbox_server.payments.routes import CallbackDesk
from soundbox_server.payments.state import Outcome
from soundbox_server.providers import snap_tokens
from soundbox_server.providers.base import Acknowledgement, CallbackOutcome, Notifying, Report
from soundbox_server.providers.profiles import Kind, provider_of
from soundbox_server.providers.registry import Gateways
from soundbox_server.providers.snap import SnapProvider, TokenRefused

log = structlog.get_logger()

SNAP_PREFIX = "/integrations/snap/"
_NOTIFY, _TOKEN = "/v1.0/qr/qr-mpm-notify", "/v1.0/access-token/b2b"


async def xendit_webhook(request: Request) -> Response:
    """`POST /api/v1/webhook/xendit`: one static token proves it, so every account's is tried."""
    return await _notified(request, "xendit", _accounts(request, "xendit"))


async def midtrans_webhook(request: Request) -> Response:
    """`POST /api/v1/webhook/midtrans`: the signature is in the body."""
    return await _notified(request, "midtrans", _accounts(request, "midtrans"))


async def paylabs_webhook(request: Request) -> Response:
    """`POST /api/webhook/paylabs`: signed, and so is our answer."""
    return await _notified(request, "paylabs", _accounts(request, "paylabs"))


async def snap_door(request: Request) -> Response:
    """Whatever a SNAP partner asks of us below `/integrations/snap/{partner}`: a token, or to take a notification."""
    partner, slash, rest = request.scope["path"].removeprefix(SNAP_PREFIX).partition("/")
    if slash + rest not in (_NOTIFY, _TOKEN):
        raise NotFound("No such door.")
    account = next((one for one in _accounts(request, "snap") if one.name == partner), None)
    if account is None:
        raise InvalidSignature("The path does not name a partner of ours.")
    if slash + rest == _NOTIFY:
        return await _notified(request, partner, [account])
    return await _token(request, cast(SnapProvider, account))


def _accounts(request: Request, kind: Kind) -> Sequence[Notifying]:
    gateways: Gateways = request.app.state.gateways
    return cast(Sequence[Notifying], gateways.of_kind(kind))


async def _notified(request: Request, partner: str, accounts: Sequence[Notifying]) -> Response:
    if not accounts:
        raise InvalidSignature("This provider has no account here that could have signed.")
    body, headers = await read_body(request), _headers(request)
    account, report, refusal = _read(accounts, headers, body)
    if report is None:
        outcome = _refused(refusal)
    else:
        failpoints.reached("callback.verified")
        outcome = await _take_once(request, account, report, headers, body)
        failpoints.reached("callback.answered")
    metrics.labelled(metrics.callbacks, provider_of(partner), outcome).inc()
    log.info("callback.answered", partner=account.name, outcome=outcome, code=refusal.code if refusal else None)
    return _response(account.acknowledge(outcome, body=body, now_ms=clock.now_ms()))


def _headers(request: Request) -> Mapping[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}


def _read(
    accounts: Sequence[Notifying], headers: Mapping[str, str], body: bytes
) -> tuple[Notifying, Report | None, SoundboxError | None]:
    """The account whose signature it bears, and what it says; or why it is refused."""
    refusal: SoundboxError | None = None
    for account in accounts:
        try:
            return account, account.read_callback(headers, body, now_ms=clock.now_ms()), None
        except InvalidSignature as error:
            refusal = error
        except SoundboxError as error:  # signed by this one, and not readable
            return account, None, error
    return accounts[0], None, refusal


def _refused(refusal: SoundboxError | None) -> CallbackOutcome:
    if isinstance(refusal, TokenRefused):
        return "token_refused"
    return "forged" if isinstance(refusal, InvalidSignature) else "unreadable"


async def _take_once(
    request: Request, account: Notifying, report: Report, headers: Mapping[str, str], body: bytes
) -> CallbackOutcome:
    """SNAP gives each notification of a day a name of its own. What comes under a name that was used for something else
    is told so with 409, and taken all the same: the name is not signed, and the money is."""
    now_ms = clock.now_ms()
    key = account.delivery_key(headers, now_ms=now_ms) if isinstance(account, SnapProvider) else None
    if key is not None:
        named = Once(scope="snap notification", key=key, body_sha256=hashlib.sha256(body).hexdigest())
        try:
            same = await request.app.state.database.write(lambda tx: is_same(tx, named, now_ms=now_ms))
        except Exception as error:
            if not will_pass(root_cause(error)):
                raise
            return "unavailable"
        taken = await _take(request, report)
        return taken if same or taken == "unavailable" else "conflict"
    return await _take(request, report)


async def _take(request: Request, report: Report) -> CallbackOutcome:
    """Any outcome that is stored is taken; a database that is away makes the provider come again."""
    desk: CallbackDesk = request.app.state.callback_desk
    try:
        taken = await desk.take(report, asked=request_id(request))
    except Overloaded:
        return "unavailable"
    except Exception as error:
        if not will_pass(root_cause(error)):
            raise
        return "unavailable"
    return "orphan" if taken.outcome is Outcome.ORPHAN else "taken"


async def _token(request: Request, account: SnapProvider) -> Response:
    """`POST …/access-token/b2b`: the partner proves itself with its RSA key."""
    body, now_ms = await read_body(request), clock.now_ms()
    try:
        account.verify_token_request(_headers(request), body, now_ms=now_ms)
    except SoundboxError as error:
        log.info("callback.token_refused", partner=account.name, code=error.code)
        return _response(account.token_refusal(_refused(error), now_ms=now_ms))
    token = snap_tokens.issue(request.app.state.snap_token_key, account.name, now_ms=now_ms)
    return _response(account.token_answer(token, now_ms=now_ms))


def _response(said: Acknowledgement) -> Response:
    return Response(said.body, said.status, dict(said.headers))


def _operation(name: str, who: str, about: str, *, example: dict[str, Any], headers: Sequence[str]) -> dict[str, Any]:
    """What the API's description says of a door whose bodies are the provider's own."""
    answers = {"description": "As the provider expects it", "content": {"application/json": {"schema": _ANY}}}
    parameters: list[dict[str, Any]] = [
        {"name": header, "in": "header", "required": True, "schema": {"type": "string"}} for header in headers
    ]
    also = {str(status): said for status, said in problems(Conflict).items()} if name == "snap_notify" else {}
    if name.startswith("snap"):
        parameters.append({"name": "partner", "in": "path", "required": True, "schema": {"type": "string"}})
    return {
        "summary": who,
        "description": about,
        "tags": ["partners"],
        "operationId": name,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ANY, "example": example}}},
        "responses": {status: dict(answers) for status in ("200", "400", "401", "503")} | also,
    }


_ANY = {"type": "object"}
_ONCE = "Answered only after the commit, as this provider expects; what is not taken it sends again."
XENDIT_OPERATION = _operation(
    "xendit_webhook", "Xendit reports a payment", _ONCE, headers=["X-Callback-Token"],
    example={"id": "inv_1", "external_id": "ref_01k9x3m8z6", "status": "PAID", "amount": 33000,
             "paid_at": "2026-05-23T10:32:15Z"},
)  # fmt: skip
MIDTRANS_OPERATION = _operation(
    "midtrans_webhook", "Midtrans reports a payment", f"{_ONCE} `signature_key` in the body proves it.", headers=[],
    example={"order_id": "ref_01k9x3m8z6", "status_code": "200", "gross_amount": "33000.00",
             "transaction_status": "settlement", "signature_key": "0123456789abcdef"},
)  # fmt: skip
PAYLABS_OPERATION = _operation(
    "paylabs_webhook", "Paylabs reports a payment", f"{_ONCE} The answer is signed.",
    headers=["X-Timestamp", "X-Signature"],
    example={"merchantId": "010332", "requestId": "1", "errCode": "0", "merchantTradeNo": "ref_01k9x3m8z6",
             "amount": "33000.00", "status": "02"},
)  # fmt: skip
SNAP_NOTIFY_OPERATION = _operation(
    "snap_notify", "A SNAP acquirer reports a payment", _ONCE, headers=["X-Timestamp", "X-Signature"],
    example={"originalPartnerReferenceNo": "ref_01k9x3m8z6", "latestTransactionStatus": "00",
             "amount": {"value": "33000.00", "currency": "IDR"}},
)  # fmt: skip
SNAP_TOKEN_OPERATION = _operation(
    "snap_token", "A SNAP acquirer asks for a token", "It lives for 900 s and is good for symmetric notifications.",
    headers=["X-Timestamp", "X-Signature", "X-Client-Key"], example={"grantType": "client_credentials"},
)  # fmt: skip
