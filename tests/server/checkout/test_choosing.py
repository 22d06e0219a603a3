"""A payer who would rather pay otherwise: by what, at whose risk, and never twice without anybody noticing."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from support.hub import Hub
from support.partner import Partner
from support.shop import execute, row, rows

from soundbox_server import clock
from soundbox_server.db import Database
from soundbox_server.errors import Conflict, GatewayError
from soundbox_server.pages.checkout import CHOICES
from soundbox_server.payments.asking import ask_now, questions_of
from soundbox_server.payments.choosing import MOST_CHANGES, Wish, choose, offers
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.payments.jobs import Inquirer
from soundbox_server.providers.base import Charge, ChargeRequest, Method, ProviderRefused, ProviderUnknown
from soundbox_server.providers.sandbox import SandboxProvider

FORM = {"origin": "null", "sec-fetch-site": "same-origin"}


class Page:
    """A checkout page in the hands of a payer whose browser runs no script."""

    def __init__(self, hub: Hub, path: str) -> None:
        self.hub, self.path = hub, path

    async def look(self) -> str:
        answer = await self.hub.http.get(self.path, params={"lang": "en"})
        assert answer.status_code == 200, answer.text
        return answer.text

    async def seal(self) -> str:
        return seal_of(await self.look())

    async def choose(self, method: str, *, seal: str | None = None, **headers: str) -> httpx.Response:
        sent = {"method": method, "seal": await self.seal() if seal is None else seal}
        return await self.hub.http.post(f"{self.path}/choose?lang=en", data=sent, headers=FORM | headers)

    async def chosen(self, method: str) -> str:
        """The page after this choice, which is made."""
        answer = await self.choose(method)
        assert (answer.status_code, "not=" in answer.headers["location"]) == (303, False), answer.headers
        return await self.look()


def seal_of(html: str) -> str:
    return re.findall(r'name="seal" value="([0-9a-f]{64})"', html)[0]


@pytest.fixture
async def page(partner: Partner) -> Page:
    return await opened(partner)


async def opened(partner: Partner, **asked: Any) -> Page:
    """The page of a payment that its partner made for any method."""
    made = await partner.generate(payment_type="checkout_page", **asked)
    return Page(partner.hub, "/pay/" + made["payment_url"].rpartition("/")[2])


async def attempts(database: Database) -> list[dict[str, Any]]:
    return await rows(
        database,
        "SELECT id, payment_id, number, method, state, reference, provider_reference FROM payment_attempt "
        "ORDER BY created_at_ms, id",
    )


async def payment(database: Database) -> Mapping[str, Any]:
    return await row(database, "SELECT id, state, method, review_reason, current_attempt_id, amount FROM payment")


def simulator(hub: Hub) -> SandboxProvider:
    found = hub.app.state.simulator
    assert isinstance(found, SandboxProvider)
    return found


async def at_the_simulator(hub: Hub, found: list[dict[str, Any]]) -> list[str]:
    """What the acquirer says of these charges."""
    return [(await simulator(hub).query(one["reference"])).state for one in found]


async def paid(hub: Hub, attempt: Mapping[str, Any], **other: Any) -> None:
    """The acquirer calls back: this charge was paid."""
    (one,) = await rows(hub.app.state.database, "SELECT amount FROM payment WHERE id = $1", attempt["payment_id"])
    said = _Charged(attempt["reference"], one["amount"])
    answer = await hub.call_back(hub.said(said, **other))  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text


class _Charged:
    def __init__(self, reference: str, amount: int) -> None:
        self.reference, self.amount = reference, amount


async def inquire(hub: Hub, database: Database) -> None:
    """The worker asks about every charge, and nobody works on one any more."""
    await execute(database, "UPDATE payment_attempt SET lease_until_ms = 0")
    await execute(database, "UPDATE charge_watch SET ask_at_ms = 0")
    state = hub.app.state
    await Inquirer(database, Inquiry(database, state.payment_gateways, state.callback_desk.take)).tick()


async def test_a_payer_chooses_a_virtual_account_and_goes_back_to_the_qr(
    hub: Hub, page: Page, database: Database
) -> None:
    waiting = await page.look()
    by_number = await page.chosen("va_bca")
    (first, second) = await attempts(database)
    by_qr = await page.chosen("qris_dynamic")

    assert "Virtual account" in waiting
    assert "BCA Virtual Account" in by_number
    assert re.search(r'data-copy="99914[0-9]{11}"', by_number)
    assert re.search(r'<span class="visually-hidden">9 9 9 1, 4 ', by_number)
    assert "qr.svg" not in by_number
    assert "Back to the QRIS code" in by_number
    assert (first["state"], second["state"], second["number"]) == ("failed", "active", 2)
    assert "qr.svg" in by_qr
    found = await attempts(database)
    assert [one["method"] for one in found] == ["qris_dynamic", "va_bca", "qris_dynamic"]
    assert await at_the_simulator(hub, found) == ["cancelled", "cancelled", "open"]
    assert (await payment(database))["method"] == "qris_dynamic"


async def test_a_wallet_is_a_link_to_its_own_page_and_what_is_paid_there_is_seen_here(
    hub: Hub, page: Page, database: Database
) -> None:
    html = await page.chosen("gopay")
    (address,) = re.findall(r'<a class="button" href="([^"]+)" rel="noreferrer">Pay with GoPay', html)
    async with httpx.AsyncClient() as browser:
        shown = await browser.get(address)
        await browser.post(address)
    async with asyncio.timeout(20):
        while (await payment(database))["state"] != "paid":
            await asyncio.sleep(0.02)

    assert f"{page.path}?lang=en" in shown.text  # where the wallet sends the payer back to
    assert "Thank you" in await page.look()
    assert (await payment(database))["method"] == "gopay"


async def test_only_what_the_merchant_s_providers_take_is_offered(hub: Hub, partner: Partner) -> None:
    anything = await opened(partner, transaction_id="any")
    only_qris = await partner.generate("only-qris")
    html = await anything.look()

    told = set(re.findall(r'type="radio" name="method" value="([a-z_]+)"', html))
    assert told == set(Method) - {"ovo"}
    gateways = hub.app.state.gateways
    assert Method.QRIS_DYNAMIC not in offers(gateways, "mer_nobody", 10_000_001)
    session = await row(
        hub.app.state.database, "SELECT session_id FROM partner_payment WHERE transaction_id = $1", "only-qris"
    )
    fixed = Page(hub, f"/pay/{session['session_id']}")
    assert only_qris["qris"]["qr_content"]
    assert "/choose" not in await fixed.look()
    refused = await fixed.choose("va_bca", seal=seal_of(html))
    assert refused.headers["location"] == f"{fixed.path}?lang=en"
    assert "va_bca" not in await fixed.look()


async def test_a_form_of_another_page_another_site_or_another_moment_changes_nothing(
    hub: Hub, page: Page, partner: Partner, database: Database
) -> None:
    seal = await page.seal()
    other = await opened(partner, transaction_id="another")
    await execute(database, "UPDATE payment SET created_at_ms = 1 WHERE order_code IS NULL")

    elsewhere = await page.choose("va_bca", **{"sec-fetch-site": "cross-site"})
    strange = await page.choose("va_bca", seal=await other.seal())
    bare = await page.choose("va_bca", seal="")
    unheard = await page.choose("bitcoin", seal=seal)
    await page.chosen("gopay")
    stale = await page.choose("va_bca", seal=seal)

    assert [elsewhere.status_code, unheard.status_code] == [403, 422]
    assert [one.status_code for one in (strange, bare, stale)] == [303] * 3
    assert "va_bca" not in {one["method"] for one in await attempts(database)}


async def test_what_was_chosen_while_somebody_else_chose_is_refused_under_the_lock(
    hub: Hub, page: Page, database: Database
) -> None:
    """The page looked before; what counts is what stands when the change begins."""
    (first,) = await attempts(database)
    await page.chosen("gopay")
    state = hub.app.state
    late = Wish(payment_id=first["payment_id"], seen=first["id"], method=Method.VA_BCA, page_url="https://hub.test/")

    with pytest.raises(Conflict):
        await choose(state.database, state.gateways, state.inquiry, late)

    assert [one["method"] for one in await attempts(database)] == ["qris_dynamic", "gopay"]


async def test_of_twenty_choices_at_once_one_charge_is_left_that_can_be_paid(
    hub: Hub, page: Page, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundbox_server.pages.checkout.CHOICES", 20)
    seal = await page.seal()
    methods = ["va_bca", "va_bni", "gopay", "dana"] * 5

    answers = await asyncio.gather(*(page.choose(method, seal=seal) for method in methods))

    assert {answer.status_code for answer in answers} == {303}
    found = await attempts(database)
    assert [one["state"] for one in found].count("active") == 1
    assert (await at_the_simulator(hub, found)).count("open") == 1
    (alive,) = [one for one in found if one["state"] == "active"]
    assert (await payment(database))["current_attempt_id"] == alive["id"]
    assert alive["number"] == max(one["number"] for one in found)


async def test_money_for_what_was_withdrawn_pays_and_what_is_shown_is_withdrawn_then(
    hub: Hub, page: Page, database: Database
) -> None:
    await page.chosen("va_bca")
    by_qr, by_number = await attempts(database)

    await paid(hub, by_qr)
    late = await payment(database)
    await inquire(hub, database)

    assert (late["state"], late["method"], late["current_attempt_id"]) == ("paid", "qris_dynamic", by_qr["id"])
    assert await at_the_simulator(hub, [by_number]) == ["cancelled"]
    assert "Thank you" in await page.look()


async def test_money_that_comes_by_both_is_kept_apart_and_the_payer_told(
    hub: Hub, page: Page, database: Database
) -> None:
    await page.chosen("va_bca")
    by_qr, by_number = await attempts(database)

    await paid(hub, by_number)
    await paid(hub, by_qr)

    stands = await payment(database)
    assert (stands["state"], stands["method"], stands["review_reason"]) == ("paid", "va_bca", "paid_twice")
    captures = await rows(database, "SELECT id FROM journal WHERE kind = 'capture'")
    apart = await rows(database, "SELECT id FROM journal WHERE kind = 'suspense'")
    assert (len(captures), len(apart)) == (1, 1)
    assert "Please do not pay again." in await page.look()
    operator = await hub.http.post(
        f"/admin/transactions/{stands['id']}/resolve",
        json={"action": "refund", "reason": "paid by both"},
        headers=await hub.admit("per_money", "finance"),
    )
    assert operator.status_code in (200, 202), operator.text
    (refund,) = await rows(database, "SELECT attempt_id FROM refund")
    assert refund["attempt_id"] == by_qr["id"]  # the money that came besides goes back the way it came


async def test_a_choice_in_the_moment_of_paying_pays_once(hub: Hub, page: Page, database: Database) -> None:
    """The acquirer has the money, and its callback is still under way."""
    (by_qr,) = await attempts(database)
    await _faults(hub, drop_callbacks=1)
    await simulator(hub).pay(by_qr["reference"])

    await page.choose("va_bca")

    found = await attempts(database)
    assert (await payment(database))["state"] == "paid"
    assert (await payment(database))["current_attempt_id"] == by_qr["id"]
    assert await at_the_simulator(hub, found) == ["paid", "cancelled"]
    assert "Thank you" in await page.look()


async def test_a_choice_that_its_provider_refuses_leaves_the_qr(
    hub: Hub, page: Page, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise ProviderRefused("No.")

    monkeypatch.setattr(SandboxProvider, "create", refuse)
    refused = await page.choose("va_bca")

    shown = (await hub.http.get(refused.headers["location"])).text
    assert "not available right now" in shown
    assert "qr.svg" in shown
    assert (await payment(database))["method"] == "qris_dynamic"
    assert [one["state"] for one in await attempts(database)] == ["active", "failed"]


@pytest.mark.parametrize("fault", [ProviderRefused("No."), ProviderUnknown("Nobody knows.")])
async def test_where_the_qr_cannot_be_withdrawn_it_stays_and_the_new_charge_goes(
    hub: Hub, page: Page, database: Database, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    (by_qr,) = await attempts(database)
    cancel = SandboxProvider.cancel

    async def stubborn(self: SandboxProvider, reference: str, **other: Any) -> None:
        if reference == by_qr["reference"]:
            raise fault
        await cancel(self, reference, **other)

    monkeypatch.setattr(SandboxProvider, "cancel", stubborn)
    answer = await page.choose("va_bca")

    assert "not=" in answer.headers["location"]
    assert "qr.svg" in await page.look()
    assert await at_the_simulator(hub, await attempts(database)) == ["open", "cancelled"]
    await paid(hub, by_qr)
    assert (await payment(database))["state"] == "paid"


@pytest.mark.parametrize("asked_by", ["worker", "operator"])
async def test_whoever_asks_about_a_charge_while_it_is_made_leaves_one_that_can_be_paid(
    hub: Hub, page: Page, database: Database, monkeypatch: pytest.MonkeyPatch, asked_by: str
) -> None:
    """The provider knows of none yet."""
    create, inquiry = SandboxProvider.create, hub.app.state.inquiry
    (by_qr,) = await attempts(database)

    async def asked_meanwhile(self: SandboxProvider, request: ChargeRequest) -> Charge:
        now_ms, payment_id = clock.now_ms(), by_qr["payment_id"]
        if asked_by == "worker":
            await database.write(lambda tx: ask_now(tx, payment_id, now_ms=now_ms))
            await Inquirer(database, inquiry).tick()
        else:
            for question in await database.read(lambda tx: questions_of(tx, payment_id)):
                await inquiry.ask(question)
        return await create(self, request)

    with monkeypatch.context() as busy:
        busy.setattr(SandboxProvider, "create", asked_meanwhile)
        answer = await page.choose("va_bca")

    told = {"worker": (False, ["cancelled", "open"]), "operator": (True, ["open", "cancelled"])}
    stand = await at_the_simulator(hub, await attempts(database))
    assert ("not=kept" in answer.headers["location"], stand) == told[asked_by]
    assert (await payment(database))["state"] == "awaiting_payment"


async def test_what_a_crash_left_half_done_is_carried_on(
    hub: Hub, page: Page, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends when the new charge is made and the old one not yet withdrawn."""

    class Crash(BaseException): ...

    async def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr("soundbox_server.payments.choosing._finish", crash)
        with pytest.raises(Crash):
            await page.choose("va_bca")
    before = await page.look()
    await inquire(hub, database)

    assert "qr.svg" in before  # nobody sees the new one yet
    assert "BCA Virtual Account" in await page.look()
    assert await at_the_simulator(hub, await attempts(database)) == ["cancelled", "open"]


