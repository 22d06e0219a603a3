"""QR that hang at terminals: read, put up, and taken down. What customers pay by them is in `static_payments.py`."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.db import KEY_STAYS
from soundbox_server.errors import IllegalTransition, NotFound, QrNotAccepted
from soundbox_server.ids import new_id
from soundbox_server.merchants.models import Merchant, Outlet, Terminal
from soundbox_server.merchants.service import flush
from soundbox_server.payments import qris
from soundbox_server.payments.charging import require_open
from soundbox_server.payments.models import StaticQr
from soundbox_server.payments.state import StaticQrKind, StaticQrState

_WORDS = re.compile(r"\w{3,}")


@dataclass(frozen=True, kw_only=True)
class Sticker:
    """A QR as its provider issued it. `another_name`: somebody looked, and it is this merchant's all the same."""

    provider: str
    partner_reference: str
    qr_payload: str
    provider_reference: str | None = None
    another_name: bool = False


async def place_of(session: AsyncSession, terminal_id: str, *, lock: bool = False) -> tuple[Terminal, Merchant]:
    """A terminal that takes payments, and whose it is. Raises NotFound or Forbidden."""
    terminal = await session.get(Terminal, terminal_id, with_for_update=KEY_STAYS if lock else None)
    if terminal is None:
        raise NotFound("No such terminal.", terminal_id=terminal_id)
    merchant = await session.get_one(Merchant, terminal.merchant_id)
    outlet = await session.get_one(Outlet, terminal.outlet_id)
    require_open({"status": merchant.status, "terminal_status": terminal.status, "outlet_status": outlet.status})
    return terminal, merchant


async def put_up(
    session: AsyncSession, terminal_id: str, sticker: Sticker, *, providers: Collection[str], now_ms: int
) -> StaticQr:
    """From now on payments by this QR are heard at the terminal, as one of these `providers` tells of them.

    Raises NotFound, Forbidden (no payments are taken there), QrNotAccepted, or Conflict when the provider's reference
    is another QR's.
    """
    terminal, merchant = await place_of(session, terminal_id, lock=True)
    if sticker.provider not in providers:
        raise QrNotAccepted("Nobody by this name tells us of payments.", provider=sticker.provider)
    kind = read_payload(
        sticker.qr_payload,
        nmid=merchant.nmid,
        names=(merchant.brand_name, merchant.legal_name),
        another_name=sticker.another_name,
    )
    found = StaticQr(
        id=new_id("sqr"),
        merchant_id=merchant.id,
        terminal_id=terminal.id,
        provider=sticker.provider,
        partner_reference=sticker.partner_reference,
        provider_reference=sticker.provider_reference,
        qr_payload=sticker.qr_payload,
        kind=kind.value,
        state=StaticQrState.ACTIVE.value,
        created_at_ms=now_ms,
    )
    session.add(found)
    await flush(session, "partner_reference")
    return found


async def retire(session: AsyncSession, static_qr_id: str, *, now_ms: int) -> StaticQr:
    """The sticker came off. Money that somebody still sends by a photo of it waits for an operator as an orphan.
    Raises NotFound or IllegalTransition."""
    found = await session.get(StaticQr, static_qr_id, with_for_update=KEY_STAYS)
    if found is None:
        raise NotFound("No such static QR.", static_qr_id=static_qr_id)
    if found.state == StaticQrState.RETIRED:
        raise IllegalTransition("This QR was retired before.", status=found.state)
    found.state, found.retired_at_ms = StaticQrState.RETIRED.value, now_ms
    await session.flush()
    return found


def read_payload(payload: str, *, nmid: str | None, names: Iterable[str], another_name: bool = False) -> StaticQrKind:
    """What kind of QR this is, once it is one that can hang at this merchant's terminal. Raises QrNotAccepted.

    A transfer has no NMID, and names whoever gets the money.
    """
    decoded = qris.decode(payload)
    found = decoded.qris
    if found is None or not decoded.strict_qris_ok:
        raise QrNotAccepted("This is no faultless QRIS.", violations=decoded.violations)
    if found.initiation_method == "dynamic" or found.amount is not None:
        raise QrNotAccepted("This QR is for one payment: one that hangs at a terminal is static and names no amount.")
    if qris.is_transfer(found):
        return StaticQrKind.TRANSFER
    if found.nmid != nmid:
        raise QrNotAccepted("This QR is another merchant's: its NMID differs.", nmid=found.nmid)
    if not another_name and not any(_alike(found.merchant_name or "", name) for name in names):
        raise QrNotAccepted("This QR prints another name than the merchant's.", merchant_name=found.merchant_name)
    return StaticQrKind.PAYMENT


def _alike(printed: str, name: str) -> bool:
    """Acquirers shorten names and add the place: one longer word in common is enough, or the same beginning."""
    one, other = printed.casefold().strip(), name.casefold().strip()
    return one.startswith(other) or other.startswith(one) or bool({*_WORDS.findall(one)} & {*_WORDS.findall(other)})
