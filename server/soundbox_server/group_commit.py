"""What arrived while the last commit ran, or while this one waits for its turn, goes into the next one: no timers, and
alone it costs nothing extra.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

import structlog

from soundbox_server.db import Database, Statements, is_away, will_pass
from soundbox_server.errors import Overloaded

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Waiting = tuple[Item, asyncio.Future[Outcome]]
Apply = Callable[[Statements, Sequence[Item]], Coroutine[Any, Any, Sequence[Outcome]]]

log = structlog.get_logger()


class GroupCommit(Generic[Item, Outcome]):
    """Takes items one by one and applies them in groups, one transaction a group.

    `apply(statements, items)` answers one outcome per item. If it raises, the group rolls back and its items run one by
    one, so that a bad one harms only itself. `committed(queued)` gets what the services queued for sending, right after
    the commit and before anybody is answered. Nobody gets an answer before the commit; a commit whose fate is unknown
    raises.
    """

    def __init__(
        self,
        database: Database,
        apply: Apply[Item, Outcome],
        *,
        committed: Callable[[Sequence[Any]], None] = lambda queued: None,
        at_once: bool = False,
        most: int = 64,
        waiting: int = 4_096,
    ) -> None:
        """`at_once`: `apply` says which rows must stand (`Database.write`)."""
        self._database = database
        self._at_once = at_once
        self._apply = apply
        self._committed = committed
        self._most = most
        self._waiting = waiting
        self._queue: deque[Waiting[Item, Outcome]] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Outcome:
        """The item's outcome, once it is durable. Raises Overloaded when too many wait already."""
        if len(self._queue) >= self._waiting:
            raise Overloaded("Too many requests are waiting. Try again in a moment.")
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((item, answer))
        if self._runner is None:
            # The runner serves many requests: it must not log under the id of the one that woke it.
            context = contextvars.copy_context()
            context.run(structlog.contextvars.unbind_contextvars, "request_id")
            self._runner = asyncio.create_task(self._run(), context=context)
        return await answer

    async def drain(self) -> None:
        """Wait until everything submitted so far has its outcome."""
        while self._runner is not None:
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        try:
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
                await self._settle(group)
        finally:
            self._runner = None

    async def _together(
        self, statements: Statements, group: list[Waiting[Item, Outcome]], *, alone: bool
    ) -> tuple[Sequence[Outcome], Sequence[Any]]:
        """Whoever came while the group waited for its turn to write comes along."""
        while self._queue and len(group) < self._most and not alone:
            group.append(self._queue.popleft())
        return await self._apply(statements, [item for item, _ in group]), statements.queued

    async def _settle(self, group: list[Waiting[Item, Outcome]], *, alone: bool = False) -> None:
        try:
            outcomes, queued = await self._database.write(
                lambda statements: self._together(statements, group, alone=alone), at_once=self._at_once
            )
        except Exception as error:
            if len(group) == 1 or is_away(error):
                for _, answer in group:
                    _answer(answer, _as_told(error))
                return
            log.warning("group_commit.split", size=len(group), error=repr(error))
            for one in group:
                await self._settle([one], alone=True)
            return
        self._tell(queued)
        for (_, answer), outcome in zip(group, outcomes, strict=True):
            if not answer.done():
                answer.set_result(outcome)

    def _tell(self, queued: Sequence[Any]) -> None:
        try:
            self._committed(queued)
        except Exception:  # it is committed all the same, and what was not sent is due again
            log.exception("group_commit.not_told", queued=len(queued))


def _as_told(error: Exception) -> Exception:
    """A database that is away or overloaded is no bug of ours: the caller may try again."""
    if not will_pass(error):
        return error
    told = Overloaded("The database did not take this in time. Try again in a moment.")
    told.__cause__ = error
    return told


def _answer(answer: "asyncio.Future[Any]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
