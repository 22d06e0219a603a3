"""`/pay/{session}` as a server answers it: what each state says, who may ask for what, and how it stays up to date."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from support.hub import Hub
from support.pay import Presented, Till

from soundbox_server.pages.checkout import LIVE, STAGES, stage_of
from soundbox_server.pages.live import MOST_OF_ONE, Feed
from soundbox_server.payments.state import PaymentState

SAID = {
    "preparing": ("disiapkan", "being prepared"),
    "waiting": ("Menunggu pembayaran Anda", "Waiting for your payment"),
    "paid": ("Terima kasih", "Thank you"),
    "refunded": ("Dikembalikan", "given back"),
    "expired": ("Waktu pembayaran sudah habis", "The time to pay is over"),
    "cancelled": ("Toko membatalkan", "The shop has cancelled"),
    "failed": ("Tidak ada uang yang diambil", "No money was taken"),
    "review": ("Jangan bayar lagi", "do not pay again"),
    "unknown": ("Jangan bayar lagi", "do not pay again"),
}


async def _page(hub: Hub, presented: Presented, language: str = "id") -> httpx.Response:
    return await hub.http.get(presented.path, params={"lang": language})


@pytest.mark.parametrize("state", PaymentState)
async def test_every_state_is_said_in_both_languages(hub: Hub, till: Till, state: PaymentState) -> None:
    presented = await till.present()
    at = {"paid_at_ms": 1, "paid_amount": 50_000, "captured_at_ms": 1}
    booked = ", ".join(f"{name} = {value}" for name, value in at.items())
    captured = state in ("paid", "partially_refunded", "reversed", "disputed")
    also = f", {booked}" if captured else ""
    if state == "reversed":
        also += ", reversed_at_ms = 1"
    await till.execute(f"UPDATE payment SET state = $2{also} WHERE id = $1", presented.payment.payment_id, state)

    for language, words in zip(("id", "en"), SAID[STAGES[state]], strict=True):
        answer = await _page(hub, presented, language)
        assert answer.status_code == 200
        assert words in answer.text
        assert f'<html lang="{language}">' in answer.text
        assert "Rp\N{NO-BREAK SPACE}50.000" in answer.text
        assert ("qr.svg" in answer.text) is (state is PaymentState.AWAITING_PAYMENT)


def test_every_state_has_a_stage_and_none_that_may_still_change_is_thought_over() -> None:
    assert set(STAGES) == set(PaymentState)
    assert set(STAGES.values()) | {"unknown"} == set(SAID)
    for state in PaymentState:
        may_be_paid = state in ("created", "awaiting_payment", "expired", "cancelled", "failed", "needs_review")
        assert (STAGES[state] in LIVE) is may_be_paid


@pytest.mark.parametrize(
    ("payment", "attempt", "expires_at_ms", "stage"),
    [
        ("created", "submitted", 2, "preparing"),
        ("created", "unknown", 2, "unknown"),
        ("awaiting_payment", "active", 2, "waiting"),
        ("awaiting_payment", "active", 1, "expired"),
        ("paid", "active", 1, "paid"),
    ],
)
def test_what_the_payer_is_told(payment: str, attempt: str, expires_at_ms: int, stage: str) -> None:
    assert stage_of(payment, attempt, expires_at_ms=expires_at_ms, now_ms=1) == stage


async def test_a_page_is_private_and_loads_nothing_from_elsewhere(hub: Hub, till: Till) -> None:
    answer = await _page(hub, await till.present())

    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "style=" not in answer.text
    assert not re.search(r"<(style|script)(?![^>]*src=)", answer.text)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert addresses
    assert all(address.startswith(("/", "?lang=")) for address in addresses)
    for address in {address for address in addresses if address.startswith("/static/")}:
        kept = await hub.http.get(address)
        assert "immutable" in kept.headers["cache-control"]
        again = await hub.http.get(address, headers={"if-none-match": kept.headers["etag"]})
        assert again.status_code == 304


async def test_a_shop_s_words_are_shown_as_text_and_its_links_are_web_addresses(hub: Hub, till: Till) -> None:
    presented = await till.present(
        description="<script>alert(1)</script>",
        back_url="javascript:alert(1)",
        success_url="https://shop.test/thanks?order=1&x=<b>",
        items=[{"id": "1", "name": "<img src=x>", "price": 25_000, "quantity": 2}],
    )

    waiting = await _page(hub, presented)
    await till.pay(presented)
    paid = await _page(hub, presented)

    assert "<script>alert" not in waiting.text
    assert "<img src=x>" not in waiting.text
    assert "&lt;script&gt;alert(1)" in waiting.text
    assert "javascript:" not in waiting.text
    assert "2 × Rp\N{NO-BREAK SPACE}25.000" in waiting.text
    assert 'href="https://shop.test/thanks?order=1&amp;x=&lt;b&gt;"' in paid.text


async def test_a_number_a_wallet_and_a_provider_s_page_are_shown_as_they_are_paid(hub: Hub, till: Till) -> None:
    presented = await till.present()
    await till.execute(
        "UPDATE payment_attempt SET qr_payload = NULL, actions = $1",
        '{"va_number": "8808123456", "biller_code": "70012", "deeplink": "gojek://pay?id=1", '
        '"checkout_url": "javascript:alert(1)"}',
    )
    await till.execute("UPDATE payment SET method = 'va_mandiri', qr_mode = 'none'")

    answer = await _page(hub, presented, "en")

    for shown in ("8808123456", "70012", "Mandiri Virtual Account"):
        assert shown in answer.text
    assert 'href="gojek://pay?id=1"' in answer.text
    assert "javascript:" not in answer.text
    assert "qr.svg" not in answer.text


async def test_nobody_finds_a_page_that_is_not_there(hub: Hub) -> None:
    answer = await hub.http.get("/pay/pay_00000000000000000000000000", headers={"accept-language": "en-GB,en;q=0.8"})

    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "This page does not exist" in answer.text
    assert answer.headers["x-request-id"] in answer.text


async def test_the_qr_is_gone_once_it_cannot_be_paid(hub: Hub, till: Till) -> None:
    presented = await till.present()
    shown = await hub.http.get(f"{presented.path}/qr.svg")
    await till.pay(presented)
    gone = await hub.http.get(f"{presented.path}/qr.svg")

    assert shown.headers["content-type"] == "image/svg+xml"
    assert gone.status_code == 404


async def test_whoever_says_that_they_paid_has_the_provider_asked_again(hub: Hub, till: Till) -> None:
    presented = await till.present()
    await till.set_state(presented, "expired")
    before = await till.fetch("SELECT asks FROM charge_watch")

    answers = [await hub.http.post(f"{presented.path}/check?lang=en", headers=_FORM) for _ in range(5)]

    assert before[0]["asks"] == 0
    (watch,) = await till.fetch("SELECT asks FROM charge_watch")
    assert watch["asks"] < 0
    assert [answer.status_code for answer in answers] == [303, 303, 303, 303, 429]
    assert "We are asking already" in answers[-1].text
    shown = await hub.http.get(answers[0].headers["location"])
    assert "We have asked the payment provider again" in shown.text


_FORM = {"origin": "null", "sec-fetch-site": "same-origin"}  # as browsers send it without a referrer


@pytest.mark.parametrize(
    "headers", [{"origin": "https://elsewhere.test"}, {"origin": "null", "sec-fetch-site": "cross-site"}]
)
async def test_another_site_s_form_asks_nobody(hub: Hub, till: Till, headers: dict[str, str]) -> None:
    presented = await till.present()

    answer = await hub.http.post(f"{presented.path}/check", headers=headers)

    assert answer.status_code == 403
    (watch,) = await till.fetch("SELECT asks FROM charge_watch")
    assert watch["asks"] == 0


class _Pages:
    """What a feed asks: versions that the test changes."""

    def __init__(self) -> None:
        self.shown = {"a": "1"}
        self.questions = 0
        self.away = False

    async def versions(self, keys: object) -> dict[str, str]:
        self.questions += 1
        if self.away:
            raise ConnectionError("the database is away")
        return dict(self.shown)


async def _next(news: AsyncIterator[tuple[str, str] | None]) -> tuple[str, str] | None:
    return await asyncio.wait_for(anext(news, ("over", "")), 10)


async def test_a_browser_that_comes_back_gets_only_what_is_newer() -> None:
    pages = _Pages()
    feed = Feed(pages.versions, every_s=0.01)
    new, back = feed.news("a", seen=None), feed.news("a", seen="1")

    assert await _next(new) == ("version", "1")
    waiting = asyncio.ensure_future(_next(back))
    pages.shown["a"] = "2"

    assert await waiting == ("version", "2")
    assert await _next(new) == ("version", "2")
    await feed.aclose()


async def test_the_fifth_stream_of_a_page_ends_the_oldest() -> None:
    feed = Feed(_Pages().versions, every_s=0.01)
    streams = [feed.news("a", seen="1") for _ in range(MOST_OF_ONE + 1)]
    asked = [asyncio.ensure_future(_next(one)) for one in streams]

    assert await asked[0] == ("end", "superseded")
    assert not any(one.done() for one in asked[1:])
    feed.close()
    assert [await one for one in asked[1:]] == [("end", "closing")] * MOST_OF_ONE
    await feed.aclose()


async def test_a_feed_outlives_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundbox_server.pages.live.AWAY_S", 0.01)
    pages = _Pages()
    pages.away = True
    feed = Feed(pages.versions, every_s=0.01)
    asked = asyncio.ensure_future(_next(feed.news("a", seen=None)))
    async with asyncio.timeout(10):
        while pages.questions < 3:
            await asyncio.sleep(0)
    pages.away = False

    assert await asked == ("version", "1")
    await feed.aclose()


async def test_nobody_is_asked_when_nobody_looks() -> None:
    pages = _Pages()
    feed = Feed(pages.versions, every_s=0.001)
    looking = feed.news("a", seen=None)
    await _next(looking)
    await looking.aclose()  # type: ignore[attr-defined]
    assert feed._task is not None
    await asyncio.wait_for(feed._task, 10)
    asked = pages.questions

    assert feed.open_streams == 0
    assert pages.questions == asked
    await feed.aclose()
