"""From what happened to who has heard it: an event becomes a letter for each address, each letter is tried by a table
of delays, and every try is written down.

Order of locks, the same in every process: endpoints by id, then letters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
import structlog

from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.clock import rfc3339
from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, IllegalTransition
from soundbox_server.ids import new_id
from soundbox_server.outbox import letters
from soundbox_server.outbox.service import Message
from soundbox_server.outbox.state import Delivery
from soundbox_server.seal import CannotUnseal, Ring
from soundbox_server.webhooks import service
from soundbox_server.webhooks.kinds import EVERYTHING, MERCHANTS_OWN, PING
from soundbox_server.webhooks.sender import Answer
from soundbox_server.webhooks.service import DEAD, OFF, SUBJECT, TRANSPORT
from soundbox_server.webhooks.signing import kgiton_headers, standard_headers
from soundbox_server.webhooks.state import Disabled, EndpointState, Profile

log = structlog.get_logger()

MINUTE_S, HOUR_S = 60, 3_600
RETRY_AFTER_S = (
    5, 5 * MINUTE_S, 30 * MINUTE_S, 2 * HOUR_S, 5 * HOUR_S, 10 * HOUR_S, 14 * HOUR_S, 20 * HOUR_S, 24 * HOUR_S
)  # fmt: skip
JITTER = 0.2  # of a delay, on top of it: what failed together does not come again together
GIVE_UP_MS = 5 * 24 * 3_600_000  # an address that takes nothing for so long is asked no more
ROUTE_LIMIT = 200
REPLAY_LIMIT = 1_000
KEPT_BODY = 4_096
KEPT_HEADERS = 30
KEPT_NAME = 64
KEPT_VALUE = 256
KEPT_MS = 30 * 24 * 3_600_000
FORGET_LIMIT = 1_000
GONE = 410
_UNTOLD = {"set-cookie", "cookie", "authorization", "proxy-authorization", "www-authenticate", "x-api-key"}
_SIGNATURES = {"webhook-signature", "x-kgiton-signature"}
_SHOWN_OF_A_SIGNATURE = 12

# What reference 003's receivers know: which event, and what state the payment is in.
_KGITON = {
    "payment.paid": ("payment.success", "paid"),
    "payment.late": ("payment.success", "paid"),
    "payment.expired": ("payment.expired", "expired"),
    "payment.failed": ("payment.failed", "failed"),
    "payment.cancelled": ("payment.failed", "failed"),
}


# --- who hears of it ----------------------------------------------------------------------------------------------


async def route(tx: Statements, *, owner: str, now_ms: int, limit: int = ROUTE_LIMIT) -> int:
    """Events become letters, in the order in which they happened; returns how many events there were."""
    events = await tx.fetch(
        "SELECT id, type, organisation_id, merchant_id, payment_id, data, at_ms FROM webhook_event "
        f"ORDER BY id LIMIT $1 {tx.lock('webhook_event')}",
        limit,
    )
    if not events:
        return 0
    aimed = await _aimed(tx, events)
    endpoints = await _lock_endpoints(tx, events, aimed)
    counted = {row["id"]: row["last_seq"] for row in endpoints}
    sent: list[Message] = []
    for event in events:
        at = aimed.get(event["payment_id"])
        for endpoint in endpoints:
            if (url := _address(endpoint, event, at)) is not None:
                counted[endpoint["id"]] += 1
                sent.append(_letter(endpoint, event, at, url=url, seq=counted[endpoint["id"]], now_ms=now_ms))
    moved = [(row["id"], counted[row["id"]]) for row in endpoints if counted[row["id"]] != row["last_seq"]]
    await tx.many("UPDATE webhook_endpoint SET last_seq = $2 WHERE id = $1", moved)
    await letters.queue(tx, *sent, owner=owner)
    await tx.execute(f"DELETE FROM webhook_event WHERE id {tx.among(1)}", [event["id"] for event in events])
    return len(events)


async def anything(tx: Statements) -> bool:
    """Whether there is an event to route: asked for before anybody takes the place of a writer."""
    return bool(await tx.fetch("SELECT 1 FROM webhook_event LIMIT 1"))


async def _aimed(tx: Statements, events: Sequence[Row]) -> dict[str, Row]:
    """By payment: the partner that hears of it."""
    payments = sorted({event["payment_id"] for event in events if event["payment_id"] is not None})
    rows = await tx.fetch(
        "SELECT t.payment_id, t.organisation_id, t.endpoint_id, t.url, t.facts, EXISTS ("
        "SELECT 1 FROM payment_attempt a WHERE a.payment_id = t.payment_id "
        "AND (a.qr_payload IS NOT NULL OR a.actions IS NOT NULL)) AS issued, EXISTS ("
        "SELECT 1 FROM refund r WHERE r.payment_id = t.payment_id AND r.origin = 'late_policy') AS given_back "
        f"FROM webhook_target t WHERE t.payment_id {tx.among(1)}",
        payments,
    )
    return {row["payment_id"]: row for row in rows}


async def _lock_endpoints(tx: Statements, events: Sequence[Row], aimed: Mapping[str, Row]) -> Sequence[Row]:
    owners = {event["organisation_id"] for event in events} | {row["organisation_id"] for row in aimed.values()}
    return await tx.fetch(
        "SELECT id, organisation_id, merchant_id, profile, url, events, last_seq FROM webhook_endpoint "
        f"WHERE organisation_id {tx.among(1)} AND state = 'active' ORDER BY id {tx.lock('webhook_endpoint')}",
        sorted(owners),
    )


def _address(endpoint: Row, event: Row, at: Row | None) -> str | None:
    """Where this endpoint hears of this event; None when it does not."""
    if endpoint["profile"] == Profile.KGITON:
        if at is None or at["endpoint_id"] != endpoint["id"] or event["type"] not in _KGITON:
            return None
        if event["type"] == "payment.late" and at["given_back"]:  # no sale: the merchant's policy gives it back
            return None
        # Whoever asked was told at once that nothing was issued, and the SDK asks again by the same name.
        return str(at["url"]) if at["issued"] or event["type"] != "payment.failed" else None
    owners = {event["organisation_id"], at["organisation_id"] if at is not None else None}
    hears = (
        endpoint["organisation_id"] in owners
        and endpoint["merchant_id"] in (None, event["merchant_id"])
        and (endpoint["events"] == EVERYTHING or event["type"] in endpoint["events"].split())
    )
    return str(endpoint["url"]) if hears else None


def _letter(endpoint: Row, event: Row, at: Row | None, *, url: str, seq: int, now_ms: int) -> Message:
    data = orjson.loads(event["data"])
    if endpoint["profile"] == Profile.KGITON:
        assert at is not None
        body = _kgiton_body(event, data, orjson.loads(at["facts"]))
    else:
        if endpoint["organisation_id"] != event["organisation_id"]:
            data = {name: value for name, value in data.items() if name not in MERCHANTS_OWN}
        body = _body(event["id"], event["type"], at_ms=event["at_ms"], seq=seq, data=data)
    return _new_letter(
        endpoint["id"], event_id=event["id"], kind=event["type"], url=url, body=body, seq=seq, now_ms=now_ms
    )


def _body(event_id: str, kind: str, *, at_ms: int, seq: int | None, data: Mapping[str, object]) -> bytes:
    return orjson.dumps({"id": event_id, "type": kind, "timestamp": rfc3339(at_ms), "sequence": seq, "data": data})


def _kgiton_body(event: Row, data: Mapping[str, object], facts: Mapping[str, object]) -> bytes:
    """Every field that one of reference 003's descriptions of it has."""
    name, status = _KGITON[event["type"]]
    ours = {"event": name, "payment_id": data["transaction_id"], "transaction_id": data["transaction_id"]}
    of_it = {"amount": data["amount"], "payment_status": status, "status": status, "paid_at": data["paid_at"]}
    return orjson.dumps(ours | dict(facts) | of_it)


