"""A merchant is forgotten: asked for, approved by somebody else, done at once, and finished when the law lets go.

At once go the people and their ways in, names and addresses, free texts, consents and open applications (`_AT_ONCE`).
Papers, the legal name, the account that was paid and what providers wrote stay until the hold ends
(`_WHEN_THE_LAW_LETS_GO`).
Amounts, journals and settlements stay for good: nothing in them names anybody. Decision 0011 says why.
"""

from dataclasses import dataclass

from soundbox_server.access import sessions
from soundbox_server.audit.service import SYSTEM, Actor, record
from soundbox_server.clock import DAY_MS
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, Forbidden, NotFound
from soundbox_server.ids import new_id
from soundbox_server.lending import applications
from soundbox_server.lending import service as consents
from soundbox_server.privacy.state import ErasureState, require
from soundbox_server.webhooks.service import switch_off
from soundbox_server.webhooks.state import Disabled

HOLD_MS = 10 * 365 * DAY_MS  # how long bookkeeping and tax law keep what a booking rests on
NAME = "Terhapus"
ADDRESS = "erased@erased.invalid"
TOGETHER = 20  # merchants a commit whose hold is over

_OF_IT = "(SELECT id FROM payment WHERE merchant_id = $1)"
# Each by the merchant's id.
_AT_ONCE = (
    "UPDATE payment SET description = NULL, payer = NULL WHERE merchant_id = $1",
    f"UPDATE payment_attempt SET qr_payload = NULL, actions = NULL WHERE payment_id IN {_OF_IT}",
    "UPDATE payment_session SET description = NULL, customer_name = NULL, items = NULL, back_url = NULL, "
    f"success_url = NULL, failure_url = NULL WHERE payment_id IN {_OF_IT}",
    f"UPDATE partner_payment SET facts = NULL WHERE payment_id IN {_OF_IT}",
    f"UPDATE refund SET reason = '{NAME}' WHERE payment_id IN {_OF_IT}",
    "UPDATE sale SET product_name = NULL, items = '[]' WHERE merchant_id = $1",
    "UPDATE offline_item SET facts = '{}' WHERE merchant_id = $1",
    "UPDATE offline_conflict SET local_data = '{}', server_data = NULL WHERE merchant_id = $1",
    f"UPDATE wallet_invoice SET email = '{ADDRESS}', description = NULL WHERE merchant_id = $1",
    f"UPDATE outbox_message SET address = '{ADDRESS}', body = $2 WHERE transport = 'mail' "
    "AND recipient_id IN (SELECT id FROM wallet_invoice WHERE merchant_id = $1)",
    f"UPDATE merchant_erasure SET reason = '{NAME}' WHERE merchant_id = $1",
    "UPDATE loan_application SET purpose = NULL WHERE merchant_id = $1",
    "DELETE FROM advice_wish WHERE merchant_id = $1",  # with the names of its products; the texts name nothing
    "DELETE FROM provider_credential WHERE merchant_id = $1",
    f"UPDATE outlet SET name = '{NAME}', address = '', status = 'disabled' WHERE merchant_id = $1",
    "UPDATE terminal SET status = 'disabled' WHERE merchant_id = $1",
)
# When the last merchant of an organisation goes, so do its people; each by the organisation's id.
_PEOPLE = "(SELECT id FROM person WHERE organisation_id = $1)"
_WITH_ITS_PEOPLE = (
    f"DELETE FROM session_secret WHERE session_id IN (SELECT id FROM login_session WHERE person_id IN {_PEOPLE})",
    f"UPDATE login_session SET ip = NULL, user_agent = NULL WHERE person_id IN {_PEOPLE}",
    f"DELETE FROM one_time_token WHERE person_id IN {_PEOPLE}",
    f"DELETE FROM totp_secret WHERE person_id IN {_PEOPLE}",
    f"DELETE FROM recovery_code WHERE person_id IN {_PEOPLE}",
    f"UPDATE person_profile SET phone_number = NULL, address = NULL WHERE person_id IN {_PEOPLE}",
    f"UPDATE outbox_message SET address = '{ADDRESS}', body = $2 WHERE transport = 'mail' "
    f"AND recipient_id IN {_PEOPLE}",
    "UPDATE wallet_holder SET pin_hash = NULL, category = NULL WHERE organisation_id = $1",
    f"UPDATE organisation SET name = '{NAME}' WHERE id = $1",
)
_WHEN_THE_LAW_LETS_GO = (
    f"UPDATE merchant SET legal_name = '{NAME}', settlement_account_reference = NULL, "
    "settlement_account_type = NULL WHERE id = $1",
    "UPDATE merchant_account_change SET account_reference = NULL, account_type = NULL, reason = NULL "
    "WHERE merchant_id = $1",
    "UPDATE payout SET account_reference = NULL, account_type = NULL, raw_response = NULL, "
    f"note = CASE WHEN note IS NULL THEN NULL ELSE '{NAME}' END WHERE merchant_id = $1",
    f"UPDATE wallet_withdrawal SET account_reference = '{NAME}', raw_response = NULL WHERE merchant_id = $1",
    f"UPDATE payment_attempt SET raw_request = NULL, raw_response = NULL WHERE payment_id IN {_OF_IT}",
    f"UPDATE refund SET raw_response = NULL WHERE payment_id IN {_OF_IT}",
    "UPDATE payout_event SET body = $2 WHERE payout_id IN (SELECT id FROM payout WHERE merchant_id = $1) "
    "OR (payout_id IS NULL AND reference IN (SELECT reference FROM wallet_withdrawal WHERE merchant_id = $1))",
    f"UPDATE provider_event SET body = $2, report = NULL WHERE payment_id IN {_OF_IT}",
    "DELETE FROM merchant_document WHERE merchant_id = $1",
)


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """`fresh` where this call made it."""

    id: str
    fresh: bool


