"""Who outside hears of what happens here, and writing it down in the transaction in which it happens.

A room that changes something says so with `tell`, in one more row. Nothing is written, and almost nothing looked up,
where nobody listens: `HEARD` is what such a room asks of the rows that it reads anyway. Which addresses hear of it, and
in which order, is found out afterwards by `deliveries.route`: no address's counter is ever waited for on the payment
path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.access.models import Organisation
from soundbox_server.alerts.service import clear
from soundbox_server.db import KEY_STAYS, Statements, statements
from soundbox_server.errors import Conflict, NotFound, ValidationFailed
from soundbox_server.ids import new_id
from soundbox_server.merchants.models import Merchant
from soundbox_server.outbox import letters
from soundbox_server.seal import Ring, seal, unseal
from soundbox_server.webhooks.addresses import Reach, target
from soundbox_server.webhooks.kinds import EVERYTHING
from soundbox_server.webhooks.models import WebhookEndpoint
from soundbox_server.webhooks.signing import new_secret
from soundbox_server.webhooks.state import Disabled, EndpointState, Profile, require

TRANSPORT = "webhook"
MOST_ENDPOINTS = 20  # of one organisation: each makes a message of every event
BOTH_HOLD_MS = 24 * 3_600_000  # how long the secret before still signs after an exchange
OFF, DEAD = "webhook.disabled", "webhook.dead"  # what is raised about an endpoint
SUBJECT = "webhook_endpoint"

# --- what happened ------------------------------------------------------------------------------------------------

# Whether anybody hears of what happens to the merchant m: an expression for the SQL of whoever reads its row.
HEARD = (
    "EXISTS (SELECT 1 FROM webhook_endpoint w WHERE w.organisation_id = m.organisation_id AND w.state = 'active' "
    "AND w.profile = 'standard')"
)
# The same of the payment p of the merchant m.
PAYMENT_HEARD = f"({HEARD} OR EXISTS (SELECT 1 FROM webhook_target t WHERE t.payment_id = p.id))"


async def heard_by(tx: Statements, organisation_ids: Sequence[str]) -> set[str]:
    """Those of them that have an address which hears of something."""
    rows = await tx.fetch(
        "SELECT DISTINCT organisation_id FROM webhook_endpoint WHERE state = 'active' AND profile = 'standard' "
        f"AND organisation_id {tx.among(1)}",
        list(organisation_ids),
    )
    return {row["organisation_id"] for row in rows}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a merchant of this organisation. `data` is what its kind says (kinds.py)."""

    type: str
    organisation_id: str
    merchant_id: str
    at_ms: int
    data: Mapping[str, object]
    payment_id: str | None = None


async def tell(tx: Statements, events: Sequence[Event]) -> None:
    """Write down what somebody hears of, in the transaction in which it happens."""
    await tx.many(
        "INSERT INTO webhook_event (id, type, organisation_id, merchant_id, payment_id, data, at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (
                new_id("whe"), one.type, one.organisation_id, one.merchant_id, one.payment_id,
                orjson.dumps(one.data).decode(), one.at_ms,
            )
            for one in events
        ],
    )  # fmt: skip


# --- partners: who charges for a merchant hears of it --------------------------------------------------------------


async def aim(
    tx: Statements,
    payment_id: str,
    *,
    organisation_id: str,
    url: str | None,
    facts: Mapping[str, object],
    reach: Reach,
    ring: Ring,
    now_ms: int,
) -> None:
    """A partner hears of this payment: call it in the transaction that makes the payment.

    With a `url` the payment is told there too, in reference 003's form: `facts` are what the partner calls it
    (`transaction_id`, `license_key`, `payment_type`, `gateway_transaction_id`, perhaps its own `payment_id`), signed
    with the partner's secret (`kgiton_secret`). Raises ValidationFailed for an address that may not be.
    """
    endpoint_id = None
    if url is not None:
        target(url, reach)
        endpoint_id, _ = await _kgiton_endpoint(tx, organisation_id, ring=ring, now_ms=now_ms)
    await tx.execute(
        "INSERT INTO webhook_target (payment_id, organisation_id, endpoint_id, url, facts) VALUES ($1, $2, $3, $4, $5)",
        payment_id, organisation_id, endpoint_id, url, orjson.dumps(facts).decode(),
    )  # fmt: skip


async def also_called(tx: Statements, payment_id: str, *, facts: Mapping[str, object]) -> None:
    """What the partner calls a payment, where that was not known when it was made."""
    rows = await tx.fetch("SELECT facts FROM webhook_target WHERE payment_id = $1", payment_id)
    if rows:
        told = orjson.dumps(orjson.loads(rows[0]["facts"]) | dict(facts)).decode()
        await tx.execute("UPDATE webhook_target SET facts = $2 WHERE payment_id = $1", payment_id, told)


