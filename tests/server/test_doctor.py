"""What the doctor says of certificates, of production and of keys, and that looking changes nothing."""

import asyncio
import json
import shutil
import ssl
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import forks

from soundbox_server import clock, guard, seal
from soundbox_server.broker.certificates import issue
from soundbox_server.broker.health import PROVISIONING_FILE_NAME, Health
from soundbox_server.broker.mosquitto import files_in, write_atomically
from soundbox_server.doctor import Finding, examine
from soundbox_server.settings import Settings

NOW = datetime.now(UTC)


async def about(settings: Settings, subject: str, *, production: bool = False) -> Finding:
    return next(found for found in await examine(settings, production=production) if found.about == subject)


async def test_looking_at_a_home_that_is_not_there_makes_none(tmp_path: Path) -> None:
    await examine(Settings(home=tmp_path / "home", broker_tls_port=1), production=True)

    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("days", "verdict", "what"),
    [(60, "fine", "in 59 days"), (29, "note", "in 28 days"), (6, "broken", "in 5 days"), (-1, "broken", "has ended")],
)
async def test_the_end_of_a_certificate_is_told_a_month_and_a_week_before(
    tmp_path: Path, days: int, verdict: str, what: str
) -> None:
    pair = issue(tmp_path, names=["localhost"], now=NOW - timedelta(days=90 - days))
    (tmp_path / "broker.crt").write_text(pair.pem)
    settings = Settings(
        home=tmp_path, broker_tls_port=1, broker_tls_certificate=tmp_path / "broker.crt", broker_tls_key=tmp_path / "k"
    )

    found = await about(settings, "certificate")

    assert found.verdict == verdict
    assert what in found.what


@pytest.mark.parametrize(("content", "what"), [(None, "is not there"), ("no certificate", "broker.crt")])
async def test_a_certificate_that_cannot_be_read_is_broken(tmp_path: Path, content: str | None, what: str) -> None:
    if content is not None:
        (tmp_path / "broker.crt").write_text(content)
    settings = Settings(
        home=tmp_path, broker_tls_port=1, broker_tls_certificate=tmp_path / "broker.crt", broker_tls_key=tmp_path / "k"
    )

    found = await about(settings, "certificate")

    assert found.verdict == "broken"
    assert what in found.what


@pytest.mark.parametrize(("sent_to", "verdict"), [("localhost", "fine"), ("broker.example", "broken")])
async def test_the_listener_is_asked_as_a_box_would(
    tmp_path: Path, unused_tcp_port: int, sent_to: str, verdict: str
) -> None:
    files = files_in(tmp_path)
    write_atomically(files.served, issue(files.tls, names=["localhost"], now=NOW).pem)
    settings = Settings(home=tmp_path, broker_tls_port=unused_tcp_port, broker_public_host=sent_to)

    async with await _serving(files.served, unused_tcp_port):
        found = await about(settings, "TLS listener")

    assert found.verdict == verdict
    assert sent_to in found.what


@pytest.mark.parametrize(
    ("answering", "age_ms", "verdict"), [(True, 0, "fine"), (False, 0, "broken"), (True, 60_000, "note")]
)
async def test_the_broker_for_boxes_without_a_name_is_told_of(
    tmp_path: Path, answering: bool, age_ms: int, verdict: str
) -> None:
    health = Health(
        engine="mosquitto 2.0.11", host="127.0.0.1", port=8884, supervisor_pid=1, answering=answering,
        updated_at_ms=clock.now_ms() - age_ms,
    )  # fmt: skip
    (tmp_path / PROVISIONING_FILE_NAME).write_text(json.dumps(asdict(health)))

    found = await about(Settings(home=tmp_path, broker_tls_port=1, broker_provision_port=8884), "provisioning")

    assert found.verdict == verdict