def _new_letter(
    endpoint_id: str, *, event_id: str, kind: str, url: str, body: bytes, seq: int | None, now_ms: int,
    original_id: str | None = None,
) -> Message:  # fmt: skip
    return Message(
        id=new_id("whd"),
        transport=TRANSPORT,
        kind=kind,
        recipient_id=endpoint_id,
        subject_id=event_id,
        original_id=original_id,
        address=url,
        body=body,
        seq=seq,
        created_at_ms=now_ms,
        expires_at_ms=None,
        trace_id=event_id,
        state=Delivery.QUEUED,
        attempt=0,
    )


# --- by hand ------------------------------------------------------------------------------------------------------


async def ping(tx: Statements, endpoint_id: str, *, owner: str, now_ms: int) -> str:
    """Send an event that means nothing, once; returns the delivery's id. Raises Conflict for an endpoint that is off or
    has no address of its own."""
    rows = await tx.fetch(
        f"SELECT state, url FROM webhook_endpoint WHERE id = $1 {tx.lock('webhook_endpoint')}", endpoint_id
    )
    if rows[0]["url"] is None:
        raise Conflict("Each payment brings its own address.", webhook_id=endpoint_id)
    _require_on(rows[0]["state"], endpoint_id)
    event_id = new_id("whe")
    letter = _new_letter(
        endpoint_id, event_id=event_id, kind=PING, url=rows[0]["url"], seq=None, now_ms=now_ms,
        body=_body(event_id, PING, at_ms=now_ms, seq=None, data={"webhook_id": endpoint_id}),
    )  # fmt: skip
    await letters.queue(tx, letter, owner=owner)
    return letter.id


