"""The second factor: set up, asked for, used once, lost, and required."""

import asyncio
from pathlib import Path

import httpx
import pytest
import time_machine
from support.doors import audited, bearer, code, enrol, log_in, tokens, two_hubs, works
from support.hub import PASSWORD, Hub, open_hub
from support.shop import rows

from soundbox_server.access import totp
from soundbox_server.settings import Settings

AT_ONCE = 20
STEP_S = 30


def test_codes_are_those_of_rfc_6238() -> None:
    """Appendix B, SHA-1, the last six of its eight digits."""
    made = totp._totp(b"12345678901234567890")

    for at_s, wanted in [(59, "287082"), (1_111_111_109, "081804"), (2_000_000_000, "279037")]:
        assert made.generate(at_s).decode() == wanted


async def test_once_confirmed_a_code_is_asked_for(hub: Hub) -> None:
    uri, _, _ = await enrol(hub)

    without = await log_in(hub)
    wrong = await log_in(hub, totp="000000")
    right = await log_in(hub, totp=code(uri))

    assert [(answered.status_code, answered.json().get("code")) for answered in (without, wrong, right)] == [
        (401, "MFA_REQUIRED"), (401, "MFA_REQUIRED"), (200, None),
    ]  # fmt: skip
    reasons = [entry["details"] for entry in await audited(hub, "admin.login.failed")]
    assert reasons == ['{"reason":"totp_missing"}', '{"reason":"totp_wrong"}']


async def test_what_is_not_confirmed_is_not_asked_for(hub: Hub) -> None:
    pair = await tokens(hub)
    begun = await hub.http.post("/admin/totp", json={"password": PASSWORD}, headers=bearer(pair))

    wrong = await hub.http.post("/admin/totp/confirm", json={"code": "000000"}, headers=bearer(pair))

    assert (begun.status_code, wrong.status_code) == (201, 401)
    assert (await log_in(hub)).status_code == 200


async def test_a_code_is_good_for_a_step_before_and_after_its_own_and_only_once(hub: Hub) -> None:
    with time_machine.travel(1_800_000_015, tick=False) as clock:
        uri, _, _ = await enrol(hub)
        clock.shift(10 * STEP_S)
        answers = {}
        for steps in (-2, -1, -1, 2, 1, 0):  # once the later code is used, the earlier one is over
            answers.setdefault(steps, []).append((await log_in(hub, totp=code(uri, steps=steps))).status_code)

    assert answers == {-2: [401], -1: [200, 401], 2: [401], 1: [200], 0: [401]}


async def test_of_twenty_logins_with_one_code_one_gets_in(database_url: str, tmp_path: Path) -> None:
    limits = {"login_failures": 50, "logins_per_minute": 200}
    async with two_hubs(database_url, tmp_path / "home", **limits) as hubs:
        uri, _, _ = await enrol(hubs[0])
        now = code(uri)
        answers = await asyncio.gather(*(log_in(hubs[n % 2], totp=now) for n in range(AT_ONCE)))

        assert sorted(answered.status_code for answered in answers) == [200] + [401] * 19


async def test_each_recovery_code_stands_in_once(database_url: str, tmp_path: Path) -> None:
    limits = {"login_failures": 50, "logins_per_minute": 200}
    async with two_hubs(database_url, tmp_path / "home", **limits) as hubs:
        _, codes, _ = await enrol(hubs[0])
        stored = str(await rows(hubs[0].app.state.database, "SELECT * FROM recovery_code"))
        answers = await asyncio.gather(*(log_in(hubs[n % 2], recovery_code=codes[0]) for n in range(AT_ONCE)))
        shouted = await log_in(hubs[0], recovery_code=codes[1].upper().replace("-", " "))

        assert sorted(answered.status_code for answered in answers) == [200] + [401] * 19
        assert shouted.status_code == 200
        assert len(set(codes)) == 10
        assert not any(one in stored or one.replace("-", "") in stored for one in codes)


async def test_one_persons_recovery_code_is_nobody_elses(hub: Hub) -> None:
    _, codes, _ = await enrol(hub, "operator")
    await enrol(hub, "support")

    assert (await log_in(hub, "support", recovery_code=codes[0])).status_code == 401
    assert (await log_in(hub, "operator", recovery_code=codes[0])).status_code == 200


