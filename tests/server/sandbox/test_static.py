"""The sandbox's QR that hang at terminals."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from soundbox_server.payments import qris
from soundbox_server.providers.base import MerchantIdentity
from soundbox_server.providers.sandbox import SandboxProvider

from .conftest import API_KEY, SECRETS, Hub

Until = Callable[[Callable[[], Any]], Awaitable[Any]]

MERCHANT = {
    "merchant_id": "m_demo", "name": "Warung Demo", "city": "JAKARTA", "postal_code": "10110",
    "nmid": "ID1029384756012", "mcc": "5812", "criteria": "UMI",
}  # fmt: skip


async def issued(acquirer: httpx.AsyncClient, hub: Hub, reference: str = "stq_1") -> dict[str, Any]:
    asked = {"reference": reference, "merchant": MERCHANT, "callback_url": hub.url}
    answer = await acquirer.post("/v1/static", json=asked)
    assert answer.status_code in (200, 201), answer.text
    hanging: dict[str, Any] = answer.json()
    return hanging


async def test_a_static_qr_is_faultless_and_a_known_reference_gets_it_again(
    acquirer: httpx.AsyncClient, hub: Hub
) -> None:
    first = await issued(acquirer, hub)
    again = await issued(acquirer, hub)
    other = await issued(acquirer, hub, "stq_2")

    decoded = qris.decode(first["qr_payload"])
    assert decoded.strict_qris_ok
    assert decoded.qris is not None
    assert (decoded.qris.initiation_method, decoded.qris.amount) == ("static", None)
    assert again == first
    assert other["qr_payload"] != first["qr_payload"]


async def test_it_is_paid_again_and_again_each_time_as_money_of_its_own(
    acquirer: httpx.AsyncClient, hub: Hub, until: Until
) -> None:
    hanging = await issued(acquirer, hub)

    by_name = await acquirer.post("/v1/static/stq_1/pay", json={"amount": 15_000})
    by_text = await acquirer.post("/v1/pay", json={"amount": 15_000, "qr_payload": hanging["qr_payload"]})
    await until(lambda: len(hub.heard) == 2)

    said = [json.loads(body) for _, body in hub.heard]
    assert {(event["partner_reference"], event["status"], event["amount"]) for event in said} == {
        ("stq_1", "paid", 15_000)
    }
    assert len({event["rrn"] for event in said}) == len({event["transaction_id"] for event in said}) == 2
    references = {answer.json()["reference"] for answer in (by_name, by_text)}
    assert references == {f"stq_1:rrn:{event['rrn']}" for event in said}
    for reference in references:
        assert (await acquirer.get(f"/v1/qr/{reference}")).json()["status"] == "paid"


async def test_nobody_pays_without_an_amount_or_a_qr_that_was_never_issued(
    acquirer: httpx.AsyncClient, hub: Hub
) -> None:
    await issued(acquirer, hub)

    assert (await acquirer.post("/v1/static/stq_1/pay", json={})).status_code == 400
    assert (await acquirer.post("/v1/static/stq_9/pay", json={"amount": 1})).status_code == 404


async def test_the_provider_asks_for_one_and_gets_the_same_again(address: str, hub: Hub) -> None:
    provider = SandboxProvider(address, API_KEY, SECRETS, hub.url)
    try:
        first = await provider.issue_static("stq_7", MerchantIdentity(**MERCHANT))
        again = await provider.issue_static("stq_7", MerchantIdentity(**MERCHANT))
    finally:
        await provider.aclose()

    assert (first.provider, first.reference) == ("sandbox", "stq_7")
    assert first == again
