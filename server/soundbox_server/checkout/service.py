"""Payments as they are presented to whoever pays, at an address that nobody can guess."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from soundbox_server.checkout.state import SHOWN, SessionState
from soundbox_server.db import Row, Statements
from soundbox_server.errors import NotFound
from soundbox_server.ids import new_id
from soundbox_server.payments.state import PaymentState

Language = Literal["id", "en"]


@dataclass(frozen=True, kw_only=True)
class Presentation:
    """What is shown beside the amount. `items` are {id, name, price, quantity}; the addresses are where to go back to,
    whatever happened, or once it is paid or has failed."""

    description: str | None = None
    customer_name: str | None = None
    items: Sequence[Mapping[str, Any]] = ()
    back_url: str | None = None
    success_url: str | None = None
    failure_url: str | None = None
    language: Language = "id"


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session with its payment as it stands. `qr_payload` is what is scanned, `actions` whatever else pays it."""

    id: str
    trace_id: str
    payment_id: str
    organisation_id: str
    merchant_name: str
    amount: int
    state: SessionState
    presentation: Presentation
    qr_payload: str | None
    actions: Mapping[str, str] = field(default_factory=dict)
    expires_at_ms: int
    paid_at_ms: int | None
    created_at_ms: int


def new_session_id() -> str:
    """Known before its session is opened, where an answer is to name it."""
    return new_id("pay")


async def open_session(
    tx: Statements,
    *,
    payment_id: str,
    organisation_id: str,
    presentation: Presentation,
    expires_at_ms: int,
    now_ms: int,
    session_id: str | None = None,
    trace_id: str | None = None,
    payer_chooses: bool = False,
) -> str:
    """Present a payment, which has one session at most; returns the session's id. `payer_chooses`: whoever pays it may
    do so by another method than it was made with."""
    session_id = session_id or new_session_id()
    shown = presentation
    await tx.execute(
        "INSERT INTO payment_session (id, trace_id, payment_id, organisation_id, description, customer_name, items, "
        "back_url, success_url, failure_url, language, created_at_ms, expires_at_ms, payer_chooses) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        session_id, trace_id or new_id("trc"), payment_id, organisation_id, shown.description, shown.customer_name,
        orjson.dumps(list(shown.items)).decode() if shown.items else None, shown.back_url, shown.success_url,
        shown.failure_url, shown.language, now_ms, expires_at_ms, payer_chooses,
    )  # fmt: skip
    return session_id


_FIND = """
SELECT s.id, s.trace_id, s.payment_id, s.organisation_id, s.description, s.customer_name, s.items, s.back_url,
       s.success_url, s.failure_url, s.language, s.created_at_ms, p.amount, p.state, p.paid_at_ms, p.expires_at_ms,
       m.brand_name, a.qr_payload, a.actions
FROM payment_session s JOIN payment p ON p.id = s.payment_id JOIN merchant m ON m.id = p.merchant_id
LEFT JOIN payment_attempt a ON a.payment_id = p.id
WHERE {wanted} ORDER BY a.number DESC LIMIT 1
"""


async def find_session(tx: Statements, session_id: str) -> Session:
    """The session at this address. Raises NotFound."""
    return _session(await tx.fetch(_FIND.format(wanted="s.id = $1"), session_id), session_id)


async def find_by_trace(tx: Statements, trace_id: str) -> Session:
    """The session of this trace id. Raises NotFound."""
    return _session(await tx.fetch(_FIND.format(wanted="s.trace_id = $1"), trace_id), trace_id)


def page_url(public_url: str, session_id: str) -> str:
    """Where whoever pays is sent."""
    return f"{public_url}/pay/{session_id}"


def picture_url(public_url: str, session_id: str) -> str:
    """Where the QR of a session is to be seen, for whoever has its address."""
    return f"{page_url(public_url, session_id)}/qr.png"


def _session(rows: Sequence[Row], wanted: str) -> Session:
    if not rows:
        raise NotFound("No such payment session.", session_id=wanted)
    row = rows[0]
    return Session(
        id=row["id"],
        trace_id=row["trace_id"],
        payment_id=row["payment_id"],
        organisation_id=row["organisation_id"],
        merchant_name=row["brand_name"],
        amount=row["amount"],
        state=SHOWN[PaymentState(row["state"])],
        presentation=Presentation(
            description=row["description"],
            customer_name=row["customer_name"],
            items=orjson.loads(row["items"]) if row["items"] else (),
            back_url=row["back_url"],
            success_url=row["success_url"],
            failure_url=row["failure_url"],
            language=row["language"],
        ),
        qr_payload=row["qr_payload"],
        actions=orjson.loads(row["actions"]) if row["actions"] else {},
        expires_at_ms=row["expires_at_ms"],
        paid_at_ms=row["paid_at_ms"],
        created_at_ms=row["created_at_ms"],
    )
