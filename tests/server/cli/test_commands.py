"""`soundbox` as its operators and their scripts meet it: a process, its output and its exit code.

Most are forked (support/forks.py); the first is the script that an installation has.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from support import forks
from support.ports import free_port

VECTORS = json.loads((Path(__file__).parents[2] / "fixtures" / "qris_vectors.json").read_text())["vectors"]


def run(
    *arguments: str, home: Path | None = None, stdin: str | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{f"SOUNDBOX_{name.upper()}": value for name, value in settings.items()}}
    if home is not None:
        environment["SOUNDBOX_HOME"] = str(home)
    return forks.run(arguments, environment, stdin=stdin)


@pytest.fixture
def migrated_home(migrated_sqlite: Path, tmp_path: Path) -> Path:
    shutil.copy(migrated_sqlite, tmp_path / "soundbox.db")
    return tmp_path


def assert_refused(answer: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1 and one line that says why: no traceback, nothing on stdout."""
    assert answer.returncode == 1, answer.stderr
    assert answer.stderr.startswith("soundbox: ")
    assert "Traceback" not in answer.stderr
    for word in words:
        assert word in answer.stderr


def test_the_version_is_the_distributions() -> None:
    soundbox = Path(sys.executable).with_name("soundbox")

    answer = subprocess.run([soundbox, "version"], capture_output=True, text=True, check=True)

    assert answer.stdout == run("version").stdout == metadata.version("qris-soundbox") + "\n"


def test_the_version_answers_without_loading_the_server() -> None:
    heavy = {"fastapi", "sqlalchemy", "uvicorn", "pydantic"}
    code = f"import sys, soundbox_server.cli; print(sorted({heavy!r} & sys.modules.keys()))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("vector", VECTORS[:: len(VECTORS) // 4], ids=lambda vector: vector["id"])
def test_a_qris_is_decoded_with_the_vectors_keys(vector: dict[str, Any]) -> None:
    answer = run("qris", "decode", "--json", "--", vector["payload"])

    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert list(found) == ["valid", "strict_qris_ok", "violations", "decoded"]
    assert found["valid"] == vector["valid"]
    assert found["strict_qris_ok"] == vector["strict_qris_ok"]
    assert sorted(found["violations"]) == sorted(vector["violations"])


def test_what_was_decoded_can_be_written_again() -> None:
    payload = next(v["payload"] for v in VECTORS if v["id"] == "Q01")
    decoded = run("qris", "decode", "--json", payload).stdout

    written = run("qris", "encode", "-", stdin=decoded)

    assert written.returncode == 0, written.stderr
    again = json.loads(run("qris", "decode", "--json", "-", stdin=written.stdout).stdout)
    assert again["strict_qris_ok"] is True
    first = json.loads(decoded)["decoded"]
    assert again["decoded"] == first | {"crc": again["decoded"]["crc"], "tag_order": again["decoded"]["tag_order"]}


@pytest.mark.parametrize("fields", ["{", "[1]", '{"no_such_field": "x"}'])
def test_fields_that_make_no_qris_are_refused(fields: str) -> None:
    assert_refused(run("qris", "encode", fields))


def test_the_openapi_document_names_the_doors_and_leaves_nothing_behind(tmp_path: Path) -> None:
    answer = run("openapi", home=tmp_path / "home")

    document = json.loads(answer.stdout)
    assert document["openapi"].startswith("3.")
    assert {"/admin/login", "/device/provision/activate", "/device/transactions/dynamic-qr"} <= document["paths"].keys()
    assert not (tmp_path / "home").exists()


def test_migrate_seed_and_seed_again_give_the_same_world(tmp_path: Path) -> None:
    assert run("migrate", home=tmp_path).returncode == 0
    assert run("migrate", home=tmp_path).returncode == 0

    first = json.loads(run("seed", "--demo", "--json", home=tmp_path).stdout)
    second = json.loads(run("seed", "--demo", "--json", home=tmp_path).stdout)

    assert len(first["devices"]) == 3
    assert {"email", "password", "role"} <= first["users"][0].keys()
    for world in (first, second):
        for device in world["devices"]:
            del device["activation_code"]  # shown once; each seeding of a box that waits makes a new one
    assert first == second