async def test_six_digits_are_not_guessed_from_many_addresses(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path / "home", trusted_proxies="127.0.0.1", login_failures=3) as hub:
        uri, _, _ = await enrol(hub)

        async def guess(n: int, guessed: str) -> httpx.Response:
            body = {"email": "operator@shop.test", "password": PASSWORD, "totp": guessed}
            return await hub.http.post("/admin/login", json=body, headers={"x-forwarded-for": f"198.51.100.{n}"})

        for n in range(6):
            assert (await guess(n, "000000")).status_code == 401
        right = await guess(7, code(uri))

    assert right.status_code == 401


async def test_confirming_ends_the_sessions_that_were_opened_without(hub: Hub) -> None:
    before = await tokens(hub)

    _, _, pair = await enrol(hub)

    assert (await works(hub, before), await works(hub, pair)) == (False, True)


async def test_the_second_factor_is_removed_with_password_and_code(hub: Hub) -> None:
    uri, codes, pair = await enrol(hub)

    async def remove(**body: str) -> int:
        answered = await hub.http.post("/admin/totp/remove", json=body, headers=bearer(pair))
        return answered.status_code

    again = await hub.http.post("/admin/totp", json={"password": PASSWORD}, headers=bearer(pair))
    answers = [
        await remove(password="wrong", totp=code(uri)), await remove(password=PASSWORD),
        await remove(password=PASSWORD, totp="000000"), await remove(password=PASSWORD, recovery_code=codes[3]),
        await remove(password=PASSWORD, totp=code(uri)),
    ]  # fmt: skip

    assert again.status_code == 409
    assert answers == [401, 401, 401, 200, 409]
    assert (await log_in(hub)).status_code == 200
    assert [entry["action"] for entry in await audited(hub, "totp.%")] == [
        "totp.enrolled", "totp.confirmed", "totp.removed"
    ]  # fmt: skip


async def test_the_secret_is_sealed_for_its_row(hub: Hub) -> None:
    uri, _, _ = await enrol(hub)
    secret = uri.partition("secret=")[2].partition("&")[0]

    [stored] = await rows(hub.app.state.database, "SELECT person_id, sealed FROM totp_secret")

    assert stored["sealed"].startswith("s1.")
    assert secret not in stored["sealed"]


async def test_where_it_is_required_staff_without_one_may_only_set_it_up(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path / "home", require_totp=True) as hub:
        pair = await tokens(hub)
        closed = await hub.http.get("/admin/devices", headers=bearer(pair))
        me = await hub.http.get("/admin/me", headers=bearer(pair))
        merchant = await tokens(hub, "merchant_owner", door="merchant")
        merchants_sessions = await hub.http.get("/merchant/sessions", headers=bearer(merchant))
        _, _, enrolled = await enrol(hub)
        opened = await hub.http.get("/admin/devices", headers=bearer(enrolled))

    assert (pair["must_enrol_totp"], merchant["must_enrol_totp"]) == (True, False)
    assert (closed.status_code, closed.json()["code"], closed.json()["details"]) == (
        401,
        "MFA_REQUIRED",
        {"enrol": True},
    )
    assert [answered.status_code for answered in (me, merchants_sessions, opened)] == [200, 200, 200]


async def test_a_key_is_a_programs_and_has_no_second_factor(database_url: str, tmp_path: Path) -> None:
    body = {"organisation_id": "org_test_platform", "name": "a", "role": "support", "scopes": ["account:read"]}
    async with open_hub(database_url, tmp_path / "home") as hub:
        made = await hub.http.post("/admin/api-keys", json=body, headers=hub.operator())
    async with open_hub(database_url, tmp_path / "home", require_totp=True) as hub:
        answered = await hub.http.get("/admin/me", headers={"x-api-key": made.json()["data"]["api_key"]})

    assert answered.status_code == 200


@pytest.mark.parametrize(("environment", "required"), [("development", False), ("production", True)])
def test_production_requires_it_unless_told_otherwise(tmp_path: Path, environment: str, required: bool) -> None:
    settings = {"home": tmp_path, "environment": environment, "provider": "acme"}

    assert Settings(**settings).totp_required is required
    assert Settings(**settings, require_totp=not required).totp_required is not required
