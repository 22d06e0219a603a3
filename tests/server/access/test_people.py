"""Organisations and people: invited by mail, changed, disabled; and passwords that were forgotten."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
from support.doors import (
    audited,
    bearer,
    enrol,
    link_in,
    log_in,
    post_mail,
    refresh,
    tokens,
    two_hubs,
    works,
)  # fmt: skip
from support.hub import PASSWORD, Hub, person_of
from support.shop import execute, row, rows

from soundbox_server.access.state import MAY_INVITE, ROLES_OF

NEW_PASSWORD = "sembilan gajah biru laut"
AT_ONCE = 20


def invitation(**other: Any) -> dict[str, Any]:
    new = {"organisation_id": "org_test_merchant", "email": "Siti@Warung.test", "name": "Siti"}
    return new | {"role": "merchant_staff"} | other


async def invite(hub: Hub, **other: Any) -> httpx.Response:
    return await hub.http.post("/admin/people", json=invitation(**other), headers=hub.operator())


async def set_password(hub: Hub, token: str, password: str = NEW_PASSWORD, *, door: str = "admin") -> httpx.Response:
    return await hub.http.post(f"/{door}/reset-password", json={"token": token, "password": password})


async def test_an_invited_person_chooses_a_password_by_mail_and_logs_in(hub: Hub, tmp_path: Path) -> None:
    invited = await invite(hub)
    early = await log_in(hub, email="siti@warung.test", door="merchant")
    [mail] = await post_mail(hub, tmp_path / "mail")
    page, token = link_in(mail)
    chosen = await set_password(hub, token, door="merchant")
    again = await set_password(hub, token, "another long enough one", door="merchant")
    in_now = await log_in(hub, email="siti@warung.test", password=NEW_PASSWORD, door="merchant")

    assert (invited.status_code, invited.json()["data"]["status"]) == (201, "invited")
    assert invited.json()["data"]["email"] == "siti@warung.test"
    assert token not in invited.text
    assert (mail["To"], mail["Subject"]) == ("siti@warung.test", "Undangan Anda ke QRIS Soundbox")
    assert page == "http://127.0.0.1:8080/portal/set-password"
    assert [answered.status_code for answered in (early, chosen, again, in_now)] == [401, 200, 404, 200]
    assert [entry["action"] for entry in await audited(hub, "person.%")] == ["person.invited", "person.activated"]


async def test_a_mail_is_in_the_persons_language(hub: Hub, tmp_path: Path) -> None:
    await invite(hub, language="en")

    [mail] = await post_mail(hub, tmp_path / "mail")

    assert mail["Subject"] == "Your invitation to QRIS Soundbox"
    assert "24 hours" in mail.get_content()


async def test_an_invitation_lives_a_day_and_another_one_replaces_it(hub: Hub, tmp_path: Path) -> None:
    person_id = (await invite(hub)).json()["data"]["id"]
    again = await hub.http.post(f"/admin/people/{person_id}/invite", headers=hub.operator())
    first, second = [link_in(mail)[1] for mail in await post_mail(hub, tmp_path / "mail")]
    with time_machine.travel(time.time() + 24 * 3_600 + 1, tick=True):
        late = await set_password(hub, second)

    assert again.status_code == 202
    assert (late.status_code, (await set_password(hub, first)).status_code) == (404, 404)
    assert (await set_password(hub, second)).status_code == 200
    assert (await hub.http.post(f"/admin/people/{person_id}/invite", headers=hub.operator())).status_code == 409


@pytest.mark.parametrize(
    ("other", "status"),
    [
        ({"role": "operator"}, 403), ({"role": "bank"}, 409), ({"organisation_id": "org_nowhere"}, 404),
        ({"email": "operator@shop.test"}, 409), ({"email": "no address"}, 400), ({"email": "a@b.c\r\nBcc: x@y.z"}, 400),
        ({"name": "Siti\u202egpj"}, 400), ({"name": ""}, 400), ({"role": "king"}, 400), ({"admin": True}, 400),
    ],
)  # fmt: skip
async def test_who_cannot_be_invited(hub: Hub, other: dict[str, Any], status: int) -> None:
    answered = await invite(hub, **other)

    assert answered.status_code == status
    assert await rows(hub.app.state.database, "SELECT id FROM outbox_message WHERE transport = 'mail'") == []


async def test_nobody_invites_whom_they_may_not(hub: Hub) -> None:
    answers = {}
    for role in sorted(ROLES_OF["platform"]):
        for kind, roles in ROLES_OF.items():
            for wanted in sorted(roles):
                new = invitation(organisation_id=f"org_test_{kind}", email=f"{role}.{wanted}@x.test", role=wanted)
                answered = await hub.http.post("/admin/people", json=new, headers=hub.as_role(role))
                answers[role, wanted] = answered.status_code

    allowed = {(role, wanted) for role, all_of_them in MAY_INVITE.items() for wanted in all_of_them}
    assert {who for who, status in answers.items() if status == 201} == allowed
    assert {status for who, status in answers.items() if who not in allowed} == {403}


async def test_the_database_itself_refuses_a_role_that_does_not_fit(hub: Hub) -> None:
    for change in ("role = 'bank'", "organisation_kind = 'bank'", "email = 'UPPER@x.test'", "password_hash = NULL"):
        with pytest.raises(Exception, match=r"(?i)constraint|foreign key"):
            await execute(hub.app.state.database, f"UPDATE person SET {change} WHERE id = $1", person_of("operator"))


async def test_disabling_ends_sessions_and_keys_at_once_and_enabling_brings_neither_back(hub: Hub) -> None:
    pair, admin = await tokens(hub), hub.as_role("platform_admin")
    key = (await hub.http.post(
        "/admin/api-keys", headers=bearer(pair),
        json={"organisation_id": "org_test_platform", "name": "a", "role": "support", "scopes": ["account:read"]},
    )).json()["data"]["api_key"]  # fmt: skip
    path = f"/admin/people/{person_of('operator')}"

    async def tried() -> list[int]:
        by_key = await hub.http.get("/admin/me", headers={"x-api-key": key})
        return [int(await works(hub, pair)), by_key.status_code, (await log_in(hub)).status_code]

    before = await tried()
    disabled = await hub.http.patch(path, json={"disabled": True}, headers=admin)
    meanwhile = [*await tried(), (await refresh(hub, pair)).status_code]
    enabled = await hub.http.patch(path, json={"disabled": False}, headers=admin)
    afterwards = await tried()

    assert before == [1, 200, 200]
    assert disabled.json()["data"]["status"] == "disabled"
    assert meanwhile == [0, 401, 401, 401]
    assert enabled.json()["data"]["status"] == "active"
    assert afterwards == [0, 401, 200]
    [first, _] = await audited(hub, "person.changed")
    details = json.loads(first["details"])
    assert details["state"] == {"from": "active", "to": "disabled"}
    assert len(details["keys_revoked"]) == 1


async def test_nobody_takes_their_own_place_nor_the_last_administrators(hub: Hub) -> None:
    admin, own = hub.as_role("platform_admin"), f"/admin/people/{person_of('platform_admin')}"
    refused = [
        await hub.http.patch(own, json=change, headers=admin) for change in ({"disabled": True}, {"role": "operator"})
    ]
    renamed = await hub.http.patch(own, json={"name": "Still me"}, headers=admin)

    assert [answered.status_code for answered in refused] == [409, 409]
    assert (renamed.status_code, renamed.json()["data"]["name"]) == (200, "Still me")


async def test_two_administrators_who_disable_each_other_leave_one(database_url: str, tmp_path: Path) -> None:
    async with two_hubs(database_url, tmp_path / "home") as hubs:
        database = hubs[0].app.state.database
        await execute(database, "UPDATE person SET role = 'platform_admin' WHERE id = $1", person_of("operator"))
        pairs = {role: await tokens(hubs[0], role) for role in ("platform_admin", "operator")}
        for _ in range(5):
            answers = await asyncio.gather(*(
                hubs[n].http.patch(f"/admin/people/{person_of(other)}", json={"disabled": True},
                                   headers=bearer(pairs[role]))
                for n, (role, other) in enumerate([("platform_admin", "operator"), ("operator", "platform_admin")])
            ))  # fmt: skip

            assert sorted(answered.status_code for answered in answers)[0] == 200
            assert {answered.status_code for answered in answers} <= {200, 401, 409}
            left = await rows(database, "SELECT id FROM person WHERE role = 'platform_admin' AND state = 'active'")
            assert len(left) == 1
            await execute(database, "UPDATE person SET state = 'active'")
            await execute(database, "UPDATE login_session SET ended_at_ms = NULL, end_reason = NULL")


async def test_an_operator_touches_no_staff(hub: Hub) -> None:
    path = f"/admin/people/{person_of('support')}"

    changed = await hub.http.patch(path, json={"disabled": True}, headers=hub.operator())
    promoted = await hub.http.patch(
        f"/admin/people/{person_of('merchant_staff')}", json={"role": "operator"}, headers=hub.operator()
    )

    assert (changed.status_code, promoted.status_code) == (403, 403)


async def test_a_role_changes_within_the_organisation_only(hub: Hub) -> None:
    path, admin = f"/admin/people/{person_of('merchant_staff')}", hub.as_role("platform_admin")

    promoted = await hub.http.patch(path, json={"role": "merchant_owner"}, headers=admin)
    strange = await hub.http.patch(path, json={"role": "support"}, headers=admin)

    assert (promoted.status_code, promoted.json()["data"]["role"]) == (200, "merchant_owner")
    assert strange.status_code == 409


async def test_people_and_organisations_are_listed_filtered_and_paged(hub: Hub) -> None:
    made = await hub.http.post(
        "/admin/organisations", json={"kind": "bank", "name": "Bank Contoh"}, headers=hub.operator()
    )
    bank_id = made.json()["data"]["id"]

    async def ask(path: str) -> Any:
        answered = await hub.http.get(path, headers=hub.as_role("support"))
        assert answered.status_code == 200, answered.text
        return answered.json()

    banks = await ask("/admin/organisations?kind=bank")
    merchants = await ask("/admin/people?organisation_id=org_test_merchant&status=active")
    by_address = await ask("/admin/people?email=BANK@shop.test")
    seen, page = [], await ask("/admin/people?limit=3")
    while True:
        seen += [person["id"] for person in page["data"]]
        if page["next_cursor"] is None:
            break
        page = await ask(f"/admin/people?limit=3&cursor={page['next_cursor']}")

    assert {one["id"] for one in banks["data"]} == {bank_id, "org_test_bank"}
    assert (await ask(f"/admin/organisations/{bank_id}"))["data"]["name"] == "Bank Contoh"
    assert {one["role"] for one in merchants["data"]} == ROLES_OF["merchant"]
    assert [one["id"] for one in by_address["data"]] == [person_of("bank")]
    assert sorted(seen) == sorted(person_of(role) for roles in ROLES_OF.values() for role in roles)


# Passwords


async def forget(hub: Hub, email: str) -> httpx.Response:
    return await hub.http.post("/admin/forgot-password", json={"email": email})


async def test_a_forgotten_password_is_set_anew_by_mail_and_ends_every_session(hub: Hub, tmp_path: Path) -> None:
    pair = await tokens(hub)
    asked = await forget(hub, "Operator@shop.test")
    [mail] = await post_mail(hub, tmp_path / "mail")
    page, token = link_in(mail)
    weak = await set_password(hub, token, "short")
    done = await set_password(hub, token)

    assert (asked.status_code, weak.status_code, done.status_code) == (202, 400, 200)
    assert mail["Subject"] == "Your new QRIS Soundbox password"
    assert page.endswith("/console/set-password")
    assert (await works(hub, pair), (await refresh(hub, pair)).status_code) == (False, 401)
    assert [(await log_in(hub)).status_code, (await log_in(hub, password=NEW_PASSWORD)).status_code] == [401, 200]
    assert [entry["action"] for entry in await audited(hub, "password.%")] == [
        "password.reset_requested", "password.reset"
    ]  # fmt: skip


async def test_the_answer_is_the_same_for_an_address_that_nobody_has(hub: Hub) -> None:
    known, unknown = await forget(hub, "operator@shop.test"), await forget(hub, "nobody@shop.test")
    await execute(hub.app.state.database, "UPDATE person SET state = 'disabled' WHERE id = $1", person_of("support"))
    disabled = await forget(hub, "support@shop.test")

    assert known.status_code == unknown.status_code == disabled.status_code == 202
    assert known.json()["data"] == unknown.json()["data"] == disabled.json()["data"]
    mails = await rows(hub.app.state.database, "SELECT recipient_id FROM outbox_message WHERE transport = 'mail'")
    assert [mail["recipient_id"] for mail in mails] == [person_of("operator")]


async def test_reset_mails_are_limited_for_one_address_known_or_not(hub: Hub) -> None:
    for email in ("operator@shop.test", "nobody@shop.test"):
        answers = [(await forget(hub, email)).status_code for _ in range(6)]

        assert answers == [202] * 5 + [429]


async def reset_link(hub: Hub, folder: Path, email: str = "operator@shop.test") -> str:
    await forget(hub, email)
    *_, mail = await post_mail(hub, folder)
    return link_in(mail)[1]


async def test_a_link_is_over_once_the_password_was_changed(hub: Hub, tmp_path: Path) -> None:
    token = await reset_link(hub, tmp_path / "mail")
    body = {"password": PASSWORD, "new_password": NEW_PASSWORD}
    changed = await hub.http.post("/admin/password", json=body, headers=bearer(await tokens(hub)))

    late = await set_password(hub, token, "an other password of theirs")

    assert (changed.status_code, late.status_code) == (200, 404)
    assert (await log_in(hub, password=NEW_PASSWORD)).status_code == 200


async def test_a_link_that_went_to_an_address_is_over_with_that_address(hub: Hub, tmp_path: Path) -> None:
    token = await reset_link(hub, tmp_path / "mail", "merchant_owner@shop.test")
    pair = await tokens(hub, "merchant_owner", door="merchant")
    change = {"email": "baru@shop.test", "password": PASSWORD}
    changed = await hub.http.put("/api/v1/org/profile", json=change, headers=bearer(pair))

    late = await set_password(hub, token, door="merchant")

    assert (changed.status_code, late.status_code) == (200, 404)


async def test_disabled_and_enabled_again_nobody_comes_in_by_an_earlier_link(hub: Hub, tmp_path: Path) -> None:
    invited = (await invite(hub)).json()["data"]["id"]
    *_, mail = await post_mail(hub, tmp_path / "mail")
    for disabled in (True, False):
        answered = await hub.http.patch(f"/admin/people/{invited}", json={"disabled": disabled}, headers=hub.operator())
        assert answered.status_code == 200, answered.text

    late = await set_password(hub, link_in(mail)[1], door="merchant")

    assert late.status_code == 404


async def test_of_twenty_resets_with_one_token_one_succeeds(database_url: str, tmp_path: Path) -> None:
    async with two_hubs(database_url, tmp_path / "home", logins_per_minute=100) as hubs:
        await forget(hubs[0], "operator@shop.test")
        [mail] = await post_mail(hubs[0], tmp_path / "mail")
        _, token = link_in(mail)
        chosen = [f"{NEW_PASSWORD} {n:02d}" for n in range(AT_ONCE)]
        answers = await asyncio.gather(
            *(set_password(hubs[n % 2], token, password) for n, password in enumerate(chosen))
        )

        statuses = [answered.status_code for answered in answers]
        assert sorted(statuses) == [200] + [404] * 19
        won = chosen[statuses.index(200)]
        assert (await log_in(hubs[0], password=won)).status_code == 200


async def test_neither_token_nor_mail_is_stored_readable(hub: Hub, tmp_path: Path) -> None:
    await forget(hub, "operator@shop.test")
    before = await row(hub.app.state.database, "SELECT body, state FROM outbox_message WHERE transport = 'mail'")
    [mail] = await post_mail(hub, tmp_path / "mail")
    _, token = link_in(mail)
    after = await row(hub.app.state.database, "SELECT body, state FROM outbox_message WHERE transport = 'mail'")
    stored = str([await rows(hub.app.state.database, f"SELECT * FROM {table}")
                  for table in ("one_time_token", "outbox_message", "audit_entry")])  # fmt: skip

    assert b"set-password" not in bytes(before["body"])
    assert (bytes(after["body"]), after["state"]) == (b"", "sent")
    assert token not in stored


async def test_changing_a_password_needs_the_old_one_and_ends_the_other_sessions(hub: Hub) -> None:
    here, there = await tokens(hub), await tokens(hub)

    async def change(old: str, new: str) -> int:
        body = {"password": old, "new_password": new}
        return (await hub.http.post("/admin/password", json=body, headers=bearer(here))).status_code

    answers = [await change("wrong wrong wrong", NEW_PASSWORD), await change(PASSWORD, "operator@shop.test"),
               await change(PASSWORD, NEW_PASSWORD)]  # fmt: skip

    assert answers == [401, 422, 200]
    assert (await works(hub, here), await works(hub, there)) == (True, False)
    assert (await refresh(hub, here)).status_code == 200
    [changed] = await audited(hub, "password.changed")
    assert json.loads(changed["details"])["sessions_ended"] >= 1


async def test_a_stolen_access_token_guesses_no_faster_than_the_login(hub: Hub) -> None:
    pair = await tokens(hub)

    answers = [
        (await hub.http.post("/admin/totp", json={"password": "guess"}, headers=bearer(pair))).status_code
        for _ in range(6)
    ]

    assert answers == [401] * 5 + [429]


async def test_an_administrator_removes_a_lost_second_factor(hub: Hub) -> None:
    _, _, pair = await enrol(hub)
    path = f"/admin/people/{person_of('operator')}/totp"

    by_equal = await hub.http.delete(path, headers=bearer(pair))
    removed = await hub.http.delete(path, headers=hub.as_role("platform_admin"))

    assert (by_equal.status_code, removed.status_code) == (403, 200)
    assert not await works(hub, pair)
    assert (await log_in(hub)).status_code == 200
    assert [entry["actor_id"] for entry in await audited(hub, "totp.removed_by_other")] == [person_of("platform_admin")]


@pytest.mark.parametrize("word", [0, 1, "true", "off"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_only_true_and_false_disable_and_enable(hub: Hub, word: object) -> None:
    path = f"/admin/people/{person_of('merchant_staff')}"

    answered = await hub.http.patch(path, json={"disabled": word}, headers=hub.as_role("platform_admin"))

    assert answered.status_code == 400
    assert [error["field"] for error in answered.json()["errors"]] == ["disabled"]
