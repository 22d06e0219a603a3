"""Server-sent events: what changes on a page while somebody looks at it.

One task in the process asks the database for everything that is looked at, by one query; nobody holds a database
session meanwhile. A stream carries HTML that replaces what the page shows, with a version as its id: a browser that
comes back says what it saw last, and gets what is newer at once.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

import structlog
from starlette.responses import StreamingResponse

from soundbox_server.errors import Overloaded
from soundbox_server.pages.paper import PRIVATE

EVERY_S = 0.5
STILL_HERE_S = 15.0  # a word this often, so that nobody takes the connection for dead, or a dead one for alive
AWAY_S = 4.0  # after the database did not answer
MOST_STREAMS = 2_000  # of one process
MOST_OF_ONE = 4  # of one page: the oldest makes room for a fifth
LONGEST_S = 1_800.0  # then the browser asks anew
RETRY_MS = 2_000
ASKED_AT_ONCE = 500

log = structlog.get_logger()
Versions = Callable[[Sequence[str]], Awaitable[Mapping[str, str]]]  # keys → the version of each that is there


class _Looker:
    """One open stream. `version` is the newest that is known, `ended` why it is over."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.ended: str | None = None
        self.news = asyncio.Event()

    def tell(self, version: str) -> None:
        if version != self.version:
            self.version = version
            self.news.set()

    def end(self, why: str) -> None:
        self.ended = why
        self.news.set()


class Feed:
    """Tells every looker the version of what it looks at. Only while somebody looks is anything asked."""

    def __init__(self, versions: Versions, *, every_s: float = EVERY_S) -> None:
        self._versions = versions
        self._every_s = every_s
        self._lookers: defaultdict[str, list[_Looker]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def open_streams(self) -> int:
        return sum(map(len, self._lookers.values()))

    @contextlib.contextmanager
    def _looking(self, key: str) -> Iterator[_Looker]:
        looker = _Looker()
        self._lookers[key].append(looker)
        for one in self._lookers[key][:-MOST_OF_ONE]:
            one.end("superseded")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())
        try:
            yield looker
        finally:
            self._lookers[key].remove(looker)
            if not self._lookers[key]:
                del self._lookers[key]

    def require_room(self) -> None:
        """Raises Overloaded where one stream more is too much. The page works without one."""
        if self._closed or self.open_streams >= MOST_STREAMS:
            raise Overloaded("Too many pages are open. This one asks again by itself.")

    async def news(self, key: str, *, seen: str | None) -> AsyncIterator[tuple[str, str] | None]:
        """`("version", v)` whenever there is another one than was seen last, None now and then, and at the end
        `("end", why)`."""
        until = asyncio.get_running_loop().time() + LONGEST_S
        with self._looking(key) as looker:
            while not self._closed and looker.ended is None:
                left = min(STILL_HERE_S, until - asyncio.get_running_loop().time())
                if left <= 0:
                    return
                try:
                    async with asyncio.timeout(left):  # wait_for would forget a cancellation that meets news
                        await looker.news.wait()
                except TimeoutError:
                    yield None
                    continue
                looker.news.clear()
                if looker.ended is None and looker.version is not None and looker.version != seen:
                    seen = looker.version
                    yield "version", seen
            if looker.ended is not None:
                yield "end", looker.ended

    async def _ask(self) -> None:
        while self._lookers and not self._closed:
            try:
                await self._tell_all()
            except Exception as error:  # whatever it is, those who look are told the truth once it passes
                log.warning("pages.feed_failed", error=repr(error))
                await asyncio.sleep(AWAY_S)
            await asyncio.sleep(self._every_s)

    async def _tell_all(self) -> None:
        keys = list(self._lookers)
        for n in range(0, len(keys), ASKED_AT_ONCE):
            for key, version in (await self._versions(keys[n : n + ASKED_AT_ONCE])).items():
                for looker in self._lookers.get(key, ()):
                    looker.tell(version)

    def close(self) -> None:
        """Every stream ends: the process is about to. Browsers come back to whoever serves then."""
        self._closed = True
        for lookers in self._lookers.values():
            for looker in lookers:
                looker.end("closing")

    async def aclose(self) -> None:
        self.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def event(name: str, data: str, *, version: str | None = None) -> bytes:
    """One event of a stream. Each line of `data` is a line of its own; a version has no line breaks."""
    lines = [f"event: {name}", *(f"data: {line}" for line in data.splitlines() or [""])]
    if version is not None:
        lines.append(f"id: {version}")
    return ("\n".join(lines) + "\n\n").encode()


def stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """An answer that goes on. No proxy may hold it back."""

    async def all_events() -> AsyncIterator[bytes]:
        yield f"retry: {RETRY_MS}\n\n".encode()
        async for one in events:
            yield one

    headers = PRIVATE | {"X-Accel-Buffering": "no"}
    return StreamingResponse(all_events(), headers=headers, media_type="text/event-stream")