@pytest.mark.parametrize("answered", [True, False])
async def test_a_change_that_the_worker_finished_meanwhile_stays_as_it_is(
    hub: Hub, page: Page, database: Database, answered: bool
) -> None:
    """The provider takes so long to withdraw the QR that nobody believes in the request any more."""
    cancel = SandboxProvider.cancel

    async def slow(self: SandboxProvider, reference: str, **other: Any) -> None:
        slowly.undo()
        await cancel(self, reference, **other)
        await inquire(hub, database)
        if not answered:
            raise GatewayError("The answer was lost.")

    slowly = pytest.MonkeyPatch()
    slowly.setattr(SandboxProvider, "cancel", slow)
    answer = await page.choose("va_bca")

    assert ("not=" not in answer.headers["location"]) == answered
    assert "BCA Virtual Account" in await page.look()
    assert (await payment(database))["state"] == "awaiting_payment"
    found = await attempts(database)
    assert await at_the_simulator(hub, found) == ["cancelled", "open"]
    assert found[1]["number"] == 2


async def test_a_provider_that_calls_what_it_withdrew_failed_ends_no_payment(
    hub: Hub, page: Page, database: Database
) -> None:
    """Its notification is here before the answer to our question."""
    cancel = SandboxProvider.cancel
    (by_qr,) = await attempts(database)

    async def notify(self: SandboxProvider, reference: str, **other: Any) -> None:
        await cancel(self, reference, **other)
        if reference == by_qr["reference"]:
            await paid(hub, by_qr, status="failed")

    with pytest.MonkeyPatch.context() as hasty:
        hasty.setattr(SandboxProvider, "cancel", notify)
        await page.chosen("va_bca")

    assert (await payment(database))["state"] == "awaiting_payment"
    assert await at_the_simulator(hub, await attempts(database)) == ["cancelled", "open"]
    assert [one["reason"] for one in await rows(database, "SELECT reason FROM provider_event")] == [
        "attempt_superseded"
    ]