def test_revenue_is_compared_with_the_payments_and_mended(migrated_home: Path) -> None:
    run("seed", "--demo", home=migrated_home)
    with sqlite3.connect(migrated_home / "soundbox.db") as database:
        database.execute(
            "INSERT INTO daily_revenue (day, terminal_id, provider, merchant_id, payments, gross_amount, fee_amount, "
            "refunds, refunded_amount, reversals, reversed_amount, fee_returned) "
            "SELECT '2026-05-23', id, 'sandbox', merchant_id, 1, 7, 0, 0, 0, 0, 0, 0 FROM terminal LIMIT 1"
        )

    spoilt = run("revenue", "check", home=migrated_home)
    rebuilt = run("revenue", "rebuild", home=migrated_home)
    whole = run("revenue", "check", "--json", home=migrated_home)

    assert (spoilt.returncode, spoilt.stderr) == (1, "")
    assert spoilt.stdout.startswith("2026-05-23 ")
    assert spoilt.stdout.endswith("sandbox: kept less said is payments +1, gross_amount +7\n")
    assert (rebuilt.returncode, rebuilt.stdout) == (0, "Rebuilt: 0 days of tills.\n")
    assert (whole.returncode, json.loads(whole.stdout)) == (0, [])


def test_the_ledger_is_compared_with_the_payments(migrated_home: Path) -> None:
    right = run("ledger", "check", home=migrated_home)
    with sqlite3.connect(migrated_home / "soundbox.db") as database:
        database.execute("INSERT INTO journal (id, kind, booked_at_ms) VALUES ('jrn_1', 'release', 7)")
        database.execute("INSERT INTO posting VALUES ('jrn_1', 0, 'fees:acme', 'manual_payout', 'IDR', 7)")

    told = run("ledger", "check", home=migrated_home)
    listed = run("ledger", "check", "--json", home=migrated_home)

    assert (right.returncode, right.stdout) == (0, "The books are as the payments say.\n")
    assert (told.returncode, told.stderr) == (1, "")
    assert told.stdout == (
        "balance fees:acme: -7 IDR booked, 0 expected\nbalance manual_payout: 7 IDR booked, 0 expected\n"
    )
    assert [one["subject"] for one in json.loads(listed.stdout)] == ["fees:acme", "manual_payout"]


def test_the_demo_seed_is_refused_in_production(migrated_home: Path) -> None:

    answer = run("seed", "--demo", home=migrated_home, environment="production", provider="acme")

    assert_refused(answer, "production")


def test_the_sandbox_is_refused_in_production(tmp_path: Path) -> None:
    assert_refused(run("sandbox", home=tmp_path, environment="production", provider="acme"), "production")


@pytest.mark.parametrize("command", ["api", "worker", "seed"])
def test_a_database_that_is_not_migrated_is_named_with_its_mend(command: str, tmp_path: Path) -> None:
    arguments = [command, "--demo"] if command == "seed" else [command]

    assert_refused(run(*arguments, home=tmp_path, http_port=str(free_port())), "soundbox migrate")


@pytest.mark.parametrize(
    ("command", "setting"),
    [("api", "http_port"), ("worker", "worker_port"), ("sandbox", "sandbox_port"), ("broker", "broker_port")],
)
def test_a_busy_port_is_named_with_its_setting(command: str, setting: str, migrated_home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])

        answer = run(command, home=migrated_home, broker_engine="embedded", **{setting: port})

    assert_refused(answer, port, f"SOUNDBOX_{setting.upper()}")


