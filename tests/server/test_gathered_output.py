"""Log lines and HTTP answers leave together at the end of the event loop's turn, in order and whole."""

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import uvicorn
from support.ports import free_port

from soundbox_server.gathering import MOST_BYTES, GatheredHttp, GatheredWrites
from soundbox_server.logs import Lines


class Written(io.RawIOBase):
    """A file that remembers each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: Any) -> int:
        self.writes.append(bytes(data))
        return len(data)


class Sent(asyncio.Transport):
    """A transport that remembers each write, and its end."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.writes.append(b"(closed)")

    def is_closing(self) -> bool:
        return b"(closed)" in self.writes


async def test_what_is_logged_in_one_turn_is_written_at_its_end() -> None:
    file = Written()
    lines = Lines(file)
    lines.info(b"one")
    lines.info(b"two")
    before = list(file.writes)
    await asyncio.sleep(0)
    lines.info(b"three")
    await asyncio.sleep(0)

    assert before == []
    assert file.writes == [b"one\ntwo\n", b"three\n"]


async def test_trouble_is_written_at_once_and_after_what_came_before_it() -> None:
    file = Written()
    lines = Lines(file)
    lines.info(b"one")
    lines.error(b"two")
    at_once = list(file.writes)
    await asyncio.sleep(0)

    assert at_once == file.writes == [b"one\ntwo\n"]


async def test_a_thread_without_an_event_loop_waits_for_nobody() -> None:
    file = Written()
    thread = threading.Thread(target=Lines(file).info, args=(b"one",))
    thread.start()
    thread.join()

    assert file.writes == [b"one\n"]


async def test_an_answers_parts_leave_together_and_before_the_end() -> None:
    transport = Sent()
    gathered = GatheredWrites(transport)
    gathered.write(b"head ")
    gathered.write(b"body")
    before = list(transport.writes)
    await asyncio.sleep(0)
    gathered.write(b"last")
    gathered.close()
    gathered.write(b"too late")
    await asyncio.sleep(0)

    assert before == []
    assert transport.writes == [b"head body", b"last", b"(closed)"]


async def test_a_long_answer_is_written_as_it_comes() -> None:
    transport = Sent()
    gathered = GatheredWrites(transport)
    gathered.write(b"x" * MOST_BYTES)
    gathered.write(b"y")

    assert [len(one) for one in transport.writes] == [MOST_BYTES + 1]


async def test_answers_arrive_whole_through_a_real_server() -> None:
    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"300000")]})
        for _ in range(30):
            await send({"type": "http.response.body", "body": b"z" * 10_000, "more_body": True})
        await send({"type": "http.response.body"})

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, http=GatheredHttp, port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    async with httpx.AsyncClient() as client:
        answers = await asyncio.gather(*(client.get(f"http://127.0.0.1:{port}/") for _ in range(5)))
    server.should_exit = True
    await serving

    assert [answer.content for answer in answers] == [b"z" * 300_000] * 5
