"""The sandbox acquirer's HTTP service. Every path but /healthz and the wallet's page asks for `Authorization: Bearer
<api key>`.

POST /v1/qr                    issue a dynamic QRIS; a known reference is answered again. With a method, "va_bca" say or
                               "gopay", it is a virtual account's number or a wallet's page, paid the same way
GET  /v1/qr?status=open        the newest charges (open, paid, expired, all)
GET  /v1/qr/{reference}        one charge, with the callbacks sent for it
POST /v1/qr/{reference}/pay    the customer pays
POST /v1/pay                   the customer scans: the same with the QR's text
POST /v1/static                issue a static QRIS; a known reference is answered again
POST /v1/static/{reference}/pay    a customer pays by it: {"amount": 15000}; POST /v1/pay knows it by its text too
POST /v1/qr/{reference}/cancel     nobody can pay it any more
POST /v1/qr/{reference}/refunds    give a part or all of it back; a known refund_reference is answered again
GET  /v1/refunds/{refund_reference}
POST /v1/qr/{reference}/reverse    the customer's bank takes the money back
POST /v1/qr/{reference}/dispute    the customer's bank asks about it
POST /v1/transfers             the bank pays out to an account; a known reference is answered again
GET  /v1/transfers/{reference}
POST /v1/transfers/{reference}/reverse    the receiving bank sends it back
GET, POST /wallet/{transaction_id}    the page where a customer pays by wallet or card, as they see it in a browser
GET, PUT /v1/faults            what shall go wrong
"""

import asyncio
import hmac
import html
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

import httpx
import msgspec
import orjson
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from soundbox_server.clock import now_ms as clock_now_ms
from soundbox_server.errors import (
    Overloaded,
    SoundboxError,
    TransactionNotFound,
    Unauthenticated,
    ValidationFailed,
)
from soundbox_server.http import read_body
from soundbox_server.ids import new_id
from soundbox_server.payments import qris
from soundbox_server.providers.base import MerchantIdentity, Method
from soundbox_server.providers.hmac_scheme import MAX_AMOUNT_IDR, read_time
from soundbox_server.providers.strict_json import read_as
from soundbox_server.sandbox import charges, static, transfers
from soundbox_server.sandbox.callbacks import Sender
from soundbox_server.sandbox.faults import Faults
from soundbox_server.sandbox.store import Store, open_store, read_faults, take_fault, write_faults

LONGEST_LIST = 100

Door = Callable[[Request], Awaitable[Response]]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]

_log = structlog.get_logger()


class _Merchant(msgspec.Struct):
    merchant_id: Text
    name: Text
    city: Text
    postal_code: Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,10}\Z")]
    mcc: Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{4}\Z")]
    criteria: Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{3}\Z")]
    nmid: str | None = None


class _Order(msgspec.Struct):
    reference: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.:-]{1,64}\Z")]
    amount: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT_IDR)]
    merchant: _Merchant
    expires_at: str
    callback_url: Annotated[str, msgspec.Meta(max_length=500)]
    method: Method = Method.QRIS_DYNAMIC
    return_url: Annotated[str, msgspec.Meta(max_length=2_000)] | None = None


class _StaticOrder(msgspec.Struct):
    reference: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")]
    merchant: _Merchant
    callback_url: Annotated[str, msgspec.Meta(max_length=500)]


class _Paying(msgspec.Struct):
    amount: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT_IDR)] | None = None
    issuer: Text | None = None
    at: str | None = None


class _Refund(msgspec.Struct):
    refund_reference: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.:-]{1,64}\Z")]
    amount: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT_IDR)]
    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""


class _Transfer(msgspec.Struct):
    reference: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.:-]{1,64}\Z")]
    amount: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT_IDR)]
    account: Text
    beneficiary: Text
    rail: Literal["bi_fast", "skn", "rtgs"]
    callback_url: Annotated[str, msgspec.Meta(max_length=500)]
    account_type: Text | None = None


class _Scan(_Paying, kw_only=True):
    qr_payload: Annotated[str, msgspec.Meta(max_length=qris.PAYLOAD_LENGTH)]


@dataclass(frozen=True)
class _Acquirer:
    """What the doors need, kept in `app.state.acquirer`."""

    store: Store
    sender: Sender
    api_key: bytes
    now: Callable[[], int]
    pays_itself_after_ms: int | None


