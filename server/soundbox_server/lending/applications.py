"""Loan applications from a draft to the money that was handed over: each step by whoever it is for, under its lock.

The bank's side may see an application while the merchant's consent holds, and a decision holds the consent still
until its commit. Not their own: whoever made or submitted an application does not decide on it.
"""

from dataclasses import dataclass

from soundbox_server import clock
from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, Forbidden, InvalidAmount, NotFound, ValidationFailed
from soundbox_server.ids import new_id
from soundbox_server.lending.service import HOLDS, lets_see
from soundbox_server.lending.state import ConsentScope, LoanState, Side, require
from soundbox_server.scoring.state import Model

S = LoanState


@dataclass(frozen=True, kw_only=True)
class NewApplication:
    """`interest_bps` a year; what the bank recommends may be told from the start."""

    merchant_id: str
    bank_id: str
    amount_idr: int
    tenor_months: int
    purpose: str | None = None
    interest_bps: int | None = None
    recommended_amount_idr: int | None = None


async def make(tx: Statements, new: NewApplication, *, side: Side, actor: Actor, now_ms: int) -> str:
    """A draft that only its side sees; returns its id. Raises NotFound for a merchant that is not theirs, or that the
    bank may not see; for the merchant's own side Conflict where it does not let the bank see it."""
    if side is Side.MERCHANT:
        await _require_own(tx, new.merchant_id, actor)
    await _require_consent(tx, new.merchant_id, new.bank_id, side, now_ms)
    application_id = new_id("lon")
    await tx.execute(
        "INSERT INTO loan_application (id, merchant_id, organisation_id, made_by_side, made_by, state, amount_idr, "
        "tenor_months, interest_bps, purpose, recommended_amount_idr, created_at_ms, changed_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, 'draft', $6, $7, $8, $9, $10, $11, $11)",
        application_id, new.merchant_id, new.bank_id, side.value, str(actor.id), new.amount_idr, new.tenor_months,
        new.interest_bps, new.purpose, new.recommended_amount_idr, now_ms,
    )  # fmt: skip
    details = {"merchant_id": new.merchant_id, "bank_id": new.bank_id, "amount_idr": new.amount_idr}
    await record(tx, actor, "loan_application.made", ("loan_application", application_id), details=details)
    return application_id


async def submit(tx: Statements, application_id: str, *, side: Side, model: Model, actor: Actor, now_ms: int) -> None:
    """Hand it in, with the merchant's score as it is now. Raises NotFound, IllegalTransition or Conflict."""
    found = await _locked(tx, application_id, side, actor, now_ms)
    state = require(found["state"], S.SUBMITTED)
    await _require_consent(tx, found["merchant_id"], found["organisation_id"], side, now_ms)
    scores = await tx.fetch(
        "SELECT c.id, c.score, c.risk_band, c.model, c.version FROM credit_score c "
        "WHERE c.merchant_id = $1 AND c.model = $2 ORDER BY c.scored_at_ms DESC LIMIT 1",
        found["merchant_id"], model.value,
    )  # fmt: skip
    score: Row | dict[str, object] = scores[0] if scores else dict.fromkeys(_SCORE)
    await _move(
        tx, found, state, actor, now_ms, credit_score_id=score["id"], score=score["score"],
        risk_band=score["risk_band"], score_model=score["model"], score_version=score["version"],
        submitted_by=str(actor.id), submitted_at_ms=now_ms,
    )  # fmt: skip


_SCORE = ("id", "score", "risk_band", "model", "version")


