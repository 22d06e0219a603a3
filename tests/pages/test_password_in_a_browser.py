"""The page where a password is chosen, in a real browser: set and logged in with, refused, over, and without a line."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect
from support.browser import DESK, PHONE, browsing, require_chromium, served, violations, wider_than_the_screen
from support.databases import fresh_database
from support.doors import link_in, log_in, post_mail
from support.hub import Hub
from support.shop import rows

pytestmark = pytest.mark.xdist_group("browser")  # one at a time: each takes much memory
SHOTS = os.environ.get("SOUNDBOX_SHOTS")  # a folder: every picture is kept there, to be looked at
PASSWORD = "perahu kertas di pelabuhan"
EMAIL = "merchant_owner@shop.test"


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One engine is enough for what a browser does."""
    return fresh_database(request, "sqlite", tmp_path)


@pytest.fixture
async def address(hub: Hub) -> AsyncIterator[str]:
    require_chromium()
    async with served(hub.app) as url:
        yield url


async def _link(hub: Hub, address: str, folder: Path) -> str:
    """The link that the newest mail brings to a merchant's owner who forgot the password."""
    await hub.http.post("/merchant/forgot-password", json={"email": EMAIL})
    page, token = link_in((await post_mail(hub, folder))[-1])
    return f"{page.replace(hub.app.state.public_url, address)}#{token}"


async def _type(page: Page, password: str, again: str | None = None) -> None:
    await page.locator("#password").fill(password)
    await page.locator("#again").fill(password if again is None else again)
    await page.locator("#choose button").click()


async def _looked_at(page: Page, name: str) -> None:
    """In both lights, on a phone, a small one and a desk."""
    for light in ("light", "dark"):
        await page.emulate_media(color_scheme=light)
        for size in (PHONE, PHONE | {"width": 320}, DESK):
            await page.set_viewport_size(size)
            assert not await violations(page), (name, light, size)
            assert not await wider_than_the_screen(page)
            if SHOTS:
                await page.screenshot(path=Path(SHOTS) / f"{name}-{size['width']}-{light}.png", full_page=True)


async def test_a_password_is_set_by_keyboard_and_lets_its_owner_in(hub: Hub, address: str, tmp_path: Path) -> None:
    asked: list[str] = []
    async with browsing() as page:
        page.on("request", lambda request: asked.append(request.url))
        link = await _link(hub, address, tmp_path / "mail")
        await page.goto(link)
        await expect(page.get_by_role("heading", name="Buat kata sandi Anda")).to_be_visible()
        await _looked_at(page, "choose-id")
        await page.get_by_role("link", name="English").click()
        await expect(page.get_by_text("It has at least 12 characters.")).to_be_visible()
        await page.locator("#password").focus()
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Tab")
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        done = page.get_by_role("heading", name="Your password is set")
        await expect(done).to_be_focused()
        await _looked_at(page, "done-en")
        assert page.url == f"{address}/portal/set-password?lang=en"

    inside = await log_in(hub, door="merchant", email=EMAIL, password=PASSWORD)
    assert inside.status_code == 200
    assert not [url for url in asked if link.partition("#")[2] in url.partition("#")[0]]


async def test_fields_are_known_to_password_managers_and_can_be_looked_at(
    hub: Hub, address: str, tmp_path: Path
) -> None:
    async with browsing() as page:
        await page.goto(await _link(hub, address, tmp_path / "mail"))
        fields = [page.get_by_label("Kata sandi baru"), page.get_by_label("Ulangi kata sandi")]
        for field in fields:
            await expect(field).to_have_attribute("autocomplete", "new-password")
            await expect(field).to_have_attribute("type", "password")
        await page.get_by_label("Tampilkan kata sandi").check()
        for field in fields:
            await expect(field).to_have_attribute("type", "text")
        small = await page.evaluate(
            "() => [...document.querySelectorAll('a, button, label.option, .field input')]"
            ".filter((one) => one.offsetParent && one.offsetHeight < 44).length"
        )
        assert small == 0