def create_app(
    *,
    database: Path,
    api_key: str,
    secrets: Sequence[bytes],
    partner_id: str = "sandbox",
    auto_pay_after_ms: int | None = None,
    first_retry_ms: int = 1_000,
    now: Callable[[], int] = clock_now_ms,
) -> Starlette:
    """The service. `secrets` sign the callbacks (all of them, in a rotation); `database` is its SQLite file.

    With `auto_pay_after_ms` each QR is paid by itself so long after it was issued, for demonstrations.
    A callback that is not taken is repeated after `first_retry_ms`, doubling up to a minute, for a day.
    """
    if not api_key or not secrets or not all(secrets):
        raise ValueError("The sandbox needs an API key and at least one callback secret.")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        timeout = httpx.Timeout(10, connect=3)
        async with open_store(database) as store, httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            sender = Sender(
                store, client, secrets=secrets, partner_id=partner_id, first_pause_ms=first_retry_ms, now=now
            )
            app.state.acquirer = _Acquirer(store, sender, api_key.encode(), now, auto_pay_after_ms)
            app.state.sending = asyncio.create_task(sender.run(), name="sandbox callbacks")
            app.state.sending.add_done_callback(_say_why_it_stopped)
            try:
                yield
            finally:
                app.state.sending.cancel()
                await asyncio.gather(app.state.sending, return_exceptions=True)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/healthz", health),
            Route("/v1/qr", _guarded(issue), methods=["POST"]),
            Route("/v1/qr", _guarded(list_charges), methods=["GET"]),
            Route("/v1/qr/{reference}", _guarded(show_charge), methods=["GET"]),
            Route("/v1/qr/{reference}/pay", _guarded(pay), methods=["POST"]),
            Route("/v1/pay", _guarded(scan), methods=["POST"]),
            Route("/v1/static", _guarded(issue_static), methods=["POST"]),
            Route("/v1/static/{reference}/pay", _guarded(pay_static), methods=["POST"]),
            Route("/v1/qr/{reference}/cancel", _guarded(cancel), methods=["POST"]),
            Route("/v1/qr/{reference}/refunds", _guarded(refund), methods=["POST"]),
            Route("/v1/refunds/{refund_reference}", _guarded(show_refund), methods=["GET"]),
            Route("/v1/qr/{reference}/reverse", _guarded(reverse), methods=["POST"]),
            Route("/v1/qr/{reference}/dispute", _guarded(dispute), methods=["POST"]),
            Route("/v1/transfers", _guarded(send_transfer), methods=["POST"]),
            Route("/v1/transfers/{reference}", _guarded(show_transfer), methods=["GET"]),
            Route("/v1/transfers/{reference}/reverse", _guarded(give_transfer_back), methods=["POST"]),
            Route("/wallet/{transaction_id}", show_wallet, methods=["GET"]),
            Route("/wallet/{transaction_id}", pay_by_wallet, methods=["POST"]),
            Route("/v1/faults", _guarded(show_faults), methods=["GET"]),
            Route("/v1/faults", _guarded(set_faults), methods=["PUT"]),
        ],
        exception_handlers={SoundboxError: _problem, HTTPException: _problem, Exception: _problem},
    )


