"""What production refuses: each thing by itself, all of them at once, and nothing of a set-up that is right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from soundbox_server import failpoints, guard, seal, seed
from soundbox_server.app import create_app
from soundbox_server.db import Database, transaction
from soundbox_server.guard import Problem, UnsafeForProduction
from soundbox_server.settings import Settings

RIGHT: dict[str, Any] = {
    "environment": "production",
    "provider": "xendit",
    "xendit_secret_key": "xnd_production_0zR4u1Yq8tW2kVbN",
    "xendit_webhook_token": "N7hQ2vXwN7hQ2vXw",
    "partner_secrets": {"acme": ["0zR4u1Yq8tW2kVbN"]},
    "public_url": "https://pay.example",
    "broker_engine": "mosquitto",
    "broker_tls_port": 8883,
    "database_url": "postgresql://hub:N7hQ2vXw@localhost/soundbox",
}


@pytest.fixture
def production(tmp_path: Path) -> Callable[..., Settings]:
    """A production set-up that is right, with these changes."""
    home = tmp_path / "production"
    home.mkdir(mode=0o700)

    def make(**changes: Any) -> Settings:
        return Settings(**{"home": home, "master_key": seal.new_key(), **RIGHT, **changes})

    return make


def test_a_set_up_that_is_right_is_not_refused(production: Callable[..., Settings]) -> None:
    assert guard.problems(production()) == []

    guard.refuse_unsafe(production())


@pytest.mark.parametrize(
    ("changes", "about", "named"),
    [
        ({"master_key": ""}, "master key", "none is given"),
        ({"master_key": seal.base64url(bytes(32))}, "master key", "not random"),
        ({"master_key": seal.base64url(b"0123" * 8)}, "master key", "not random"),
        ({"master_key": "c2hvcnQ"}, "master key", "32 bytes"),
        ({"sealing_keys": f"{seal.new_key()},c2hvcnQ"}, "master key", "SOUNDBOX_SEALING_KEYS"),
        ({"sealing_keys": seal.base64url(b"a" * 32)}, "sealing keys", "not random"),
        ({"partner_secrets": {"acme": ["short-one"]}}, "partner secrets", "acme"),
        ({"partner_secrets": {"acme": ["changeme-changeme"]}}, "partner secrets", "acme"),
        ({"database_url": "postgresql://hub:hub@localhost/soundbox"}, "database", "tries first"),
        ({"database_url": "postgresql://hub:Postgres@localhost/soundbox"}, "database", "tries first"),
        ({"log_level": "debug"}, "log", "debug"),
        ({"provider": "sandbox"}, "provider", "play money"),
        ({"provider_fallback": "sandbox"}, "provider", "play money"),
        ({"provider_routes": "ovo=sandbox"}, "provider", "play money"),
        ({"payout_bank": "sandbox"}, "payouts", "play money"),
        ({"paylabs_fee_type": "OUR"}, "fees", "article 52"),
        ({"provider": "nobody"}, "provider", "nobody is none of"),
        ({"xendit_url": "http://api.xendit.co"}, "provider", "in the open"),
        ({"xendit_secret_key": "xnd_development_0zR4u1Yq8tW2kVbN"}, "provider", "no money moves"),
        ({"midtrans_server_key": "SB-Mid-server-0zR4u1Yq8tW2kVbN"}, "provider", "no money moves"),
        ({"snap_partners": Path("/nowhere/snap.toml")}, "provider", "/nowhere/snap.toml"),
        ({"sandbox_auto_pay_ms": 1}, "provider", "nobody has paid"),
        ({"broker_engine": "embedded"}, "broker", "checks no passwords"),
        ({"broker_tls_port": 0}, "broker", "plain listener"),
        ({"broker_host": "10.0.0.5"}, "broker", "10.0.0.5"),
        ({"broker_legacy_port": 1884}, "broker", "announcements forged"),
        ({"public_url": "http://pay.example"}, "API", "http://pay.example"),
        ({"http_host": "0.0.0.0"}, "API", "SOUNDBOX_HTTP_HOST"),
        ({"http_host": "::"}, "API", "SOUNDBOX_HTTP_HOST"),
        ({"worker_host": "192.168.1.4"}, "worker", "SOUNDBOX_WORKER_HOST"),
        ({"webhook_loopback": True}, "webhooks", "this machine"),
        ({"trusted_proxies": "0.0.0.0/0"}, "API", "TRUSTED_PROXIES"),
    ],
)
def test_each_thing_by_itself_is_found_with_its_mend(
    production: Callable[..., Settings], changes: dict[str, Any], about: str, named: str
) -> None:
    (found,) = guard.problems(production(**changes))

    assert found.about == about
    assert named in found.what
    assert found.mend


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "no mail leaves"),
        ({"smtp_host": "mail.example", "smtp_security": "none", "mail_from": "a@shop.example"}, "in the open"),
        ({"smtp_host": "mail.example"}, "no-reply@soundbox.invalid"),
        ({"smtp_host": "mail.example", "mail_from": "Soundbox <no-reply@soundbox.invalid>"}, "soundbox.invalid"),
    ],
)
def test_mail_that_would_reach_nobody_is_doubtful_and_not_refused(
    production: Callable[..., Settings], changes: dict[str, Any], named: str
) -> None:
    settings = production(**changes)

    (found,) = guard.doubts(settings)

    assert (found.about, bool(found.mend)) == ("mail", True)
    assert named in found.what
    assert guard.problems(settings) == []


@pytest.mark.parametrize("server", [{"smtp_host": "mail.example"}, {"smtp_host": "127.0.0.1", "smtp_security": "none"}])
def test_mail_that_leaves_is_not_doubted(production: Callable[..., Settings], server: dict[str, Any]) -> None:
    assert guard.doubts(production(mail_from="Warung <no-reply@shop.example>", **server)) == []


def test_a_listener_for_boxes_that_cannot_do_tls_is_accepted_in_so_many_words_and_stays_doubtful(
    production: Callable[..., Settings],
) -> None:
    settings = production(broker_legacy_port=1884, broker_legacy_in_production=True)

    assert guard.problems(settings) == []
    assert [doubt.about for doubt in guard.doubts(settings)] == ["mail", "broker"]


def test_a_public_listener_behind_a_named_proxy_is_right(production: Callable[..., Settings]) -> None:
    assert guard.problems(production(http_host="0.0.0.0", worker_host="::", trusted_proxies="10.0.0.2")) == []


def test_an_armed_failpoint_is_found(production: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "_armed", failpoints.NAMES[0])

    assert [problem.about for problem in guard.problems(production())] == ["failpoint"]


def test_a_home_that_everybody_may_look_into_is_found(production: Callable[..., Settings]) -> None:
    settings = production()
    settings.home.chmod(0o755)

    assert [problem.about for problem in guard.problems(settings)] == ["home"]


@pytest.mark.parametrize("rights", [0o640, 0o604, 0o660])
def test_a_secret_file_that_others_may_read_is_found(
    production: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: int
) -> None:
    file = tmp_path / "key"
    file.write_text(seal.new_key())
    file.chmod(rights)
    monkeypatch.setenv("SOUNDBOX_SEALING_KEYS_FILE", str(file))

    (found,) = guard.problems(production())

    assert (found.about, found.mend) == ("secrets", f"chmod 600 {file}")


def test_everything_is_told_at_once_and_no_secret_with_it(production: Callable[..., Settings]) -> None:
    secret = "changeme-wR5pQ8zL"
    settings = production(
        public_url="http://pay.example", log_level="debug", broker_tls_port=0, partner_secrets={"acme": [secret]}
    )

    with pytest.raises(UnsafeForProduction) as refused:
        guard.refuse_unsafe(settings)

    assert len(refused.value.problems) == 4
    assert "4 to mend" in str(refused.value)
    assert str(refused.value).count("→") == 4
    assert secret not in str(refused.value)


def test_development_is_refused_nothing(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, provider="sandbox", log_level="debug", http_host="0.0.0.0")

    guard.refuse_unsafe(settings)

    assert len(guard.problems(settings)) > 3


def test_the_api_with_a_demos_door_is_not_put_together_for_production(production: Callable[..., Settings]) -> None:
    with pytest.raises(UnsafeForProduction, match="/admin/seed"):
        guard.refuse_demo_doors(production(), lambda: ["/readyz", "/admin/seed"])

    guard.refuse_demo_doors(Settings(home=production().home), lambda: ["/admin/seed"])
    assert create_app(production()).title


async def test_a_durable_database_without_demo_accounts_is_right(database: Database) -> None:
    assert await guard.database_problems(database) == []


async def test_the_demos_accounts_are_found(database: Database, tmp_path: Path) -> None:
    world = await seed.plant(database, Settings(home=tmp_path), now_ms=1)

    (found,) = await guard.database_problems(database)

    assert f"{len(world['users'])} accounts of the demo" in found.what


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_postgresql_that_forgets_is_found(database: Database, database_url: str) -> None:
    async with transaction(database) as session:
        name = (await session.execute(text("SELECT current_database()"))).scalar()
        await session.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = off'))
    again = Database(database_url)

    try:
        (found,) = await guard.database_problems(again)
    finally:
        await again.close()

    assert "synchronous_commit is off" in found.what
    assert found.mend == "ALTER SYSTEM SET synchronous_commit = on;"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_sqlite_that_may_lose_commits_is_found(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundbox_server.db.PRAGMAS", ("PRAGMA journal_mode=DELETE", "PRAGMA synchronous=OFF"))

    (found,) = await guard.database_problems(database)

    assert "journal_mode=delete, synchronous=0" in found.what


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_api_of_an_unsafe_production_does_not_begin_to_serve(
    production: Callable[..., Settings], database_url: str
) -> None:
    app = create_app(production(database_url=database_url, log_level="debug"))

    with pytest.raises(UnsafeForProduction, match="LOG_LEVEL"):
        async with app.router.lifespan_context(app):
            pass


def test_a_problem_says_what_to_do() -> None:
    assert str(UnsafeForProduction([Problem("log", "too much", "Say less.")])).endswith(
        "- log: too much\n  → Say less."
    )
