"""Every setting of the server, read from the environment as SOUNDBOX_<NAME>. Only the composition roots read it.

`description` and `references` feed the configuration table of the README (`soundbox settings`).
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from soundbox_server import failpoints, seal

SHORTEST_SECRET = 8


def _setting(default: Any, description: str, *, references: str = "") -> Any:
    return Field(default, description=description, json_schema_extra={"references": references})


def _partner_secrets(value: object) -> object:
    """`sandbox=first,second;acme=third` or the same as JSON: several secrets of a partner hold during a rotation."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = (part.partition("=") for part in value.split(";") if part.strip())
    return {name.strip(): [secret.strip() for secret in secrets.split(",")] for name, _, secrets in pairs}


def _no_empty_secret(value: dict[str, list[str]]) -> dict[str, list[str]]:
    """An empty secret would let anybody sign: `name=$UNSET` and a trailing comma are mistakes to stop at."""
    for name, secrets in value.items():
        if not name or not secrets or any(len(secret) < SHORTEST_SECRET for secret in secrets):
            raise ValueError(f"each partner needs a name and secrets of at least {SHORTEST_SECRET} characters")
    return value


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDBOX_", env_ignore_empty=True, extra="ignore")

    environment: Literal["development", "production"] = _setting(
        "development", "production refuses default secrets and the demo seed", references="NODE_ENV"
    )
    home: Path = _setting(Path(".soundbox"), "folder of everything this running copy owns: keys, SQLite, broker files")
    database_url: str = _setting(
        "", "sqlite:///path or postgresql://user:password@host/name; default: SQLite in the home folder",
        references="DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD, MONGO_URI",
    )  # fmt: skip
    master_key: SecretStr = _setting(
        SecretStr(""), "32 bytes as base64url that all other keys derive from; default: the file master.key in home",
        references="JWT_ACCESS_TOKEN_SECRET, JWT_REFRESH_TOKEN_SECRET, JWT_SECRET",
    )  # fmt: skip
    http_host: str = _setting("127.0.0.1", "address the API listens on")
    http_port: int = _setting(8080, "port of the API", references="PORT")
    public_url: str = _setting(
        "",
        "the API's address as providers and boxes reach it; default: http://host:port",
        references="BASE_URL, NOTIFY_URL",
    )
    worker_host: str = _setting("127.0.0.1", "address of the worker's health and metrics")
    worker_port: int = _setting(8081, "port of the worker's health and metrics")
    broker_host: str = _setting("127.0.0.1", "MQTT broker the hub connects to", references="MQTT_HOST")
    broker_port: int = _setting(1883, "port of the MQTT broker", references="MQTT_PORT")
    broker_public_host: str = _setting("", "broker address handed to boxes at activation; default: broker_host")
    broker_engine: Literal["auto", "mosquitto", "embedded"] = _setting(
        "auto", "auto: Mosquitto when it is on PATH, else the embedded broker (loopback only, no per-device rights)"
    )
    broker_shard: int = _setting(0, "number of the broker shard this worker serves")
    access_token_minutes: int = _setting(10, "life of an access token", references="JWT_ACCESS_TOKEN_EXPIRY")
    provider: str = _setting("sandbox", "provider that issues dynamic QR", references="PAYLABS_SERVER")
    partner_secrets: Annotated[
        dict[str, list[str]], NoDecode, BeforeValidator(_partner_secrets), AfterValidator(_no_empty_secret)
    ] = _setting(
        {}, "callback secrets by partner: name=secret,next_secret;name=…; the sandbox's derive from the master key",
        references="XENDIT_WEBHOOK_TOKEN, MIDTRANS_SERVER_KEY, PRIVATE_KEY",
    )  # fmt: skip
    sandbox_host: str = _setting("127.0.0.1", "address of the acquirer simulator")
    sandbox_port: int = _setting(8082, "port of the acquirer simulator")
    sandbox_url: str = _setting("", "where the hub reaches the acquirer simulator; default: its host and port")
    sandbox_auto_pay_ms: int = _setting(0, "demo: the simulated customer pays each QR after so many ms; 0: never")
    qr_life_s: int = _setting(300, "life of a dynamic QR", references="expiry in reference 001's sample: 5 minutes")
    announcement_life_s: int = _setting(60, "how long after the commit a payment may still be spoken")
    late_report_s: int = _setting(600, "a payment reported later than this is not spoken")
    callback_most: int = _setting(64, "callbacks that may share one commit")
    callback_waiting: int = _setting(4_096, "callbacks that may wait for a commit before 503 is answered")
    possession_check: Literal["", "off", "on"] = _setting(
        "", "on: a box speaks a code before it is bound or unbound; default: on in production, off in development"
    )
    log_format: Literal["json", "console"] = _setting("json", "log lines as JSON or for reading")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "least severe level logged")

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        self.home = self.home.absolute()
        self.database_url = self.database_url or f"sqlite:///{self.home / 'soundbox.db'}"
        self.public_url = (self.public_url or f"http://{self.http_host}:{self.http_port}").rstrip("/")
        self.sandbox_url = (self.sandbox_url or f"http://{self.sandbox_host}:{self.sandbox_port}").rstrip("/")
        self.broker_public_host = self.broker_public_host or self.broker_host
        self.possession_check = self.possession_check or ("on" if self.environment == "production" else "off")
        if self.environment == "production":
            self._refuse_development_habits()
        return self

    def _refuse_development_habits(self) -> None:
        if failpoints.armed():
            raise ValueError("SOUNDBOX_FAILPOINT is set: that is for crash tests, not for production")
        if self.provider == "sandbox":
            raise ValueError("SOUNDBOX_PROVIDER=sandbox issues play money: name a real provider in production")

    @property
    def master(self) -> bytes:
        """The 32-byte master key. Creates the key file at the first start when no setting gives one."""
        if given := self.master_key.get_secret_value():
            return seal.parse_master_key(given)
        self.home.mkdir(parents=True, exist_ok=True)
        return _master_from_file(self.home / "master.key")

    def secrets_of(self, partner: str) -> list[bytes]:
        """The callback secrets of a partner, newest first; none for a partner nobody configured."""
        if partner in self.partner_secrets:
            return [secret.encode() for secret in self.partner_secrets[partner]]
        if partner == "sandbox" and self.environment == "development":
            return [seal.base64url(seal.derive(self.master, "soundbox/sandbox/callback/v1")).encode()]
        return []

    @property
    def sandbox_api_key(self) -> str:
        return seal.base64url(seal.derive(self.master, "soundbox/sandbox/api-key/v1"))


@lru_cache(maxsize=8)
def _master_from_file(path: Path) -> bytes:
    return seal.read_or_create_master_key(path)