async def test_production_shows_the_guards_own_findings_and_development_one_note(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    expected = [Finding(found.about, "broken", found.what, found.mend) for found in guard.problems(settings)]

    asked, unasked = await examine(settings, production=True), await examine(settings)

    assert [found for found in asked if found in expected] == expected
    assert not [found for found in unasked if found in expected]
    (note,) = [found for found in unasked if found.about == "production"]
    assert (note.verdict, str(len(expected)) in note.what) == ("note", True)


async def test_mail_that_stays_here_is_a_note_in_production_and_nothing_elsewhere(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)

    found = await about(settings, "mail", production=True)

    assert (found.verdict, str(tmp_path / "mail") in found.what) == ("note", True)
    assert "SOUNDBOX_SMTP_HOST" in found.mend
    assert "mail" not in {one.about for one in await examine(settings)}


def test_a_start_in_production_tells_what_the_doctor_tells(tmp_path: Path) -> None:
    environment = {"SOUNDBOX_HOME": str(tmp_path), "SOUNDBOX_ENVIRONMENT": "production", "PATH": "/usr/bin:/usr/sbin"}

    start = run("api", environment=environment)
    asked = run("doctor", "--json", environment=environment)

    told = [found for found in json.loads(asked.stdout) if found["verdict"] == "broken"]
    assert (start.returncode, asked.returncode) == (1, 1)
    assert len(told) >= 4
    for found in told:
        assert f"{found['about']}: {found['what']}\n  → {found['mend']}" in start.stderr
    assert not (tmp_path / "master.key").exists()


def test_keys_are_shown_and_rotated_by_hand(migrated_sqlite: Path, tmp_path: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "soundbox.db")
    environment = {"SOUNDBOX_HOME": str(tmp_path)}
    new = run("keys", "new", environment=environment).stdout.strip()
    before = json.loads(run("keys", "status", "--json", environment=environment).stdout)

    environment["SOUNDBOX_SEALING_KEYS"] = new
    after = json.loads(run("keys", "status", "--json", environment=environment).stdout)
    rotated = run("keys", "rotate", environment=environment)

    assert after["newest"] == seal.key_id(seal.parse_master_key(new))
    assert after["ring"] == [after["newest"], *before["ring"]]
    assert rotated.returncode == 0, rotated.stderr


def run(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return forks.run(arguments, environment)


async def _serving(pair: Path, port: int) -> asyncio.Server:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair)
    return await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port, ssl=context)


SNAP = """
[acme]
base_url = "https://acme.test"
partner_id = "P1"
client_key = "K1"
client_secret = "x"
private_key = "no key"
partner_public_key = "no key"
"""


@pytest.mark.parametrize(
    ("settings", "provider", "verdict", "what"),
    [
        ({}, "sandbox", "note", "play money"),
        ({"provider": "nobody"}, "nobody", "broken", "no such provider"),
        ({"provider": "xendit"}, "xendit", "broken", "needs secret_key, webhook_token"),
        ({"provider": "xendit", "xendit_secret_key": "x"}, "xendit", "broken", "lack its webhook_token"),
        ({"provider_routes": "ovo=midtrans", "midtrans_server_key": "x"}, "midtrans", "fine", "in settings"),
        ({"provider": "acme", "snap_partners": SNAP}, "acme", "broken", "cannot be read"),
    ],
)
async def test_each_provider_that_payments_go_to_is_examined_and_nobody_is_asked(
    tmp_path: Path, settings: dict[str, str], provider: str, verdict: str, what: str
) -> None:
    given = dict(settings)
    if "snap_partners" in given:
        (tmp_path / "partners.toml").write_text(given["snap_partners"])
        given["snap_partners"] = str(tmp_path / "partners.toml")

    found = await about(Settings(home=tmp_path / "home", **given), f"provider {provider}")

    assert found.verdict == verdict
    assert what in found.what


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("[acme]\nbase_url = 1", "base_url is missing"),
        ("[acme]\nbase_url = 'https://a.test'\nportt = 1", "unknown portt"),
        ("acme = 1", "a partner is a table"),
        ("[acme", "partners.toml"),
        ("[acme]\nbase_url = 'https://a.test'\nprivate_key_file = 'nowhere.pem'", "private_key_file"),
    ],
)
async def test_a_profile_that_cannot_be_read_is_explained(tmp_path: Path, file: str, what: str) -> None:
    (tmp_path / "partners.toml").write_text(file)

    found = await about(Settings(home=tmp_path / "home", snap_partners=tmp_path / "partners.toml"), "providers")

    assert (found.verdict, what in found.what) == ("broken", True)
