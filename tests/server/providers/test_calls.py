"""What is known after a call that went wrong: nothing happened, or nobody knows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from soundbox_server.providers.base import ProviderRefused, ProviderUnknown
from soundbox_server.providers.calls import Answer, Calls


@asynccontextmanager
async def partner(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Reads each request's head, sends the next of the answers and hangs up; yields its address and the heads."""
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[min(len(heads), len(answers)) - 1])
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", heads


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=httpx.Timeout(2, connect=1), trust_env=False) as client:
        yield client


FINE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
NO = b"HTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"
ENDLESS = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b" " * 100_000


@pytest.mark.parametrize("stumble", [BUSY, CUT, b"", ENDLESS, b"garbage\r\n\r\n"], ids=lambda answer: repr(answer[:20]))
async def test_a_harmless_call_is_repeated_once(client: httpx.AsyncClient, stumble: bytes) -> None:
    async with partner(stumble, FINE) as (url, heads):
        answer = await Calls("p", client).send("GET", url, headers={}, idempotent=True)

    assert (answer, len(heads)) == (Answer(200, b"{}"), 2)


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize("failure", [BUSY, CUT, b""], ids=lambda answer: repr(answer[:20]))
async def test_a_call_that_was_heard_and_not_answered_is_unknown(
    client: httpx.AsyncClient, failure: bytes, idempotent: bool
) -> None:
    async with partner(failure) as (url, heads):
        with pytest.raises(ProviderUnknown):
            await Calls("p", client).send("POST", url, headers={}, content=b"{}", idempotent=idempotent)

    assert len(heads) == (2 if idempotent else 1)


async def test_a_refusal_is_an_answer_and_is_not_repeated(client: httpx.AsyncClient) -> None:
    async with partner(NO) as (url, heads):
        answer = await Calls("p", client).send("POST", url, headers={}, idempotent=True)

    assert (answer.status, len(heads)) == (422, 1)


async def test_where_nobody_listens_nothing_happened(client: httpx.AsyncClient) -> None:
    async with partner(FINE) as (url, _):
        pass

    with pytest.raises(ProviderRefused):
        await Calls("p", client).send("POST", url, headers={}, idempotent=True)


async def test_heard_once_and_gone_at_the_repetition_is_still_unknown(client: httpx.AsyncClient) -> None:
    """The dangerous one: the last failure says "never sent", the first attempt may have charged."""
    hung_up = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        server.close()
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    with pytest.raises(ProviderUnknown):
        await Calls("p", client).send("POST", url, headers={}, idempotent=True)
    assert hung_up.is_set()


async def test_a_caller_who_gives_up_leaves_no_mark(client: httpx.AsyncClient) -> None:
    silent = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if silent.is_set():
            writer.write(FINE)
        else:
            silent.set()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        calls = Calls("p", client, at_once=1, waiting=0, failures_to_open=1)
        call = asyncio.create_task(calls.send("GET", url, headers={}, idempotent=False))
        await asyncio.wait_for(silent.wait(), 20)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert (await calls.send("GET", url, headers={}, idempotent=False)).status == 200
