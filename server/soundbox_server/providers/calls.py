"""HTTP to one partner, so that a slow or dead partner costs us a bounded wait and nothing else.

A deadline for the whole call, a bulkhead (so many calls at once, so many waiting), a circuit breaker that stops asking
after repeated failures, and one repetition where repeating is harmless. Above all it knows the difference between
"they never heard us" (ProviderUnreachable) and "we do not know what they did" (ProviderUnknown).
"""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

import httpx
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from soundbox_server import metrics
from soundbox_server.providers.base import ProviderUnknown, ProviderUnreachable
from soundbox_server.providers.strict_json import MAX_BODY_BYTES

CONNECT_TIMEOUT_S = 3.0
TOTAL_TIMEOUT_S = 15.0
PAUSE_BEFORE_REPEATING_S = 0.2
SHARE_TO_WAIT = 0.75  # of a call's time: one begun later would hardly be answered, and would end as unknown

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Answer:
    """Any answer that says something definite: a status below 500, and its body of at most 64 KiB."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Exchange:
    """What was asked and what came back, without headers (the keys are there) and with tokens taken out of bodies.

    `status` is None where no answer came, and `failure` says why.
    """

    asked: str
    request: bytes
    status: int | None
    response: bytes
    failure: str | None = None


_kept: ContextVar[list[Exchange] | None] = ContextVar("exchanges", default=None)


@contextmanager
def keeping_exchanges() -> Iterator[list[Exchange]]:
    """Whatever is asked of partners inside the block is in the list, for whoever has to show it later."""
    exchanges: list[Exchange] = []
    before = _kept.set(exchanges)
    try:
        yield exchanges
    finally:
        _kept.reset(before)


_SECRET = re.compile(
    rb'"(access_?token|token|client_?secret|secret_?key|server_?key|signature_?key|signature|password)"\s*:\s*"[^"]*"',
    re.IGNORECASE,
)


def without_secrets(body: bytes) -> bytes:
    """A body of JSON with the texts under names of secrets taken out."""
    return _SECRET.sub(rb'"\1":"***"', body)


class Unusable(Exception):
    """An answer that leaves open what happened."""


class Calls:
    """The calls to one partner that are under way, and what the last ones taught."""

    def __init__(
        self,
        name: str,
        client: httpx.AsyncClient,
        *,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
        at_once: int = 16,
        waiting: int = 64,
        failures_to_open: int = 5,
        rest_s: float = 10,
    ) -> None:
        self._name = name
        self._client = client
        self._total_timeout_s = total_timeout_s
        self._slots = asyncio.Semaphore(at_once)
        self._most = self._room = at_once + waiting
        # A caller that gives up says nothing about the partner, so a cancellation is not counted.
        self._circuits = AsyncCircuitBreakerFactory(failures_to_open, rest_s, exclude=[asyncio.CancelledError])

    async def circuit(self) -> str:
        """`closed` while calls go out, `opened` while none does, `half-opened` while one tries."""
        return str((await self._circuits.get_breaker(self._name)).context.state)

    async def aclose(self) -> None:
        await self._client.aclose()

    @property
    def under_way(self) -> int:
        """Calls that were begun and have no end yet, waiting ones included."""
        return self._most - self._room

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None = None,
        idempotent: bool,
    ) -> Answer:
        """One call; `idempotent` ones are repeated once. Raises ProviderUnreachable or ProviderUnknown."""
        with _watched(self._name):
            return await self._send(method, url, headers=headers, content=content, idempotent=idempotent)

    async def _send(
        self, method: str, url: str, *, headers: Mapping[str, str], content: bytes | None, idempotent: bool
    ) -> Answer:
        begun = asyncio.get_running_loop().time()
        deadline = begun + self._total_timeout_s
        async with self._slot(begun + SHARE_TO_WAIT * self._total_timeout_s):
            call = _Call(self._client, self._client.build_request(method, url, headers=headers, content=content))
            try:
                circuit = await self._circuits.get_breaker(self._name)
                async with circuit, asyncio.timeout_at(deadline):
                    return await call.run(attempts=2 if idempotent else 1)
            except OpenedState as resting:
                resting.with_traceback(None)  # the library raises one instance again and again: let it forget us
                raise ProviderUnreachable("The provider failed repeatedly and is left in peace for a moment.") from None
            except (httpx.HTTPError, Unusable, TimeoutError) as failure:
                if call.may_have_arrived:
                    raise ProviderUnknown("The provider's answer did not arrive.", provider=self._name) from failure
                raise ProviderUnreachable("The provider cannot be reached.", provider=self._name) from failure

    @asynccontextmanager
    async def _slot(self, deadline: float) -> AsyncIterator[None]:
        if self._room == 0:
            raise ProviderUnreachable("Too many calls to the provider are waiting.", provider=self._name)
        self._room -= 1
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._slots.acquire()
            except TimeoutError:
                raise ProviderUnreachable("The provider is too slow for all who ask.", provider=self._name) from None
            try:
                yield
            finally:
                self._slots.release()
        finally:
            self._room += 1


@contextmanager
def _watched(provider: str) -> Iterator[None]:
    """Counts how a call ended, and how long it took where somebody was asked."""
    begun, outcome = time.perf_counter(), "answered"
    try:
        yield
    except ProviderUnreachable:
        outcome = "refused"
        raise
    except (ProviderUnknown, asyncio.CancelledError):
        outcome = "unknown"
        raise
    finally:
        metrics.labelled(metrics.provider_requests, provider, outcome).inc()
        if outcome != "refused":
            metrics.labelled(metrics.provider_request_seconds, provider).observe(time.perf_counter() - begun)


def open_client(*, total_timeout_s: float = TOTAL_TIMEOUT_S) -> httpx.AsyncClient:
    """A client for one partner: no proxies from the environment, and no redirects, which would carry keys away."""
    timeout = httpx.Timeout(total_timeout_s, connect=CONNECT_TIMEOUT_S)
    return httpx.AsyncClient(timeout=timeout, trust_env=False, verify=_authorities())


@lru_cache(maxsize=1)
def _authorities() -> ssl.SSLContext:
    """Whose certificates are believed. Reading them takes some 30 ms, so that all clients share them."""
    return httpx.create_ssl_context(trust_env=False)


class _Call:
    """One call with its repetition; remembers whether any attempt may have arrived."""

    def __init__(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        self._client = client
        self._request = request
        self.may_have_arrived = False

    async def run(self, *, attempts: int) -> Answer:
        for _ in range(attempts - 1):
            try:
                return await self._attempt()
            except (httpx.TransportError, Unusable):
                await asyncio.sleep(PAUSE_BEFORE_REPEATING_S)
        return await self._attempt()

    async def _attempt(self) -> Answer:
        before, self.may_have_arrived = self.may_have_arrived, True  # a timeout may strike anywhere below
        try:
            answer = await self._client.send(self._request, stream=True)
        except _NEVER_SENT as failure:
            self.may_have_arrived = before
            self._keep(None, b"", failure)
            raise
        except (httpx.HTTPError, asyncio.CancelledError) as failure:
            self._keep(None, b"", failure)
            raise
        body = b""
        try:
            body = await _bounded(answer)
            if answer.status_code >= 500 or answer.status_code == 408:
                raise Unusable(f"status {answer.status_code}")
        except (httpx.HTTPError, Unusable, asyncio.CancelledError) as failure:
            self._keep(answer.status_code, body, failure)
            raise
        finally:
            await answer.aclose()
        self._keep(answer.status_code, body, None)
        return Answer(answer.status_code, body)

    def _keep(self, status: int | None, body: bytes, failure: BaseException | None) -> None:
        if (exchanges := _kept.get()) is not None:
            exchanges.append(
                Exchange(
                    asked=f"{self._request.method} {self._request.url}",
                    request=without_secrets(self._request.content),
                    status=status,
                    response=without_secrets(body),
                    failure=None if failure is None else type(failure).__name__,
                )
            )


async def _bounded(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise Unusable("an answer without end")
    return bytes(body)
