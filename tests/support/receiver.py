"""Somebody who gets our webhooks: a socket on loopback that reads requests and answers as the test says.

Nothing of the sender's own is used: requests are read by hand, so that bad manners can be shown as well.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: session=geheim\r\n\r\nok"


@dataclass(frozen=True)
class Got:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


def answered(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Receiver:
    """`answer` is what it says, to all requests or to each by its own; None holds the caller until `let_go`."""

    port: int = 0
    scheme: str = "http"
    answer: bytes | Callable[[Got], bytes | None] | None = OK
    got: list[Got] = field(default_factory=list)
    connections: int = 0
    under_way: int = 0
    most_under_way: int = 0
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str = "/hooks", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def until(self, number: int) -> None:
        """Until so many requests came."""
        async with asyncio.timeout(20), self.heard:
            await self.heard.wait_for(lambda: len(self.got) >= number)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            one = await _read(reader)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            async with self.heard:
                self.got.append(one)
                self.heard.notify_all()
            said = self.answer(one) if callable(self.answer) else self.answer
            if said is None:
                await self.let_go.wait()
                said = OK
            writer.write(said)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # whoever called has hung up, which some tests want
        finally:
            self.under_way = max(0, self.under_way - 1)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Got:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Got(path=head[0].split()[1], headers=headers, body=body)


@asynccontextmanager
async def receiving(
    answer: bytes | Callable[[Got], bytes | None] | None = OK, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    receiver = Receiver(answer=answer, scheme="https" if tls else "http")
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.let_go.set()
        server.close()
        await server.wait_closed()
