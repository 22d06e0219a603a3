"""A worker's sign of life, for processes that cannot see it: they may run on other machines."""

from soundbox_server.db import Row, Statements

EVERY_S = 5.0
STALE_AFTER_MS = 20_000


async def beat(tx: Statements, *, shard: str, owner: str, now_ms: int) -> None:
    """This owner of the shard is alive."""
    await tx.execute(
        "INSERT INTO shard_beat (shard, owner, at_ms) VALUES ($1, $2, $3) "
        "ON CONFLICT (shard) DO UPDATE SET owner = excluded.owner, at_ms = excluded.at_ms",
        shard, owner, now_ms,
    )  # fmt: skip


async def beats(tx: Statements) -> list[Row]:
    """shard, owner and at_ms of every shard that was ever owned."""
    return list(await tx.fetch("SELECT shard, owner, at_ms FROM shard_beat ORDER BY shard"))
