"""How often something may be tried. Counted in the database: it holds for all processes together and after a restart.

No library for this keeps its counts in SQL with a lock around looking and counting, and both matter: of twenty wrong
passwords at once, five are compared.
"""

import ipaddress
from dataclasses import dataclass

from soundbox_server.db import Row, Statements
from soundbox_server.errors import RateLimited

MINUTE_MS = 60_000
HOUR_MS = 3_600_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The platform's own, from its settings."""

    logins_per_minute: int = 20  # of one address
    login_failures: int = 5  # of one person from one address, within the window; then each try waits longer
    login_window_ms: int = 15 * MINUTE_MS
    login_delay_ms: int = 30_000  # after the last free failure; doubles with each that follows
    activation_failures_per_minute: int = 10  # of one address
    resets_per_hour: int = 5  # for one e-mail address; of one network address four times as many


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is left after a try. `reset_ms`: until the next try, or until the count begins anew."""

    allowed: bool
    limit: int
    remaining: int
    reset_ms: int

    @property
    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(-(-self.reset_ms // 1000)),
        }


def require(standing: Standing) -> Standing:
    """Raises RateLimited. Call it after the commit, or the count is rolled back."""
    if standing.allowed:
        return standing
    seconds = str(-(-standing.reset_ms // 1000))
    refused = RateLimited("Too many tries. Wait a little.", retry_after_s=int(seconds))
    refused.headers = standing.headers | {"Retry-After": seconds}
    raise refused


async def rate_limit(
    tx: Statements, key: str, *, limit: int, window_ms: int, now_ms: int, delay_ms: int = 0
) -> Standing:
    """Count a try of `key`: `limit` are free in a window that begins with the first.

    What comes beyond waits for the window's end, or with `delay_ms` for that long, then twice as long, at most a
    window; then only a window without tries begins the count anew. A refused try is not counted and writes nothing.
    """
    if refused := await refusal(tx, key, limit=limit, now_ms=now_ms):
        return refused
    counted = await _locked(tx, key, now_ms + window_ms)
    if counted["resets_at_ms"] <= now_ms:
        hits, resets_at_ms, blocked_until_ms = 0, now_ms + window_ms, 0
    else:
        hits, resets_at_ms, blocked_until_ms = (counted[n] for n in ("hits", "resets_at_ms", "blocked_until_ms"))
    if blocked_until_ms > now_ms:
        return Standing(allowed=False, limit=limit, remaining=0, reset_ms=blocked_until_ms - now_ms)
    hits += 1
    if hits >= limit:
        delay = min(delay_ms << min(hits - limit, 20), window_ms)
        blocked_until_ms = now_ms + delay if delay_ms else resets_at_ms
        resets_at_ms = blocked_until_ms + window_ms if delay_ms else resets_at_ms
    await tx.execute(
        "UPDATE rate_counter SET hits = $2, resets_at_ms = $3, blocked_until_ms = $4 WHERE key = $1",
        key, hits, resets_at_ms, blocked_until_ms,
    )  # fmt: skip
    until = blocked_until_ms if blocked_until_ms > now_ms else resets_at_ms
    return Standing(allowed=True, limit=limit, remaining=max(limit - hits, 0), reset_ms=until - now_ms)


async def refusal(tx: Statements, key: str, *, limit: int, now_ms: int) -> Standing | None:
    """How a key stands that may not be tried now. Looks without waiting: a flood holds up no connection."""
    found = await tx.fetch("SELECT blocked_until_ms FROM rate_counter WHERE key = $1", key)
    if not found or found[0]["blocked_until_ms"] <= now_ms:
        return None
    return Standing(allowed=False, limit=limit, remaining=0, reset_ms=found[0]["blocked_until_ms"] - now_ms)


async def _locked(tx: Statements, key: str, resets_at_ms: int) -> Row:
    columns = "hits, resets_at_ms, blocked_until_ms"
    found = await tx.fetch(f"SELECT {columns} FROM rate_counter WHERE key = $1 {tx.lock('rate_counter')}", key)
    if not found:
        found = await tx.fetch(
            "INSERT INTO rate_counter (key, hits, resets_at_ms, blocked_until_ms) VALUES ($1, 0, $2, 0) "
            f"ON CONFLICT (key) DO UPDATE SET hits = rate_counter.hits RETURNING {columns}",
            key,
            resets_at_ms,
        )
    return found[0]


async def take_back(tx: Statements, key: str) -> None:
    """A counted try was none after all: it succeeded."""
    await tx.execute("UPDATE rate_counter SET hits = hits - 1, blocked_until_ms = 0 WHERE key = $1 AND hits > 0", key)


async def forget(tx: Statements, key: str) -> None:
    """Begin to count anew."""
    await tx.execute("DELETE FROM rate_counter WHERE key = $1", key)


def network(ip: str | None) -> str:
    """What one caller can be expected to command: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(ip or "")
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