async def test_what_does_not_fit_is_said_where_it_was_typed(hub: Hub, address: str, tmp_path: Path) -> None:
    async with browsing(forgive="status of 4", locale="en-GB") as page:
        await page.goto(await _link(hub, address, tmp_path / "mail"))
        await _type(page, "too short")
        await expect(page.locator("#password-wrong")).to_have_text("Write 12 to 256 characters.")
        await expect(page.locator("#password")).to_be_focused()
        await _type(page, PASSWORD, again="something else altogether")
        await expect(page.locator("#password-wrong")).to_be_empty()
        await expect(page.locator("#again-wrong")).to_have_text("This is not the same as above.")
        await expect(page.locator("#again")).to_be_focused()
        await _type(page, "passwordpassword")
        alert = page.locator("#choose [role=alert]")
        await expect(alert).to_contain_text("too easily guessed. Choose another one.")
        await expect(alert).to_contain_text("made of words that are guessed first")  # as the server says it
        await _looked_at(page, "weak-en")
        assert await page.locator("#password").input_value() == "passwordpassword"
        await _type(page, PASSWORD)
        await expect(page.get_by_role("heading", name="Your password is set")).to_be_visible()


async def test_a_link_that_is_over_says_so_and_how_to_get_another(hub: Hub, address: str, tmp_path: Path) -> None:
    async with browsing(forgive="status of 404") as page:
        old = await _link(hub, address, tmp_path / "mail")
        await _link(hub, address, tmp_path / "mail")
        await page.goto(old)
        await _type(page, PASSWORD)
        await expect(page.get_by_role("heading", name="Tautan ini tidak berlaku lagi")).to_be_focused()
        await expect(page.get_by_text("Mintalah undangan baru")).to_be_visible()
        await expect(page.locator("#choose")).to_be_hidden()
        await _looked_at(page, "over-id")
        await page.get_by_role("button", name="Kirim tautan baru").click()
        await expect(page.locator("#email-wrong")).to_have_text("Tulis alamat e-mail Anda.")
        await page.get_by_label("Alamat e-mail").fill(EMAIL)
        await page.get_by_role("button", name="Kirim tautan baru").click()
        await expect(page.get_by_role("heading", name="Periksa e-mail Anda")).to_be_focused()

        newest = link_in((await post_mail(hub, tmp_path / "mail"))[-1])[1]
        await page.evaluate("(token) => { location.hash = token; }", newest)
        await _type(page, PASSWORD)
        await expect(page.get_by_role("heading", name="Kata sandi Anda sudah tersimpan")).to_be_visible()

    assert len(await rows(hub.app.state.database, "SELECT 1 AS one FROM one_time_token")) == 3
    assert (await log_in(hub, door="merchant", email=EMAIL, password=PASSWORD)).status_code == 200


@pytest.mark.parametrize("fragment", ["", "#", "#>"])
async def test_a_link_that_was_cut_off_is_not_tried(address: str, fragment: str) -> None:
    async with browsing(locale="en-GB") as page:
        await page.goto(f"{address}/console/set-password{fragment}")
        await expect(page.get_by_role("heading", name="This link is not complete")).to_be_visible()
        await expect(page.get_by_role("button", name="Send me a new link")).to_be_visible()
        await expect(page.locator("#choose")).to_be_hidden()


async def test_without_an_answer_it_says_that_and_keeps_what_was_typed(hub: Hub, address: str, tmp_path: Path) -> None:
    async with browsing(forgive="ERR_INTERNET_DISCONNECTED", locale="en-GB") as page:
        await page.goto(await _link(hub, address, tmp_path / "mail"))
        await page.context.set_offline(True)
        await _type(page, PASSWORD)
        await expect(page.locator("#choose [role=alert]")).to_contain_text("No answer came.")
        await page.context.set_offline(False)
        await page.locator("#choose button").click()
        await expect(page.get_by_role("heading", name="Your password is set")).to_be_visible()


@pytest.mark.parametrize(("status", "said"), [(429, "too many tries"), (503, "This did not work")])
async def test_a_server_that_cannot_now_is_told_apart(address: str, status: int, said: str) -> None:
    async def refuse(route: Route) -> None:
        await route.fulfill(status=status, json={"code": "X", "detail": "x"})

    async with browsing(forgive=f"status of {status}", locale="en-GB") as page:
        await page.route("**/lending/reset-password", refuse)
        await page.goto(f"{address}/bank/set-password#token")
        await _type(page, PASSWORD)
        await expect(page.locator("#choose [role=alert]")).to_contain_text(said)


@pytest.mark.parametrize(("locale", "said"), [("id-ID", "memerlukan JavaScript"), ("en-GB", "needs JavaScript")])
async def test_without_javascript_it_says_what_is_missing(address: str, locale: Any, said: str) -> None:
    async with browsing(java_script_enabled=False, locale=locale) as page:
        await page.goto(f"{address}/portal/set-password#token")
        await expect(page.get_by_role("heading", name=said)).to_be_visible()
        await expect(page.locator("#password")).to_be_hidden()