async def ask(
    tx: Statements, merchant_id: str, *, reason: str, organisation_id: str | None = None, actor: Actor, now_ms: int
) -> Erasure:
    """Ask that a merchant be forgotten; asked twice it is asked once. `organisation_id` is whose owner asks.

    Raises NotFound, also for another organisation's, and Conflict for the platform's own.
    """
    merchant = await _lock(tx, merchant_id)
    if organisation_id not in (None, merchant["organisation_id"]):
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    _require_erasable(merchant)
    asked = await tx.fetch("SELECT id FROM merchant_erasure WHERE merchant_id = $1 AND state <> 'refused'", merchant_id)
    if asked:
        return Erasure(id=asked[0]["id"], fresh=False)
    erasure_id = new_id("ers")
    await tx.execute(
        "INSERT INTO merchant_erasure (id, merchant_id, state, reason, requested_by, requested_at_ms) "
        "VALUES ($1, $2, 'requested', $3, $4, $5)",
        erasure_id, merchant_id, reason, str(actor.id), now_ms,
    )  # fmt: skip
    await record(tx, actor, "erasure.requested", ("merchant", merchant_id), details={"erasure_id": erasure_id})
    return Erasure(id=erasure_id, fresh=True)


async def refuse(tx: Statements, erasure_id: str, *, actor: Actor, now_ms: int) -> None:
    """Anybody of staff may, also who asked. Raises NotFound or IllegalTransition."""
    erasure = await _locked(tx, erasure_id)
    state = require(erasure["state"], ErasureState.REFUSED)
    await tx.execute(
        "UPDATE merchant_erasure SET state = $2, decided_by = $3, decided_at_ms = $4 WHERE id = $1",
        erasure_id, state, str(actor.id), now_ms,
    )  # fmt: skip
    details = {"erasure_id": erasure_id}
    await record(tx, actor, "erasure.refused", ("merchant", erasure["merchant_id"]), details=details)


