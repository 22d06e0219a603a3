"""The record of who did what. Entries are written with the deed they tell of, so neither exists without the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from soundbox_server import clock
from soundbox_server.db import Statements
from soundbox_server.ids import new_id

Outcome = Literal["success", "failed", "denied"]


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who acts, from where, in which request. The system itself acts without a request."""

    kind: Literal["person", "api_key", "device", "system"]
    id: str | None = None
    organisation_id: str | None = None
    role: str | None = None
    ip: str | None = None
    request_id: str | None = None


SYSTEM = Actor(kind="system")

_INSERT = """
INSERT INTO audit_entry (id, at_ms, actor_kind, actor_id, organisation_id, role, ip, action, subject_kind, subject_id,
                         outcome, details, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""


async def record(
    tx: Statements,
    actor: Actor,
    action: str,
    subject: tuple[str, str | None],
    *,
    outcome: Outcome = "success",
    details: Mapping[str, object] | None = None,
) -> str:
    """Write down a deed in the transaction that does it; returns the entry's id.

    `action` is `noun.verb` with its door in front where that matters (`merchant.approved`, `admin.login.failed`),
    `subject` a kind and an id. `details` are facts to show an auditor (what changed, from what to what): never a
    secret, a token or a password.
    """
    entry_id, kind, subject_id = new_id("aud"), *subject
    row = (
        entry_id, clock.now_ms(), actor.kind, actor.id, actor.organisation_id, actor.role, actor.ip, action, kind,
        subject_id, outcome, orjson.dumps(details or {}, option=orjson.OPT_SORT_KEYS).decode(), actor.request_id,
    )  # fmt: skip
    await tx.execute(_INSERT, *row)
    await tx.execute("INSERT INTO audit_unlinked (entry_id) VALUES ($1)", entry_id)
    return entry_id
