"""Money on its way from wallets to bank accounts. Stored first, then the bank is asked, then its answer is stored, each
step durable before the next: a crash or a lost answer leaves a withdrawal that is resumed by query, and nothing is sent
twice.

The money leaves the wallet when it is asked for, and waits in clearing: nobody spends it twice. What the bank did not
take is put back.
"""

from soundbox_server.alerts.service import raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, Forbidden, MerchantPayoutNotConfigured, NotFound
from soundbox_server.ids import new_id
from soundbox_server.ledger import service as ledger
from soundbox_server.merchants.tills import till_of
from soundbox_server.payouts.rails import IsOpen, choose, next_opening_ms
from soundbox_server.payouts.service import ASK_AFTER_S, LEASE_MS, STUCK_AFTER, Asked, Due
from soundbox_server.payouts.state import EventOutcome
from soundbox_server.providers.banks import TransferRequest, TransferStatus
from soundbox_server.providers.base import PayoutReport
from soundbox_server.wallets import service
from soundbox_server.wallets.service import Entry, account, enter, new_code
from soundbox_server.wallets.state import PENDING, Direction, EntryKind, WithdrawalState, require_withdrawal

_PENDING = ", ".join(f"'{state}'" for state in PENDING)
_SENT = (WithdrawalState.SUBMITTED, WithdrawalState.UNKNOWN)


async def begin(
    tx: Statements,
    wallet_id: str,
    *,
    amount: int,
    bank: str | None,
    organisation_id: str,
    actor: Actor,
    now_ms: int,
) -> tuple[str, int]:
    """Take so much out of a wallet, whose PIN was proved, for its merchant's own bank account; the withdrawal's id and
    what is left.

    Raises NotFound, Forbidden for a merchant that is not approved, MerchantPayoutNotConfigured, Conflict while another
    one is on its way, InsufficientBalance.
    """
    wallet = await service.own(tx, wallet_id, organisation_id=organisation_id)
    merchant = await _payee(tx, organisation_id)
    if bank is None or merchant["settlement_account_reference"] is None:
        what = "No bank is set up for payouts." if bank is None else "There is no account to be paid to."
        raise MerchantPayoutNotConfigured(what, merchant_id=merchant["id"])
    await service.lock(tx, [wallet["id"]])
    under_way = await tx.fetch(
        f"SELECT id FROM wallet_withdrawal WHERE wallet_id = $1 AND state IN ({_PENDING})", wallet["id"]
    )
    if under_way:
        raise Conflict("A withdrawal of this wallet is still on its way.", withdrawal_id=under_way[0]["id"])
    balance = await service.require_balance(tx, wallet["id"], amount)
    withdrawal_id = new_code("wdr")
    await tx.execute(
        "INSERT INTO wallet_withdrawal (id, wallet_id, merchant_id, amount, bank, reference, account_reference, "
        "account_type, state, requested_by, asks, ask_at_ms, lease_until_ms, created_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'created', $9, 0, $10, 0, $10)",
        withdrawal_id, wallet["id"], merchant["id"], amount, bank, new_id("pay"),
        merchant["settlement_account_reference"], merchant["settlement_account_type"], actor.id, now_ms,
    )  # fmt: skip
    journal = ledger.withdrawal(withdrawal_id, wallet=account(wallet["id"]), amount=amount)
    await ledger.post(tx, [journal], now_ms=now_ms)
    entry = Entry(
        organisation_id=organisation_id,
        wallet_id=wallet["id"],
        kind=EntryKind.WITHDRAWAL,
        direction=Direction.DEBIT,
        trace_id=withdrawal_id,
        amount=amount,
        total_amount=amount,
    )
    await enter(tx, entry, now_ms=now_ms)
    await service.touch(tx, [wallet["id"]], now_ms=now_ms)
    await record(tx, actor, "wallet.withdrawal_asked", ("wallet", wallet["id"]), details={"amount": amount})
    return withdrawal_id, balance - amount


async def _payee(tx: Statements, organisation_id: str) -> Row:
    till = await till_of(tx, organisation_id)
    rows = await tx.fetch(
        "SELECT id, status, settlement_account_reference, settlement_account_type FROM merchant WHERE id = $1",
        till.merchant_id,
    )
    if rows[0]["status"] != "approved":
        raise Forbidden("Only an approved merchant is paid out to.")
    return rows[0]


# Asking the bank: the question is the same as a payout's (payouts.service.ask_bank)


_CLAIM = f"""
SELECT d.id, d.bank, d.reference, d.amount, d.state, d.rail, d.asks, d.account_reference, d.account_type, m.legal_name
FROM wallet_withdrawal d JOIN merchant m ON m.id = d.merchant_id
WHERE d.ask_at_ms <= $1 AND d.lease_until_ms <= $1 AND d.state IN ({_PENDING}) ORDER BY d.ask_at_ms, d.id LIMIT $2
"""