async def approve(tx: Statements, erasure_id: str, merchant_id: str, *, actor: Actor, now_ms: int) -> None:
    """Forget, now. `merchant_id` is typed once more by whoever approves. Approved twice it is done once.

    Raises NotFound, Forbidden for whoever asked for it, and Conflict for another merchant's id, for the platform's own,
    and while money is on its way or boxes stand there. It may take long.
    """
    erasure = await _locked(tx, erasure_id)
    if erasure["merchant_id"] != merchant_id:
        raise Conflict("This is not the merchant that is to be erased.", field="merchant_id")
    if erasure["state"] in (ErasureState.HELD, ErasureState.ERASED):
        return
    state = require(erasure["state"], ErasureState.HELD)
    if erasure["requested_by"] == actor.id:
        raise Forbidden("Somebody other than who asked for it must approve an erasure.")
    merchant = await _lock(tx, merchant_id)
    _require_erasable(merchant)
    await _lock_organisation(tx, merchant["organisation_id"])
    await _require_nothing_open(tx, merchant_id, merchant["organisation_id"])
    done = await _forget(tx, merchant_id, merchant["organisation_id"], actor=actor, now_ms=now_ms)
    await tx.execute(
        "UPDATE merchant_erasure SET state = $2, decided_by = $3, decided_at_ms = $4, hold_until_ms = $5 WHERE id = $1",
        erasure_id, state, str(actor.id), now_ms, now_ms + HOLD_MS,
    )  # fmt: skip
    details = {"erasure_id": erasure_id, **done}
    await record(tx, actor, "erasure.approved", ("merchant", merchant_id), details=details)


async def _lock(tx: Statements, merchant_id: str) -> Row:
    found = await tx.fetch(
        "SELECT m.organisation_id, o.kind FROM merchant m JOIN organisation o ON o.id = m.organisation_id "
        f"WHERE m.id = $1 {tx.lock('m')}",
        merchant_id,
    )
    if not found:
        raise NotFound("No such merchant.", merchant_id=merchant_id)
    return found[0]


def _require_erasable(merchant: Row) -> None:
    """The platform sells too, tokens; its people are the staff, and are not erased as a merchant's."""
    if merchant["kind"] != "merchant":
        raise Conflict("Only a merchant of a merchant's organisation is erased.")


async def _lock_organisation(tx: Statements, organisation_id: str) -> None:
    """Of two of its merchants that are forgotten at once, one is the last: its people go with that one."""
    await tx.fetch(f"SELECT o.id FROM organisation o WHERE o.id = $1 {tx.lock('o')}", organisation_id)


async def _locked(tx: Statements, erasure_id: str) -> Row:
    found = await tx.fetch(
        f"SELECT e.merchant_id, e.state, e.requested_by FROM merchant_erasure e WHERE e.id = $1 {tx.lock('e')}",
        erasure_id,
    )
    if not found:
        raise NotFound("No such erasure.", erasure_id=erasure_id)
    return found[0]


# What stands in the way: each by the merchant's id, and what is told.
_OPEN = {
    "Boxes stand at its tills: take them away first.": (
        "SELECT id FROM device_binding WHERE merchant_id = $1 AND unbound_at_ms IS NULL LIMIT 1"
    ),
    "Payments are on their way, or waiting for a decision.": (
        "SELECT id FROM payment WHERE merchant_id = $1 "
        "AND state IN ('created', 'awaiting_payment', 'needs_review', 'disputed') LIMIT 1"
    ),
    "Refunds are on their way.": (
        "SELECT r.id FROM refund r JOIN payment p ON p.id = r.payment_id WHERE p.merchant_id = $1 "
        "AND r.state IN ('requested', 'submitted', 'unknown') LIMIT 1"
    ),
    "Withdrawals are on their way.": (
        "SELECT id FROM wallet_withdrawal WHERE merchant_id = $1 "
        "AND state IN ('created', 'submitted', 'unknown') LIMIT 1"
    ),
    "Settlements are not paid out yet.": (
        "SELECT id FROM settlement WHERE merchant_id = $1 "
        "AND state IN ('open', 'calculated', 'paying', 'failed') LIMIT 1"
    ),
}
_OWED = """
SELECT coalesce(sum(CASE WHEN destination = $1 THEN amount ELSE -amount END), 0) AS idr
FROM posting WHERE unit = 'IDR' AND (source = $1 OR destination = $1)
"""