def test_a_setting_that_cannot_be_read_is_named_and_its_value_is_not(tmp_path: Path) -> None:
    answer = run("migrate", home=tmp_path, http_port="eighty-secret")

    assert_refused(answer, "SOUNDBOX_HTTP_PORT")


@pytest.mark.parametrize(("port", "bound"), [("99999", "65535"), ("-5", "0")])
@pytest.mark.parametrize("arguments", [("api",), ("worker",), ("doctor",)], ids=" ".join)
def test_a_port_that_no_machine_has_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], port: str, bound: str
) -> None:
    answer = run(*arguments, home=tmp_path, http_port=port, smtp_port=port)

    assert_refused(answer, "SOUNDBOX_HTTP_PORT: Input should be ", f"or equal to {bound}", "SOUNDBOX_SMTP_PORT: ")
    assert "eighty-secret" not in answer.stderr


def test_a_master_key_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    assert_refused(run("api", home=tmp_path, master_key="c2hvcnQ"), "master key")


def test_an_unreachable_database_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://hub:hunter2@127.0.0.1:{free_port()}/hub"

    answer = run("migrate", home=tmp_path, database_url=url)

    assert_refused(answer, "database")
    assert "hunter2" not in answer.stderr


def test_a_database_url_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert_refused(run("migrate", home=tmp_path, database_url="no url at all"), "SOUNDBOX_DATABASE_URL")


def test_the_settings_check_sees_a_table_that_is_old(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((Path(__file__).parents[3] / "README.md").read_text().replace("`8080`", "`8088`"))

    assert_refused(run("settings", "--check", str(page)), "settings --write")
    assert run("settings", "--write", str(page)).returncode == 0
    assert run("settings", "--check", str(page)).returncode == 0


def test_the_doctor_finds_a_fresh_home_in_order_and_a_readable_key_not(migrated_home: Path) -> None:
    ports = {name: str(free_port()) for name in ("http_port", "worker_port", "sandbox_port", "broker_port")}
    run("seed", "--demo", home=migrated_home)
    (migrated_home / "master.key").write_text("A" * 43)
    (migrated_home / "master.key").chmod(0o600)

    well = run("doctor", "--json", home=migrated_home, **ports)
    (migrated_home / "master.key").chmod(0o644)
    ill = run("doctor", "--json", home=migrated_home, **ports)

    assert well.returncode == 0, well.stdout
    assert "broken" not in {finding["verdict"] for finding in json.loads(well.stdout)}
    assert ill.returncode == 1
    broken = [finding for finding in json.loads(ill.stdout) if finding["verdict"] == "broken"]
    assert [finding["about"] for finding in broken] == ["master key"]
    assert broken[0]["mend"].startswith("chmod 600")


def test_the_doctor_names_a_database_that_is_behind(tmp_path: Path) -> None:
    (tmp_path / "soundbox.db").touch()

    answer = run("doctor", "--json", home=tmp_path)

    findings = {finding["about"]: finding for finding in json.loads(answer.stdout)}
    assert answer.returncode == 1
    assert findings["database"]["verdict"] == "broken"
    assert findings["database"]["mend"] == "soundbox migrate"


def create_admin(home: Path, *options: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return run("create-admin", "--name", "Ibu Sari", "--email", "sari@platform.test", *options, home=home, stdin=stdin)


def test_the_first_administrator_is_let_in_with_a_password_or_a_link(migrated_home: Path) -> None:
    weak = create_admin(migrated_home, stdin="password1234\n")
    made = create_admin(migrated_home, stdin="kuda putih tujuh awan\n")
    again = create_admin(migrated_home, "--link")
    other = run("create-admin", "--link", "--name", "B", "--email", "b@platform.test", home=migrated_home)

    assert_refused(weak, "guessed")
    assert (made.returncode, made.stdout) == (0, "sari@platform.test can log in now.\n")
    assert "kuda" not in made.stdout + made.stderr
    assert_refused(again, "exists already")
    assert "/console/set-password#" in other.stdout
