"""Where a merchant is paid. Once money may be waiting, a change takes two people and a day's hold: whoever takes over
an operator's login, or sends a convincing letter, is seen before the first rupiah leaves."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.access.api_keys import person_behind
from soundbox_server.db import KEY_STAYS, Statements, statements
from soundbox_server.errors import Conflict, Forbidden, NotFound
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.merchants.models import AccountChange, Merchant
from soundbox_server.merchants.service import lock
from soundbox_server.merchants.state import AccountChangeState, require_account_change

HOLD_MS = 24 * 3_600_000
APPLY_LIMIT = 100
_WAITING = (AccountChangeState.REQUESTED.value, AccountChangeState.APPROVED.value)


async def waiting_change(session: AsyncSession, merchant_id: str) -> AccountChange | None:
    found = await session.scalars(
        select(AccountChange).where(AccountChange.merchant_id == merchant_id, AccountChange.state.in_(_WAITING))
    )
    return found.one_or_none()


async def holds_money(tx: Statements, merchant: Merchant) -> bool:
    """Whether something could be paid out to it: also one that was never approved may have been paid from wallet to
    wallet."""
    if await ledger.balance(tx, f"merchant_payable:{merchant.id}"):
        return True
    wallets = await tx.fetch("SELECT id FROM wallet WHERE organisation_id = $1", merchant.organisation_id)
    return any([await ledger.in_wallet(tx, f"wallet:{wallet['id']}") for wallet in wallets])


async def request(
    session: AsyncSession,
    merchant: Merchant,
    *,
    reference: str | None,
    account_type: str | None,
    by: str,
    now_ms: int,
) -> AccountChange:
    """Ask for another account for a locked merchant. Raises Conflict while an earlier change waits."""
    if await waiting_change(session, merchant.id) is not None:
        raise Conflict("A change of this merchant's account is waiting already. Refuse that one first.")
    change = AccountChange(
        id=new_id("acc"),
        merchant_id=merchant.id,
        account_reference=reference,
        account_type=account_type,
        state=AccountChangeState.REQUESTED.value,
        requested_by=by,
        requested_at_ms=now_ms,
    )
    session.add(change)
    await session.flush()
    return change


async def approve(session: AsyncSession, merchant_id: str, change_id: str, *, by: str, now_ms: int) -> AccountChange:
    """The second person agrees; it takes effect a day later. Raises Forbidden for whoever asked for it."""
    change = await _lock(session, merchant_id, change_id)
    state = require_account_change(change.state, AccountChangeState.APPROVED)
    tx = await statements(session)
    if await person_behind(tx, by) == await person_behind(tx, change.requested_by):
        raise Forbidden("Somebody other than who asked for it must approve a change of account.")
    change.state, change.decided_by, change.decided_at_ms = state, by, now_ms
    change.effective_at_ms = now_ms + HOLD_MS
    return change


async def refuse(
    session: AsyncSession, merchant_id: str, change_id: str, *, by: str, reason: str, now_ms: int
) -> AccountChange:
    """Anybody may stop a change until it takes effect, also who asked for it or approved it."""
    change = await _lock(session, merchant_id, change_id)
    change.state = require_account_change(change.state, AccountChangeState.REFUSED)
    change.decided_by, change.decided_at_ms, change.reason = by, now_ms, reason
    return change


async def _lock(session: AsyncSession, merchant_id: str, change_id: str) -> AccountChange:
    await lock(session, merchant_id)
    change = await session.get(AccountChange, change_id, with_for_update=KEY_STAYS)
    if change is None or change.merchant_id != merchant_id:
        raise NotFound("No such change of this merchant's account.", change_id=change_id)
    return change


async def apply_due(tx: Statements, *, now_ms: int) -> list[tuple[str, str]]:
    """Changes whose hold is over become the merchants' accounts. Returns (merchant id, change id)."""
    due = await tx.fetch(
        "SELECT c.id, c.merchant_id FROM merchant_account_change c JOIN merchant m ON m.id = c.merchant_id "
        f"WHERE c.state = 'approved' AND c.effective_at_ms <= $1 ORDER BY c.merchant_id LIMIT $2 {tx.lock('m')}",
        now_ms,
        APPLY_LIMIT,
    )
    applied = []
    for row in due:
        # Looked at again under the merchant's lock: somebody may have refused it while we waited for that.
        took = await tx.fetch(
            "UPDATE merchant_account_change SET state = 'applied' WHERE id = $1 AND state = 'approved' "
            "RETURNING account_reference, account_type",
            row["id"],
        )
        for change in took:
            await tx.execute(
                "UPDATE merchant SET settlement_account_reference = $2, settlement_account_type = $3, "
                "updated_at_ms = $4 WHERE id = $1",
                row["merchant_id"], change["account_reference"], change["account_type"], now_ms,
            )  # fmt: skip
            applied.append((str(row["merchant_id"]), str(row["id"])))
    return applied
