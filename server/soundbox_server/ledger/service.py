"""Double entry. A posting is one positive amount that leaves one account and enters another, so a journal sums to zero.

Accounts are named by what they are: provider_receivable:<provider>, merchant_payable:<merchant>, fees:<provider>,
suspense:<provider>, cash_drawer:<merchant>, cash_sales:<merchant>, clearing:<settlement or withdrawal>,
wallet:<wallet>. Tokens are a unit of their own: token_issue, license:<license>, reserved:<license>, token_used.
A balance is what came in less what went out.
"""

from collections.abc import Mapping, Sequence

import msgspec

from soundbox_server.db import Statements
from soundbox_server.ids import new_id

WALLETS = "wallet"  # what stands for a provider where money goes from wallet to wallet


class Posting(msgspec.Struct, frozen=True):
    source: str
    destination: str
    amount: int
    unit: str = "IDR"


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    kind: str  # one of ledger.models.KINDS
    postings: tuple[Posting, ...]
    payment_id: str | None = None
    provider_event_id: str | None = None
    money_key: str | None = None  # names the transfer itself: told twice, it is booked once


def capture(
    *,
    payment_id: str,
    provider_event_id: str | None,
    provider: str,
    merchant_id: str,
    gross: int,
    fee: int,
    credit: str | None = None,
) -> Journal:
    """Paid: the provider owes us the gross, we owe it to the merchant, and the merchant owes the fee. `credit` is
    another account that it is for."""
    payable = credit or f"merchant_payable:{merchant_id}"
    paid = Posting(f"provider_receivable:{provider}", payable, gross)
    postings = (paid, Posting(payable, f"fees:{provider}", fee)) if fee else (paid,)
    return Journal(kind="capture", payment_id=payment_id, provider_event_id=provider_event_id, postings=postings)


def cash(*, payment_id: str, merchant_id: str, amount: int) -> Journal:
    """Paid in cash: it is in the merchant's own drawer already, so nobody owes it to anybody."""
    posting = Posting(f"cash_drawer:{merchant_id}", f"cash_sales:{merchant_id}", amount)
    return Journal(kind="capture", payment_id=payment_id, postings=(posting,))


def transfer(*, payment_id: str, payer: str, payee: str, amount: int, fee: int) -> Journal:
    """Paid out of a wallet into another, and the payee owes the service fee. No provider has to do with it."""
    paid = Posting(payer, payee, amount)
    postings = (paid, Posting(payee, f"fees:{WALLETS}", fee)) if fee else (paid,)
    return Journal(kind="capture", payment_id=payment_id, postings=postings)


def suspense(*, payment_id: str | None, provider_event_id: str, provider: str, amount: int, money_key: str) -> Journal:
    """Money came that fits no payment: it is kept apart until an operator decides."""
    posting = Posting(f"provider_receivable:{provider}", f"suspense:{provider}", amount)
    return Journal(
        kind="suspense",
        payment_id=payment_id,
        provider_event_id=provider_event_id,
        postings=(posting,),
        money_key=money_key,
    )


def release(*, payment_id: str | None, provider_event_id: str | None, provider: str, amount: int, key: str) -> Journal:
    """Money is no longer kept apart: its capture is booked beside this, or the provider took it back."""
    return Journal(
        kind="release",
        payment_id=payment_id,
        provider_event_id=provider_event_id,
        postings=(Posting(f"suspense:{provider}", f"provider_receivable:{provider}", amount),),
        money_key=f"release:{key}",
    )


def refund(paid: Sequence[Posting], *, payment_id: str, refund_id: str, amount: int, fee_returned: int) -> Journal:
    """So much of what `paid` brought goes back the way it came, and of the fee what the merchant gets back."""
    taken, *priced = paid
    postings = [Posting(taken.destination, taken.source, amount)]
    if fee_returned:
        postings.append(Posting(priced[0].destination, priced[0].source, fee_returned))
    return Journal(kind="refund", payment_id=payment_id, postings=tuple(postings), money_key=f"refund:{refund_id}")


def refund_from_suspense(*, payment_id: str, refund_id: str, provider: str, amount: int) -> Journal:
    """Money that was kept apart goes back to whoever sent it."""
    return Journal(
        kind="refund",
        payment_id=payment_id,
        postings=(Posting(f"suspense:{provider}", f"provider_receivable:{provider}", amount),),
        money_key=f"refund:{refund_id}",
    )


def reversal(
    paid: Sequence[Posting], *, payment_id: str, provider_event_id: str | None, refunded: int, fee_returned: int
) -> Journal:
    """The inverse of every posting of the capture, less what refunds took back already."""
    back = [
        Posting(posting.destination, posting.source, left)
        for posting, gone in zip(paid, (refunded, fee_returned), strict=False)
        if (left := posting.amount - gone)
    ]
    return Journal(
        kind="reversal",
        payment_id=payment_id,
        provider_event_id=provider_event_id,
        postings=tuple(back),
        money_key=f"reversal:{payment_id}",
    )


def promised(postings: Sequence[Posting], *, payment_id: str) -> Journal:
    """What a payment brings beside its money, as it was agreed on when it was made: booked with its capture."""
    return Journal(kind="promised", payment_id=payment_id, postings=tuple(postings))


def settlement(*, settlement_id: str, merchant_id: str, net: int) -> Journal:
    """What a batch pays out is no longer owed to the merchant: it is on its way."""
    posting = Posting(f"merchant_payable:{merchant_id}", f"clearing:{settlement_id}", net)
    return Journal(kind="settlement", postings=(posting,), money_key=f"settlement:{settlement_id}")