async def _require_nothing_open(tx: Statements, merchant_id: str, organisation_id: str) -> None:
    for told, query in _OPEN.items():
        if await tx.fetch(query, merchant_id):
            raise Conflict(told, merchant_id=merchant_id)
    others = await _others(tx, merchant_id, organisation_id)  # who keep what is in the organisation's wallets
    wallets = [] if others else await tx.fetch("SELECT id FROM wallet WHERE organisation_id = $1", organisation_id)
    for account in (f"merchant_payable:{merchant_id}", *(f"wallet:{wallet['id']}" for wallet in wallets)):
        (owed,) = await tx.fetch(_OWED, account)
        if owed["idr"]:
            raise Conflict("Money is still owed.", account=account)


async def _others(tx: Statements, merchant_id: str, organisation_id: str) -> bool:
    """Whether the organisation has another merchant that is not erased."""
    found = await tx.fetch(
        "SELECT id FROM merchant WHERE organisation_id = $1 AND id <> $2 AND erased_at_ms IS NULL LIMIT 1",
        organisation_id, merchant_id,
    )  # fmt: skip
    return bool(found)


async def _forget(
    tx: Statements, merchant_id: str, organisation_id: str, *, actor: Actor, now_ms: int
) -> dict[str, object]:
    """Returns how much of what, for the audit log: counts, and nothing that was erased."""
    done: dict[str, object] = {
        "applications_withdrawn": await applications.withdraw_all(tx, merchant_id, actor=actor, now_ms=now_ms),
        "consents_withdrawn": await consents.withdraw_all(tx, merchant_id, actor=actor, now_ms=now_ms),
    }
    await tx.execute(
        f"UPDATE merchant SET brand_name = '{NAME}', owner_email = NULL, status_reason = NULL, "
        "status = CASE WHEN status IN ('approved', 'suspended') THEN 'suspended' ELSE 'rejected' END, "
        "updated_at_ms = $2, erased_at_ms = $2 WHERE id = $1",
        merchant_id, now_ms,
    )  # fmt: skip
    await tx.execute(
        "UPDATE static_qr SET state = 'retired', qr_payload = NULL, retired_at_ms = coalesce(retired_at_ms, $2) "
        "WHERE merchant_id = $1",
        merchant_id, now_ms,
    )  # fmt: skip
    await tx.execute(
        "UPDATE merchant_account_change SET state = 'refused', decided_at_ms = $2 "
        "WHERE merchant_id = $1 AND state IN ('requested', 'approved')",
        merchant_id, now_ms,
    )  # fmt: skip
    await tx.execute(  # nobody judges it any more, so that none would ever end
        "UPDATE early_warning SET state = 'resolved', resolved_at_ms = $2 WHERE merchant_id = $1 AND state = 'open'",
        merchant_id, now_ms,
    )  # fmt: skip
    for statement in _AT_ONCE:
        await tx.execute(statement, merchant_id, *([b""] if "$2" in statement else []))
    await _end_files_about(tx, merchant_id, now_ms=now_ms)
    others = await _others(tx, merchant_id, organisation_id)
    return done | ({} if others else await _forget_people(tx, organisation_id, now_ms=now_ms))


async def _forget_people(tx: Statements, organisation_id: str, *, now_ms: int) -> dict[str, object]:
    people = await tx.fetch("SELECT id FROM person WHERE organisation_id = $1 ORDER BY id", organisation_id)
    ended = 0
    for person in people:
        ended += await sessions.end_all_of(tx, person["id"], reason="person_disabled", now_ms=now_ms)
        await tx.execute(
            "UPDATE person SET name = $2, email = $3, password_hash = NULL, state = 'disabled' WHERE id = $1",
            person["id"], NAME, f"erased+{person['id']}@erased.invalid".lower(),
        )  # fmt: skip
    keys = await tx.fetch(
        "UPDATE api_key SET revoked_at_ms = $2 WHERE organisation_id = $1 AND revoked_at_ms IS NULL RETURNING id",
        organisation_id, now_ms,
    )  # fmt: skip
    await _silence_webhooks(tx, organisation_id, now_ms=now_ms)
    await _end_files(tx, organisation_id, now_ms=now_ms)
    for statement in _WITH_ITS_PEOPLE:
        await tx.execute(statement, organisation_id, *([b""] if "$2" in statement else []))
    return {"people": len(people), "sessions_ended": ended, "keys_revoked": len(keys)}


