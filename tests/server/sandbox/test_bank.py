"""The sandbox as a bank, by its adapter: the same misbehaviours as the acquirer's, and nothing paid twice."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from soundbox_server.providers.banks import TransferRequest
from soundbox_server.providers.base import PayoutReport, ProviderRefused, ProviderUnknown, ProviderUnreachable
from soundbox_server.providers.sandbox_bank import SandboxBank

from .conftest import API_KEY, SECRETS, Hub

Until = Callable[[Callable[[], Any]], Awaitable[Any]]


@pytest.fixture
async def bank(address: str, hub: Hub) -> AsyncIterator[SandboxBank]:
    bank = SandboxBank(address, API_KEY, SECRETS, hub.url, total_timeout_s=2)
    yield bank
    await bank.aclose()


def order(reference: str = "pay_1", amount_idr: int = 49_650, **other: Any) -> TransferRequest:
    fields = {"account": "bank:1", "account_type": None, "beneficiary": "Toko", "rail": "bi_fast"} | other
    return TransferRequest(reference=reference, amount_idr=amount_idr, **fields)


def heard(bank: SandboxBank, hub: Hub) -> list[tuple[str, str, int]]:
    now_ms = time.time_ns() // 1_000_000
    read = [bank.read_callback(headers, body, now_ms=now_ms) for headers, body in hub.heard]
    assert all(isinstance(one, PayoutReport) and one.provider == "sandbox" for one in read)
    return [(one.payout_reference, one.state, one.amount_idr) for one in read]


async def test_a_transfer_is_made_once_and_called_back(bank: SandboxBank, hub: Hub, until: Until) -> None:
    made, again, asked = await bank.create(order()), await bank.create(order()), await bank.query("pay_1")

    assert (made.state, made) == ("succeeded", again)
    assert (asked.state, asked.bank_payout_id) == ("succeeded", made.bank_payout_id)
    await until(lambda: heard(bank, hub) == [("pay_1", "succeeded", 49_650)])
    assert hub.heard[0][0]["x-partner-event"] == "payout.succeeded"


async def test_a_reference_stands_for_one_transfer(bank: SandboxBank) -> None:
    await bank.create(order())

    for other in (order(amount_idr=1), order(account="bank:2")):
        with pytest.raises(ProviderRefused):
            await bank.create(other)


async def test_a_lost_answer_is_found_by_asking(bank: SandboxBank, acquirer: httpx.AsyncClient) -> None:
    await acquirer.put("/v1/faults", json={"lose_transfer_answers": 1})

    with pytest.raises(ProviderUnknown):
        await bank.create(order())

    assert (await bank.query("pay_1")).state == "succeeded"


async def test_a_failing_bank_has_not_paid(bank: SandboxBank, acquirer: httpx.AsyncClient) -> None:
    await acquirer.put("/v1/faults", json={"transfer_failures": 1})

    with pytest.raises(ProviderUnknown):
        await bank.create(order())

    assert (await bank.query("pay_1")).state == "not_found"


async def test_a_slow_transfer_is_pending_until_it_is_not(
    bank: SandboxBank, acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    await acquirer.put("/v1/faults", json={"slow_transfers": True})
    assert [(await bank.create(order())).state, (await bank.query("pay_1")).state] == ["pending", "pending"]

    await acquirer.put("/v1/faults", json={"fail_transfers": True})

    assert (await bank.query("pay_1")).state == "failed"
    await until(lambda: heard(bank, hub) == [("pay_1", "failed", 49_650)])


async def test_an_answer_that_takes_too_long_is_unknown(address: str, acquirer: httpx.AsyncClient, hub: Hub) -> None:
    hasty = SandboxBank(address, API_KEY, SECRETS, hub.url, total_timeout_s=0.3)
    await acquirer.put("/v1/faults", json={"transfer_delay_ms": 5_000})

    with pytest.raises(ProviderUnknown):
        await hasty.create(order())
    await hasty.aclose()


async def test_a_refusal_is_a_no_and_nobody_there_is_not(
    bank: SandboxBank, acquirer: httpx.AsyncClient, hub: Hub
) -> None:
    await acquirer.put("/v1/faults", json={"refuse_transfers": True})
    with pytest.raises(ProviderRefused) as refused:
        await bank.create(order())
    assert not isinstance(refused.value, ProviderUnreachable)

    nobody = SandboxBank("http://127.0.0.1:1", API_KEY, SECRETS, hub.url, total_timeout_s=1)
    with pytest.raises(ProviderUnreachable):
        await nobody.create(order())
    await nobody.aclose()


async def test_the_receiving_bank_sends_it_back_once(
    bank: SandboxBank, acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    await acquirer.put("/v1/faults", json={"reorder": True, "duplicate_callbacks": 1})
    await bank.create(order())

    for _ in range(2):
        assert (await acquirer.post("/v1/transfers/pay_1/reverse")).json()["status"] == "reversed"

    await until(lambda: len(hub.heard) == 4)
    told = [state for _, state, _ in heard(bank, hub)]
    assert told == ["reversed", "reversed", "succeeded", "succeeded"]
    assert (await bank.query("pay_1")).state == "reversed"
    assert (await acquirer.post("/v1/transfers/nobody/reverse")).status_code == 404
