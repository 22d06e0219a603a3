"""Logging in, refreshing, logging out, and what happens to those who guess."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import time_machine
from support.doors import audited, bearer, log_in, refresh, tokens, two_hubs, works
from support.hub import CHEAP_ARGON2, PASSWORD, Hub, open_hub, person_of
from support.shop import execute, row, rows

from soundbox_server.access.passwords import Passwords

AT_ONCE = 20
MINUTE_S, DAY_S = 60, 86_400


async def test_a_login_gives_a_pair_of_tokens_and_says_who_it_is(hub: Hub) -> None:
    pair = await tokens(hub, email="  OPERATOR@shop.test ")

    me = (await hub.http.get("/admin/me", headers=bearer(pair))).json()["data"]
    assert pair["user"]["email"] == me["person"]["email"] == "operator@shop.test"
    assert (me["role"], me["organisation"]["kind"], me["session_id"]) == ("operator", "platform", pair["session_id"])
    assert (pair["expires_in"], pair["refresh_expires_in"]) == (600, 7 * DAY_S)


async def test_each_door_lets_in_its_own_people(hub: Hub) -> None:
    answers = {
        (door, role): (await log_in(hub, role, door=door)).status_code
        for door in ("admin", "merchant")
        for role in ("support", "merchant_staff", "bank", "partner")
    }

    assert {who for who, status in answers.items() if status == 200} == {
        ("admin", "support"), ("merchant", "merchant_staff")
    }  # fmt: skip
    assert {status for status in answers.values() if status != 200} == {401}


async def test_secrets_are_stored_as_hashes_alone(hub: Hub) -> None:
    pair = await tokens(hub)

    tables = ("session_secret", "login_session", "person", "audit_entry", "rate_counter")
    stored = str([await rows(hub.app.state.database, f"SELECT * FROM {table}") for table in tables])
    for secret in (pair["refresh_token"], pair["access_token"], PASSWORD):
        assert secret not in stored


@pytest.mark.parametrize(("door", "role"), [("admin", "operator"), ("merchant", "merchant_owner"), ("lending", "bank")])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_nobody_keeps_a_pair_of_tokens(hub: Hub, door: str, role: str) -> None:
    first = await log_in(hub, role, door=door)
    second = await refresh(hub, first.json()["data"], door=door)

    assert [answer.status_code for answer in (first, second)] == [200, 200]
    assert [answer.headers["cache-control"] for answer in (first, second)] == ["no-store"] * 2


async def test_a_refresh_token_works_once_and_its_second_use_ends_the_session(hub: Hub) -> None:
    first = await tokens(hub)
    second = (await refresh(hub, first)).json()["data"]
    assert await works(hub, second)

    again = await refresh(hub, first)

    assert again.status_code == 401
    assert not await works(hub, second)
    assert (await refresh(hub, second)).status_code == 401
    [reused] = await audited(hub, "session.refresh_reused")
    assert (reused["subject_id"], reused["outcome"]) == (first["session_id"], "denied")
    assert reused["actor_id"] == person_of("operator")


async def test_of_twenty_refreshes_with_one_token_one_succeeds_and_then_the_session_is_over(
    database_url: str, tmp_path: Path
) -> None:
    async with two_hubs(database_url, tmp_path / "home") as hubs:
        pair = await tokens(hubs[0])
        answers = await asyncio.gather(*(refresh(hubs[n % 2], pair) for n in range(AT_ONCE)))

        [won] = [answered for answered in answers if answered.status_code == 200]
        assert {answered.status_code for answered in answers} == {200, 401}
        assert not await works(hubs[0], won.json()["data"])
        assert (await refresh(hubs[1], won.json()["data"])).status_code == 401
        ended = await row(hubs[0].app.state.database, "SELECT end_reason FROM login_session WHERE id = $1",
                          pair["session_id"])  # fmt: skip
    assert ended == {"end_reason": "refresh_reused"}


async def test_a_session_lives_as_long_as_it_is_refreshed(hub: Hub) -> None:
    with time_machine.travel(time.time(), tick=True) as clock:
        pair = await tokens(hub)
        clock.shift(6 * DAY_S)
        expired = await works(hub, pair)
        refreshed = await refresh(hub, pair)
        clock.shift(6 * DAY_S)
        refreshed_again = await refresh(hub, refreshed.json()["data"])
        clock.shift(8 * DAY_S)
        too_late = await refresh(hub, refreshed_again.json()["data"])

    assert not expired
    assert (refreshed.status_code, refreshed_again.status_code, too_late.status_code) == (200, 200, 401)


async def test_a_refresh_token_fits_the_door_it_came_from(hub: Hub) -> None:
    pair = await tokens(hub, "merchant_owner", door="merchant")

    assert (await refresh(hub, pair, door="admin")).status_code == 401
    assert (await refresh(hub, pair, door="merchant")).status_code == 200


async def test_logging_out_ends_the_session_and_no_other(hub: Hub) -> None:
    one, other = await tokens(hub), await tokens(hub)

    answered = await hub.http.post("/admin/logout", headers=bearer(one))

    assert answered.status_code == 200
    assert not await works(hub, one)
    assert (await refresh(hub, one)).status_code == 401
    assert await works(hub, other)
    assert [entry["subject_id"] for entry in await audited(hub, "admin.logout")] == [one["session_id"]]


async def test_ones_own_sessions_can_be_seen_and_ended(hub: Hub) -> None:
    here = await tokens(hub)
    there = (await hub.http.post(
        "/admin/login", json={"email": "operator@shop.test", "password": PASSWORD}, headers={"user-agent": "x" * 500}
    )).json()["data"]  # fmt: skip

    listed = (await hub.http.get("/admin/sessions", headers=bearer(here))).json()["data"]
    ended = await hub.http.delete(f"/admin/sessions/{there['session_id']}", headers=bearer(here))

    seen = {one["id"]: one for one in listed}
    assert seen.keys() >= {here["session_id"], there["session_id"]}
    assert [one["id"] for one in listed if one["current"]] == [here["session_id"]]
    assert len(seen[there["session_id"]]["user_agent"]) == 200
    assert ended.status_code == 200
    assert (await works(hub, here), await works(hub, there)) == (True, False)


async def test_role_and_organisation_are_the_databases_and_not_the_tokens(hub: Hub) -> None:
    pair = await tokens(hub)
    await execute(hub.app.state.database, "UPDATE person SET role = 'support' WHERE id = $1", person_of("operator"))

    answered = await hub.http.post("/admin/organisations", json={"kind": "bank", "name": "B"}, headers=bearer(pair))

    assert answered.status_code == 403
    assert (await hub.http.get("/admin/me", headers=bearer(pair))).json()["data"]["role"] == "support"


# Those who guess


async def test_five_wrong_passwords_are_compared_and_the_next_has_to_wait(hub: Hub) -> None:
    wrong = [await log_in(hub, password="wrong") for _ in range(6)]
    right_too = await log_in(hub)
    elsewhere = await log_in(hub, "support")

    assert [answered.status_code for answered in wrong] == [401] * 5 + [429]
    assert [answered.headers["ratelimit-remaining"] for answered in wrong] == ["4", "3", "2", "1", "0", "0"]
    assert {answered.headers["ratelimit-limit"] for answered in wrong} == {"5"}
    assert wrong[5].json()["code"] == "RATE_LIMITED"
    assert 25 <= int(wrong[5].headers["retry-after"]) <= 30
    assert wrong[5].headers["ratelimit-reset"] == wrong[5].headers["retry-after"]
    assert right_too.status_code == 429
    assert elsewhere.status_code == 200


async def test_each_further_failure_waits_twice_as_long_and_a_success_forgets_them(hub: Hub) -> None:
    waits = []
    with time_machine.travel(time.time(), tick=False) as clock:
        for _ in range(5):
            await log_in(hub, password="wrong")
        for _ in range(7):
            refused = await log_in(hub)
            waits.append(int(refused.headers["retry-after"]))
            clock.shift(waits[-1])
            assert (await log_in(hub, password="wrong")).status_code == 401
        clock.shift(waits[-1] * 2)
        success = await log_in(hub)
        afterwards = await log_in(hub, password="wrong")

    assert waits == [30, 60, 120, 240, 480, 900, 900]
    assert success.status_code == 200
    assert (afterwards.status_code, afterwards.headers["ratelimit-remaining"]) == (401, "4")


async def test_parallel_guesses_are_counted_exactly(database_url: str, tmp_path: Path) -> None:
    async with two_hubs(database_url, tmp_path / "home", logins_per_minute=100) as hubs:
        answers = await asyncio.gather(*(log_in(hubs[n % 2], password="wrong") for n in range(AT_ONCE)))

        assert sorted(answered.status_code for answered in answers) == [401] * 5 + [429] * 15
        assert len(await audited(hubs[0], "admin.login.failed")) == 5


async def test_an_address_has_so_many_tries_a_minute_whoever_it_tries(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path / "home", logins_per_minute=3) as hub:
        with time_machine.travel(time.time(), tick=False) as clock:
            tried = [await log_in(hub, f"nobody{n}", password="wrong") for n in range(4)]
            clock.shift(MINUTE_S)
            later = await log_in(hub)

    assert [answered.status_code for answered in tried] == [401, 401, 401, 429]
    assert later.status_code == 200


async def test_the_limits_count_the_caller_behind_a_proxy_that_is_trusted(database_url: str, tmp_path: Path) -> None:
    async def tries(hub: Hub, forwarded: list[str]) -> list[int]:
        body = {"email": "operator@shop.test", "password": "wrong"}
        return [
            (await hub.http.post("/admin/login", json=body, headers={"x-forwarded-for": hops})).status_code
            for hops in forwarded
        ]

    one_caller = [f"10.9.9.{n}, 203.0.113.7" for n in range(3)]
    async with open_hub(database_url, tmp_path / "home", login_failures=2, trusted_proxies="127.0.0.1") as trusting:
        forged = await tries(trusting, one_caller)
        others = await tries(trusting, ["203.0.113.8", "2001:db8::1", "2001:db8::2", "2001:db8::3", "not an address"])
        entries = await audited(trusting, "admin.login.failed")
    async with open_hub(database_url, tmp_path / "home", login_failures=2) as wary:
        unasked = await tries(wary, ["203.0.113.21", "203.0.113.22", "203.0.113.23"])

    assert forged == [401, 401, 429]
    assert others == [401, 401, 401, 429, 401]  # one network of 64 bits is one caller
    assert {entry["ip"] for entry in entries} == {
        "203.0.113.7", "203.0.113.8", "2001:db8::1", "2001:db8::2", "127.0.0.1"
    }  # fmt: skip
    assert unasked == [401, 429, 429]  # the garbage before counted as the proxy itself


async def test_known_and_unknown_people_cost_one_hash_each(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str | None] = []
    fits: Callable[[Passwords, str, str | None], bool] = Passwords.fits

    def counted(self: Passwords, password: str, hashed: str | None) -> bool:
        compared.append(hashed)
        return fits(self, password, hashed)

    monkeypatch.setattr(Passwords, "fits", counted)
    async with open_hub(database_url, tmp_path / "home") as hub:
        await execute(
            hub.app.state.database, "UPDATE person SET state = 'disabled' WHERE id = $1", person_of("finance")
        )
        await execute(
            hub.app.state.database, "UPDATE person SET state = 'invited', password_hash = NULL WHERE id = $1",
            person_of("support"),
        )  # fmt: skip
        who = [("operator", "wrong"), ("nobody", "wrong"), ("finance", PASSWORD), ("support", PASSWORD)]
        answers = [await log_in(hub, role, password=password) for role, password in who]

    assert len(compared) == len(who)
    assert [hashed is None for hashed in compared] == [False, True, False, True]
    bodies = [{**answered.json(), "request_id": "", "timestamp": ""} for answered in answers]
    assert {answered.status_code for answered in answers} == {401}
    assert all(body == bodies[0] for body in bodies)


def test_nobodys_hash_costs_what_a_real_one_costs() -> None:
    passwords = Passwords(memory_kib=19_456, time_cost=2, parallelism=1)

    real, nobody = passwords.hash(PASSWORD), passwords._nobody
    assert real.split("$")[1:4] == nobody.split("$")[1:4]
    assert [len(part) for part in real.split("$")] == [len(part) for part in nobody.split("$")]
    assert not passwords.fits(PASSWORD, None)


async def test_logins_are_written_down_and_what_strangers_type_is_not(hub: Hub) -> None:
    await log_in(hub)
    await log_in(hub, password="hunter2-hunter2")
    await log_in(hub, email="stranger@elsewhere.example", password="x")
    await log_in(hub, email="my-password-in-the-wrong-field", password="x")
    await log_in(hub, "merchant_owner")
    await log_in(hub, "merchant_owner", door="merchant")

    entries = await audited(hub, "%.login.%")
    told = [(entry["action"], entry["outcome"], entry["actor_id"], json.loads(entry["details"])) for entry in entries]
    assert told == [
        ("admin.login.success", "success", "per_test_operator", {}),
        ("admin.login.failed", "failed", "per_test_operator", {"reason": "wrong_password"}),
        ("admin.login.failed", "failed", None, {"reason": "unknown_email", "email": "s***@elsewhere.example"}),
        ("admin.login.failed", "failed", None, {"reason": "unknown_email", "email": "***"}),
        ("admin.login.failed", "failed", "per_test_merchant_owner", {"reason": "wrong_door"}),
        ("merchant.login.success", "success", "per_test_merchant_owner", {}),
    ]
    assert {entry["ip"] for entry in entries} == {"127.0.0.1"}


async def test_a_hash_made_with_other_parameters_is_made_again_at_the_next_login(
    database_url: str, tmp_path: Path
) -> None:
    async with open_hub(database_url, tmp_path / "home") as hub:
        before = await _hash_of(hub, "operator")
    stronger: dict[str, Any] = {**CHEAP_ARGON2, "argon2_time_cost": 3}
    async with open_hub(database_url, tmp_path / "home", **stronger) as hub:
        await log_in(hub, password="wrong")
        untouched = await _hash_of(hub, "operator")
        await tokens(hub)
        after = await _hash_of(hub, "operator")
        await tokens(hub)
        settled = await _hash_of(hub, "operator")

    assert before == untouched
    assert ("t=2" in before, "t=3" in after) == (True, True)
    assert after == settled


async def _hash_of(hub: Hub, role: str) -> str:
    found = await row(hub.app.state.database, "SELECT password_hash FROM person WHERE id = $1", person_of(role))
    return str(found["password_hash"])
