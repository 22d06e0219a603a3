"""Money into a wallet: a QRIS payment to the platform's own merchant whose credit account is the wallet's."""

from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Statements
from soundbox_server.errors import PaymentsClosed
from soundbox_server.payments.charging import Order, place_at
from soundbox_server.wallets import service
from soundbox_server.wallets.service import Entry, account, enter
from soundbox_server.wallets.state import Direction, EntryKind


async def platform_merchant(tx: Statements) -> str:
    """The platform's own merchant, which takes top-ups in: the first approved one of its organisation. Raises
    PaymentsClosed where there is none."""
    rows = await tx.fetch(
        "SELECT m.id FROM merchant m JOIN organisation o ON o.id = m.organisation_id "
        "WHERE o.kind = 'platform' AND m.status = 'approved' ORDER BY m.id LIMIT 1"
    )
    if not rows:
        raise PaymentsClosed("The platform has no approved merchant of its own that could take this in.")
    return str(rows[0]["id"])


async def topup_order(
    tx: Statements,
    wallet_id: str,
    *,
    trace_id: str,
    amount: int,
    organisation_id: str,
    request_id: str,
    actor: Actor,
    now_ms: int,
) -> Order:
    """What is to be paid to put so much into this wallet; its list shows it from now on. Raises NotFound."""
    wallet = await service.own(tx, wallet_id, organisation_id=organisation_id)
    merchant_id = await platform_merchant(tx)
    outlet_id, terminal_id = await place_at(tx, merchant_id)
    entry = Entry(
        organisation_id=organisation_id,
        wallet_id=wallet["id"],
        kind=EntryKind.TOPUP,
        direction=Direction.CREDIT,
        trace_id=trace_id,
        amount=amount,
        total_amount=amount,
        merchant_id=merchant_id,
    )
    await enter(tx, entry, now_ms=now_ms)
    await record(tx, actor, "wallet.topup_asked", ("wallet", wallet["id"]), details={"amount": amount})
    return Order(
        merchant_id=merchant_id,
        outlet_id=outlet_id,
        terminal_id=terminal_id,
        amount=amount,
        source="api",
        trace_id=request_id,
        order_code=trace_id,
        credit_account=account(wallet["id"]),
    )