async def test_a_charge_that_cannot_be_withdrawn_is_not_asked_about_without_end(
    hub: Hub, page: Page, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise ProviderRefused("No.")

    await page.chosen("va_bca")
    by_qr, _ = await attempts(database)
    await paid(hub, by_qr)
    monkeypatch.setattr(SandboxProvider, "cancel", refuse)
    await inquire(hub, database)

    due = await rows(database, "SELECT attempt_id FROM charge_watch WHERE ask_at_ms <= $1", clock.now_ms())
    assert due == []


async def test_a_charge_whose_making_was_never_answered_is_withdrawn(hub: Hub, page: Page, database: Database) -> None:
    await _faults(hub, lose_answers=9)
    answer = await page.choose("gopay")
    shown = (await hub.http.get(answer.headers["location"])).text
    await _faults(hub)
    await inquire(hub, database)

    assert "has not answered" in shown
    assert "qr.svg" in shown
    assert await at_the_simulator(hub, await attempts(database)) == ["open", "cancelled"]
    assert (await payment(database))["method"] == "qris_dynamic"


async def test_who_was_told_to_pay_as_shown_finds_the_same_way_to_pay_later(
    hub: Hub, page: Page, database: Database
) -> None:
    """The QR, whose making nobody answered, turns up at its provider."""
    await page.chosen("va_bca")
    await _faults(hub, lose_answers=9)
    answer = await page.choose("qris_dynamic")
    await _faults(hub)
    await inquire(hub, database)

    assert "not=unanswered" in answer.headers["location"]
    assert "BCA Virtual Account" in await page.look()
    assert await at_the_simulator(hub, await attempts(database)) == ["cancelled", "open", "cancelled"]


async def test_nobody_changes_their_mind_for_ever(
    hub: Hub, page: Page, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundbox_server.pages.checkout.CHOICES", 100)
    for n in range(MOST_CHANGES):
        await page.chosen(("va_bca", "gopay")[n % 2])
    last = await page.choose("qris_dynamic")

    assert last.headers["location"].endswith("not=kept")
    assert len(await attempts(database)) == MOST_CHANGES + 1


async def test_nobody_makes_providers_busy_from_this_page(page: Page, database: Database) -> None:
    seal = await page.seal()
    answers = [await page.choose("qris_dynamic", seal=seal) for _ in range(CHOICES + 1)]

    assert [answer.status_code for answer in answers] == [303] * CHOICES + [429]
    assert len(await attempts(database)) == 1


async def test_a_bill_that_has_ended_is_not_revived(hub: Hub, page: Page, database: Database) -> None:
    seal = await page.seal()
    await execute(database, "UPDATE payment SET expires_at_ms = $1", clock.now_ms() - 1)

    await page.choose("va_bca", seal=seal)

    assert len(await attempts(database)) == 1
    assert "/choose" not in await page.look()


async def _faults(hub: Hub, **faults: int) -> None:
    """What the acquirer does wrong from now on."""
    settings = hub.app.state.settings
    headers = {"authorization": f"Bearer {settings.sandbox_api_key}"}
    async with httpx.AsyncClient(base_url=settings.sandbox_url, headers=headers) as client:
        answer = await client.put("/v1/faults", json=faults)
    assert answer.status_code == 200, answer.text
