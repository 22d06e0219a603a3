"""Secrets out of files: `SOUNDBOX_<NAME>_FILE` names the file that holds the value of `SOUNDBOX_<NAME>`.

For container secrets and for systemd's credentials. An environment is shown to whoever may look at the process, and is
inherited by its children; a file is read once, by us.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

LARGEST_BYTES = 64 * 1024


class SecretFiles(PydanticBaseSettingsSource):
    """The values that files hold, for the settings that are secret."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = _named(self.settings_cls, field_name, field)
        return (None if path is None else _read(_variable(field_name), path)), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting may come from a file: those typed as secrets, and those declared with `secret=True`."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return field.annotation is SecretStr or extra.get("secret") is True


def readable_by_others(settings: type[BaseSettings]) -> Iterator[tuple[str, Path]]:
    """Each (variable, file) whose rights let others read it. Not systemd's credentials: it guards those itself, and
    shows the access list it uses as rights of the group."""
    guarded = os.environ.get("CREDENTIALS_DIRECTORY")
    for name, field in settings.model_fields.items():
        path = _named(settings, name, field)
        if path is None or not path.exists() or (guarded and path.absolute().is_relative_to(guarded)):
            continue
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield _variable(name), path


def _named(settings: type[BaseSettings], name: str, field: FieldInfo) -> Path | None:
    """The file named for this setting. Raises ValueError when the value is given as well: one of them is stale."""
    given = os.environ.get(_variable(name))
    if not is_secret(field) or not given:
        return None
    if os.environ.get(_variable(name).removesuffix("_FILE")):
        raise ValueError(
            f"{_variable(name)} and {_variable(name).removesuffix('_FILE')} are both set: which one holds?"
        )
    return Path(given)


def _variable(name: str) -> str:
    return f"SOUNDBOX_{name.upper()}_FILE"


def _read(variable: str, path: Path) -> str:
    """Without the line end that editors and `echo` add. Raises ValueError, which never quotes what was read."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
        text = raw.decode().rstrip("\r\n")
    except OSError as problem:
        raise ValueError(f"{variable}: {path} cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError:
        raise ValueError(f"{variable}: {path} is not UTF-8 text") from None
    if not text or len(raw) > LARGEST_BYTES:
        raise ValueError(f"{variable}: {path} is empty or larger than {LARGEST_BYTES} bytes")
    return text