async def claim_due(tx: Statements, *, is_open: IsOpen, now_ms: int, limit: int) -> list[Due]:
    """Withdrawals that no process is asking a bank about right now. From this commit on they may have been sent. While
    no rail carries one, it waits for one."""
    rows = await tx.fetch(f"{_CLAIM} {tx.lock('d', skip=True)}", now_ms, limit)
    claimed = []
    for row in rows:
        fresh = row["state"] == WithdrawalState.CREATED
        rail = choose(row["amount"], at_ms=now_ms, is_open=is_open)
        if fresh and rail is None:
            opens_ms = next_opening_ms(row["amount"], at_ms=now_ms, is_open=is_open)
            await tx.execute("UPDATE wallet_withdrawal SET ask_at_ms = $2 WHERE id = $1", row["id"], opens_ms)
            continue
        sent_by = rail.value if rail is not None else row["rail"]
        await tx.execute(
            "UPDATE wallet_withdrawal SET state = CASE WHEN state = 'created' THEN 'submitted' ELSE state END, "
            "rail = $2, lease_until_ms = $3, asks = asks + 1 WHERE id = $1",
            row["id"], sent_by, now_ms + LEASE_MS,
        )  # fmt: skip
        claimed.append(_due(row, rail=sent_by, resumed=not fresh))
    return claimed


def _due(row: Row, *, rail: str, resumed: bool) -> Due:
    return Due(
        id=row["id"],
        settlement_id=row["id"],  # what it pays is the withdrawal itself
        bank=row["bank"],
        request=TransferRequest(
            reference=row["reference"],
            amount_idr=row["amount"],
            account=row["account_reference"],
            account_type=row["account_type"],
            beneficiary=row["legal_name"],
            rail=rail,
        ),
        resumed=resumed,
        asks=row["asks"] + 1,
    )


async def record_answer(tx: Statements, asked: Asked, *, now_ms: int) -> None:
    """Store what the bank said. A callback may have been faster: then nothing changes."""
    withdrawal = await _lock(tx, asked.due.id)
    if WithdrawalState(withdrawal["state"]) not in PENDING:
        return
    state = asked.status.state if asked.status else None
    if state in ("succeeded", "reversed"):
        await _succeed(tx, withdrawal, answer=asked.status, now_ms=now_ms)
        if state == "reversed":
            await _reverse(tx, await _lock(tx, withdrawal["id"]), now_ms=now_ms)
    elif state in ("failed", "not_found") or (asked.error and not asked.later and not asked.unknown):
        await _fail(tx, withdrawal, code=asked.error.code if asked.error else "PAYOUT_FAILED", now_ms=now_ms)
    else:
        await _ask_again(tx, asked, withdrawal, now_ms=now_ms)


async def _ask_again(tx: Statements, asked: Asked, withdrawal: Row, *, now_ms: int) -> None:
    pause_s = ASK_AFTER_S[min(asked.due.asks, len(ASK_AFTER_S)) - 1]
    wanted = require_withdrawal(
        withdrawal["state"], WithdrawalState.UNKNOWN if asked.unknown else WithdrawalState.SUBMITTED
    )
    await tx.execute(
        "UPDATE wallet_withdrawal SET state = $2, error_code = $3, ask_at_ms = $4, lease_until_ms = 0, "
        "bank_payout_id = coalesce($5, bank_payout_id) WHERE id = $1",
        withdrawal["id"], wanted.value, asked.error.code if asked.error else None, now_ms + pause_s * 1_000,
        asked.status.bank_payout_id if asked.status else None,
    )  # fmt: skip
    if asked.due.asks == STUCK_AFTER:
        await _alert(tx, "withdrawal.stuck", withdrawal, {"state": wanted.value}, now_ms=now_ms)


# What became of it; the withdrawal is locked


_WITHDRAWAL = "SELECT id, wallet_id, amount, bank, reference, state FROM wallet_withdrawal "


async def _lock(tx: Statements, withdrawal_id: str) -> Row:
    rows = await tx.fetch(_WITHDRAWAL + "WHERE id = $1 " + tx.lock("wallet_withdrawal"), withdrawal_id)
    if not rows:
        raise NotFound("No such withdrawal.", withdrawal_id=withdrawal_id)
    return rows[0]


async def _succeed(tx: Statements, withdrawal: Row, *, answer: TransferStatus | None = None, now_ms: int) -> None:
    """The money reached the account."""
    await _end(tx, withdrawal, WithdrawalState.SUCCEEDED, code=None, now_ms=now_ms)
    if answer is not None:
        await tx.execute(
            "UPDATE wallet_withdrawal SET bank_payout_id = coalesce($2, bank_payout_id), raw_response = $3 "
            "WHERE id = $1",
            withdrawal["id"], answer.bank_payout_id, answer.body,
        )  # fmt: skip
    await ledger.post(tx, [_paid(withdrawal)], now_ms=now_ms)


