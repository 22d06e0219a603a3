"""The payer's page in a real browser: scanned, paid, waited for, lost and found again."""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Locator, Page, expect
from support.browser import DESK, PHONE, browsing, require_chromium, served, violations, wider_than_the_screen
from support.databases import fresh_database
from support.hub import Hub
from support.pay import Till, open_till
from support.simulator import open_hub_with_acquirer

from soundbox_server.clock import now_ms

pytestmark = pytest.mark.xdist_group("browser")  # one at a time: each takes much memory
SHOTS = os.environ.get("SOUNDBOX_SHOTS")  # a folder: every picture is kept there, to be looked at


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One engine is enough for what a browser does."""
    return fresh_database(request, "sqlite", tmp_path)


@pytest.fixture
async def address(hub: Hub) -> AsyncIterator[str]:
    require_chromium()
    async with served(hub.app) as url:
        yield url
        hub.app.state.checkout_feed.close()


async def _keep(page: Page, name: str) -> None:
    if SHOTS:
        await page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


@pytest.mark.timed
async def test_a_payer_scans_pays_and_knows_within_two_seconds(
    hub: Hub, till: Till, address: str, tmp_path: Path
) -> None:
    presented = await till.present(
        success_url="https://shop.test/thanks",
        items=[
            {"id": "1", "name": "Laundry 5 kg", "price": 40_000, "quantity": 1},
            {"id": "2", "name": "Parfum ekstra", "price": 5_000, "quantity": 2},
        ],
    )
    async with browsing() as page:
        await page.goto(address + presented.path)
        await expect(page.locator(".chip")).to_have_text("◷ Menunggu pembayaran Anda")
        await expect(page.locator(".countdown time")).to_have_text(_A_COUNTDOWN)
        await page.locator(".qr img").screenshot(path=tmp_path / "qr.png")
        await _keep(page, "waiting-id-phone")
        await till.pay(presented)
        await expect(page.locator(".chip")).to_have_text("✓ Lunas", timeout=2_000)
        await expect(page.locator("#news")).to_have_text("✓ Lunas")
        await expect(page.get_by_role("link", name="Kembali ke Warung Bu Sari")).to_have_attribute(
            "href", "https://shop.test/thanks"
        )
        await _keep(page, "paid-id-phone")

    assert _scanned(tmp_path / "qr.png") == presented.payment.qr_payload


_A_COUNTDOWN = re.compile(r"^0[0-5]:[0-5][0-9]$")


def _scanned(picture: Path) -> str:
    zbarimg = shutil.which("zbarimg")
    if zbarimg is None:
        assert os.environ.get("CI") != "true", "CI runs with zbarimg"
        pytest.skip("zbarimg is not installed: apt-get install zbar-tools")
    seen = subprocess.run(
        [zbarimg, "--quiet", "--raw", "--nodbus", str(picture)], capture_output=True, check=True, text=True
    )
    return seen.stdout.strip()


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_everybody_can_use_it_in_every_state(hub: Hub, till: Till, address: str, theme: Any) -> None:
    long = "Toko Kelontong Serba Ada Bu Sari dan Anak-Anaknya Sekalian"
    presented = await till.present(
        9_999_999, description=long, items=[{"id": "1", "name": long * 2, "price": 9_999_999, "quantity": 1}]
    )
    states = {
        "expired": "expired", "awaiting_payment": "waiting", "cancelled": "cancelled", "failed": "failed",
        "needs_review": "review", "refunded": "refunded",
    }  # fmt: skip
    async with browsing(color_scheme=theme) as page:
        for n, (state, stage) in enumerate(states.items()):
            await till.set_state(presented, state)
            language, width = (("id", 360), ("en", 320))[n % 2]
            await page.set_viewport_size(PHONE | {"width": width})
            await page.goto(f"{address}{presented.path}?lang={language}")
            await expect(page.locator(f"[data-stage={stage}]")).to_be_visible()
            assert not await violations(page), (state, language)
            assert not await wider_than_the_screen(page)
            await _keep(page, f"{stage}-{language}-{width}-{theme}")
        await page.set_viewport_size(DESK)
        await _keep(page, f"{stage}-{language}-desk-{theme}")
        assert await page.evaluate("() => document.querySelector('main').offsetWidth") < 450


async def test_without_javascript_it_loads_itself_again(hub: Hub, till: Till, address: str) -> None:
    presented = await till.present()
    async with browsing(java_script_enabled=False) as page:
        await page.goto(address + presented.path)
        assert "Menunggu" in await page.content()
        await till.pay(presented)
        await page.wait_for_event("load", timeout=15_000)
        assert "Terima kasih" in await page.content()
        assert "http-equiv" not in await page.content()


async def test_the_keyboard_is_enough_to_say_that_one_has_paid(hub: Hub, till: Till, address: str) -> None:
    presented = await till.present()
    await till.set_state(presented, "expired")
    async with browsing(locale="en-GB") as page:
        await page.goto(f"{address}{presented.path}?lang=en")
        button = page.get_by_role("button", name="I have paid: look again")
        for _ in range(10):
            await page.keyboard.press("Tab")
            if await button.evaluate("(button) => button === document.activeElement"):
                break
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("We have asked the payment provider again")).to_be_visible()
        await till.pay(presented)
        await expect(page.locator(".chip")).to_have_text("✓ Paid", timeout=3_000)

    (watch,) = await till.fetch("SELECT asks FROM charge_watch")
    assert watch["asks"] < 0


async def test_a_payer_chooses_by_keyboard_and_pays_where_the_wallet_lives(database_url: str, tmp_path: Path) -> None:
    require_chromium()
    async with open_hub_with_acquirer(database_url, tmp_path / "home") as hub:
        till = await open_till(hub)
        presented = await till.present(payer_chooses=True)
        address = hub.app.state.public_url + presented.path
        async with browsing(permissions=["clipboard-read", "clipboard-write"]) as page:
            await page.goto(address)
            await _press_until(page, page.locator(".choice summary"))
            await page.keyboard.press("Enter")
            await _looked_at_in_every_light(page, "choice-id")
            await _press_until(page, page.locator("input[value=qris_dynamic]"))
            await page.keyboard.press("ArrowDown")
            await _press_until(page, page.get_by_role("button", name="Bayar dengan cara ini"))
            await page.keyboard.press("Enter")

            await expect(page.locator(".number")).to_have_text(re.compile("^99914[0-9]{11}$"))
            await _looked_at_in_every_light(page, "va-id")
            await page.get_by_role("button", name="Salin nomor").click()
            await expect(page.get_by_role("button", name="Tersalin")).to_be_visible()
            copied = await page.evaluate("() => navigator.clipboard.readText()")
            assert copied == await page.locator(".number").text_content()

            await page.get_by_role("button", name="Kembali ke kode QRIS").click()
            await expect(page.locator(".qr img")).to_be_visible()
            await page.goto(f"{address}?lang=en")
            await page.get_by_text("Pay another way").click()
            await page.get_by_label("GoPay").check()
            await page.get_by_role("button", name="Pay this way").click()
            await expect(page.get_by_role("link", name="Pay with GoPay")).to_be_visible()
            await _looked_at_in_every_light(page, "wallet-en")
            await page.get_by_role("link", name="Pay with GoPay").click()
            await page.get_by_role("button", name="Pay").click()
            await page.get_by_role("link", name="Back to the shop").click()
            await expect(page.locator(".chip")).to_have_text("✓ Paid", timeout=3_000)
            await expect(page.locator(".facts.small")).to_contain_text("GoPay")


async def _press_until(page: Page, wanted: Locator) -> None:
    """Tab along until this has the focus."""
    for _ in range(30):
        await page.keyboard.press("Tab")
        if await wanted.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError("the keyboard does not get there")


async def _looked_at_in_every_light(page: Page, name: str) -> None:
    lights: tuple[Literal["dark", "light"], ...] = ("dark", "light")
    for light, width in zip(lights, (320, 360), strict=True):
        await page.emulate_media(color_scheme=light)
        await page.set_viewport_size(PHONE | {"width": width})
        assert not await violations(page), (name, light)
        assert not await wider_than_the_screen(page)
        await _keep(page, f"{name}-{width}-{light}")


async def test_a_payer_without_a_connection_is_told_so_and_misses_nothing(hub: Hub, till: Till) -> None:
    presented = await till.present()
    async with browsing(forgive="ERR_CONNECTION_REFUSED") as page:
        async with served(hub.app) as address:
            await page.clock.install(time=now_ms() / 1000)
            await page.goto(address + presented.path)
            await expect(page.locator(".chip")).to_be_visible()
            hub.app.state.checkout_feed.close()
        await page.clock.run_for(60_000)
        await expect(page.locator("#lost")).to_contain_text("Tidak ada koneksi")
        await expect(page.locator("#bill")).to_have_class("card stack stale")