def run(
    *,
    host: str,
    port: int,
    database: Path,
    api_key: str,
    secrets: Sequence[bytes],
    partner_id: str = "sandbox",
    auto_pay_after_ms: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then leave with status 0."""
    # uvicorn raises the signal again once it has shut down in order, which would end the process as if it had failed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    app = create_app(
        database=database,
        api_key=api_key,
        secrets=secrets,
        partner_id=partner_id,
        auto_pay_after_ms=auto_pay_after_ms,
    )
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning", timeout_graceful_shutdown=5)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


# Doors


async def health(request: Request) -> Response:
    """Alive, and still sending callbacks."""
    sending = not request.app.state.sending.done()
    return _json({"status": "ok" if sending else "callbacks stopped"}, 200 if sending else 503)


async def issue(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    order = _read_order(read_as(_Order, await read_body(request)))
    faults = await acquirer.store.run(read_faults)
    await asyncio.sleep(faults.create_delay_ms / 1000)

    now_ms = acquirer.now()
    if order.expires_at_ms <= now_ms:
        raise ValidationFailed("A QR must expire in the future.")
    if await acquirer.store.run(partial(take_fault, counter="create_failures")):
        raise Overloaded("The acquirer fails, as it was told to.")
    charge, new, lost = await acquirer.store.run(
        partial(_issue, order=order, now_ms=now_ms, pays_itself_after_ms=acquirer.pays_itself_after_ms)
    )
    acquirer.sender.wake()
    return LostAnswer() if lost else _json(charge, 201 if new else 200)


async def list_charges(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    state = request.query_params.get("status", "all")
    limit = request.query_params.get("limit", str(LONGEST_LIST))
    if state not in charges.STATES:
        raise ValidationFailed(f"status is one of {', '.join(charges.STATES)}.")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= LONGEST_LIST:
        raise ValidationFailed(f"limit is 1 to {LONGEST_LIST}.")
    found = await acquirer.store.run(partial(charges.listed, state=state, now_ms=acquirer.now(), limit=int(limit)))
    return _json({"charges": found})


async def show_charge(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    reference = request.path_params["reference"]
    return _json(await acquirer.store.run(partial(_shown, reference=reference, now_ms=acquirer.now())))


async def pay(request: Request) -> Response:
    paying = read_as(_Paying, await read_body(request) or b"{}")
    return await _pay(request, request.path_params["reference"], paying)


async def scan(request: Request) -> Response:
    """A wallet would check the QR just so before it shows the payer an amount."""
    acquirer: _Acquirer = request.app.state.acquirer
    scanned = read_as(_Scan, await read_body(request))
    decoded = qris.decode(scanned.qr_payload)
    if decoded.qris is None or not decoded.valid:
        raise ValidationFailed("This is no readable QRIS.", violations=decoded.violations)
    if decoded.qris.initiation_method == "static":
        hanging = await acquirer.store.run(partial(static.find_by_payload, payload=scanned.qr_payload))
        return await _pay_static(request, hanging["reference"], scanned)
    transaction_id = (decoded.qris.additional_data or {}).get("05", "")
    charge = await acquirer.store.run(partial(charges.find_by_transaction, transaction_id=transaction_id))
    if charge["qr_payload"] != scanned.qr_payload:
        raise ValidationFailed("This QRIS was changed after it was issued.")
    return await _pay(request, charge["reference"], scanned)


async def issue_static(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    said = read_as(_StaticOrder, await read_body(request))
    if not _is_web_address(said.callback_url):
        raise ValidationFailed("callback_url is a web address.")
    order = static.Order(
        reference=said.reference,
        merchant=MerchantIdentity(**msgspec.structs.asdict(said.merchant)),
        callback_url=said.callback_url,
    )
    issued, new = await acquirer.store.run(partial(static.issue, order=order, now_ms=acquirer.now()))
    return _json(issued, 201 if new else 200)


async def pay_static(request: Request) -> Response:
    paying = read_as(_Paying, await read_body(request) or b"{}")
    return await _pay_static(request, request.path_params["reference"], paying)


async def cancel(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    reference, now_ms = request.path_params["reference"], acquirer.now()
    await acquirer.store.run(partial(charges.cancel, reference=reference, now_ms=now_ms))
    return _json(await acquirer.store.run(partial(_shown, reference=reference, now_ms=now_ms)))


async def refund(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    asked = read_as(_Refund, await read_body(request))
    if await acquirer.store.run(partial(take_fault, counter="refund_failures")):
        raise Overloaded("The acquirer fails, as it was told to.")
    made, new, lost = await acquirer.store.run(
        partial(_refund, reference=request.path_params["reference"], asked=asked, now_ms=acquirer.now())
    )
    acquirer.sender.wake()
    return LostAnswer() if lost else _json(made, 201 if new else 200)


async def show_refund(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    reference = request.path_params["refund_reference"]
    found = await acquirer.store.run(partial(charges.find_refund, refund_reference=reference, now_ms=acquirer.now()))
    acquirer.sender.wake()
    return _json(found)


async def reverse(request: Request) -> Response:
    return await _take_back(request, "reversed")


async def dispute(request: Request) -> Response:
    return await _take_back(request, "disputed")


async def send_transfer(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    said = read_as(_Transfer, await read_body(request))
    if not _is_web_address(said.callback_url):
        raise ValidationFailed("callback_url is a web address.")
    faults = await acquirer.store.run(read_faults)
    await asyncio.sleep(faults.transfer_delay_ms / 1000)
    if await acquirer.store.run(partial(take_fault, counter="transfer_failures")):
        raise Overloaded("The bank fails, as it was told to.")
    made, new, lost = await acquirer.store.run(partial(_send, said=said, now_ms=acquirer.now()))
    acquirer.sender.wake()
    return LostAnswer() if lost else _json(made, 201 if new else 200)


async def show_transfer(request: Request) -> Response:
    return await _about_transfer(request, transfers.find)


async def give_transfer_back(request: Request) -> Response:
    return await _about_transfer(request, transfers.give_back)


async def show_wallet(request: Request) -> Response:
    """What the customer sees in the wallet, or on the card's page: pay, or go back."""
    acquirer: _Acquirer = request.app.state.acquirer
    transaction_id = request.path_params["transaction_id"]
    return await acquirer.store.run(partial(_wallet_page, transaction_id=transaction_id, now_ms=acquirer.now()))


async def pay_by_wallet(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    transaction_id = request.path_params["transaction_id"]
    await acquirer.store.run(partial(_pay_wallet, transaction_id=transaction_id, now_ms=acquirer.now()))
    acquirer.sender.wake()
    return RedirectResponse(f"/wallet/{transaction_id}", status_code=303)


def _wallet_page(connection: sqlite3.Connection, *, transaction_id: str, now_ms: int) -> Response:
    charge = _by_wallet(connection, transaction_id)
    state = charges.state_of(connection, charge, now_ms=now_ms)
    says = _WALLET_SAYS[state]
    button = '<form method="post"><button>Bayar / Pay</button></form>' if state == "open" else ""
    back = charge["return_url"]
    link = f'<p><a href="{html.escape(back)}">Kembali ke toko / Back to the shop</a></p>' if back else ""
    amount = f"Rp {charge['amount_idr']:,}".replace(",", ".")
    return HTMLResponse(
        '<!doctype html><html lang="id"><meta name="viewport" content="width=device-width">'
        '<link rel="icon" href="data:,"><title>Sandbox</title>'
        f"<h1>Sandbox {html.escape(charge['method'])}</h1><p>{amount}</p><p>{says}</p>{button}{link}</html>"
    )


_WALLET_SAYS = {
    "open": "Uang mainan: tidak ada yang sungguh dibayar. / Play money: nothing is really paid.",
    "paid": "Lunas. / Paid.",
    "expired": "Kedaluwarsa. / Expired.",
    "cancelled": "Dibatalkan. / Cancelled.",
}


def _pay_wallet(connection: sqlite3.Connection, *, transaction_id: str, now_ms: int) -> None:
    charge = _by_wallet(connection, transaction_id)
    if charges.state_of(connection, charge, now_ms=now_ms) == "open":
        charges.pay(connection, charge["reference"], charges.Paying(), now_ms=now_ms)


def _by_wallet(connection: sqlite3.Connection, transaction_id: str) -> sqlite3.Row:
    """Raises TransactionNotFound for what is not paid by a wallet or a card."""
    charge = charges.find_by_transaction(connection, transaction_id)
    if charge["method"] == Method.QRIS_DYNAMIC or charge["method"] in charges.VA_PREFIXES:
        raise TransactionNotFound("No such wallet's page.", transaction_id=transaction_id)
    return charge


async def show_faults(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    return _json(msgspec.to_builtins(await acquirer.store.run(read_faults)))


async def set_faults(request: Request) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    faults = read_as(Faults, await read_body(request))
    await acquirer.store.run(partial(write_faults, faults=faults))
    return _json(msgspec.to_builtins(faults))


# What the doors share


async def _pay_static(request: Request, reference: str, paying: _Paying) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    wish, now_ms = _wish(paying), acquirer.now()
    paid = await acquirer.store.run(partial(charges.pay_static, reference=reference, paying=wish, now_ms=now_ms))
    acquirer.sender.wake()
    return _json(await acquirer.store.run(partial(_shown, reference=paid["reference"], now_ms=now_ms)))


def _wish(paying: _Paying) -> charges.Paying:
    if paying.issuer is not None and not paying.issuer.isprintable():
        raise ValidationFailed("The issuer's name must be printable.")
    return charges.Paying(
        amount_idr=paying.amount,
        issuer=paying.issuer,
        at_ms=None if paying.at is None else read_time(paying.at),
    )


async def _pay(request: Request, reference: str, paying: _Paying) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    wish, now_ms = _wish(paying), acquirer.now()
    await acquirer.store.run(partial(charges.pay, reference=reference, paying=wish, now_ms=now_ms))
    acquirer.sender.wake()
    return _json(await acquirer.store.run(partial(_shown, reference=reference, now_ms=now_ms)))


async def _about_transfer(request: Request, verb: Callable[..., dict[str, Any]]) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    reference = request.path_params["reference"]
    found = await acquirer.store.run(partial(verb, reference=reference, now_ms=acquirer.now()))
    acquirer.sender.wake()
    return _json(found)


def _send(connection: sqlite3.Connection, *, said: _Transfer, now_ms: int) -> tuple[dict[str, Any], bool, bool]:
    """The transfer, whether it is new, and whether its answer shall get lost."""
    order = transfers.Order(
        reference=said.reference,
        amount_idr=said.amount,
        account=said.account,
        account_type=said.account_type,
        beneficiary=said.beneficiary,
        rail=said.rail,
        callback_url=said.callback_url,
    )
    made, new = transfers.send(connection, order, now_ms=now_ms)
    return made, new, take_fault(connection, "lose_transfer_answers")


async def _take_back(request: Request, kind: Literal["reversed", "disputed"]) -> Response:
    acquirer: _Acquirer = request.app.state.acquirer
    reference, now_ms = request.path_params["reference"], acquirer.now()
    await acquirer.store.run(partial(charges.take_back, reference=reference, kind=kind, now_ms=now_ms))
    acquirer.sender.wake()
    return _json(await acquirer.store.run(partial(_shown, reference=reference, now_ms=now_ms)))


def _refund(
    connection: sqlite3.Connection, *, reference: str, asked: _Refund, now_ms: int
) -> tuple[dict[str, Any], bool, bool]:
    """The refund, whether it is new, and whether its answer shall get lost."""
    made, new = charges.refund(
        connection, reference, asked.refund_reference, amount_idr=asked.amount, reason=asked.reason, now_ms=now_ms
    )
    return made, new, take_fault(connection, "lose_refund_answers")


def _issue(
    connection: sqlite3.Connection, *, order: charges.Order, now_ms: int, pays_itself_after_ms: int | None
) -> tuple[dict[str, Any], bool, bool]:
    """The charge, whether it is new, and whether its answer shall get lost."""
    charge, new = charges.issue(connection, order, now_ms=now_ms, pays_itself_after_ms=pays_itself_after_ms)
    return charges.shown(connection, charge, now_ms=now_ms), new, take_fault(connection, "lose_answers")


def _shown(connection: sqlite3.Connection, *, reference: str, now_ms: int) -> dict[str, Any]:
    return charges.shown(connection, charges.find(connection, reference), now_ms=now_ms)


def _read_order(said: _Order) -> charges.Order:
    if not _is_web_address(said.callback_url):
        raise ValidationFailed("callback_url is a web address.")
    if said.return_url is not None and not _is_web_address(said.return_url):
        raise ValidationFailed("return_url is a web address.")
    if said.method is Method.QRIS_DYNAMIC and said.amount > qris.CEILING_IDR:
        raise ValidationFailed("This is more than a QRIS may ask for.")
    return charges.Order(
        reference=said.reference,
        amount_idr=said.amount,
        merchant=MerchantIdentity(**msgspec.structs.asdict(said.merchant)),
        expires_at_ms=read_time(said.expires_at),
        callback_url=said.callback_url,
        method=said.method,
        return_url=said.return_url,
    )


def _is_web_address(text: str) -> bool:
    try:
        address = urlsplit(text)
    except ValueError:
        return False
    return address.scheme in {"http", "https"} and bool(address.hostname)


def _guarded(door: Door) -> Door:
    async def guarded(request: Request) -> Response:
        acquirer: _Acquirer = request.app.state.acquirer
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), acquirer.api_key):
            raise Unauthenticated("An API key is needed.")
        return await door(request)

    return guarded


class LostAnswer(Response):
    """The work is done, but the connection closes before the answer is through."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


async def _problem(request: Request, error: Exception) -> Response:
    """RFC 9457; whatever is not an error for callers is a 500 without particulars."""
    code, status, detail = "INTERNAL", 500, "The sandbox failed."
    if isinstance(error, SoundboxError):
        code, status, detail = error.code, error.status, error.message
    elif isinstance(error, HTTPException):
        code, status, detail = HTTPStatus(error.status_code).name, error.status_code, error.detail
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "code": code,
        "request_id": new_id("req"),
    }
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(orjson.dumps(problem), status, headers, media_type="application/problem+json")


def _say_why_it_stopped(sending: asyncio.Task[None]) -> None:
    if not sending.cancelled() and (error := sending.exception()) is not None:
        _log.error("sandbox.callbacks_stopped", exc_info=error)
