"""Banks, and what merchants let them see: granted, withdrawn, over by itself.

Whether a consent holds is asked in the statement that reads for the bank (`HOLDS`), and is nowhere remembered.
"""

from collections.abc import Mapping, Sequence

from soundbox_server.audit.service import Actor, record
from soundbox_server.clock import DAY_MS, rfc3339
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.ids import new_id
from soundbox_server.lending.state import ConsentEventKind, ConsentScope
from soundbox_server.scoring import thresholds

LONGEST_MS = 365 * DAY_MS
# Of a row `k` of `bank_consent`; $1 is the present moment.
HOLDS = "k.withdrawn_at_ms IS NULL AND k.expires_at_ms > $1"


async def create_bank(
    tx: Statements, *, name: str, actor: Actor, now_ms: int, organisation_id: str | None = None
) -> str:
    """An organisation of the kind whose people may be let see merchants; returns its id. One that is there stays."""
    organisation_id = organisation_id or new_id("org")
    made = await tx.fetch(
        "INSERT INTO organisation (id, kind, name, created_at_ms) VALUES ($1, 'bank', $2, $3) "
        "ON CONFLICT (id) DO NOTHING RETURNING id",
        organisation_id, name, now_ms,
    )  # fmt: skip
    if made:
        details = {"kind": "bank"}
        await record(tx, actor, "organisation.created", ("organisation", organisation_id), details=details)
    return organisation_id


async def grant(
    tx: Statements,
    *,
    merchant_id: str,
    bank_id: str,
    scope: ConsentScope = ConsentScope.FULL,
    expires_at_ms: int | None = None,
    organisation_id: str | None = None,
    actor: Actor,
    now_ms: int,
) -> str:
    """A merchant lets a bank see it, for a year unless less is said; returns the consent's id. A consent that stands is
    replaced by this one.

    `organisation_id` is who grants, where that is not the platform itself. Raises NotFound for a merchant that is not
    theirs and for what is no bank, Conflict for an end that is past or more than a year away.
    """
    until_ms = now_ms + LONGEST_MS if expires_at_ms is None else expires_at_ms
    if not now_ms < until_ms <= now_ms + LONGEST_MS:
        raise Conflict("A consent ends within a year from now.", field="expires_at")
    await _require_merchant(tx, merchant_id, organisation_id)
    if not await tx.fetch("SELECT id FROM organisation WHERE id = $1 AND kind = 'bank'", bank_id):
        raise NotFound("No such bank.", bank_id=bank_id)
    (consent,) = await tx.fetch(
        "INSERT INTO bank_consent (id, merchant_id, organisation_id, scope, granted_at_ms, expires_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (organisation_id, merchant_id) DO UPDATE SET "
        "scope = excluded.scope, granted_at_ms = excluded.granted_at_ms, expires_at_ms = excluded.expires_at_ms, "
        "withdrawn_at_ms = NULL RETURNING id",
        new_id("cst"), merchant_id, bank_id, scope.value, now_ms, until_ms,
    )  # fmt: skip
    consent_id = str(consent["id"])
    if scope is ConsentScope.FULL:
        await thresholds.judge_again(tx, bank_id)
    await _write_down(tx, consent_id, ConsentEventKind.GRANTED, scope.value, until_ms, actor, now_ms)
    details = {"bank_id": bank_id, "merchant_id": merchant_id, "scope": scope.value, "expires_at": rfc3339(until_ms)}
    await record(tx, actor, "consent.granted", ("consent", consent_id), details=details)
    return consent_id


async def _require_merchant(tx: Statements, merchant_id: str, organisation_id: str | None) -> None:
    """Raises NotFound, also for another organisation's. An erasure of the merchant waits for us, or we for it."""
    found = await tx.fetch(
        f"SELECT m.organisation_id FROM merchant m WHERE m.id = $1 AND m.erased_at_ms IS NULL {tx.lock('m')}",
        merchant_id,
    )
    if not found or organisation_id not in (None, found[0]["organisation_id"]):
        raise NotFound("No such merchant.", merchant_id=merchant_id)


