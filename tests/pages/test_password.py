"""`/portal/set-password` and its like as a server answers them: where mails lead, and what a browser is told of it."""

from pathlib import Path

import pytest
from support.doors import link_in, log_in, post_mail
from support.hub import Hub
from support.shop import execute

from soundbox_server.access.mails import PLACES
from soundbox_server.access.state import ROLES_OF
from soundbox_server.pages.password import DOORS

PASSWORD = "perahu kertas di pelabuhan"
LOGINS = {"platform": "/admin", "merchant": "/merchant", "bank": "/lending", "partner": "/api/auth"}


async def _mailed(hub: Hub, folder: Path, kind: str) -> tuple[str, str]:
    """The address of the page and the token of the mail that invites somebody of an organisation of this kind."""
    role = "support" if kind == "platform" else sorted(ROLES_OF[kind])[0]
    person = {"organisation_id": f"org_test_{kind}", "email": "siti@warung.test", "name": "Siti", "role": role}
    invited = await hub.http.post("/admin/people", json=person, headers=hub.as_role("platform_admin"))
    assert invited.status_code == 201, invited.text
    [mail] = await post_mail(hub, folder)
    address, token = link_in(mail)
    return address.removeprefix(hub.app.state.public_url), token


@pytest.mark.parametrize("kind", sorted(PLACES))
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_link_of_a_mail_opens_a_page_whose_door_takes_its_token(hub: Hub, tmp_path: Path, kind: str) -> None:
    path, token = await _mailed(hub, tmp_path / "mail", kind)

    shown = await hub.http.get(path)
    door = DOORS[PLACES[kind]]
    set_ = await hub.http.post(f"{door}/reset-password", json={"token": token, "password": PASSWORD})
    inside = await log_in(hub, door=LOGINS[kind].removeprefix("/"), email="siti@warung.test", password=PASSWORD)

    assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f'data-door="{door}"' in shown.text
    assert (set_.status_code, inside.status_code) == (200, 200)


@pytest.mark.parametrize("place", sorted(DOORS))
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_nobody_keeps_the_page_and_it_runs_nothing_but_its_own_script(hub: Hub, place: str) -> None:
    shown = await hub.http.get(f"{place}/set-password")

    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["referrer-policy"] == "no-referrer"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.headers["x-robots-tag"] == "noindex"
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert shown.text.count("<script") == 1
    assert not any(own in shown.text for own in ("<style", "style=", "onclick", "onsubmit", "https://", "http://"))
    assert (await hub.http.post(f"{place}/set-password")).status_code == 405


@pytest.mark.parametrize(
    ("asked", "accepted", "language", "said"),
    [
        ("", "", "id", "Buat kata sandi Anda"),
        ("", "en-GB,en;q=0.8", "en", "Choose your password"),
        ("?lang=id", "en", "id", "Buat kata sandi Anda"),
        ("?lang=en", "id", "en", "Choose your password"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_it_speaks_the_browsers_language_or_the_one_that_was_chosen(
    hub: Hub, asked: str, accepted: str, language: str, said: str
) -> None:
    shown = await hub.http.get(f"/portal/set-password{asked}", headers={"accept-language": accepted})

    assert (shown.headers["content-language"], shown.headers["vary"]) == (language, "Accept-Language")
    assert f'<html lang="{language}">' in shown.text
    assert said in shown.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_whoever_forgot_a_password_is_led_to_the_page_too(hub: Hub, tmp_path: Path) -> None:
    await execute(hub.app.state.database, "UPDATE person SET language = 'en' WHERE role = 'merchant_owner'")
    await hub.http.post("/merchant/forgot-password", json={"email": "merchant_owner@shop.test"})
    [mail] = await post_mail(hub, tmp_path / "mail")
    address, token = link_in(mail)

    assert address == f"{hub.app.state.public_url}/portal/set-password"
    assert token not in (await hub.http.get("/portal/set-password")).text
