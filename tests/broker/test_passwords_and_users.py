import subprocess
from pathlib import Path

import pytest

from soundbox_server.broker.passwords import hash_password, is_hash, verify
from soundbox_server.broker.users import (
    hub_password,
    hub_users,
    is_device_user,
    publisher_user,
    shard_user,
)


def test_a_password_belongs_to_its_hash_only():
    stored = hash_password("correct horse")

    assert verify("correct horse", stored)
    assert not verify("correct horsf", stored)
    assert not verify("", stored)


def test_the_same_password_is_never_hashed_alike():
    assert hash_password("same") != hash_password("same")


def test_a_line_made_by_mosquittos_own_tool_is_read_alike():
    # mosquitto_passwd 2.0.11, user dev_alpha, password "secret of dev_alpha"
    theirs = (
        "$7$101$51RlX1jDlwT3Tm34$"
        "d2i4uGf5SpoIilEmWCCYl0r2MJbTy6yod9ONMVTx/tkc/IMvio3zp8W7w+8NRkk1fVXkZb5XuaFow+xlBwCFRA=="
    )

    assert verify("secret of dev_alpha", theirs)
    assert not verify("secret of dev_bravo", theirs)


def test_mosquittos_tool_as_installed_here_agrees(tmp_path: Path, mosquitto_program: Path):
    file = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", file, "dev_alpha", "pässword"], check=True, capture_output=True)

    stored = file.read_text().strip().removeprefix("dev_alpha:")

    assert verify("pässword", stored)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "plain",
        "$6$c2FsdHNhbHQ=$" + "A" * 86 + "==",
        "$7$101$c2FsdHNhbHQ=$" + "A" * 40,
        "$7$0$c2FsdHNhbHQ=$" + "A" * 86 + "==",
        "$7$999999$c2FsdHNhbHQ=$" + "A" * 86 + "==",
        "$7$101$c2F$" + "A" * 86 + "==",
        "$7$101$c2FsdHNhbHQ=$" + "A" * 86 + "==\nhub-shard-0:x",
        "$7$101$c2FsdHNhbHQ=$" + "A" * 86 + "==\n",
    ],
)
def test_what_is_no_hash_is_neither_written_nor_believed(line: str):
    assert not is_hash(line)
    assert not verify("plain", line)


def test_every_process_of_the_hub_derives_the_same_password_and_no_two_users_share_one():
    users = hub_users(shards=3)
    passwords = {hub_password(b"k" * 32, user) for user in users}

    assert len(users) == len(set(users)) == 3 + 32 + 4
    assert len(passwords) == len(users)
    assert hub_password(b"k" * 32, shard_user(0)) == hub_password(b"k" * 32, "hub-shard-0")
    assert hub_password(b"l" * 32, shard_user(0)) not in passwords


def test_the_hubs_password_is_the_documented_derivation():
    # HKDF-SHA256 without salt over info "soundbox/broker-user/v1/hub-shard-0", computed with the standard library
    import base64
    import hashlib
    import hmac

    extracted = hmac.digest(b"\0" * 32, b"k" * 32, hashlib.sha256)
    expected = hmac.digest(extracted, b"soundbox/broker-user/v1/hub-shard-0\x01", hashlib.sha256)

    assert hub_password(b"k" * 32, "hub-shard-0") == base64.urlsafe_b64encode(expected).rstrip(b"=").decode()


@pytest.mark.parametrize("slot", [-1, 32])
def test_there_is_no_publisher_beyond_the_slots_written_in_advance(slot: int):
    with pytest.raises(ValueError, match="slots"):
        publisher_user(slot)


@pytest.mark.parametrize(
    "name", ["hub-shard-0", "hub-anything", "UPPER", "a", "dev/x", "dev+x", "dev#", "dev:x", "x\ny"]
)
def test_a_device_cannot_be_named_like_the_hub_or_like_a_topic_filter(name: str):
    assert not is_device_user(name)


def test_an_ordinary_device_may_log_in():
    assert is_device_user("dev_01jwz0e5v7m3n9p2q4r6s8t0ab")
