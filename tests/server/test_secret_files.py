"""Secrets out of files, as containers and systemd hand them over."""

import subprocess
import sys
from pathlib import Path

import pytest

from soundbox_server import seal
from soundbox_server.secret_files import LARGEST_BYTES, is_secret, readable_by_others
from soundbox_server.settings import Settings

KEY = seal.new_key()


def put(folder: Path, name: str, content: str | bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / name.lower()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)
    monkeypatch.setenv(f"SOUNDBOX_{name}_FILE", str(path))
    return path


def test_a_secret_is_read_from_its_file_without_the_line_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "MASTER_KEY", f"{KEY}\n", monkeypatch)
    put(tmp_path, "DATABASE_URL", "postgresql://hub:s3cret@db/soundbox\r\n", monkeypatch)
    put(tmp_path, "PARTNER_SECRETS", "acme=first-secret,next-secret", monkeypatch)

    settings = Settings(home=tmp_path)

    assert settings.master == seal.parse_master_key(KEY)
    assert settings.database_url == "postgresql://hub:s3cret@db/soundbox"
    assert settings.secrets_of("acme") == [b"first-secret", b"next-secret"]
    assert not (tmp_path / "master.key").exists()


def test_every_setting_that_hides_its_value_can_come_from_a_file() -> None:
    hidden = {name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    secret = {name for name, field in Settings.model_fields.items() if is_secret(field)}

    assert hidden <= secret
    assert {"master_key", "master_key_previous", "sealing_keys", "database_url", "partner_secrets"} <= secret


def test_a_file_for_what_is_no_secret_is_not_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "HTTP_PORT", "9999", monkeypatch)

    assert Settings(home=tmp_path).http_port == 8080


def test_a_value_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "MASTER_KEY", KEY, monkeypatch)
    monkeypatch.setenv("SOUNDBOX_MASTER_KEY", KEY)

    with pytest.raises(ValueError, match="both set"):
        Settings(home=tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * (LARGEST_BYTES + 1)])
def test_a_file_that_holds_no_secret_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    put(tmp_path, "DATABASE_URL", content, monkeypatch)

    with pytest.raises(ValueError, match=r"SOUNDBOX_DATABASE_URL_FILE: .*database_url"):
        Settings(home=tmp_path)


def test_a_file_that_is_not_there_is_one_line_and_not_a_traceback(tmp_path: Path) -> None:
    soundbox = str(Path(sys.executable).with_name("soundbox"))
    environment = {"SOUNDBOX_HOME": str(tmp_path), "SOUNDBOX_MASTER_KEY_FILE": str(tmp_path / "gone"), "PATH": ""}

    answer = subprocess.run([soundbox, "keys", "status"], capture_output=True, text=True, env=environment, check=False)

    assert answer.returncode == 1
    assert (
        answer.stderr
        == f"soundbox: SOUNDBOX_MASTER_KEY_FILE: {tmp_path / 'gone'} cannot be read: No such file or directory\n"
    )


def test_files_that_others_may_read_are_named_but_not_systemds_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all = put(tmp_path, "MASTER_KEY", KEY, monkeypatch)
    open_to_all.chmod(0o644)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    put(credentials, "SEALING_KEYS", KEY, monkeypatch).chmod(0o440)
    put(tmp_path, "DATABASE_URL", "sqlite:///x.db", monkeypatch)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))

    assert list(readable_by_others(Settings)) == [("SOUNDBOX_MASTER_KEY_FILE", open_to_all)]