async def kgiton_secret(tx: Statements, organisation_id: str, *, ring: Ring, now_ms: int) -> str:
    """A new secret of a partner's for what is sent to the addresses of its payments, shown this once. It signs from now
    on: reference 003's header has room for one signature."""
    endpoint_id, made = await _kgiton_endpoint(tx, organisation_id, ring=ring, now_ms=now_ms)
    return made or await _exchange(tx, endpoint_id, ring=ring, now_ms=now_ms, both_hold_ms=0)


async def _kgiton_endpoint(tx: Statements, organisation_id: str, *, ring: Ring, now_ms: int) -> tuple[str, str | None]:
    """Its id, and its first secret if it was made just now."""
    endpoint_id = new_id("whk")
    made = await tx.fetch(
        "INSERT INTO webhook_endpoint (id, organisation_id, profile, events, state, last_seq, created_at_ms) "
        "VALUES ($1, $2, 'kgiton', '*', 'active', 0, $3) "
        "ON CONFLICT (organisation_id) WHERE profile = 'kgiton' DO NOTHING RETURNING id",
        endpoint_id, organisation_id, now_ms,
    )  # fmt: skip
    if made:
        return endpoint_id, await _add_secret(tx, endpoint_id, ring=ring, now_ms=now_ms)
    rows = await tx.fetch(
        "SELECT id FROM webhook_endpoint WHERE organisation_id = $1 AND profile = 'kgiton'", organisation_id
    )
    return str(rows[0]["id"]), None


# --- secrets ------------------------------------------------------------------------------------------------------


async def _add_secret(tx: Statements, endpoint_id: str, *, ring: Ring, now_ms: int) -> str:
    secret_id, secret = new_id("whs"), new_secret()
    await tx.execute(
        "INSERT INTO webhook_secret (id, endpoint_id, sealed, created_at_ms) VALUES ($1, $2, $3, $4)",
        secret_id, endpoint_id, seal(ring, secret_id, secret.encode()), now_ms,
    )  # fmt: skip
    return secret


async def _exchange(tx: Statements, endpoint_id: str, *, ring: Ring, now_ms: int, both_hold_ms: int) -> str:
    """The one before ends then; those before it end now, so that there are never more than two."""
    await tx.execute("DELETE FROM webhook_secret WHERE endpoint_id = $1 AND expires_at_ms IS NOT NULL", endpoint_id)
    await tx.execute(
        "UPDATE webhook_secret SET expires_at_ms = $2 WHERE endpoint_id = $1", endpoint_id, now_ms + both_hold_ms
    )
    return await _add_secret(tx, endpoint_id, ring=ring, now_ms=now_ms)


async def secrets_of(tx: Statements, endpoint_id: str, *, ring: Ring, now_ms: int) -> list[str]:
    """What its messages are signed with, the newest first. Raises CannotUnseal."""
    rows = await tx.fetch(
        "SELECT id, sealed FROM webhook_secret "
        "WHERE endpoint_id = $1 AND (expires_at_ms IS NULL OR expires_at_ms > $2) ORDER BY id DESC",
        endpoint_id,
        now_ms,
    )
    return [unseal(ring, row["id"], row["sealed"]).decode() for row in rows]


# --- endpoints ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An address as its owner wants it. `events` are names of kinds.py, or none for all of them."""

    organisation_id: str
    url: str
    merchant_id: str | None = None
    description: str | None = None
    events: Sequence[str] = ()


async def create(
    session: AsyncSession, wanted: Wanted, *, reach: Reach, ring: Ring, by: str | None, now_ms: int
) -> tuple[WebhookEndpoint, str]:
    """The endpoint, and its secret, shown this once. Raises ValidationFailed for the address, NotFound for an owner
    that there is not, or another's merchant."""
    target(wanted.url, reach)
    organisation = await session.get(Organisation, wanted.organisation_id)
    if organisation is None or organisation.kind not in ("merchant", "partner", "bank"):
        raise NotFound("No such merchant's, partner's or bank's organisation.", organisation_id=wanted.organisation_id)
    if wanted.merchant_id is not None:
        merchant = await session.get(Merchant, wanted.merchant_id)
        if merchant is None or merchant.organisation_id != organisation.id:
            raise NotFound("No such merchant of this organisation.", merchant_id=wanted.merchant_id)
    tx = await statements(session)
    await tx.fetch(f"SELECT id FROM organisation WHERE id = $1 {tx.lock('organisation')}", organisation.id)
    held = await tx.fetch("SELECT count(*) AS n FROM webhook_endpoint WHERE organisation_id = $1", organisation.id)
    if held[0]["n"] >= MOST_ENDPOINTS:
        raise Conflict(f"An organisation has {MOST_ENDPOINTS} webhooks at most.")
    endpoint = WebhookEndpoint(
        id=new_id("whk"),
        organisation_id=organisation.id,
        merchant_id=wanted.merchant_id,
        profile=Profile.STANDARD.value,
        url=wanted.url,
        description=wanted.description,
        events=subscription(wanted.events),
        state=EndpointState.ACTIVE.value,
        last_seq=0,
        created_at_ms=now_ms,
        created_by=by,
    )
    session.add(endpoint)
    await session.flush()
    secret = await _add_secret(tx, endpoint.id, ring=ring, now_ms=now_ms)
    return endpoint, secret


