"""Telling the hub that money came: each event again and again until a 2xx, also after a restart."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import httpx
import structlog

from soundbox_server.providers import hmac_scheme
from soundbox_server.sandbox import charges
from soundbox_server.sandbox.faults import Faults
from soundbox_server.sandbox.store import Store, read_faults

AT_ONCE = 32
GIVE_UP_AFTER_MS = 24 * 3_600_000
LONGEST_PAUSE_MS = 60_000

_log = structlog.get_logger()


@dataclass(frozen=True)
class Due:
    event_id: str
    told_of: str  # payment or payout
    status: str
    body: bytes
    url: str

    @property
    def table(self) -> str:
        return "callback" if self.told_of == "payment" else "transfer_event"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What the sender finds when it looks: what to send now, how, and when the next thing is due."""

    due: list[Due]
    faults: Faults
    next_at_ms: int | None


class Sender:
    """Looks for due events whenever it is woken or something falls due; many are under way at once."""

    def __init__(
        self,
        store: Store,
        client: httpx.AsyncClient,
        *,
        secrets: Sequence[bytes],
        partner_id: str,
        first_pause_ms: int,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._client = client
        self._secrets = secrets
        self._partner_id = partner_id
        self._first_pause_ms = first_pause_ms
        self._now = now
        self._under_way: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._woken.clear()
                turn = await self._store.run(partial(self._look, under_way=frozenset(self._under_way)))
                for batch in [turn.due] if turn.faults.reorder and turn.due else [[due] for due in turn.due]:
                    self._under_way |= {due.event_id for due in batch}
                    tasks.create_task(self._deliver(batch, turn.faults))
                await self._rest(turn.next_at_ms)

    def _look(self, connection: sqlite3.Connection, *, under_way: frozenset[str]) -> Turn:
        now_ms = self._now()
        charges.pay_what_pays_itself(connection, now_ms=now_ms)
        faults = read_faults(connection)
        due = _due(connection, now_ms=now_ms, newest_first=faults.reorder, under_way=under_way)
        return Turn(due=due, faults=faults, next_at_ms=_next_at_ms(connection, after_ms=now_ms))

    async def _rest(self, next_at_ms: int | None) -> None:
        """Until something is due: a second at most, since another clock decides what that means."""
        pause_s = 1.0 if next_at_ms is None else min(1.0, max(0.001, (next_at_ms - self._now()) / 1000))
        try:
            async with asyncio.timeout(pause_s):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _deliver(self, batch: Sequence[Due], faults: Faults) -> None:
        """One after the other: a batch is one event, or several whose order matters."""
        try:
            for due in batch:
                copies = [self._post(due, faults) for _ in range(1 + faults.duplicate_callbacks)]
                answers = await asyncio.gather(*copies)
                await self._store.run(partial(self._record, due=due, answers=answers))
        finally:
            self._under_way -= {due.event_id for due in batch}
            self.wake()

    async def _post(self, due: Due, faults: Faults) -> int | None:
        """The status of the answer, or None where none came."""
        try:
            answer = await self._client.post(due.url, content=due.body, headers=self._headers(due, faults))
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            UnicodeError,
        ) as failure:  # the last two: no host of that name can be
            _log.info("sandbox.callback_unanswered", event_id=due.event_id, error=type(failure).__name__)
            return None
        return answer.status_code

    def _headers(self, due: Due, faults: Faults) -> dict[str, str]:
        bad, stale = faults.callback_signature == "bad", faults.callback_signature == "stale"
        secrets = [secret + b"?" for secret in self._secrets] if bad else self._secrets
        now_s = self._now() // 1000 - (3_600 if stale else 0)
        signed = hmac_scheme.sign(secrets, due.body, partner_id=self._partner_id, now_s=now_s)
        if faults.callback_signature == "missing":
            del signed[hmac_scheme.SIGNATURE]
        return signed | {
            "content-type": "application/json",
            "x-partner-event": f"{due.told_of}.{due.status}",
            "idempotency-key": due.event_id,
        }

    def _record(self, connection: sqlite3.Connection, *, due: Due, answers: Sequence[int | None]) -> None:
        """Delivered once any copy was taken; otherwise due again, later each time."""
        now_ms = self._now()
        last = next((status for status in answers if status is not None and 200 <= status < 300), answers[-1])
        delivered = last is not None and 200 <= last < 300
        row = connection.execute(f"SELECT * FROM {due.table} WHERE event_id = ?", (due.event_id,)).fetchone()
        pause_ms = min(LONGEST_PAUSE_MS, self._first_pause_ms * 2 ** min(row["attempts"], 20))
        gives_up = now_ms - row["created_at_ms"] > GIVE_UP_AFTER_MS
        connection.execute(
            f"UPDATE {due.table} SET attempts = attempts + 1, last_answer = ?, delivered_at_ms = ?, due_at_ms = ?"
            " WHERE event_id = ?",
            (
                last,
                now_ms if delivered else None,
                None if delivered or gives_up else now_ms + pause_ms,
                due.event_id,
            ),
        )


def _due(connection: sqlite3.Connection, *, now_ms: int, newest_first: bool, under_way: frozenset[str]) -> list[Due]:
    """What is due and not under way. With reordering the young ones come along as soon as one of them is due."""
    rows = connection.execute(
        "SELECT 'payment' AS told_of, event_id, status, body, callback_url, due_at_ms FROM callback"
        " JOIN charge USING (reference) WHERE due_at_ms <= :until"
        " UNION ALL SELECT 'payout', event_id, e.status, body, callback_url, due_at_ms FROM transfer_event e"
        " JOIN transfer USING (reference) WHERE due_at_ms <= :until ORDER BY due_at_ms LIMIT :limit",
        {"until": now_ms + (charges.REORDER_HOLD_MS if newest_first else 0), "limit": AT_ONCE + len(under_way)},
    ).fetchall()
    free = [row for row in rows if row["event_id"] not in under_way][: AT_ONCE - len(under_way)]
    if newest_first:
        free = free[::-1] if any(row["due_at_ms"] <= now_ms for row in free) else []
    return [Due(row["event_id"], row["told_of"], row["status"], row["body"], row["callback_url"]) for row in free]


def _next_at_ms(connection: sqlite3.Connection, *, after_ms: int) -> int | None:
    row = connection.execute(
        "SELECT min(at_ms) FROM (SELECT min(due_at_ms) AS at_ms FROM callback WHERE due_at_ms > :now_ms"
        " UNION ALL SELECT min(due_at_ms) FROM transfer_event WHERE due_at_ms > :now_ms"
        " UNION ALL SELECT min(pays_itself_at_ms) FROM charge WHERE paid_at_ms IS NULL)",
        {"now_ms": after_ms},
    ).fetchone()
    next_at_ms: int | None = row[0]
    return next_at_ms
