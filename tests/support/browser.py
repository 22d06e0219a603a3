"""A real browser looking at the API over a real socket."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.base import AXE_FILE_PATH
from fastapi import FastAPI
from playwright.async_api import ConsoleMessage, Page, async_playwright
from support.ports import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb", "--disable-dev-shm-usage",
]  # fmt: skip
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 800}


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The address where this app, whose lifespan has begun, answers on a socket of its own."""
    port = free_port()
    config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, access_log=False, http="httptools")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server._serve())  # `serve` would take the test's signals
    try:
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.force_exit = server.should_exit = True
        await task


def require_chromium() -> None:
    """Skips the test where there is none; CI has it."""
    if CHROMIUM is None:
        assert os.environ.get("CI") != "true", "CI runs with Chromium"
        pytest.skip("Chromium is not installed: apt-get install chromium")


@asynccontextmanager
async def browsing(*, forgive: str | None = None, **options: Any) -> AsyncIterator[Page]:
    """A page of a fresh browser. Whatever the browser complains of, or loads from elsewhere, fails the test; `forgive`
    is what the test makes it complain of. `options` are the context's."""
    assert CHROMIUM, "Chromium is not installed: scripts/test installs Debian's."
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (forgive and forgive in message.text):
            complaints.append(message.text)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            context = await browser.new_context(**{"viewport": PHONE, "locale": "id-ID"} | options)
            page = await context.new_page()
            page.set_default_timeout(20_000)
            page.on("console", heard)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda asked: _from_here(asked.url, complaints))
            yield page
        finally:
            await browser.close()
    assert not complaints, complaints


def _from_here(url: str, complaints: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
        complaints.append(f"loaded from elsewhere: {url}")


async def violations(page: Page) -> list[str]:
    """What axe-core finds against accessibility."""
    await page.evaluate(AXE_FILE_PATH.read_text())
    found = await page.evaluate("() => axe.run()")
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found["violations"]]


async def wider_than_the_screen(page: Page) -> bool:
    return bool(await page.evaluate("() => document.documentElement.scrollWidth > window.innerWidth"))
