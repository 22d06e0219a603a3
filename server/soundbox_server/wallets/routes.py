"""Where an invoice is paid: by a program, or on a plain page that the mail's link leads to. Whoever has the one-time
password of the mail gets in, and nobody else.
"""

import html
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from soundbox_server import clock
from soundbox_server.access import limits
from soundbox_server.access.auth import client_ip
from soundbox_server.access.limits import MINUTE_MS
from soundbox_server.access.passwords import in_thread
from soundbox_server.clock import rfc3339
from soundbox_server.db import Statements
from soundbox_server.errors import (
    Conflict,
    Forbidden,
    GatewayError,
    InvalidPaymentType,
    InvalidPin,
    Locked,
    NotFound,
    PartnerTimeout,
    SessionExpired,
    SoundboxError,
)
from soundbox_server.fields import Id
from soundbox_server.http import answer, problems, request_id
from soundbox_server.idempotency import Once, once
from soundbox_server.payments import pictures
from soundbox_server.payments.charging import Order, Pending
from soundbox_server.payments.desk import ChargeDesk
from soundbox_server.wallets import invoices

router = APIRouter(tags=["wallets"])

InvoiceId = Annotated[Id, Field(examples=["inv-01k9x3m8z6f1q4v7c2b5n0t8rj"])]
_REFUSALS = (
    InvalidPin, Locked, SessionExpired, Forbidden, NotFound, Conflict, InvalidPaymentType, GatewayError, PartnerTimeout,
)  # fmt: skip


class OneTimePassword(BaseModel):
    """Out of the mail."""

    model_config = ConfigDict(extra="forbid", strict=True)

    otp: Annotated[str, Field(pattern=r"^[0-9]{6}$", examples=["492039"])]


class InvoiceCharge(BaseModel):
    invoiceId: str  # noqa: N815
    merchant: str
    amount: int
    description: str | None
    qrString: str | None  # noqa: N815
    expiresAt: AwareDatetime  # noqa: N815


@router.post("/api/v1/txn/invoices/{invoice_id}/pay", responses={200: {"model": InvoiceCharge}, **problems(*_REFUSALS)})
async def pay_invoice(request: Request, invoice_id: InvoiceId, asked: OneTimePassword) -> Response:
    """The QRIS that pays this invoice, for whoever has its one-time password. A password that was wrong five times
    locks the invoice."""

    def show(pending: Pending) -> Response:
        said = {
            "invoiceId": invoice_id,
            "merchant": pending.merchant_name,
            "amount": pending.amount,
            "description": pending.description,
            "qrString": pending.qr_payload,
            "expiresAt": rfc3339(pending.expires_at_ms),
        }
        return answer(said)

    await _prove(request, invoice_id, asked.otp)
    return await _charge(request, invoice_id, show)


async def _prove(request: Request, invoice_id: str, otp: str) -> None:
    """That it is the invoice's: counted in a commit of its own, then compared off the loop. An address has so many
    tries a minute, whatever the invoices."""
    state, now_ms, key = request.app.state, clock.now_ms(), f"invoice:{limits.network(client_ip(request))}"
    most = state.limits.logins_per_minute
    limits.require(
        await state.database.write(
            lambda tx: limits.rate_limit(tx, key, limit=most, window_ms=MINUTE_MS, now_ms=now_ms)
        )
    )
    invoice = await state.database.write(lambda tx: invoices.count_try(tx, invoice_id, now_ms=now_ms))
    if not await in_thread(state.passwords.fits, otp, invoice["otp_hash"]):
        raise invoices.wrong()
    await state.database.write(lambda tx: invoices.forget_tries(tx, invoice_id))


async def _charge(request: Request, invoice_id: str, show: Callable[[Pending], Response]) -> Response:
    async def order_of(tx: Statements) -> Order:
        return await invoices.order_of(tx, invoice_id, request_id=request_id(request), now_ms=clock.now_ms())

    desk: ChargeDesk = request.app.state.charge_desk
    return await desk.issue(order_of, show=show, once=_each_time(request))


def _each_time(request: Request) -> Once:
    """The invoice itself is what stands for one payment."""
    return once(None, principal="invoice", method=request.method, path=request.url.path, body=b"")


# The page: no script, no style, nothing loaded from anywhere

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = """<!doctype html>
<html lang="id">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tagihan / Invoice</title></head>
<body><main>
<h1>Tagihan <span lang="en">/ Invoice</span></h1>
{content}
</main></body>
</html>
"""
_FORM = """<form method="post">
<p><label for="otp">Kata sandi sekali pakai dari e-mail Anda <span lang="en">/ One-time password from your mail</span>
</label></p>
<p><input id="otp" name="otp" inputmode="numeric" pattern="[0-9]{6}" maxlength="6" required
autocomplete="one-time-code">
<button type="submit">Lanjut <span lang="en">/ Continue</span></button></p>
</form>"""
_HTML: dict[str, Any] = {"content": {"text/html": {"schema": {"type": "string"}}}}
_REFUSED_ON_THE_PAGE: dict[int | str, dict[str, Any]] = {
    status: {**said, "content": {**said["content"], **_HTML["content"]}}
    for status, said in problems(*_REFUSALS).items()
}


@router.get("/pay/invoices/{invoice_id}", response_class=HTMLResponse, responses={200: _HTML})
async def invoice_page(invoice_id: InvoiceId) -> Response:
    """Asks for the one-time password. Whether there is such an invoice is not told here."""
    return _page(_FORM)


@router.post(
    "/pay/invoices/{invoice_id}",
    response_class=HTMLResponse,
    responses={200: _HTML, **_REFUSED_ON_THE_PAGE},
    openapi_extra={
        "requestBody": {
            "content": {
                "application/x-www-form-urlencoded": {
                    "schema": {"type": "object", "properties": {"otp": {"type": "string"}}},
                    "example": {"otp": "492039"},
                }
            }
        }
    },
)
async def pay_on_the_page(request: Request, invoice_id: InvoiceId) -> Response:
    """The QRIS to scan, or what is wrong in a sentence."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    otp = fields.get("otp", [""])[0].strip()
    charged: list[Pending] = []

    def show(pending: Pending) -> Response:
        charged[:] = [pending]
        return _page("")

    try:
        await _prove(request, invoice_id, otp)
        await _charge(request, invoice_id, show)
    except SoundboxError as error:
        if error.status not in _REFUSED_ON_THE_PAGE:
            raise
        again = _FORM if isinstance(error, InvalidPin) else ""
        return _page(f'<p role="alert">{html.escape(error.message)}</p>{again}', status=error.status)
    return _page(await _shown(charged[0]))


async def _shown(pending: Pending) -> str:
    picture = await pictures.picture(pending.qr_payload or "", "svg")
    drawn = picture.content.decode().partition("<svg")
    amount = f"{pending.amount:,}".replace(",", ".")
    about = f"<p>{html.escape(pending.description)}</p>" if pending.description else ""
    return (
        f"<p>{html.escape(pending.merchant_name)}</p>{about}<p><strong>Rp {amount}</strong></p>"
        f'<figure role="img" aria-label="QRIS">{drawn[1]}{drawn[2]}</figure>'
        f'<p>Bayar sebelum <span lang="en">/ Pay before</span> {rfc3339(pending.expires_at_ms)}</p>'
    )


def _page(content: str, *, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(content=content), status, _HEADERS)
