"""What monitoring is told of payments and providers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from support.hub import Hub
from support.shop import LATE_REPORT_MS, NOW, TELLING, Shop, report, static_report, take

from soundbox_server import metrics
from soundbox_server.db import Database, Statements
from soundbox_server.errors import GatewayError
from soundbox_server.payments import charging
from soundbox_server.payments.service import Received, take_reports
from soundbox_server.providers.base import ProviderUnknown, ProviderUnreachable
from soundbox_server.providers.calls import Calls


def value(name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0


def paid(outcome: str, qr_mode: str = "dynamic") -> float:
    return value("soundbox_payments_total", provider="sandbox", qr_mode=qr_mode, outcome=outcome)


async def test_a_providers_word_is_counted_by_what_it_led_to(database: Database, shop: Shop) -> None:
    device = await shop.box()
    await shop.static_qr()
    first, second, third = [await shop.payment(device) for _ in range(3)]
    before = [paid("paid"), paid("paid", "static"), paid("failed"), paid("needs_review")]
    said = report(first)

    await take(database, said, static_report(), report(second, status="failed"), report(third, amount=1))
    await take(database, said)

    after = [paid("paid"), paid("paid", "static"), paid("failed"), paid("needs_review")]
    assert [now - was for now, was in zip(after, before, strict=True)] == [1, 1, 1, 1]


async def test_what_was_rolled_back_is_not_counted(database: Database, shop: Shop) -> None:
    payment = await shop.payment(await shop.box())
    before = paid("paid")

    async def fail(tx: Statements) -> None:
        received = Received(report=report(payment), request_id="req_1", received_at_ms=NOW)
        await take_reports(tx, [received], now_ms=NOW, telling=TELLING, late_report_ms=LATE_REPORT_MS)
        raise RuntimeError("the commit fails")

    with pytest.raises(RuntimeError):
        await database.write(fail)

    assert paid("paid") == before


async def test_asking_for_a_charge_is_counted_by_how_it_ended(database: Database, shop: Shop) -> None:
    def charged(outcome: str) -> float:
        return value("soundbox_charges_total", provider="sandbox", outcome=outcome)

    before = [charged(outcome) for outcome in ("issued", "failed", "unknown")]
    device = await shop.box()
    issued = await shop.payment(device)
    for answered in (
        charging.Answered(pending=issued, error=GatewayError("no")),
        charging.Answered(pending=issued, error=GatewayError("?"), unknown=True),
    ):
        await database.write(lambda tx, answered=answered: charging.record_answer(tx, answered, now_ms=1))

    after = [charged(outcome) for outcome in ("issued", "failed", "unknown")]
    assert [now - was for now, was in zip(after, before, strict=True)] == [1, 1, 1]


Answer = Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]]


async def _answers(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(404)


async def _is_away(_request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody listens")


async def _fails(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(500)


@pytest.mark.parametrize(
    ("answer", "outcome", "raised"),
    [(_answers, "answered", None), (_is_away, "refused", ProviderUnreachable), (_fails, "unknown", ProviderUnknown)],
)
async def test_a_request_to_a_provider_is_counted_and_timed(
    answer: Answer, outcome: str, raised: type[Exception] | None
) -> None:
    calls = Calls(f"watched-{outcome}", httpx.AsyncClient(transport=httpx.MockTransport(answer)))

    asking = calls.send("POST", "http://partner.test/", headers={}, idempotent=False)
    failure = (await asyncio.gather(asking, return_exceptions=True))[0]
    await calls.aclose()

    name = f"watched-{outcome}"
    assert raised is None or isinstance(failure, raised)
    assert value("soundbox_provider_requests_total", provider=name, outcome=outcome) == 1
    timed = value("soundbox_provider_request_seconds_count", provider=name)
    assert timed == (0 if outcome == "refused" else 1)


async def test_the_page_tells_how_many_wait_and_who_was_refused(hub: Hub, shop: Shop) -> None:
    await shop.payment(await shop.box())
    body = b'{"event_id":"evt_1"}'
    before = value("soundbox_callbacks_total", partner="sandbox", outcome="invalid_signature")

    refused = await hub.call_back(body, hub.signed(body, secret="another"))
    page = (await hub.http.get("/metrics")).text

    assert refused.status_code == 401
    assert value("soundbox_callbacks_total", partner="sandbox", outcome="invalid_signature") == before + 1
    assert "\nsoundbox_payments_waiting 1.0\n" in page