def subscription(events: Sequence[str]) -> str:
    """As it is stored: names in order, or an asterisk."""
    return " ".join(sorted(set(events))) or EVERYTHING


async def lock(session: AsyncSession, endpoint_id: str, *, organisation_id: str | None) -> WebhookEndpoint:
    """An endpoint under its lock; of this organisation, where one is named. Raises NotFound."""
    endpoint = await session.get(WebhookEndpoint, endpoint_id, with_for_update=KEY_STAYS)
    return _theirs(endpoint, endpoint_id, organisation_id)


async def find(session: AsyncSession, endpoint_id: str, *, organisation_id: str | None) -> WebhookEndpoint:
    """The same to look at. Raises NotFound."""
    return _theirs(await session.get(WebhookEndpoint, endpoint_id), endpoint_id, organisation_id)


def _theirs(endpoint: WebhookEndpoint | None, endpoint_id: str, organisation_id: str | None) -> WebhookEndpoint:
    if endpoint is None or organisation_id not in (None, endpoint.organisation_id):
        raise NotFound("No such webhook.", webhook_id=endpoint_id)
    return endpoint


async def change(endpoint: WebhookEndpoint, changes: Mapping[str, object], *, reach: Reach, now_ms: int) -> None:
    """What is named: url, description, events. Raises ValidationFailed."""
    if "url" in changes:
        if endpoint.profile != Profile.STANDARD:
            raise ValidationFailed("Each payment brings its own address.", field="url")
        target(str(changes["url"]), reach)
        endpoint.url = str(changes["url"])
        endpoint.failing_since_ms = None
    if "events" in changes:
        events = changes["events"]
        assert isinstance(events, list)
        endpoint.events = subscription(events)
    if "description" in changes:
        said = changes["description"]
        endpoint.description = None if said is None else str(said)
    endpoint.changed_at_ms = now_ms


async def rotate(session: AsyncSession, endpoint: WebhookEndpoint, *, ring: Ring, now_ms: int) -> str:
    """Another secret, shown this once. Both sign for a day; with reference 003's header only the new one does."""
    endpoint.changed_at_ms = now_ms
    both_hold_ms = BOTH_HOLD_MS if endpoint.profile == Profile.STANDARD else 0
    return await _exchange(await statements(session), endpoint.id, ring=ring, now_ms=now_ms, both_hold_ms=both_hold_ms)


async def enable(session: AsyncSession, endpoint: WebhookEndpoint, *, now_ms: int) -> None:
    """It hears again of what happens from now on; what failed meanwhile can be sent once more. Raises
    IllegalTransition."""
    endpoint.state = require(endpoint.state, EndpointState.ACTIVE).value
    endpoint.disabled_reason = endpoint.failing_since_ms = None
    endpoint.changed_at_ms = now_ms
    await clear(await statements(session), OFF, (SUBJECT, endpoint.id), now_ms=now_ms)


async def disable(session: AsyncSession, endpoint: WebhookEndpoint, *, now_ms: int) -> None:
    """It hears nothing more, and what was on its way to it is dead. Raises IllegalTransition."""
    require(endpoint.state, EndpointState.DISABLED)
    tx = await statements(session)
    await switch_off(tx, endpoint.id, reason=Disabled.BY_HAND, now_ms=now_ms)
    await session.refresh(endpoint)


async def switch_off(tx: Statements, endpoint_id: str, *, reason: Disabled, now_ms: int) -> None:
    await tx.execute(
        "UPDATE webhook_endpoint SET state = 'disabled', disabled_reason = $2, changed_at_ms = $3 WHERE id = $1",
        endpoint_id, reason.value, now_ms,
    )  # fmt: skip
    await letters.drop(tx, TRANSPORT, endpoint_id, reason="webhook_disabled", now_ms=now_ms)