_ONCE_MORE = (
    "SELECT o.id, o.recipient_id, o.subject_id, o.kind, o.address, o.body, o.seq, e.state AS endpoint_state, e.url "
    "FROM outbox_message o JOIN webhook_endpoint e ON e.id = o.recipient_id "
)


async def replay(tx: Statements, delivery_id: str, *, owner: str, now_ms: int) -> str:
    """Send again what was delivered or failed, under the same event's id, to where the endpoint is now; returns the new
    delivery's id. Raises IllegalTransition while it is still on its way, Conflict for an endpoint that is off."""
    rows = await tx.fetch(
        _ONCE_MORE + "WHERE o.id = $1 AND o.transport = 'webhook' AND o.state IN ('sent', 'failed') " + tx.lock("e"),
        delivery_id,
    )
    if not rows:
        raise IllegalTransition("This delivery is still on its way.", delivery_id=delivery_id)
    _require_on(rows[0]["endpoint_state"], rows[0]["recipient_id"])
    (letter,) = await _send_again(tx, rows, owner=owner, now_ms=now_ms)
    return letter


async def replay_failed(
    tx: Statements, endpoint_id: str, *, since_ms: int, owner: str, now_ms: int, limit: int = REPLAY_LIMIT
) -> int:
    """Send again what failed since then and was not sent again since, in its order, and at most so many at a time;
    returns how many. Raises Conflict for an endpoint that is off."""
    state = await tx.fetch(
        f"SELECT state FROM webhook_endpoint WHERE id = $1 {tx.lock('webhook_endpoint')}", endpoint_id
    )
    _require_on(state[0]["state"], endpoint_id)
    rows = await tx.fetch(
        _ONCE_MORE + "WHERE o.recipient_id = $1 AND o.transport = 'webhook' AND o.state = 'failed' "
        "AND o.created_at_ms >= $2 AND o.seq IS NOT NULL AND NOT EXISTS (SELECT 1 FROM outbox_message n "
        "WHERE n.recipient_id = o.recipient_id AND n.transport = 'webhook' AND n.seq = o.seq AND n.id > o.id) "
        "ORDER BY o.seq, o.id LIMIT $3",
        endpoint_id,
        since_ms,
        limit,
    )
    sent = await _send_again(tx, rows, owner=owner, now_ms=now_ms)
    await clear(tx, DEAD, (SUBJECT, endpoint_id), now_ms=now_ms)
    return len(sent)


def _require_on(state: str, endpoint_id: str) -> None:
    if state != EndpointState.ACTIVE:
        raise Conflict("This webhook is off. Switch it on first.", webhook_id=endpoint_id)


async def _send_again(tx: Statements, rows: Sequence[Row], *, owner: str, now_ms: int) -> list[str]:
    again = [
        _new_letter(
            row["recipient_id"], event_id=row["subject_id"], kind=row["kind"], url=row["url"] or row["address"],
            body=bytes(row["body"]), seq=row["seq"], now_ms=now_ms, original_id=row["id"],
        )
        for row in rows
    ]  # fmt: skip
    await letters.queue(tx, *again, owner=owner)
    return [letter.id for letter in again]