def _paid(withdrawal: Row) -> ledger.Journal:
    return ledger.withdrawal_paid(withdrawal["id"], bank=withdrawal["bank"], amount=withdrawal["amount"])


async def _fail(tx: Statements, withdrawal: Row, *, code: str, now_ms: int) -> None:
    """The bank did not take it: it is in the wallet again."""
    await _end(tx, withdrawal, WithdrawalState.FAILED, code=code, now_ms=now_ms)
    await _put_back(tx, withdrawal, now_ms=now_ms)


async def _reverse(tx: Statements, withdrawal: Row, *, now_ms: int) -> None:
    """The bank had paid, and sent it back."""
    await _end(tx, withdrawal, WithdrawalState.REVERSED, code="REVERSED", now_ms=now_ms)
    back = ledger.payout_reversal(_paid(withdrawal), payout_id=withdrawal["id"])
    await ledger.post(tx, [back], now_ms=now_ms)
    await _put_back(tx, withdrawal, now_ms=now_ms)


async def _put_back(tx: Statements, withdrawal: Row, *, now_ms: int) -> None:
    wallet = account(withdrawal["wallet_id"])
    journal = ledger.withdrawal_ended(withdrawal["id"], wallet=wallet, amount=withdrawal["amount"])
    await ledger.post(tx, [journal], now_ms=now_ms)


async def _end(tx: Statements, withdrawal: Row, wanted: WithdrawalState, *, code: str | None, now_ms: int) -> None:
    await tx.execute(
        "UPDATE wallet_withdrawal SET state = $2, error_code = $3, finished_at_ms = $4, ask_at_ms = NULL, "
        "lease_until_ms = 0 WHERE id = $1",
        withdrawal["id"], require_withdrawal(withdrawal["state"], wanted).value, code, now_ms,
    )  # fmt: skip


async def _alert(tx: Statements, kind: str, withdrawal: Row, facts: dict[str, object], *, now_ms: int) -> None:
    about = {"withdrawal_id": withdrawal["id"], "amount": withdrawal["amount"]}
    subject = ("wallet", withdrawal["wallet_id"])
    await raise_alert(tx, kind, subject, severity=Severity.CRITICAL, facts=about | facts, now_ms=now_ms)


async def take_report(tx: Statements, report: PayoutReport, *, now_ms: int) -> tuple[EventOutcome, str | None] | None:
    """What a bank tells by itself of a transfer that is a withdrawal: the outcome and why; None where it is none.

    Each report is taken once, which is the door's to see to.
    """
    found = await tx.fetch(
        "SELECT id FROM wallet_withdrawal WHERE reference = $1 AND bank = $2", report.payout_reference, report.provider
    )
    if not found:
        return None
    withdrawal = await _lock(tx, found[0]["id"])
    state = WithdrawalState(withdrawal["state"])
    if report.state == "pending":
        return EventOutcome.IGNORED, "pending_says_nothing"
    if report.currency != "IDR" or report.amount_idr != withdrawal["amount"]:
        return await _to_be_looked_at(tx, withdrawal, report, "amount_mismatch", now_ms=now_ms)
    if report.state == state.value:
        return EventOutcome.DUPLICATE, None
    if report.state == "reversed" and state in (*_SENT, WithdrawalState.SUCCEEDED):
        if state is not WithdrawalState.SUCCEEDED:
            await _succeed(tx, withdrawal, now_ms=now_ms)
        await _reverse(tx, await _lock(tx, withdrawal["id"]), now_ms=now_ms)
        return EventOutcome.APPLIED, None
    if state is WithdrawalState.REVERSED:
        return EventOutcome.IGNORED, "already_reversed"
    if state not in _SENT:
        return await _to_be_looked_at(tx, withdrawal, report, f"already_{state}", now_ms=now_ms)
    if report.state == "failed":
        await _fail(tx, withdrawal, code="PAYOUT_FAILED", now_ms=now_ms)
    else:
        await _succeed(tx, withdrawal, now_ms=now_ms)
    return EventOutcome.APPLIED, None


async def _to_be_looked_at(
    tx: Statements, withdrawal: Row, report: PayoutReport, reason: str, *, now_ms: int
) -> tuple[EventOutcome, str]:
    """It fits nothing we know: nothing is booked, and somebody has to find out."""
    facts: dict[str, object] = {"reason": reason, "status": report.state, "told_amount": report.amount_idr}
    await _alert(tx, "withdrawal.contradicted", withdrawal, facts, now_ms=now_ms)
    return EventOutcome.NEEDS_REVIEW, reason
