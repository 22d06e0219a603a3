"""Whether the brokers let in exactly whom the database has in force, seen from outside the process that sees to it.

Whoever supervises a broker reports what its password file holds and which revision the broker has read; a worker, which
may run on another machine, compares. A supervisor that is stuck, or a file that somebody else wrote, shows here.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from soundbox_server.db import Statements
from soundbox_server.devices.service import broker_users

SILENT_AFTER_MS = 60_000
MAY_LAG_MS = 10_000  # far more than a reload takes; a revocation is measured at under one second


def roll_digest(users: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over names and password hashes, in the order of the names."""
    return hashlib.sha256("\n".join(f"{name}:{hashed}" for name, hashed in sorted(users)).encode()).hexdigest()


async def take_report(
    tx: Statements, *, shard: int, revision: int | None, users: int, digest: str, now_ms: int
) -> None:
    """What a broker lets in now; the latest counts."""
    await tx.execute(
        "INSERT INTO broker_report (shard, revision, users, digest, reported_at_ms) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (shard) DO UPDATE SET revision = excluded.revision, users = excluded.users, "
        "digest = excluded.digest, reported_at_ms = excluded.reported_at_ms",
        shard, revision, users, digest, now_ms,
    )  # fmt: skip


async def forget_report(tx: Statements, *, shard: int) -> None:
    """This broker was stopped in order: nobody waits for its word."""
    await tx.execute("DELETE FROM broker_report WHERE shard = $1", shard)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`silent`: no word from the supervisor; `behind`: a change was not carried over in time; `differs`: the broker
    believes to be up to date, and its file holds something else."""

    kind: Literal["silent", "behind", "differs"]
    shard: int
    revision: int
    reported_revision: int | None
    users: int
    reported_users: int


async def differences(tx: Statements, *, now_ms: int) -> list[Difference]:
    """What is wrong with each broker that ever reported; at most one thing each."""
    revision, users = await broker_users(tx)
    rows = await tx.fetch("SELECT shard, revision, users, digest, reported_at_ms FROM broker_report ORDER BY shard")
    (changed,) = await tx.fetch("SELECT revision, changed_at_ms FROM credential_revision WHERE id = 1")
    if changed["revision"] != revision:
        return []  # it moved while we looked: there is another round
    digest, since_ms = roll_digest(users), now_ms - (changed["changed_at_ms"] or 0)
    found = []
    for row in rows:
        kind: Literal["silent", "behind", "differs"]
        if now_ms - row["reported_at_ms"] > SILENT_AFTER_MS:
            kind = "silent"
        elif row["revision"] == revision and row["digest"] != digest:
            kind = "differs"
        elif row["revision"] != revision and since_ms > MAY_LAG_MS:
            kind = "behind"
        else:
            continue
        found.append(
            Difference(
                kind=kind, shard=row["shard"], revision=revision, reported_revision=row["revision"],
                users=len(users), reported_users=row["users"],
            )
        )  # fmt: skip
    return found