# --- on its way ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A letter that this process is to try now."""

    id: str
    endpoint_id: str
    event_id: str
    kind: str
    url: str
    body: bytes
    attempt: int
    profile: str
    secrets: Sequence[str]

    def headers(self, *, at_s: int) -> dict[str, str]:
        """What goes with this try."""
        json = {"Content-Type": "application/json"}
        if self.profile == Profile.KGITON:
            return json | kgiton_headers(self.secrets, body=self.body)
        return json | standard_headers(self.secrets, message_id=self.event_id, at_s=at_s, body=self.body)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Letters that go to one place, one after the other. `address` is None where the endpoint has a single one."""

    endpoint_id: str
    address: str | None = None


async def lanes(tx: Statements, endpoints: Sequence[str], *, now_ms: int) -> list[Lane]:
    """Where something is due at these endpoints. Each payment of a partner's may bring an address of its own: a slow
    one is waited for by none of the others."""
    rows = await tx.fetch(f"SELECT id FROM webhook_endpoint WHERE id {tx.among(1)} AND url IS NULL", list(endpoints))
    many = {row["id"] for row in rows}
    found = [Lane(endpoint_id=endpoint_id) for endpoint_id in endpoints if endpoint_id not in many]
    for endpoint_id in sorted(many):
        due = await letters.addresses(tx, TRANSPORT, endpoint_id, now_ms=now_ms)
        found += [Lane(endpoint_id=endpoint_id, address=address) for address in due]
    return found


async def claim(tx: Statements, lane: Lane, *, ring: Ring, owner: str, now_ms: int) -> Claimed | None:
    """The next letter that is due there; None when there is none, or somebody else has it. Without `secrets` when none
    can be opened: it cannot be sent then, and is tried again like any other."""
    endpoint_id = lane.endpoint_id
    rows = await letters.claim(
        tx, TRANSPORT, now_ms=now_ms, owner=owner, limit=1, recipient_id=endpoint_id, address=lane.address
    )
    if not rows:
        return None
    (row,) = rows
    (endpoint,) = await tx.fetch("SELECT profile FROM webhook_endpoint WHERE id = $1", endpoint_id)
    try:
        secrets = await service.secrets_of(tx, endpoint_id, ring=ring, now_ms=now_ms)
    except CannotUnseal as closed:
        log.error("webhook.secret_unreadable", endpoint_id=endpoint_id, error=str(closed))
        secrets = []
    return Claimed(
        id=row["id"],
        endpoint_id=endpoint_id,
        event_id=row["subject_id"],
        kind=row["kind"],
        url=row["address"],
        body=bytes(row["body"]),
        attempt=row["attempt"],
        profile=endpoint["profile"],
        secrets=secrets,
    )


async def failing(tx: Statements, endpoints: Sequence[str]) -> set[str]:
    """Those of them whose last try failed: they are asked one thing at a time."""
    rows = await tx.fetch(
        f"SELECT id FROM webhook_endpoint WHERE id {tx.among(1)} AND failing_since_ms IS NOT NULL", list(endpoints)
    )
    return {row["id"] for row in rows}


async def settle(
    tx: Statements,
    letter: Claimed,
    answer: Answer,
    *,
    began_ms: int,
    headers: Mapping[str, str],
    now_ms: int,
    luck: float,
) -> str:
    """Write down what came of a try: `delivered`, `put_off` or `dead`. `luck`, 0 to 1, spreads the next one."""
    endpoints = await tx.fetch(
        "SELECT id, organisation_id, url, state, failing_since_ms FROM webhook_endpoint WHERE id = $1 "
        + tx.lock("webhook_endpoint"),
        letter.endpoint_id,
    )
    await _log(tx, letter, answer, began_ms=began_ms, headers=headers)
    if answer.taken:
        await letters.sent(tx, letter.id, attempt=letter.attempt, now_ms=now_ms, keep=True)
        await tx.execute(
            "UPDATE webhook_endpoint SET failing_since_ms = NULL WHERE id = $1 AND failing_since_ms IS NOT NULL",
            letter.endpoint_id,
        )
        return "delivered"
    return await _not_taken(tx, letter, answer, endpoints[0], now_ms=now_ms, luck=luck)


async def _not_taken(
    tx: Statements, letter: Claimed, answer: Answer, endpoint: Row, *, now_ms: int, luck: float
) -> str:
    gone = answer.status == GONE
    final = gone or letter.kind == PING
    delays = [] if final else [round(delay * (1 + JITTER * luck)) for delay in RETRY_AFTER_S]
    again = await letters.failed(
        tx, letter.id, attempt=letter.attempt, reason=answer.reason, now_ms=now_ms, retry_after_s=delays
    )
    if letter.kind != PING:
        await tx.execute(
            "UPDATE webhook_endpoint SET failing_since_ms = coalesce(failing_since_ms, $2) WHERE id = $1",
            letter.endpoint_id, now_ms,
        )  # fmt: skip
    facts = {"organisation_id": endpoint["organisation_id"], "reason": answer.reason, "delivery_id": letter.id}
    subject = (SUBJECT, letter.endpoint_id)
    if not again and letter.kind != PING:
        await raise_alert(tx, DEAD, subject, severity=Severity.WARNING, facts=facts, now_ms=now_ms)
    # Quiet days are no failing days: only a letter that had all its tries speaks for them.
    off = None if again or (letter.kind == PING and not gone) else _give_up(endpoint, gone=gone, now_ms=now_ms)
    if off is not None:
        await service.switch_off(tx, letter.endpoint_id, reason=off, now_ms=now_ms)
        await raise_alert(tx, OFF, subject, severity=Severity.WARNING, facts=facts | {"why": off.value}, now_ms=now_ms)
    return "put_off" if again else "dead"


def _give_up(endpoint: Row, *, gone: bool, now_ms: int) -> Disabled | None:
    """One of the kgiton profile stands for many addresses: none of them speaks for all."""
    if endpoint["state"] != EndpointState.ACTIVE or endpoint["url"] is None:
        return None
    if gone:
        return Disabled.GONE
    since_ms = endpoint["failing_since_ms"]
    return Disabled.FAILING if since_ms is not None and now_ms - since_ms >= GIVE_UP_MS else None


async def _log(tx: Statements, letter: Claimed, answer: Answer, *, began_ms: int, headers: Mapping[str, str]) -> None:
    told = answer.status is not None
    await tx.execute(
        "INSERT INTO webhook_attempt (id, delivery_id, endpoint_id, number, at_ms, duration_ms, address, status, "
        "error, request_headers, response_headers, response_body) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        new_id("wha"), letter.id, letter.endpoint_id, letter.attempt, began_ms, answer.duration_ms, answer.address,
        answer.status, None if answer.taken else answer.reason, _shown(headers),
        _shown(answer.headers) if told else None, _legible(answer.body) if told else None,
    )  # fmt: skip


def _shown(headers: Mapping[str, str]) -> str:
    """Headers as they are kept: few, short, and none that opens anything."""
    kept = {name.lower()[:KEPT_NAME]: value for name, value in list(headers.items())[:KEPT_HEADERS]}
    told = {name: _told(name, value) for name, value in kept.items()}
    return orjson.dumps(told).decode()


def _told(name: str, value: str) -> str:
    if name in _UNTOLD:
        return "…"
    if name in _SIGNATURES:
        return " ".join(f"{one[:_SHOWN_OF_A_SIGNATURE]}…" for one in value.split())
    return _legible(value[:KEPT_VALUE].encode())


def _legible(body: bytes) -> str:
    """The beginning of it as text. PostgreSQL keeps no NUL in one."""
    return body[:KEPT_BODY].decode(errors="replace").replace("\0", "�")


# --- figures, and forgetting --------------------------------------------------------------------------------------


async def waiting(tx: Statements) -> int:
    """Letters on their way."""
    rows = await tx.fetch(
        "SELECT count(*) AS n FROM outbox_message WHERE transport = 'webhook' AND transport <> 'mqtt' "
        "AND state IN ('queued', 'published')"
    )
    return int(rows[0]["n"])


async def forget(tx: Statements, *, now_ms: int) -> int:
    """Deliveries that ended thirty days ago go, with their tries and what they said; returns how many went, at most a
    thousand at a time."""
    rows = await tx.fetch(
        "DELETE FROM outbox_message WHERE id IN (SELECT id FROM outbox_message WHERE transport = 'webhook' "
        "AND finished_at_ms <= $1 ORDER BY id LIMIT $2) RETURNING id",
        now_ms - KEPT_MS,
        FORGET_LIMIT,
    )
    await tx.execute(f"DELETE FROM webhook_attempt WHERE delivery_id {tx.among(1)}", [row["id"] for row in rows])
    return len(rows)
