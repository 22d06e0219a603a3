"""How long it takes until money is heard: from a payment's commit to the box's word that it has the announcement, and
to the moment it says that it was played. One statement for each question, whatever the number of announcements."""

from dataclasses import dataclass

from soundbox_server.db import Statements
from soundbox_server.ids import lowest_id

PERCENTILES = (50, 95, 99)
BOOKED_MS = 600_000


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Milliseconds, by nearest rank; None where nothing was counted."""

    count: int
    p50_ms: int | None
    p95_ms: int | None
    p99_ms: int | None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """`told` are announcements that went to a box, replays not counted."""

    told: int
    received: Spread
    played: Spread


_OF_THE_FLEET = "FROM outbox_message m WHERE m.id >= $1 AND m.id < $2"
_OF_A_DEVICE = f"{_OF_THE_FLEET} AND m.recipient_id = $5"
# A box that moved counts where it stood.
_OF_AN_OUTLET = """
FROM device_binding b JOIN outbox_message m ON m.recipient_id = b.device_id
WHERE b.outlet_id = $5 AND m.id >= $1 AND m.id < $2 AND m.created_at_ms >= b.bound_at_ms
  AND (b.unbound_at_ms IS NULL OR m.created_at_ms < b.unbound_at_ms)
"""
_SPREADS = """
WITH told AS (
  SELECT m.received_at_ms - m.created_at_ms AS received_ms, m.played_at_ms - m.created_at_ms AS played_ms
  {whose} AND m.created_at_ms >= $3 AND m.created_at_ms < $4 AND m.kind = 'payment_success' AND m.original_id IS NULL
  AND m.state <> 'suppressed' AND NOT m.unconfirmed
), hops AS (
  SELECT 'received' AS hop, received_ms AS ms FROM told WHERE received_ms IS NOT NULL
  UNION ALL SELECT 'played', played_ms FROM told WHERE played_ms IS NOT NULL
), ranked AS (
  SELECT hop, ms, row_number() OVER (PARTITION BY hop ORDER BY ms) AS place, count(*) OVER (PARTITION BY hop) AS n
  FROM hops
)
SELECT 'told' AS hop, count(*) AS n, NULL AS p50, NULL AS p95, NULL AS p99 FROM told
UNION ALL
SELECT hop, max(n), {percentiles} FROM ranked GROUP BY hop
"""
_SQL = _SPREADS.replace(
    "{percentiles}",
    ", ".join(f"max(CASE WHEN place = (n * {one} + 99) / 100 THEN ms END) AS p{one}" for one in PERCENTILES),
)


async def latency(
    tx: Statements, *, from_ms: int, to_ms: int, device_id: str | None = None, outlet_id: str | None = None
) -> Latency:
    """Of payments that were told in `from_ms` ≤ time < `to_ms`: of one box, of an outlet's boxes, or of all."""
    among: list[object] = [
        lowest_id("ann", from_ms - BOOKED_MS), lowest_id("ann", to_ms + BOOKED_MS), from_ms, to_ms,
    ]  # fmt: skip
    whose = _OF_THE_FLEET
    if device_id is not None:
        whose, among = _OF_A_DEVICE, [*among, device_id]
    elif outlet_id is not None:
        whose, among = _OF_AN_OUTLET, [*among, outlet_id]
    found = {row["hop"]: row for row in await tx.fetch(_SQL.replace("{whose}", whose), *among)}

    def spread(hop: str) -> Spread:
        if hop not in found:
            return Spread(count=0, p50_ms=None, p95_ms=None, p99_ms=None)
        row = found[hop]
        return Spread(count=row["n"], p50_ms=row["p50"], p95_ms=row["p95"], p99_ms=row["p99"])

    return Latency(told=found["told"]["n"], received=spread("received"), played=spread("played"))