async def _silence_webhooks(tx: Statements, organisation_id: str, *, now_ms: int) -> None:
    """Nothing more is sent, and where to and what is forgotten."""
    hooks = await tx.fetch("SELECT id FROM webhook_endpoint WHERE organisation_id = $1 ORDER BY id", organisation_id)
    for hook in hooks:
        await switch_off(tx, hook["id"], reason=Disabled.BY_HAND, now_ms=now_ms)
        await tx.execute(
            "UPDATE webhook_endpoint SET description = NULL, "
            "url = CASE WHEN url IS NULL THEN NULL ELSE 'https://erased.invalid/' END WHERE id = $1",
            hook["id"],
        )
        await tx.execute(
            "UPDATE outbox_message SET address = $2, body = $3 WHERE transport = 'webhook' AND recipient_id = $1",
            hook["id"], "https://erased.invalid/", b"",
        )  # fmt: skip
        await tx.execute(
            "UPDATE webhook_attempt SET address = NULL, response_headers = NULL, response_body = NULL "
            "WHERE delivery_id IN (SELECT id FROM outbox_message WHERE transport = 'webhook' AND recipient_id = $1)",
            hook["id"],
        )
        await tx.execute("DELETE FROM webhook_secret WHERE endpoint_id = $1", hook["id"])


async def _end_files_about(tx: Statements, merchant_id: str, *, now_ms: int) -> None:
    """Whoever asked for all that is kept of it: nobody fetches it any more."""
    named = f'%"{merchant_id}"%'  # ids have no wildcards but the underscore, which finds one more at worst
    await tx.execute(
        "UPDATE export_job SET expires_at_ms = $2 WHERE kind = 'personal_data' AND state = 'done' AND filters LIKE $1",
        named, now_ms,
    )  # fmt: skip
    await tx.execute(
        "UPDATE export_job SET state = 'cancelled', finished_at_ms = $2 "
        "WHERE kind = 'personal_data' AND state IN ('queued', 'running') AND filters LIKE $1",
        named, now_ms,
    )  # fmt: skip


async def _end_files(tx: Statements, organisation_id: str, *, now_ms: int) -> None:
    """Files that they asked for are not written, or are removed with the next round of those whose week is over."""
    await tx.execute(
        "UPDATE export_job SET state = 'cancelled', finished_at_ms = $2 "
        "WHERE organisation_id = $1 AND state IN ('queued', 'running')",
        organisation_id, now_ms,
    )  # fmt: skip
    await tx.execute(
        "UPDATE export_job SET expires_at_ms = $2 WHERE organisation_id = $1 AND state = 'done'",
        organisation_id, now_ms,
    )  # fmt: skip


_DUE = (
    "SELECT e.id, e.merchant_id FROM merchant_erasure e WHERE e.state = 'held' AND e.hold_until_ms <= $1 "
    f"ORDER BY e.id LIMIT {TOGETHER} "
)


async def papers_due(tx: Statements, *, now_ms: int) -> list[str]:
    """The SHA-256 of papers that `finish_due` at this moment forgets, and nobody else showed."""
    papers = await tx.fetch(
        f"WITH due AS ({_DUE}) SELECT DISTINCT d.sha256 FROM due "
        "JOIN merchant_document d ON d.merchant_id = due.merchant_id WHERE d.sha256 IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM merchant_document o WHERE o.sha256 = d.sha256 "
        "AND o.merchant_id NOT IN (SELECT merchant_id FROM due))",
        now_ms,
    )
    return [row["sha256"] for row in papers]


async def finish_due(tx: Statements, *, now_ms: int) -> int:
    """Forget what was held of merchants whose hold is over; returns how many."""
    due = await tx.fetch(_DUE + tx.lock("e"), now_ms)
    for erasure in due:
        for statement in _WHEN_THE_LAW_LETS_GO:
            await tx.execute(statement, erasure["merchant_id"], *([b""] if "$2" in statement else []))
        await tx.execute(
            "UPDATE merchant_erasure SET state = 'erased', erased_at_ms = $2 WHERE id = $1", erasure["id"], now_ms
        )
        details = {"erasure_id": erasure["id"]}
        await record(tx, SYSTEM, "erasure.finished", ("merchant", erasure["merchant_id"]), details=details)
    return len(due)
