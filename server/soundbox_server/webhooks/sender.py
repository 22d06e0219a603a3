"""One try: a POST to an address that was judged, and as much of the answer as anybody reads.

Nothing is followed, decoded or kept open. Whatever the other side does, it is over after `TIMEOUT_S`.
"""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpcore

from soundbox_server.errors import ValidationFailed
from soundbox_server.webhooks.addresses import Reach, Target, may_reach, target

TIMEOUT_S = 15.0
CONNECT_S = 5.0
MOST_READ = 64 * 1024
USER_AGENT = "QRIS-Soundbox-Webhooks/1"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a try: a status, or else why there is none."""

    duration_ms: int
    status: int | None = None
    error: str | None = None
    address: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def reason(self) -> str:
        """Why it was not taken, in one word."""
        if self.error is not None:
            return self.error
        return "redirected" if self.status is not None and 300 <= self.status < 400 else f"http_{self.status}"


class _Refused(Exception):
    """A try that ends before anything is sent. Its text is the reason."""


# Of our own: uvloop has room for two lookups at a time, which names that never answer would take from everybody else.
# One that is given up keeps its thread until the resolver gives up, so a name is asked for once at a time.
_LOOKUPS = ThreadPoolExecutor(32, thread_name_prefix="webhook-lookup")
_asked: dict[tuple[str, int], asyncio.Future[Any]] = {}


async def look_up(host: str, port: int) -> Sequence[str]:
    """Every address of a name, by the machine's own resolver."""
    loop, name = asyncio.get_running_loop(), (host, port)
    asked = _asked.get(name)
    if asked is None or asked.get_loop() is not loop:
        find = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        asked = _asked[name] = loop.run_in_executor(_LOOKUPS, find)
        asked.add_done_callback(partial(_answered, name))
    found = await asyncio.shield(asked)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def _answered(name: tuple[str, int], asked: asyncio.Future[Any]) -> None:
    if _asked.get(name) is asked:
        del _asked[name]
    if not asked.cancelled():
        asked.exception()  # whoever still waits for it gets it; nobody else has to


@dataclass(frozen=True, kw_only=True)
class Sender:
    """How this process sends. `trust` are the authorities that receivers' certificates are proved with."""

    reach: Reach
    trust: ssl.SSLContext
    resolve: Resolve = look_up
    timeout_s: float = TIMEOUT_S

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> Answer:
        """Never raises for what the other side does."""
        began, address, error = time.monotonic(), None, None
        status: int | None = None
        told: Mapping[str, str] = {}
        read = b""
        try:
            async with asyncio.timeout(self.timeout_s):
                to = _taken_apart(url, self.reach)
                address = await self._judged(to)
                status, told, read = await self._send(to, address, headers, body)
        except TimeoutError:
            error = "timeout"
        except _Refused as refused:
            error = str(refused)
        except httpcore.TimeoutException:
            error = "timeout"
        except httpcore.ConnectError as failed:
            error = "tls_failed" if isinstance(failed.__context__, ssl.SSLError) else "connection_failed"
        except (httpcore.ProtocolError, ValueError):
            error = "bad_answer"
        except (httpcore.NetworkError, OSError):
            error = "connection_lost"
        return Answer(
            duration_ms=round((time.monotonic() - began) * 1000),
            address=address,
            status=status,
            error=error,
            headers=told,
            body=read,
        )

    async def _judged(self, to: Target) -> str:
        """The address to connect to. One bad address among several is enough: it would be the next one's turn."""
        try:
            found = await self.resolve(to.host, to.port)
        except OSError:
            raise _Refused("name_not_found") from None
        if not found:
            raise _Refused("name_not_found")
        if not all(may_reach(ipaddress.ip_address(one), self.reach) for one in found):
            raise _Refused("address_refused")
        return found[0]

    async def _send(
        self, to: Target, address: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        # Bytes as they come: nothing is unpacked, so a small answer stays small.
        sent = {"Host": to.authority, "User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Connection": "close"}
        url = httpcore.URL(scheme=to.scheme.encode(), host=to.host.encode(), port=to.port, target=to.path.encode())
        waits = {"connect": CONNECT_S, "read": self.timeout_s, "write": self.timeout_s, "pool": CONNECT_S}
        backend = _Pinned(address)
        async with (
            httpcore.AsyncConnectionPool(ssl_context=self.trust, network_backend=backend, max_connections=1) as pool,
            pool.stream(
                "POST", url, headers=list((sent | dict(headers)).items()), content=body, extensions={"timeout": waits}
            ) as response,
        ):
            told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            return response.status, told, await _beginning(response)


def _taken_apart(url: str, reach: Reach) -> Target:
    try:
        return target(url, reach)
    except ValidationFailed:  # it was good when it was stored, and production has other rules
        raise _Refused("address_refused") from None


async def _beginning(response: httpcore.Response) -> bytes:
    read = bytearray()
    async for chunk in response.aiter_stream():
        read += chunk
        if len(read) >= MOST_READ:
            break
    return bytes(read[:MOST_READ])


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to the address that was judged, whatever name is asked for; TLS still proves the name."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._inner.connect_tcp(self._address, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError("webhooks go over TCP")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
