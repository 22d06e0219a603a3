"""Who looked at whom: nobody of a bank is shown anything of a merchant before it is written down."""

from collections.abc import Mapping, Sequence

from soundbox_server.audit.service import Actor
from soundbox_server.db import Statements
from soundbox_server.ids import new_id
from soundbox_server.lending.service import lets_see
from soundbox_server.lending.state import ConsentScope, LookedAt


async def keep(
    tx: Statements, merchant_ids: Sequence[str], what: LookedAt, *, scope: ConsentScope, actor: Actor, now_ms: int
) -> Mapping[str, ConsentScope]:
    """Write down that the actor's bank sees these merchants; returns whom it may see still, and how much of
    each. What was read of the others since their consent ended is not to be shown."""
    bank_id = str(actor.organisation_id)
    seen = await lets_see(tx, bank_id, merchant_ids, scope=scope, now_ms=now_ms)
    await tx.many(
        "INSERT INTO bank_look (id, at_ms, organisation_id, merchant_id, actor_kind, actor_id, what, request_id) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        [
            [new_id("lok"), now_ms, bank_id, merchant_id, actor.kind, actor.id, what.value, actor.request_id]
            for merchant_id in merchant_ids
            if merchant_id in seen
        ],
    )  # fmt: skip
    return seen