async def review(tx: Statements, application_id: str, *, actor: Actor, now_ms: int) -> None:
    """Somebody of the bank looks into it. Raises NotFound or IllegalTransition."""
    found = await _locked(tx, application_id, Side.BANK, actor, now_ms)
    state = require(found["state"], S.UNDER_REVIEW)
    await _move(tx, found, state, actor, now_ms, reviewed_by=str(actor.id), reviewed_at_ms=now_ms)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a bank lends; what is None is as the application says."""

    amount_idr: int | None = None
    tenor_months: int | None = None
    interest_bps: int | None = None


async def approve(tx: Statements, application_id: str, offer: Offer, *, reason: str, actor: Actor, now_ms: int) -> None:
    """Raises NotFound, IllegalTransition, Forbidden for whoever made it, Conflict where nobody names the interest."""
    found = await _to_be_decided(tx, application_id, S.APPROVED, actor, now_ms)
    interest_bps = found["interest_bps"] if offer.interest_bps is None else offer.interest_bps
    if interest_bps is None:
        raise Conflict("Say what interest the loan bears.", field="interest_bps")
    await _move(
        tx, found, S.APPROVED, actor, now_ms, approved_amount_idr=offer.amount_idr or found["amount_idr"],
        tenor_months=offer.tenor_months or found["tenor_months"], interest_bps=interest_bps,
        decided_by=str(actor.id), decided_at_ms=now_ms, decision_reason=reason,
    )  # fmt: skip


async def reject(tx: Statements, application_id: str, *, reason: str, actor: Actor, now_ms: int) -> None:
    """Raises NotFound, IllegalTransition, and Forbidden for whoever made it."""
    found = await _to_be_decided(tx, application_id, S.REJECTED, actor, now_ms)
    await _move(
        tx, found, S.REJECTED, actor, now_ms, decided_by=str(actor.id), decided_at_ms=now_ms, decision_reason=reason
    )


async def _to_be_decided(tx: Statements, application_id: str, wanted: LoanState, actor: Actor, now_ms: int) -> Row:
    found = await _locked(tx, application_id, Side.BANK, actor, now_ms)
    require(found["state"], wanted)
    if actor.id in (found["made_by"], found["submitted_by"]):
        raise Forbidden("Somebody other than who made the application must decide on it.")
    return found


@dataclass(frozen=True, kw_only=True)
class Disbursement:
    """Money that the bank handed over, which we only write down. `on` is a day in Jakarta."""

    reference: str
    on: str
    amount_idr: int


async def disburse(tx: Statements, application_id: str, paid: Disbursement, *, actor: Actor, now_ms: int) -> None:
    """Raises NotFound, IllegalTransition, ValidationFailed for a day to come, and InvalidAmount for more than was
    approved."""
    found = await _locked(tx, application_id, Side.BANK, actor, now_ms)
    state = require(found["state"], S.DISBURSED)
    if paid.on > (today := clock.jakarta_day(now_ms)):
        raise ValidationFailed("That day has not come yet.", field="on", today=today)
    if paid.amount_idr > found["approved_amount_idr"]:
        raise InvalidAmount("This is more than was approved.", approved_amount_idr=found["approved_amount_idr"])
    await _move(
        tx, found, state, actor, now_ms, disbursed_by=str(actor.id), disbursed_on=paid.on,
        disbursed_amount_idr=paid.amount_idr, disbursement_reference=paid.reference,
    )  # fmt: skip


async def withdraw(tx: Statements, application_id: str, *, side: Side, actor: Actor, now_ms: int) -> None:
    """The merchant wants the loan no more; the bank lets go of what it proposed itself.

    Raises NotFound, IllegalTransition, and Forbidden for a bank and what the merchant asked it for.
    """
    found = await _locked(tx, application_id, side, actor, now_ms)
    if side is Side.BANK and found["made_by_side"] != Side.BANK:
        raise Forbidden("This is the merchant's application: decide on it.")
    state = require(found["state"], S.WITHDRAWN)
    await _move(tx, found, state, actor, now_ms, withdrawn_at_ms=now_ms)


async def withdraw_all(tx: Statements, merchant_id: str, *, actor: Actor, now_ms: int) -> int:
    """Every application of a merchant that is still open; returns how many."""
    open_ones = await tx.fetch(
        f"SELECT {_COLUMNS} FROM loan_application a WHERE a.merchant_id = $1 "
        f"AND a.state IN ('draft', 'submitted', 'under_review', 'approved') ORDER BY a.id {tx.lock('a')}",
        merchant_id,
    )
    for found in open_ones:
        await _move(tx, found, require(found["state"], S.WITHDRAWN), actor, now_ms, withdrawn_at_ms=now_ms)
    return len(open_ones)


_COLUMNS = (
    "a.id, a.merchant_id, a.organisation_id, a.made_by_side, a.made_by, a.submitted_by, a.state, a.amount_idr, "
    "a.tenor_months, a.interest_bps, a.approved_amount_idr"
)
# What was never submitted is nobody's business but its maker's.
_OF_BANK = (
    f"SELECT {_COLUMNS} FROM loan_application a JOIN bank_consent k ON k.merchant_id = a.merchant_id "
    f"AND k.organisation_id = a.organisation_id AND k.scope = 'full' AND {HOLDS} "
    "WHERE a.id = $2 AND a.organisation_id = $3 AND (a.submitted_at_ms IS NOT NULL OR a.made_by_side = 'bank') "
)
_OF_MERCHANT = (
    f"SELECT {_COLUMNS} FROM loan_application a JOIN merchant m ON m.id = a.merchant_id "
    "WHERE a.id = $1 AND m.organisation_id = $2 AND (a.submitted_at_ms IS NOT NULL OR a.made_by_side = 'merchant') "
)


async def _locked(tx: Statements, application_id: str, side: Side, actor: Actor, now_ms: int) -> Row:
    """Until the commit nobody moves it and, for the bank, nobody withdraws the consent. Raises NotFound."""
    if side is Side.BANK:
        found = await tx.fetch(_OF_BANK + tx.lock("a, k"), now_ms, application_id, actor.organisation_id)
    else:
        found = await tx.fetch(_OF_MERCHANT + tx.lock("a"), application_id, actor.organisation_id)
    if not found:
        raise NotFound("No such loan application.", application_id=application_id)
    return found[0]


async def _require_own(tx: Statements, merchant_id: str, actor: Actor) -> None:
    if not await tx.fetch(
        "SELECT id FROM merchant WHERE id = $1 AND organisation_id = $2", merchant_id, actor.organisation_id
    ):
        raise NotFound("No such merchant.", merchant_id=merchant_id)


async def _require_consent(tx: Statements, merchant_id: str, bank_id: str, side: Side, now_ms: int) -> None:
    if await lets_see(tx, bank_id, [merchant_id], scope=ConsentScope.FULL, now_ms=now_ms, locked=True):
        return
    if side is Side.BANK:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    raise Conflict("Let this bank see the merchant first.", bank_id=bank_id)


async def _move(tx: Statements, found: Row, state: LoanState, actor: Actor, now_ms: int, **columns: object) -> None:
    """`columns` are named here and by nobody outside."""
    values = {"state": state.value, "changed_at_ms": now_ms} | columns
    named = ", ".join(f"{name} = ${n}" for n, name in enumerate(values, 2))
    await tx.execute(f"UPDATE loan_application SET {named} WHERE id = $1", found["id"], *values.values())
    details = {"from": found["state"], "to": state.value}
    await record(tx, actor, f"loan_application.{state.value}", ("loan_application", found["id"]), details=details)