def payout(settlement_id: str, shares: Mapping[str, int], *, payout_id: str, by_hand: bool) -> Journal:
    """A settlement's money reached the merchant: through each provider its share, or from whoever paid by hand."""
    clearing = f"clearing:{settlement_id}"
    ends = {"manual_payout": sum(shares.values())} if by_hand else {_receivable(p): shares[p] for p in sorted(shares)}
    postings = tuple(Posting(clearing, end, amount) for end, amount in ends.items() if amount)
    return Journal(kind="payout", postings=postings, money_key=f"payout:{payout_id}")


def payout_reversal(paid: Journal, *, payout_id: str) -> Journal:
    """The inverse of a payout: its bank sent the money back, and it waits in clearing again."""
    back = tuple(Posting(one.destination, one.source, one.amount) for one in paid.postings)
    return Journal(kind="payout_reversal", postings=back, money_key=f"payout_reversal:{payout_id}")


def withdrawal(withdrawal_id: str, *, wallet: str, amount: int) -> Journal:
    """Money leaves a wallet for a bank account: it is on its way."""
    posting = Posting(wallet, f"clearing:{withdrawal_id}", amount)
    return Journal(kind="withdrawal", postings=(posting,), money_key=f"withdrawal:{withdrawal_id}")


def withdrawal_ended(withdrawal_id: str, *, wallet: str, amount: int) -> Journal:
    """It is not on its way any more, and in the wallet again."""
    posting = Posting(f"clearing:{withdrawal_id}", wallet, amount)
    return Journal(kind="withdrawal", postings=(posting,), money_key=f"withdrawal_ended:{withdrawal_id}")


def withdrawal_paid(withdrawal_id: str, *, bank: str, amount: int) -> Journal:
    """It reached the account, and whoever paid it owes us so much less."""
    posting = Posting(f"clearing:{withdrawal_id}", _receivable(bank), amount)
    return Journal(kind="payout", postings=(posting,), money_key=f"payout:{withdrawal_id}")


def _receivable(provider: str) -> str:
    return f"provider_receivable:{provider}"


async def captured_by(tx: Statements, payment_id: str) -> tuple[Posting, ...]:
    """The postings that a payment's capture booked: the money first, then the fee where there is one."""
    rows = await tx.fetch(
        "SELECT p.source, p.destination, p.amount, p.unit FROM journal j JOIN posting p ON p.journal_id = j.id "
        "WHERE j.payment_id = $1 AND j.kind = 'capture' ORDER BY p.position",
        payment_id,
    )
    return tuple(Posting(row["source"], row["destination"], row["amount"], row["unit"]) for row in rows)


_INSERT = """
INSERT INTO journal (id, kind, payment_id, provider_event_id, booked_at_ms, money_key) VALUES ($1, $2, $3, $4, $5, $6)
"""


async def post(tx: Statements, journals: Sequence[Journal], *, now_ms: int) -> None:
    """Book the journals. A second capture of a payment violates a unique key; suspense that was booked before, as its
    money_key shows, is left as it is."""
    numbered = [(new_id("jrn"), journal) for journal in journals]
    # In the order of their keys, or two processes with the same transfers would each wait for the other.
    keyed = sorted((n for n in numbered if n[1].money_key is not None), key=lambda n: str(n[1].money_key))
    standing = [(jid, journal) for jid, journal in keyed if await _stands(tx, jid, journal, now_ms)]
    free = [(jid, journal) for jid, journal in numbered if journal.money_key is None]
    await tx.many(_INSERT, [_row(jid, journal, now_ms) for jid, journal in free])
    await tx.many(
        "INSERT INTO posting (journal_id, position, source, destination, unit, amount) VALUES ($1, $2, $3, $4, $5, $6)",
        [
            (jid, position, posting.source, posting.destination, posting.unit, posting.amount)
            for jid, journal in [*free, *standing]
            for position, posting in enumerate(journal.postings)
        ],
    )


def _row(jid: str, journal: Journal, now_ms: int) -> tuple[object, ...]:
    return (jid, journal.kind, journal.payment_id, journal.provider_event_id, now_ms, journal.money_key)


async def _stands(tx: Statements, jid: str, journal: Journal, now_ms: int) -> bool:
    sql = _INSERT + " ON CONFLICT (money_key) WHERE money_key IS NOT NULL DO NOTHING RETURNING id"
    return bool(await tx.fetch(sql, *_row(jid, journal, now_ms)))


async def balance(tx: Statements, account: str, *, unit: str = "IDR") -> int:
    """In less out, in whole units."""
    rows = await tx.fetch(
        "SELECT coalesce(sum(CASE WHEN destination = $1 THEN amount ELSE -amount END), 0) AS balance "
        "FROM posting WHERE (source = $1 OR destination = $1) AND unit = $2",
        account,
        unit,
    )
    return int(rows[0]["balance"])


async def in_wallet(tx: Statements, account: str) -> int:
    """The balance of a wallet's account, by the indexes that only wallets have: the ledger may be long."""
    rows = await tx.fetch(
        "SELECT coalesce(sum(amount), 0) AS balance FROM ("
        "SELECT amount FROM posting WHERE destination = $1 AND substr(destination, 1, 7) = 'wallet:' UNION ALL "
        "SELECT -amount FROM posting WHERE source = $1 AND substr(source, 1, 7) = 'wallet:') moved",
        account,
    )
    return int(rows[0]["balance"])
