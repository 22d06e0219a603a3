"""The acquirer gives money back, withdraws, reverses and disputes; the hub's adapter knows what it does not know."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from soundbox_server.providers.base import (
    AdjustmentReport,
    ChargeRequest,
    MerchantIdentity,
    ProviderRefused,
    ProviderUnknown,
    ProviderUnreachable,
    RefundRequest,
)
from soundbox_server.providers.sandbox import SandboxProvider

from .conftest import API_KEY, SECRETS, Hub

Until = Callable[[Callable[[], Any]], Awaitable[Any]]

MERCHANT = MerchantIdentity(
    merchant_id="mrc_1", name="TOKO UJI", city="JAKARTA", postal_code="10110", mcc="5411", criteria="UMI"
)


@pytest.fixture
async def provider(address: str, hub: Hub) -> AsyncIterator[SandboxProvider]:
    provider = SandboxProvider(address, API_KEY, SECRETS, hub.url, total_timeout_s=2)
    yield provider
    await provider.aclose()


async def charged(provider: SandboxProvider, acquirer: httpx.AsyncClient, *, paid: bool = True) -> None:
    in_five_minutes = time.time_ns() // 1_000_000 + 300_000
    await provider.create(
        ChargeRequest(reference="ref_1", amount_idr=50_000, expires_at_ms=in_five_minutes, merchant=MERCHANT)
    )
    if paid:
        assert (await acquirer.post("/v1/qr/ref_1/pay")).status_code == 200


def back(refund_reference: str = "rfd_1", amount_idr: int = 20_000) -> RefundRequest:
    return RefundRequest(
        reference="ref_1", refund_reference=refund_reference, amount_idr=amount_idr, reason="Wrong size."
    )


def adjustments(provider: SandboxProvider, hub: Hub) -> list[tuple[str, int | None, str | None]]:
    now_ms = time.time_ns() // 1_000_000
    read = [provider.read_callback(headers, body, now_ms=now_ms) for headers, body in hub.heard]
    return [(one.kind, one.amount_idr, one.refund_reference) for one in read if isinstance(one, AdjustmentReport)]


async def test_a_refund_is_made_once_and_called_back(
    provider: SandboxProvider, acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    await charged(provider, acquirer)

    made, again = await provider.refund(back()), await provider.refund(back())
    asked, status = await provider.query_refund(back()), await provider.query("ref_1")

    assert made == again == asked
    assert (made.state, status.state) == ("succeeded", "paid")
    assert [(one.kind, one.amount_idr) for one in status.adjustments] == [("refunded", 20_000)]
    await until(lambda: adjustments(provider, hub) == [("refunded", 20_000, "rfd_1")])


async def test_no_more_goes_back_than_came(provider: SandboxProvider, acquirer: httpx.AsyncClient) -> None:
    await charged(provider, acquirer)
    await provider.refund(back("rfd_1", 30_000))

    for request in (back("rfd_2", 20_001), back("rfd_1", 1)):
        with pytest.raises(ProviderRefused):
            await provider.refund(request)
    assert (await provider.refund(back("rfd_3", 20_000))).state == "succeeded"


async def test_what_was_not_paid_cannot_go_back(provider: SandboxProvider, acquirer: httpx.AsyncClient) -> None:
    await charged(provider, acquirer, paid=False)

    with pytest.raises(ProviderRefused):
        await provider.refund(back())
    assert (await provider.query_refund(back())).state == "not_found"


async def test_a_refund_whose_answers_get_lost_is_found_by_asking(
    provider: SandboxProvider, acquirer: httpx.AsyncClient
) -> None:
    await charged(provider, acquirer)
    await acquirer.put("/v1/faults", json={"lose_refund_answers": 2})

    with pytest.raises(ProviderUnknown):
        await provider.refund(back())

    assert (await provider.query_refund(back())).state == "succeeded"


async def test_a_refund_that_fails_was_never_made(provider: SandboxProvider, acquirer: httpx.AsyncClient) -> None:
    await charged(provider, acquirer)
    await acquirer.put("/v1/faults", json={"refund_failures": 2})

    with pytest.raises(ProviderUnknown):
        await provider.refund(back())

    assert (await provider.query_refund(back())).state == "not_found"


async def test_a_slow_refund_is_pending_until_it_is_not(
    provider: SandboxProvider, acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    await charged(provider, acquirer)
    await acquirer.put("/v1/faults", json={"slow_refunds": True})

    assert (await provider.refund(back())).state == "pending"
    assert (await provider.query_refund(back())).state == "pending"
    await acquirer.put("/v1/faults", json={})

    assert (await provider.query_refund(back())).state == "succeeded"
    await until(lambda: adjustments(provider, hub) == [("refunded", 20_000, "rfd_1")])


async def test_a_refusal_is_a_no(provider: SandboxProvider, acquirer: httpx.AsyncClient) -> None:
    await charged(provider, acquirer)
    await acquirer.put("/v1/faults", json={"refuse_refunds": True})

    with pytest.raises(ProviderRefused) as refused:
        await provider.refund(back())
    assert not isinstance(refused.value, ProviderUnreachable)


async def test_nobody_there_is_not_a_no(hub: Hub) -> None:
    provider = SandboxProvider("http://127.0.0.1:1", API_KEY, SECRETS, hub.url, total_timeout_s=1)

    with pytest.raises(ProviderUnreachable):
        await provider.refund(back())
    await provider.aclose()


async def test_a_withdrawn_qr_cannot_be_paid(provider: SandboxProvider, acquirer: httpx.AsyncClient) -> None:
    await charged(provider, acquirer, paid=False)

    await provider.cancel("ref_1")
    await provider.cancel("ref_1")

    assert (await provider.query("ref_1")).state == "cancelled"
    assert (await acquirer.post("/v1/qr/ref_1/pay")).status_code == 409
    assert [one["reference"] for one in (await acquirer.get("/v1/qr?status=cancelled")).json()["charges"]] == ["ref_1"]
    assert (await acquirer.get("/v1/qr?status=open")).json()["charges"] == []


async def test_a_paid_qr_cannot_be_withdrawn(provider: SandboxProvider, acquirer: httpx.AsyncClient) -> None:
    await charged(provider, acquirer)

    with pytest.raises(ProviderRefused):
        await provider.cancel("ref_1")


async def test_the_bank_takes_money_back_once(
    provider: SandboxProvider, acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    await charged(provider, acquirer, paid=False)
    assert (await acquirer.post("/v1/qr/ref_1/reverse")).status_code == 409
    await acquirer.post("/v1/qr/ref_1/pay")

    for path in ("dispute", "reverse", "reverse"):
        assert (await acquirer.post(f"/v1/qr/ref_1/{path}")).status_code == 200

    expected = [("disputed", 50_000, None), ("reversed", 50_000, None)]
    assert [(one.kind, one.amount_idr, None) for one in (await provider.query("ref_1")).adjustments] == expected
    await until(lambda: sorted(adjustments(provider, hub)) == expected)
