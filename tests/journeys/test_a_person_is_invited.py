"""Somebody is invited, gets a mail from the worker, chooses a password and logs in."""

import email
import email.policy
from pathlib import Path

import httpx
import pytest
from support.stack import Stack, until

pytestmark = pytest.mark.journey


async def test_an_invitation_leaves_as_a_mail_and_lets_its_reader_in(stack: Stack) -> None:
    await stack.prepare(boxes=0)
    await stack.start_all("broker", "api", "worker")
    new = {"organisation_id": "org_demo", "email": "kasir@demo.test", "name": "Kasir", "role": "merchant_staff"}
    password = "sembilan gajah biru laut"
    async with httpx.AsyncClient(base_url=stack.url, timeout=20) as client:
        invited = await client.post("/admin/people", json=new, headers=await stack.login())
        token = await _token_in_mail(stack.home / "mail")
        chosen = await client.post("/merchant/reset-password", json={"token": token, "password": password})
        in_now = await client.post("/merchant/login", json={"email": "kasir@demo.test", "password": password})

    assert [answered.status_code for answered in (invited, chosen, in_now)] == [201, 200, 200]
    assert in_now.json()["data"]["user"]["role"] == "merchant_staff"
    assert not any(secret in stack.logs() for secret in (token, password, "kasir@demo.test"))


async def _token_in_mail(folder: Path) -> str:
    async def arrived() -> bool:
        return folder.exists() and any(folder.glob("*.eml"))

    await until(arrived, what="a mail")
    [path] = folder.glob("*.eml")
    mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert mail["To"] == "kasir@demo.test"
    text = mail.get_content()
    return str(next(word for word in text.split() if "set-password#" in word).partition("#")[2])