async def withdraw(
    tx: Statements, consent_id: str, *, organisation_id: str | None = None, actor: Actor, now_ms: int
) -> None:
    """From this commit on the bank sees nothing of the merchant. Withdrawn twice is withdrawn once.

    Raises NotFound, also for a consent of another organisation's merchant.
    """
    found = await tx.fetch(
        "SELECT k.merchant_id, k.scope, k.expires_at_ms, k.withdrawn_at_ms, m.organisation_id FROM bank_consent k "
        f"JOIN merchant m ON m.id = k.merchant_id WHERE k.id = $1 {tx.lock('k')}",
        consent_id,
    )
    if not found or organisation_id not in (None, found[0]["organisation_id"]):
        raise NotFound("No such consent.", consent_id=consent_id)
    if found[0]["withdrawn_at_ms"] is None:
        await _withdraw(tx, consent_id, found[0], actor, now_ms)


async def _withdraw(tx: Statements, consent_id: str, consent: Row, actor: Actor, now_ms: int) -> None:
    await tx.execute("UPDATE bank_consent SET withdrawn_at_ms = $2 WHERE id = $1", consent_id, now_ms)
    await _write_down(
        tx, consent_id, ConsentEventKind.WITHDRAWN, consent["scope"], consent["expires_at_ms"], actor, now_ms
    )
    details = {"merchant_id": consent["merchant_id"]}
    await record(tx, actor, "consent.withdrawn", ("consent", consent_id), details=details)


async def withdraw_all(tx: Statements, merchant_id: str, *, actor: Actor, now_ms: int) -> int:
    """Every consent of a merchant that was not withdrawn; returns how many."""
    standing = await tx.fetch(
        "SELECT k.id, k.merchant_id, k.scope, k.expires_at_ms FROM bank_consent k "
        f"WHERE k.merchant_id = $1 AND k.withdrawn_at_ms IS NULL ORDER BY k.id {tx.lock('k')}",
        merchant_id,
    )
    for consent in standing:
        await _withdraw(tx, consent["id"], consent, actor, now_ms)
    return len(standing)


async def _write_down(
    tx: Statements,
    consent_id: str,
    kind: ConsentEventKind,
    scope: str,
    expires_at_ms: int,
    actor: Actor,
    now_ms: int,
) -> None:
    await tx.execute(
        "INSERT INTO bank_consent_event (id, consent_id, kind, scope, expires_at_ms, actor_kind, actor_id, at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        new_id("cse"), consent_id, kind.value, scope, expires_at_ms, actor.kind, actor.id, now_ms,
    )  # fmt: skip


async def banks_watching(tx: Statements, merchant_ids: Sequence[str], *, now_ms: int) -> Mapping[str, list[str]]:
    """By merchant, the banks that may see its warnings now; a merchant that nobody watches is not among them."""
    rows = await tx.fetch(
        f"SELECT k.merchant_id, k.organisation_id FROM bank_consent k WHERE {HOLDS} AND k.scope = 'full' "
        f"AND k.merchant_id {tx.among(2)} ORDER BY k.merchant_id, k.organisation_id",
        now_ms, list(merchant_ids),
    )  # fmt: skip
    watching: dict[str, list[str]] = {}
    for row in rows:
        watching.setdefault(row["merchant_id"], []).append(row["organisation_id"])
    return watching


async def lets_see(
    tx: Statements,
    bank_id: str,
    merchant_ids: Sequence[str],
    *,
    scope: ConsentScope,
    now_ms: int,
    locked: bool = False,
) -> Mapping[str, ConsentScope]:
    """Those of these merchants that let the bank see so much at this moment, each with how much that is. `locked`:
    until the commit nobody withdraws."""
    rows = await tx.fetch(
        f"SELECT k.merchant_id, k.scope FROM bank_consent k WHERE {HOLDS} AND k.organisation_id = $2 "
        f"AND k.merchant_id {tx.among(3)} AND k.scope {tx.among(4)} ORDER BY k.id {tx.lock('k') if locked else ''}",
        now_ms, bank_id, list(merchant_ids), _at_least(scope),
    )  # fmt: skip
    return {str(row["merchant_id"]): ConsentScope(row["scope"]) for row in rows}


def _at_least(scope: ConsentScope) -> list[str]:
    return [ConsentScope.FULL.value] if scope is ConsentScope.FULL else [one.value for one in ConsentScope]
