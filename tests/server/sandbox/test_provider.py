"""The hub's adapter against the acquirer: what it knows, and above all what it admits not to know."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from soundbox_server.errors import InvalidSignature
from soundbox_server.providers.base import (
    ChargeRequest,
    ChargeStatus,
    MerchantIdentity,
    Method,
    ProviderRefused,
    ProviderUnknown,
    ProviderUnreachable,
)
from soundbox_server.providers.sandbox import SandboxProvider
from soundbox_server.sandbox.app import create_app
from soundbox_server.sandbox.store import open_store

from .conftest import API_KEY, SECRETS, Hub, serving

Until = Callable[[Callable[[], Any]], Awaitable[Any]]

MERCHANT = MerchantIdentity(
    merchant_id="mrc_1", name="TOKO UJI", city="JAKARTA", postal_code="10110", mcc="5411", criteria="UMI"
)


def request(reference: str = "ref_1", amount_idr: int = 25_000) -> ChargeRequest:
    expires_at_ms = time.time_ns() // 1_000_000 + 300_000
    return ChargeRequest(reference=reference, amount_idr=amount_idr, expires_at_ms=expires_at_ms, merchant=MERCHANT)


@pytest.fixture
async def provider(address: str, hub: Hub) -> AsyncIterator[SandboxProvider]:
    provider = SandboxProvider(address, API_KEY, SECRETS, hub.url, total_timeout_s=2)
    yield provider
    await provider.aclose()


async def test_a_charge_is_created_and_found_again(provider: SandboxProvider) -> None:
    asked = request()
    charge = await provider.create(asked)
    again = await provider.create(asked)
    status = await provider.query("ref_1")

    assert (charge.reference, charge.amount_idr, charge.expires_at_ms) == ("ref_1", 25_000, asked.expires_at_ms)
    assert again == charge
    assert status.charge is not None
    assert (status.state, status.charge.qr_payload, status.report) == ("open", charge.qr_payload, None)


@pytest.mark.parametrize(
    ("method", "pays_by"),
    [(Method.QRIS_DYNAMIC, "qr_payload"), (Method.VA_BCA, "va_number"), (Method.CARD_HOSTED, "checkout_url")],
)
async def test_every_kind_of_charge_is_issued_paid_and_withdrawn(
    provider: SandboxProvider, hub: Hub, until: Until, method: Method, pays_by: str
) -> None:
    paid, withdrawn = [
        await provider.create(replace(request(reference), method=method, success_url="https://shop.test/pay/1"))
        for reference in ("ref_paid", "ref_withdrawn")
    ]
    await provider.pay("ref_paid")
    await provider.cancel("ref_withdrawn", method=method)
    found = await provider.query("ref_paid", method=method)

    by = [name for name in ("qr_payload", "va_number", "checkout_url") if getattr(paid, name)]
    assert by == [pays_by]
    assert (found.state, found.charge) == ("paid", replace(paid, body=found.charge.body if found.charge else b""))
    assert (await provider.query("ref_withdrawn", method=method)).state == "cancelled"
    await until(lambda: hub.heard)
    assert getattr(withdrawn, pays_by) != getattr(paid, pays_by)


async def test_a_wallet_s_page_is_paid_once_and_leads_back(provider: SandboxProvider, hub: Hub, until: Until) -> None:
    asked = replace(request(), method=Method.GOPAY, success_url='https://shop.test/pay/1?a="b"')
    page = (await provider.create(asked)).checkout_url or ""
    number = (await provider.create(replace(request("ref_va"), method=Method.VA_BNI))).provider_transaction_id

    async with httpx.AsyncClient(follow_redirects=True) as browser:
        waiting = await browser.get(page)
        paid = await browser.post(page)
        again = await browser.post(page)
        nobodys = await browser.get(page.rpartition("/")[0] + f"/{number}")

    assert "<button>" in waiting.text
    assert 'href="https://shop.test/pay/1?a=&quot;b&quot;"' in waiting.text
    assert "<button>" not in paid.text
    assert (again.status_code, nobodys.status_code) == (200, 404)
    await until(lambda: hub.heard)
    assert len(hub.heard) == 1


async def test_a_file_of_the_time_of_qr_alone_is_read_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.execute("CREATE TABLE charge (reference TEXT, created_at_ms INT, pays_itself_at_ms INT, paid_at_ms INT)")
        old.execute("INSERT INTO charge VALUES ('ref_old', 1, NULL, NULL)")
    async with open_store(tmp_path / "old.db") as store:
        found = await store.run(lambda connection: connection.execute("SELECT * FROM charge").fetchone())

    assert (found["reference"], found["method"], found["return_url"]) == ("ref_old", "qris_dynamic", None)


async def test_a_charge_that_never_was_is_not_found(provider: SandboxProvider) -> None:
    assert await provider.query("ref_unknown") == ChargeStatus(reference="ref_unknown", state="not_found")


async def test_a_query_tells_exactly_what_the_callback_tells(
    provider: SandboxProvider, acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    await provider.create(request())
    await acquirer.post("/v1/qr/ref_1/pay")
    await until(lambda: hub.heard)
    headers, body = hub.heard[0]

    called_back = provider.read_callback(headers, body, now_ms=time.time_ns() // 1_000_000)
    assert (await provider.query("ref_1")).report == called_back
    with pytest.raises(InvalidSignature):
        provider.read_callback(headers, body + b" ", now_ms=time.time_ns() // 1_000_000)


async def test_a_lost_answer_is_repeated_and_finds_the_charge(
    provider: SandboxProvider, acquirer: httpx.AsyncClient
) -> None:
    await acquirer.put("/v1/faults", json={"lose_answers": 1})

    assert (await provider.create(request())).reference == "ref_1"
    assert len((await acquirer.get("/v1/qr")).json()["charges"]) == 1


async def test_answers_that_stay_lost_leave_the_outcome_unknown_until_a_query(
    provider: SandboxProvider, acquirer: httpx.AsyncClient
) -> None:
    await acquirer.put("/v1/faults", json={"lose_answers": 2})

    with pytest.raises(ProviderUnknown):
        await provider.create(request())
    assert (await provider.query("ref_1")).state == "open"


async def test_a_failing_acquirer_leaves_the_outcome_unknown(
    provider: SandboxProvider, acquirer: httpx.AsyncClient
) -> None:
    await acquirer.put("/v1/faults", json={"create_failures": 2})

    with pytest.raises(ProviderUnknown):
        await provider.create(request())
    assert (await provider.query("ref_1")).state == "not_found"


async def test_an_answer_that_takes_too_long_leaves_the_outcome_unknown(
    address: str, hub: Hub, acquirer: httpx.AsyncClient
) -> None:
    provider = SandboxProvider(address, API_KEY, SECRETS, hub.url, total_timeout_s=0.3)
    await acquirer.put("/v1/faults", json={"create_delay_ms": 60_000})
    started = time.monotonic()

    with pytest.raises(ProviderUnknown):
        await provider.create(request())
    assert time.monotonic() - started < 20  # and not the minute that the answer takes
    await provider.aclose()


async def test_a_no_is_a_no(provider: SandboxProvider) -> None:
    await provider.create(request())

    with pytest.raises(ProviderRefused):
        await provider.create(request(amount_idr=30_000))
    with pytest.raises(ProviderRefused):
        await provider.create(request("ref_2", amount_idr=10_000_001))


async def test_a_wrong_key_is_a_no_and_not_a_charge_that_never_was(address: str, hub: Hub) -> None:
    provider = SandboxProvider(address, "wrong", SECRETS, hub.url)
    with pytest.raises(ProviderRefused):
        await provider.query("ref_1")
    await provider.aclose()

    lost = SandboxProvider(f"{address}/elsewhere", API_KEY, SECRETS, hub.url)
    with pytest.raises(ProviderRefused):
        await lost.query("ref_1")
    await lost.aclose()


async def test_while_one_is_slow_the_others_are_refused_and_not_kept_waiting(
    address: str, hub: Hub, acquirer: httpx.AsyncClient
) -> None:
    provider = SandboxProvider(
        address, API_KEY, SECRETS, hub.url, total_timeout_s=0.5, calls_at_once=1, calls_waiting=1
    )
    await acquirer.put("/v1/faults", json={"create_delay_ms": 60_000})
    outcomes = await asyncio.gather(*(provider.create(request(f"ref_{n}")) for n in range(4)), return_exceptions=True)

    # The first was on its way, the second waited in vain, the others found the waiting room full.
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [ProviderUnknown, ProviderUnreachable, ProviderUnreachable, ProviderUnreachable]
    await provider.aclose()


async def test_after_repeated_failures_the_acquirer_is_left_in_peace_and_then_tried_again(
    database: Path, hub: Hub, until: Until
) -> None:
    app = create_app(database=database, api_key=API_KEY, secrets=SECRETS)
    with serving(app) as address:
        provider = SandboxProvider(address, API_KEY, SECRETS, hub.url, failures_to_open=2, rest_s=0.5)
        async with httpx.AsyncClient(base_url=address, headers={"authorization": f"Bearer {API_KEY}"}) as acquirer:
            await acquirer.put("/v1/faults", json={"create_failures": 1_000})
            for _ in range(2):
                with pytest.raises(ProviderUnknown):
                    await provider.create(request())
            before = (await acquirer.get("/v1/faults")).json()["create_failures"]

            with pytest.raises(ProviderRefused):
                await provider.create(request())
            assert (await acquirer.get("/v1/faults")).json()["create_failures"] == before

            await acquirer.put("/v1/faults", json={})

            async def works_again() -> bool:
                try:
                    return bool(await provider.create(request()))
                except ProviderRefused:
                    return False

            assert await until(works_again)
        await provider.aclose()


async def test_without_a_secret_there_is_no_provider() -> None:
    for secrets in ([], [b""], [b"one", b""]):
        with pytest.raises(ValueError, match="secret"):
            SandboxProvider("http://127.0.0.1:1", API_KEY, secrets, "http://127.0.0.1:1/callback")
