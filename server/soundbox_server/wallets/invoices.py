"""Bills that are mailed with a link and a one-time password, and paid by QRIS at the till of whoever sent them.

The link alone opens nothing: an address may be typed wrongly, and mail is passed on. A try at the password is counted
in a commit of its own before it is compared, and the last one that is free locks the invoice for good.
"""

import secrets
from dataclasses import dataclass

from soundbox_server.access.mails import Desk
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, InvalidPin, Locked, NotFound, SessionExpired
from soundbox_server.mail.service import Mail, queue_mail
from soundbox_server.merchants.tills import till_of
from soundbox_server.payments.charging import Order, place_at
from soundbox_server.payments.methods import Payer
from soundbox_server.wallets.service import new_code
from soundbox_server.wallets.state import InvoiceState

FREE_TRIES = 5
LIFE_MS = 7 * 24 * 3_600_000
_PAID = ("paid", "partially_refunded", "refunded", "disputed", "reversed")
_ENDED = ("expired", "cancelled", "failed")

_TEXT = """Halo,

{merchant} mengirimi Anda tagihan sebesar Rp {amount}.
{description}
Bayar dengan QRIS dalam 7 hari melalui tautan berikut:

{link}

Kata sandi sekali pakai: {otp}

---

Hello,

{merchant} sent you an invoice of Rp {amount}. Pay it by QRIS within 7 days by the link above, with the one-time
password {otp}. If you expect no invoice, ignore this mail.
"""


def new_otp() -> str:
    """Six digits."""
    return f"{secrets.randbelow(1_000_000):06d}"


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What is to be paid, and by whom. `otp_hash` is made off the loop, before the transaction."""

    email: str
    amount: int
    description: str | None
    otp: str
    otp_hash: str


async def send(
    tx: Statements, bill: Bill, *, organisation_id: str, desk: Desk, actor: Actor, now_ms: int
) -> tuple[str, str, int]:
    """Store an invoice and mail it; returns its id, its link, and when it ends. Raises NotFound, Conflict, and
    Forbidden where the merchant or its terminal takes no payments."""
    till = await till_of(tx, organisation_id)
    await place_at(tx, till.merchant_id, terminal_id=till.terminal_id)
    (merchant,) = await tx.fetch("SELECT brand_name FROM merchant WHERE id = $1", till.merchant_id)
    invoice_id, expires_at_ms = new_code("inv"), now_ms + LIFE_MS
    await tx.execute(
        "INSERT INTO wallet_invoice (id, merchant_id, outlet_id, terminal_id, email, amount, description, otp_hash, "
        "otp_tries, state, charges, created_by, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, "
        "0, 'open', 1, $9, $10, $11)",
        invoice_id, till.merchant_id, till.outlet_id, till.terminal_id, bill.email, bill.amount, bill.description,
        bill.otp_hash, actor.id, now_ms, expires_at_ms,
    )  # fmt: skip
    link = link_to(invoice_id, public_url=desk.public_url)
    said = _TEXT.format(
        merchant=merchant["brand_name"], amount=f"{bill.amount:,}".replace(",", "."), link=link, otp=bill.otp,
        description=f"\n{bill.description}\n" if bill.description else "",
    )  # fmt: skip
    subject = f"Tagihan dari {merchant['brand_name']} / Invoice from {merchant['brand_name']}"
    mail = Mail(kind="invoice", person_id=invoice_id, to=bill.email, subject=subject, text=said)
    await queue_mail(
        tx, mail, ring=desk.ring, owner=desk.owner, trace_id=actor.request_id or "", now_ms=now_ms,
        expires_at_ms=expires_at_ms,
    )  # fmt: skip
    await record(tx, actor, "invoice.sent", ("invoice", invoice_id), details={"amount": bill.amount})
    return invoice_id, link, expires_at_ms


def link_to(invoice_id: str, *, public_url: str) -> str:
    return f"{public_url}/pay/invoices/{invoice_id}"


_INVOICE = """
SELECT i.id, i.merchant_id, i.outlet_id, i.terminal_id, i.email, i.amount, i.description, i.otp_hash, i.otp_tries,
       i.state, i.charges, i.created_at_ms, i.expires_at_ms, m.brand_name, m.organisation_id
