"""What the product is measured against: the least that could be called the same work.

One ASGI endpoint on uvicorn (uvloop, httptools, one process): an HMAC over the body, one INSERT of the body that shares
a durable commit with whatever arrived during the last one, and one 400-byte message at QoS 1. It looks nothing up,
books nothing, signs nothing, records no acknowledgement.
"""

import argparse
import asyncio
import hmac
import itertools
import os
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiomqtt
import asyncpg
import orjson
import uvicorn

MESSAGE_BYTES = 400
ANSWER = b'{"outcome":"applied"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]

Store = Callable[[Sequence[bytes]], Awaitable[None]]
Item = tuple[bytes, bytes, "asyncio.Future[None]"]


class Endpoint:
    def __init__(self, store: Store, client: aiomqtt.Client, topics: Sequence[str], secret: bytes) -> None:
        self._store = store
        self._client = client
        self._topics = itertools.cycle(topics)
        self._secret = secret
        self._waiting: deque[Item] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        headers = dict(scope["headers"])
        signed = hmac.digest(self._secret, headers[b"x-partner-timestamp"] + b"." + body, "sha256").hex()
        fits = hmac.compare_digest(b"v1=" + signed.encode(), headers[b"x-partner-signature"])
        if fits:
            await self._take(body, orjson.loads(body)["transaction_id"].encode())
        await send({"type": "http.response.start", "status": 200 if fits else 401, "headers": HEADERS})
        await send({"type": "http.response.body", "body": ANSWER})

    async def _take(self, body: bytes, transaction_id: bytes) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, transaction_id, done))
        if self._running is None:
            self._running = asyncio.create_task(self._commit_groups())
        await done

    async def _commit_groups(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(64, len(self._waiting)))]
            await self._store([body for body, _, _ in group])
            for _, transaction_id, done in group:
                message = b'{"transaction_id":"%s","pad":"' % transaction_id
                self._client._client.publish(next(self._topics), message.ljust(MESSAGE_BYTES - 2, b".") + b'"}', 1)
                done.set_result(None)
        self._running = None


def sqlite_store(path: str) -> Store:
    def opened() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS raw (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        return connection

    def insert(bodies: Sequence[bytes]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO raw (body) VALUES (?)", [(body,) for body in bodies])
        connection.execute("COMMIT")

    thread = ThreadPoolExecutor(1)
    connection = thread.submit(opened).result()
    return lambda bodies: asyncio.get_running_loop().run_in_executor(thread, insert, bodies)


async def postgres_store(url: str) -> Store:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS raw (id bigserial PRIMARY KEY, body bytea NOT NULL)")
    insert = await connection.prepare("INSERT INTO raw (body) SELECT unnest($1::bytea[])")

    async def store(bodies: Sequence[bytes]) -> None:
        await insert.fetch(list(bodies))

    return store


async def serve(*, port: int, database: str, broker_port: int, user: str, topics: Sequence[str]) -> None:
    """Until SIGTERM. The broker's password and the callback secret come from the environment."""
    store = await postgres_store(database) if database.startswith("postgresql") else sqlite_store(database)
    password, secret = os.environ["BENCH_PASSWORD"], os.environ["BENCH_SECRET"].encode()
    async with aiomqtt.Client(
        "127.0.0.1", broker_port, username=user, password=password, identifier=user, max_inflight_messages=1_000
    ) as client:
        endpoint = Endpoint(store, client, topics, secret)
        config = uvicorn.Config(
            endpoint, host="127.0.0.1", port=port, loop="none", http="httptools", access_log=False, lifespan="off",
            log_level="warning",
        )  # fmt: skip
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    import uvloop

    parser = argparse.ArgumentParser()
    for name, kind in {"port": int, "database": str, "broker-port": int, "user": str}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--topics", nargs="+", required=True)
    uvloop.run(serve(**vars(parser.parse_args())))