FROM wallet_invoice i JOIN merchant m ON m.id = i.merchant_id WHERE i.id = $1
"""


async def find(tx: Statements, invoice_id: str, *, lock: bool = False) -> Row:
    """Raises NotFound."""
    rows = await tx.fetch(_INVOICE + (tx.lock("i") if lock else ""), invoice_id)
    if not rows:
        raise NotFound("No such invoice.", invoice_id=invoice_id)
    return rows[0]


async def status_of(tx: Statements, invoice: Row, *, now_ms: int) -> str:
    """open, paid, locked or expired. Paid whichever of its QR was paid."""
    if await _charged(tx, invoice, _PAID):
        return "paid"
    if invoice["state"] == InvoiceState.LOCKED:
        return "locked"
    return "open" if invoice["expires_at_ms"] > now_ms else "expired"


async def _charged(tx: Statements, invoice: Row, states: tuple[str, ...], *, latest: bool = False) -> bool:
    """Whether a payment of this invoice, or its latest one, is in one of these states."""
    first = invoice["charges"] if latest else 1
    codes = [order_code(invoice["id"], n) for n in range(first, invoice["charges"] + 1)]
    rows = await tx.fetch(
        f"SELECT id FROM payment WHERE merchant_id = $1 AND order_code {tx.among(2)} AND state {tx.among(3)} LIMIT 1",
        invoice["merchant_id"], codes, list(states),
    )  # fmt: skip
    return bool(rows)


def order_code(invoice_id: str, charge: int) -> str:
    """The payment's of its so-manieth QR."""
    return f"{invoice_id}-{charge}"


async def count_try(tx: Statements, invoice_id: str, *, now_ms: int) -> Row:
    """Count a try at the one-time password, which is to be compared with `otp_hash` once this is committed.

    Raises NotFound, Locked, SessionExpired. The last free try locks the invoice, until `forget_tries` says that it was
    right.
    """
    invoice = await find(tx, invoice_id, lock=True)
    if invoice["state"] == InvoiceState.LOCKED:
        raise Locked("The one-time password was wrong too often. Ask for another invoice.")
    if invoice["expires_at_ms"] <= now_ms:
        raise SessionExpired("This invoice has ended. Ask for another.")
    tries = invoice["otp_tries"] + 1
    state = InvoiceState.LOCKED if tries >= FREE_TRIES else InvoiceState.OPEN
    await tx.execute(
        "UPDATE wallet_invoice SET otp_tries = $2, state = $3 WHERE id = $1", invoice_id, tries, state.value
    )
    return invoice


async def forget_tries(tx: Statements, invoice_id: str) -> None:
    """The one-time password was right."""
    await tx.execute("UPDATE wallet_invoice SET otp_tries = 0, state = 'open' WHERE id = $1", invoice_id)


def wrong() -> InvalidPin:
    return InvalidPin("The one-time password is wrong.")


async def order_of(tx: Statements, invoice_id: str, *, request_id: str, now_ms: int) -> Order:
    """What is to be paid now, by whoever proved the one-time password: the QR that is still open, or the next one.
    Raises Conflict for what was paid, SessionExpired, and Forbidden where nothing is taken any more."""
    invoice = await find(tx, invoice_id, lock=True)
    if invoice["expires_at_ms"] <= now_ms:
        raise SessionExpired("This invoice has ended. Ask for another.")
    if await _charged(tx, invoice, _PAID):
        raise Conflict("This invoice was paid.")
    if await _charged(tx, invoice, ("needs_review",)):
        raise Conflict("Money came for this invoice, and somebody looks at it. Do not pay it again.")
    charge = invoice["charges"]
    if await _charged(tx, invoice, _ENDED, latest=True):
        charge += 1
        await tx.execute("UPDATE wallet_invoice SET charges = $2 WHERE id = $1", invoice_id, charge)
    await place_at(tx, invoice["merchant_id"], terminal_id=invoice["terminal_id"])
    return Order(
        merchant_id=invoice["merchant_id"],
        outlet_id=invoice["outlet_id"],
        terminal_id=invoice["terminal_id"],
        amount=invoice["amount"],
        source="api",
        trace_id=request_id,
        order_code=order_code(invoice_id, charge),
        description=invoice["description"],
        payer=Payer(email=invoice["email"]),
    )


def require_theirs(invoice: Row, *, organisation_id: str) -> None:
    """Raises NotFound for another organisation's."""
    if invoice["organisation_id"] != organisation_id:
        raise NotFound("No such invoice.", invoice_id=invoice["id"])
